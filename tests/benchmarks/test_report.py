"""The page says what the figures say, and is the same for the same figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.bounds import BOUNDS, judge
from benchmarks.plots import PLOTS
from benchmarks.record import (
    FORMAT,
    Figure,
    Machine,
    Record,
    Result,
    Spread,
    decode_record,
    encode_record,
)
from benchmarks.report import write_report
from benchmarks.scale import SHORT, TINY
from benchmarks.suite import run
from benchmarks.table import number
from tests.conftest import ROOT

NOWHERE = Machine("a CPU", 2, 2**30, "a kernel", "ext4 (rw)", "/")


def record_of(results: dict[str, Result]) -> Record:
    return Record(
        format=FORMAT,
        scale=SHORT,
        begun="2024-01-01T00:00:00+00:00",
        seconds=60,
        commit="0" * 40,
        dirty=False,
        machine=NOWHERE,
        versions={"python": "3.11"},
        results=results,
    )


def everything(share: float) -> Record:
    """A record in which each bound is met `share` times over."""
    results: dict[str, Result] = {}
    for bound in BOUNDS:
        ratio = bound.bound * (share if bound.kind == "at least" else 1 / share)
        result = results.setdefault(bound.case, Result())
        floor = result.figures.setdefault(bound.over, Figure("requests/s", [90, 100, 110]))
        rounds = [value * ratio for value in floor.rounds]
        result.figures[bound.figures[0]] = Figure("requests/s", rounds)
    return record_of(results)


def page_of(record: Record, docs: Path) -> str:
    docs.mkdir(exist_ok=True)
    write_report(record, docs)
    return (docs / "benchmarks.md").read_text()


@pytest.mark.parametrize(("share", "met"), [(1.1, True), (0.9, False)])
def test_every_bound_is_met_or_not_as_measured(share: float, met: bool) -> None:
    assert [verdict.met for verdict in judge(everything(share))] == [met] * len(BOUNDS)


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    result = Result({"a": Figure("ms", [1, 6, 3]), "b": Figure("ms", [1, 2, 3])})
    assert result.ratio("a", "b") == Spread(1, 1, 3)
    assert result.ratio("a", "c") is None


def test_of_several_figures_the_best_counts() -> None:
    [bound] = [bound for bound in BOUNDS if bound.case == "workers"]
    figures = {name: Figure("events/s", [at]) for at, name in enumerate(bound.figures, 1)}
    result = Result({bound.over: Figure("requests/s", [1]), **figures})
    [verdict] = [it for it in judge(record_of({"workers": result})) if it.bound is bound]
    assert verdict.figure == bound.figures[-1]


def test_the_page_has_a_line_for_every_bound(tmp_path: Path) -> None:
    page = page_of(everything(1.1), tmp_path)
    for bound in BOUNDS:
        [line] = [line for line in page.splitlines() if line.startswith(f"| {bound.says} |")]
        assert line.endswith("| yes |")


def test_a_bound_that_was_not_measured_says_why(tmp_path: Path) -> None:
    reason = "`ebus serve` has no `--workers`"
    skipped = Result(skipped={"append, 128 connections, 1 worker": reason})
    page = page_of(record_of({"workers": skipped}), tmp_path)
    assert f"at least 0.9 | {reason} | - |" in page
    assert "at least 4 | not in this run | - |" in page


def test_a_line_of_the_full_run_shows_what_the_short_run_has_instead(tmp_path: Path) -> None:
    sizes = {"append, 10,000": [100.0], "append, 1,000,000": [95.0]}
    figures = {name: Figure("events/s", rounds) for name, rounds in sizes.items()}
    page = page_of(record_of({"growth": Result(figures)}), tmp_path)
    instead = "only in the full run; for append, 1,000,000: 0.95 (0.95 to 0.95)"
    assert f"at least 0.9 | {instead} | - |" in page


def test_a_figure_stands_beside_its_floor(tmp_path: Path) -> None:
    figures = {
        "bare, 32 connections": Figure("requests/s", [100]),
        "append, full, 32 connections": Figure("events/s", [60]),
    }
    page = page_of(record_of({"http_append": Result(figures)}), tmp_path)
    assert "| append, full, 32 connections | 60 (60 to 60) events/s | 0.6 |" in page


def test_the_same_figures_give_the_same_page_and_plots(tmp_path: Path) -> None:
    figures = [everything(1.1), decode_record(encode_record(everything(1.1)))]
    for at, record in enumerate(figures):
        page_of(record, tmp_path / str(at))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / at).rglob("*.*")} for at in "01"
    )
    assert first == second
    assert {f"{name}.svg" for name in PLOTS} - {"latency.svg"} <= set(first)
    assert not any(b"dc:date" in drawn for drawn in first.values())


def test_the_page_in_the_docs_is_that_of_the_figures_beside_it(tmp_path: Path) -> None:
    figures = ROOT / "docs" / "benchmarks" / "figures.json"
    page = ROOT / "docs" / "benchmarks.md"
    assert figures.exists() == page.exists()
    if figures.exists():
        assert page_of(decode_record(figures.read_bytes()), tmp_path) == page.read_text()


def test_figures_of_another_format_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_bytes(encode_record(record_of({})).replace(b'"format": 1', b'"format": 0'))
    result = CliRunner().invoke(main, ["report", str(file), "--docs", str(tmp_path)])
    assert result.exit_code == 1
    assert "format 0" in result.output


def test_a_run_says_where_and_with_what_it_took_place(tmp_path: Path) -> None:
    record = run(TINY, ["engine_read"], tmp_path, say=lambda _: None)
    assert record.machine.cpu
    assert record.machine.file_system
    assert all(record.versions.values())
    assert set(record.versions) >= {"python", "ebus", "sqlite", "apsw", "uvloop", "wrk"}
    assert list(record.results) == ["engine_read"]
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_fails_leaves_the_others_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # so that there is no wrk
    record = run(TINY, ["http_mixed", "engine_read"], tmp_path, say=lambda _: None)
    assert "wrk" in record.results["http_mixed"].failure
    assert record.results["engine_read"].figures
    assert "Failed: wrk is not installed" in page_of(record, tmp_path / "docs")


def test_the_commands_measure_and_make_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.__main__.SHORT", TINY)
    file = tmp_path / "new" / "figures.json"
    measured = CliRunner().invoke(main, ["run", "--only", "engine_read", "--json", str(file)])
    assert measured.exit_code == 0, measured.output
    assert "in-process read of 10,000 to JSON bytes, over rows | at least 4 |" in measured.output
    reported = CliRunner().invoke(main, ["report", str(file), "--docs", str(tmp_path)])
    assert reported.exit_code == 0, reported.output
    assert "### engine_read" in (tmp_path / "benchmarks.md").read_text()


def test_the_command_fails_when_a_case_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.__main__.SHORT", TINY)
    monkeypatch.setenv("PATH", "")  # so that there is no wrk
    measured = CliRunner().invoke(main, ["run", "--only", "http_mixed"])
    assert measured.exit_code == 1
    assert "no figures of http_mixed" in measured.output


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0, 0.01234, 1.234, 56.78, 1234.5, 987_654)] == [
        "0",
        "0.0123",
        "1.23",
        "56.8",
        "1,230",
        "988,000",
    ]
