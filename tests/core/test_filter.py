"""Filters by themselves: what they match, and which there can be."""

from __future__ import annotations

from typing import Any

import pytest

from ebus.core.errors import InvalidFilter
from ebus.core.event import NewEvent
from ebus.core.filter import Filter, check_filter
from ebus.core.limits import Limits
from ebus.testing.filters import BAD_FILTERS

A = NewEvent.of("A", 1, stream="s-1")
PLAIN = NewEvent.of("A", 1)


@pytest.mark.parametrize(
    ("conditions", "matches_stream", "matches_plain"),
    [
        ({}, True, True),
        ({"types": ("A",)}, True, True),
        ({"types": ("B", "A")}, True, True),
        ({"types": ("B", "a")}, False, False),
        ({"stream": "s-1"}, True, False),
        ({"stream": "s"}, False, False),
        ({"stream_prefix": ""}, True, False),
        ({"stream_prefix": "s-"}, True, False),
        ({"stream_prefix": "s-1"}, True, False),
        ({"stream_prefix": "s-1 "}, False, False),
        ({"stream": "s-1", "stream_prefix": "t"}, False, False),
        ({"types": ("A",), "stream": "s-1", "stream_prefix": "s"}, True, False),
        ({"types": ("B",), "stream": "s-1"}, False, False),
        ({"stream": "s-1", "from_version": 3}, True, False),
        ({"stream": "s-1", "from_version": 4}, False, False),
        ({"stream": "s-1", "to_version": 3}, True, False),
        ({"stream": "s-1", "to_version": 2}, False, False),
        ({"stream": "s-1", "from_version": 3, "to_version": 3}, True, False),
    ],
    ids=str,
)
def test_a_filter_matches_what_fulfils_every_condition(
    conditions: dict[str, Any], matches_stream: bool, matches_plain: bool
) -> None:
    wanted = Filter(**conditions)
    check_filter(wanted, Limits())
    assert wanted.matches(A, 3) is matches_stream
    assert wanted.matches(PLAIN, None) is matches_plain


def test_when_an_event_was_recorded_is_not_looked_at_in_it() -> None:
    wanted = Filter(since="2024-01-01T00:00:00Z", until="2024-01-01T00:00:01.5+00:00")
    check_filter(wanted, Limits())
    assert wanted.matches(PLAIN, None)
    assert not wanted.looks_at_events
    assert wanted.since_ns == 1_704_067_200_000_000_000
    assert wanted.until_ns == 1_704_067_201_500_000_000
    assert (Filter().since_ns, Filter().until_ns) == (None, None)


@pytest.mark.parametrize(
    "wanted", [Filter(types=("A",)), Filter(stream="s"), Filter(stream_prefix="")], ids=str
)
def test_what_is_in_an_event_has_to_be_looked_at(wanted: Filter) -> None:
    assert wanted.looks_at_events


@pytest.mark.parametrize("wanted", BAD_FILTERS.values(), ids=BAD_FILTERS)
def test_a_bad_filter_is_refused(wanted: Filter) -> None:
    with pytest.raises(InvalidFilter):
        check_filter(wanted, Limits())


def test_the_bounds_of_names_are_those_of_events() -> None:
    limits = Limits(max_type_chars=3, max_stream_chars=4)
    check_filter(Filter(types=("abc",), stream="abcd", stream_prefix="abcd"), limits)
    for wanted in (Filter(types=("abcd",)), Filter(stream="abcde"), Filter(stream_prefix="abcde")):
        with pytest.raises(InvalidFilter, match="at most"):
            check_filter(wanted, limits)
