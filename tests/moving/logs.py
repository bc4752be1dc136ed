"""Logs to move, and what is seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import msgspec
from msgspec import Raw

from ebus.backends.memory import MemoryEngine, MemoryStore
from ebus.core.aio import wire_reader
from ebus.core.event import NewEvent
from ebus.core.store import TenantStore
from ebus.moving import StreamOutput, export_log
from ebus.testing.events import new_event


def memory_store() -> MemoryStore:
    return MemoryEngine().open("alice")


def named(count: int, first: int = 1) -> list[NewEvent]:
    """Events with ids and streams, so many that several appends are needed for thousands."""
    return [
        new_event(
            b'{"number":%d}' % number,
            id=f"id-{number}" if number % 2 else None,
            stream=f"stream-{number % 7}" if number % 3 else None,
            metadata={"user": "é"} if number % 5 == 0 else None,
        )
        for number in range(first, first + count)
    ]


ODD = [
    new_event(b'{\r\n\t"a": 1,\n\t"a": [\n\t]\r\n}'),
    new_event(b"1e999", metadata=Raw(b'{ "x" : "\\u00e9", "x":"z"\n}'), id="ü"),
    new_event('{"é\\u2028":"\u2028\u2029\\n\\r"}'.encode(), stream='s \\ "', type='"\\'),
    new_event(b"9" * 500, timestamp="0001-01-01T00:00:00.000000001+23:59"),
    new_event(b'["\x7f", -0.0, 1.50e+07]', metadata={"a\n": "\r\x00"}),
]


def fill(store: TenantStore, events: Sequence[NewEvent]) -> None:
    for at in range(0, len(events), 1_000):
        store.append(events[at : at + 1_000])


def wires(store: TenantStore) -> list[bytes]:
    """Every event as it goes over the wire."""
    read, found, at = wire_reader(store), list[bytes](), 1
    while True:
        page = read(at)
        array = b"[%b]" % b",".join(page.chunks)
        found += map(bytes, msgspec.json.decode(array, type=list[Raw]))
        if page.next is None:
            return found
        at = page.next


def exported(store: TenantStore, *, is_zstd: bool = False, checkpoints: bool = False) -> bytes:
    file = BytesIO()
    export_log(store, StreamOutput(file, is_zstd=is_zstd), checkpoints=checkpoints)
    return file.getvalue()
