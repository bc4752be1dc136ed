"""The workload that all benchmarks share: seeded events, tenants, choices and requests.

The same seed gives the same workload on every machine and in every run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, islice

import msgspec

from ebus import NewEvent
from ebus.core.store import TenantStore

SEED = 20_240_101

TYPES = ("OrderPlaced", "OrderPaid", "OrderShipped", "OrderCancelled")

MAX_DISTINCT_EVENTS = 1_000
"""After so many the events repeat: nothing that is measured remembers one."""

MAX_DISTINCT_REQUESTS = 1_000
"""After so many a client repeats itself, unless tenants are chosen."""

_encode = msgspec.json.Encoder().encode


class Tenant(msgspec.Struct, frozen=True):
    """A tenant as the config file has it."""

    name: str
    api_key: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request of a load; `events` is how many an answer of 200 stores or brings."""

    method: str
    path: str
    key: str = ""
    body: bytes = b""
    events: int = 1


BARE = [Request(method="GET", path="/")]
"""What the bare server is asked: no body, no key, as little as a request can be."""


def make_tenants(count: int) -> list[Tenant]:
    source = random.Random(SEED)
    return [
        Tenant(f"tenant-{number:05}", f"{source.getrandbits(160):040x}") for number in range(count)
    ]


def make_events(count: int) -> list[NewEvent]:
    """Orders of about 115 bytes each as JSON, of which 47 to 50 are the data."""
    source = random.Random(SEED)
    distinct = [
        NewEvent.of(
            source.choice(TYPES),
            {
                "order": f"A-{number:03}",
                "amount": source.randrange(10, 1_000) / 10,
                "items": source.sample(range(1, 10), 3),
            },
            f"2024-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z",
        )
        for number in range(min(count, MAX_DISTINCT_EVENTS))
    ]
    return (distinct * (count // len(distinct) + 1))[:count]


def choose_evenly(tenants: Sequence[Tenant], count: int, *, part: int = 0) -> list[Tenant]:
    """`count` times any of the tenants, each as likely as the others.

    Another `part` of the workload has other choices.
    """
    return random.Random(SEED + part).choices(tenants, k=count)


def choose_by_zipf(tenants: Sequence[Tenant], count: int, *, part: int = 0) -> list[Tenant]:
    """`count` times any of the tenants, the n-th with a weight of 1/n (Zipf's law, s = 1)."""
    weights = list(accumulate(1 / rank for rank in range(1, len(tenants) + 1)))
    return random.Random(SEED + part).choices(tenants, cum_weights=weights, k=count)


def append_requests(tenants: Sequence[Tenant]) -> list[Request]:
    """An append of one event to each of these tenants, in their order."""
    events = make_events(len(tenants))
    return [
        Request(method="POST", path="/events", key=tenant.api_key, body=_encode(event))
        for tenant, event in zip(tenants, events, strict=True)
    ]


def batch_requests(tenant: Tenant, size: int, *, distinct: int = 16) -> list[Request]:
    """Appends of batches of `size` events."""
    events = iter(make_events(size * distinct))
    return [
        Request(
            method="POST",
            path="/events/batch",
            key=tenant.api_key,
            body=_encode(list(islice(events, size))),
            events=size,
        )
        for _ in range(distinct)
    ]


def range_requests(tenant: Tenant, size: int, head: int) -> list[Request]:
    """Reads of `size` events each, at places spread evenly over a log with this head."""
    assert head >= size
    source = random.Random(SEED)
    starts = [source.randint(1, head - size + 1) for _ in range(MAX_DISTINCT_REQUESTS)]
    return [
        Request(
            method="GET",
            path=f"/events?from={start}&to={start + size - 1}",
            key=tenant.api_key,
            events=size,
        )
        for start in starts
    ]


def stream_requests(tenant: Tenant, head: int) -> list[Request]:
    """Replays of the whole log."""
    return [Request(method="GET", path="/events/stream?from=1", key=tenant.api_key, events=head)]


def position_requests(tenant: Tenant) -> list[Request]:
    return [Request(method="GET", path="/position", key=tenant.api_key)]


def mixed_requests(tenant: Tenant, head: int) -> list[Request]:
    """Of ten requests five append one event, four read 100, and one asks for the head."""
    appends = append_requests([tenant] * MAX_DISTINCT_REQUESTS)
    ranges = range_requests(tenant, 100, head)
    positions = position_requests(tenant) * MAX_DISTINCT_REQUESTS
    kinds = [appends] * 5 + [ranges] * 4 + [positions]
    source = random.Random(SEED)
    return [source.choice(source.choice(kinds)) for _ in range(MAX_DISTINCT_REQUESTS)]


def fill(store: TenantStore, count: int) -> None:
    """Append `count` events to a store, in batches of 1,000."""
    batch = make_events(min(count, 1_000))
    for _ in range(count // len(batch)):
        store.append(batch)
    if rest := count % len(batch):
        store.append(batch[:rest])
