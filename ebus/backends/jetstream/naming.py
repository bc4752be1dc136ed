"""How tenants, streams and types are called in NATS, where names have fewer characters.

    log stream     PREFIX-TENANT             subjects  PREFIX.TENANT.STREAM.TYPE
    bucket         KV_PREFIX-TENANT          subjects  $KV.PREFIX-TENANT.KEY

A prefix has no hyphen, so that it is clear where the tenant's name begins. STREAM is `-` for an
event of none, and else `s` and the stream's name. A name is written with its letters, digits, `_`
and `-`, and with every other byte of its UTF-8 as `=XX`; a very long one as `==` and its digest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from ebus.core.filter import Filter

_PLAIN = re.compile(r"[A-Za-z0-9_-]*")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")
_HASHED = "=="
_MAX_TOKEN_BYTES = 240

NO_STREAM = "-"
"""The token of an event that belongs to no stream."""

MAX_SUBJECTS = 8
"""Subjects of one filter that are read side by side; with more, all events are looked at."""


@lru_cache(maxsize=8_192)
def token_of(name: str) -> str:
    """A name as one token of a subject."""
    if len(name) <= _MAX_TOKEN_BYTES and _PLAIN.fullmatch(name):
        return name
    encoded = name.encode()
    token = _UNSAFE.sub(lambda found: b"=%02X" % found[0][0], encoded).decode()
    return token if len(token) <= _MAX_TOKEN_BYTES else _HASHED + digest_of(name)


def name_of(token: str) -> str | None:
    """The name that a token stands for; None where it is a digest of it."""
    if token.startswith(_HASHED):
        return None
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), token.encode()).decode()


def digest_of(name: str) -> str:
    """128 bits that stand for a name."""
    return blake2b(name.encode(), digest_size=16).hexdigest()


class Names:
    """What belongs to one tenant."""

    def __init__(self, prefix: str, tenant: str) -> None:
        self.tenant = tenant
        self.log = f"{prefix}-{tenant}"
        """The stream of its events."""
        self.root = f"{prefix}.{tenant}"
        self.events = f"{self.root}.*.*"
        """The subjects of its events."""
        self.gap = f"{self.root}.gap"
        """The subject of what only fills positions that are to be left out."""
        self.bucket = f"KV_{prefix}-{tenant}"
        """The stream of its key-value bucket."""
        self.keys = f"$KV.{prefix}-{tenant}"
        self.news = f"{prefix}-news.{tenant}"
        """Where it is told that the log has grown. Nothing is stored of that."""

    def subject(self, type: str, stream: str | None) -> str:
        """The subject of an event."""
        return f"{self.root}.{self._stream(stream)}.{token_of(type)}"

    def of_stream(self, stream: str) -> str:
        """The subjects of a stream's events."""
        return f"{self.root}.{self._stream(stream)}.*"

    @staticmethod
    def _stream(stream: str | None) -> str:
        return NO_STREAM if stream is None else "s" + token_of(stream)

    def matching(self, wanted: Filter | None) -> list[str]:
        """Subjects that have at least every event that is wanted."""
        if wanted is None or len(wanted.types) > MAX_SUBJECTS:
            wanted = Filter(stream=None if wanted is None else wanted.stream)
        stream = "*" if wanted.stream is None else self._stream(wanted.stream)
        types = [token_of(it) for it in dict.fromkeys(wanted.types)] or ["*"]
        return [f"{self.root}.{stream}.{it}" for it in types]

    def stream_token(self, subject: str) -> str | None:
        """Which stream's token a subject has; None for an event of none."""
        token = subject[len(self.root) + 1 :].split(".", 1)[0]
        return token[1:] if token.startswith("s") else None

    def key(self, kind: str, token: str) -> str:
        """The subject of a key in the bucket."""
        return f"{self.keys}.{kind}.{token}"

    @property
    def indexed(self) -> str:
        """The subject of the key that says up to where ids are in the bucket."""
        return f"{self.keys}.indexed"
