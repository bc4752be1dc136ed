"""The plots of the page: SVG that is the same for the same figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.bounds import judge
from benchmarks.record import Figure, Record, Result

SETTINGS: Mapping[Any, Any] = MappingProxyType(
    {
        "svg.hashsalt": "ebus",  # else the ids are drawn by lot
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.figsize": (8.0, 4.5),
        "legend.frameon": False,
    }
)

WITHOUT_DATE = {"Date": None, "Creator": None}


class Plot(msgspec.Struct, frozen=True):
    """What is drawn on one pair of axes, and under which title.

    `draw` says whether the record has anything to draw.
    """

    title: str
    draw: Callable[[Record, Axes], bool]


def draw(name: str, record: Record, path: Path) -> bool:
    """Draw a plot into a file, unless the record has nothing for it; says which."""
    plot = PLOTS[name]
    with mpl.rc_context(dict(SETTINGS)):
        drawing = Drawing(layout="constrained")
        axes = drawing.add_subplot()
        if not plot.draw(record, axes):
            return False
        axes.set_title(plot.title)
        drawing.savefig(path, format="svg", metadata=WITHOUT_DATE)
    return True


def _draw_bounds(record: Record, axes: Axes) -> bool:
    judged = [verdict for verdict in judge(record) if verdict.ratio is not None]
    for verdict in reversed(judged):
        assert verdict.ratio is not None
        share = verdict.ratio.median / verdict.bound.bound
        if verdict.bound.kind == "at most":
            share = 1 / share
        label = verdict.bound.says.replace("`", "")
        axes.barh(
            label if len(label) < 60 else f"{label[:57]}…",
            share - 1,
            left=1,
            color="tab:green" if verdict.met else "tab:red",
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times the bound (right of 1: met)")
    axes.tick_params(axis="y", labelsize=6)
    return bool(judged)


def _draw_append(record: Record, axes: Axes) -> bool:
    result = record.result("http_append")
    return _draw_lines(
        axes,
        {
            name: _family(result, f"{name}, N connections")
            for name in ("bare", "append, normal", "append, full")
        },
        across="connections",
        up="requests/s",
    )


def _draw_throughput(record: Record, axes: Axes) -> bool:
    places = [
        ("engine_commit", ("rows, 1,000", "sqlite, 1,000")),
        ("http_batch", ("append, 1", "append, 10", "append, 100", "append, 1,000")),
        ("engine_read", ("rows, 10,000", "sqlite, 10,000")),
        ("http_range", ("range, 100", "range, 10,000", "stream")),
    ]
    bars = [
        (f"{case}: {name}", figure)
        for case, names in places
        for name in names
        if (figure := record.result(case).figures.get(name))
    ]
    for label, figure in reversed(bars):
        spread = figure.spread
        error = [[spread.median - spread.least], [spread.most - spread.median]]
        floor = ": rows" in label
        axes.barh(label, spread.median, xerr=error, color="silver" if floor else "tab:blue")
    axes.set_xscale("log")
    axes.set_xlabel("events/s")
    return bool(bars)


def _draw_latency(record: Record, axes: Axes) -> bool:
    result = record.result("latency")
    drawn = _draw_lines(
        axes,
        {
            f"{name}, p{percent}": _family(result, f"{name}, N requests/s, p{percent}")
            for name in ("append", "bare")
            for percent in ("50", "99", "99.9")
        },
        across="requests/s",
        up="ms",
    )
    axes.autoscale(axis="y")  # a logarithm has no 0 to begin at
    axes.set_yscale("log")
    return drawn


def _draw_tenants(record: Record, axes: Axes) -> bool:
    return _draw_lines(
        axes,
        {
            "evenly": _family(record.result("tenants_even"), "N tenants"),
            "by Zipf's law": _family(record.result("tenants_zipf"), "N tenants"),
        },
        across="tenants",
        up="appends/s",
        logarithmic=True,
    )


def _draw_growth(record: Record, axes: Axes) -> bool:
    result = record.result("growth")
    families = {name: _family(result, f"{name}, N") for name in ("append", "range")}
    shares = {
        name: {
            size: Figure(
                figure.unit,
                [
                    one / first
                    for one, first in zip(figure.rounds, family[min(family)].rounds, strict=True)
                ],
            )
            for size, figure in family.items()
        }
        for name, family in families.items()
    }
    return _draw_lines(
        axes, shares, across="events in the log", up="over the smallest log", logarithmic=True
    )


def _family(result: Result, pattern: str) -> dict[int, Figure]:
    """The figures whose name is of this pattern, in which N stands for a number, by it."""
    one = pattern.removesuffix("s").replace("N", "1")
    number = re.compile(re.escape(pattern).replace("N", "([0-9,]+)"))
    family = {1: result.figures[one]} if one in result.figures else {}
    for name, figure in result.figures.items():
        if match := number.fullmatch(name):
            family[int(match[1].replace(",", ""))] = figure
    return family


def _draw_lines(
    axes: Axes,
    lines: Mapping[str, Mapping[int, Figure]],
    *,
    across: str,
    up: str,
    logarithmic: bool = False,
) -> bool:
    """A line for each family of figures, from the least to the most of each shaded."""
    drawn = False
    for name, family in lines.items():
        if not family:
            continue
        drawn = True
        numbers: Sequence[int] = sorted(family)
        spreads = [family[number].spread for number in numbers]
        style = "--" if name.startswith("bare") else "-"
        medians = [spread.median for spread in spreads]
        axes.plot(numbers, medians, style, marker="o", label=name)
        axes.fill_between(
            numbers,
            [spread.least for spread in spreads],
            [spread.most for spread in spreads],
            alpha=0.2,
        )
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    if drawn:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return drawn


PLOTS: Mapping[str, Plot] = MappingProxyType(
    {
        "bounds": Plot("How far from the bounds", _draw_bounds),
        "append": Plot("Single appends over HTTP, and the bare server", _draw_append),
        "throughput": Plot("Events in a second", _draw_throughput),
        "latency": Plot("Latency of an append at fixed rates", _draw_latency),
        "tenants": Plot("Single appends over many tenants, 32 connections", _draw_tenants),
        "growth": Plot("Speed as the log grows", _draw_growth),
    }
)
"""Every plot by the name of its file."""
