"""What a tenant's writer knows: where the log is, and what is in it that a write may depend on.

Several servers may write to one log. Each commit says behind which sequence it belongs; when
another one was quicker it is refused whole, and what has come since is read before the next try.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from ebus.backends.jetstream.bucket import Bucket, Held
from ebus.backends.jetstream.faults import WrongSequence
from ebus.backends.jetstream.ids import IdIndex
from ebus.backends.jetstream.messages import Message, seen_in
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.pacing import pauses
from ebus.backends.jetstream.reading import search
from ebus.backends.jetstream.rules import check_settings
from ebus.backends.jetstream.stream import Stream, StreamInfo
from ebus.core.consumers import Subscription
from ebus.core.errors import InvalidExpectation, StoreDamaged, StoreUnavailable
from ebus.core.event import Event
from ebus.core.filter import Filter
from ebus.core.limits import MAX_LOOKED_AT_EVENTS, MAX_POSITION, MIB
from ebus.core.plan import Index, Plan
from ebus.core.store import (
    Append,
    ChangeSubscription,
    NoneAfter,
    ReadBounds,
    SaveCheckpoint,
    Write,
)

MAX_CATCH_UP = 2_000
"""Events of others that are read after a conflict; with more, what was known is forgotten."""

MAX_RECENT = 256
"""Events before the head that are looked at one by one for what must not be among them."""

LOOK_AGAIN_S = 5.0
"""How long a stream may be other than it was without anybody noticing."""

MAX_KNOWN_VERSIONS = 50_000
"""Streams whose versions are remembered."""


class Known(Index):
    """The state of a log, and the index of it. Held by one thread at a time."""

    def __init__(
        self, log: Stream, bucket: Bucket, ids: IdIndex, names: Names, created: str
    ) -> None:
        self._log = log
        self._bucket = bucket
        self._ids = ids
        self._names = names
        self._created = created
        self._looked_s = time.monotonic()
        self.is_current = False
        """Whether all of this is so, unless somebody else has written."""
        self.head = 0
        self.recorded_ns = 0
        """When the last event was recorded."""
        self.first_position = 1
        self.events = 0
        self.size_bytes = 0
        self._versions: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        """Streams whose versions were asked for, and where their last events were said to be.

        Who has answered may not have known of all that is stored: a leader that has been replaced
        answers until it is told. So the server compares when the stream is next written to.
        """
        self._found_ids: dict[str, int] = {}
        self.held: dict[str, Held] = {}
        """Subscriptions that the writes at hand are about."""

    def refresh(self, info: StreamInfo | None = None) -> None:
        """Ask the leader where the log is, and read what has come since."""
        info = info or self.info()
        check_settings(info.config, self._names)
        state = info.state
        moved = state.last_seq - self.head
        if not self.is_current or moved:
            self._catch_up(moved, state.last_seq)
        self.head = state.last_seq
        self.first_position = max(1, state.first_seq)
        self.events = state.messages
        self.size_bytes = state.bytes
        self.is_current = True

    def look_again(self) -> bool:
        """Now and then: an operator may have changed a stream, or made another one of its name.

        Says whether it has.
        """
        if time.monotonic() < self._looked_s + LOOK_AGAIN_S:
            return False
        self.refresh()
        check_settings(self._bucket.stream.info().config, self._names)
        self._looked_s = time.monotonic()
        return True

    def info(self) -> StreamInfo:
        """What a leader says that has all that is known here.

        One that has been replaced, or has only just begun, may lack some. Raises `StoreUnavailable`
        when that does not pass, and `StoreDamaged` for another log than the one that was opened.
        """
        least = self.head
        until_s = time.monotonic() + self._log.timeout_s
        for pause_s in pauses():
            info = self._log.info()
            if info.created != self._created:
                raise StoreDamaged(
                    f"the stream {self._names.log} was deleted, and is another one now"
                )
            agrees = info.state.last_seq >= least
            self._log.agree(agrees=agrees)
            if agrees:
                return info
            if time.monotonic() > until_s:
                break
            time.sleep(pause_s)
        raise StoreUnavailable(
            f"{self._names.log}: the leader is at {info.state.last_seq}, behind {least}"
        )

    def _catch_up(self, moved: int, last: int) -> None:
        if self.is_current and 0 < moved <= MAX_CATCH_UP:
            ids: dict[str, int] = {}
            for message in self._log.read_through(
                self._names.events, self.head + 1, last, many=MAX_CATCH_UP, max_bytes=4 * MIB
            ):
                seen = seen_in(message)
                if seen.id is not None:
                    ids[seen.id] = message.sequence
                if seen.stream is not None:
                    self._know(seen.stream, seen.version or 0)
                self.recorded_ns = max(self.recorded_ns, message.recorded_ns)
            self._ids.note(ids, last)
            return
        self._versions.clear()
        self._asked.clear()
        self._ids.lose(last)
        newest = self._log.last(self._names.events) if last else None
        if newest is not None:
            self.recorded_ns = max(self.recorded_ns, newest.recorded_ns)

    def prepare(self, writes: Sequence[Write]) -> None:
        """Ask for all that these writes may have to know, at once instead of one by one.

        They must have been checked.
        """
        self._found_ids.clear()
        self.held.clear()
        ids: set[str] = set()
        streams: set[str] = set()
        subscriptions: set[str] = set()
        for write in writes:
            if isinstance(write, Append):
                ids.update(it.id for it in write.events if it.id is not None)
                streams.update(it.stream for it in write.events if it.stream is not None)
                if write.expect is not None:
                    streams.update(write.expect.versions)
            elif isinstance(write, SaveCheckpoint | ChangeSubscription):
                subscriptions.add(write.name)
        if ids:
            self._found_ids = self._ids.look_up(ids, self.first_position)
        self._look_up_versions(streams)
        if subscriptions:
            self.held = self._bucket.subscriptions(subscriptions)

    def _look_up_versions(self, streams: Iterable[str]) -> None:
        missing = [it for it in streams if it not in self._versions]
        if len(self._versions) + len(missing) > MAX_KNOWN_VERSIONS:
            self._versions.clear()
            self._asked.clear()
            missing = list(streams)
        for name, it in ends_of(self._log, self._bucket, self._names, missing).items():
            self._versions[name] = it.version
            self._asked[name] = it.sequence

    def _know(self, stream: str, version: int) -> None:
        self._versions[stream] = version
        self._asked.pop(stream, None)

    def doubt(self) -> None:
        """Forget what was asked for, and has not been compared since."""
        for name in self._asked:
            self._versions.pop(name, None)
        self._asked.clear()

    def expected_of(self, stream: str) -> int | None:
        """Where the last event of a stream has to be; None when that is known here."""
        return self._asked.get(stream)

    def stored(self, plan: Plan, recorded_ns: int, size_bytes: int) -> None:
        """A plan was stored on top of this."""
        self.head = plan.head
        self.events += len(plan.encoded)
        self.size_bytes += size_bytes
        self.recorded_ns = recorded_ns
        for name, version in plan.streams.items():
            self._know(name, version)
        self._ids.note(plan.ids, plan.head)

    # The index of core.

    def position_of(self, id: str) -> int | None:
        return self._found_ids.get(id)

    def event_at(self, position: int) -> Event:
        message = self._log.next(self._names.events, position)
        if message is not None and message.sequence == position:
            return message.event
        if self.info().state.first_seq > position:  # another server has trimmed it
            raise WrongSequence(str(position))
        raise StoreDamaged(f"{self._names.log}: there is no event at {position}")

    def stream_version(self, stream: str) -> int:
        if stream not in self._versions:
            self._look_up_versions([stream])
        return self._versions[stream]

    def any_match(self, condition: NoneAfter) -> int | None:
        if condition.position >= self.head:
            return None
        begin = condition.position + 1
        recent = max(begin, self.head - MAX_RECENT + 1)
        bounds = ReadBounds(begin, recent - 1, 1, MAX_POSITION)
        found = [self._first_match(wanted, bounds) for wanted in condition.filters]
        # Of what was stored last, a replica or a leader of old may not know: so all is looked at.
        found += [
            message.sequence
            for message in self._log.read_through(
                self._names.events, recent, self.head, many=MAX_RECENT, max_bytes=4 * MIB
            )
            if _matches(condition, message)
        ][:1]
        return min((it for it in found if it is not None), default=None)

    def _first_match(self, wanted: Filter, bounds: ReadBounds) -> int | None:
        found = search(self._log, self._names, bounds, wanted, backwards=False, head=self.head)
        if not found and found.next is not None:
            raise InvalidExpectation(
                f"none_after: more than {MAX_LOOKED_AT_EVENTS} events would have to be looked at"
            )
        return found[0][0] if found else None

    def subscription(self, name: str) -> Subscription | None:
        held = self.held.get(name)
        return None if held is None else held.subscription


class StreamEnd(msgspec.Struct, frozen=True):
    """A stream's version, and where its last event is: 0 where it has none, or none any more."""

    version: int
    sequence: int


def versions_of(
    log: Stream, bucket: Bucket, names: Names, streams: Sequence[str]
) -> dict[str, int]:
    """The versions of streams: their last events', or where those were trimmed the bucket's."""
    return {name: it.version for name, it in ends_of(log, bucket, names, streams).items()}


def ends_of(
    log: Stream, bucket: Bucket, names: Names, streams: Sequence[str]
) -> dict[str, StreamEnd]:
    """As `versions_of`, with where the last events are."""
    versions = dict.fromkeys(streams, 0) | bucket.versions(streams)
    last = log.ask_leader([{"last_by_subj": names.of_stream(it)} for it in streams])
    ends = {}
    for stream, message in zip(streams, last, strict=True):
        version, sequence = versions[stream], 0
        if message is not None:
            version, sequence = max(version, version_in(message)), message.sequence
        ends[stream] = StreamEnd(version, sequence)
    return ends


def _matches(condition: NoneAfter, message: Message) -> bool:
    seen = seen_in(message)
    return any(wanted.matches(seen, seen.version) for wanted in condition.filters)


def version_in(message: Message) -> int:
    return seen_in(message).version or 0


def gone(names: Names) -> StoreDamaged:
    """That a stream is not there which was."""
    return StoreDamaged(
        f"the stream {names.log} or its bucket {names.bucket} was deleted: both have to be there"
    )
