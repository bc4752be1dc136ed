"""How events lie in a file: blocks of wire JSON, which are cut only at the ends of a read.

A block holds the events of contiguous positions as they go over the wire, with commas between
them. `starts` says where each event but the first begins, as unsigned 32-bit little-endian
offsets, so that cutting never parses JSON. A block without events is a gap: positions that
were given out but hold nothing any more.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

import msgspec

# No upper bound: the scan is stopped at the first block past the end. A condition on
# first_position would not end it, for there is no index that knows the two are in step.
READ_BLOCKS = """
    SELECT first_position, last_position, starts, events
    FROM blocks WHERE last_position >= ? ORDER BY last_position
"""

_OFFSET_BYTES = 4
_WITH_COMMA = (1).__add__


class Block(msgspec.Struct, frozen=True):
    """The events from `first_position` to `last_position`, both inclusive."""

    first_position: int
    last_position: int
    starts: bytes
    events: bytes

    @property
    def count(self) -> int:
        return self.last_position - self.first_position + 1

    def cut(self, first: int, last: int) -> Block:
        """The block that holds `first` to `last` only. Both must lie within this one."""
        assert self.first_position <= first <= last <= self.last_position
        begin = self._begin(first)
        starts = self.starts[
            (first - self.first_position) * _OFFSET_BYTES : (last - self.first_position)
            * _OFFSET_BYTES
        ]
        if begin:
            offsets = (offset - begin for (offset,) in struct.iter_unpack("<I", starts))
            starts = b"".join(map(struct.Struct("<I").pack, offsets))
        return Block(first, last, starts, self.events[begin : self._end(last)])

    def slice(self, first: int, last: int) -> bytes:
        """The events of `cut` alone."""
        if first == self.first_position and last == self.last_position:
            return self.events
        return self.events[self._begin(first) : self._end(last)]

    def size(self, first: int, last: int) -> int:
        """The bytes of these events, without the commas between them."""
        return self._end(last) - self._begin(first) - (last - first)

    def _begin(self, position: int) -> int:
        if position == self.first_position:
            return 0
        at = (position - self.first_position - 1) * _OFFSET_BYTES
        return int.from_bytes(self.starts[at : at + _OFFSET_BYTES], "little")

    def _end(self, position: int) -> int:
        if position == self.last_position:
            return len(self.events)
        return self._begin(position + 1) - 1  # less the comma


def build_blocks(
    events: Iterable[bytes], first_position: int, *, max_events: int, max_bytes: int
) -> Iterator[Block]:
    """Put events of contiguous positions into blocks, in order and one at a time.

    A block ends with its `max_events`-th event, or with the one that takes it to `max_bytes`.
    """
    further = iter(events)
    pending: list[bytes] = []
    while pending := pending + list(islice(further, max_events - len(pending))):
        # Where each event ends, and the comma after it: where the next one starts.
        ends = list(accumulate(map(_WITH_COMMA, map(len, pending))))
        count = min(len(ends), bisect_left(ends, max_bytes) + 1)
        taken, pending = pending[:count], pending[count:]
        starts = struct.pack(f"<{count - 1}I", *ends[: count - 1])
        yield Block(first_position, first_position + count - 1, starts, b",".join(taken))
        first_position += count
