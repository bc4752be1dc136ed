"""Everything that writes to one tenant on a cluster: engines in this process, and real servers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from ebus.backends.jetstream import JetStreamEngine
from ebus.backends.jetstream.address import parse
from ebus.client import Client
from ebus.client.retries import NO_RETRIES
from ebus.core.event import Event
from ebus.core.limits import Limits
from ebus.core.store import TenantStore
from tests.http.conftest import write_config
from tests.live_server import LiveServer, start
from tests.nats.monitoring import wait_for
from tests.nats.ports import HOST, claim_port
from tests.nats.servers import NatsCluster
from tests.nats.writers import (
    PATIENCE_S,
    Consumer,
    Tail,
    Writer,
    compare,
    patiently,
)

TENANT = "alice"
KEY = f"key-of-{TENANT}-{'x' * 32}"
TIMEOUT_S = 2

WORKERS = (1, 2)
"""Of each server."""


class EbusServer:
    """A real server, which can be killed and started again, on the port that it had."""

    def __init__(self, directory: Path, engine: str, workers: int) -> None:
        self._directory = directory
        self._workers = workers
        directory.mkdir(parents=True)
        tenants = [{"name": TENANT, "api_key": KEY}]
        write_config(directory / "tenants.yaml", {"engine": engine, "tenants": tenants})
        self._claim = claim_port()
        self.live: LiveServer
        self.logs = ""
        self.start()
        self.client = Client(
            self.live.url, KEY, retries=NO_RETRIES, assign_ids=False, timeout_s=30.0
        )

    def start(self) -> None:
        arguments = ["serve", "--config", "tenants.yaml", "--host", HOST]
        arguments += ["--port", str(self._claim.number), "--workers", str(self._workers)]
        self.live = start(arguments, cwd=self._directory)
        self.live.wait_until_listening()

    def restart(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        """Its workers end by themselves once it is gone."""
        self.live.kill()
        self.logs += self.live.log
        wait_for(self._is_gone, "the workers to end")

    def close(self) -> None:
        self.client.close()
        self.kill()
        self._claim.release()

    def _is_gone(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._claim.number)) != 0

    def follow(self, after: int) -> Iterator[Event]:
        return self.client.tail(after)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.live.url}{path}", headers={"X-API-Key": KEY}, timeout=30)


class Fleet:
    """Two engines, two servers, and clients that go through them."""

    def __init__(self, cluster: NatsCluster, directory: Path, stack: ExitStack) -> None:
        self.cluster = cluster
        prefix = "faults"
        location = (
            f"{cluster.url.removeprefix('nats:')}?replicas=3&prefix={prefix}&timeout_s={TIMEOUT_S}"
        )
        self.log_stream = f"{prefix}-{TENANT}"
        self.engines = [
            stack.enter_context(
                JetStreamEngine(parse(location, secure=False), durability="full", limits=Limits())
            )
            for _ in range(2)
        ]
        self.stores = [it.open(TENANT) for it in self.engines]
        self.servers = [
            EbusServer(directory / f"server-{number}", f"nats:{location}", workers)
            for number, workers in enumerate(WORKERS)
        ]
        for server in self.servers:
            stack.callback(server.close)
        self.writers = [
            Writer("engine-0", lambda: self.stores[:1]),
            Writer("engine-1", lambda: self.stores[1:]),
            Writer("server-0", lambda: [self.servers[0].client]),
            Writer("server-1", lambda: [self.servers[1].client]),
            Writer("anywhere", self.doors),
        ]
        self._outsider = Writer("outsider", self.doors)
        """Does not work, but sends one event when it is told to."""
        self.consumers = [Consumer(f"consumer-{it}", self.doors) for it in range(2)]
        self.tails = [
            Tail(f"tail-{number}", server.follow) for number, server in enumerate(self.servers)
        ]

    def doors(self) -> Sequence[TenantStore]:
        return [*self.stores, *(it.client for it in self.servers)]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Clients work meanwhile. Afterwards all is compared that they know and what there is."""
        clients = [*self.writers, *self.consumers, *self.tails]
        for client in clients:
            client.start()
        try:
            yield
        except BaseException:
            for client in clients:
                client.stop()
            raise
        for writer in self.writers:
            writer.stop()
        for writer in self.writers:
            writer.join()
        self.check_clients()
        try:
            self._check()
        finally:
            for client in clients:
                client.stop()
            # Only an event lets go of who waits for one.
        patiently(self.writers[0].finish)
        for client in clients:
            client.join()
        self.check_clients()

    def make_whole(self) -> None:
        """Until each server has all: who loses one before it has had two that are not whole."""
        self.cluster.make_whole()
        for stream in (self.log_stream, f"KV_{self.log_stream}"):
            self.cluster.wait_current(stream, PATIENCE_S)

    def post(self, server: EbusServer) -> httpx.Response:
        """What a server answers to an event, as it is on the wire."""
        [event] = self._outsider.prepare()
        sent = {"type": event.type, "data": json.loads(bytes(event.data))}
        headers = {"X-API-Key": KEY}
        return httpx.post(f"{server.live.url}/events", json=sent, headers=headers, timeout=30)

    def check_clients(self) -> None:
        for client in [*self.writers, *self.consumers, *self.tails]:
            assert not client.failures, f"{client.name}: {client.failures}"

    def wait_for_work(self, more: int = 5) -> None:
        """Until every writer has been told of so many more appends."""
        wanted = {it.name: it.done + more for it in self.writers}

        def is_done() -> bool:
            self.check_clients()
            return all(it.done >= wanted[it.name] for it in self.writers)

        wait_for(is_done, "every writer to get on", timeout_s=PATIENCE_S)

    def _is_settled(self) -> bool:
        heads = {patiently(it.head) for it in self.doors()}
        told = max(it.last_position for it in self.writers)
        return len(heads) == 1 and heads.pop() >= told

    def _check(self) -> None:
        # While leaders change, what is read may be of old times.
        wait_for(self._is_settled, "all to know of everything", timeout_s=PATIENCE_S)
        events = compare(self.stores[0], [*self.writers, self._outsider])
        head = len(events)

        def is_caught_up() -> bool:
            self.check_clients()
            return all(it.position >= head for it in self.tails)

        wait_for(is_caught_up, f"the tails to be at {head}", timeout_s=PATIENCE_S)

        def is_finished() -> bool:
            self.check_clients()
            return (
                patiently(lambda: self.stores[0].checkpoint(Consumer.SUBSCRIPTION)) or 0
            ) >= head

        wait_for(is_finished, "the consumers to be done", timeout_s=PATIENCE_S)
        handled = set().union(*(it.handled for it in self.consumers))
        missing = set(range(1, head + 1)) - handled
        subscription = patiently(lambda: self.stores[0].subscription(Consumer.SUBSCRIPTION))
        assert not missing, f"handed out to nobody: {sorted(missing)}, {subscription}"
