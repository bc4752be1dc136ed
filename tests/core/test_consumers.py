"""Leases by themselves: plain data and functions of it, without a store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from ebus.core import consumers
from ebus.core.consumers import (
    Change,
    Lease,
    Parked,
    Subscription,
    Waiting,
    acknowledge,
    cut,
    drop_parked,
    extend,
    next_due_ms,
    redeliver_parked,
    release,
)
from ebus.core.errors import InvalidLease, TooManyParked
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


def lapsed(it: Subscription) -> Subscription:
    """With leases that have all run out."""
    return replace(it, leases=tuple(replace(one, expires_at_ms=1) for one in it.leases))


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
    assert it.waiting == (Waiting(first_position=2, last_position=2, failures=1, one_by_one=True),)
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


def test_what_was_parked_is_handed_out_one_by_one_from_its_first_attempt() -> None:
    parked = tuple(Parked(first_position=at, last_position=at, attempts=2) for at in (2, 3, 4))
    it = Subscription(position=9, frontier=9, parked=parked)
    it = after(it, redeliver_parked(2), redeliver_parked(4), redeliver_parked(3))
    assert len(it.waiting) == 1
    it, given = lease()(it, HEAD)
    assert isinstance(given, Lease)
    assert (given.first_position, given.last_position, given.attempt) == (2, 2, 1)
    assert it.position == 9


@pytest.mark.parametrize(
    ("position", "left"), [(0, []), (9, []), (10, [(10, 10)]), (11, [(10, 11)]), (20, [(10, 12)])]
)
def test_what_is_parked_beyond_a_checkpoint_that_is_saved_comes_again_in_the_ordinary_way(
    position: int, left: list[tuple[int, int]]
) -> None:
    parked = Parked(first_position=10, last_position=12, attempts=2)
    it = Subscription(position=15, frontier=15, parked=(parked,)).at(position)
    assert [(one.first_position, one.last_position) for one in it.parked] == left


def test_what_was_parked_and_comes_again_is_not_forgotten_by_a_checkpoint_that_is_saved() -> None:
    """The checkpoint had passed it, so nothing else would bring it again."""
    parked = tuple(Parked(first_position=at, last_position=at, attempts=2) for at in (2, 5))
    it = Subscription(position=9, frontier=9, parked=parked)
    it = after(after(it, redeliver_parked(2)), redeliver_parked(5))
    it, given = lease()(it, HEAD)
    assert isinstance(given, Lease)
    for position in (9, 12, 5):
        saved = it.at(position)
        assert sorted(one.first_position for one in saved.waiting) == [2, 5]
        assert saved.leases == ()
    assert [one.first_position for one in it.at(3).waiting] == [2]


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_events_that_failed_together_each_fail_by_themselves_before_they_are_parked(
    max_attempts: int,
) -> None:
    for end in (lapsed, lambda it: after(it, release(it.leases[0].id))):
        it = after(Subscription(), lease(max_attempts=max_attempts, max_events=10))
        it = after(end(it), lease(max_attempts=max_attempts))
        assert not it.parked
        assert len(it.waiting) == 1
        [one] = it.leases
        assert (one.first_position, one.last_position) == (1, 1)
        assert one.attempt == min(2, max_attempts)
        while not it.parked:
            it = after(it, release(it.leases[0].id), lease(max_attempts=max_attempts))
        assert it.parked[0].last_position == 1
        assert it.parked[0].attempts == max_attempts
        assert it.leases[0].first_position == 2


def test_ten_thousand_events_that_failed_together_wait_as_one_range() -> None:
    limits = Limits()
    many = lease(max_events=10_000, max_attempts=1, limits=limits)
    it = lapsed(after(Subscription(), many, head=10_000))
    for _ in range(100):
        it = after(it, many, head=10_000)
        assert (len(it.waiting), len(it.leases)) == (1, 1)
        it = after(it, acknowledge(it.leases[0].id), head=10_000)
    assert it.position == 100


def test_leases_that_ran_out_side_by_side_wait_as_one_range() -> None:
    it = after(Subscription(), *(lease(max_events=2) for _ in range(6)))
    it, given = lease(max_events=2)(lapsed(it), HEAD)
    assert isinstance(given, Lease)
    assert [(one.first_position, one.last_position) for one in it.waiting] == [(2, 12)]


def test_no_more_is_leased_of_what_failed_than_there_may_be() -> None:
    few = Limits(max_leases=4)
    many = lease(max_events=10_000, limits=few)
    it = lapsed(after(Subscription(), many, head=10_000))
    for _ in range(20):
        it = after(it, many, head=10_000)
    assert len(it.leases) + len(it.waiting) == 8
    assert lease(limits=few)(it, 10_000) == (it, None)
    it = after(it, acknowledge(it.leases[0].id), many, head=10_000)
    assert it.leases[-1].first_position == 8


def test_what_is_given_back_is_handed_out_though_as_much_is_leased_as_may_be() -> None:
    few = partial(lease, max_events=2, limits=Limits(max_leases=4))
    it = after(Subscription(), few(), few(), few(), few())
    assert few()(it, HEAD) == (it, None)
    it = after(it, release(it.leases[1].id, failed=False), few())
    assert (it.leases[-1].first_position, it.leases[-1].last_position) == (3, 4)


def test_ranges_that_cannot_be_told_apart_are_handed_out_in_the_end() -> None:
    waiting = tuple(
        Waiting(first_position=at, last_position=at + 1, failures=0) for at in range(1, 40, 3)
    )
    it = Subscription(frontier=40, waiting=waiting)
    it, given = lease(limits=Limits(max_leases=2))(it, HEAD)
    assert isinstance(given, Lease)
    assert (given.first_position, given.last_position) == (1, 1)


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
    assert next_due_ms(Subscription(), 0) is None
    assert next_due_ms(it, 0) == 70
    assert next_due_ms(it, 70) == 2**50
    assert next_due_ms(it, 2**50) is None
    later = Waiting(first_position=5, last_position=9, failures=1, not_before_ms=60)
    assert next_due_ms(Subscription(frontier=9, leases=it.leases, waiting=(later,)), 9) == 60


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


class Group(RuleBasedStateMachine):
    """Whatever is done to a subscription, each event is at one place."""

    limits = Limits(max_leases=3, max_parked=5)

    def __init__(self) -> None:
        super().__init__()
        self.it = Subscription()
        self.done: set[int] = set()
        """Finished, or parked and dropped."""
        self.on_top = 0
        """Ranges that cuts and redelivery have made."""

    def change(self, change: Change) -> object:
        before = self.it
        self.it, answer = change(before, HEAD)
        open_ones = {*positions_of(*self.it.leases, *self.it.waiting)}
        passed = set(range(before.position + 1, self.it.position + 1))
        assert not passed & open_ones, "the checkpoint has passed what is not finished"
        return answer

    @rule(most=st.integers(1, 7), attempts=st.integers(1, 3))
    def lease(self, most: int, attempts: int) -> None:
        bounds = {"max_events": most, "max_attempts": attempts, "limits": self.limits}
        try:
            given = self.change(lease(**bounds))
        except TooManyParked:
            assert len(self.it.parked) + len(self.it.leases) >= self.limits.max_parked
            return
        if isinstance(given, Lease):
            assert 1 <= len(positions(given)) <= most
            assert len(positions(given)) == 1 or given.attempt == 1
        elif not self.it.leases:
            assert self.it.waiting == () or min(one.not_before_ms for one in self.it.waiting) > 0

    @precondition(lambda self: self.it.leases)
    @rule(
        how=st.sampled_from(["finish", "part", "fail", "fail in part", "stop", "cut"]),
        which=st.integers(0, 9),
        delay_s=st.sampled_from([0, 0, 3_600]),
    )
    def end(self, how: str, which: int, delay_s: float) -> None:
        one = self.it.leases[which % len(self.it.leases)]
        events = positions(one)
        middle = events[which % len(events)]
        if how == "finish":
            self.change(acknowledge(one.id))
            self.done |= {*events}
        elif how == "part":
            self.change(acknowledge(one.id, middle))
            self.done |= {*range(events[0], middle + 1)}
        elif how == "cut":
            self.change(cut(one.id, middle))
            self.on_top += 1
        elif how == "fail":
            self.change(release(one.id, delay_s=delay_s))
        else:
            failed = how == "fail in part"
            self.change(release(one.id, middle, failed=failed, delay_s=delay_s))
            self.done |= {*range(events[0], middle)}

    @precondition(lambda self: self.it.leases)
    @rule(which=st.integers(0, 9))
    def lapse(self, which: int) -> None:
        late = self.it.leases[which % len(self.it.leases)]
        changed = (replace(one, expires_at_ms=1) if one is late else one for one in self.it.leases)
        self.it = replace(self.it, leases=tuple(changed))

    @precondition(lambda self: self.it.waiting)
    @rule()
    def wait(self) -> None:
        waiting = tuple(replace(one, not_before_ms=0) for one in self.it.waiting)
        self.it = replace(self.it, waiting=waiting)

    @precondition(lambda self: self.it.parked)
    @rule(which=st.integers(0, 9), again=st.booleans())
    def take_from_the_parked(self, which: int, again: bool) -> None:
        first = self.it.parked[which % len(self.it.parked)].first_position
        assert self.change((redeliver_parked if again else drop_parked)(first)) is True
        if again:
            self.on_top += 1
        else:
            self.done.add(first)

    @rule(position=st.integers(0, HEAD + 3))
    def save(self, position: int) -> None:
        passed = range(1, min(self.it.position, position) + 1)
        open_ones = {*positions_of(*self.it.leases, *self.it.waiting)}.intersection(passed)
        self.it = self.it.at(position)
        assert not self.it.leases
        assert {*positions_of(*self.it.waiting)} == open_ones, "what was redelivered is forgotten"
        it = self.it
        self.done = {*range(1, position + 1)} - {*positions_of(*it.waiting, *it.parked)}

    @invariant()
    def every_event_is_at_one_place(self) -> None:
        it = self.it
        held = positions_of(*it.leases, *it.waiting, *it.parked)
        handed_out = range(1, max(it.position, it.frontier) + 1)
        assert sorted([*held, *self.done]) == list(handed_out)

    @invariant()
    def what_is_parked_has_failed_by_itself(self) -> None:
        assert all(len(positions(one)) == 1 for one in self.it.parked)

    @invariant()
    def there_are_only_so_many_ranges(self) -> None:
        most = 2 * self.limits.max_leases + 1 + self.on_top
        assert len(self.it.leases) + len(self.it.waiting) <= most

    def teardown(self) -> None:
        """Everything that is left is handed out, and then finished."""
        self.limits = replace(self.limits, max_parked=1_000)
        self.wait()
        self.it = lapsed(self.it)
        for _ in range(200):
            self.lease(3, 1_000)
            for one in self.it.leases:
                self.change(acknowledge(one.id))
                self.done |= {*positions(one)}
        assert not self.it.leases
        assert not self.it.waiting
        assert self.it.position >= HEAD
        self.every_event_is_at_one_place()


def positions(one: Lease | Waiting | Parked) -> range:
    return range(one.first_position, one.last_position + 1)


def positions_of(*places: Lease | Waiting | Parked) -> list[int]:
    return [at for one in places for at in positions(one)]


TestWhateverIsDoneToASubscription = Group.TestCase
