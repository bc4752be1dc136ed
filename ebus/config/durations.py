"""Durations as Go writes them: `30s`, `1m30s`, `1.5h`."""

from __future__ import annotations

import re
from fractions import Fraction

from ebus.config.mistakes import Wrong

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}

MAX_DURATION_NS = 2**63 - 1
"""Go's own bound, about 292 years."""

_PART = re.compile(rf"([0-9]{{1,19}}(?:\.[0-9]{{0,19}})?|\.[0-9]{{1,19}})({'|'.join(_UNITS_NS)})")
_DURATION = re.compile(rf"\+?(?:{_PART.pattern})+")
_BARE_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def parse_duration(text: str) -> float:
    """Seconds, more than 0. Reads what Go's `time.ParseDuration` reads; raises `Wrong`."""
    if _BARE_NUMBER.fullmatch(text):
        raise Wrong("has no unit", write=f"{text}s")
    if not _DURATION.fullmatch(text):
        raise Wrong("is no duration more than 0, such as 30s, 500ms or 1m30s")
    nanoseconds = sum(Fraction(number) * _UNITS_NS[unit] for number, unit in _PART.findall(text))
    if nanoseconds < 1:
        raise Wrong("is no duration more than 0, such as 30s, 500ms or 1m30s")
    if nanoseconds > MAX_DURATION_NS:
        raise Wrong("is more than 292 years, the longest duration there is")
    return float(nanoseconds / 1_000_000_000)
