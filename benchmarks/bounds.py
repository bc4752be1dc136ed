"""What the figures must show: ratios within one run, and the bound of each."""

from __future__ import annotations

from typing import Literal

import msgspec

from benchmarks.record import Record, Spread, counted


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio of two figures of one case, and what it must be."""

    says: str
    case: str
    figures: tuple[str, ...]
    """What is measured; of several the one with the best ratio counts."""

    over: str

    instead: str = ""
    """What a run has that leaves out `figures`: the same with smaller logs. It is shown only."""

    kind: Literal["at least", "at most"] = "at least"
    bound: float


class Verdict(msgspec.Struct, frozen=True):
    """What a run says of a bound. Without a ratio the run did not measure it."""

    bound: Bound
    figure: str
    ratio: Spread | None
    reason: str = ""

    instead: Spread | None = None
    """The ratio of `bound.instead`, when the run did not measure the bound."""

    @property
    def met(self) -> bool | None:
        if self.ratio is None:
            return None
        if self.bound.kind == "at least":
            return self.ratio.median >= self.bound.bound
        return self.ratio.median <= self.bound.bound


BOUNDS = (
    Bound(
        says="in-process `commit` of batches of 1,000 from decoded events, over rows",
        case="engine_commit",
        figures=("sqlite, 1,000",),
        over="rows, 1,000",
        bound=1.0,
    ),
    Bound(
        says="in-process read of 10,000 to JSON bytes, over rows",
        case="engine_read",
        figures=("sqlite, 10,000",),
        over="rows, 10,000",
        bound=4,
    ),
    Bound(
        says="HTTP append, 128 connections, over bare",
        case="http_append",
        figures=("append, full, 128 connections",),
        over="bare, 128 connections",
        bound=0.65,
    ),
    Bound(
        says="HTTP append, 32 connections, over bare",
        case="http_append",
        figures=("append, full, 32 connections",),
        over="bare, 32 connections",
        bound=0.55,
    ),
    Bound(
        says="HTTP append, 1 connection, `durability: normal`, over bare",
        case="http_append",
        figures=("append, normal, 1 connection",),
        over="bare, 1 connection",
        bound=0.3,
    ),
    Bound(
        says="HTTP append, 128 connections, best number of workers, over bare with one",
        case="workers",
        figures=tuple(
            f"append, 128 connections, {counted(count, 'worker')}" for count in (1, 2, 3, 4)
        ),
        over="bare, 128 connections",
        bound=0.9,
    ),
    Bound(
        says="events/s in batches of 100 over events/s singly, 32 connections",
        case="http_batch",
        figures=("append, 100",),
        over="append, 1",
        bound=25,
    ),
    Bound(
        says="events/s in batches of 1,000 over HTTP, over in-process `commit` of the same",
        case="http_batch",
        figures=("append, 1,000",),
        over="in process, 1,000",
        bound=0.6,
    ),
    Bound(
        says="range of 100 events, 32 connections, over bare",
        case="http_range",
        figures=("range, 100, requests",),
        over="bare",
        bound=0.45,
    ),
    Bound(
        says="range of 10,000 over HTTP, events/s, over in-process reads to JSON bytes",
        case="http_range",
        figures=("range, 10,000",),
        over="in process, 10,000",
        bound=0.4,
    ),
    Bound(
        says="stream over HTTP, events/s, over in-process reads to JSON bytes",
        case="http_range",
        figures=("stream",),
        over="in process, 10,000",
        bound=0.4,
    ),
    Bound(
        says="32 connections over 100 tenants evenly, over one tenant, `durability: normal`",
        case="tenants_even",
        figures=("100 tenants",),
        over="1 tenant",
        bound=0.8,
    ),
    Bound(
        says="appends to 10,000 tenants, Zipf, over 10 tenants, `durability: normal`",
        case="tenants_zipf",
        figures=("10,000 tenants",),
        over="10 tenants",
        bound=0.5,
    ),
    *(
        Bound(
            says=f"{what} at 10 million events, over the same at 10 thousand",
            case="growth",
            figures=(f"{what}, 10,000,000",),
            instead=f"{what}, 1,000,000",
            over=f"{what}, 10,000",
            bound=0.9,
        )
        for what in ("append", "range")
    ),
    Bound(
        says="quiet tenant's p99 while a neighbour writes batches of 1,000 and replays "
        "everything, over its p99 alone",
        case="noisy_neighbour",
        figures=("beside the neighbour, p99",),
        over="alone, p99",
        kind="at most",
        bound=3,
    ),
    *(
        Bound(
            says=f"an event at {tails}, median beyond the append's answer, over 5 ms",
            case="tails",
            figures=(f"beyond the answer, {tails}, p50",),
            over=f"allowed, {tails}",
            kind="at most",
            bound=1,
        )
        for tails in ("1 tail", "100 tails", "1,000 tails")
    ),
    Bound(
        says="memory of the server while one client streams 10 million events slowly, over idle",
        case="stream_memory",
        figures=("streaming, 10,000,000",),
        instead="streaming, 1,000,000",
        over="idle",
        kind="at most",
        bound=1.3,
    ),
    Bound(
        says="start with 10,000 tenants configured, over 10",
        case="start",
        figures=("10,000 tenants",),
        over="10 tenants",
        kind="at most",
        bound=2,
    ),
    *(
        bound
        for nodes in ("1 node", "3 nodes")
        for bound in (
            Bound(
                says=f"append on JetStream, {nodes}, 32 connections, over the plain client with "
                "32 publishes in flight",
                case="jetstream",
                figures=(f"append, {nodes}",),
                over=f"plain client, {nodes}",
                bound=0.6,
            ),
            Bound(
                says=f"events/s in batches of 100 over events/s singly, on JetStream, {nodes}",
                case="jetstream",
                figures=(f"append, 100, {nodes}",),
                over=f"append, {nodes}",
                bound=10,
            ),
            Bound(
                says=f"range of 1,000 from JetStream, {nodes}, over gets one by one",
                case="jetstream",
                figures=(f"range, 1,000, in process, {nodes}", f"range, 1,000, {nodes}"),
                over=f"one by one, {nodes}",
                bound=20,
            ),
        )
    ),
)


def judge(record: Record) -> list[Verdict]:
    """What a run says of every bound, in their order."""
    return [_judge(record, bound) for bound in BOUNDS]


def _judge(record: Record, bound: Bound) -> Verdict:
    result = record.result(bound.case)
    found = [
        (name, ratio)
        for name in bound.figures
        if (ratio := result.ratio(name, bound.over)) is not None
    ]
    if found:
        sign = 1 if bound.kind == "at least" else -1
        name, ratio = max(found, key=lambda pair: sign * pair[1].median)
        return Verdict(bound, name, ratio)
    if instead := result.ratio(bound.instead, bound.over):
        return Verdict(bound, bound.instead, None, "only in the full run", instead)
    reasons = [result.skipped[name] for name in bound.figures if name in result.skipped]
    if result.failure:
        reasons = [f"`{bound.case}` failed"]
    return Verdict(bound, bound.figures[0], None, reasons[0] if reasons else "not in this run")
