"""One tenant's log: the protocol that every engine's store fulfils, and what it passes around.

A store is one tenant. Nothing in its methods says which, so nothing can name the wrong one.
Positions are 1, 2, 3, … in commit order; a reader that has seen position n has been able to
see every position below n. Stores are synchronous and may be called from several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from ebus.core import consumers
from ebus.core.consumers import Lease, Subscription
from ebus.core.errors import (
    CheckpointConflict,
    EbusError,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidExpectation,
    InvalidFilter,
    InvalidInput,
    InvalidRange,
    PositionConflict,
    QuotaExceeded,
    StoreReadOnly,
)
from ebus.core.event import (
    CONTROL_CHARACTER,
    FEW,
    Columns,
    Event,
    NewEvent,
    check_events,
    check_text,
    plain_columns,
)
from ebus.core.filter import Filter, check_filter
from ebus.core.limits import MAX_CONDITION_FILTERS, MAX_POSITION, Limits

LOOK_AGAIN_S = 0.05
"""How often a store looks whether another process has appended, while somebody waits."""


class NoneAfter(msgspec.Struct, frozen=True):
    """That no event which matches any of the filters came after a position.

    The filters are of types and streams, 1 to 100 of them. Of types, or of a stream, the position
    may be as far back as one likes; of a prefix, or of a stream and types, an engine may refuse to
    look at too much.
    """

    position: int
    filters: tuple[Filter, ...]


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What must be true of the log for an append to be stored. Without anything set, nothing."""

    position: int | None = None
    """The head is exactly this; 0 for an empty log."""

    versions: Mapping[str, int] = {}
    """Each of these streams is at exactly this version; 0 for one without events."""

    none_after: NoneAfter | None = None
    """The general form (a dynamic consistency boundary)."""


class Append(msgspec.Struct, frozen=True):
    """Events that are stored together or not at all."""

    events: Sequence[NewEvent]
    expect: Expectation | None = None


class SaveCheckpoint(msgspec.Struct, frozen=True):
    """A position that is saved under a name: 0 to 2**63 - 1, before or beyond the head.

    With `expected` it is saved only if that is the position until then, 0 when none was saved.
    """

    name: str
    position: int
    expected: int | None = None


class ChangeSubscription(msgspec.Struct, frozen=True):
    """What a consumer does with its leases: see `ebus.core.consumers`."""

    name: str
    change: consumers.Change


Write = Append | SaveCheckpoint | ChangeSubscription


class Placed(msgspec.Struct, frozen=True):
    """Where one event of an append is."""

    position: int
    version: int | None
    """Within its stream, from 1; None without a stream."""
    timestamp: str
    is_duplicate: bool
    """It was there before: an event with the same id and the same content."""


class Appended(msgspec.Struct, frozen=True):
    """Where an append's events are: `first_position` to `last_position`, both inclusive.

    Events that were there before may lie anywhere at or below; then these are the first and the
    last of all. `events` tells of each event, when any of them has an id or a stream.
    """

    first_position: int
    last_position: int
    events: tuple[Placed, ...] = ()

    @property
    def duplicates(self) -> int:
        """How many of the events were there before."""
        return sum(event.is_duplicate for event in self.events)


Written = Appended | EbusError | object
"""What became of a write: None for a checkpoint, a consumer's answer, or why it was refused."""


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream, and the version of its last event."""

    stream: str
    version: int


class Page(msgspec.Struct, frozen=True):
    """Events in the order of their positions, or backwards.

    `next` is the position to go on from (forwards as the next start, backwards as the next stop)
    when a bound cut the page short and there may be more to read; None when the range was read
    to its end. With a filter a page may be cut short before it holds anything.
    """

    events: list[Event]
    next: int | None


class WirePage(msgspec.Struct, frozen=True):
    """A page as bytes: `chunks` are JSON objects with commas between them.

    Joining the chunks with commas and putting brackets around them gives a JSON array of
    `count` events, of which the first is at `first_position` (0 when there is none).
    """

    chunks: list[bytes]
    count: int
    first_position: int
    next: int | None


@runtime_checkable
class TenantStore(Protocol):
    """One tenant's log and checkpoints. An engine's store may inherit what has a body here.

    Raises, beside what a method names: `StoreClosed` after `close`, `StoreBusy`, `StoreFull`
    and `StoreUnavailable` when the medium cannot do it now, `StoreDamaged` when what is
    stored cannot be read.
    """

    @property
    def limits(self) -> Limits:
        """The bounds that this store was opened with."""
        ...

    def append(self, events: Sequence[NewEvent], *, expect: Expectation | None = None) -> Appended:
        """Store the events together, at contiguous positions, or raise and store none.

        When it returns, they survive `kill -9`, and a power cut too where the engine's
        durability is `full`. An event whose id is stored already, with the same type, data,
        stream, metadata and (if it has one) time stamp, is not stored again: the answer tells
        where it is. If all of them are, what is expected does not matter any more.

        Raises `InvalidBatch`, `InvalidEvent`, `EventTooLarge`, `InvalidExpectation`, also for a
        condition that would look at too many events;
        `IdConflict` for an id that is stored with other content, `PositionConflict`,
        `VersionConflict` and `MatchConflict` when what is expected is not so.
        """
        appended: Appended = self._do(Append(events, expect))
        return appended

    def _do(self, write: Write) -> Any:
        [result] = self.commit([write])
        if isinstance(result, EbusError):
            raise result
        return result

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do many independent writes in one durable commit, in the order given.

        The answer has one entry for each: where an append's events are, None for a checkpoint
        that was saved, what a consumer is answered, or the error. A write that is refused leaves
        no trace, takes no position, and harms no neighbour. An error of the medium is raised,
        and then none of them is stored.
        """
        ...

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> Page:
        """Events with `start` ≤ position ≤ `stop`, or to the end when `stop` is None.

        `start` 0 means the same as 1; a `stop` below `start` reads nothing. The page ends
        after `limit` events (1 to `limits.max_read_events`, which is the default) or after
        the event with which it passes `max_bytes` of JSON (default `limits.max_page_bytes`).
        `backwards` begins with the last event of the range. With a `filter` only events that
        match are read; as many are looked at as can be in a bounded time, then the page is cut
        short. Raises `InvalidRange` and `InvalidFilter`.
        """
        ...

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        """Streams whose names begin with the prefix, in the order of the names' code points.

        Those behind the name `after`, at most `limit` (1 to `limits.max_read_events`, which is
        the default). Raises `InvalidRange`.
        """
        ...

    def stream_version(self, stream: str) -> int:
        """The version of the stream's last event, 0 when it never had one. It never goes down."""
        ...

    def head(self) -> int:
        """The last position that was given out, 0 when there is none. It never goes down."""
        ...

    def count(self) -> int:
        """How many events are stored: the head, less what was trimmed or never taken over."""
        ...

    def wait(self, position: int, timeout_s: float) -> int:
        """Return the head once it is at `position` or beyond, or once the time is over.

        What another process appends is noticed within a twentieth of a second.
        """
        until_s = time.monotonic() + timeout_s
        while (head := self.head()) < position and time.monotonic() < until_s:
            time.sleep(min(LOOK_AGAIN_S, max(0.0, until_s - time.monotonic())))
        return head

    def checkpoint(self, name: str) -> int | None:
        """The position saved under this name; None when none ever was."""
        ...

    def save_checkpoint(self, name: str, position: int, *, expected: int | None = None) -> None:
        """Save a position (0 to 2**63 - 1) under a name, as durably as an append.

        A name has 1 to 255 characters without control characters; the position may lie
        before or beyond the head. `expected` is what it must be until then, 0 for none. Leases
        of the name end; what is parked beyond the position comes again like other events. Raises
        `InvalidCheckpoint` and `CheckpointConflict`.
        """
        self._do(SaveCheckpoint(name, position, expected))

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        """Forget a checkpoint, its leases and what is parked; says whether there was one.

        One that is there must be at `expected`, if that is given: it is looked at and forgotten
        in one. Raises `InvalidCheckpoint` for an `expected` that is none, and
        `CheckpointConflict`.
        """
        ...

    def subscription(self, name: str) -> Subscription | None:
        """A checkpoint with its leases and what is parked; None when none ever was saved."""
        ...

    def lease(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
    ) -> Lease | None:
        """Hold the next events of a subscription for a time; None when there is nothing to do.

        Events that were leased, and not acknowledged in time, are leased again, one by one. What
        fails by itself is parked after `max_attempts`. The checkpoint follows by itself. Raises
        `InvalidLease`, `InvalidCheckpoint` for a name that is none, and `TooManyParked`.
        """
        change = consumers.lease(
            max_events=max_events, seconds=seconds, max_attempts=max_attempts, limits=self.limits
        )
        given: Lease | None = self._do(ChangeSubscription(name, change))
        return given

    def acknowledge(self, name: str, lease_id: str, position: int | None = None) -> None:
        """The events of a lease up to `position` are finished; without one, all of them.

        A lease that ran out counts until somebody asks for the next one. Raises `LeaseLost`, and
        `InvalidLease` for a position outside of it.
        """
        self._do(ChangeSubscription(name, consumers.acknowledge(lease_id, position)))

    def extend_lease(self, name: str, lease_id: str, seconds: float) -> Lease:
        """Hold a lease for so many seconds from now. Raises `LeaseLost` and `InvalidLease`."""
        extended: Lease = self._do(ChangeSubscription(name, consumers.extend(lease_id, seconds)))
        return extended

    def release(
        self,
        name: str,
        lease_id: str,
        position: int | None = None,
        *,
        failed: bool = True,
        delay_s: float = 0.0,
        reason: str = "",
    ) -> None:
        """End a lease early: its events are handed out again, see `consumers.release`.

        Raises `LeaseLost` and `InvalidLease`.
        """
        change = consumers.release(
            lease_id, position, failed=failed, delay_s=delay_s, reason=reason
        )
        self._do(ChangeSubscription(name, change))

    def redeliver_parked(self, name: str, first_position: int) -> bool:
        """Hand out again what was parked at this position; says whether there was any."""
        found: bool = self._do(ChangeSubscription(name, consumers.redeliver_parked(first_position)))
        return found

    def drop_parked(self, name: str, first_position: int) -> bool:
        """Forget that something is parked at this position; says whether there was any."""
        found: bool = self._do(ChangeSubscription(name, consumers.drop_parked(first_position)))
        return found

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        """Checkpoints whose names begin with the prefix, in the order of the names' code points.

        Those behind the name `after`, at most `limit` (1 or more), and all of them without one.
        Raises `InvalidRange`.
        """
        ...

    def close(self) -> None:
        """Finish what is under way and let go of every resource. Twice is fine."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class SupportsWireRead(Protocol):
    """The power to read events straight to the JSON that goes over the wire."""

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> WirePage:
        """Like `TenantStore.read`, bounds and errors included, but as bytes."""
        ...


class QuickReads(Protocol):
    """Reads that wait for no lock: they raise `StoreBusy` at once where a store would wait.

    For one thread. Closing the store closes it.
    """

    def head(self) -> int:
        """Like `TenantStore.head`."""
        ...

    def checkpoint(self, name: str) -> int | None:
        """Like `TenantStore.checkpoint`."""
        ...

    def subscription(self, name: str) -> Subscription | None:
        """Like `TenantStore.subscription`."""
        ...

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> WirePage:
        """Like `SupportsWireRead.read_wire`."""
        ...

    def close(self) -> None:
        """Let go of every resource. Twice is fine."""
        ...


@runtime_checkable
class SupportsQuickReads(Protocol):
    """The power to read so quickly, from this machine, that handing it to a thread costs more."""

    def quick_reads(self) -> QuickReads:
        """A way to read for one more thread."""
        ...


@runtime_checkable
class SupportsQuickCommit(Protocol):
    """The power to commit so quickly that handing it to a thread costs more."""

    def commit_quickly(self, writes: Sequence[Write]) -> list[Written] | None:
        """Like `TenantStore.commit`; None, with nothing done, where it would wait or sync."""
        ...


@runtime_checkable
class SupportsWatch(Protocol):
    """The power to tell that others have written, in another process or on another machine.

    Who waits for events on an event loop then hears of them, without asking again and again.
    """

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        """Have `moved` called soon after somebody else has written to this tenant.

        That is after events, checkpoints and leases that are written once this has returned. It is
        called in any thread, by one at a time or by several; it is quick, and raises nothing. One
        call may stand for many writes, and there may be calls for nothing, such as for what was
        written through this store. After a while in which news may have been lost, as when a
        connection was cut, it is called once.

        What is returned ends that, and waits for nobody: a call that is under way may come yet.
        Twice is fine. Closing the store ends it too. Raises `StoreClosed` and `StoreUnavailable`.
        """
        ...


@runtime_checkable
class SupportsPutAway(Protocol):
    """The power to be closed for a while, at less cost than for good."""

    def put_away(self) -> None:
        """Like `TenantStore.close`, for a tenant that is likely to be opened again.

        What is left to do is done when it is opened and closed, or when its engine is closed.
        """
        ...


@runtime_checkable
class SupportsTrim(Protocol):
    """The power to forget the oldest events."""

    def trim(self, through: int) -> None:
        """Forget every event at or below `through`, durably. The head stays where it is.

        Positions are not used again, and a read that starts below goes on with the first
        event that is left. Raises `InvalidRange` for a position beyond the head.
        """
        ...


@runtime_checkable
class SupportsGaps(Protocol):
    """The power to leave positions out, as a log has them of which events were trimmed."""

    def leave_gap(
        self, through: int, *, versions: Mapping[str, int] | None = None, expected: int
    ) -> None:
        """Have the head at `through`, durably, with nothing at the positions up to there.

        `expected` is the head until then; with `through` at the head no position is left out.
        Streams named in `versions`, which must have no version yet, are at these then, as if the
        events before had been trimmed. Raises `PositionConflict`, `InvalidRange` for a position
        before the head, and `InvalidExpectation` for a stream that has a version.
        """
        ...


@runtime_checkable
class SupportsIdLookup(Protocol):
    """The power to say which ids are taken."""

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Where the events are whose ids are among these."""
        ...


@runtime_checkable
class SupportsEventSize(Protocol):
    """The power to say how large an event may be where it is stored, whatever the limits say."""

    def max_event_json_bytes(self) -> int:
        """Bytes of its wire JSON, with a position and a version of any length.

        A larger one is refused with `EventTooLarge`. Raises `StoreUnavailable`.
        """
        ...


class Quota(msgspec.Struct, frozen=True):
    """How much a tenant may store; None means as much as there is room for."""

    max_events: int | None = None
    """Events that are kept, from 1 on."""

    max_bytes: int | None = None
    """Bytes that the tenant takes where it is stored, from 1 on, as `stored_bytes` says."""

    is_read_only: bool = False
    """Whether nothing may be stored at all, for the time being."""


NO_QUOTA = Quota()


@runtime_checkable
class SupportsQuota(Protocol):
    """The power to keep a tenant within bounds."""

    def stored_bytes(self) -> int:
        """Bytes that the tenant takes where it is stored, without what only passes through."""
        ...

    def set_quota(self, quota: Quota) -> None:
        """From the next write on, refuse with `QuotaExceeded` what would go beyond.

        That is each append by itself, after which there would be more events or bytes, and each
        checkpoint of a new name where the bytes are used up. What is stored already stays.
        Where it is read-only, every write is refused with `StoreReadOnly`.
        """
        ...


class Room:
    """What a quota leaves to a tenant, while writes are laid out one after the other.

    `events` and `size_bytes` are what is stored before them, `knows` says whether there is a
    checkpoint of a name.

    A write counts by the JSON of its events, or by its name when that is new. Not counted is what
    it adds beside: leases, and what waits or is parked, of a name that is known; rows of indexes
    (ids, streams, types). Where the engine stores it, it is in the `size_bytes` of the next commit.
    """

    def __init__(
        self, quota: Quota, *, events: int, size_bytes: int, knows: Callable[[str], bool]
    ) -> None:
        self._quota = quota
        self._events = events
        self._size_bytes = size_bytes
        self._knows = knows

    def check_writable(self) -> None:
        """Raise `StoreReadOnly` unless something may be written."""
        if self._quota.is_read_only:
            raise StoreReadOnly("the tenant is read-only for the time being")

    def take_events(self, encoded: Sequence[bytes]) -> QuotaExceeded | None:
        """Take the room for an append; or say why there is too little, and take none."""
        most = self._quota.max_events
        if most is not None and self._events + len(encoded) > most:
            return QuotaExceeded(f"this tenant may store at most {most} events")
        refusal = self._take_bytes(sum(map(len, encoded)))
        if refusal is None:
            self._events += len(encoded)
        return refusal

    def take_name(self, name: str) -> QuotaExceeded | None:
        """The same for a checkpoint, which takes room when its name is new."""
        if self._quota.max_bytes is None or self._knows(name):
            return None
        return self._take_bytes(len(name.encode()))

    def _take_bytes(self, size_bytes: int) -> QuotaExceeded | None:
        most = self._quota.max_bytes
        if most is not None and self._size_bytes + size_bytes > most:
            return QuotaExceeded(f"this tenant may store at most {most} bytes")
        self._size_bytes += size_bytes
        return None


def check_gap(
    through: int,
    versions: Mapping[str, int],
    expected: int,
    *,
    head: int,
    version_of: Callable[[str], int],
    limits: Limits,
) -> None:
    """Refuse what `leave_gap` refuses. `head` is where the log is."""
    check_expectation(Expectation(position=expected, versions=versions), limits)
    for stream in versions:
        if version := version_of(stream):
            raise InvalidExpectation(f"the stream {stream} is at version {version} already")
    if expected != head:
        raise PositionConflict(f"the log is at position {head}, not at {expected}", current=head)
    if not head <= through <= MAX_POSITION:
        raise InvalidRange(f"a gap ends at {head} to {MAX_POSITION}, not at {through}")


class ReadBounds(msgspec.Struct, frozen=True):
    """What a read's arguments come to once they are checked and the defaults filled in."""

    start: int
    stop: int
    limit: int
    max_bytes: int


def check_range(
    start: int,
    stop: int | None,
    limit: int | None,
    max_bytes: int | None,
    limits: Limits,
    filter: Filter | None = None,
) -> ReadBounds:
    """The bounds of a read, or `InvalidRange` or `InvalidFilter`. Every store calls this first."""
    if filter is not None:
        check_filter(filter, limits)
    if not 0 <= start <= MAX_POSITION:
        raise InvalidRange(f"a read starts at 0 to {MAX_POSITION}, not at {start}")
    if stop is not None and not 0 <= stop <= MAX_POSITION:
        raise InvalidRange(f"a read stops at 0 to {MAX_POSITION}, not at {stop}")
    if limit is not None and not 1 <= limit <= limits.max_read_events:
        raise InvalidRange(f"a read is limited to 1 to {limits.max_read_events} events")
    if max_bytes is not None and max_bytes < 1:
        raise InvalidRange("a read holds at least 1 byte")
    return ReadBounds(
        max(start, 1),
        MAX_POSITION if stop is None else stop,
        limit or limits.max_read_events,
        max_bytes or limits.max_page_bytes,
    )


_PLAIN_SEQUENCES = frozenset({list, tuple})


class Checked(msgspec.Struct, frozen=True):
    """Writes that have been looked at."""

    refusals: list[InvalidInput | None]
    """Why each of the writes cannot be done, if it cannot."""

    is_plain: bool
    """Whether all that can be done are appends of plain events, of which nothing is expected."""

    columns: Columns | None = None
    """All events of the writes, if all of them can be done and it was worth to make columns."""


def check_writes(writes: Sequence[Write], limits: Limits) -> Checked:
    """Look at writes by themselves. Every store does before it commits."""
    if len(writes) == 1 and _is_small(writes[0]):  # the common case, at less cost
        found = _refusal_of(writes[0], limits)
        if isinstance(found, InvalidInput):
            return Checked([found], is_plain=False)
        return Checked([None], found is True)
    plain = [write.events for write in writes if type(write) is Append and write.expect is None]
    columns = _plain_columns(plain, limits)
    if columns is not None and len(plain) == len(writes):
        return Checked([None] * len(writes), is_plain=True, columns=columns)
    looked_at = [
        True
        if columns is not None and type(write) is Append and write.expect is None
        else _refusal_of(write, limits)
        for write in writes
    ]
    return Checked(
        [it if isinstance(it, InvalidInput) else None for it in looked_at],
        is_plain=None not in looked_at,
    )


def _is_small(write: Write) -> bool:
    return not (isinstance(write, Append) and write.events) or len(write.events) < FEW


def _plain_columns(appends: list[Sequence[NewEvent]], limits: Limits) -> Columns | None:
    """The events of all these appends, if they are many and nothing is wrong with them."""
    if not set(map(type, appends)) <= _PLAIN_SEQUENCES:
        return None
    sizes = list(map(len, appends))
    if sum(sizes) < FEW or not min(sizes) or max(sizes) > limits.max_batch_events:
        return None
    events = appends[0] if len(appends) == 1 else list(chain.from_iterable(appends))
    return plain_columns(events, limits)


def _refusal_of(write: Write, limits: Limits) -> InvalidInput | bool | None:
    """The refusal; or True for a plain append that expects nothing, None for any other write."""
    try:
        if isinstance(write, Append):
            is_plain = check_events(write.events, limits)
            if write.expect is None:
                return is_plain or None
            check_expectation(write.expect, limits)
            return None
        if isinstance(write, SaveCheckpoint):
            check_checkpoint(write.name, write.position, limits)
            if write.expected is not None:
                check_saved_position(write.expected)
        else:
            check_checkpoint(write.name, 0, limits)
    except InvalidInput as refusal:
        # Without where it was raised: from there it would lead to itself, among other answers,
        # and keep the events until the garbage collector comes by.
        return refusal.with_traceback(None)
    return None


def refuse_unexpected(position: int, expected: int | None) -> None:
    """Raise `CheckpointConflict` unless a checkpoint at this position is what is expected."""
    if expected is not None and position != expected:
        raise CheckpointConflict(
            f"the checkpoint is at {position}, not at {expected}", current=position
        )


def check_expectation(expect: Expectation, limits: Limits) -> None:
    """Raise `InvalidExpectation` or `InvalidFilter` unless this can be expected."""
    if expect.position is not None:
        _check_expected("position", expect.position)
    for stream, version in expect.versions.items():
        try:
            check_text(stream, limits.max_stream_chars, field="stream")
        except InvalidEvent as error:
            raise InvalidExpectation(f"the stream of an expected version {error.problem}") from None
        _check_expected("version", version)
    if len(expect.versions) > limits.max_batch_events:
        raise InvalidExpectation(f"at most {limits.max_batch_events} versions can be expected")
    if expect.none_after is not None:
        _check_none_after(expect.none_after, limits)


def _check_none_after(condition: NoneAfter, limits: Limits) -> None:
    if not _is_whole_number(condition.position):
        raise InvalidExpectation(f"none_after: position is {_WHOLE_NUMBER}")
    if not 1 <= len(condition.filters) <= MAX_CONDITION_FILTERS:
        raise InvalidExpectation(f"none_after: there are 1 to {MAX_CONDITION_FILTERS} filters")
    for number, wanted in enumerate(condition.filters):
        try:
            check_filter(wanted, limits)
        except InvalidFilter as error:
            raise InvalidFilter(f"none_after: filter {number}: {error}") from None
        if wanted != Filter(
            types=wanted.types, stream=wanted.stream, stream_prefix=wanted.stream_prefix
        ):
            raise InvalidExpectation(
                f"none_after: filter {number}: may be of types and streams only"
            )


def _check_expected(what: str, value: int) -> None:
    if not _is_whole_number(value):
        raise InvalidExpectation(f"an expected {what} is {_WHOLE_NUMBER}")


_WHOLE_NUMBER = f"a whole number from 0 to {MAX_POSITION}"


def _is_whole_number(value: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_POSITION


def check_checkpoint(name: str, position: int, limits: Limits) -> None:
    """Raise `InvalidCheckpoint` unless this can be saved."""
    if not isinstance(name, str) or not 1 <= len(name) <= limits.max_subscription_id_chars:
        raise InvalidCheckpoint(
            f"a checkpoint's name has 1 to {limits.max_subscription_id_chars} characters"
        )
    if CONTROL_CHARACTER.search(name):
        raise InvalidCheckpoint("a checkpoint's name holds no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidCheckpoint("a checkpoint's name holds no lone surrogates") from None
    check_saved_position(position)


def check_list_limit(limit: int | None) -> None:
    """Raise `InvalidRange` unless a list of checkpoints can have at most so many."""
    if limit is not None and not 1 <= limit <= MAX_POSITION:
        raise InvalidRange(f"a list is limited to 1 to {MAX_POSITION} checkpoints")


def check_saved_position(position: int) -> None:
    """Raise `InvalidCheckpoint` unless this can be where a checkpoint is."""
    if isinstance(position, bool) or not isinstance(position, int):
        raise InvalidCheckpoint("a checkpoint's position is a whole number")
    if not 0 <= position <= MAX_POSITION:
        raise InvalidCheckpoint(f"a checkpoint's position is 0 to {MAX_POSITION}")
