"""A tenant's key-value bucket: subscriptions by name, versions of streams of old, where ids are.

sub.NAME       {"name", "subscription"}: a checkpoint and its leases
version.NAME   {"name", "version"}: a stream's version, where events of it were trimmed
id.DIGEST      the position of the event with this id
indexed        up to which position ids are here
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from ebus.backends.jetstream.client import Outgoing
from ebus.backends.jetstream.faults import WrongSequence
from ebus.backends.jetstream.messages import Message, header
from ebus.backends.jetstream.naming import Names, token_of
from ebus.backends.jetstream.news import News
from ebus.backends.jetstream.pacing import pauses
from ebus.backends.jetstream.stream import Stream
from ebus.core.consumers import Subscription
from ebus.core.errors import StoreDamaged, StoreUnavailable
from ebus.core.limits import MIB

SUBSCRIPTION, VERSION, ID = "sub", "version", "id"

MAX_SEEN = 10_000
"""Subscriptions of which it is remembered where they were last."""

_OPERATION = "KV-Operation"
_DELETED = b"\r\nKV-Operation: DEL\r\n"
_PAGE_MESSAGES = 1_000
_PAGE_BYTES = 4 * MIB


class SavedSubscription(msgspec.Struct, frozen=True):
    name: str
    subscription: Subscription


class SavedVersion(msgspec.Struct, frozen=True):
    name: str
    version: int


encode = msgspec.json.Encoder().encode
_decode_subscription = msgspec.json.Decoder(SavedSubscription).decode
_decode_version = msgspec.json.Decoder(SavedVersion).decode


class Held(msgspec.Struct, frozen=True):
    """A subscription, and the sequence at which it is stored; 0 for one that never was."""

    subscription: Subscription | None
    sequence: int


def subscription_in(message: Message) -> SavedSubscription | None:
    """What is stored of a subscription; None where it was deleted."""
    if _DELETED in message.headers:
        return None
    try:
        return _decode_subscription(message.payload)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"{message.subject} holds no subscription: {error}") from None


def _held(message: Message | None) -> Held:
    if message is None:
        return Held(None, 0)
    saved = subscription_in(message)
    return Held(saved.subscription if saved else None, message.sequence)


def version_in(message: Message) -> SavedVersion:
    try:
        return _decode_version(message.payload)
    except msgspec.DecodeError as error:
        raise StoreDamaged(f"{message.subject} holds no version: {error}") from None


class Bucket:
    """The keys of one tenant."""

    def __init__(self, stream: Stream, names: Names, news: News) -> None:
        self.stream = stream
        self._news = news
        self._names = names
        self._seen: dict[str, int] = {}
        """Where subscriptions were last."""

    def subscription_key(self, name: str) -> str:
        return self._names.key(SUBSCRIPTION, token_of(name))

    def subscriptions(self, names: Iterable[str]) -> dict[str, Held]:
        """Those of these names, as a leader has them that knows of all that was seen here."""
        names = list(dict.fromkeys(names))
        asked = [{"last_by_subj": self.subscription_key(name)} for name in names]
        until_s = time.monotonic() + self.stream.timeout_s
        for pause_s in pauses():
            found = self.stream.ask_leader(asked)
            held = {name: _held(it) for name, it in zip(names, found, strict=True)}
            old = [name for name, it in held.items() if it.sequence < self._seen.get(name, 0)]
            self.stream.agree(agrees=not old)
            if not old:
                break
            if time.monotonic() > until_s:
                raise StoreUnavailable(f"{self.stream.name}: the leader knows nothing new of {old}")
            time.sleep(pause_s)
        for name, it in held.items():
            self._saw(name, it.sequence)
        return held

    def _saw(self, name: str, sequence: int) -> int:
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[name] = max(sequence, self._seen.get(name, 0))
        return sequence

    def save(self, name: str, subscription: Subscription, *, behind: int) -> int:
        """Store a subscription, if it is stored at this sequence. Raises `WrongSequence`."""
        key = self.subscription_key(name)
        value = encode(SavedSubscription(name, subscription))
        messages = [Outgoing(key, value)]
        news = self._news.of(0)
        return self._saw(name, self.stream.append(messages, behind=behind, key=key, news=news))

    def delete(self, name: str, *, behind: int) -> None:
        """Forget a subscription, if it is stored at this sequence. Raises `WrongSequence`."""
        key = self.subscription_key(name)
        messages = [Outgoing(key, b"", header(_OPERATION, "DEL"))]
        news = self._news.of(0)
        self._saw(name, self.stream.append(messages, behind=behind, key=key, news=news))

    def save_versions(self, versions: dict[str, int]) -> None:
        """Store versions that streams are at. The last one to store one has it."""
        for name, version in versions.items():
            key = self._names.key(VERSION, token_of(name))
            while True:
                [known] = self.stream.ask_leader([{"last_by_subj": key}])
                if known is not None and version_in(known).version >= version:
                    break
                try:
                    behind = 0 if known is None else known.sequence
                    value = encode(SavedVersion(name, version))
                    self.stream.append([Outgoing(key, value)], behind=behind, key=key)
                    break
                except WrongSequence:
                    continue

    def versions(self, names: Sequence[str]) -> dict[str, int]:
        """What is stored of the versions of these streams."""
        asked = [{"last_by_subj": self._names.key(VERSION, token_of(it))} for it in names]
        found = self.stream.ask_leader(asked)
        return {
            name: version_in(message).version
            for name, message in zip(names, found, strict=True)
            if message is not None
        }


class Mirror:
    """Every key of one kind, kept here: only what has changed since is read again."""

    def __init__(self, bucket: Bucket, names: Names, kind: str) -> None:
        self._bucket = bucket
        self._subject = names.key(kind, "*")
        self._through = 0
        self.messages: dict[str, Message] = {}
        """Subject → what is stored there."""

    def refresh(self) -> None:
        """Read what has changed. To be called by one thread at a time."""
        pages = self._bucket.stream.read(
            self._subject, self._through + 1, many=_PAGE_MESSAGES, max_bytes=_PAGE_BYTES
        )
        for page in pages:
            for message in page:
                if _DELETED in message.headers:
                    self.messages.pop(message.subject, None)
                else:
                    self.messages[message.subject] = message
                self._through = message.sequence
