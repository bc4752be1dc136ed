"""One stream of JetStream: asked for its state, read, and written to at an expected sequence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ebus.backends.jetstream.client import Answer, Outgoing
from ebus.backends.jetstream.connection import MAX_TRY_S
from ebus.backends.jetstream.faults import (
    INCOMPLETE_BATCH,
    NO_MESSAGE,
    ApiError,
    Denied,
    Lost,
    WrongSequence,
    is_passing,
    refusal,
)
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import (
    COMMIT,
    EXPECTED_KEY,
    EXPECTED_KEY_SEQUENCE,
    EXPECTED_SEQUENCE,
    EXPECTED_STREAM,
    Message,
    batch,
    header,
    pages_of,
)
from ebus.backends.jetstream.pacing import pauses
from ebus.core.errors import OutcomeUnknown, StoreDamaged, StoreUnavailable
from ebus.core.limits import KIB

API = "$JS.API"

MAX_ASKED_AT_ONCE = 500
"""Questions to a leader that are under way together."""

MIN_PAGE_BYTES = 64 * KIB
"""What is asked for at once, at least: a server counts more bytes of an event than we do."""


_SETTLING_S = (0.1, 0.3, 0.8)
"""Leaders tell of themselves every second."""


class StreamState(msgspec.Struct, frozen=True):
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    subjects: dict[str, int] = {}
    last_ts: str = ""


class StreamConfig(msgspec.Struct, frozen=True):
    """What of a stream's settings matters to us."""

    name: str
    subjects: list[str] = []
    num_replicas: int = 1
    storage: str = "file"
    discard: str = "old"
    retention: str = "limits"
    max_age: int = 0
    max_msgs: int = -1
    max_bytes: int = -1
    max_msgs_per_subject: int = -1
    allow_direct: bool = False
    allow_atomic: bool = False
    persist_mode: str = ""
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    metadata: dict[str, str] = {}


class StreamInfo(msgspec.Struct, frozen=True):
    config: StreamConfig
    state: StreamState
    created: str
    total: int = 0


class _Stored(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    hdrs: bytes = b""
    data: bytes = b""


class _Got(msgspec.Struct, frozen=True):
    message: _Stored | None = None
    error: ApiError | None = None


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: ApiError | None = None


class _Outcome(msgspec.Struct, frozen=True):
    error: ApiError | None = None


_decode_got = msgspec.json.Decoder(_Got).decode
_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode_outcome = msgspec.json.Decoder(_Outcome).decode
_decode_info = msgspec.json.Decoder(StreamInfo).decode
encode = msgspec.json.Encoder().encode


def call(link: Link, subject: str, request: Any = None) -> bytes:
    """What the API answers; an error is raised."""
    payload = b"" if request is None else encode(request)
    [answer] = link.ask(f"{API}.{subject}", payload)
    outcome = _decode_outcome(answer.data)
    if outcome.error is not None:
        raise refusal(outcome.error, subject)
    return answer.data


class Stream:
    """A stream by its name.

    Raises `NoStream` where there is none, and `StoreUnavailable` when the cluster does not answer.
    What is read comes from any replica, and is complete up to what the leader had when it was
    asked.
    """

    def __init__(self, link: Link, name: str, *, has_replicas: bool) -> None:
        self.name = name
        self._link = link
        self.timeout_s = link.options.timeout_s
        self._has_replicas = has_replicas
        self._empty = 0, 0
        """From where to where nothing is, although the stream has gone on beyond."""

    def info(self, *, subjects: str | None = None, offset: int = 0) -> StreamInfo:
        """What the leader says. With `subjects`, how many messages each such subject has."""
        request = {"subjects_filter": subjects, "offset": offset} if subjects else None
        info = _decode_info(call(self._link, f"STREAM.INFO.{self.name}", request))
        self._has_replicas = info.config.num_replicas > 1
        return info

    def agree(self, *, agrees: bool) -> None:
        """Say whether who has answered knew of what is known to be stored."""
        self._link.agree(agrees=agrees)

    def last(self, subject: str) -> Message | None:
        """The last message of a subject, which may have wildcards, as the leader has it."""
        return self.ask_leader([{"last_by_subj": subject}])[0]

    def next(self, subject: str, sequence: int) -> Message | None:
        """The first message of a subject at or behind a sequence, as the leader has it."""
        return self.ask_leader([{"seq": sequence, "next_by_subj": subject}])[0]

    def ask_leader(self, requests: Sequence[dict[str, Any]]) -> list[Message | None]:
        """The messages that these ask for, `MAX_ASKED_AT_ONCE` at once."""
        subject = f"{API}.STREAM.MSG.GET.{self.name}"
        messages: list[Message | None] = []
        for at in range(0, len(requests), MAX_ASKED_AT_ONCE):
            few = requests[at : at + MAX_ASKED_AT_ONCE]
            answers = self._link.ask_all([(subject, encode(it)) for it in few])
            messages += [self._got(answer.data) for answer in answers]
        return messages

    def _got(self, data: bytes) -> Message | None:
        got = _decode_got(data)
        if got.message is not None:
            it = got.message
            return Message(it.seq, it.subject, it.hdrs, it.data)
        error = got.error or ApiError()
        if error.err_code == NO_MESSAGE:
            return None
        raise refusal(error, self.name)

    def read(
        self, subject: str, start: int, *, many: int, max_bytes: int, stored: int = 0
    ) -> Iterator[list[Message]]:
        """Messages from a sequence on, in order, in lists of at most `many` and some `max_bytes`.

        The last list is empty: behind it the leader has nothing either. One that does not end
        there may have fewer. A leader that has been replaced says that there is nothing more until
        it is told of the new one: so it does not end before a sequence that is known to be
        `stored`, if that is of the subject and still there.
        """
        following = start
        settling = iter(_SETTLING_S)
        while True:
            found, is_all = self._get(subject, following, many, max_bytes)
            if found:
                yield found
                following = found[-1].sequence + 1
            if not is_all:
                continue
            # The one that was asked may be behind the others.
            message = self.next(subject, following) if self._has_replicas else None
            if message is None:
                if following <= stored and self._is_behind(following, stored, settling):
                    continue
                yield []
                return
            yield [message]
            following = message.sequence + 1

    def _is_behind(self, following: int, stored: int, settling: Iterator[float]) -> bool:
        """Whether to ask again for what has to be there. Waits a little."""
        first, last = self._empty
        if not self._has_replicas or (first <= following and stored <= last):
            return False
        pause_s = next(settling, None)
        if pause_s is None:
            last = self.info().state.last_seq
            if last < stored:
                raise StoreUnavailable(f"{self.name}: the leader is at {last}, behind {stored}")
            self._empty = following, stored
            return False
        time.sleep(pause_s)
        return True

    def read_through(
        self, subject: str, start: int, through: int, *, many: int, max_bytes: int
    ) -> Iterator[Message]:
        """Messages from a sequence on up to one that is known to be stored, in order."""
        if start > through:
            return
        pages = self.read(subject, start, many=many, max_bytes=max_bytes, stored=through)
        for page in pages:
            for message in page:
                if message.sequence > through:
                    return
                yield message
            if page and page[-1].sequence >= through:
                return

    def _get(
        self, subject: str, start: int, many: int, max_bytes: int
    ) -> tuple[list[Message], bool]:
        """One page from any replica, and whether it has nothing behind it."""
        request = {
            "seq": start,
            "next_by_subj": subject,
            "batch": many,
            "max_bytes": max(max_bytes, MIN_PAGE_BYTES),
        }
        found, end = pages_of(self.ask_any(request))
        if end is None:
            return found, False
        if end.headers is not None and b"NATS/1.0 404" in end.headers:
            return found, not found
        if end.headers is None or b"NATS/1.0 204" not in end.headers:
            said = (end.headers or end.data)[:80].decode(errors="replace")
            raise StoreUnavailable(f"{self.name}: a page ended with {said!r}")
        return found, b"Nats-Num-Pending: 0\r\n" in end.headers

    def last_of_each(self, subjects: Sequence[str]) -> list[Message]:
        """The last messages of subjects, in order, as one replica has them at one moment."""
        until_s = time.monotonic() + self.timeout_s
        for pause_s in pauses():
            found, end = pages_of(self.ask_any({"multi_last": subjects}))
            said = b"" if end is None else end.headers or b""
            if said.startswith((b"NATS/1.0 204", b"NATS/1.0 404 No Results")):
                return found
            # Another 404 is of a message that was replaced meanwhile.
            if time.monotonic() > until_s:
                raise StoreUnavailable(f"{self.name}: what is asked for changes all the time")
            time.sleep(pause_s)
        raise AssertionError("pauses have no end")

    def ask_any(self, request: dict[str, Any]) -> list[Answer]:
        """What any replica answers to a direct get; the last of it says how it ended."""
        subject = f"{API}.DIRECT.GET.{self.name}"
        until_s = time.monotonic() + self.timeout_s
        for pause_s in pauses():
            answers = self._link.ask(subject, encode(request), has_many=True)
            if not answers[-1].has_no_responders:
                break
            self.info()  # or there is no such stream
            if time.monotonic() > until_s:
                raise StoreUnavailable(f"{self.name}: no replica answers")
            time.sleep(pause_s)
        return answers

    def append(
        self,
        messages: Sequence[Outgoing],
        *,
        behind: int,
        key: str | None = None,
        news: Outgoing | None = None,
    ) -> int:
        """Store messages together behind a sequence; returns the last one's sequence.

        That is where the stream has to be, or with a `key`, which is a subject, its last message.
        `news` is published once they are stored.
        An answer that is lost is looked for: the message behind that sequence is ours, or it is
        somebody else's, and then ours never will be stored, since sequences only grow. That needs
        no window of time, as message ids do.

        Raises `WrongSequence`, and `OutcomeUnknown` when the cluster was away for too long.
        """
        commit = self._link.new_id()
        first = messages[0]
        expected = EXPECTED_SEQUENCE if key is None else EXPECTED_KEY_SEQUENCE
        headers = header(EXPECTED_STREAM, self.name) + header(expected, behind)
        headers += header(COMMIT, commit) + first.headers
        messages = [Outgoing(first.subject, first.payload, headers), *messages[1:]]
        until_s = time.monotonic() + self.timeout_s
        is_in_doubt = False
        trouble = "no answer"
        for pause_s in pauses():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            sequence = None
            try:
                sequence = self._publish(messages, min(MAX_TRY_S, left_s), news)
                trouble = "the cluster is not ready"
            except Lost as lost:
                is_in_doubt, trouble = True, str(lost)
            except WrongSequence:
                has_more = any(EXPECTED_KEY.encode() in it.headers for it in messages)
                if (key is not None or has_more) and not is_in_doubt:
                    raise
                is_in_doubt = True  # a leader that was replaced says so of what the new one stores
                trouble = "it is behind what is not stored yet"
            except StoreUnavailable as error:
                if isinstance(error, Denied) and not is_in_doubt:
                    raise
                trouble = str(error)
            if sequence is None and is_in_doubt:
                sequence = self._find(commit, behind, key, len(messages))
            if sequence is not None:
                if key is None and sequence != behind + len(messages):
                    raise StoreDamaged(f"{self.name}: stored at {sequence}, behind {behind}")
                if is_in_doubt and news is not None:
                    self._link.tell(news)
                return sequence
            time.sleep(min(pause_s, max(0.0, until_s - time.monotonic())))
        if is_in_doubt:
            raise OutcomeUnknown(f"{self.name}: it is not known whether it was stored: {trouble}")
        raise StoreUnavailable(f"{self.name}: nothing was stored: {trouble}")

    def _publish(
        self, messages: Sequence[Outgoing], patience_s: float, news: Outgoing | None
    ) -> int | None:
        """One try: the last one's sequence, or None when nothing was stored for now."""
        outgoing = batch(messages, self._link.new_id())
        answer = self._link.publish(outgoing, patience_s=patience_s, news=news)
        if answer.has_no_responders:
            self.info()  # or there is no such stream
            return None
        ack = _decode_ack(answer.data)
        if ack.error is None:
            return ack.seq
        if is_passing(ack.error) or ack.error.err_code == INCOMPLETE_BATCH:
            return None
        raise refusal(ack.error, self.name)

    def _find(self, commit: str, behind: int, key: str | None, size: int) -> int | None:
        """Where a commit is whose answer was lost; None when it is not there yet, or nobody tells.

        Raises `WrongSequence` when it never will be.
        """
        try:
            found = self.next(">", behind + 1) if key is None else self.last(key)
        except StoreUnavailable:
            return None
        if key is not None:
            return self._find_key(found, commit, behind)
        if found is None:
            return None
        if found.commit == commit:
            return behind + size
        if found.sequence > behind + 1:
            raise OutcomeUnknown(f"{self.name}: what was stored behind {behind} is gone already")
        raise WrongSequence(str(behind))

    @staticmethod
    def _find_key(found: Message | None, commit: str, behind: int) -> int | None:
        """Like `_find`, for a key whose last message this is. What was there before it is gone."""
        if found is None or found.sequence <= behind:
            return None  # a leader that has been replaced may tell of old times
        if found.commit == commit:
            return found.sequence
        if found.expected == behind:
            raise WrongSequence(found.subject)
        raise OutcomeUnknown(f"{found.subject} has been written to more than once meanwhile")


def purge(link: Link, name: str, request: dict[str, Any]) -> None:
    """Take messages away: all before a sequence, or all of a subject. Sequences stay."""
    call(link, f"STREAM.PURGE.{name}", request)
