"""Figures as text for Prometheus, in its own format or as OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import ebus
from ebus.http import figures
from ebus.http.figures import BOUNDS_S, BUCKETS, GROUP_BOUNDS, GROUP_BUCKETS, Block
from ebus.http.operations import APPENDING, OPERATIONS, REASONS, STATUSES
from ebus.http.scraping import Seen


def text_of(seen: Seen, *, openmetrics: bool) -> tuple[bytes, str]:
    """The text and its media type."""
    registry = CollectorRegistry()
    registry.register(_Figures(seen))
    if openmetrics:
        text: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return text, openmetrics_exposition.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Figures(Collector):
    """What was seen, as families of metrics."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def describe(self) -> Iterable[Metric]:
        return ()  # they are not looked at when the collector is registered

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        yield InfoMetricFamily("ebus_build", "The version of ebus.", {"version": ebus.__version__})
        yield from _requests(seen)
        yield from _traffic(seen)
        yield from _refusals(seen)
        yield from _commits(seen)
        yield from _waiting(seen)
        yield from _stores(seen)
        if seen.tenant is None:
            yield from _server(seen)


def _name(seen: Seen, number: int) -> str:
    return seen.names.get(number, "")


def _blocks(seen: Seen, first: int, last: int) -> Iterator[tuple[int, int, Block]]:
    """Tenant, kind and cells of the blocks of these kinds, in a steady order."""
    for number, kind in sorted(seen.blocks):
        if first <= kind <= last:
            yield number, kind, seen.blocks[number, kind]


_operations = partial(_blocks, first=0, last=len(OPERATIONS) - 1)


def _requests(seen: Seen) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "ebus_requests",
        "Requests that were answered, by tenant (none: without a valid key), route and status.",
        labels=["tenant", "method", "route", "status"],
    )
    sums: dict[int, Block] = {}
    for number, kind, block in _operations(seen):
        method, route = OPERATIONS[kind]
        labels = [_name(seen, number), method, route]
        if ok := sum(block[figures.OK : figures.OK + BUCKETS]):
            requests.add_metric([*labels, "200"], ok)
        for place, status in enumerate(STATUSES):
            if count := block[figures.FIRST_STATUS + place]:
                requests.add_metric([*labels, str(status) if status else "other"], count)
        sums[kind] = figures.added(sums[kind], block) if kind in sums else block
    yield requests
    durations = _Histogram(
        seen,
        "ebus_request_duration_seconds",
        "From the arrival of a whole request (of one with a large body: of its head) until its "
        "answer is handed to the system; of an answer in pieces until it begins, of a long poll "
        "with its wait.",
        ["method", "route"],
        BOUNDS_S,
    )
    for kind, block in sorted(sums.items()):
        buckets = [
            ok + other
            for ok, other in zip(
                block[figures.OK : figures.OK + BUCKETS],
                block[figures.NOT_OK : figures.NOT_OK + BUCKETS],
                strict=True,
            )
        ]
        durations.add(list(OPERATIONS[kind]), buckets, block[figures.DURATION_NS] / 1e9)
    yield durations.family


def _traffic(seen: Seen) -> Iterator[Metric]:
    """By tenant alone: routes times tenants would be many series."""
    sums: dict[int, list[int]] = {}
    for number, kind, block in _operations(seen):
        one = sums.setdefault(number, [0, 0, 0, 0])
        one[0] += block[figures.BODY_BYTES_IN]
        one[1] += block[figures.BODY_BYTES_OUT]
        one[2 if kind in APPENDING else 3] += block[figures.EVENTS]
    for place, (name, text) in enumerate(
        [
            ("ebus_request_body_bytes", "Bytes of request bodies that arrived as a whole."),
            ("ebus_response_body_bytes", "Bytes of answers' bodies, before compression."),
            ("ebus_events_appended", "Events that were stored, without duplicates."),
            ("ebus_events_delivered", "Events that were sent: reads, streams and leases."),
        ]
    ):
        family = CounterMetricFamily(name, text, labels=["tenant"])
        for number, values in sums.items():
            family.add_metric([_name(seen, number)], values[place])
        yield family


def _refusals(seen: Seen) -> Iterator[Metric]:
    refusals = CounterMetricFamily(
        "ebus_refusals",
        "Requests that were refused, by the code of the problem.",
        labels=["tenant", "reason"],
    )
    for number, kind, block in _blocks(seen, figures.REFUSALS, figures.MORE_REFUSALS):
        reasons = REASONS[(kind - figures.REFUSALS) * figures.CELLS :]
        for reason, count in zip(reasons, block, strict=False):
            if count:
                refusals.add_metric([_name(seen, number), reason], count)
    yield refusals


class _Duration(NamedTuple):
    name: str
    text: str
    kind: int
    first: int


_DURATIONS = [
    _Duration(
        "ebus_commit_duration_seconds",
        "One commit of a tenant's store, all of it: checks, encoding, statements and sync.",
        figures.COMMITS,
        figures.COMMIT,
    ),
    _Duration(
        "ebus_commit_sync_duration_seconds",
        "The statement that makes a commit durable, with its fsync of the write-ahead log "
        "(sqlite; only where durability is full): COMMIT, or the one INSERT that is a transaction "
        "by itself.",
        figures.SYNCS,
        figures.SYNC,
    ),
    _Duration(
        "ebus_wal_write_back_duration_seconds",
        "Writing a tenant's write-ahead log back into its database, with the fsyncs of both; it "
        "happens beside the writers.",
        figures.SYNCS,
        figures.WRITE_BACK,
    ),
]


def _commits(seen: Seen) -> Iterator[Metric]:
    groups = _Histogram(
        seen,
        "ebus_commit_writes",
        "Appends and checkpoints that shared one commit.",
        [],
        GROUP_BOUNDS,
    )
    sums: dict[int, Block] = {}
    for _, kind, block in _blocks(seen, figures.COMMITS, figures.SYNCS):
        sums[kind] = figures.added(sums[kind], block) if kind in sums else block
    if figures.COMMITS in sums:
        cells = sums[figures.COMMITS]
        groups.add([], cells[figures.GROUP :][:GROUP_BUCKETS], cells[figures.GROUP_WRITES])
    yield groups.family
    for duration in _DURATIONS:
        family = _Histogram(seen, duration.name, duration.text, [], BOUNDS_S)
        if duration.kind in sums:
            cells = sums[duration.kind][duration.first :]
            family.add([], cells[:BUCKETS], cells[BUCKETS] / 1e9)
        yield family.family


def _waiting(seen: Seen) -> Iterator[Metric]:
    """Gauges that all workers sample."""
    for gauge, name, text in [
        (figures.QUEUED_WRITES, "ebus_queued_writes", "Appends and checkpoints that wait."),
        (figures.QUEUED_BYTES, "ebus_queued_write_bytes", "Bytes of the events that wait."),
        (figures.QUEUED_READS, "ebus_queued_reads", "Reads that wait."),
        (
            figures.WAITING,
            "ebus_waiting_requests",
            "Requests that wait for events to come: streams that follow, and long polls.",
        ),
    ]:
        family = GaugeMetricFamily(name, text, labels=["tenant"])
        for number, _, block in _blocks(seen, figures.GAUGES, figures.GAUGES):
            if number != seen.nobody and (block[figures.IS_OPEN] or block[gauge]):
                family.add_metric([_name(seen, number)], block[gauge])
        yield family
    yield GaugeMetricFamily(
        "ebus_queued_writes_limit",
        "How many appends and checkpoints of one tenant may wait (max_queue_appends), in each "
        "worker; one more is refused.",
        seen.max_queue_appends,
    )


def _stores(seen: Seen) -> Iterator[Metric]:
    head = GaugeMetricFamily("ebus_head_position", "The last position of the log.", labels=_TENANT)
    subscriptions = GaugeMetricFamily(
        "ebus_subscriptions", "Subscriptions that have a checkpoint.", labels=_TENANT
    )
    furthest = GaugeMetricFamily(
        "ebus_subscription_lag_max_events",
        "How many positions the subscription that is behind most is behind the head.",
        labels=_TENANT,
    )
    lag = GaugeMetricFamily(
        "ebus_subscription_lag_events",
        "How many positions a subscription's checkpoint is behind the head.",
        labels=["tenant", "subscription"],
    )
    for number, outline in sorted(seen.outlines.items()):
        labels = [_name(seen, number)]
        lags = {name: outline.lag(name) for name in outline.checkpoints}
        head.add_metric(labels, outline.head)
        subscriptions.add_metric(labels, len(lags))
        furthest.add_metric(labels, max(lags.values(), default=0))
        if seen.tenant is not None:
            for name, behind in lags.items():
                lag.add_metric([*labels, name], behind)
    yield from (head, subscriptions, furthest)
    if seen.tenant is not None:
        yield lag
    database = GaugeMetricFamily(
        "ebus_database_bytes", "Size of the tenant's database file.", labels=_TENANT
    )
    wal = GaugeMetricFamily("ebus_wal_bytes", "Size of its write-ahead log.", labels=_TENANT)
    for number, sizes in sorted(seen.sizes.items()):
        database.add_metric([_name(seen, number)], sizes.database_bytes)
        wal.add_metric([_name(seen, number)], sizes.wal_bytes)
    yield from (database, wal)
    yield GaugeMetricFamily(
        "ebus_scrape_unanswered_tenants",
        "Tenants whose head and subscriptions are missing, since their stores did not answer.",
        seen.unanswered,
    )


_TENANT = ["tenant"]


def _server(seen: Seen) -> Iterator[Metric]:
    block = seen.blocks.get((seen.nobody, figures.GAUGES), [0] * figures.CELLS)
    reloads = seen.reloads
    yield GaugeMetricFamily("ebus_workers", "Processes that serve.", block[figures.IS_UP])
    yield GaugeMetricFamily("ebus_tenants", "Tenants that are configured.", seen.tenants)
    for gauge, name, text in [
        (
            figures.OPEN_TENANTS,
            "ebus_open_tenants",
            "Tenants that are open; one that two workers have open counts twice.",
        ),
        (figures.CONNECTIONS, "ebus_connections", "Connections of clients."),
        (
            figures.HELD_BODY_BYTES,
            "ebus_held_body_bytes",
            "Bytes of request bodies in memory, without those of 64 KiB or less.",
        ),
    ]:
        yield GaugeMetricFamily(name, text, block[gauge])
    yield GaugeMetricFamily(
        "ebus_config_generation",
        "Which configuration is served: 1 at start, one more with each reload.",
        reloads.generation,
    )
    yield GaugeMetricFamily(
        "ebus_config_last_reload_successful",
        "1, or 0 when the last reload failed and the configuration before it is served.",
        0 if reloads.is_failing else 1,
    )
    yield GaugeMetricFamily(
        "ebus_config_loaded_timestamp_seconds",
        "When the configuration that is served was taken over.",
        reloads.last_ok_s,
    )
    yield CounterMetricFamily(
        "ebus_config_reload_failures", "Reloads that failed.", reloads.failures
    )


class _Histogram:
    """A family of histograms. A tenant's own has its name; the whole server's are sums."""

    def __init__(
        self,
        seen: Seen,
        name: str,
        text: str,
        labels: list[str],
        bounds: Iterable[float],
    ) -> None:
        own = ["tenant"] if seen.tenant is not None else []
        self._values = [] if seen.tenant is None else [_name(seen, seen.tenant)]
        self._bounds = [*map(floatToGoString, bounds), "+Inf"]
        self.family = HistogramMetricFamily(name, text, labels=[*own, *labels])

    def add(self, labels: list[str], counts: Iterable[int], total: float) -> None:
        buckets = list(zip(self._bounds, accumulate(counts), strict=True))
        self.family.add_metric([*self._values, *labels], buckets, total)
