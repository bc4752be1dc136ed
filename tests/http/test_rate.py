"""Buckets: what fits at once, what leaks away, and what has to wait."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.config import Rate
from ebus.http import rate
from ebus.http.rate import Buckets


class Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate, "time", clock)
    return clock


def test_a_burst_fits_at_once_and_then_one_each_interval(clock: Clock) -> None:
    buckets, ten_a_second = Buckets(1), Rate(10.0, 4)
    assert [buckets.take(0, ten_a_second) for _ in range(4)] == [0] * 4
    assert buckets.take(0, ten_a_second) == pytest.approx(0.1)
    clock.now_s += 0.101
    assert buckets.take(0, ten_a_second) == 0
    assert buckets.take(0, ten_a_second) > 0
    clock.now_s += 3_600  # a long rest saves up no more than a burst
    assert [buckets.take(0, ten_a_second) for _ in range(5)].count(0) == 4


def test_what_is_refused_is_not_counted(clock: Clock) -> None:
    buckets, one_a_second = Buckets(1), Rate(1.0, 1)
    assert buckets.take(0, one_a_second) == 0
    assert {buckets.take(0, one_a_second) for _ in range(100)} == {1.0}
    clock.now_s += 1
    assert buckets.take(0, one_a_second) == 0


def test_an_amount_is_let_in_whole_and_what_it_overdraws_has_to_be_waited_for(
    clock: Clock,
) -> None:
    buckets, ten_a_second = Buckets(1), Rate(10.0, 10)
    assert buckets.take(0, ten_a_second, 50) == 0
    assert buckets.take(0, ten_a_second, 1) == pytest.approx(4.1)
    clock.now_s += 4.1 + 1e-6
    assert buckets.take(0, ten_a_second, 50) == 0


def test_each_bucket_is_its_own(clock: Clock) -> None:
    buckets, one_a_second = Buckets(2), Rate(1.0, 1)
    assert buckets.take(0, one_a_second) == 0
    assert buckets.take(0, one_a_second) > 0
    assert buckets.take(1, one_a_second) == 0


@given(
    per_second=st.floats(0.01, 1_000),
    burst=st.integers(1, 50),
    pauses_s=st.lists(st.floats(0, 5), max_size=200),
)
def test_no_more_is_let_in_than_the_burst_and_what_leaks_away(
    per_second: float, burst: int, pauses_s: list[float]
) -> None:
    clock, buckets = Clock(), Buckets(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate, "time", clock)
        begun_s, taken = clock.now_s, 0
        for pause_s in pauses_s:
            clock.now_s += pause_s
            taken += buckets.take(0, Rate(per_second, burst)) == 0
        assert taken <= burst + (clock.now_s - begun_s) * per_second + 1e-6


def test_processes_that_were_forked_count_together() -> None:
    buckets, one_an_hour = Buckets(1), Rate(1 / 3_600, 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if buckets.take(0, one_an_hour) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert buckets.take(0, one_an_hour) > 0


def test_what_was_used_up_is_remembered_for_as_long_as_it_counts(clock: Clock) -> None:
    buckets, one_an_hour = Buckets(1), Rate(1 / 3_600, 1)
    assert buckets.take(0, one_an_hour) == 0
    for _ in range(11):
        clock.now_s += 301
        assert buckets.take(0, one_an_hour) > 0
    clock.now_s += 301
    assert buckets.take(0, one_an_hour) == 0
