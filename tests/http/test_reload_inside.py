"""The parts of a reload, each by itself."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebus.backends.memory import MemoryEngine, MemoryStore
from ebus.config import Config, KeyConfig, Signature, load_config
from ebus.core.aio import AsyncEngine, Terms
from ebus.core.engine import Durability, SupportsDurability, open_engine
from ebus.core.errors import QuotaExceeded, StoreClosed
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import Quota
from ebus.core.tenant import TenantName
from ebus.http.config_watch import ConfigWatch
from ebus.http.handover import Handover
from ebus.http.live import Live
from ebus.http.news import Commits
from ebus.http.reload import (
    CHANGEABLE,
    Changes,
    changes_between,
    from_pieces,
    in_pieces,
    load_first,
    servable,
)
from ebus.http.reload_alone import AloneReloads
from ebus.http.reload_state import ReloadState
from ebus.http.reload_workers import Overseer
from ebus.http.roster import Counters, Roster
from ebus.http.slots import Slots
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import Tenant
from tests.http.conftest import write_config
from tests.http.test_server_limits_inside import in_a_loop, until

ALICE, BOB, CAROL = TenantName("alice"), TenantName("bob"), TenantName("carol")


def config_of(directory: Path, *tenants: Any, **top: Any) -> Config:
    named = [{"name": it, "api_key": it * 8} if isinstance(it, str) else it for it in tenants]
    write_config(directory / "tenants.yaml", {"engine": "memory", "tenants": named, **top})
    return load_config(str(directory / "tenants.yaml"), {})


# Noticing a change


class Place:
    """What stands at a path, look by look."""

    def __init__(self, *signatures: int) -> None:
        self._signatures = list(signatures)

    def sign(self, _: str) -> Signature:
        return (self._signatures.pop(0),)


def looks(*signatures: int) -> list[bool]:
    watch = ConfigWatch("path", (0,), sign=Place(*signatures).sign)
    return [watch.has_changed() for _ in signatures]


def test_a_file_that_stays_as_it_is_has_not_changed() -> None:
    assert looks(0, 0, 0) == [False, False, False]


def test_a_change_is_told_once_it_has_been_stable_for_a_look() -> None:
    assert looks(1, 1, 1) == [False, True, False]
    assert looks(1, 2, 3, 3, 3) == [False, False, False, True, False]


def test_a_change_that_is_undone_before_it_is_told_is_none() -> None:
    assert looks(1, 0, 0) == [False, False, False]


def test_a_clock_that_is_put_back_makes_no_difference() -> None:
    assert looks(-5, -5, -9, -9) == [False, True, False, True]


def test_what_is_read_without_being_told_is_not_told() -> None:
    watch = ConfigWatch("path", (0,), sign=Place(1, 1, 1).sign)
    watch.is_read()
    assert not watch.has_changed()
    assert not watch.has_changed()


# Numbers


def test_a_tenant_keeps_its_number() -> None:
    slots = Slots(["alice", "bob"])
    slots.take(["carol"])
    slots.take(["bob", "alice", "carol"])
    assert [slots.of(name) for name in ("alice", "bob", "carol")] == [0, 1, 2]


def test_when_there_are_no_numbers_left_it_is_said() -> None:
    slots = Slots(["alice"], spare=1)
    assert slots.capacity == 3
    assert slots.refusal(["alice", "bob", "carol"]) is None
    slots.take(["bob", "carol"])
    assert slots.refusal(["bob", "carol"]) is None
    assert slots.refusal(["dave", "erna"]) == (
        "2 more tenants are too many: this server has had 3 since its start, and has room for 3; "
        "restart it"
    )


def test_a_number_from_another_process_is_taken_over() -> None:
    slots = Slots(["alice"])
    slots.learn({"zoe": 7})
    slots.learn({})
    assert slots.of("zoe") == 7
    slots.take(["yan"])
    assert slots.of("yan") == 8


def test_a_number_is_never_anothers() -> None:
    slots = Slots(["alice", "bob"], spare=0)
    slots.retire(["bob"])
    assert not slots.knows("bob")
    slots.take(["bob", "carol"])
    assert [slots.of(name) for name in ("alice", "bob", "carol")] == [0, 2, 3]
    assert slots.refusal(["dave"]) is not None


# What the processes share


def test_a_config_is_handed_over_to_a_process_that_was_forked(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(500)]
    config = config_of(tmp_path, *names, trusted_proxies=["10.0.0.0/8"])
    handover, slots = Handover(), Slots(names)
    assert handover.read() == []
    child = os.fork()
    if child == 0:
        handover.write(in_pieces(3, config, slots))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    generation, found, numbers = from_pieces(handover.read())
    assert (generation, found) == (3, msgspec.structs.replace(config, warnings=()))
    assert numbers == {name: number for number, name in enumerate(names)}


def test_what_is_half_written_is_not_read() -> None:
    handover = Handover()
    handover.write(["x" * 1_000])
    os.ftruncate(handover._file, 500)
    assert handover.read() == []
    handover.write(["y"])
    assert handover.read() == ["y"]


def test_a_name_that_is_longer_than_usual_is_handed_over() -> None:
    handover, name = Handover(), TenantName("n" * 150, max_chars=200)
    handover.write([name])
    assert handover.read() == [name]


def test_a_clock_that_jumps_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ReloadState(2)
    assert (state.accepted, state.generation, state.last_failed_s) == (1, 1, None)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    state.note_failed()
    assert (state.is_failing, state.failures, state.last_failed_s) == (True, 1, 1.0)
    assert state.note_accepted() == 2
    assert not state.is_failing
    assert (state.last_ok_s, state.last_failed_s) == (1.0, 1.0)
    state.note_served(0, 2, 7)
    assert (state.generation, state.revision) == (1, 0)  # the other worker does not follow yet
    state.note_served(1, 2, 7)
    assert (state.generation, state.revision) == (2, 7)


def test_a_change_of_the_registry_hides_no_mistake_of_the_file() -> None:
    state = ReloadState(1, revision=3)
    assert state.revision == 3
    state.note_failed()
    assert state.note_followed() == 2
    assert state.is_failing


# What changes


def test_changes_are_told_by_names(tmp_path: Path) -> None:
    old = config_of(tmp_path, "alice", "bob", "carol")
    new = config_of(
        tmp_path,
        "dave",
        {"name": "bob", "api_key": "n" * 40},
        {"name": "carol", "api_key": "carol" * 8, "durability": "normal"},
        tenants_visible="own",
        trusted_proxies=["::1"],
    )
    assert str(changes_between(old, new)) == (
        "1 tenant added [dave], 1 removed [alice], keys of 1 changed [bob], limits of 1 [carol], "
        "tenants_visible changed, trusted_proxies changed"
    )
    assert str(changes_between(old, old)) == "nothing has changed"
    shut = config_of(tmp_path, "alice", "bob", "carol", read_only=["bob"])
    assert str(changes_between(old, shut)) == "1 read-only now [bob]"
    assert str(changes_between(shut, old)) == "1 writable again [bob]"
    assert str(Changes(removed=(ALICE, BOB))) == "2 tenants removed [alice bob]"


@pytest.mark.parametrize("name", Config.__struct_fields__)
def test_every_field_of_the_config_changes_or_is_kept(tmp_path: Path, name: str) -> None:
    running = config_of(tmp_path, "alice")
    value = {"engine": "other:", "limits": Limits(max_block_bytes=7)}.get(name, "other")
    config, _ = servable(running, msgspec.structs.replace(running, **{name: value}))
    assert (getattr(config, name) == value) == (name in CHANGEABLE)


def test_each_limit_that_waits_for_the_next_start_is_named(tmp_path: Path) -> None:
    running = config_of(tmp_path, "alice")
    for name in Limits.__struct_fields__:
        limits = msgspec.structs.replace(Limits(), **{name: 7})
        assert servable(running, msgspec.structs.replace(running, limits=limits))[1] == [
            f"limits.{name}"
        ]
    assert servable(running, msgspec.structs.replace(running, engine="sqlite:x"))[1] == ["engine"]


# Stores that are open


@in_a_loop
async def test_new_terms_reach_stores_that_are_open(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:{tmp_path / 'data'}", durability="normal")
    tenants = AsyncEngine(engine)
    async with tenants.tenant(ALICE) as alice:
        assert isinstance(alice._store, SupportsDurability)
        await alice.append([NewEvent.of("A", 1)])
        await tenants.hold_to({ALICE: Terms("full", Quota(max_events=1))})
        with pytest.raises(QuotaExceeded):
            await alice.append([NewEvent.of("A", 1)])
        writer = alice._store._writer  # type: ignore[attr-defined]
        assert writer.pragma("synchronous") == 2
        await tenants.hold_to({ALICE: Terms("normal")})
        assert writer.pragma("synchronous") == 1
        assert (await alice.append([NewEvent.of("A", 1)])).first_position == 2
    await tenants.aclose()


@in_a_loop
async def test_who_is_served_no_more_is_closed_once_nobody_uses_it(tmp_path: Path) -> None:
    tenants = AsyncEngine(open_engine(f"sqlite:{tmp_path / 'data'}"))
    async with tenants.tenant(ALICE) as alice, tenants.tenant(BOB):
        await alice.append([NewEvent.of("A", 1)])
        await tenants.hold_to({BOB: Terms()})
        await asyncio.sleep(0.25)
        assert (await alice.append([NewEvent.of("A", 1)])).first_position == 2
    await until(lambda: tenants.open_tenants == 1)
    await until(lambda: not (tmp_path / "data" / "alice.db-wal").exists())
    async with tenants.tenant(ALICE) as alice:
        assert await alice.head() == 2
    await tenants.aclose()


@in_a_loop
async def test_who_comes_back_before_it_is_closed_stays_open(tmp_path: Path) -> None:
    tenants = AsyncEngine(MemoryEngine())
    async with tenants.tenant(ALICE) as alice:
        await tenants.hold_to({})
        await tenants.hold_to({ALICE: Terms(None, Quota(max_events=5))})
    await asyncio.sleep(0.25)
    async with tenants.tenant(ALICE) as again:
        assert again is alice
    await tenants.aclose()


@in_a_loop
async def test_what_a_tenant_left_that_was_put_away_is_finished(tmp_path: Path) -> None:
    """Or else its file could not be deleted, and begun anew, without a restart."""
    limits = Limits(max_open_tenants=1)
    tenants = AsyncEngine(open_engine(f"sqlite:{tmp_path / 'data'}", limits=limits), limits=limits)
    async with tenants.tenant(ALICE) as alice:
        await alice.append([NewEvent.of("A", 1)])
    async with tenants.tenant(BOB):
        assert (tmp_path / "data" / "alice.db-wal").exists()
        await tenants.settle([ALICE, BOB, CAROL])
        assert [path.name for path in (tmp_path / "data").glob("alice*")] == ["alice.db"]
    (tmp_path / "data" / "alice.db").unlink()
    async with tenants.tenant(ALICE) as alice:
        assert await alice.head() == 0
    await tenants.aclose()


@in_a_loop
async def test_what_is_just_being_opened_for_who_is_served_no_more_is_waited_for() -> None:
    """Or else it would be made anew once its file had been taken away."""
    may_open = threading.Event()

    class SlowEngine(MemoryEngine):
        def open(self, name: str, *, durability: Durability | None = None) -> MemoryStore:
            may_open.wait(60)
            return super().open(name, durability=durability)

    tenants = AsyncEngine(SlowEngine())
    opening = asyncio.create_task(tenants.borrow(ALICE))
    await until(lambda: tenants.open_tenants == 1)
    await tenants.hold_to({})
    settling = asyncio.create_task(tenants.settle([ALICE]))
    done, _ = await asyncio.wait([settling], timeout=0.05)
    assert not done
    may_open.set()
    await settling
    await opening
    assert [name for name, _ in tenants.open_stores()] == [ALICE]
    tenants.give_back(ALICE)
    await until(lambda: tenants.open_tenants == 0)
    await tenants.aclose()


@in_a_loop
async def test_who_is_closed_for_good_leaves_nothing_to_be_settled() -> None:
    settled: list[str] = []

    class SettlingEngine(MemoryEngine):
        def settle(self, name: str) -> None:
            settled.append(name)

    limits = Limits(max_open_tenants=1)
    tenants = AsyncEngine(SettlingEngine(limits=limits), limits=limits)
    async with tenants.tenant(ALICE):
        await tenants.hold_to({BOB: Terms()})
    async with tenants.tenant(BOB):  # there is room for one, and who has gone makes it
        await until(lambda: settled == [ALICE])
    assert tenants.open_tenants == 1
    await tenants.aclose()


# Those who wait


class Waits:
    """A request that waits, with a key that may change meanwhile."""

    def __init__(self) -> None:
        self.key: KeyConfig | None = KeyConfig(digest=b"k", scope="read")
        self.tenant = Tenant(ALICE, None, key=self.key)  # type: ignore[arg-type]
        self.ended = 0
        self.live = Live(Commits(1, 1).of(0), max_tails=9, key_of=lambda _: self.key)

    def end(self) -> None:
        self.ended += 1

    def change(self, **to: Any) -> None:
        assert self.key is not None
        self.key = msgspec.structs.replace(self.key, **to)
        self.live.look_at_keys()


@in_a_loop
async def test_who_waits_with_a_key_that_goes_is_ended() -> None:
    waits = Waits()
    with waits.live.waiting(waits.tenant, waits.end):
        waits.live.look_at_keys()
        assert not waits.ended
        waits.key = None
        waits.live.look_at_keys()
        assert waits.ended


@in_a_loop
async def test_who_begins_to_wait_after_its_key_has_gone_is_ended_at_once() -> None:
    waits = Waits()
    waits.key = None
    with waits.live.waiting(waits.tenant, waits.end):
        assert waits.ended


@in_a_loop
async def test_a_key_that_may_less_than_before_ends_and_one_that_may_more_goes_on() -> None:
    waits = Waits()
    with waits.live.waiting(waits.tenant, waits.end):
        waits.change(scope="both")
        assert not waits.ended
        waits.change(scope="write")
        assert waits.ended


@in_a_loop
async def test_a_key_that_ends_sooner_or_later_than_it_was_to() -> None:
    waits = Waits()
    with waits.live.waiting(waits.tenant, waits.end):
        waits.change(expires_at_s=time.time() + 0.1)
        waits.change(expires_at_s=None)
        await asyncio.sleep(0.2)
        assert not waits.ended
        waits.change(expires_at_s=time.time() - 1)
        await until(lambda: waits.ended)


# The door


@in_a_loop
async def test_a_tenant_that_cannot_be_opened_leaves_all_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    old = config_of(tmp_path, "alice", engine=f"sqlite:{data}")
    tenancy = Tenancy(old, counters := Counters(old))
    await tenancy.start()
    (data / "carol.db").symlink_to("loop.db")
    (data / "loop.db").symlink_to("carol.db")
    new = config_of(tmp_path, "alice", "bob", "carol", engine=f"sqlite:{data}")
    refusals = await tenancy.try_out(new, [BOB, CAROL])
    assert len(refusals) == 1
    assert "carol.db" in refusals[0]
    (data / "carol.db").unlink()
    assert await tenancy.try_out(new, [BOB, CAROL]) == []
    counters.slots.take([BOB, CAROL])
    await tenancy.take(tenancy.roster_of(new), max_open=10)
    assert [tenant.name for tenant in tenancy.config.tenants] == [ALICE, BOB, CAROL]
    await tenancy.stop()
    await tenancy.take(tenancy.roster_of(old), max_open=10)  # too late, and harmless


@in_a_loop
async def test_figures_may_be_asked_for_while_tenants_come_and_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    old = config_of(tmp_path, "alice", engine=f"sqlite:{data}")
    new = config_of(tmp_path, "bob", engine=f"sqlite:{data}")
    tenancy = Tenancy(old, counters := Counters(old))
    await tenancy.start()
    [alice] = tenancy.names
    assert await tenancy.try_out(new, [BOB]) == []
    tenancy.sample()  # bob is open, and has no number yet
    counters.slots.take([BOB])
    await tenancy.take(tenancy.roster_of(new), max_open=10)
    [bob] = tenancy.names
    tenancy.sample()
    assert tenancy.fitting([alice, bob]) == [bob]
    assert list(await tenancy.sizes([alice, bob])) == [bob]
    with pytest.raises(StoreClosed):
        await tenancy.outline(alice)
    assert (await tenancy.outline(bob)).head == 0
    await tenancy.stop()


# One process


class AskedTooLate(threading.Event):
    """Is set by somebody in the very moment in which the first wait for it gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.ask: Callable[[], None] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        if self.ask is None:
            return super().wait(timeout)
        ask, self.ask = self.ask, None
        ask()
        return False


@in_a_loop
async def test_who_asks_just_when_the_wait_for_it_has_given_up_is_heard(tmp_path: Path) -> None:
    config_of(tmp_path, "alice", watch_config=False)
    loaded = load_first(str(tmp_path / "tenants.yaml"), {})
    tenancy = Tenancy(loaded.config, counters := Counters(loaded.config))
    await tenancy.start()

    async def take(roster: Roster) -> None:
        await tenancy.take(roster, max_open=10)

    reloads = AloneReloads(loaded, counters, {}, tenancy, take)
    reloads._wake = wake = AskedTooLate()
    wake.ask = reloads.hang_up
    config_of(tmp_path, "alice", "bob", watch_config=False)
    reloads.begin()
    await until(lambda: [it.name for it in tenancy.config.tenants] == [ALICE, BOB])
    reloads.end()
    await tenancy.stop()


# The first process


class First:
    """A first process whose forks are calls, and its config file."""

    def __init__(self, directory: Path, *, spare: int = 9) -> None:
        self.directory = directory
        self.path = directory / "tenants.yaml"
        self.write("alice")
        loaded = load_first(str(self.path), {})
        self.counters = Counters(loaded.config)
        self.counters.slots = Slots(["alice"], spare=spare)
        self.handover = Handover()
        self.told = 0
        self.sent: list[Callable[[], None]] = []
        self.overseer = Overseer(loaded, self.counters, {}, self.handover)
        self.overseer.attach(fork=self._fork, tell=self._tell)

    def write(self, *names: str) -> None:
        config_of(self.directory, *names)

    def let_it_end(self, status: int = 0) -> None:
        if not status:
            self.sent[-1]()
        assert self.overseer.reap(len(self.sent), status)

    def names(self) -> list[str]:
        return [tenant.name for tenant in self.overseer.config.tenants]

    def _fork(self, run: Callable[[], None]) -> int:
        self.sent.append(run)
        return len(self.sent)

    def _tell(self) -> None:
        self.told += 1


@pytest.fixture
def first(tmp_path: Path) -> First:
    return First(tmp_path)


def test_what_is_accepted_is_handed_over_with_numbers(first: First) -> None:
    first.write("bob", "alice")
    first.overseer.hang_up()
    first.let_it_end()
    generation, config, numbers = from_pieces(first.handover.read())
    assert (generation, first.overseer.generation, first.told) == (2, 2, 1)
    assert [tenant.name for tenant in config.tenants] == ["bob", "alice"]
    assert numbers == {"alice": 0, "bob": 1}


def test_a_process_that_dies_while_it_looks_changes_nothing(
    first: First, caplog: pytest.LogCaptureFixture
) -> None:
    first.write("bob")
    first.overseer.hang_up()
    first.let_it_end(-9)
    assert (first.names(), first.told) == (["alice"], 0)
    assert "the process that was to check it ended with SIGKILL" in caplog.text
    assert first.counters.reloads.is_failing
    assert not first.overseer.reap(4_711, 0)  # a worker


def test_what_is_asked_for_meanwhile_is_one_more_reload(first: First) -> None:
    first.overseer.hang_up()
    first.write("bob")
    for _ in range(5):
        first.overseer.hang_up()
    assert len(first.sent) == 1
    first.let_it_end()
    assert len(first.sent) == 2
    first.let_it_end()
    assert (first.names(), len(first.sent)) == (["bob"], 2)


def test_more_tenants_than_there_is_room_for_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = First(tmp_path, spare=0)
    first.write("alice", "bob", "carol")
    first.overseer.hang_up()
    first.let_it_end()
    assert first.names() == ["alice"]
    assert "2 more tenants are too many" in caplog.text


def test_at_the_end_nothing_is_begun_any_more(first: First) -> None:
    first.overseer.end()
    first.overseer.hang_up()
    assert first.sent == []
    assert first.overseer.wait_s() is None


def test_the_file_is_looked_at_once_a_second(first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    first.write("alice", "bob")
    for _ in range(4):
        now_s += 0.5
        first.overseer.look()
    assert len(first.sent) == 1
    first.let_it_end()
    assert first.names() == ["alice", "bob"]
    wait_s = first.overseer.wait_s()
    assert wait_s is not None
    assert 0 < wait_s <= 1


def test_where_no_process_can_be_made_it_is_said(
    first: First, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    first.overseer.attach(fork=fail, tell=lambda: None)
    first.overseer.hang_up()
    assert "no process can be made that reads it" in caplog.text
