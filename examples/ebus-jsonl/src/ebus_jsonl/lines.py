"""What stands in a tenant's file: one kind of line for each thing that is stored.

The first line says what the file is. Behind it come commits: the lines of a commit, which are
events and subscriptions, and then the line that says that it is whole.
"""

from __future__ import annotations

import zlib

import msgspec

from ebus.core.consumers import Subscription
from ebus.core.engine import Durability
from ebus.core.errors import StoreForeign, StoreNewer

HEADER = b'{"ebus-jsonl":1}\n'


class Commit(msgspec.Struct, frozen=True):
    """The last line of a commit."""

    commit: int
    """Bytes of its other lines, which stand right before."""
    crc32: int
    """Of these, and of what follows here."""
    recorded_ns: int
    """When it was made, in Unix nanoseconds; it never goes down."""
    durability: Durability
    """With `full` it was written only once everything before it was on the disk."""

    def is_of(self, lines: bytes) -> bool:
        """Whether these are the other lines, all of them and as they were written."""
        return self == _commit(lines, self.recorded_ns, self.durability)


def _commit(lines: bytes, recorded_ns: int, durability: Durability) -> Commit:
    crc32 = zlib.crc32(f"{recorded_ns} {durability}".encode(), zlib.crc32(lines))
    return Commit(len(lines), crc32, recorded_ns, durability)


class Saved(msgspec.Struct, frozen=True):
    """A subscription from now on; without a state it was deleted."""

    subscription: str
    state: Subscription | None


class Long(msgspec.Struct, frozen=True):
    """An event whose data has line breaks, as text that has none."""

    text: str


_COMMIT = b'{"commit":'
_LONG = b'{"text":'
_SAVED = b'{"subscription":'

_encode = msgspec.json.Encoder().encode
_decode_commit = msgspec.json.Decoder(Commit).decode
_decode_long = msgspec.json.Decoder(Long).decode
_decode_saved = msgspec.json.Decoder(Saved).decode


def event_line(wire: bytes) -> bytes:
    """An event as it goes over the wire. Nothing that a client sends makes two lines of one."""
    return (_encode(Long(wire.decode())) if b"\n" in wire else wire) + b"\n"


def event_of(line: bytes) -> bytes:
    """The reverse of `event_line`."""
    return _decode_long(line).text.encode() if line.startswith(_LONG) else line.removesuffix(b"\n")


def saved_line(name: str, state: Subscription | None) -> bytes:
    return _encode(Saved(name, state)) + b"\n"


def saved_of(line: bytes) -> Saved | None:
    """None for the line of an event."""
    return _decode_saved(line) if line.startswith(_SAVED) else None


def commit_line(lines: bytes, recorded_ns: int, durability: Durability) -> bytes:
    return _encode(_commit(lines, recorded_ns, durability)) + b"\n"


def commit_of(line: bytes) -> Commit | None:
    """None for any other line, and for one that is not whole."""
    if not (line.startswith(_COMMIT) and line.endswith(b"\n")):
        return None
    try:
        return _decode_commit(line)
    except msgspec.DecodeError:
        return None


def check_header(begin: bytes, path: object) -> bool:
    """Whether a file that begins so is a tenant's; False for one that was never finished.

    Raises `StoreForeign` and `StoreNewer`.
    """
    if begin[: len(HEADER)] == HEADER:
        return True
    # After a power cut, what was not synced is missing, or zeros.
    if len(begin) <= len(HEADER) and all(
        it in (0, ours) for it, ours in zip(begin, HEADER, strict=False)
    ):
        return False
    if begin.startswith(HEADER[: HEADER.index(b":") + 1]):
        raise StoreNewer(f"{path} was written by a newer ebus-jsonl")
    raise StoreForeign(f"{path} is no file of ebus-jsonl")
