"""Temporary directories in memory, for tests that are about no disk.

A tenant's file that is made durably costs several syncs, and a test of a server makes some. What
a disk is the subject of stays on one: most of tests/backends, tests/torture, tests/cli, and
tests/benchmarks.
A package of tests has its directories here when its conftest has `tmp_path_factory` from here, and
a module when it has.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "ebus-tests-"
"""What comes behind is the process: what it leaves, as when a test fails, the next run removes."""

NEEDED_BYTES = 2 * 1024**3
"""Twice what all tests have there at once, in two processes."""


@pytest.fixture(scope="session")
def tmp_path_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.TempPathFactory]:
    """What `tmp_path` comes from too. Where the system has no room in memory, it is on disk."""
    if not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free < NEEDED_BYTES:
        yield tmp_path_factory
        return
    for left in SHARED_MEMORY.glob(f"{PREFIX}*-*"):
        if not Path("/proc", left.name.removeprefix(PREFIX).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=SHARED_MEMORY))
    in_memory = copy.copy(tmp_path_factory)
    in_memory._basetemp = directory
    yield in_memory
    if not request.session.testsfailed:
        shutil.rmtree(directory)
