"""The programs in `examples` run, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> list[str]:
    program = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_example_is_run_here() -> None:
    assert {it.stem for it in EXAMPLES.glob("*.py")} == {
        "in_process",
        "order_service",
        "projection",
    }


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_the_bus_within_one_process(engine: str, tmp_path: Path) -> None:
    assert run("in_process", f"{engine}:{tmp_path / 'log' if engine == 'sqlite' else ''}") == [
        "thank you for A-1",
        "thank you for A-2",
        "large order at position 2",
        "failed: no money to refund A-1",
        "3 events seen",
        "turnover: 27000",
    ]


def test_the_projection_counts_old_and_new_events_once(tmp_path: Path) -> None:
    assert run("projection", str(tmp_path)) == [
        "at position 2: {'ann': 1250, 'ben': 300}",
        "at position 3: {'ann': 1349, 'ben': 300}",
        "at position 3: {'ann': 1349, 'ben': 300}",
    ]


def test_the_order_service_survives_the_death_of_a_process(tmp_path: Path) -> None:
    lines = run("order_service", "--orders", "60", "--url", f"sqlite:{tmp_path / 'log'}")
    assert lines[0].startswith("killed with ")
    assert lines[0].endswith("of 60 orders billed")
    assert lines[1:] == ["60 orders billed, 0 of them twice"]
