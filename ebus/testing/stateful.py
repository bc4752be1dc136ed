"""Any sequence of operations on several tenants, compared with a plain model.

The model is a list of what was appended to each tenant and a dict of its checkpoints. It is
told which events are valid and never asks the code under test.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Raw

from ebus.core.engine import Engine
from ebus.core.errors import (
    EventTooLarge,
    IdConflict,
    InvalidBatch,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidInput,
    InvalidRange,
)
from ebus.core.event import metadata_of
from ebus.core.filter import Filter
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.store import Append, Appended, Placed, SupportsTrim, SupportsWireRead, TenantStore
from ebus.testing.bad_events import BAD_EVENTS
from ebus.testing.events import TIMESTAMP, Sent
from ebus.testing.observation import (
    StoredEvent,
    check_filtered,
    check_page,
    check_wire_page,
    event_sizes,
    parsed,
    read_through,
)
from ebus.testing.place import NOTHING_STORED
from ebus.testing.suite import Suite

# Small, so that short sequences meet every bound.
LIMITS = Limits(
    max_event_bytes=1_000,
    max_batch_events=4,
    max_read_events=6,
    max_page_bytes=500,
    max_block_events=3,
    max_block_bytes=250,
)
NAMES = ["a", "a-", "ab"]


class Attempt(NamedTuple):
    """An append that is known to be fine, or to be refused and how."""

    events: list[Sent]
    refusal: type[InvalidInput] | None = None

    def append(self) -> Append:
        return Append([event.new_event() for event in self.events])


def _attempt_with(bad: Sent, refusal: type[InvalidInput], good: list[Sent], at: int) -> Attempt:
    return Attempt([*good[:at], bad, *good[at:]], refusal)


_TOO_LARGE = Sent("x", b'"' + b"x" * LIMITS.max_event_bytes + b'"', TIMESTAMP)
_BAD = [
    Sent(event.type, bytes(event.data), event.timestamp, event.id, event.stream, event.metadata)
    for event in (bad.event for bad in BAD_EVENTS)
    if isinstance(event.data, Raw) and isinstance(event.timestamp, str)
    if len(bytes(event.data)) < LIMITS.max_event_bytes // 2
]

# Few and short to describe, so that a counterexample is soon found to be as simple as it can.
_GOOD = [
    Sent("x", b"1", TIMESTAMP),
    Sent("größe", rb'"},{\"position\":7"', "2024-02-29T23:59:59.000000001+05:30"),
    Sent("y", b'{ "b" : 1.0, "a":1e999, "b":-0}', TIMESTAMP),
    Sent("z", b'"' + b"z" * 30 + b'"', TIMESTAMP),
    Sent("long", b'"' + b"x" * 150 + b'"', TIMESTAMP),
    Sent("x", b"1", TIMESTAMP, "one"),
    Sent("x", b"2", TIMESTAMP, "one"),
    Sent("y", b"1", TIMESTAMP, "two", "s"),
    Sent("y", b"1", TIMESTAMP, None, "s"),
    Sent("größe", b"1", TIMESTAMP, "größe", "s-größe", {"größe": "x"}),
]
good_events = st.sampled_from(_GOOD)
batches = st.lists(good_events, min_size=1, max_size=LIMITS.max_batch_events)
good_attempts = batches.map(Attempt)
bad_attempts = st.one_of(
    st.just(Attempt([], InvalidBatch)),
    st.just(Attempt([Sent("x", b"1", TIMESTAMP)] * 5, InvalidBatch)),
    st.builds(
        _attempt_with,
        st.sampled_from(_BAD),
        st.just(InvalidEvent),
        st.lists(good_events, max_size=3),
        st.integers(0, 3),
    ),
    st.builds(
        _attempt_with,
        st.just(_TOO_LARGE),
        st.just(EventTooLarge),
        st.lists(good_events, max_size=3),
        st.integers(0, 3),
    ),
)
tenants = st.sampled_from(NAMES)
engines = st.integers(0, 1)
filters = st.builds(
    Filter,
    types=st.lists(st.sampled_from(["x", "y", "größe"]), max_size=2).map(tuple),
    stream_prefix=st.sampled_from([None, None, "", "s", "s-"]),
) | st.builds(
    Filter,
    stream=st.sampled_from(["s", "s-größe", "none"]),
    from_version=st.none() | st.integers(1, 3),
    to_version=st.none() | st.integers(1, 3),
)
checkpoint_names = st.sampled_from(["mailer", "Mailer", "größe"])


class Tenant:
    """What one tenant holds, according to the model."""

    def __init__(self) -> None:
        self.log: list[StoredEvent] = []
        self.trimmed = 0
        self.checkpoints: dict[str, int] = {}

    def append(self, events: list[Sent]) -> Appended | None:
        """Where the events are; None, with nothing appended, where an id has other content."""
        log = list(self.log)
        placed = []
        for event in events:
            position, version = len(log) + 1, None
            if event.stream is not None:
                version = 1 + sum(before.stream == event.stream for before in log)
            new = StoredEvent(
                position,
                event.type,
                event.data,
                event.timestamp,
                event.id,
                event.stream,
                version,
                metadata_of(event.new_event()),
            )
            known = [it for it in log[self.trimmed :] if event.id is not None and it.id == event.id]
            there = known[0] if known else new
            if there._replace(position=position, version=version) != new:
                return None
            placed.append(Placed(there.position, there.version, there.timestamp, bool(known)))
            if not known:
                log.append(new)
        self.log = log
        positions = [one.position for one in placed]
        tells = any(event.id is not None or event.stream is not None for event in events)
        return Appended(min(positions), max(positions), tuple(placed) if tells else ())

    @property
    def left(self) -> list[StoredEvent]:
        return self.log[self.trimmed :]

    def between(self, start: int, stop: int) -> list[StoredEvent]:
        return [event for event in self.left if start <= event.position <= stop]


class TenantsMachine(RuleBasedStateMachine):
    """Tenants of one place, used through one engine or two at once."""

    suite: ClassVar[Suite]

    def __init__(self) -> None:
        super().__init__()
        self.shared = self.suite.shared
        self.directory = TemporaryDirectory(prefix="ebus-")
        self.place = self.suite.new_place(Path(self.directory.name))
        self.engines: list[Engine] = [self.place.open(limits=LIMITS)]
        self.model: dict[str, Tenant] = {}

    def open(self, name: str, engine: int) -> tuple[TenantStore, Tenant]:
        store = self.engines[engine % len(self.engines)].open(name)
        return store, self.model.setdefault(name, Tenant())

    @initialize(logs=st.tuples(*[st.lists(batches, max_size=3)] * len(NAMES)))
    def fill(self, logs: tuple[list[list[Sent]], ...]) -> None:
        for name, log in zip(NAMES, logs, strict=True):
            for events in log:
                self.append(name, 0, events)

    @rule(name=tenants, engine=engines, events=batches)
    def append(self, name: str, engine: int, events: list[Sent]) -> None:
        store, tenant = self.open(name, engine)
        expected = tenant.append(events)
        if expected is None:
            with pytest.raises(IdConflict):
                store.append(Attempt(events).append().events)
        else:
            assert store.append(Attempt(events).append().events) == expected

    @rule(name=tenants, engine=engines, attempt=bad_attempts)
    def append_in_vain(self, name: str, engine: int, attempt: Attempt) -> None:
        store, _ = self.open(name, engine)
        assert attempt.refusal is not None
        with pytest.raises(attempt.refusal):
            store.append(attempt.append().events)

    @rule(name=tenants, engine=engines, attempts=st.lists(good_attempts | bad_attempts, max_size=4))
    def commit(self, name: str, engine: int, attempts: list[Attempt]) -> None:
        store, tenant = self.open(name, engine)
        answer = store.commit([attempt.append() for attempt in attempts])
        assert len(answer) == len(attempts)
        for result, attempt in zip(answer, attempts, strict=True):
            if attempt.refusal:
                assert type(result) is attempt.refusal
            else:
                expected = tenant.append(attempt.events)
                if expected is None:
                    assert type(result) is IdConflict
                else:
                    assert result == expected

    @rule(
        name=tenants,
        engine=engines,
        limit=st.none() | st.integers(1, LIMITS.max_read_events),
        max_bytes=st.none() | st.integers(1, 900),
    )
    def read(self, name: str, engine: int, limit: int | None, max_bytes: int | None) -> None:
        """Read from every position to every position that could be mistaken for another."""
        store, tenant = self.open(name, engine)
        sizes = event_sizes(self.place.peek(name))
        head = len(tenant.log)
        for start in [*range(head + 3), MAX_POSITION]:
            for stop in {None, 0, max(start - 1, 0), start, min(start + 2, MAX_POSITION), head}:
                page = store.read(start, stop, limit=limit, max_bytes=max_bytes)
                check_page(
                    page,
                    tenant.between(start, MAX_POSITION if stop is None else stop),
                    sizes,
                    limit or LIMITS.max_read_events,
                    max_bytes or LIMITS.max_page_bytes,
                )
                if isinstance(store, SupportsWireRead):
                    wire = store.read_wire(start, stop, limit=limit, max_bytes=max_bytes)
                    check_wire_page(wire, page)

    @rule(
        name=tenants,
        engine=engines,
        wanted=st.none() | filters,
        backwards=st.booleans(),
        limit=st.none() | st.integers(1, LIMITS.max_read_events),
        max_bytes=st.none() | st.integers(1, 900),
    )
    def read_filtered(
        self,
        name: str,
        engine: int,
        wanted: Filter | None,
        backwards: bool,
        limit: int | None,
        max_bytes: int | None,
    ) -> None:
        store, tenant = self.open(name, engine)
        sizes = event_sizes(self.place.peek(name))
        head = len(tenant.log)
        for start, stop in [(0, None), (head // 2, head), (1, head // 2)]:
            check_filtered(
                store,
                tenant.left,
                sizes,
                wanted,
                start,
                stop,
                limit=limit,
                max_bytes=max_bytes,
                backwards=backwards,
            )

    @rule(name=tenants, engine=engines, data=st.data())
    def trim(self, name: str, engine: int, data: st.DataObject) -> None:
        store, tenant = self.open(name, engine)
        if not isinstance(store, SupportsTrim):
            return
        head = len(tenant.log)
        through = data.draw(st.integers(0, head + 1), label="through")
        if through > head:
            with pytest.raises(InvalidRange):
                store.trim(through)
        else:
            store.trim(through)
            tenant.trimmed = max(tenant.trimmed, through)

    @rule(
        name=tenants,
        engine=engines,
        checkpoint=checkpoint_names,
        position=st.just(0) | st.integers(0, MAX_POSITION),
    )
    def save_checkpoint(self, name: str, engine: int, checkpoint: str, position: int) -> None:
        store, tenant = self.open(name, engine)
        if not (self.suite.any_name or checkpoint.isascii()):
            with pytest.raises(InvalidCheckpoint):
                store.save_checkpoint(checkpoint, position)
            return
        store.save_checkpoint(checkpoint, position)
        tenant.checkpoints[checkpoint] = position

    @rule(name=tenants, engine=engines, checkpoint=checkpoint_names)
    def delete_checkpoint(self, name: str, engine: int, checkpoint: str) -> None:
        store, tenant = self.open(name, engine)
        if not (self.suite.any_name or checkpoint.isascii()):
            return
        known = tenant.checkpoints.pop(checkpoint, None)
        assert store.checkpoint(checkpoint) == known
        assert store.delete_checkpoint(checkpoint) is (known is not None)

    @rule(name=tenants, engine=engines)
    def close_store(self, name: str, engine: int) -> None:
        store, _ = self.open(name, engine)
        store.close()

    @rule(engines=st.integers(1, 2))
    def reopen(self, engines: int) -> None:
        self.close_engines()
        for _ in range(engines if self.shared else 1):
            self.engines.append(self.place.open(limits=LIMITS))

    # What happens to a tenant that is open in another engine is left to the engine.
    @precondition(lambda self: len(self.engines) == 1)
    @rule(name=tenants)
    def drop(self, name: str) -> None:
        self.engines[0].drop(name)
        self.model.pop(name, None)
        assert self.place.peek(name) == NOTHING_STORED

    @invariant()
    def agrees_with_the_model(self) -> None:
        for engine in self.engines:
            assert list(engine.tenants()) == sorted(self.model)
            for name, tenant in self.model.items():
                store = engine.open(name)
                assert read_through(store) == tenant.left
                assert (store.head(), store.count()) == (len(tenant.log), len(tenant.left))
                assert list(store.checkpoints().items()) == sorted(tenant.checkpoints.items())
        for name, tenant in self.model.items():
            peeked = self.place.peek(name)
            assert parsed(peeked.events) == tenant.left
            assert peeked.checkpoints == tenant.checkpoints

    def close_engines(self) -> None:
        while self.engines:
            self.engines.pop().close()

    def teardown(self) -> None:
        self.close_engines()
        try:
            if sys.exception() is None:  # else what has failed already is what to report
                self.agrees_with_the_model()
        finally:
            self.directory.cleanup()


class AnySequence(Suite):
    def test_any_sequence_of_operations_does_what_a_plain_model_says(self) -> None:
        class Tenants(TenantsMachine):
            suite = self

        run_state_machine_as_test(
            Tenants,
            settings=settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]),
        )
