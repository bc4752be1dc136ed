"""Random work on several tenants, and what may be found of it after it was interrupted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ebus.backends.sqlite import SqliteEngine
from ebus.core.aio import AsyncEngine, AsyncTenantStore
from ebus.core.engine import Durability
from ebus.core.errors import EbusError
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName
from tests.torture.disk import Disk

LIMITS = Limits(
    wal_checkpoint_bytes=16 * 1024,  # so that much is written back
    max_open_tenants=2,  # so that tenants are put away and opened again
    max_batch_events=40,
    max_event_bytes=20_000,
)
TENANTS = tuple(TenantName(name) for name in ("alice", "bob", "charlie"))
CHECKPOINTS = ("mailer", "printer")


class Attempt(msgspec.Struct):
    """Something that was asked of a tenant, and what was answered; a note in a disk's log."""

    tenant: str
    number: int
    events: int = 0
    """How many are appended; 0 for a checkpoint."""
    checkpoint: str = ""
    first_position: int | None = None
    """Where they are, once that was answered."""

    @property
    def key(self) -> str:
        return f"{self.tenant}-{self.number}"


class Begun(msgspec.Struct, frozen=True):
    attempt: Attempt


class Acknowledged(msgspec.Struct, frozen=True):
    attempt: Attempt


class Refused(msgspec.Struct, frozen=True):
    attempt: Attempt
    error: EbusError


def event(attempt: Attempt, index: int) -> NewEvent:
    """An event that tells whose it is. Its size is from some bytes to some KiB."""
    return _event(attempt.key, index, attempt.events)


@lru_cache(maxsize=20_000)
def _event(key: str, index: int, events: int) -> NewEvent:
    """Kept: after every cut of a disk the same ones are looked for."""
    rng = random.Random(f"{key}-{index}")
    padding = "x" * int(rng.expovariate(1 / 300))
    return NewEvent.of("T", [key, index, events, padding])


class Work:
    """Asks tenants for things, one attempt after the other or several at once."""

    def __init__(self, disk: Disk, rng: random.Random, *, durability: Durability) -> None:
        self._disk = disk
        self._rng = rng
        self._durability: Durability = durability
        self._number = 0

    def run(self, lives: int = 2, steps: int = 12) -> None:
        """Open the engine so many times, and let each tenant do so many steps each time."""
        for _ in range(lives):
            asyncio.run(self._live(steps))

    async def _live(self, steps: int) -> None:
        engine = SqliteEngine(self._disk.root / "data", durability=self._durability, limits=LIMITS)
        work = AsyncEngine(engine, limits=LIMITS)
        try:
            await asyncio.gather(*(self._use(work, tenant, steps) for tenant in TENANTS))
        finally:
            await work.aclose()

    async def _use(self, engine: AsyncEngine, tenant: TenantName, steps: int) -> None:
        for _ in range(steps):
            async with engine.tenant(tenant) as store:
                count = self._rng.choice([1, 1, 1, 3, 8])
                await asyncio.gather(*(self._attempt(store, tenant) for _ in range(count)))
            if self._rng.random() < 0.2:
                await asyncio.sleep(0.001)  # the others have a turn

    async def _attempt(self, store: AsyncTenantStore, tenant: TenantName) -> None:
        self._number += 1
        attempt = Attempt(tenant, self._number)
        kind = self._rng.random()
        if kind < 0.25:
            attempt.checkpoint = self._rng.choice(CHECKPOINTS)
            await self.tell(
                attempt, lambda: store.save_checkpoint(attempt.checkpoint, attempt.number)
            )
            return
        attempt.events = self._rng.choice([1, 1, 1, 2, 10, 40])
        events = [event(attempt, index) for index in range(attempt.events)]
        if kind > 0.95:  # one that must be refused, and its neighbours not
            events[-1] = NewEvent.of("T", "x" * (LIMITS.max_event_bytes + 1))
        await self.tell(attempt, lambda: store.append(events))

    async def tell(self, attempt: Attempt, ask: Callable[[], Any]) -> bool:
        """Ask, and note in the log when it began and what was answered when."""
        self._disk.note(Begun(attempt))
        try:
            answer = await ask()
        except EbusError as error:
            self._disk.note(Refused(attempt, error))
            return False
        if answer is not None:
            attempt.first_position = answer.first_position
        self._disk.note(Acknowledged(attempt))
        return True


class Expectation:
    """What has been asked and answered so far: what must be found, and what may."""

    def __init__(self) -> None:
        self._open: dict[str, Attempt] = {}
        self._acknowledged: dict[str, Attempt] = {}
        self._checkpoints: dict[tuple[str, str], list[tuple[int, bool]]] = {}

    def take(self, notes: Iterable[Any], *, refused_may_be_there: bool = False) -> None:
        for note in notes:
            if isinstance(note, Begun):
                self._open[note.attempt.key] = note.attempt
            elif isinstance(note, Acknowledged):
                self._acknowledged[note.attempt.key] = self._open.pop(note.attempt.key)
            elif isinstance(note, Refused) and not refused_may_be_there:
                del self._open[note.attempt.key]

    def check(self, directory: Path, *, durability: Durability = "full") -> int:
        """Open what is there and compare. Returns how many acknowledged attempts are missing.

        Raises AssertionError for whatever a durability promises and does not hold. Afterwards
        each tenant has one event more: it can still be written to.
        """
        engine = SqliteEngine(directory / "data", durability=durability, limits=LIMITS)
        with engine:
            missing = sum(
                self._check_tenant(engine.open(tenant), tenant, durability) for tenant in TENANTS
            )
        for tenant in TENANTS:
            check_integrity(engine.path(tenant))
        return missing

    def _check_tenant(self, store: TenantStore, tenant: str, durability: Durability) -> int:
        found = _found(store)
        for key, first_position in found.items():
            attempt = self._acknowledged.get(key) or self._open.get(key)
            assert attempt is not None, f"{key} was refused, or never asked for"
            answered = key in self._acknowledged
            assert not answered or attempt.first_position == first_position, key
        expected = {
            key
            for key, attempt in self._acknowledged.items()
            if attempt.events and attempt.tenant == tenant
        }
        missing = expected - found.keys()
        for name in CHECKPOINTS:
            missing |= self._check_checkpoint(store, tenant, name)
        assert durability == "normal" or not missing, f"acknowledged and lost: {missing}"
        head = store.head()
        extra = NewEvent.of("T", None)
        assert store.append([extra]).first_position == head + 1
        return len(missing)

    def _check_checkpoint(self, store: TenantStore, tenant: str, name: str) -> set[str]:
        """The key of the acknowledged save that is missing, if one is."""
        saves = {
            attempt.number: key
            for attempts in (self._acknowledged, self._open)
            for key, attempt in attempts.items()
            if (attempt.tenant, attempt.checkpoint) == (tenant, name)
        }
        position = store.checkpoint(name)
        assert position is None or position in saves, f"{position} was refused, or never saved"
        # Several may be under way at once, and are then saved in the order in which they began.
        last = max(
            (number for number, key in saves.items() if key in self._acknowledged), default=0
        )
        return {saves[last]} if last > (position or 0) else set()


def _found(store: TenantStore) -> dict[str, int]:
    """The appends that are stored, by key, with their first positions. Each must be whole."""
    found: dict[str, int] = {}
    key, first, expected, position = "", 0, 0, 0
    start: int | None = 1
    while start is not None:
        page = store.read(start)
        for stored in page.events:
            position += 1
            assert stored.position == position, "a gap"
            value = stored.value()
            if value is None:
                continue  # of an earlier check
            attempt_key, index, count, _ = value
            if index == 0:
                assert expected == 0, f"{key} is not whole"
                assert attempt_key not in found, f"{attempt_key} is there twice"
                key, first, expected = attempt_key, position, count
                found[key] = first
            tenant, number = attempt_key.rsplit("-", 1)
            sent = event(Attempt(tenant, int(number), count), index)
            assert (attempt_key, index) == (key, position - first), "out of order"
            assert bytes(stored.data) == bytes(sent.data), f"{key} is not what was sent"
            expected -= 1
        start = page.next
    assert expected == 0, f"{key} is not whole"
    assert store.head() == store.count() == position
    return found


def check_integrity(path: Path) -> None:
    connection = apsw.Connection(str(path))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
