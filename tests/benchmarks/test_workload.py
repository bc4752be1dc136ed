"""The workload is the same in every run, and what it says it is."""

from __future__ import annotations

from collections import Counter

import msgspec

from benchmarks.workload import (
    append_requests,
    batch_requests,
    choose_by_zipf,
    choose_evenly,
    make_events,
    make_tenants,
    range_requests,
)
from ebus import Limits, NewEvent
from ebus.core.event import check_events

TENANTS = make_tenants(100)


def test_the_same_events_and_tenants_are_made_every_time() -> None:
    assert make_events(50) == make_events(50)
    assert make_tenants(50) == TENANTS[:50]
    assert len({tenant.api_key for tenant in TENANTS}) == 100


def test_an_event_is_valid_and_has_about_a_hundred_bytes() -> None:
    check_events(make_events(1_000), Limits())
    sizes = [len(msgspec.json.encode(event)) for event in make_events(1_000)]
    assert 100 <= min(sizes) <= max(sizes) <= 125


def test_as_many_events_are_made_as_are_asked_for() -> None:
    assert [len(make_events(count)) for count in (1, 999, 1_000, 2_500)] == [1, 999, 1_000, 2_500]


def test_an_even_choice_favours_nobody_and_zipf_favours_the_first() -> None:
    even = Counter(tenant.name for tenant in choose_evenly(TENANTS, 20_000))
    zipf = Counter(tenant.name for tenant in choose_by_zipf(TENANTS, 20_000))
    assert max(even.values()) < 2 * min(even.values())
    assert zipf[TENANTS[0].name] > 5 * zipf[TENANTS[9].name] > 25 * zipf[TENANTS[99].name]


def test_every_part_of_a_choice_is_another() -> None:
    assert choose_by_zipf(TENANTS, 100) == choose_by_zipf(TENANTS, 100)
    assert choose_by_zipf(TENANTS, 100, part=1) != choose_by_zipf(TENANTS, 100)


def test_a_batch_has_its_size_in_one_line() -> None:
    for request in batch_requests(TENANTS[0], 10, distinct=3):
        assert request.events == 10
        assert len(msgspec.json.decode(request.body, type=list[NewEvent])) == 10
        assert b"\n" not in request.body


def test_an_append_carries_the_key_of_its_tenant() -> None:
    assert [request.key for request in append_requests(TENANTS)] == [
        tenant.api_key for tenant in TENANTS
    ]


def test_ranges_lie_within_the_log() -> None:
    ranges = {request.path for request in range_requests(TENANTS[0], 100, 102)}
    assert ranges == {f"/events?from={first}&to={first + 99}" for first in (1, 2, 3)}
