"""A server that is cut off is as one whose cable is pulled, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.errors import Error

from tests.nats.clients import connected, published, replicated, run, stored
from tests.nats.groups import group_of
from tests.nats.monitoring import wait_for
from tests.nats.namespaces import DividedCluster, NoNamespaces
from tests.nats.servers import NatsServer


@pytest.fixture
def cluster(divided_cluster: DividedCluster) -> Iterator[DividedCluster]:
    yield divided_cluster
    divided_cluster.make_whole()


def test_a_leader_that_is_cut_off_acknowledges_nothing_and_the_others_go_on(
    cluster: DividedCluster,
) -> None:
    async def work() -> None:
        async with connected(cluster.url) as client:
            await replicated(client, "CUT")
            assert await published(client, "CUT", b"before") == 1
        cluster.wait_current("CUT")
        leader, followers = cluster.leader_of("CUT"), cluster.followers_of("CUT")
        others = ",".join(follower.url for follower in followers)
        async with connected(leader.url) as cut_off, connected(others) as client:
            cluster.cut(leader)
            with pytest.raises(Error):
                await cut_off.jetstream(timeout=0.5).publish("CUT.x", b"lost")
            assert await published(client, "CUT", b"meanwhile") == 2
            assert cluster.leader_of("CUT") in followers
            assert cut_off.is_connected

            cluster.heal(leader)
            cluster.wait_current("CUT")
            assert not believes_to_lead(leader)
            assert await published(cut_off, "CUT", b"after") == 3
            assert await stored(client, "CUT") == [b"before", b"meanwhile", b"after"]

    run(work)


def believes_to_lead(server: NatsServer) -> bool:
    """Of the stream `CUT`, by what it says itself."""
    return bool(group_of(server, "CUT").get("leader") == server.name)


def test_a_server_that_is_cut_off_from_clients_too_does_not_answer_until_that_is_healed(
    cluster: DividedCluster,
) -> None:
    server = cluster.servers[0]
    assert server.ask("/varz")
    cluster.cut(server, clients=True)
    assert server.ask("/varz") is None
    assert server.is_running
    cluster.heal(server)
    wait_for(lambda: server.ask("/varz"), "an answer")


def test_where_there_are_no_namespaces_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoNamespaces, match="unshare"):
        DividedCluster(Path("/nowhere"))
