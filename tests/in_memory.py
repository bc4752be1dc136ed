"""Temporary directories in memory, for tests that are about no disk.

A tenant's file that is made durably costs several syncs, and a test of a server makes some. What
a disk is the subject of stays on one: most of tests/backends, tests/torture, tests/cli, and
tests/benchmarks.
A package of tests has its directories here when its conftest has `tmp_path_factory` from here, and
a module when it has.

What a run leaves that fails, or that is killed, takes memory, and goes when the next one begins.
"""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 2 * 1024**3
"""Twice what all tests have there at once, in two processes."""

PREFIX = "ebus-test-run-"


@pytest.fixture(scope="session")
def tmp_path_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.TempPathFactory]:
    """What `tmp_path` comes from too. Where the system has no room in memory, it is on disk."""
    if not has_room(SHARED_MEMORY):
        yield tmp_path_factory
        return
    with own_directory(SHARED_MEMORY) as directory:
        in_memory = copy.copy(tmp_path_factory)
        in_memory._basetemp = directory
        yield in_memory
        if not request.session.testsfailed:
            shutil.rmtree(directory)


def has_room(place: Path) -> bool:
    if not place.is_dir():
        return False
    remove_abandoned(place)
    return shutil.disk_usage(place).free >= NEEDED_BYTES


@contextmanager
def own_directory(place: Path) -> Iterator[Path]:
    """A new one, which is locked meanwhile. The system ends the lock with the process, too."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        with _locked(directory) as is_ours:
            if not is_ours:  # another process took it for abandoned before it was locked
                continue
            yield directory
            return


def remove_abandoned(place: Path) -> None:
    """Remove what is left of processes that have ended."""
    for directory in place.glob(f"{PREFIX}*"):
        with _locked(directory) as is_ours:
            if is_ours:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Whether it is there, and nobody else has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it is gone, or somebody else's
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_ours = False
    else:
        is_ours = directory.is_dir()
    try:
        yield is_ours
    finally:
        os.close(descriptor)
