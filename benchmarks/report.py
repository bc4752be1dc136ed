"""The page of the figures: `docs/benchmarks.md`, made from the record of one run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bounds import judge
from benchmarks.cases import CASES
from benchmarks.plots import PLOTS, draw
from benchmarks.record import Record, Result
from benchmarks.table import number, quantity, verdict_lines

PAGE = "benchmarks.md"
PLOTS_DIRECTORY = "benchmarks"

FLOORS = ("bare", "rows", "writes")


def write_report(record: Record, docs: Path) -> None:
    """Write the page into `docs`, and its plots into a directory there."""
    plots = docs / PLOTS_DIRECTORY
    plots.mkdir(exist_ok=True)
    for earlier in plots.glob("*.svg"):
        earlier.unlink()
    drawn = [name for name in PLOTS if draw(name, record, plots / f"{name}.svg")]
    (docs / PAGE).write_text("\n".join(page(record, drawn)) + "\n")


def page(record: Record, drawn: list[str]) -> Iterator[str]:
    """The lines of the page, with the plots that were drawn."""
    yield "# Benchmarks"
    yield ""
    yield "<!-- Made by `make bench-report`; changes to this file are lost. -->"
    yield ""
    yield from _introduction(record)
    yield ""
    yield "## Must show"
    yield ""
    yield "Each ratio is the median of the ratios of the rounds, with the least and the most."
    yield ""
    yield from verdict_lines(judge(record))
    yield ""
    for name in drawn:
        yield f"![{PLOTS[name].title}]({PLOTS_DIRECTORY}/{name}.svg)"
        yield ""
    yield "## Figures"
    yield ""
    yield "Medians of the rounds, with the least and the most. *Over bare* and *over rows* are"
    yield "medians of the ratios of the rounds; where events are counted, they say how many for"
    yield "each request of the bare server."
    for name, result in record.results.items():
        yield ""
        yield from _case(name, result)
    yield ""
    yield from _conditions(record)


def _introduction(record: Record) -> Iterator[str]:
    scale = record.scale
    command = "make bench-full" if scale.name == "full" else "make bench"
    yield f"Measured on {record.begun[:10]} at commit `{record.commit[:12] or 'none'}`" + (
        ", with changes that are in no commit," if record.dirty else ""
    )
    yield f"by `{command}`: {scale.rounds} rounds of at least {scale.seconds:g} s each, in which"
    yield "what is compared takes turns."
    yield ""
    yield "What one machine does says little about another. So beside every figure stands a floor,"
    yield "measured in the same rounds, and what counts is the ratio:"
    yield ""
    yield "- **bare**: the ASGI server of ebus with nothing behind it but 100 fixed bytes, at the"
    yield "  same number of connections, asked by `GET /`."
    yield "- **rows**: SQLite with a row for each event and the same pragmas; `executemany` in,"
    yield "  `SELECT` and msgspec out, in process, nothing checked."
    yield "- **writes**: one loop that writes an event to every follower's socket, and does nothing"
    yield "  else."
    yield ""
    yield "An event is an order of about 115 bytes of JSON. The load comes from wrk with one thread"
    yield "on the same machine; any answer but 200 and any broken connection is an error of the"
    yield "run. What was acknowledged is counted against what is stored after each load. Servers"
    yield "have `durability: full` unless it is said otherwise."


def _case(name: str, result: Result) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    measure = CASES.get(name)
    if measure is not None:
        yield (sys.modules[measure.__module__].__doc__ or "").strip()
        yield ""
    if result.figures:
        yield from _table(result)
    if result.failure:
        yield f"Failed: {result.failure}"
    for figure_name, reason in result.skipped.items():
        yield f"- {figure_name}: not measured, {reason}."


def _table(result: Result) -> Iterator[str]:
    """A line for each figure, with its ratio to the floors that were measured with it."""
    names = list(result.figures)
    floors = [floor for floor in FLOORS if any(result.floor(name, floor) for name in names)]
    yield _row(["", "measured", *(f"over {floor}" for floor in floors)])
    yield _row(["---"] * (2 + len(floors)))
    for name, figure in result.figures.items():
        over_floors = [_over_floor(result, name, floor) for floor in floors]
        yield _row([name, quantity(figure.spread, figure.unit), *over_floors])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _over_floor(result: Result, name: str, floor: str) -> str:
    found = result.floor(name, floor)
    ratio = found and result.ratio(name, found)
    return number(ratio.median) if ratio else ""


def _conditions(record: Record) -> Iterator[str]:
    machine = record.machine
    yield "## Where and with what"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| CPU | {machine.cpus} × {machine.cpu} |"
    yield f"| memory | {machine.memory_bytes / 2**30:.0f} GiB |"
    yield f"| kernel | {machine.kernel} |"
    yield f"| file system | {machine.file_system} |"
    yield f"| took | {record.seconds / 60:.0f} minutes |"
    for name, version in record.versions.items():
        yield f"| {name} | {version} |"
