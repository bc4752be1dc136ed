"""No block of a guide may be left without a test."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.guide.conftest import blocks_read
from tests.guide.markdown import Guide


def assert_every_block_is_read(guide: Guide, tests: Mapping[str, object]) -> None:
    """`tests` are the names of a test module, run or not."""
    marks: list[pytest.Mark] = [
        mark
        for name, test in tests.items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "reads"
    ]
    read = {block for mark in marks for block in blocks_read(guide, mark)}
    left = [f"{guide.place(block)}: {block.text}" for block in guide.blocks if block not in read]
    assert not left, "no test follows:\n" + "\n".join(left)
