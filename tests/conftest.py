"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebus.testing import load_profile

ROOT = Path(__file__).resolve().parent.parent

load_profile()


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
