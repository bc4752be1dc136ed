"""A NATS cluster under load loses servers, leaders, its network and itself: nothing else is lost.

Engines in this process and real servers write to one tenant meanwhile, and follow it. After each
fault, what is stored is compared with what every client was told (`tests/nats/writers.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from ebus.backends.jetstream.stream import call
from ebus.core.errors import StoreUnavailable
from tests.nats import fixtures
from tests.nats.fleet import Fleet
from tests.nats.monitoring import wait_for
from tests.nats.namespaces import DividedCluster, NoNamespaces
from tests.nats.servers import NatsCluster, NatsServer
from tests.nats.writers import PATIENCE_S

nats_directory = fixtures.nats_directory

LOAD_S = 0.5
LONG_LOAD_S = 8.0

ROUND = 100
"""So many times of `--torture` are one round of all that can happen."""


class Fault:
    """Things to be done to a fleet that works. `load_s` is how long a state is left as it is."""

    def __init__(self, fleet: Fleet, load_s: float) -> None:
        self.fleet = fleet
        self.cluster = fleet.cluster
        self.load_s = load_s

    @property
    def leader(self) -> NatsServer:
        return self.cluster.leader_of(self.fleet.log_stream)

    @property
    def followers(self) -> list[NatsServer]:
        return self.cluster.followers_of(self.fleet.log_stream)

    @property
    def connected(self) -> NatsServer:
        """Whom the first engine is connected to."""
        address = self.fleet.engines[0]._link.connected_to
        [found] = [it for it in self.cluster.servers if it.address == address]
        return found

    def stay(self) -> None:
        time.sleep(self.load_s)

    def go_on(self) -> None:
        self.fleet.wait_for_work()
        self.stay()

    def without(self, server: NatsServer) -> None:
        """The others go on, and with it."""
        server.kill()
        self.go_on()
        server.start()
        self.go_on()

    def paused(self, server: NatsServer) -> None:
        """For longer than anybody waits for it."""
        server.pause()
        self.go_on()
        server.resume()
        self.go_on()

    def cut(self, server: NatsServer, *, clients: bool = False) -> None:
        if not isinstance(self.cluster, DividedCluster):
            return
        self.cluster.cut(server, clients=clients)
        self.go_on()
        self.cluster.heal(server)
        self.go_on()


def nothing(fault: Fault) -> None:
    fault.go_on()


def leaders_that_step_down(fault: Fault) -> None:
    link = fault.fleet.engines[1]._link
    until_s = time.monotonic() + 4 * fault.load_s
    while time.monotonic() < until_s:
        for stream in (fault.fleet.log_stream, f"KV_{fault.fleet.log_stream}"):
            try:
                call(link, f"STREAM.LEADER.STEPDOWN.{stream}", {})
            except StoreUnavailable:
                fault.fleet.check_clients()  # there is none yet
        time.sleep(0.2)
    fault.go_on()


def a_killed_follower(fault: Fault) -> None:
    fault.without(fault.followers[0])


def a_killed_leader(fault: Fault) -> None:
    fault.without(fault.leader)


def a_killed_connection(fault: Fault) -> None:
    fault.without(fault.connected)


def leaders_killed_one_after_the_other(fault: Fault) -> None:
    for _ in range(4):
        server = fault.leader
        server.kill()
        fault.stay()
        server.start()
        server.wait_ready()
        fault.cluster.wait_current(fault.fleet.log_stream)
    fault.go_on()


def a_paused_follower(fault: Fault) -> None:
    fault.paused(fault.followers[0])


def a_paused_leader(fault: Fault) -> None:
    fault.paused(fault.leader)


def leaders_paused_one_after_the_other(fault: Fault) -> None:
    """Each comes back and takes itself for the leader still."""
    for _ in range(4):
        server = fault.leader
        server.pause()
        wait_for(lambda: fault.leader != server, "another leader")  # noqa: B023
        server.resume()
        fault.stay()
    fault.go_on()


def a_follower_that_is_cut_off(fault: Fault) -> None:
    fault.cut(fault.followers[0])


def a_leader_that_is_cut_off(fault: Fault) -> None:
    fault.cut(fault.leader)


def a_leader_that_is_cut_off_from_all(fault: Fault) -> None:
    fault.cut(fault.leader, clients=True)


def a_connection_that_is_cut_off(fault: Fault) -> None:
    """The server that an engine is connected to answers, but is of no use: it goes elsewhere."""
    fault.cut(fault.connected)


def all_restarted(fault: Fault) -> None:
    fault.cluster.stop()
    fault.cluster.start()
    fault.go_on()


def all_killed_at_once(fault: Fault) -> None:
    fault.cluster.kill()
    fault.cluster.start()
    fault.go_on()


def one_server_after_the_other(fault: Fault) -> None:
    """The leader, with which the others go on; another one, without which nothing is stored; and
    the last. It all comes back by itself."""
    leader, [second, third] = fault.leader, fault.followers
    leader.kill()
    fault.go_on()
    second.kill()
    see_that_there_is_no_cluster(fault)
    third.kill()
    fault.cluster.start()
    fault.go_on()
    see_that_all_is_well(fault)


def no_quorum(fault: Fault) -> None:
    lost = fault.followers
    for server in lost:
        server.kill()
    see_that_there_is_no_cluster(fault)
    fault.stay()
    for server in lost:
        server.start()
    fault.go_on()
    see_that_all_is_well(fault)


def quorum_paused(fault: Fault) -> None:
    lost = fault.followers
    for server in lost:
        server.pause()
    see_that_there_is_no_cluster(fault)
    for server in lost:
        server.resume()
    fault.go_on()


def see_that_there_is_no_cluster(fault: Fault) -> None:
    """Nothing is stored, and all that needs no cluster is done as ever."""
    first = fault.fleet.servers[0]
    answer = fault.fleet.post(first)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["code"] in {"store_unavailable", "outcome_unknown", "store_busy"}
    wait_for(
        lambda: first.get("/health").status_code == 503,
        "the server to say that it is not well",
        timeout_s=PATIENCE_S,
    )
    assert first.get("/tenants").status_code == 200
    assert first.get("/nowhere").status_code == 404
    wrong = httpx.get(f"{first.live.url}/position", headers={"X-API-Key": "wrong"}, timeout=30)
    assert wrong.status_code == 401
    assert first.get("/events?from=1").status_code in (200, 503)


def see_that_all_is_well(fault: Fault) -> None:
    for ebus in fault.fleet.servers:
        wait_for(lambda: ebus.get("/health").status_code == 200, "health")  # noqa: B023


def killed_ebus_servers(fault: Fault) -> None:
    for ebus in fault.fleet.servers:
        fault.stay()
        ebus.restart()
    fault.go_on()


SHORT: tuple[Callable[[Fault], None], ...] = (
    leaders_that_step_down,
    killed_ebus_servers,
    a_connection_that_is_cut_off,
    one_server_after_the_other,
)
"""What there is time for in CI."""

ALL = (
    *SHORT,
    nothing,
    a_killed_leader,
    a_killed_follower,
    a_killed_connection,
    leaders_killed_one_after_the_other,
    a_paused_follower,
    a_paused_leader,
    leaders_paused_one_after_the_other,
    a_follower_that_is_cut_off,
    a_leader_that_is_cut_off,
    a_leader_that_is_cut_off_from_all,
    all_killed_at_once,
    all_restarted,
    no_quorum,
    quorum_paused,
)


@pytest.fixture
def fleet(
    tmp_path_factory: pytest.TempPathFactory, torture: int | None, nats_directory: object
) -> Iterator[Fleet]:
    """On files that are synced at every write; on a disk, where there is time for that."""
    directory = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        cluster: NatsCluster
        try:
            cluster = DividedCluster(directory / "nats", sync="always")
        except NoNamespaces:  # then nothing is cut off
            cluster = NatsCluster(directory / "nats", sync="always")
        stack.enter_context(cluster)
        yield Fleet(cluster, directory, stack)


def test_whatever_becomes_of_a_cluster_nothing_is_lost_or_doubled(
    fleet: Fleet, torture: int | None
) -> None:
    faults = list(SHORT)
    if torture is not None:
        faults = list(ALL) * max(1, torture // ROUND)
        random.Random(torture).shuffle(faults)
    for happens in faults:
        try:
            with fleet.working():
                happens(Fault(fleet, LOAD_S if torture is None else LONG_LOAD_S))
        except BaseException as error:
            error.add_note(f"with {happens.__name__}, on {fleet.cluster.servers}")
            for server in fleet.servers:
                error.add_note(server.live.log[-4_000:])
            raise
        fleet.make_whole()
    for server in fleet.servers:
        assert "Traceback" not in server.logs + server.live.log
