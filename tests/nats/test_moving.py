"""A server that is of no use is left for another one, and for it again when there is none."""

from __future__ import annotations

from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from ebus.backends.jetstream import moving
from ebus.backends.jetstream.moving import MOVE_AFTER_S, PAUSE_S, Moving


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(moving, "time", clock)
    return clock


def server(name: str, *, failures: int = 0) -> Server:
    return Server(uri=urlparse(f"nats://{name}:4222"), reconnects=failures)


def test_it_is_time_to_go_when_nothing_has_been_stored_for_a_while(clock: Clock) -> None:
    at = Moving()
    assert not at.failed("store")
    clock.now_s += MOVE_AFTER_S
    at.succeeded("ask")
    assert at.failed("store")
    at.succeeded("store")
    assert not at.failed("store")


def test_what_fails_everywhere_is_less_and_less_of_a_reason_to_go(clock: Clock) -> None:
    at = Moving()
    times = []
    for _ in range(3):
        at.failed("a stream")
        begun_s = clock.now_s
        while not at.failed("a stream"):
            clock.now_s += 1
            at.succeeded("another")
        times.append(clock.now_s - begun_s)
        at.leave("a:4222")
        at.arrived()
    assert times == [MOVE_AFTER_S, 2 * MOVE_AFTER_S, 4 * MOVE_AFTER_S]
    at.succeeded("a stream")
    at.failed("a stream")
    clock.now_s += MOVE_AFTER_S
    assert at.failed("a stream")


def test_who_stores_nothing_is_not_well_but_who_has_not_tried_for_long_may_be(
    clock: Clock,
) -> None:
    at = Moving()
    seen = []
    for passed_s in (0.0, MOVE_AFTER_S):
        clock.now_s += passed_s
        at.failed("store")
        seen.append(at.stores_nothing)
    at.leave("a:4222")
    seen.append(at.stores_nothing)
    clock.now_s += moving.OF_LATE_S
    seen.append(at.stores_nothing)
    assert seen == [False, True, True, False]


def test_a_server_that_was_left_is_gone_back_to_only_when_the_others_fail(clock: Clock) -> None:
    at = Moving()
    at.leave("a:4222")
    a, b = server("a"), server("b")
    assert {at.next_server([a, b], {})[0].uri.hostname for _ in range(50)} == {"b"}
    b = server("b", failures=1)
    chosen = [at.next_server([a, b], {}) for _ in range(50)]
    assert {it.uri.hostname for it, _ in chosen} == {"a", "b"}
    assert {pause_s for _, pause_s in chosen} == {PAUSE_S}
    at.arrived()
    assert at.next_server([a, b], {}) == (a, 0.0)
