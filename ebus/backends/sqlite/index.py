"""What a file knows of its events beside the blocks: ids, streams, types, subscriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing

import apsw
import msgspec

from ebus.backends.sqlite.blocks import READ_BLOCKS, Block
from ebus.backends.sqlite.search import block_at, candidates, decode_seen, prefix_end
from ebus.backends.sqlite.segments import SEGMENT_EVENTS
from ebus.core.consumers import Lease, Parked, Subscription, Waiting
from ebus.core.errors import InvalidExpectation, StoreDamaged
from ebus.core.event import Event, decode_event
from ebus.core.filter import Filter
from ebus.core.limits import MAX_LOOKED_AT_BYTES, MAX_LOOKED_AT_EVENTS
from ebus.core.plan import Plan
from ebus.core.store import NoneAfter

STREAM_VERSION = "SELECT coalesce((SELECT version FROM streams WHERE name = ?), 0)"

SUBSCRIPTION = "SELECT position, consumers FROM checkpoints WHERE name = ?"

_SAVE_SUBSCRIPTION = """
    INSERT INTO checkpoints (name, position, consumers) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET position = excluded.position, consumers = excluded.consumers
"""
_SAVE_STREAM = """
    INSERT INTO streams (name, version) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version
    RETURNING stream
"""
_LAST_POSITION = """
    SELECT stream_events.position FROM streams JOIN stream_events USING (stream, version)
    WHERE streams.name = ?
"""
# Of the first so many streams; those of which every event was trimmed have no position.
_LAST_POSITIONS = """
    SELECT count(*), coalesce(max(position), 0)
    FROM (SELECT stream, version FROM streams WHERE name >= ? AND name < ? LIMIT ?)
    LEFT JOIN stream_events USING (stream, version)
"""
_TYPES = """
    WITH RECURSIVE each(type) AS (
        SELECT min(type) FROM type_segments
        UNION ALL
        SELECT (SELECT min(type) FROM type_segments WHERE type > each.type)
        FROM each WHERE each.type IS NOT NULL
    )
    SELECT type FROM each WHERE type IS NOT NULL
"""


class StoredIndex:
    """The `Index` of `plan_writes` over the connection that writes, within its transaction."""

    def __init__(self, connection: apsw.Connection, head: int) -> None:
        self._connection = connection
        self._head = head

    def position_of(self, id: str) -> int | None:
        position: int | None = self._connection.execute(
            "SELECT position FROM ids WHERE id = ?", (id,)
        ).get
        return position

    def event_at(self, position: int) -> Event:
        block = block_at(self._connection, position)
        if block is None:
            raise StoreDamaged(f"an id is of position {position}, where there is no event")
        return decode_event(block.slice(position, position))

    def stream_version(self, stream: str) -> int:
        version: int = self._connection.execute(STREAM_VERSION, (stream,)).get
        return version

    def any_match(self, condition: NoneAfter) -> int | None:
        """Indexes answer what is of types, of a stream, or came lately: they name a few blocks.

        For the rest, of a prefix, or of a stream and types, it looks at events one by one, and at
        a bounded number for all filters together.
        """
        after = condition.position
        if after >= self._head:
            return None
        is_late = self._head - after <= SEGMENT_EVENTS
        looks = _Looks()
        together: list[Filter] = []
        found: int | None
        for wanted in condition.filters:
            if wanted.stream is not None and not wanted.types:
                found = self._last_of_stream(wanted, after)
            elif wanted.stream is None and (is_late or wanted.stream_prefix is None):
                together.append(wanted)
                continue
            elif wanted.types:
                found = self._search([wanted], wanted, after, None if is_late else looks)
            else:
                found = self._last_of_prefix(wanted, after, looks)
            if found is not None:
                return found
        if not together:
            return None
        types = {name for wanted in together for name in wanted.types}
        is_of_types = not is_late and all(wanted.types for wanted in together)
        return self._search(together, Filter(types=tuple(types)) if is_of_types else None, after)

    def _last_of_stream(self, wanted: Filter, after: int) -> int | None:
        assert wanted.stream is not None
        if not wanted.stream.startswith(wanted.stream_prefix or ""):
            return None
        position: int | None = self._connection.execute(_LAST_POSITION, (wanted.stream,)).get
        return position if position is not None and position > after else None

    def _last_of_prefix(self, wanted: Filter, after: int, looks: _Looks) -> int | None:
        prefix = wanted.stream_prefix or ""
        position: int
        count, position = self._connection.execute(
            _LAST_POSITIONS, (prefix, prefix_end(prefix), looks.left + 1)
        ).get
        if position > after:
            return position
        if count > looks.left:  # too many streams, but there may be few events
            return self._search([wanted], None, after, looks)
        looks.count(count, 0)
        return None

    def _search(
        self,
        filters: Sequence[Filter],
        where: Filter | None,
        after: int,
        looks: _Looks | None = None,
    ) -> int | None:
        """What matches any of the filters, among the candidates of one."""
        known: Block | None = None
        found = candidates(
            self._connection, where, after + 1, self._head, head=self._head, backwards=True
        )
        with closing(found):
            for block, first, last in found:
                if looks is not None:
                    looks.count(last - first + 1, 0 if block is known else len(block.events))
                    known = block
                seen = decode_seen(block.slice(first, last))
                for at in range(len(seen) - 1, -1, -1):
                    if any(wanted.matches(seen[at], seen[at].version) for wanted in filters):
                        return first + at
        return None

    def subscription(self, name: str) -> Subscription | None:
        return subscription_of(self._connection.execute(SUBSCRIPTION, (name,)).get)


class _Looks:
    """How much a condition has looked at."""

    def __init__(self) -> None:
        self._events = self._bytes = 0

    @property
    def left(self) -> int:
        """How many streams or events may still be looked at."""
        return max(0, MAX_LOOKED_AT_EVENTS - self._events)

    def count(self, events: int, size_bytes: int) -> None:
        """Before it looks at so much more. Raises `InvalidExpectation` when that is too much."""
        self._events += events
        self._bytes += size_bytes
        if self._events > MAX_LOOKED_AT_EVENTS or self._bytes > MAX_LOOKED_AT_BYTES:
            raise InvalidExpectation(
                f"a condition looks at {MAX_LOOKED_AT_EVENTS} events or "
                f"{MAX_LOOKED_AT_BYTES} bytes at most: its position is too far back, expect a "
                "later one"
            )


class _Consumers(msgspec.Struct, frozen=True, omit_defaults=True):
    """A subscription without its checkpoint."""

    frontier: int = 0
    leases: tuple[Lease, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    parked: tuple[Parked, ...] = ()


_decode_consumers = msgspec.json.Decoder(_Consumers).decode


def subscription_of(row: tuple[int, bytes | None] | None) -> Subscription | None:
    """From a row of `SUBSCRIPTION`."""
    if row is None:
        return None
    position, consumers = row
    if consumers is None:
        return Subscription(position=position)
    it = _decode_consumers(consumers)
    return Subscription(
        position=position,
        frontier=it.frontier,
        leases=it.leases,
        waiting=it.waiting,
        parked=it.parked,
    )


def _subscription_row(name: str, it: Subscription) -> tuple[str, int, bytes | None]:
    consumers = None
    if it != Subscription(position=it.position):
        consumers = msgspec.json.encode(_Consumers(it.frontier, it.leases, it.waiting, it.parked))
    return name, it.position, consumers


def store_names(connection: apsw.Connection, plan: Plan) -> None:
    """Store the ids, streams and subscriptions of a plan. Needs a transaction."""
    if plan.ids:
        connection.executemany("INSERT INTO ids (id, position) VALUES (?, ?)", plan.ids.items())
    if plan.streams:
        assert plan.versions is not None
        numbers = {
            it: connection.execute(_SAVE_STREAM, (it, v)).get for it, v in plan.streams.items()
        }
        first_position = plan.head - len(plan.events) + 1
        connection.executemany(
            "INSERT INTO stream_events (stream, version, position) VALUES (?, ?, ?)",
            [
                (numbers[event.stream], version, position)
                for position, (event, version) in enumerate(
                    zip(plan.events, plan.versions, strict=True), first_position
                )
                if event.stream is not None
            ],
        )
    if plan.subscriptions:
        rows = [_subscription_row(name, it) for name, it in plan.subscriptions.items()]
        connection.executemany(_SAVE_SUBSCRIPTION, rows)


def set_versions(connection: apsw.Connection, versions: Mapping[str, int]) -> None:
    """Have streams, which have no events, at these versions. Needs a transaction."""
    for row in versions.items():
        connection.execute(_SAVE_STREAM, row).fetchall()


class _Named(msgspec.Struct):
    id: str | None = None
    stream: str | None = None
    version: int | None = None


_decode_named = msgspec.json.Decoder(list[_Named]).decode


def forget_names(connection: apsw.Connection, through: int) -> None:
    """Forget ids, places in streams and types of the events up to here. Needs a transaction.

    To be called while the events are there: they say what there is to forget. It takes as long
    as there are events with names. Streams keep their versions.
    """
    with closing(connection.execute(READ_BLOCKS, (1,))) as rows:
        for first, last, starts, events in rows:
            if first > through:
                break
            if events is not None and (b'"id":' in events or b'"stream":' in events):
                wire = Block(first, last, starts, events).slice(first, min(last, through))
                named = _decode_named(b"[%b]" % wire)
                ids = [(it.id,) for it in named if it.id is not None]
                streams = {it.stream: it.version for it in named if it.stream is not None}
                connection.executemany("DELETE FROM ids WHERE id = ?", ids)
                connection.executemany(
                    "DELETE FROM stream_events WHERE version <= ?2 "
                    "AND stream = (SELECT stream FROM streams WHERE name = ?1)",
                    streams.items(),
                )
    segments = through // SEGMENT_EVENTS
    if segments:
        connection.executemany(
            "DELETE FROM type_segments WHERE type = ? AND segment < ?",
            [(name, segments) for (name,) in connection.execute(_TYPES).fetchall()],
        )
