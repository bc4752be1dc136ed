"""The power is cut at any moment: what was acknowledged is there, and nothing that was refused."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest

from ebus.backends.sqlite import SqliteEngine
from ebus.core.engine import Durability
from ebus.core.event import NewEvent
from tests.torture.disk import Disk, Step, Survival, everything
from tests.torture.workload import Expectation, Work, check_integrity

CUTS = 1_000
CUTS_A_RUN = 50

CUT_AGAIN = 0.2
"""How often the power is cut once more, while what is left is being opened."""


def notes_of(steps: list[Step]) -> list[object]:
    return [step.note for step in steps if step.kind == "note"]


def cuts_in(log: list[Step], count: int, rng: random.Random) -> list[int]:
    """Moments to cut at, in order: half of them anywhere, half beside what rarely happens."""
    rare = [
        number + rng.randint(0, 1)
        for number, step in enumerate(log)
        if step.kind not in {"write", "note"}
    ]
    anywhere = [rng.randint(0, len(log)) for _ in range(count - count // 2)]
    return sorted(anywhere + rng.choices(rare, k=count // 2))


class Cutter:
    """Cuts the power of one disk at many moments, and looks at what is left each time."""

    def __init__(self, directory: Path, seed: int, durability: Durability) -> None:
        self._directory = directory
        self._durability: Durability = durability
        self._rng = random.Random(seed)
        self._seed = seed
        self.cuts = 0
        self.with_loss = 0

    def work_and_cut(self, cuts: int, *, what_survives: Survival | None = None) -> None:
        """Let there be work on a new disk, and cut its power so many times."""
        root = self._directory / f"disk-{self._seed}"
        root.mkdir()
        disk = Disk(root)
        with disk.mounted():
            Work(disk, self._rng, durability=self._durability).run()
        image, expectation, seen = disk.replay(), Expectation(), 0
        for moment in cuts_in(disk.log, cuts, self._rng):
            image.advance(disk.log, moment)
            expectation.take(notes_of(disk.log[seen:moment]))
            seen = moment
            left = self._directory / f"cut-{self._seed}-{self.cuts}"
            left.mkdir()
            image.write_to(left, self._rng, what_survives)
            self._look(left, expectation, moment)
            self.cuts += 1

    def _look(self, left: Path, expectation: Expectation, moment: int) -> None:
        disk = Disk(left)
        try:
            with disk.mounted():
                lost = expectation.check(left, durability=self._durability)
            self.with_loss += lost > 0
            if self._rng.random() < CUT_AGAIN:
                image = disk.replay()
                image.advance(disk.log, self._rng.randint(0, len(disk.log)))
                left = left.with_name(f"{left.name}-again")
                left.mkdir()
                image.write_to(left, self._rng)
                expectation.check(left, durability=self._durability)
        except AssertionError as error:
            error.add_note(f"seed {self._seed}, cut at step {moment}, what is left: {left}")
            raise


def cut_often(
    directory: Path,
    cuts: int,
    *,
    durability: Durability,
    what_survives: Survival | None = None,
) -> tuple[int, int]:
    """Do work and cut its power so many times. Returns the cuts, and those that lost something."""
    done = with_loss = 0
    for seed in itertools.count():
        if done == cuts:
            return done, with_loss
        cutter = Cutter(directory, seed, durability)
        cutter.work_and_cut(min(CUTS_A_RUN, cuts - done), what_survives=what_survives)
        done += cutter.cuts
        with_loss += cutter.with_loss
        for place in directory.iterdir():
            shutil.rmtree(place)
    raise AssertionError


def test_what_was_acknowledged_survives_a_power_cut(memory_path: Path, torture: int | None) -> None:
    cuts = torture or CUTS
    assert cut_often(memory_path, cuts, durability="full") == (cuts, 0)


def test_without_a_sync_for_each_commit_a_cut_loses_the_last_moments_and_no_more(
    memory_path: Path,
) -> None:
    """It is also how the test above shows that it would see a loss."""
    cuts, with_loss = cut_often(memory_path, 200, durability="normal")
    assert cuts == 200
    assert with_loss > 20


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_process_that_dies_loses_nothing(memory_path: Path, durability: Durability) -> None:
    """What its system has been given is there, synced or not."""
    found = cut_often(memory_path, 200, durability=durability, what_survives=everything)
    assert found == (200, 0)


@pytest.mark.parametrize("original", ["events-go-sqlite-times", "events-go-string-times"])
def test_a_file_of_the_original_server_survives_being_taken_over(
    memory_path: Path, shared: Path, original: str
) -> None:
    """Whole, as it was or taken over, and to be taken over by the next start."""
    disk = Disk(_with_original(memory_path / "disk", shared, original))
    with disk.mounted(), SqliteEngine(disk.root / "data") as engine:
        engine.open("alice").append([NewEvent.of("T", None)])
    with SqliteEngine(_with_original(memory_path / "uncut", shared, original) / "data") as engine:
        expected = engine.open("alice").read(1).events
    rng, image = random.Random(0), disk.replay()
    for number, moment in enumerate(cuts_in(disk.log, 60, rng)):
        image.advance(disk.log, moment)
        left = memory_path / str(number)
        left.mkdir()
        image.write_to(left, rng)
        with SqliteEngine(left / "data") as engine:
            assert engine.open("alice").read(1).events[: len(expected)] == expected
        check_integrity(left / "data" / "alice.db")


def _with_original(root: Path, shared: Path, original: str) -> Path:
    data = root / "data"
    data.mkdir(parents=True)
    shutil.copy(shared / "compat" / f"{original}.db", data / "alice.db")
    return root
