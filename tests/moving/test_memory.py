"""Moving takes the same memory for a long log as for a short one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Raw

from ebus.backends.sqlite import SqliteEngine
from ebus.core.event import NewEvent

EVENTS = 200_000
MAX_GROWTH_KIB = 12 * 1_024
"""The file has 40 MiB as lines."""

MEASURED = """
import re, sys
from functools import partial
from ebus.cli import main, places
places.open_engine = partial(places.open_engine, durability="normal")  # to wait for no disk
name = sys.argv[1]
for command in (
    ["export", "sqlite:data", f"{name}.zst", "--tenant", name],
    ["import", f"{name}.zst", "sqlite:other", "--tenant", name],
    ["copy", "sqlite:data", "sqlite:other", "--tenant", name],
):
    main([*command, "--quiet"], standalone_mode=False)
    # Not by getrusage: that has the peak of the process which has forked this one, too.
    print(*re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("memory")
    with SqliteEngine(directory / "data", durability="normal") as engine:
        for name, count in (("short", 10_000), ("long", EVENTS)):
            store = engine.open(name)
            for first in range(0, count, 1_000):
                store.append(
                    [
                        NewEvent("T", Raw(b'{"number":%d,"x":"%b"}' % (at, b"x" * 100)))
                        for at in range(first, first + 1_000)
                    ]
                )
    return directory


def peaks_kib(directory: Path, tenant: str) -> list[int]:
    """What the process has taken at most, after each command."""
    command = [sys.executable, "-c", MEASURED, tenant]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return list(map(int, run.stdout.split()))


def test_memory_is_flat(data: Path) -> None:
    short, long = peaks_kib(data, "short"), peaks_kib(data, "long")
    assert len(short) == len(long) == 3
    for little, much in zip(short, long, strict=True):
        assert much - little < MAX_GROWTH_KIB, (short, long)
    assert (data / "long.zst").stat().st_size > 100_000
