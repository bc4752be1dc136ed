"""One tenant's log in JetStream: a stream whose sequences are the positions, and a bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from ebus.backends.jetstream.bucket import (
    SUBSCRIPTION,
    VERSION,
    Bucket,
    Mirror,
    subscription_in,
)
from ebus.backends.jetstream.bucket import version_in as saved_version_in
from ebus.backends.jetstream.client import Outgoing
from ebus.backends.jetstream.connection import pauses
from ebus.backends.jetstream.faults import NoStream, WrongSequence
from ebus.backends.jetstream.ids import IdIndex
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import (
    EXPECTED_KEY,
    EXPECTED_KEY_SEQUENCE,
    HEADER_BYTES,
    MAX_BATCH_MESSAGES,
    RECORDED,
    Message,
    header,
    payload_of,
    seen_in,
)
from ebus.backends.jetstream.naming import Names, name_of
from ebus.backends.jetstream.news import News
from ebus.backends.jetstream.reading import Found, first_recorded, read_forwards, search
from ebus.backends.jetstream.stream import Stream, purge
from ebus.backends.jetstream.stream import StreamInfo as JetStreamInfo
from ebus.backends.jetstream.writing import Known, gone, versions_of
from ebus.core.consumers import Subscription
from ebus.core.errors import (
    Conflict,
    EbusError,
    EventTooLarge,
    InvalidRange,
    StoreBusy,
    StoreClosed,
    StoreUnavailable,
)
from ebus.core.event import decode_event, encode_event, event_bytes, utc_now
from ebus.core.filter import Filter
from ebus.core.limits import MAX_POSITION, MIB, Limits
from ebus.core.plan import Plan, plan_writes
from ebus.core.store import (
    NO_QUOTA,
    Append,
    ChangeSubscription,
    Checked,
    Page,
    Quota,
    Room,
    StreamInfo,
    SupportsEventSize,
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsTrim,
    SupportsWatch,
    SupportsWireRead,
    TenantStore,
    WirePage,
    Write,
    Written,
    check_gap,
    check_list_limit,
    check_range,
    check_saved_position,
    check_writes,
    refuse_unexpected,
)

LOOK_AGAIN_S = 1.0
"""How often who waits asks for the head, in case that news of it was lost."""

MAX_TRIES = 100
"""How often a commit is tried anew because another server was quicker."""

MAX_FILLED = 100_000
"""Positions that can be left out behind events that are stored: each is filled and emptied."""

_ASKED_AT_ONCE = 500


class JetStreamStore(
    TenantStore,
    SupportsWireRead,
    SupportsTrim,
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsEventSize,
    SupportsWatch,
):
    """One tenant's log."""

    def __init__(
        self, link: Link, names: Names, log: Stream, bucket: Stream, created: str, limits: Limits
    ) -> None:
        self._link = link
        self._names = names
        self._log = log
        self._news = News(link, names)
        self._bucket = Bucket(bucket, names, self._news)
        self._ids = IdIndex(link, log, bucket, names)
        self._known = Known(log, self._bucket, self._ids, names, created)
        self._limits = limits
        self._quota = NO_QUOTA
        self._writing = threading.Lock()
        self._mirrors = {
            kind: Mirror(self._bucket, names, kind) for kind in (SUBSCRIPTION, VERSION)
        }
        self._mirroring = threading.Lock()
        self._changed = threading.Condition()
        """Told when a call has ended, and when the log may have grown."""
        self._calls = 0
        self._closed = False
        self._seen = 0
        """A position that somebody has said is stored."""

    @property
    def limits(self) -> Limits:
        return self._limits

    # Writing.

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        with self._call(), self._writing:
            results: list[Written] = []
            for some in _chunks(writes):
                try:
                    results += self._commit(some)
                except EbusError as error:
                    if not results:
                        raise
                    # What came before is stored, and its callers are to know it.
                    results += [error] * (len(writes) - len(results))
                    break
            return results

    def _commit(self, writes: Sequence[Write]) -> list[Written]:
        known = self._known
        checked = self._check(writes)
        good = [it for it, no in zip(writes, checked.refusals, strict=True) if no is None]
        is_fresh = True
        if not known.is_current:
            known.refresh()
            self._ids.catch_up()
        elif self._quota != NO_QUOTA or any(isinstance(it, ChangeSubscription) for it in writes):
            known.refresh()  # what others have stored counts too
        else:
            is_fresh = known.look_again()
        settling = self._settling()
        for _ in range(MAX_TRIES):
            if not checked.is_plain:
                known.prepare(good)
            try:
                plan = plan_writes(
                    writes,
                    checked,
                    head=known.head,
                    now=utc_now(),
                    index=known,
                    room=self._room(),
                )
                if not plan.encoded and not is_fresh and _has_conflict(plan):
                    # Nothing is stored that would tell: another server's events may say otherwise.
                    is_fresh = True
                    known.doubt()
                    known.refresh()
                    continue
                self._store(plan)
            except WrongSequence:
                is_fresh = True
                self._look_again(settling)
                continue
            except StoreUnavailable:
                known.is_current = False
                raise
            self._save_subscriptions(writes, checked, plan)
            return plan.results
        raise StoreBusy(f"{self._names.log}: others write so much that nothing else gets through")

    def _look_again(self, settling: Iterator[float]) -> None:
        """What was known is not so, or not any more."""
        known, before = self._known, self._known.head
        known.doubt()
        known.refresh()
        if known.head == before:
            time.sleep(next(settling))

    def _settling(self) -> Iterator[float]:
        """Pauses, until who has answered knows of what came before us, or that is given up."""
        until_s = time.monotonic() + self._log.timeout_s
        for pause_s in pauses():
            if time.monotonic() > until_s:
                raise StoreUnavailable(f"{self._names.log}: what was sent before is not stored yet")
            yield pause_s

    def _check(self, writes: Sequence[Write]) -> Checked:
        """As every store does; and what the server would not take is refused before it is sent."""
        checked = check_writes(writes, self._limits)
        most = self.max_event_json_bytes()
        for at, write in enumerate(writes):
            if isinstance(write, Append) and checked.refusals[at] is None:
                checked.refusals[at] = _too_large(write, most, self._limits)
        return checked

    def _room(self) -> Room | None:
        if self._quota == NO_QUOTA:
            return None
        known = self._known
        size_bytes = known.size_bytes
        if self._quota.max_bytes is not None:
            size_bytes += self._bucket.stream.info().state.bytes
        return Room(
            self._quota,
            events=known.events,
            size_bytes=size_bytes,
            knows=lambda name: known.subscription(name) is not None,
        )

    def _store(self, plan: Plan) -> None:
        """Store what was planned, if the log is still where it was."""
        if not plan.encoded:
            return
        known = self._known
        # A clock that was set back must not part events from their order.
        recorded_ns = max(known.recorded_ns, time.time_ns())
        headers = header(RECORDED, recorded_ns)
        subject = self._names.subject
        messages = [
            Outgoing(subject(event.type, event.stream), payload_of(encoded, position), headers)
            for position, (event, encoded) in enumerate(
                zip(plan.events, plan.encoded, strict=True), known.head + 1
            )
        ]
        if plan.streams:
            self._expect_streams(plan, messages)
        self._log.append(messages, behind=known.head, news=self._news.of(plan.head))
        known.stored(plan, recorded_ns, sum(len(it.payload) for it in messages))
        self._told(plan.head)

    def _expect_streams(self, plan: Plan, messages: list[Outgoing]) -> None:
        """Have the server compare where streams are that were asked for."""
        expected = {it: self._known.expected_of(it) for it in plan.streams}
        for at, event in enumerate(plan.events):
            sequence = None if event.stream is None else expected.pop(event.stream, None)
            if event.stream is not None and sequence is not None:
                one = messages[at]
                headers = header(EXPECTED_KEY_SEQUENCE, sequence)
                headers += header(EXPECTED_KEY, self._names.of_stream(event.stream))
                messages[at] = Outgoing(one.subject, one.payload, one.headers + headers)

    def _save_subscriptions(self, writes: Sequence[Write], checked: Checked, plan: Plan) -> None:
        """Store the subscriptions that the plan changes. Each is by itself: a write is of one."""
        known = self._known
        for name in plan.subscriptions:
            mine = [
                at
                for at, write in enumerate(writes)
                if not isinstance(write, Append)
                and write.name == name
                and checked.refusals[at] is None
            ]
            try:
                self._save_subscription(name, [writes[at] for at in mine], mine, plan)
            except EbusError as error:
                known.is_current = False
                for at in mine:
                    plan.results[at] = error

    def _save_subscription(
        self, name: str, writes: Sequence[Write], places: Sequence[int], plan: Plan
    ) -> None:
        known = self._known
        after: Subscription | None = plan.subscriptions[name]
        for _ in range(MAX_TRIES):
            if after is None:
                return
            try:
                self._bucket.save(name, after, behind=known.held[name].sequence)
            except WrongSequence:  # another server has changed it: once more, on top of that
                known.held |= self._bucket.subscriptions([name])
            else:
                return
            again = plan_writes(
                writes,
                Checked([None] * len(writes), is_plain=False),
                head=plan.head,
                now=utc_now(),
                index=known,
                room=self._room(),
            )
            for at, result in zip(places, again.results, strict=True):
                plan.results[at] = result
            after = again.subscriptions.get(name)
        raise StoreBusy(f"{self._names.log}: others change {name!r} all the time")

    # Reading.

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
        found = self._read(start, stop, limit, max_bytes, filter, backwards)
        return Page([decode_event(wire) for _, wire in found], found.next)

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
        found = self._read(start, stop, limit, max_bytes, filter, backwards)
        first_position = found[0][0] if found else 0
        return WirePage([wire for _, wire in found], len(found), first_position, found.next)

    def _read(
        self,
        start: int,
        stop: int | None,
        limit: int | None,
        max_bytes: int | None,
        wanted: Filter | None,
        backwards: bool,
    ) -> Found:
        bounds = check_range(start, stop, limit, max_bytes, self._limits, wanted)
        with self._call():
            if bounds.start > bounds.stop:
                return Found()
            if wanted is None and not backwards:
                stored = max(self._seen, self._known.head)
                return read_forwards(self._log, self._names, bounds, stored)
            state = self._info().state
            head = state.last_seq
            if wanted is not None:
                first = max(1, state.first_seq)
                start, stop = bounds.start, min(bounds.stop, head)
                for since_ns, is_end in ((wanted.since_ns, False), (wanted.until_ns, True)):
                    if since_ns is None:
                        continue
                    at = first_recorded(self._log, self._names, since_ns, first, head)
                    start, stop = (start, min(stop, at - 1)) if is_end else (max(start, at), stop)
                bounds = type(bounds)(start, stop, bounds.limit, bounds.max_bytes)
            if backwards:
                bounds = type(bounds)(
                    max(bounds.start, state.first_seq, 1),
                    bounds.stop,
                    bounds.limit,
                    bounds.max_bytes,
                )
            return search(self._log, self._names, bounds, wanted, backwards=backwards, head=head)

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        bounds = check_range(1, None, limit, None, self._limits)
        with self._call():
            versions = {
                name: version
                for name, version in self._trimmed_streams().items()
                if name.startswith(prefix) and name > after
            }
            names = {
                name
                for token in self._stream_tokens()
                if (name := self._stream_named(token)).startswith(prefix) and name > after
            }
            wanted = sorted(names | versions.keys())[: bounds.limit]
            found: dict[str, int] = {}
            for at in range(0, len(wanted), _ASKED_AT_ONCE):
                few = wanted[at : at + _ASKED_AT_ONCE]
                found |= versions_of(self._log, self._bucket, self._names, few)
            return [StreamInfo(name, found[name]) for name in wanted]

    def _stream_tokens(self) -> set[str]:
        """Of all streams that have events."""
        tokens: set[str] = set()
        seen = 0
        while True:
            info = self._log.info(subjects=self._names.events, offset=seen)
            subjects = info.state.subjects
            tokens.update(it for it in map(self._names.stream_token, subjects) if it is not None)
            seen += len(subjects)
            if not subjects or seen >= info.total:
                return tokens

    def _stream_named(self, token: str) -> str:
        name = name_of(token)
        if name is None:  # too long for a subject: the events have it
            message = self._log.last(f"{self._names.root}.s{token}.*")
            name = (None if message is None else seen_in(message).stream) or ""
        return name

    def _trimmed_streams(self) -> dict[str, int]:
        messages = self._mirrored(VERSION)
        saved = [saved_version_in(it) for it in messages]
        return {it.name: it.version for it in saved}

    def stream_version(self, stream: str) -> int:
        with self._call():
            return versions_of(self._log, self._bucket, self._names, [stream])[stream]

    def head(self) -> int:
        with self._call():
            return self._head()

    def _head(self) -> int:
        head = self._info().state.last_seq
        self._told(head)
        return head

    def _info(self) -> JetStreamInfo:
        return self._known.info()

    def count(self) -> int:
        with self._call():
            return self._info().state.messages

    def wait(self, position: int, timeout_s: float) -> int:
        until_s = time.monotonic() + timeout_s
        with self._news.listening(self._told):
            while (head := self.head()) < position and time.monotonic() < until_s:
                with self._changed:
                    pause_s = min(LOOK_AGAIN_S, max(0.0, until_s - time.monotonic()))
                    self._changed.wait_for(lambda: self._seen >= position or self._closed, pause_s)
        return head

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        with self._call():
            return self._news.watch(lambda _: moved())

    def _told(self, head: int) -> None:
        """The log is at least there."""
        with self._changed:
            if head > self._seen:
                self._seen = head
                self._changed.notify_all()

    # Subscriptions.

    def checkpoint(self, name: str) -> int | None:
        found = self.subscription(name)
        return None if found is None else found.position

    def subscription(self, name: str) -> Subscription | None:
        with self._call():
            if not _is_text(name):
                return None
            return self._bucket.subscriptions([name])[name].subscription

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        if expected is not None:
            check_saved_position(expected)
        with self._call():
            if not _is_text(name):
                return False
            for _ in range(MAX_TRIES):
                held = self._bucket.subscriptions([name])[name]
                if held.subscription is None:
                    return False
                refuse_unexpected(held.subscription.position, expected)
                with suppress(WrongSequence):  # and then once more
                    self._bucket.delete(name, behind=held.sequence)
                    return True
            raise StoreBusy(f"{self._names.log}: others change {name!r} all the time")

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        check_list_limit(limit)
        with self._call():
            saved = [it for it in map(subscription_in, self._mirrored(SUBSCRIPTION)) if it]
            positions = {it.name: it.subscription.position for it in saved}
            names = sorted(it for it in positions if it.startswith(prefix) and it > after)
            return {name: positions[name] for name in names[:limit]}

    # What not every engine can.

    def trim(self, through: int) -> None:
        with self._call(), self._writing:
            known = self._known
            known.refresh()
            if not 0 <= through <= known.head:
                raise InvalidRange(f"cannot trim through {through}: the head is {known.head}")
            if through < known.first_position:
                return
            self._remember_versions(known.first_position, through)
            purge(self._link, self._log.name, {"seq": through + 1})
            known.is_current = False

    def _remember_versions(self, first: int, through: int) -> None:
        """Of streams whose last event is among these: they must not begin anew."""
        versions: dict[str, int] = {}
        for event in self._log.read_through(
            self._names.events, first, through, many=1_000, max_bytes=4 * MIB
        ):
            seen = seen_in(event)
            if seen.stream is not None:
                versions[seen.stream] = seen.version or 0
        streams = list(versions)
        for at in range(0, len(streams), _ASKED_AT_ONCE):
            few = streams[at : at + _ASKED_AT_ONCE]
            last = self._log.ask_leader([{"last_by_subj": self._names.of_stream(it)} for it in few])
            for stream, message in zip(few, last, strict=True):
                if message is not None and message.sequence > through:
                    del versions[stream]
        self._bucket.save_versions(versions)

    def leave_gap(
        self, through: int, *, versions: Mapping[str, int] | None = None, expected: int
    ) -> None:
        with self._call(), self._writing:
            known = self._known
            known.refresh()
            check_gap(
                through,
                versions or {},
                expected,
                head=known.head,
                version_of=known.stream_version,
                limits=self._limits,
            )
            missing = through - known.head
            if missing > MAX_FILLED and known.events:
                raise InvalidRange(
                    f"JetStream leaves at most {MAX_FILLED} positions out behind events"
                )
            self._bucket.save_versions(dict(versions or {}))
            known.is_current = False
            if missing > MAX_FILLED:
                purge(self._link, self._log.name, {"seq": through + 1})
            else:
                self._fill(known.head, through)
            known.refresh()
            self._told(through)
            self._news.tell(through)

    def _fill(self, head: int, through: int) -> None:
        """Take positions with messages that are no events, and take those away.

        Also those of a time when this was cut off in between.
        """
        for behind in range(head, through, MAX_BATCH_MESSAGES):
            many = min(MAX_BATCH_MESSAGES, through - behind)
            self._log.append([Outgoing(self._names.gap, b"")] * many, behind=behind)
        purge(self._link, self._log.name, {"filter": self._names.gap})

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        known = [it for it in ids if _is_text(it)]
        with self._call(), self._writing:
            self._known.refresh()
            return self._ids.look_up(known, self._known.first_position)

    def stored_bytes(self) -> int:
        with self._call():
            return self._info().state.bytes + self._bucket.stream.info().state.bytes

    def max_event_json_bytes(self) -> int:
        return self._link.max_payload - HEADER_BYTES

    def set_quota(self, quota: Quota) -> None:
        self._quota = quota

    # The end.

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._calls)
        self._news.close()

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._changed:
            if self._closed:
                raise StoreClosed("the store is closed")
            self._calls += 1
        try:
            yield
        except NoStream:
            raise gone(self._names) from None
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _mirrored(self, kind: str) -> list[Message]:
        with self._mirroring:
            mirror = self._mirrors[kind]
            mirror.refresh()
            return list(mirror.messages.values())


def _has_conflict(plan: Plan) -> bool:
    """Whether something is refused for what is stored."""
    return any(isinstance(it, Conflict) for it in plan.results)


def _chunks(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    """Writes in groups of so many events as are stored together. Most often there is one."""
    begin = events = 0
    for at, write in enumerate(writes):
        size = _size(write)
        if events + size > MAX_BATCH_MESSAGES and at > begin:
            yield writes[begin:at]
            begin, events = at, 0
        events += size
    yield writes[begin:] if begin else writes


def _size(write: Write) -> int:
    """How many events a write is of; 0 for one that is refused anyway."""
    try:
        return len(write.events) if isinstance(write, Append) else 0
    except TypeError:
        return 0


def _too_large(append: Append, most: int, limits: Limits) -> EventTooLarge | None:
    """The refusal of an event that would make too large a message."""
    spare = (
        most
        - limits.max_metadata_bytes
        - 8 * (limits.max_event_id_chars + limits.max_stream_chars + limits.max_type_chars)
    )
    for index, event in enumerate(append.events):
        if event_bytes(event) > spare:
            size = len(encode_event(event, MAX_POSITION, utc_now(), MAX_POSITION))
            if size > most:
                problem = f"is of {size} bytes as JSON, and NATS is set to take {most} at most"
                return EventTooLarge(problem, index=index)
    return None


def _is_text(id: str) -> bool:
    """Whether it has no lone surrogates: nothing is stored under a name that has."""
    try:
        id.encode()
    except UnicodeEncodeError:
        return False
    return True
