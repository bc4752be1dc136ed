"""Leases by themselves: plain data and functions of it, without a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.core import consumers
from ebus.core.consumers import (
    Change,
    Lease,
    Parked,
    Subscription,
    Waiting,
    acknowledge,
    drop_parked,
    extend,
    next_due_ms,
    redeliver_parked,
    release,
)
from ebus.core.errors import InvalidLease, LeaseLost, TooManyParked
from ebus.core.limits import MAX_POSITION, Limits

HEAD = 20
LIMITS = Limits(max_leases=6, max_parked=50)


def lease(**bounds: Any) -> Change:
    usual: dict[str, Any] = {"max_events": 5, "seconds": 60, "max_attempts": 2, "limits": LIMITS}
    return consumers.lease(**usual | bounds)


def after(before: Subscription, *changes: Change, head: int = HEAD) -> Subscription:
    for change in changes:
        before, _ = change(before, head)
    return before


def held(first: int, last: int, **more: Any) -> Lease:
    members = {"attempt": 1, "max_attempts": 2, "expires_at_ms": 2**50} | more
    return Lease(id=f"{first}", first_position=first, last_position=last, **members)


def test_a_change_may_be_tried_more_than_once_with_one_outcome() -> None:
    for change in (lease(), extend("1", 60), release("1", delay_s=5)):
        before = Subscription(frontier=5, leases=(held(1, 5),))
        assert change(before, HEAD) == change(before, HEAD)


def test_leases_of_different_consumers_have_different_names() -> None:
    first, one = lease()(Subscription(), HEAD)
    _, two = lease()(first, HEAD)
    assert isinstance(one, Lease)
    assert isinstance(two, Lease)
    assert one.id != two.id


def test_what_has_run_out_is_found_out_by_the_next_lease() -> None:
    before = Subscription(frontier=5, leases=(held(1, 2, expires_at_ms=1), held(3, 5)))
    it, given = lease()(before, HEAD)
    assert isinstance(given, Lease)
    assert (given.first_position, given.last_position, given.attempt) == (1, 1, 2)
    assert it.waiting == (Waiting(first_position=2, last_position=2, failures=1),)
    assert it.position == 0


def test_what_has_run_out_can_be_finished_as_long_as_nobody_else_has_got_it() -> None:
    before = Subscription(frontier=5, leases=(held(1, 5, expires_at_ms=1),))
    assert after(before, acknowledge("1")) == Subscription(position=5, frontier=5)


def test_what_has_run_out_too_often_is_parked_and_passed_by() -> None:
    before = Subscription(frontier=1, leases=(held(1, 1, attempt=2, expires_at_ms=1),))
    it, given = lease()(before, HEAD)
    assert isinstance(given, Lease)
    assert given.first_position == 2
    [parked] = it.parked
    assert (parked.first_position, parked.last_position, parked.attempts) == (1, 1, 2)
    assert it.position == 1


def test_the_first_that_is_due_comes_first() -> None:
    waiting = (
        Waiting(first_position=7, last_position=9, failures=0),
        Waiting(first_position=3, last_position=3, failures=1, not_before_ms=2**50),
        Waiting(first_position=5, last_position=5, failures=1),
    )
    it = Subscription(position=2, frontier=9, waiting=waiting)
    spans = []
    for _ in range(3):
        it, given = lease(max_events=2)(it, HEAD)
        assert isinstance(given, Lease)
        spans.append((given.first_position, given.last_position))
    assert spans == [(5, 5), (7, 8), (9, 9)]
    assert it.position == 2


def test_a_range_that_was_parked_is_handed_out_from_its_first_attempt() -> None:
    parked = Parked(first_position=2, last_position=4, attempts=2)
    it = Subscription(position=9, frontier=9, parked=(parked,))
    it, given = lease()(after(it, redeliver_parked(2)), HEAD)
    assert isinstance(given, Lease)
    assert (given.first_position, given.last_position, given.attempt) == (2, 4, 1)
    assert it.position == 9


@pytest.mark.parametrize("position", [0, 3, 7])
def test_what_is_handed_out_again_does_not_take_the_checkpoint_over_what_never_was(
    position: int,
) -> None:
    parked = Parked(first_position=10, last_position=10, attempts=2)
    it = Subscription(position=15, frontier=15, parked=(parked,)).at(position)
    it, given = lease()(after(it, redeliver_parked(10)), HEAD)
    assert isinstance(given, Lease)
    assert given.first_position == 10
    assert it.position == position
    assert after(it, acknowledge(given.id)).position == position


def test_with_too_much_parked_nothing_is_handed_out() -> None:
    parked = tuple(Parked(first_position=it, last_position=it, attempts=1) for it in range(1, 51))
    it = Subscription(position=50, frontier=50, parked=parked)
    with pytest.raises(TooManyParked):
        lease()(it, 60)
    assert lease()(after(it, drop_parked(7)), 60)[1] is not None


def test_a_checkpoint_at_the_last_position_of_all_leaves_nothing_to_do() -> None:
    it = Subscription().at(MAX_POSITION)
    assert lease()(it, HEAD) == (it, None)
    assert it.lag(HEAD) == 0


def test_it_is_known_when_something_will_be_due() -> None:
    it = Subscription(frontier=9, leases=(held(1, 2, expires_at_ms=70), held(3, 4)))
    assert next_due_ms(Subscription()) is None
    assert next_due_ms(it) == 70
    later = Waiting(first_position=5, last_position=9, failures=1, not_before_ms=60)
    assert next_due_ms(Subscription(frontier=9, leases=it.leases, waiting=(later,))) == 60


@pytest.mark.parametrize("position", [0, 6, -1])
def test_a_position_outside_of_the_lease_is_refused(position: int) -> None:
    before = Subscription(frontier=5, leases=(held(1, 5),))
    for change in (acknowledge("1", position), release("1", position)):
        with pytest.raises(InvalidLease):
            change(before, HEAD)


@pytest.mark.parametrize(
    "make",
    [
        partial(release, "1", delay_s=-1),
        partial(release, "1", delay_s=86_401),
        partial(release, "1", reason="x" * 256),
        partial(extend, "1", 0),
        partial(extend, "1", float("nan")),
        partial(lease, max_events=0),
        partial(lease, seconds=float("inf")),
        partial(lease, max_attempts=1_001),
    ],
)
def test_bounds_that_are_none_are_refused(make: Callable[[], Change]) -> None:
    with pytest.raises(InvalidLease):
        make()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lease", "finish", "part", "fail", "fail in part", "stop", "lost"]),
            st.integers(0, 6),
        ),
        max_size=30,
    )
)
def test_every_event_is_at_one_place(steps: list[tuple[str, int]]) -> None:
    """Finished, held, waiting, parked or not yet handed out, and never two of them."""
    it = Subscription()
    finished: set[int] = set()
    for what, number in steps:
        if what == "lease" or not it.leases:
            it, _ = lease(max_events=number + 1)(it, HEAD)
        else:
            one = it.leases[number % len(it.leases)]
            events = range(one.first_position, one.last_position + 1)
            middle = events[number % len(events)]
            changes = {
                "finish": acknowledge(one.id),
                "part": acknowledge(one.id, middle),
                "fail": release(one.id),
                "fail in part": release(one.id, middle),
                "stop": release(one.id, middle, failed=False),
                "lost": acknowledge("none"),
            }
            done = {
                "finish": events,
                "part": range(one.first_position, middle + 1),
                "fail in part": range(one.first_position, middle),
                "stop": range(one.first_position, middle),
            }
            try:
                it = after(it, changes[what])
            except LeaseLost:
                assert what == "lost"
            finished |= {*done.get(what, ())}
        places = [
            *finished,
            *(
                position
                for one in (it.leases, it.waiting, it.parked)
                for at in one
                for position in range(at.first_position, at.last_position + 1)
            ),
        ]
        assert sorted(places) == list(range(1, it.frontier + 1))
        open_ones = [at.first_position for at in it.leases]
        open_ones += [at.first_position for at in it.waiting]
        assert it.position == min([*open_ones, it.frontier + 1]) - 1
