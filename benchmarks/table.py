"""Figures and verdicts as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bounds import Verdict
from benchmarks.record import Spread, Unit


def number(value: float) -> str:
    """Three digits or more: 0.0123, 1.23, 12.3, 1,230."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{round(value, 3 - len(str(int(abs(value))))):,.0f}"
    return f"{value:.3g}"


def spread(value: Spread) -> str:
    """The median, and in brackets the least and the most."""
    return f"{number(value.median)} ({number(value.least)} to {number(value.most)})"


def quantity(value: Spread, unit: Unit) -> str:
    return f"{spread(value)} {unit}"


def verdict_lines(verdicts: list[Verdict]) -> Iterator[str]:
    """The table of what must be shown, in Markdown."""
    yield "| figure | bound | measured | met |"
    yield "| --- | --- | --- | --- |"
    for verdict in verdicts:
        bound = verdict.bound
        measured = verdict.reason if verdict.ratio is None else spread(verdict.ratio)
        if verdict.instead is not None:
            measured += f"; for {verdict.figure}: {spread(verdict.instead)}"
        if len(bound.figures) > 1 and verdict.ratio is not None:
            measured += f": {verdict.figure}"
        met = {True: "yes", False: "**no**", None: "-"}[verdict.met]
        yield f"| {bound.says} | {bound.kind} {number(bound.bound)} | {measured} | {met} |"
