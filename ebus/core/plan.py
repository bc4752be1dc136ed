"""What a group of writes comes to: one after the other, before anything of it is stored.

A write sees what those before it will have done. One that is refused has no part in the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ebus.core.consumers import Subscription
from ebus.core.errors import (
    EbusError,
    IdConflict,
    MatchConflict,
    PositionConflict,
    QuotaExceeded,
    StoreFull,
    VersionConflict,
)
from ebus.core.event import Columns, Event, NewEvent, encode_event, encode_events, metadata_of
from ebus.core.limits import MAX_POSITION
from ebus.core.store import (
    Append,
    Appended,
    ChangeSubscription,
    Checked,
    Expectation,
    NoneAfter,
    Placed,
    Room,
    SaveCheckpoint,
    Write,
    Written,
    refuse_unexpected,
)


class Index(Protocol):
    """What is stored, as far as writes may have to know it."""

    def position_of(self, id: str) -> int | None:
        """Where the event with this id is."""
        ...

    def event_at(self, position: int) -> Event:
        """The event at a position that `position_of` has told."""
        ...

    def stream_version(self, stream: str) -> int:
        """As `TenantStore.stream_version`."""
        ...

    def any_match(self, condition: NoneAfter) -> int | None:
        """The position of an event that the condition excludes; None without one.

        Writers wait meanwhile: raises `InvalidExpectation` where it would have to look at too much.
        """
        ...

    def subscription(self, name: str) -> Subscription | None:
        """As `TenantStore.subscription`."""
        ...


class Plan(msgspec.Struct):
    """Writes as they are to be stored, and what to answer once they are."""

    head: int
    """The last position, once the plan is carried out."""

    results: list[Written] = []
    """What each write is answered, once the plan is carried out."""

    events: list[NewEvent] = []
    """Those that are new, at contiguous positions up to the head."""

    versions: list[int | None] | None = None
    """Of each event within its stream; None when all events are plain."""

    columns: Columns | None = None
    """Of the events, where they are known."""

    encoded: list[bytes] = []
    """The events as wire JSON: what an engine stores, and reads back as it is."""

    ids: dict[str, int] = {}
    """Positions of the events that have one."""

    streams: dict[str, int] = {}
    """The last version of each stream that changes."""

    subscriptions: dict[str, Subscription] = {}
    """Those that change, as they are then: to be stored in the same commit as the events."""

    @property
    def types(self) -> list[str]:
        """Of each event."""
        return self.columns.types if self.columns else [event.type for event in self.events]


def plan_writes(
    writes: Sequence[Write],
    checked: Checked,
    *,
    head: int,
    now: str,
    index: Index,
    room: Room | None,
) -> Plan:
    """The plan of these writes, if `head` is the last position so far.

    It stores nothing. To carry it out is to store `encoded` at the positions behind `head`, and
    `subscriptions`, in one commit, and then to answer `results`; where both are empty there is
    nothing to store. Until then nobody else may write, or the commit must fail where somebody has.

    `now` is the time stamp of events that have none. `room` is what a quota leaves, None without
    one. Raises `StoreFull` beyond the last position.
    """
    if checked.is_plain and room is None:
        return _plan_plainly(writes, checked, head, now)
    return _Planning(head, now, index, room).plan(writes, checked)


def _plan_plainly(writes: Sequence[Write], checked: Checked, head: int, now: str) -> Plan:
    """All at once: one after the other they take several times as long."""
    first_position = head + 1
    results: list[Written] = []
    accepted: list[NewEvent] = []
    for write, refusal in zip(writes, checked.refusals, strict=True):
        if refusal is not None:
            results.append(refusal)
            continue
        assert isinstance(write, Append)
        last = head + len(write.events)
        results.append(Appended(head + 1, last))
        accepted += write.events
        head = last
    _check_head(head)
    encoded = encode_events(accepted, first_position, now, columns=checked.columns)
    return Plan(head, results, accepted, None, checked.columns, encoded)


def _check_head(head: int) -> None:
    if head > MAX_POSITION:
        raise StoreFull("there are no positions left")


class _Planning:
    """Plans one write after the other."""

    def __init__(self, head: int, now: str, index: Index, room: Room | None) -> None:
        self._now = now
        self._index = index
        self._room = room
        self._first_position = head + 1
        self._plan = Plan(head)
        self._versions: list[int | None] = []

    def plan(self, writes: Sequence[Write], checked: Checked) -> Plan:
        plan = self._plan
        for write, refusal in zip(writes, checked.refusals, strict=True):
            result: Written = refusal
            if refusal is None:
                try:
                    result = self._one(write)
                except EbusError as error:
                    result = error.with_traceback(None)
            plan.results.append(result)
        _check_head(plan.head)
        plan.versions = self._versions
        return plan

    def _one(self, write: Write) -> Written:
        if self._room is not None:
            self._room.check_writable()
        if isinstance(write, Append):
            return self._append(write)
        known = self._subscription(write.name)
        before = known or Subscription()
        answer: object = None
        if isinstance(write, SaveCheckpoint):
            refuse_unexpected(before.position, write.expected)
            after = before.at(write.position)
        else:
            assert isinstance(write, ChangeSubscription)
            after, answer = write.change(before, self._plan.head)
            if after == before:
                return answer  # who only asks leaves nothing behind
        if self._room is not None and write.name not in self._plan.subscriptions:
            refusal = self._room.take_name(write.name)
            if refusal is not None:
                raise refusal
        self._plan.subscriptions[write.name] = after
        return answer

    def _subscription(self, name: str) -> Subscription | None:
        return self._plan.subscriptions.get(name) or self._index.subscription(name)

    def _append(self, write: Append) -> Appended:
        plan = self._plan
        has_names = any(it.id is not None or it.stream is not None for it in write.events)
        known = self._duplicates(write.events) if has_names else {}
        if write.expect is not None and len(known) < len(write.events):
            self._check(write.expect)
        head = plan.head
        ids: dict[str, int] = {}
        streams: dict[str, int] = {}
        placed: list[Placed] = []
        fresh: list[NewEvent] = []
        versions: list[int | None] = []
        for at, event in enumerate(write.events):
            if at in known:
                placed.append(known[at])
                continue
            if event.id is not None and event.id in ids:  # of this very append
                twin = placed[ids[event.id]]
                stored = fresh[twin.position - plan.head - 1]
                if _differs(stored, event, twin):
                    raise IdConflict(
                        "another event of the same append has this id and other content", index=at
                    )
                placed.append(msgspec.structs.replace(twin, is_duplicate=True))
                continue
            head += 1
            version = None
            if event.stream is not None:
                version = streams.get(event.stream, 0) or self._version(event.stream)
                version += 1
                streams[event.stream] = version
            if event.id is not None:
                ids[event.id] = at
            fresh.append(event)
            versions.append(version)
            placed.append(Placed(head, version, event.timestamp or self._now, False))
        encoded = encode_events(fresh, plan.head + 1, self._now, versions)
        refusal = self._take_room(encoded)
        if refusal is not None:
            raise refusal
        plan.ids |= {name: placed[at].position for name, at in ids.items()}
        plan.streams |= streams
        plan.events += fresh
        plan.encoded += encoded
        self._versions += versions
        plan.head = head
        positions = [one.position for one in placed]
        return Appended(min(positions), max(positions), tuple(placed) if has_names else ())

    def _take_room(self, encoded: list[bytes]) -> QuotaExceeded | None:
        return self._room.take_events(encoded) if self._room is not None and encoded else None

    def _version(self, stream: str) -> int:
        version = self._plan.streams.get(stream)
        return self._index.stream_version(stream) if version is None else version

    def _duplicates(self, events: Sequence[NewEvent]) -> dict[int, Placed]:
        """Those of the events that were there before this append, by their place in it."""
        known = {}
        for at, event in enumerate(events):
            if event.id is None:
                continue
            position = self._plan.ids.get(event.id)
            if position is not None:
                before = position - self._first_position
                stored, version = self._plan.events[before], self._versions[before]
                there = Placed(position, version, stored.timestamp or self._now, True)
                self._refuse_other_content(stored, event, at, there)
            else:
                position = self._index.position_of(event.id)
                if position is None:
                    continue
                found = self._index.event_at(position)
                there = Placed(position, found.version, found.timestamp, True)
                self._refuse_other_content(found, event, at, there)
            known[at] = there
        return known

    @staticmethod
    def _refuse_other_content(
        stored: NewEvent | Event, event: NewEvent, at: int, there: Placed
    ) -> None:
        if _differs(stored, event, there):
            raise IdConflict(
                f"the event at position {there.position} has this id and other content",
                current=there.position,
                index=at,
            )

    def _check(self, expect: Expectation) -> None:
        head = self._plan.head
        if expect.position is not None and expect.position != head:
            raise PositionConflict(
                f"the log is at position {head}, not at {expect.position}", current=head
            )
        for stream, version in expect.versions.items():
            current = self._version(stream)
            if current != version:
                raise VersionConflict(
                    f"the stream {stream} is at version {current}, not at {version}",
                    current=current,
                )
        if expect.none_after is not None:
            found = self._match(expect.none_after)
            if found is not None:
                raise MatchConflict(
                    f"the event at position {found} matches what was not to have come after "
                    f"{expect.none_after.position}",
                    current=found,
                )

    def _match(self, condition: NoneAfter) -> int | None:
        # Of this commit, which is bounded, those that came after.
        begin = max(0, condition.position + 1 - self._first_position)
        events = self._plan.events[begin:]
        for position, event in enumerate(events, self._first_position + begin):
            if any(wanted.matches(event, None) for wanted in condition.filters):
                return position
        return self._index.any_match(condition)


def _differs(stored: NewEvent | Event, event: NewEvent, there: Placed) -> bool:
    """Whether an event with the same id, which is `there`, is another one."""
    return (
        stored.type != event.type
        or bytes(stored.data).strip(b" \t\r\n") != bytes(event.data).strip(b" \t\r\n")
        or stored.stream != event.stream
        or (metadata_of(stored) or {}) != (metadata_of(event) or {})
        or (event.timestamp or there.timestamp) != there.timestamp
    )


def encoded_event(event: NewEvent, placed: Placed) -> bytes:
    """An event that has been appended, as wire JSON."""
    return encode_event(event, placed.position, placed.timestamp, placed.version)
