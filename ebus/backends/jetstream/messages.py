"""Events as messages: what is stored of one, and what comes back.

The payload is the event's wire JSON without its position, which is the message's sequence. Every
message says when it was recorded, and the first one of a commit whose commit it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ebus.backends.jetstream.client import Answer, Outgoing
from ebus.core.errors import StoreDamaged
from ebus.core.event import Event, decode_event

COMMIT = "Ebus-Commit"
"""Of the first message of a commit: a token that only this commit has."""

RECORDED = "Ebus-Recorded"
"""When a message was stored, in Unix nanoseconds of the writer's clock; it never goes down."""

EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
EXPECTED_KEY_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_KEY = "Nats-Expected-Last-Subject-Sequence-Subject"
EXPECTED_STREAM = "Nats-Expected-Stream"
BATCH = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"

MAX_BATCH_MESSAGES = 1_000
"""Messages that the server stores together or not at all."""

HEADER_BYTES = 512
"""What the headers of one message take at most."""

_PLACE = re.compile(rb"\r\nNats-Subject: ([^\r]*)\r\nNats-Sequence: (\d+)\r\n")
_COMMIT = re.compile(rb"\r\nEbus-Commit: ([^\r]*)\r\n")
_EXPECTED = re.compile(rb"\r\nNats-Expected-Last-Subject-Sequence: (\d+)\r\n")
_RECORDED = re.compile(rb"\r\nEbus-Recorded: (\d+)\r\n")


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message of a stream: where it is, and what is in it."""

    sequence: int
    subject: str
    headers: bytes
    payload: bytes

    @property
    def commit(self) -> str | None:
        """Whose commit it begins."""
        found = _COMMIT.search(self.headers)
        return None if found is None else found[1].decode()

    @property
    def expected(self) -> int | None:
        """The sequence that its subject had to be at, for it to be stored."""
        found = _EXPECTED.search(self.headers)
        return None if found is None else int(found[1])

    @property
    def recorded_ns(self) -> int:
        found = _RECORDED.search(self.headers)
        return 0 if found is None else int(found[1])

    @property
    def wire(self) -> bytes:
        """The event as JSON that goes over the wire."""
        return b'{"position":%d,%b' % (self.sequence, self.payload[1:])

    @property
    def event(self) -> Event:
        try:
            return decode_event(self.wire)
        except msgspec.DecodeError as error:
            raise StoreDamaged(f"message {self.sequence} holds no event: {error}") from None


def message_of(answer: Answer) -> Message:
    """The message that a direct get has answered."""
    headers = answer.headers or b""
    found = _PLACE.search(headers)
    if found is None:
        raise StoreDamaged("JetStream has sent what is no message of a stream")
    return Message(int(found[2]), found[1].decode(), headers, answer.data)


def pages_of(answers: Sequence[Answer]) -> tuple[list[Message], Answer | None]:
    """The messages that many answers to one direct get hold, and how it ended.

    What is sent between servers may be lost on the way: each answer says which sequence came before
    it. Only what came before a hole is returned, and then no end.
    """
    *parts, end = answers
    messages: list[Message] = []
    before = 0
    for part in parts:
        if not (part.headers or b"").endswith(b"\r\nNats-Last-Sequence: %d\r\n\r\n" % before):
            return messages, None
        messages.append(message_of(part))
        before = messages[-1].sequence
    is_last = b"\r\nNats-Last-Sequence: %d\r\n" % before in (end.headers or b"")
    return messages, end if is_last or not messages else None


def payload_of(encoded: bytes, position: int) -> bytes:
    """What is stored of an event that was encoded for this position."""
    return b"{" + encoded[len(b'{"position":%d,' % position) :]


def header(name: str, value: object) -> bytes:
    return b"%b: %b\r\n" % (name.encode(), str(value).encode())


def batch(messages: Sequence[Outgoing], id: str) -> list[Outgoing]:
    """Messages that are stored together or not at all. One alone needs nothing for that."""
    if len(messages) == 1:
        return list(messages)
    mark = header(BATCH, id) + BATCH_SEQUENCE.encode() + b": "
    outgoing = [
        Outgoing(one.subject, one.payload, b"%b%b%d\r\n" % (one.headers, mark, number))
        for number, one in enumerate(messages, 1)
    ]
    last = outgoing[-1]
    outgoing[-1] = Outgoing(last.subject, last.payload, last.headers + header(BATCH_COMMIT, 1))
    return outgoing


class Seen(msgspec.Struct, gc=False):
    """What is looked at in an event without reading its data."""

    type: str
    id: str | None = None
    stream: str | None = None
    version: int | None = None


_decode_seen = msgspec.json.Decoder(Seen).decode


def seen_in(message: Message) -> Seen:
    try:
        return _decode_seen(message.payload)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"message {message.sequence} holds no event: {error}") from None
