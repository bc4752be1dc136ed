"""A real server under load is killed at any moment: what it acknowledged is there, once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.http.test_workers import workers_of
from tests.live_server import LiveServer, start
from tests.torture.load import Client, Load, ask, compare_all, connected, tenant_config
from tests.torture.workload import check_integrity

KILLS = 20
KILLS_A_SERIES = 10
WORKER_KILLS = 3

TENANTS = ("alice", "bob", "charlie")
CLIENTS_PER_TENANT = 2

MOMENTS = (
    "under load",
    "while a WAL is written back",
    "after a burst",
    "at its start",
    "while it stops",
)


def pause(rng: random.Random, most_s: float) -> None:
    threading.Event().wait(rng.uniform(0, most_s))


class Series:
    """Servers on one directory, one after the other, each of which dies at another moment."""

    def __init__(self, directory: Path, seed: int, durability: str, *, workers: int = 1) -> None:
        self.directory = directory / f"series-{seed}"
        self.directory.mkdir()
        config = {
            "data_dir": str(self.directory / "data"),
            "durability": durability,
            "tenants": tenant_config(TENANTS),
        }
        write_config(self.directory / "tenants.yaml", config)
        self.rng = random.Random(seed)
        self.kills = 0
        self._seed = seed
        self._workers = workers
        self.clients = [
            Client(tenant, f"{tenant}-{number}-{seed}")
            for tenant in TENANTS
            for number in range(CLIENTS_PER_TENANT)
        ]

    @contextmanager
    def server(self) -> Iterator[LiveServer]:
        """One that has just been started. However the block leaves it, it does not outlive it."""
        arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
        arguments += ["--workers", str(self._workers)]
        server = start(arguments, cwd=self.directory)
        try:
            yield server
            assert "Traceback" not in server.log
        except AssertionError as error:
            error.add_note(f"seed {self._seed}, {self.kills} kills, what is left: {self.directory}")
            error.add_note(server.log)
            raise
        finally:
            server.kill()
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Those that run in the directory: a first process and its workers, or what is left."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if Path(os.readlink(place / "cwd")) == self.directory:
                    found.append(int(place.name))
        return found

    @contextmanager
    def checked_server(self) -> Iterator[LiveServer]:
        """One that listens, and has all that any before it has acknowledged."""
        with self.server() as server:
            server.wait_until_listening()
            compare_all(server.port, self.clients)
            yield server

    def kill(self, moment: str) -> None:
        if moment == "at its start":
            with self.server() as server:
                wait_until(lambda: len(server.lines) > 0)
                pause(self.rng, 0.06)  # listening takes about so long from there
                server.process.kill()
        elif moment == "after a burst":  # all of it is answered
            with self.checked_server() as server:
                with Load(server.port, self.clients, most=30) as load:
                    load.join()
                    server.process.kill()
        else:
            with self.checked_server() as server:
                size_bytes = self.database_bytes()
                with Load(server.port, self.clients) as load:
                    load.wait_for(1)
                    if moment == "while a WAL is written back":
                        wait_until(lambda: self.database_bytes() > size_bytes)
                        pause(self.rng, 0.02)
                    else:
                        pause(self.rng, 0.8)
                    if moment == "while it stops":
                        server.process.terminate()
                        pause(self.rng, 0.05)
                    server.process.kill()
        self.kills += 1

    def end(self) -> None:
        """The last server stops well, and leaves files that are sound."""
        with self.checked_server() as server:
            assert server.stop() == 0, server.log
        for tenant in TENANTS:
            check_integrity(self.directory / "data" / f"{tenant}.db")

    def database_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.directory / "data").glob("*.db"))


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, torture: int | None, durability: str
) -> None:
    kills = torture or KILLS
    for seed, done in enumerate(range(0, kills, KILLS_A_SERIES)):
        series = Series(tmp_path, seed, durability)
        moments = list(MOMENTS * (KILLS_A_SERIES // len(MOMENTS)))
        series.rng.shuffle(moments)
        for moment in moments[: kills - done]:
            series.kill(moment)
        series.end()
        shutil.rmtree(series.directory)


# Two workers


ESTABLISHED = "01"
"""As /proc/net/tcp has it."""


def worker_of(connection_port: int, server: LiveServer) -> int:
    """The worker that serves the connection from this port of ours."""
    ends = f":{server.port:04X}", f":{connection_port:04X}"
    for worker in workers_of(server):
        lines = Path(f"/proc/{worker}/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        # One that ended a while ago may have had the same ports; and while connections come and
        # go, one of them may stand in the table twice.
        [inode] = {
            it[9] for it in fields if (it[1][-5:], it[2][-5:]) == ends and it[3] == ESTABLISHED
        }
        for file in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.readlink(file) == f"socket:[{inode}]":
                    return worker
    return 0


def kill_a_worker(series: Series, server: LiveServer) -> None:
    """One of them dies. Whom the other one serves notices nothing; a new one comes."""
    victim, other = series.rng.sample(workers_of(server), 2)
    bystander = Client("alice", f"bystander-{series.kills}")
    series.clients.append(bystander)
    for _ in range(1_000):
        with connected(server.port) as connection:
            assert ask(connection, "alice", "GET", "/position")[0] == 200
            if worker_of(connection.sock.getsockname()[1], server) == other:
                os.kill(victim, signal.SIGKILL)
                for _ in range(20):
                    assert bystander.append(connection, 1)
                    assert bystander.save_checkpoint(connection)
                break
    else:
        raise AssertionError("no connection is the other worker's")
    wait_until(lambda: f"(process {victim}) ended with SIGKILL" in server.log)
    wait_until(lambda: len(workers_of(server)) == 2)


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_worker_that_is_killed_takes_nothing_with_it(
    tmp_path: Path, torture: int | None, durability: str
) -> None:
    kills = torture or WORKER_KILLS
    series = Series(tmp_path, 0, durability, workers=2)
    while series.kills < kills:
        with series.checked_server() as server:
            for _ in range(min(3, kills - series.kills)):
                with Load(server.port, series.clients) as load:
                    load.wait_for(1)
                    pause(series.rng, 0.3)
                    kill_a_worker(series, server)
                    load.wait_for(50)
                series.kills += 1
                compare_all(server.port, series.clients)
            assert server.stop() == 0
    series.end()


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_when_the_first_process_is_killed_the_next_start_has_everything(
    tmp_path: Path, torture: int | None, durability: str
) -> None:
    """Its workers stop by themselves, if they are not killed with it."""
    series = Series(tmp_path, 0, durability, workers=2)
    for _ in range(torture or WORKER_KILLS):
        with series.server() as server:  # at its start
            wait_until(lambda: len(server.lines) > 0)
            pause(series.rng, 0.12)  # listening takes about so long from there
            server.process.kill()
            wait_until(lambda: not series.processes())
        with series.checked_server() as server:
            with Load(server.port, series.clients) as load:
                load.wait_for(1)
                pause(series.rng, 0.3)
                server.process.kill()
                if series.rng.random() < 0.5:
                    for worker in series.processes():
                        with suppress(ProcessLookupError):
                            os.kill(worker, signal.SIGKILL)
                wait_until(lambda: not series.processes())
        series.kills += 1
    series.end()
