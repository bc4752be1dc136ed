"""Plans by themselves: what a group of writes comes to, before any of it is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.backends.memory import Log
from ebus.core import consumers
from ebus.core.errors import IdConflict, InvalidEvent, QuotaExceeded, StoreFull
from ebus.core.event import NewEvent, decode_event
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.plan import Plan, encoded_event, plan_writes
from ebus.core.store import (
    Append,
    Appended,
    ChangeSubscription,
    Quota,
    Room,
    SaveCheckpoint,
    Write,
    check_writes,
)
from ebus.testing.events import new_event, numbered

NOW = "2024-05-06T07:08:09Z"


def plan(
    writes: list[Write], log: Log | None = None, *, head: int = 0, quota: Quota | None = None
) -> Plan:
    log = log or Log()
    room = None
    if quota is not None:
        room = Room(quota, events=0, size_bytes=0, knows=lambda name: name in log.subscriptions)
    checked = check_writes(writes, Limits())
    return plan_writes(writes, checked, head=head or log.head, now=NOW, index=log, room=room)


def store(log: Log, writes: list[Write]) -> None:
    with log.lock:
        log.carry_out(plan(writes, log))


@given(
    st.lists(
        st.lists(
            st.sampled_from([*numbered(3), new_event(b"{"), NewEvent.of("T", 1)]), max_size=5
        ).map(Append),
        max_size=5,
    )
)
def test_plain_appends_come_to_the_same_all_at_once_and_one_by_one(writes: list[Write]) -> None:
    at_once = plan(writes, head=7)
    one_by_one = plan(writes, head=7, quota=Quota())
    assert [it if isinstance(it, Appended) else type(it) for it in at_once.results] == [
        it if isinstance(it, Appended) else type(it) for it in one_by_one.results
    ]
    assert at_once.head == one_by_one.head == 7 + len(at_once.events)
    assert at_once.events == one_by_one.events
    assert at_once.encoded == one_by_one.encoded


def test_beyond_the_last_position_nothing_is_planned() -> None:
    for events in (numbered(2), [new_event(id="a"), new_event(id="b")]):
        assert plan([Append(events)], head=MAX_POSITION - 2).head == MAX_POSITION
        with pytest.raises(StoreFull):
            plan([Append(events)], head=MAX_POSITION - 1)


def test_a_name_takes_room_once_however_often_it_is_written_to() -> None:
    writes: list[Write] = [SaveCheckpoint("mailer", position) for position in range(5)]
    it = plan(writes, quota=Quota(max_bytes=len("mailer")))
    assert it.results == [None] * 5
    assert it.subscriptions["mailer"].position == 4
    [*_, refused] = plan([*writes, SaveCheckpoint("x", 1)], quota=Quota(max_bytes=6)).results
    assert isinstance(refused, QuotaExceeded)


def test_duplicates_take_no_room() -> None:
    event = new_event(id="a")
    first, again, new = plan(
        [Append([event]), Append([event] * 3), Append([event, new_event()])],
        quota=Quota(max_events=1),
    ).results
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.duplicates == 3
    assert isinstance(new, QuotaExceeded)


def test_a_conflict_within_one_append_names_no_position() -> None:
    """Nothing of it is stored, so there is none."""
    other = NewEvent.of("T", "other", id="a")
    [refused] = plan([Append([new_event(), new_event(id="a"), other])], head=7).results
    assert isinstance(refused, IdConflict)
    assert (refused.index, refused.current) == (2, None)
    assert "same append" in str(refused)
    assert "position" not in str(refused)


def test_what_is_over_the_quota_takes_no_id_and_no_version() -> None:
    over = [new_event(id="a", stream="s"), new_event(id="b", stream="s")]
    refused, stored = plan([Append(over), Append(over[1:])], quota=Quota(max_events=1)).results
    assert isinstance(refused, QuotaExceeded)
    assert isinstance(stored, Appended)
    assert (stored.first_position, stored.events[0].version) == (1, 1)


def test_who_changes_nothing_leaves_nothing_to_be_stored() -> None:
    log = Log()
    asking = ChangeSubscription(
        "mailer",
        consumers.lease(max_events=1, seconds=1, max_attempts=1, limits=Limits()),
    )
    assert plan([asking], log).subscriptions == {}
    store(log, [SaveCheckpoint("mailer", 3)])
    it = plan([asking, ChangeSubscription("mailer", consumers.drop_parked(1))], log)
    assert (it.results, it.subscriptions) == ([None, False], {})


def test_a_plan_is_on_top_of_what_is_stored() -> None:
    log = Log()
    store(log, [Append([new_event(id="a", stream="s"), new_event()])])
    it = plan([Append([new_event(id="b", stream="s"), new_event(id="a", stream="s")])], log)
    assert (it.head, it.ids, it.streams, it.versions) == (3, {"b": 3}, {"s": 2}, [2])
    assert len(it.encoded) == 1


def test_what_was_appended_can_be_encoded_from_its_answer() -> None:
    events = [NewEvent.of("T", 1, stream="s"), new_event(id="a", metadata={"k": "v"})]
    it = plan([Append(events)])
    [appended] = it.results
    assert isinstance(appended, Appended)
    encoded = [encoded_event(*one) for one in zip(events, appended.events, strict=True)]
    assert encoded == it.encoded
    assert decode_event(encoded[0]).timestamp == NOW


def test_a_refusal_does_not_keep_where_it_was_raised() -> None:
    log = Log()
    store(log, [Append([new_event(id="a")])])
    refusals = plan([Append([new_event(b"1", id="a")]), Append([new_event(b"{")])], log).results
    assert isinstance(refusals[1], InvalidEvent)
    for refusal in refusals:
        assert isinstance(refusal, Exception)
        assert refusal.__traceback__ is None
