"""Who is told to have nothing stored, without a look at each file, has nothing stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.backends.sqlite.engine import SqliteEngine
from ebus.core.engine import SupportsAbsent, look_at
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName

ALICE, BOB, EVE = (TenantName(name) for name in ("alice", "bob", "eve"))

STEMS = st.sampled_from(["alice", "bob", "ALICE", "alice-2", "alicia", "", "a.b"])
ENDINGS = st.sampled_from([".db", ".db-wal", ".db-journal", ".db-shm", ".DB", ".db.db", "", ".txt"])
FILES = st.dictionaries(st.tuples(STEMS, ENDINGS).map("".join).filter(bool), st.booleans())


@given(files=FILES)
def test_the_absent_are_those_that_nothing_is_found_of(files: dict[str, bool]) -> None:
    with TemporaryDirectory() as directory, SqliteEngine(directory) as engine:
        for file, is_empty in files.items():
            (Path(directory) / file).write_bytes(b"" if is_empty else b"not a database")
        absent = engine.absent([ALICE, BOB, EVE])
        assert EVE in absent
        assert all(engine.inspect(name) == "new" for name in absent)


def test_a_look_at_many_finds_those_that_are_stored(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path / "data") as engine:
        event = NewEvent(type="T", data=msgspec.Raw(b"1"), timestamp="2024-01-01T00:00:00Z")
        engine.open(BOB).append([event])
        findings = look_at(engine, iter([ALICE, BOB]))
    assert findings.tenants == {ALICE: "new", BOB: "ready"}
    assert list(findings.tenants) == [ALICE, BOB]


@pytest.mark.parametrize("leftover", ["alice.db-wal", "alice.db-journal"])
def test_a_look_at_many_finds_a_journal_without_its_file(tmp_path: Path, leftover: str) -> None:
    (tmp_path / leftover).write_bytes(b"x")
    with SqliteEngine(tmp_path) as engine:
        findings = look_at(engine, [ALICE, BOB])
    [refusal] = findings.refusals
    assert leftover in refusal


def make_nothing(place: Path) -> None:
    """The first tenant makes the directory."""


@pytest.mark.parametrize(
    ("make", "absent"), [(make_nothing, {ALICE}), (Path.mkdir, {ALICE}), (Path.touch, set())]
)
def test_what_is_no_directory_leaves_everybody_to_a_closer_look(
    tmp_path: Path, make: Callable[[Path], None], absent: set[TenantName]
) -> None:
    make(tmp_path / "data")
    with SqliteEngine(tmp_path / "data") as engine:
        assert engine.absent([ALICE]) == absent


def test_a_name_that_is_too_long_is_not_absent_but_refused(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path, limits=Limits(max_tenant_name_chars=3)) as engine:
        findings = look_at(engine, [ALICE, BOB])
    assert findings.tenants == {BOB: "new"}
    assert len(findings.refusals) == 1


def test_an_engine_says_by_its_type_that_it_can_tell(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path) as engine:
        assert isinstance(engine, SupportsAbsent)
