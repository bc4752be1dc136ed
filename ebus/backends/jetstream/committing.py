"""Commits: what a group of writes comes to is stored behind the head, or planned anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from ebus.backends.jetstream.bucket import Bucket
from ebus.backends.jetstream.client import Outgoing
from ebus.backends.jetstream.faults import WrongSequence
from ebus.backends.jetstream.ids import IdIndex
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import (
    EXPECTED_KEY,
    EXPECTED_KEY_SEQUENCE,
    HEADER_BYTES,
    MAX_BATCH_MESSAGES,
    RECORDED,
    header,
    payload_of,
)
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.news import News
from ebus.backends.jetstream.pacing import pauses, tries
from ebus.backends.jetstream.stream import Stream
from ebus.backends.jetstream.writing import Known
from ebus.core.consumers import Subscription
from ebus.core.errors import Conflict, EbusError, EventTooLarge, StoreUnavailable
from ebus.core.event import encode_event, event_bytes, utc_now
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.plan import Plan, plan_writes
from ebus.core.store import (
    NO_QUOTA,
    Append,
    ChangeSubscription,
    Checked,
    Room,
    Write,
    Written,
    check_writes,
)


class Committer:
    """Who stores the writes of one tenant, of this process."""

    def __init__(
        self,
        link: Link,
        names: Names,
        log: Stream,
        bucket: Bucket,
        known: Known,
        ids: IdIndex,
        news: News,
        limits: Limits,
        told: Callable[[int], None],
    ) -> None:
        self._link = link
        self._names = names
        self._log = log
        self._bucket = bucket
        self._known = known
        self._ids = ids
        self._news = news
        self._limits = limits
        self._told = told
        self.quota = NO_QUOTA

    @property
    def max_event_json_bytes(self) -> int:
        """The size of an event as JSON that the server takes."""
        return self._link.max_payload - HEADER_BYTES

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Like `TenantStore.commit`. Called by one thread at a time."""
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
        elif self.quota != NO_QUOTA or any(isinstance(it, ChangeSubscription) for it in writes):
            known.refresh()  # what others have stored counts too
        else:
            is_fresh = known.look_again()
        settling = self._settling()
        for _ in tries(self._log.timeout_s, f"{self._names.log}: others write all the time"):
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
        raise AssertionError("tries end by themselves")

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
        most = self.max_event_json_bytes
        for at, write in enumerate(writes):
            if isinstance(write, Append) and checked.refusals[at] is None:
                checked.refusals[at] = _too_large(write, most, self._limits)
        return checked

    def _room(self) -> Room | None:
        if self.quota == NO_QUOTA:
            return None
        known = self._known
        size_bytes = known.size_bytes
        if self.quota.max_bytes is not None:
            size_bytes += self._bucket.stream.info().state.bytes
        return Room(
            self.quota,
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
        for _ in tries(self._log.timeout_s, f"{self._names.log}: others change {name!r}"):
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
