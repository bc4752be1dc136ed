"""What many have cause to write into the log at the same moment."""

from __future__ import annotations

import logging

import pytest

from ebus.core.errors import StoreUnavailable
from ebus.http.outage import Outage
from ebus.http.problems import problem_of
from ebus.http.repeats import EVERY_S, MAX_LINES, Repeats


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_same_line_is_written_now_and_then_and_says_how_often_it_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    repeats = Repeats(logging.getLogger("ebus.http"), clock=clock)
    for _ in range(30):
        repeats.warn("the cluster is away")
    repeats.warn("the disk is full")
    clock.now_s += EVERY_S
    for _ in range(2):
        repeats.warn("the cluster is away")
    clock.now_s += 10 * EVERY_S
    repeats.warn("the disk is full")
    assert caplog.messages == [
        "the cluster is away",
        "the disk is full",
        "the cluster is away [and 29 times more before]",
        "the disk is full",
    ]


def test_of_many_lines_the_oldest_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(logging.getLogger("ebus.http"), clock=Clock())
    lines = [f"{number}" for number in range(MAX_LINES + 1)]
    for line in [*lines, lines[-1], lines[1], lines[0]]:
        repeats.warn(line)
    assert caplog.messages == [*lines, lines[0]]


def test_a_store_that_is_away_is_said_once_however_many_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(100):
        assert problem_of(StoreUnavailable("all are refused")).status == 503
        Outage().pause_s(StoreUnavailable("all have to wait"))
    assert len(caplog.messages) == 2
