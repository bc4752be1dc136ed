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
from ebus.backends.jetstream.committing import Committer
from ebus.backends.jetstream.faults import NoStream, WrongSequence
from ebus.backends.jetstream.ids import IdIndex
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.listing import StreamList
from ebus.backends.jetstream.messages import (
    Message,
)
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.news import News
from ebus.backends.jetstream.pacing import tries
from ebus.backends.jetstream.reading import Found, first_recorded, read_forwards, search
from ebus.backends.jetstream.stream import Stream
from ebus.backends.jetstream.stream import StreamInfo as JetStreamInfo
from ebus.backends.jetstream.trimming import Trimmer
from ebus.backends.jetstream.writing import Known, gone, versions_of
from ebus.core.consumers import Subscription
from ebus.core.errors import (
    StoreClosed,
)
from ebus.core.event import decode_event
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Page,
    Quota,
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
    check_list_limit,
    check_range,
    check_saved_position,
    refuse_unexpected,
)

LOOK_AGAIN_S = 1.0
"""How often who waits asks for the head, in case that news of it was lost."""


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
        self._names = names
        self._log = log
        self._news = News(link, names)
        self._bucket = Bucket(bucket, names, self._news)
        self._ids = IdIndex(link, log, bucket, names)
        self._known = Known(log, self._bucket, self._ids, names, created)
        self._committer = Committer(
            link, names, log, self._bucket, self._known, self._ids, self._news, limits, self._told
        )
        self._trimmer = Trimmer(link, names, log, self._bucket, self._known, limits)
        self._streams = StreamList(names, log, self._bucket)
        self._limits = limits
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
            return self._committer.commit(writes)

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
            saved = [saved_version_in(it) for it in self._mirrored(VERSION)]
            trimmed = {it.name: it.version for it in saved}
            return self._streams.page(prefix, after, bounds.limit, trimmed)

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
            for _ in tries(self._log.timeout_s, f"{self._names.log}: others change {name!r}"):
                held = self._bucket.subscriptions([name])[name]
                if held.subscription is None:
                    return False
                refuse_unexpected(held.subscription.position, expected)
                with suppress(WrongSequence):  # and then once more
                    self._bucket.delete(name, behind=held.sequence)
                    return True
        raise AssertionError("tries end by themselves")

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
            self._trimmer.trim(through)

    def leave_gap(
        self, through: int, *, versions: Mapping[str, int] | None = None, expected: int
    ) -> None:
        with self._call(), self._writing:
            self._trimmer.leave_gap(through, versions or {}, expected)
            self._told(through)
            self._news.tell(through)

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        known = [it for it in ids if _is_text(it)]
        with self._call(), self._writing:
            self._known.refresh()
            return self._ids.look_up(known, self._known.first_position)

    def stored_bytes(self) -> int:
        with self._call():
            return self._info().state.bytes + self._bucket.stream.info().state.bytes

    def max_event_json_bytes(self) -> int:
        return self._committer.max_event_json_bytes

    def set_quota(self, quota: Quota) -> None:
        self._committer.quota = quota

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


def _is_text(id: str) -> bool:
    """Whether it has no lone surrogates: nothing is stored under a name that has."""
    try:
        id.encode()
    except UnicodeEncodeError:
        return False
    return True
