"""The disk fails at every operation that a workload reaches, once or until it is mended."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw
import pytest

from ebus.backends.sqlite import SqliteEngine
from ebus.core.aio import AsyncEngine
from ebus.core.engine import Durability
from ebus.core.errors import EbusError, StoreFull, StoreUnavailable
from ebus.core.store import Appended
from ebus.core.tenant import TenantName
from tests.torture.disk import Disk, ShortWrite, everything, nothing
from tests.torture.test_power_cuts import notes_of
from tests.torture.workload import LIMITS, TENANTS, Attempt, Expectation, Refused, Work, event

RECOVERY_S = 5.0

FAULT, MENDED, RECOVERED = "fault", "mended", "recovered"
"""Notes in the log."""

Errors = dict[str, Callable[[], Exception]]
"""By the kind of operation that raises them."""

FAULTS: dict[str, Errors] = {
    "I/O error": {
        "read": lambda: apsw.exception_for(apsw.SQLITE_IOERR_READ),
        "write": lambda: apsw.exception_for(apsw.SQLITE_IOERR_WRITE),
        "truncate": lambda: apsw.exception_for(apsw.SQLITE_IOERR_TRUNCATE),
        "sync": lambda: apsw.exception_for(apsw.SQLITE_IOERR_FSYNC),
        "open": lambda: apsw.exception_for(apsw.SQLITE_CANTOPEN),
        "remove": lambda: apsw.exception_for(apsw.SQLITE_IOERR_DELETE),
        "create": lambda: OSError(errno.EIO, "I/O error"),
        "mkdir": lambda: OSError(errno.EIO, "I/O error"),
        "syncdir": lambda: OSError(errno.EIO, "I/O error"),
        "writefile": lambda: OSError(errno.EIO, "I/O error"),
        "syncfile": lambda: OSError(errno.EIO, "I/O error"),
    },
    "no space": {
        "write": lambda: apsw.exception_for(apsw.SQLITE_FULL),
        "create": lambda: OSError(errno.ENOSPC, "no space left"),
        "mkdir": lambda: OSError(errno.ENOSPC, "no space left"),
    },
    "short write": {
        "write": lambda: ShortWrite(apsw.exception_for(apsw.SQLITE_FULL)),
    },
}


class Faults:
    """Makes the n-th operation fail, and with `lasting` all of that kind until it is mended."""

    def __init__(self, errors: Errors, at: int, *, lasting: bool) -> None:
        self._errors = errors
        self._at = at
        self.goes_on = lasting
        self.struck = ""
        self.seen = 0
        self.healed = False
        self.on_strike: Callable[[], None] = lambda: None

    def __call__(self, kind: str, place: str) -> Exception | None:
        if kind not in self._errors or self.healed:
            return None
        self.seen += 1
        if self.seen == self._at:
            self.struck = kind
            self.on_strike()
            return self._errors[kind]()
        return self._errors[kind]() if self.goes_on and kind == self.struck else None


class Life(Work):
    """A short life with everything in it that touches the disk. It goes on after a refusal."""

    def __init__(self, disk: Disk, durability: Durability, *, first_number: int = 1) -> None:
        super().__init__(disk, random.Random(0), durability=durability)
        engine = SqliteEngine(disk.root / "data", durability=durability, limits=LIMITS)
        self.engine = AsyncEngine(engine, limits=LIMITS)
        self._numbers = itertools.count(first_number)

    async def go(self) -> None:
        alice, bob, charlie = TENANTS
        for _ in range(2):
            await self.append(alice, 1)
            await self.append(bob, 3)
        await self.save(alice)
        await asyncio.gather(*(self.append(alice, 1) for _ in range(4)))
        for _ in range(3):
            await self.append(alice, 40)  # so much that it is written back
        await self.read(alice)
        await self.append(charlie, 1)  # now one too many is open
        await self.append(alice, 2)
        await self.save(bob)

    async def append(self, tenant: TenantName, events: int) -> bool:
        attempt = Attempt(tenant, next(self._numbers), events=events)

        async def ask() -> Appended:
            async with self.engine.tenant(tenant) as store:
                return await store.append([event(attempt, index) for index in range(events)])

        return await self.tell(attempt, ask)

    async def save(self, tenant: TenantName) -> bool:
        attempt = Attempt(tenant, next(self._numbers), checkpoint="mailer")

        async def ask() -> None:
            async with self.engine.tenant(tenant) as store:
                await store.save_checkpoint("mailer", attempt.number)

        return await self.tell(attempt, ask)

    async def read(self, tenant: TenantName) -> None:
        with suppress(StoreFull, StoreUnavailable):  # it may have to be opened for that
            async with self.engine.tenant(tenant) as store:
                await store.read_wire(1)


async def live(disk: Disk, faults: Faults, durability: Durability) -> None:
    """Go through it with these faults. Then they are mended, and everything works again."""
    disk.fault = faults
    life = Life(disk, durability)
    try:
        await life.go()
        faults.healed = True
        disk.note(MENDED)
        for tenant in TENANTS:
            deadline_s = time.monotonic() + RECOVERY_S
            while not await life.append(tenant, 2):
                assert time.monotonic() < deadline_s, f"{tenant} is still refused"
                await asyncio.sleep(0.05)
        disk.note(RECOVERED)
    finally:
        faults.healed = True
        await life.engine.aclose()


def check_notes(disk: Disk) -> None:
    for note in notes_of(disk.log):
        if isinstance(note, Refused):
            assert isinstance(note.error, (StoreFull, StoreUnavailable)), repr(note.error)


def check_everywhere(
    disk: Disk, directory: Path, rng: random.Random, *, faults: Faults, durability: Durability
) -> None:
    """Kill the process, or cut the power, at some moments after the fault.

    While a disk goes on failing, what it was given may be there after a power cut, refused or not:
    nobody can take it back. After the mere death of the process it must not be there, unless the
    disk refuses to sync what should take its place; then that is so once each tenant has stored
    something again.
    """
    notes = {step.note: at for at, step in enumerate(disk.log) if isinstance(step.note, str)}
    mended, end = notes[MENDED], len(disk.log)
    begin = notes[RECOVERED if faults.goes_on and faults.struck == "sync" else FAULT]
    between = [rng.randint(begin + 1, end) for _ in range(1 if durability == "full" else 10)]
    image, expectation, seen = disk.replay(), Expectation(), 0
    for number, moment in enumerate(sorted([begin + 1, *between, end])):
        image.advance(disk.log, moment)
        expectation.take(notes_of(disk.log[seen:moment]))
        seen = moment
        left = directory / f"left-{number}"
        left.mkdir()
        only_death = faults.goes_on and moment <= mended
        what = everything if only_death else rng.choice([everything, nothing, None])
        image.write_to(left, rng, what)
        expectation.check(left, durability=durability)


def fail_at_each(
    directory: Path, errors: Errors, *, lasting: bool, durability: Durability = "full"
) -> int:
    """Let each operation fail in a life of its own. Returns how many there were."""
    for at in itertools.count(1):
        place = directory / str(at)
        disk, faults = Disk(place / "disk"), Faults(errors, at, lasting=lasting)
        disk.root.mkdir(parents=True)
        faults.on_strike = partial(disk.note, FAULT)
        try:
            with disk.mounted():
                asyncio.run(live(disk, faults, durability))
            if faults.seen < at:
                return faults.seen
            check_notes(disk)
            check_everywhere(disk, place, random.Random(at), faults=faults, durability=durability)
        except (AssertionError, EbusError) as error:
            error.add_note(f"operation {at} failed, what is left: {place}")
            raise
        shutil.rmtree(place)
    raise AssertionError


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "until it is mended"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_is_refused_and_nothing_is_lost(
    memory_path: Path, fault: str, lasting: bool
) -> None:
    assert fail_at_each(memory_path, FAULTS[fault], lasting=lasting) > 50


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "until it is mended"])
def test_without_a_sync_for_each_commit_a_sync_that_fails_damages_nothing(
    memory_path: Path, lasting: bool
) -> None:
    syncs = {kind: FAULTS["I/O error"][kind] for kind in ("sync", "syncdir")}
    assert fail_at_each(memory_path, syncs, lasting=lasting, durability="normal") > 10


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_who_opens_what_a_failing_disk_has_left_does_not_trust_it(
    memory_path: Path, durability: Durability
) -> None:
    """Syncs fail from the n-th on, up to the stop; the next start is on a disk that was mended."""
    for at in itertools.count(1):
        disk = Disk(memory_path / str(at) / "disk")
        faults = Faults({"sync": FAULTS["I/O error"]["sync"]}, at, lasting=True)
        disk.root.mkdir(parents=True)
        with disk.mounted():
            disk.fault = faults
            asyncio.run(_live_and_stop(Life(disk, durability)))
            faults.healed = True
            begin = len(disk.log)
            asyncio.run(_append_to_each(Life(disk, durability, first_number=1_000)))
        if faults.seen < at:
            assert at > 20
            return
        rng, image, expectation = random.Random(at), disk.replay(), Expectation()
        begun = begin
        for number, moment in enumerate(
            sorted(rng.randint(begin, len(disk.log)) for _ in range(6))
        ):
            if number == 0:
                expectation.take(notes_of(disk.log[:begin]), refused_may_be_there=True)
            image.advance(disk.log, moment)
            expectation.take(notes_of(disk.log[begun:moment]))
            begun = moment
            left = memory_path / str(at) / str(number)
            left.mkdir()
            image.write_to(left, rng)
            expectation.check(left, durability=durability)
        shutil.rmtree(memory_path / str(at))


def test_a_tenant_that_could_not_be_made_does_not_come_back_in_parts(memory_path: Path) -> None:
    """Undone where no sync succeeds, it is made anew. The power is cut before that is durable."""
    [tenant, *_] = TENANTS

    async def append_and_stop(disk: Disk) -> bool:
        life = Life(disk, "full")
        try:
            return await life.append(tenant, 1)
        finally:
            with suppress(EbusError):
                await life.engine.aclose()

    for at in itertools.count(1):
        disk = Disk(memory_path / str(at) / "disk")
        faults = Faults({"sync": FAULTS["I/O error"]["sync"]}, at, lasting=True)
        disk.root.mkdir(parents=True)
        with disk.mounted():
            disk.fault = faults
            acknowledged = asyncio.run(append_and_stop(disk))
            faults.healed = True
            begin = len(disk.log)
            assert asyncio.run(append_and_stop(disk))
        if acknowledged:
            assert at > 3
            return
        rng, image, expectation = random.Random(at), disk.replay(), Expectation()
        expectation.take(notes_of(disk.log[:begin]), refused_may_be_there=True)
        for moment in range(begin, len(disk.log) + 1):
            image.advance(disk.log, moment)
            expectation.take(notes_of(disk.log[moment - 1 : moment] if moment > begin else []))
            for cut in range(3):
                left = memory_path / f"{at}-{moment}-{cut}"
                left.mkdir()
                image.write_to(left, rng)
                expectation.check(left, durability="full")
                shutil.rmtree(left)


async def _live_and_stop(life: Life) -> None:
    await life.go()
    with suppress(EbusError):
        await life.engine.aclose()


async def _append_to_each(life: Life) -> None:
    for tenant in TENANTS:
        for _ in range(4):
            assert await life.append(tenant, 20)
    await life.engine.aclose()


def test_slow_syncs_refuse_nothing(memory_path: Path) -> None:
    disk = Disk(memory_path / "disk")
    disk.root.mkdir()

    def slowly(kind: str, place: str) -> None:
        if kind == "sync":
            time.sleep(0.02)

    async def live_slowly() -> None:
        life = Life(disk, "full")
        await life.go()
        await life.engine.aclose()

    disk.fault = slowly
    with disk.mounted():
        asyncio.run(live_slowly())
    expectation = Expectation()
    expectation.take(notes_of(disk.log))
    assert not [note for note in notes_of(disk.log) if isinstance(note, Refused)]
    assert expectation.check(disk.root) == 0
