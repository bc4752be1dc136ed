"""Durations are read as Go reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.config.durations import MAX_DURATION_NS, parse_duration
from ebus.config.mistakes import Wrong

UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("+5s", 5),
        ("1h1m1s1ms1us1ns", 3661.001001001),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("1ns", 1e-9),
        ("0h30s", 30),
        ("30s1h", 3630),
        ("007s", 7),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0s", "-5s", "-0.5s", "0.5ns", "s", ".s", "+", "+-5s", "5 s", " 5s", "5s "),
        *("5s\n", "5S", "5sec", "5d", "1e3s", "1_0s", "nan", "NaNs", "inf", "infs", "٣s"),
        *("1m30", "1,5s", "0x5s", "--5s", "1.2.3s", "5s-3s"),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Wrong, match="is no duration more than 0"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2562048h", "2562047h47m16.854775808s", "9" * 19 + "h"])
def test_what_go_cannot_hold_is_too_long(text: str) -> None:
    with pytest.raises(Wrong, match="is more than 292 years"):
        parse_duration(text)


def test_a_bare_number_is_told_with_its_unit() -> None:
    with pytest.raises(Wrong, match="has no unit") as caught:
        parse_duration("30")
    assert caught.value.write == "30s"


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from([*UNITS_NS])), min_size=1))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    total_ns = sum(number * UNITS_NS[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if 0 < total_ns <= MAX_DURATION_NS:
        assert parse_duration(text) == pytest.approx(total_ns / 10**9, rel=1e-12)
    else:
        with pytest.raises(Wrong):
            parse_duration(text)


@given(st.text() | st.from_regex(r"[-+]?([0-9.]*[a-zµ]*){1,5}"))
def test_a_duration_is_finite_and_more_than_0_or_wrong(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except Wrong:
        return
    assert math.isfinite(seconds)
    assert seconds > 0
