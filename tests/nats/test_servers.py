"""The servers that the other tests rely on are real, and go through what is done to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.errors import Error

from tests.conftest import ROOT
from tests.nats import ports
from tests.nats.clients import connected, published, replicated, run, stored
from tests.nats.configuration import SYSTEM_PASSWORD, SYSTEM_USER
from tests.nats.monitoring import wait_for
from tests.nats.ports import HOST, claim_port
from tests.nats.servers import NatsCluster, NatsServer


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


@pytest.fixture
def cluster(nats_cluster: NatsCluster) -> Iterator[NatsCluster]:
    """Whose servers a test may break."""
    yield nats_cluster
    nats_cluster.make_whole()


def test_the_system_account_is_asked_with_its_password(cluster: NatsCluster) -> None:
    async def work() -> None:
        client = await nats.connect(
            cluster.url.split(","), user=SYSTEM_USER, password=SYSTEM_PASSWORD
        )
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.JSZ", b"{}", reply=inbox)
        for _ in cluster.servers:
            assert b'"sync_interval":120000000000' in (await answers.next_msg(timeout=10)).data
        await client.close()

    run(work)


def test_a_stream_on_three_servers_outlives_its_leader(cluster: NatsCluster) -> None:
    async def work() -> None:
        async with connected(cluster.url) as client:
            await replicated(client, "KILLED")
            assert await published(client, "KILLED", b"1") == 1
            cluster.wait_current("KILLED")
            leader, followers = cluster.leader_of("KILLED"), cluster.followers_of("KILLED")
            assert {leader, *followers} == set(cluster.servers)

            leader.kill()
            assert await published(client, "KILLED", b"2") == 2
            assert cluster.leader_of("KILLED") in followers

            leader.start()
            leader.wait_ready()
            cluster.wait_current("KILLED")
            assert await stored(client, "KILLED") == [b"1", b"2"]

    run(work)


def test_without_most_of_its_servers_a_cluster_acknowledges_nothing(cluster: NatsCluster) -> None:
    async def work() -> None:
        async with connected(cluster.url) as client:
            await replicated(client, "PAUSED")
        leader, followers = cluster.leader_of("PAUSED"), cluster.followers_of("PAUSED")
        async with connected(leader.url) as client:
            for follower in followers:
                follower.pause()
            with pytest.raises(Error):
                await client.jetstream(timeout=0.5).publish("PAUSED.x", b"1")
            for follower in followers:
                follower.resume()
            assert await published(client, "PAUSED", b"2") > 0
            cluster.wait_current("PAUSED")

    run(work)


def test_a_cluster_is_there_again_after_all_of_it_was_killed(cluster: NatsCluster) -> None:
    url = cluster.url
    cluster.kill()
    assert not any(server.ask("/varz") for server in cluster.servers)
    cluster.make_whole()
    assert cluster.url == url
    assert cluster.meta_leader() in cluster.servers


def test_a_port_is_given_to_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim_port()
    monkeypatch.setattr(ports, "_candidates", lambda: (first.number, first.number))
    with pytest.raises(AssertionError, match="no free port"):
        claim_port()
    first.release()
    with socket.create_server((HOST, first.number)), pytest.raises(AssertionError):
        claim_port()
    second = claim_port()
    assert second.number == first.number
    second.release()


PROGRAM = """
import pathlib, sys
from tests.nats.ports import HOST, claim_port
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
