"""One event at a time to ever more tenants, chosen by one law."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from benchmarks.appending import check_append
from benchmarks.errors import check
from benchmarks.open_loop import measure_latencies
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_bare, serving_ebus
from benchmarks.workload import BARE, Tenant, append_requests, make_tenants
from benchmarks.wrk import load
from ebus import open_engine

CONNECTIONS = 32

CHOICES_PER_TENANT = 5
LEAST_CHOICES = 1_000


class Choose(Protocol):
    """Which tenants are written to, one after the other."""

    def __call__(
        self, tenants: Sequence[Tenant], count: int, *, part: int = 0
    ) -> Sequence[Tenant]: ...


class _Site:
    """A server with some tenants, and what it has acknowledged so far."""

    def __init__(self, server: Server, directory: Path, tenants: Sequence[Tenant]) -> None:
        self.tenants = tenants
        self._server = server
        self._data = directory / "data"
        self._acknowledged = 0
        self._loads = 0

    def append(self, choose: Choose, seconds: float) -> float:
        """Appends acknowledged in a second; every time to another choice of tenants."""
        count = max(LEAST_CHOICES, CHOICES_PER_TENANT * len(self.tenants))
        chosen = choose(self.tenants, count, part=self._loads)
        requests = append_requests(chosen)
        answered = load(self._server, requests, connections=CONNECTIONS, seconds=seconds)
        self._loads += 1
        self._acknowledged += answered.requests
        return answered.requests_per_s

    def append_to_each(self) -> None:
        """One append to every tenant, after which as many are open as ever will be."""
        check_append(self._server, self.tenants[0])
        check_append(self._server, self.tenants[-1])
        # At a rate that no server keeps up with, this sends as fast as answers come.
        count = len(self.tenants)
        measure_latencies(
            self._server, append_requests(self.tenants), rate_per_s=10 * count, seconds=0.1
        )
        self._acknowledged += 2 + count

    def check_stored(self) -> None:
        """What was acknowledged is in the files. To be called when the server has ended."""
        stored = 0
        with open_engine(f"sqlite:{self._data}") as engine:
            for tenant in self.tenants:
                with engine.open(tenant.name) as store:
                    stored += store.head()
        most = self._acknowledged + CONNECTIONS * self._loads
        check(
            self._acknowledged <= stored <= most,
            f"{self._acknowledged} appends were acknowledged, and {stored} events are stored",
        )


def measure_many(scale: Scale, directory: Path, counts: Iterable[int], choose: Choose) -> Result:
    """A server for each number of tenants, `durability: normal`.

    Before anything is timed every tenant's file is there and has been written to.
    """
    result = Result()
    sites: dict[int, _Site] = {}
    with ExitStack() as ending:
        bare = ending.enter_context(serving_bare(directory))
        for count in counts:
            place = directory / str(count)
            tenants = make_tenants(count)
            make_files(place / "data", tenants)
            server = ending.enter_context(serving_ebus(place, tenants, durability="normal"))
            site = sites[count] = _Site(server, place, tenants)
            site.append_to_each()
        for _ in range(scale.rounds):
            floor = load(bare, BARE, connections=CONNECTIONS, seconds=scale.seconds)
            result.add("bare", "requests/s", floor.requests_per_s)
            for count, site in sites.items():
                result.add(counted(count, "tenant"), "events/s", site.append(choose, scale.seconds))
    for site in sites.values():
        site.check_stored()
    return result


def make_files(data: Path, tenants: Sequence[Tenant]) -> None:
    """An empty file for each tenant, copied: to make each would take an fsync or two."""
    with open_engine(f"sqlite:{data}") as engine:
        engine.open(tenants[0].name)
    for tenant in tenants[1:]:
        shutil.copyfile(data / f"{tenants[0].name}.db", data / f"{tenant.name}.db")
