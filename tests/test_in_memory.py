"""Directories of tests in memory: nothing stays there for good."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import in_memory
from tests.conftest import ROOT

_DIES = """
import os, sys
from pathlib import Path
from tests.in_memory import own_directory
with own_directory(Path(sys.argv[1])) as directory:
    (directory / "file").touch()
    os._exit(1)
"""


def test_what_a_killed_run_leaves_goes_with_the_next_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "somebody-elses").mkdir()
    subprocess.run([sys.executable, "-c", _DIES, str(tmp_path)], cwd=ROOT, check=False)
    [left] = tmp_path.glob(f"{in_memory.PREFIX}*")
    with in_memory.own_directory(tmp_path) as own:
        assert (left / "file").exists()
        in_memory.remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([own, tmp_path / "somebody-elses"])
    in_memory.remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "somebody-elses"]


def test_a_directory_that_another_run_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    made: list[str] = []

    def make_and_lose(*, prefix: str, dir: Path) -> str:
        made.append(make(prefix=prefix, dir=str(dir)))
        if len(made) == 1:
            in_memory.remove_abandoned(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with in_memory.own_directory(tmp_path) as own:
        assert [str(own)] == made[1:]
        assert own.is_dir()


def test_where_there_is_little_room_or_none_nothing_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "NEEDED_BYTES", 1)
    assert in_memory.has_room(tmp_path)
    assert not in_memory.has_room(tmp_path / "missing")
    monkeypatch.setattr(in_memory, "NEEDED_BYTES", 2**62)
    assert not in_memory.has_room(tmp_path)
