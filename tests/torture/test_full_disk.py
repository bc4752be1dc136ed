"""A file system that is really full: appends are refused, and work again once there is room."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ebus.core.limits import Limits
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer, start
from tests.torture.load import (
    KIB,
    Client,
    Load,
    Refusal,
    compare_all,
    connected,
    tenant_config,
)
from tests.torture.small_disk import MIB, NoSmallDisk, SmallDisk, small_disk
from tests.torture.workload import check_integrity

DISK_BYTES = 48 * MIB
BALLAST_BYTES = 41 * MIB
WAL_CHECKPOINT_BYTES = 4 * MIB
"""So that a WAL fits, and its database beside it does not."""

TIMES_FULL = 6

TENANTS = ("alice", "bob")
FULL = {Refusal(507, "store_full"), Refusal(503, "store_unavailable")}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """With ballast on it, and little room beside."""
    try:
        with small_disk(DISK_BYTES, tmp_path) as disk:
            disk.put_ballast(BALLAST_BYTES)
            yield disk
    except NoSmallDisk as reason:
        message = f"needs a file system of its own: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def server_on(
    disk: SmallDisk,
    directory: Path,
    *,
    durability: str = "full",
    tenants: tuple[str, ...] = TENANTS,
) -> Iterator[LiveServer]:
    """One that has been started there. However the block leaves it, it does not outlive it."""
    config = {
        "data_dir": str(disk.path / "data"),
        "durability": durability,
        "limits": {"wal_checkpoint_bytes": WAL_CHECKPOINT_BYTES},
        "tenants": tenant_config(tenants),
    }
    write_config(directory / "tenants.yaml", config)
    arguments = ["--config", str(directory / "tenants.yaml"), "--host", "127.0.0.1", "--port", "0"]
    server = start(["serve", *arguments], cwd=directory, within=disk.within)
    try:
        yield server
        assert "Traceback" not in server.log
    except AssertionError as error:
        error.add_note(server.log)
        raise
    finally:
        server.kill()


def fill_up(port: int, clients: list[Client]) -> None:
    """Append until each client has been refused often."""
    for client in clients:
        client.refusals.clear()
    with Load(port, clients) as load:
        while any(len(client.refusals) < 20 for client in clients):
            load.check()
    for client in clients:
        assert set(client.refusals) <= FULL, client.refusals
    assert any(refusal.status == 507 for client in clients for refusal in client.refusals)


def append_again(port: int, clients: list[Client]) -> None:
    """Every client appends at once whatever it wants to."""
    with connected(port) as connection:
        for client in clients:
            assert client.append(connection, 1), client.refusals[-1]
            assert client.append(connection, 100, is_batch=True), client.refusals[-1]
            assert client.save_checkpoint(connection), client.refusals[-1]


def clients_of(tenants: tuple[str, ...]) -> list[Client]:
    return [Client(tenant, f"{tenant}-{number}") for tenant in tenants for number in range(2)]


def check_files(disk: SmallDisk, directory: Path) -> None:
    """Copies of them: SQLite does not find its way to a disk that others have mounted."""
    for tenant in TENANTS:
        check_integrity(Path(shutil.copy(disk.seen / "data" / f"{tenant}.db", directory)))


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_appends_to_a_full_disk_are_507_until_there_is_room_again(
    tmp_path: Path, disk: SmallDisk, durability: str
) -> None:
    clients = clients_of(TENANTS)
    with server_on(disk, tmp_path, durability=durability) as server:
        server.wait_until_listening()
        fill_up(server.port, [client for client in clients if client.tenant == "alice"])
        fill_up(server.port, clients)
        # What is not refused works: every read, of everything that was acknowledged.
        compare_all(server.port, clients)
        assert (
            httpx.get(f"{server.url}/health", verify=False).status_code == 200
        )  # a restart would not help
        assert "cannot grow: the disk is full" in server.log
        wait_until(lambda: "a WAL could not be written back" in server.log)

        disk.drop_ballast()
        append_again(server.port, clients)
        compare_all(server.port, clients)
        server.kill()
    with server_on(disk, tmp_path, durability=durability) as server:
        server.wait_until_listening()
        compare_all(server.port, clients)
        append_again(server.port, clients)
        assert server.stop() == 0
    check_files(disk, tmp_path)


def test_a_disk_that_is_full_again_and_again_loses_nothing(
    tmp_path: Path, disk: SmallDisk, torture: int | None
) -> None:
    """Between two times there is a little room, for less than the clients want to append."""
    times = torture or TIMES_FULL
    for seed in range(math.ceil(times / TIMES_FULL)):
        rng = random.Random(seed)
        clients = clients_of(TENANTS)
        with server_on(disk, tmp_path) as server:
            server.wait_until_listening()
            for _ in range(TIMES_FULL):
                fill_up(server.port, clients)
                compare_all(server.port, clients)
                disk.drop_ballast()
                room_bytes = rng.choice([0, rng.randrange(64 * KIB), rng.randrange(2 * MIB)])
                disk.put_ballast(disk.free_bytes - room_bytes)
            server.kill()
        with server_on(disk, tmp_path) as server:
            server.wait_until_listening()
            compare_all(server.port, clients)
            disk.drop_ballast()
            append_again(server.port, clients)
            assert server.stop() == 0
        check_files(disk, tmp_path)
        shutil.rmtree(disk.seen / "data")
        disk.put_ballast(BALLAST_BYTES)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_server_that_ends_and_starts_on_a_full_disk_has_lost_nothing(
    tmp_path: Path, disk: SmallDisk, end: signal.Signals
) -> None:
    clients = clients_of(TENANTS)
    with server_on(disk, tmp_path) as server:
        server.wait_until_listening()
        fill_up(server.port, clients)
        disk.fill()
        status = server.stop(end)
        assert status == (0 if end == signal.SIGTERM else -end), server.log
    disk.fill()
    with server_on(disk, tmp_path) as server:
        if starts(server):
            compare_all(server.port, clients)
        else:  # there is no room for what a WAL needs beside it
            assert server.process.wait(60) == 1
            assert "Failed to start" in server.log
            assert "cannot grow: the disk is full" in server.log
    disk.drop_ballast()
    with server_on(disk, tmp_path) as server:
        server.wait_until_listening()
        compare_all(server.port, clients)
        append_again(server.port, clients)
        assert server.stop() == 0
    check_files(disk, tmp_path)


def starts(server: LiveServer) -> bool:
    wait_until(lambda: server.port > 0 or server.process.poll() is not None)
    return server.port > 0


def test_a_tenant_that_is_new_on_a_full_disk_is_507_until_there_is_room(
    tmp_path: Path, disk: SmallDisk
) -> None:
    tenants = tuple(f"tenant-{number}" for number in range(Limits().max_eager_tenants + 1))
    first, *others = [Client(tenant, tenant) for tenant in tenants[:10]]
    with server_on(disk, tmp_path, tenants=tenants) as server:
        server.wait_until_listening()
        with connected(server.port) as connection:
            assert first.append(connection, 1)  # the tenants are opened when they are asked for
            disk.fill()
            for client in others:
                assert not client.append(connection, 1)
                assert set(client.refusals) <= FULL
            assert first.append(connection, 1) or set(first.refusals) <= FULL
        disk.drop_ballast()
        append_again(server.port, [first, *others])
        compare_all(server.port, [first, *others])
        server.kill()
    with server_on(disk, tmp_path, tenants=tenants) as server:
        server.wait_until_listening()
        compare_all(server.port, [first, *others])
        assert server.stop() == 0


def test_a_first_start_on_a_full_disk_says_so_and_the_next_one_works(
    tmp_path: Path, disk: SmallDisk
) -> None:
    disk.fill()
    with server_on(disk, tmp_path) as server:
        assert not starts(server)
        assert server.process.wait(60) == 1
        assert "Failed to start" in server.log
        assert "cannot grow: the disk is full" in server.log
    disk.drop_ballast()
    with server_on(disk, tmp_path) as server:
        server.wait_until_listening()
        append_again(server.port, clients_of(TENANTS))
        assert server.stop() == 0


def test_files_that_may_not_grow_refuse_appends_until_they_may(tmp_path: Path) -> None:
    """A bound of the process, as of `ulimit -f`: every system has it. Other files may grow."""
    clients = clients_of(TENANTS)
    disk = SmallDisk(tmp_path, tmp_path, [])
    with server_on(disk, tmp_path) as server:
        server.wait_until_listening()
        before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (MIB, before[1]))
        with Load(server.port, clients) as load:
            while any(len(client.refusals) < 20 for client in clients):
                load.check()
        for client in clients:
            assert set(client.refusals) <= FULL, client.refusals
        compare_all(server.port, clients)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)
        append_again(server.port, clients)
        compare_all(server.port, clients)
        server.kill()
    with server_on(disk, tmp_path) as server:
        server.wait_until_listening()
        compare_all(server.port, clients)
        assert server.stop() == 0
    check_files(disk, tmp_path)
