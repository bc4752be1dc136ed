"""Consumers: leases of events, given to competing workers, and what becomes of them."""

from __future__ import annotations

import time
from functools import partial
from itertools import chain, count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebus.core import consumers
from ebus.core.consumers import Lease, Parked, Subscription
from ebus.core.engine import Engine
from ebus.core.errors import (
    CheckpointConflict,
    InvalidCheckpoint,
    InvalidLease,
    LeaseLost,
    TooManyParked,
)
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, ChangeSubscription, SupportsTrim, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import unchanged
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import ALICE, Suite

SOON_S = 0.002
"""A lease that is as good as over."""


def lease(store: TenantStore, name: str = "mailer", **bounds: Any) -> Lease:
    """A lease where there must be something to do."""
    given = store.lease(name, **bounds)
    assert given is not None
    return given


def span(given: Lease | None) -> tuple[int, int] | None:
    return None if given is None else (given.first_position, given.last_position)


def spans(store: TenantStore, name: str = "mailer", **bounds: Any) -> list[tuple[int, int]]:
    """Everything that is handed out until there is nothing to do."""
    given = iter(partial(store.lease, name, **bounds), None)
    return [(one.first_position, one.last_position) for one in given]


def parked(store: TenantStore, name: str = "mailer") -> tuple[Parked, ...]:
    subscription = store.subscription(name)
    assert subscription is not None
    return subscription.parked


def let_expire() -> None:
    time.sleep(2 * SOON_S)


class Consumers(Suite):
    def test_leases_are_contiguous_disjoint_and_in_order(self, store: TenantStore) -> None:
        store.append(numbered(10))
        assert spans(store, max_events=4) == [(1, 4), (5, 8), (9, 10)]
        assert store.checkpoint("mailer") == 0
        store.append(numbered(1))
        assert spans(store) == [(11, 11)]

    def test_how_far_events_were_handed_out_is_known_once_all_are_finished(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(3))
        store.acknowledge("mailer", lease(store).id)
        assert store.subscription("mailer") == Subscription(position=3, frontier=3)
        store.save_checkpoint("mailer", 3)
        assert store.subscription("mailer") == Subscription(position=3)

    def test_a_lease_says_how_long_it_lasts_and_which_attempt_it_is(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(1))
        before_ms = time.time_ns() // 1_000_000
        given = lease(store, seconds=30, max_attempts=3)
        after_ms = time.time_ns() // 1_000_000
        assert before_ms + 30_000 <= given.expires_at_ms <= after_ms + 30_000
        assert (given.attempt, given.max_attempts) == (1, 3)
        known = store.subscription("mailer")
        assert known is not None
        assert known.leases == (given,)

    def test_who_finds_nothing_to_do_leaves_nothing_behind(
        self, place: Place, store: TenantStore
    ) -> None:
        with unchanged(place, ALICE, store):
            assert store.lease("mailer") is None
        assert (store.subscription("mailer"), store.checkpoint("mailer")) == (None, None)
        store.append(numbered(1))
        store.save_checkpoint("printer", 1)
        with unchanged(place, ALICE, store):
            assert store.lease("printer") is None

    def test_the_checkpoint_follows_what_is_finished_in_whatever_order(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(9))
        first, second, third = (lease(store, max_events=3) for _ in range(3))
        for ended, checkpoint in [(second, 0), (first, 6), (third, 9)]:
            store.acknowledge("mailer", ended.id)
            assert store.checkpoint("mailer") == checkpoint
            assert store.checkpoints() == {"mailer": checkpoint}
            assert place.peek(ALICE).checkpoints == {"mailer": checkpoint}

    def test_a_part_of_a_lease_can_be_finished(self, store: TenantStore) -> None:
        store.append(numbered(5))
        given = lease(store)
        for position in (2, 3):
            store.acknowledge("mailer", given.id, position)
            assert store.checkpoint("mailer") == position
        for position in (3, 6):
            with pytest.raises(InvalidLease):
                store.acknowledge("mailer", given.id, position)
        store.acknowledge("mailer", given.id, 5)
        assert store.checkpoint("mailer") == 5
        with pytest.raises(LeaseLost):
            store.acknowledge("mailer", given.id)

    def test_a_lease_that_is_none_is_lost_and_leaves_no_trace(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(3))
        held = lease(store)
        with unchanged(place, ALICE, store):
            for name, lease_id in [("mailer", "x"), ("mailer", ""), ("printer", held.id)]:
                with pytest.raises(LeaseLost):
                    store.acknowledge(name, lease_id)
                with pytest.raises(LeaseLost):
                    store.extend_lease(name, lease_id, 10)
                with pytest.raises(LeaseLost):
                    store.release(name, lease_id)

    @pytest.mark.parametrize("engines", [1, 2], ids=["one engine", "two engines"])
    def test_competing_threads_get_every_event_once(self, place: Place, engines: int) -> None:
        def work(store: TenantStore, most: int) -> list[int]:
            done: list[int] = []
            while given := store.lease("mailer", max_events=most):
                done += range(given.first_position, given.last_position + 1)
                store.acknowledge("mailer", given.id)
            return done

        with self.open_stores(place, engines) as stores:
            stores[0].append(numbered(40))
            done = race(*(partial(work, stores[most % engines], most) for most in (1, 2, 3, 4)))
            assert sorted(chain.from_iterable(done)) == list(range(1, 41))
            for store in stores:
                assert store.checkpoint("mailer") == 40

    def test_what_is_not_finished_in_time_is_handed_out_again_one_by_one(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(5))
        lost = lease(store, max_events=3, seconds=SOON_S)
        let_expire()
        again = [lease(store) for _ in range(3)]
        assert [span(one) for one in again] == [(1, 1), (2, 2), (3, 3)]
        assert [one.attempt for one in again] == [2, 2, 2]
        assert spans(store) == [(4, 5)]
        with pytest.raises(LeaseLost):
            store.acknowledge("mailer", lost.id)
        assert store.checkpoint("mailer") == 0

    def test_what_fails_too_often_is_parked_by_itself(self, store: TenantStore) -> None:
        store.append(numbered(3))
        given = lease(store, max_attempts=2)
        store.release("mailer", given.id)
        for position in (1, 2, 3):
            given = lease(store, max_attempts=2)
            assert (span(given), given.attempt) == ((position, position), 2)
            if position == 2:
                store.release("mailer", given.id, reason="größe: no")
            else:
                store.acknowledge("mailer", given.id)
        assert parked(store) == (
            Parked(first_position=2, last_position=2, attempts=2, reason="größe: no"),
        )
        assert store.checkpoint("mailer") == 3
        assert store.lease("mailer") is None

    @pytest.mark.parametrize("max_attempts", [1, 2])
    @pytest.mark.parametrize("how", ["released", "run out"])
    def test_events_that_failed_together_are_tried_by_themselves_before_they_are_parked(
        self, store: TenantStore, max_attempts: int, how: str
    ) -> None:
        store.append(numbered(9))
        together = lease(store, seconds=SOON_S, max_attempts=max_attempts)
        if how == "released":
            store.release("mailer", together.id)
        else:
            let_expire()
        for position in range(1, 10):
            given = lease(store, max_attempts=max_attempts)
            assert (span(given), given.attempt) == ((position, position), max_attempts)
            known = store.subscription("mailer")
            assert known is not None
            assert len(known.waiting) <= 1
            if position == 7:
                store.release("mailer", given.id)
            else:
                store.acknowledge("mailer", given.id)
        [one] = parked(store)
        assert (one.first_position, one.last_position, one.attempts) == (7, 7, max_attempts)
        assert store.checkpoint("mailer") == 9

    def test_what_runs_out_too_often_is_parked(self, store: TenantStore) -> None:
        store.append(numbered(2))
        lease(store, max_events=1, seconds=SOON_S, max_attempts=1)
        let_expire()
        assert span(store.lease("mailer")) == (2, 2)
        [one] = parked(store)
        assert (one.first_position, one.last_position, one.attempts) == (1, 1, 1)
        assert one.reason
        assert store.checkpoint("mailer") == 1

    def test_what_is_parked_can_be_handed_out_again_or_dropped(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(3))
        for _ in range(3):
            given = lease(store, max_events=1, max_attempts=1)
            store.release("mailer", given.id)
        assert store.checkpoint("mailer") == 3
        assert store.drop_parked("mailer", 2) is True
        assert store.redeliver_parked("mailer", 3) is True
        with unchanged(place, ALICE, store):
            for position in (2, 3, 4):
                assert store.drop_parked("mailer", position) is False
                assert store.redeliver_parked("mailer", position) is False
                assert store.drop_parked("printer", position) is False
        assert [one.first_position for one in parked(store)] == [1]
        given = lease(store)
        assert (span(given), given.attempt) == ((3, 3), 1)
        assert store.checkpoint("mailer") == 3
        store.acknowledge("mailer", given.id)
        assert store.head() == store.count() == 3

    def test_with_too_much_parked_nothing_is_handed_out(self, place: Place) -> None:
        with place.open(limits=Limits(max_parked=2)) as engine:
            store = engine.open(ALICE)
            store.append(numbered(4))
            for _ in range(2):
                store.release("mailer", lease(store, max_events=1, max_attempts=1).id)
            with pytest.raises(TooManyParked) as refusal:
                store.lease("mailer")
            assert refusal.value.current == 2
            store.drop_parked("mailer", 1)
            assert span(store.lease("mailer")) == (3, 4)

    def test_as_many_ranges_are_handed_out_as_there_may_be(self, place: Place) -> None:
        with place.open(limits=Limits(max_leases=2)) as engine:
            store = engine.open(ALICE)
            store.append(numbered(4))
            first, _ = lease(store, max_events=1), lease(store, max_events=1)
            assert store.lease("mailer") is None
            store.acknowledge("mailer", first.id)
            assert span(store.lease("mailer")) == (3, 4)

    def test_no_more_is_handed_out_of_what_failed_than_there_may_be(self, place: Place) -> None:
        with place.open(limits=Limits(max_leases=2)) as engine:
            store = engine.open(ALICE)
            store.append(numbered(9))
            store.release("mailer", lease(store).id)
            assert spans(store) == [(1, 1), (2, 2), (3, 3)]

    def test_a_lease_that_has_run_out_counts_until_somebody_asks_for_the_next(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(3))
        late = lease(store, seconds=SOON_S)
        let_expire()
        store.acknowledge("mailer", late.id, 1)
        store.extend_lease("mailer", late.id, SOON_S)
        let_expire()
        assert span(lease(store)) == (2, 2)
        for how in (store.acknowledge, store.release):
            with pytest.raises(LeaseLost):
                how("mailer", late.id)
        assert store.checkpoint("mailer") == 1

    def test_a_lease_that_is_extended_lasts_longer(self, store: TenantStore) -> None:
        store.append(numbered(1))
        given = lease(store, seconds=5)
        extended = store.extend_lease("mailer", given.id, 60)
        assert span(extended) == span(given)
        assert extended.id == given.id
        assert extended.expires_at_ms >= given.expires_at_ms + 50_000
        shortened = store.extend_lease("mailer", given.id, SOON_S)
        assert shortened.expires_at_ms < given.expires_at_ms
        let_expire()
        assert lease(store).attempt == 2
        with pytest.raises(LeaseLost):
            store.extend_lease("mailer", given.id, 60)

    def test_a_lease_is_released_at_the_event_that_failed(self, store: TenantStore) -> None:
        store.append(numbered(10))
        given = lease(store, max_events=6)
        store.release("mailer", given.id, 3)
        assert store.checkpoint("mailer") == 2
        failed, behind, new = lease(store), lease(store), lease(store)
        assert [span(failed), span(behind), span(new)] == [(3, 3), (4, 6), (7, 10)]
        assert [failed.attempt, behind.attempt, new.attempt] == [2, 1, 1]
        with pytest.raises(InvalidLease):
            store.release("mailer", new.id, 6)

    def test_who_merely_stops_is_not_charged(self, store: TenantStore) -> None:
        store.append(numbered(4))
        store.release("mailer", lease(store).id, failed=False)
        given = lease(store)
        assert (span(given), given.attempt) == ((1, 4), 1)
        store.release("mailer", given.id, 3, failed=False)
        assert store.checkpoint("mailer") == 2
        given = lease(store)
        assert (span(given), given.attempt) == ((3, 4), 1)

    def test_what_failed_waits_for_its_delay(self, store: TenantStore) -> None:
        store.append(numbered(2))
        store.release("mailer", lease(store, max_events=1).id, delay_s=3_600)
        assert spans(store) == [(2, 2)]
        assert store.checkpoint("mailer") == 0
        store.append(numbered(1))
        store.release("mailer", lease(store).id, delay_s=SOON_S)
        let_expire()
        given = lease(store)
        assert (span(given), given.attempt) == ((3, 3), 2)

    def test_saving_a_checkpoint_ends_leases_and_leaves_what_is_parked(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(6))
        store.release("mailer", lease(store, max_events=1, max_attempts=1).id)
        given = lease(store, max_events=2)
        store.save_checkpoint("mailer", 1)
        with pytest.raises(LeaseLost):
            store.acknowledge("mailer", given.id)
        assert [one.first_position for one in parked(store)] == [1]
        assert spans(store) == [(2, 6)]
        store.save_checkpoint("mailer", 4)
        assert spans(store) == [(5, 6)]

    def test_what_was_parked_beyond_a_rewound_checkpoint_comes_again_and_only_once(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(5))
        store.acknowledge("mailer", lease(store, max_events=4).id)
        for _ in range(2):
            store.release("mailer", lease(store, max_attempts=1).id)
            assert [one.first_position for one in parked(store)] == [5]
            store.save_checkpoint("mailer", 4)
            assert parked(store) == ()
        assert store.redeliver_parked("mailer", 5) is False
        assert spans(store) == [(5, 5)]
        assert store.checkpoint("mailer") == 4

    def test_a_checkpoint_is_saved_only_if_it_is_as_expected(
        self, place: Place, store: TenantStore
    ) -> None:
        for wrong in (1, 5):
            with unchanged(place, ALICE, store), pytest.raises(CheckpointConflict) as refusal:
                store.save_checkpoint("mailer", 9, expected=wrong)
            assert refusal.value.current == 0
        store.save_checkpoint("mailer", 3, expected=0)
        with unchanged(place, ALICE, store), pytest.raises(CheckpointConflict) as refusal:
            store.save_checkpoint("mailer", 9, expected=0)
        assert refusal.value.current == 3
        store.save_checkpoint("mailer", 1, expected=3)
        store.save_checkpoint("mailer", 2)
        assert store.checkpoints() == {"mailer": 2}
        bad: Any
        for bad in (-1, True, 2**63, "2"):
            with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
                store.save_checkpoint("mailer", 9, expected=bad)

    def test_of_racing_checkpoints_that_expect_the_same_one_is_saved(
        self, store: TenantStore
    ) -> None:
        def save(position: int) -> int | None:
            try:
                store.save_checkpoint("mailer", position, expected=0)
            except CheckpointConflict:
                return None
            return position

        saved = race(*(partial(save, position) for position in (1, 2, 3, 4)))
        assert [it for it in saved if it] == [store.checkpoint("mailer")]

    def test_a_deleted_subscription_begins_anew(self, place: Place, store: TenantStore) -> None:
        store.append(numbered(3))
        store.release("mailer", lease(store, max_events=1, max_attempts=1).id)
        given = lease(store)
        assert store.delete_checkpoint("mailer") is True
        assert store.subscription("mailer") is None
        assert place.peek(ALICE).checkpoints == {}
        with pytest.raises(LeaseLost):
            store.acknowledge("mailer", given.id)
        assert spans(store) == [(1, 3)]
        assert parked(store) == ()

    def test_a_subscription_is_deleted_only_if_it_is_as_expected(
        self, place: Place, store: TenantStore
    ) -> None:
        assert store.delete_checkpoint("mailer", expected=7) is False
        store.append(numbered(3))
        store.save_checkpoint("mailer", 1)
        given = lease(store, max_events=1)
        for wrong in (0, 2):
            with unchanged(place, ALICE, store), pytest.raises(CheckpointConflict) as refusal:
                store.delete_checkpoint("mailer", expected=wrong)
            assert refusal.value.current == 1
        store.acknowledge("mailer", given.id)
        with pytest.raises(CheckpointConflict):
            store.delete_checkpoint("mailer", expected=1)
        bad: Any
        for bad in (-1, True, 2**63, "2"):
            with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
                store.delete_checkpoint("mailer", expected=bad)
        assert store.delete_checkpoint("mailer", expected=2) is True
        assert store.subscription("mailer") is None
        assert store.delete_checkpoint("mailer", expected=2) is False

    def test_a_subscription_that_moves_while_it_is_deleted_either_moves_or_is_gone(
        self, place: Place
    ) -> None:
        """Two engines where there may be two: neither sees half of what the other does."""

        def move(store: TenantStore) -> bool:
            try:
                store.save_checkpoint("mailer", 2, expected=1)
            except CheckpointConflict:
                return False
            return True

        def delete(store: TenantStore) -> bool:
            try:
                return store.delete_checkpoint("mailer", expected=1)
            except CheckpointConflict:
                return False

        with self.open_stores(place, 2) as [first, second]:
            for _ in range(10):
                first.save_checkpoint("mailer", 1)
                moved, deleted = race(partial(move, first), partial(delete, second))
                assert moved is not deleted
                assert first.checkpoint("mailer") == (2 if moved else None)

    def test_leases_outlive_the_engine(self, place: Place) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            store.append(numbered(5))
            store.release("mailer", lease(store, max_events=1, max_attempts=1).id, reason="no")
            store.release("mailer", lease(store, max_events=1).id, delay_s=3_600)
            given = lease(store, max_events=2)
            before = store.subscription("mailer")
        with place.open() as engine:
            store = engine.open(ALICE)
            assert store.subscription("mailer") == before
            assert store.checkpoints() == {"mailer": 1}
            store.acknowledge("mailer", given.id)
            assert spans(store) == [(5, 5)]

    def test_a_second_engine_knows_the_leases_of_the_first(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            first.append(numbered(4))
            given = lease(first, max_events=2)
            assert spans(second) == [(3, 4)]
            second.acknowledge("mailer", given.id)
            assert first.checkpoint("mailer") == 2
            with pytest.raises(LeaseLost):
                first.acknowledge("mailer", given.id)

    def test_a_lease_is_of_what_a_second_engine_has_appended(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            first.append(numbered(1))
            assert spans(first) == [(1, 1)]
            second.append(numbered(2, first=2))
            assert spans(first) == [(2, 3)]

    def test_subscriptions_do_not_touch_each_other(
        self, engine: Engine, store: TenantStore
    ) -> None:
        store.append(numbered(3))
        other = engine.open(f"{ALICE}-2")
        other.append(numbered(1))
        given = lease(store)
        names = ("Mailer", "größe" if self.any_name else "mailer.")
        for name in names:
            assert spans(store, name) == [(1, 3)]
        assert spans(other) == [(1, 1)]
        store.acknowledge("mailer", given.id)
        assert store.checkpoints() == {**dict.fromkeys(names, 0), "mailer": 3}

    def test_leases_go_over_events_that_were_trimmed(self, store: TenantStore) -> None:
        if not isinstance(store, SupportsTrim):
            pytest.skip("SupportsTrim is not among the powers of this engine")
        store.append(numbered(4))
        given = lease(store, max_events=2)
        store.trim(3)
        store.acknowledge("mailer", given.id)
        while more := store.lease("mailer"):
            store.acknowledge("mailer", more.id)
        assert store.checkpoint("mailer") == 4

    @pytest.mark.parametrize(
        "bounds",
        [
            {"max_events": 0},
            {"max_events": Limits().max_read_events + 1},
            {"seconds": 0},
            {"seconds": -1},
            {"seconds": 86_401},
            {"max_attempts": 0},
            {"max_attempts": 1_001},
        ],
        ids=str,
    )
    def test_bounds_that_are_none_are_refused(
        self, place: Place, store: TenantStore, bounds: dict[str, Any]
    ) -> None:
        store.append(numbered(1))
        with unchanged(place, ALICE, store), pytest.raises(InvalidLease):
            store.lease("mailer", **bounds)

    @pytest.mark.parametrize("reason", ["x" * 256, "caf\udce9"], ids=["long", "surrogate"])
    def test_a_reason_that_is_none_is_refused(
        self, place: Place, store: TenantStore, reason: str
    ) -> None:
        store.append(numbered(1))
        held = lease(store, max_attempts=1)
        with unchanged(place, ALICE, store), pytest.raises(InvalidLease):
            store.release("mailer", held.id, reason=reason)

    def test_a_bad_name_gets_no_lease(self, place: Place, store: TenantStore) -> None:
        store.append(numbered(1))
        bad: Any
        for bad in ("", "x" * 256, "a\n", "\ud800", None, 7):
            with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
                store.lease(bad)

    def test_leases_and_appends_of_one_commit_see_each_other(self, store: TenantStore) -> None:
        def leasing() -> ChangeSubscription:
            change = consumers.lease(max_events=9, seconds=9, max_attempts=9, limits=store.limits)
            return ChangeSubscription("mailer", change)

        nothing, first, one, two, second = store.commit(
            [leasing(), Append(numbered(2)), leasing(), Append([new_event(b"{")]), leasing()]
        )
        assert nothing is None
        assert first == Appended(1, 2)
        assert isinstance(one, Lease)
        assert span(one) == (1, 2)
        assert isinstance(two, Exception)
        assert second is None
        done, lost, third = store.commit(
            [
                ChangeSubscription("mailer", consumers.acknowledge(one.id)),
                ChangeSubscription("mailer", consumers.acknowledge(one.id)),
                Append(numbered(1)),
            ]
        )
        assert done is None
        assert isinstance(lost, LeaseLost)
        assert third == Appended(3, 3)
        assert store.checkpoint("mailer") == 2

    def test_whatever_workers_do_no_event_is_lost_or_held_twice(self, store: TenantStore) -> None:
        head = 12
        store.append(numbered(head))
        names = count(1)
        sizes = st.integers(1, 6)
        steps = st.lists(
            st.tuples(st.just("lease"), sizes, st.booleans())
            | st.tuples(
                st.sampled_from(["finish", "fail", "stop"]), st.integers(0, 9), st.booleans()
            ),
            max_size=14,
        )

        @settings(deadline=None)
        @given(steps)
        def check(steps: list[tuple[str, int, bool]]) -> None:
            work = _Work(store, f"worker-{next(names)}", head)
            for what, number, flag in steps:
                if what == "lease":
                    work.lease(number, expires=flag)
                else:
                    work.end(what, number, in_part=flag)
                work.check()
            work.finish_everything()

        check()


class _Work:
    """What became of each event, according to a plain model of one subscription."""

    def __init__(self, store: TenantStore, name: str, head: int) -> None:
        self.store = store
        self.name = name
        self.head = head
        self.open = set(range(1, head + 1))
        """Events that are neither finished nor parked."""
        self.held: dict[str, set[int]] = {}
        self.lapsing: set[int] = set()
        """Events of leases that have run out, which the store has not been told."""

    def lease(self, most: int, *, expires: bool) -> Lease | None:
        given = self.store.lease(
            self.name, max_events=most, seconds=SOON_S if expires else 60, max_attempts=2
        )
        self._look_for_parked(self.lapsing)
        self.lapsing = set()
        if given is None:
            held = set().union(*self.held.values())
            assert held == self.open, "there was something to do"
            return None
        events = set(range(given.first_position, given.last_position + 1))
        assert 1 <= len(events) <= most
        assert events <= self.open, "an event was handed out that is finished or parked"
        assert not any(events & others for others in self.held.values()), "an event is held twice"
        if given.attempt > 1:
            assert len(events) == 1, "what failed is not handed out one by one"
        if expires:
            let_expire()
            self.lapsing = events
        else:
            self.held[given.id] = events
        return given

    def end(self, how: str, which: int, *, in_part: bool) -> None:
        if not self.held:
            return
        lease_id = list(self.held)[which % len(self.held)]
        events = self.held[lease_id]
        middle = sorted(events)[len(events) // 2] if in_part else None
        before = {it for it in events if middle is not None and it < middle}
        if how == "finish":
            self.store.acknowledge(self.name, lease_id, middle)
            done = events if middle is None else before | {middle}
            self.open -= done
            self.held[lease_id] = events - done
            if not self.held[lease_id]:
                del self.held[lease_id]
            return
        self.store.release(self.name, lease_id, middle, failed=how == "fail")
        self.open -= before
        del self.held[lease_id]
        self._look_for_parked(events - before if how == "fail" else set())

    def _look_for_parked(self, failed: set[int]) -> None:
        aside = self._parked()
        assert aside.isdisjoint(self.open - failed), "an event was parked that had not failed"
        self.open -= aside

    def _parked(self) -> set[int]:
        subscription = self.store.subscription(self.name)
        ranges = subscription.parked if subscription is not None else ()
        return {it for one in ranges for it in range(one.first_position, one.last_position + 1)}

    def check(self) -> None:
        checkpoint = self.store.checkpoint(self.name) or 0
        first_open = min(self.open, default=self.head + 1)
        assert checkpoint < first_open, f"the checkpoint {checkpoint} is beyond {first_open}"
        if not self.lapsing:  # what lapses is parked when the next one asks
            assert checkpoint == first_open - 1, "the checkpoint has not followed"

    def finish_everything(self) -> None:
        """Each event that is left is handed out, and then all of them are accounted for."""
        while self.held:
            self.end("finish", 0, in_part=False)
        while self.lease(9, expires=False) is not None:
            self.end("finish", 0, in_part=False)
        assert self.open == set()
        assert self.store.checkpoint(self.name) == self.head
