"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebus.testing import load_profile

ROOT = Path(__file__).resolve().parent.parent

LONGEST = tuple(
    ROOT / "tests" / name
    for name in ("torture", "operations/test_scale_out.py", "test_example_engine.py")
)

load_profile()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture",
        type=int,
        metavar="N",
        help="how many times tests/torture breaks things; without it, as often as CI has time for",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, the longest come first.

    One that comes last is waited for while the other processes have nothing left to do.
    """
    if hasattr(config, "workerinput"):  # set by pytest-xdist
        items.sort(key=lambda item: not any(map(item.path.is_relative_to, LONGEST)))


@pytest.fixture(scope="session")
def torture(pytestconfig: pytest.Config) -> int | None:
    """How many times to break things; None for as often as CI has time for."""
    times: int | None = pytestconfig.getoption("--torture")
    return times


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of recorded answers and files of the original server, beside the project.

    A clone by itself does not have it, and skips the tests that read it. CI has it, and must.
    """
    directory = ROOT.parent / "shared"
    if not directory.is_dir():
        message = "needs ../shared: the records of the original server"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return directory
