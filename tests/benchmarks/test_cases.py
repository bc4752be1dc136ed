"""Every benchmark runs, tiny: it finds its answers right and gives figures, whatever they are."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import pytest

from benchmarks.cases import CASES
from benchmarks.scale import TINY


@pytest.mark.parametrize("name", CASES)
def test_a_case_gives_figures(name: str, tmp_path: Path) -> None:
    result = CASES[name](TINY, tmp_path)
    assert result.figures or result.skipped
    for figure in result.figures.values():
        assert len(figure.rounds) == TINY.rounds
        assert all(isfinite(value) and value > 0 for value in figure.rounds)
