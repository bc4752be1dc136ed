"""The servers that the other tests rely on are real, and go through what is done to them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import StorageType

from tests.conftest import ROOT
from tests.nats.configuration import SYSTEM_PASSWORD, SYSTEM_USER
from tests.nats.monitoring import wait_for
from tests.nats.servers import NatsCluster, NatsServer


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client that comes back to a server which was away, as often as it takes."""
    client = await nats.connect(
        url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.02, error_cb=_quiet
    )
    try:
        yield client
    finally:
        await client.close()


async def _quiet(_: Exception) -> None:
    """That a server is away is the test's own doing."""


async def published(client: Client, stream: str, payload: bytes) -> int:
    """Its sequence, however often it must be tried: it is stored once."""
    headers = {"Nats-Msg-Id": payload.decode()}
    while True:
        with suppress(Error, asyncio.TimeoutError):
            ack = await client.jetstream(timeout=1).publish(f"{stream}.x", payload, headers=headers)
            return ack.seq


async def stored(client: Client, stream: str) -> list[bytes]:
    state = (await client.jetstream().stream_info(stream)).state
    return [
        (await client.jetstream().get_msg(stream, seq=sequence)).data or b""
        for sequence in range(state.first_seq, state.last_seq + 1)
    ]


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(work())


def test_a_server_has_what_was_published_after_it_was_killed(nats_directory: Path) -> None:
    async def work() -> None:
        async with connected(server.url) as client:
            await client.jetstream().add_stream(name="KILLED", subjects=["KILLED.>"])
            assert await published(client, "KILLED", b"1") == 1
            port, pid = server.port, server.pid
            server.kill()
            assert server.ask("/healthz") is None
            server.start()
            server.wait_ready()
            assert (server.port, server.pid) != (port, pid)
            assert server.port == port
            assert await published(client, "KILLED", b"2") == 2
            assert await stored(client, "KILLED") == [b"1", b"2"]

    with NatsServer(nats_directory / "killed", sync="always") as server:
        run(work)
        assert (server.ask("/jsz") or {})["config"]["sync_always"]
        server.restart()
        assert "Initiating Shutdown" in server.log_text()


def test_a_server_syncs_every_two_minutes_by_default(nats_server: NatsServer) -> None:
    assert (nats_server.ask("/varz") or {})["server_name"] == "n1"
    assert (nats_server.ask("/jsz") or {})["config"]["sync_interval"] == 120 * 10**9


def test_a_configuration_may_have_more(nats_directory: Path) -> None:
    with NatsServer(nats_directory / "small", config="max_payload: 1KB") as server:
        assert (server.ask("/varz") or {})["max_payload"] == 1024


def test_a_server_that_cannot_start_says_why(nats_directory: Path) -> None:
    server = NatsServer(nats_directory / "broken", config="no_such_setting: 1")
    with pytest.raises(AssertionError, match="no_such_setting"), server:
        pass
    assert not server.is_running


def test_the_system_account_is_asked_with_its_password(nats_cluster: NatsCluster) -> None:
    async def work() -> None:
        client = await nats.connect(
            nats_cluster.url.split(","), user=SYSTEM_USER, password=SYSTEM_PASSWORD
        )
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.JSZ", b"{}", reply=inbox)
        for _ in nats_cluster.servers:
            assert b'"sync_interval":120000000000' in (await answers.next_msg()).data
        await client.close()

    run(work)


def test_a_stream_on_three_servers_outlives_its_leader(nats_cluster: NatsCluster) -> None:
    async def work() -> None:
        async with connected(nats_cluster.url) as client:
            await client.jetstream().add_stream(
                name="R3", subjects=["R3.>"], num_replicas=3, storage=StorageType.FILE
            )
            assert await published(client, "R3", b"1") == 1
            nats_cluster.wait_current("R3")
            leader = nats_cluster.leader_of("R3")
            followers = nats_cluster.followers_of("R3")
            assert {leader, *followers} == set(nats_cluster.servers)

            leader.kill()
            assert await published(client, "R3", b"2") == 2
            assert nats_cluster.leader_of("R3") in followers

            leader.restart()
            nats_cluster.wait_current("R3")
            assert await stored(client, "R3") == [b"1", b"2"]

    try:
        run(work)
    finally:
        nats_cluster.make_whole()


def test_a_cluster_without_most_of_its_servers_acknowledges_nothing(
    nats_cluster: NatsCluster,
) -> None:
    async def work() -> None:
        leader, followers = nats_cluster.leader_of("PAUSED"), nats_cluster.followers_of("PAUSED")
        async with connected(leader.url) as client:
            for follower in followers:
                follower.pause()
            with pytest.raises(Error):
                await client.jetstream(timeout=0.5).publish("PAUSED.x", b"1")
            for follower in followers:
                follower.resume()
            assert await published(client, "PAUSED", b"2") > 0

    async def prepare() -> None:
        async with connected(nats_cluster.url) as client:
            await client.jetstream().add_stream(
                name="PAUSED", subjects=["PAUSED.>"], num_replicas=3
            )

    try:
        run(prepare)
        run(work)
        nats_cluster.wait_current("PAUSED")
    finally:
        nats_cluster.make_whole()


def test_a_cluster_is_there_again_after_all_of_it_was_killed(nats_cluster: NatsCluster) -> None:
    url = nats_cluster.url
    nats_cluster.kill()
    nats_cluster.make_whole()
    assert nats_cluster.url == url
    assert nats_cluster.meta_leader().is_running


PROGRAM = """
import pathlib, sys
from tests.nats.servers import NatsServer
server = NatsServer(pathlib.Path(sys.argv[1]))
server.start()
server.wait_ready()
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_no_server_outlives_a_process_of_tests_that_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_running(pid), "the server to be killed")


def is_running(pid: int) -> bool:
    """A process that has ended, and that nobody reaps, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
