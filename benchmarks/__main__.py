"""`python -m benchmarks`: run cases, and make the page with their figures."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

import click

from benchmarks.bounds import judge
from benchmarks.cases import CASES
from benchmarks.record import Record, decode_record, encode_record
from benchmarks.report import write_report
from benchmarks.scale import FULL, SHORT
from benchmarks.suite import run as run_suite
from benchmarks.table import quantity, verdict_lines


@click.group()
def main() -> None:
    """The benchmarks of ebus."""


@main.command()
@click.option("--full", is_flag=True, help="Everything, with more rounds: most of an hour.")
@click.option(
    "--only",
    "names",
    type=click.Choice(list(CASES)),
    multiple=True,
    help="Run this case only; may be given several times.",
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the data lies meanwhile: on the disk that is measured.  [default: TMPDIR]",
)
def run(full: bool, names: tuple[str, ...], file: Path | None, directory: Path | None) -> None:
    """Measure, print the figures, and say whether they are what they must be."""
    scale = FULL if full else SHORT
    record = run_suite(scale, names or CASES, directory, say=partial(click.echo, err=True))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_record(record))
    _print(record)
    if failed := [case for case, result in record.results.items() if result.failure]:
        raise click.ClickException(f"no figures of {', '.join(failed)}")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--docs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("docs"),
    show_default=True,
    help="Where the page and its plots go.",
)
def report(file: Path, docs: Path) -> None:
    """Make benchmarks.md and its plots from the figures in FILE."""
    try:
        write_report(decode_record(file.read_bytes()), docs)
    except ValueError as error:
        raise click.ClickException(f"{file}: {error}") from None


def _print(record: Record) -> None:
    for case, result in record.results.items():
        click.echo(case)
        for name, figure in result.figures.items():
            click.echo(f"  {name:45} {quantity(figure.spread, figure.unit)}")
        if result.failure:
            click.echo(f"  failed: {result.failure}")
        for name, reason in result.skipped.items():
            click.echo(f"  {name:45} {reason}")
    click.echo()
    for line in verdict_lines(judge(record)):
        click.echo(line)


if __name__ == "__main__":
    # A `kill` must end the servers too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
