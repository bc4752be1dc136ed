"""Where simulated disks keep their files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.torture.small_disk import MAX_SHARED_MEMORY_BYTES, SHARED_MEMORY

NEEDED_BYTES = MAX_SHARED_MEMORY_BYTES
"""Ten times what a test has there at most."""

_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def memory_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory for simulated disks, in memory if the system has room there.

    What is durable, and when, only the simulation says. Its files stand for what a system has in
    its page cache; that a real disk syncs and removes them too proves nothing, and takes up to
    two thirds of a test's time. What is left of a test that fails stays there.
    """
    if not _has_room_in_memory():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="ebus-simulated-disk-", dir=SHARED_MEMORY))
    yield path
    if request.node.stash.get(_PASSED, False):
        shutil.rmtree(path)


def _has_room_in_memory() -> bool:
    """A small /dev/shm is left to `small_disk`, which fills it up."""
    if not SHARED_MEMORY.is_dir():
        return False
    usage = shutil.disk_usage(SHARED_MEMORY)
    return usage.total > MAX_SHARED_MEMORY_BYTES and usage.free > NEEDED_BYTES
