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
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
# Not by getrusage: that has the peak of the process which has forked this one, too.
print("", *re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()))
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


def peak_kib(directory: Path, *arguments: str) -> int:
    command = [sys.executable, "-c", MEASURED, *arguments, "--quiet"]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def test_memory_is_flat(data: Path) -> None:
    """One after the other: each needs what the one before has made."""
    commands = {
        "export": ["export", "sqlite:data", "{}.zst", "--tenant", "{}"],
        "import": ["import", "{}.zst", "sqlite:other", "--tenant", "{}"],
        "copy": ["copy", "sqlite:data", "sqlite:other", "--tenant", "{}"],
    }
    for name, command in commands.items():
        short, long = (
            peak_kib(data, *(part.format(tenant) for part in command))
            for tenant in ("short", "long")
        )
        assert long - short < MAX_GROWTH_KIB, name
    assert (data / "long.zst").stat().st_size > 0
