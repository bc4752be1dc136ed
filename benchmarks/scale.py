"""How much is measured: next to nothing in tests, the table in minutes, or all of it."""

from __future__ import annotations

from typing import Literal

import msgspec

ScaleName = Literal["tiny", "short", "full"]


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one run. What is compared is always measured at the same scale."""

    name: ScaleName

    rounds: int
    """How often each figure is measured, in turns with what it is compared with."""

    seconds: float
    """How long one measurement takes, at least."""

    log_events: int
    """Events in a log that is read from."""

    grown_events: tuple[int, ...]
    """Sizes of the logs whose speeds are compared, the smallest first."""

    even_tenants: tuple[int, ...]
    """Numbers of tenants that are written to evenly."""

    zipf_tenants: tuple[int, ...]
    """Numbers of tenants that are written to by Zipf's law, the smallest first."""

    configured_tenants: tuple[int, ...]
    """Numbers of tenants in the config files whose start is timed, the smallest first."""

    streamed_events: int
    """Events in the log that is streamed slowly while the server's memory is watched."""

    streamed_seconds: float
    """How long that stream takes."""

    latency_seconds: float
    """How long one measurement of latency takes: its tail needs more requests than a mean."""

    rates_per_s: tuple[int, ...]
    """Rates of requests at which latency is measured."""

    quiet_rate_per_s: int
    """The rate of a tenant that has a noisy neighbour."""

    workers: tuple[int, ...]
    """Numbers of worker processes that are compared."""

    tails: tuple[int, ...] = ()
    """Numbers of clients that follow one log."""


TINY = Scale(
    name="tiny",
    rounds=1,
    seconds=0.15,
    log_events=2_000,
    grown_events=(1_000, 3_000),
    even_tenants=(1, 3),
    zipf_tenants=(2, 5),
    configured_tenants=(1, 5),
    streamed_events=3_000,
    streamed_seconds=0.3,
    latency_seconds=0.3,
    rates_per_s=(50,),
    quiet_rate_per_s=50,
    workers=(1, 2),
    tails=(1, 3),
)

SHORT = Scale(
    name="short",
    rounds=5,
    seconds=1.0,
    log_events=200_000,
    grown_events=(10_000, 1_000_000),
    even_tenants=(1, 10, 100, 1_000),
    zipf_tenants=(10, 1_000, 10_000),
    configured_tenants=(10, 10_000),
    streamed_events=1_000_000,
    streamed_seconds=10.0,
    latency_seconds=2.0,
    rates_per_s=(500, 2_000, 5_000),
    quiet_rate_per_s=200,
    workers=(1, 2),
    tails=(1, 100, 1_000),
)

FULL = Scale(
    name="full",
    rounds=9,
    seconds=3.0,
    log_events=1_000_000,
    grown_events=(10_000, 1_000_000, 10_000_000),
    even_tenants=(1, 10, 100, 1_000, 10_000),
    zipf_tenants=(10, 1_000, 10_000),
    configured_tenants=(10, 1_000, 10_000),
    streamed_events=10_000_000,
    streamed_seconds=60.0,
    latency_seconds=10.0,
    rates_per_s=(500, 1_000, 2_000, 4_000, 6_000, 8_000),
    quiet_rate_per_s=200,
    workers=(1, 2, 3),
    tails=(1, 100, 1_000),
)
