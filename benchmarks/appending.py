"""Loads that append: what was acknowledged must be there afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.errors import check
from benchmarks.scale import Scale
from benchmarks.servers import Server
from benchmarks.workload import Request, Tenant, append_requests, batch_requests
from benchmarks.wrk import load


def check_append(server: Server, tenant: Tenant) -> None:
    """The event that is appended is answered, counted and read back."""
    [request] = append_requests([tenant])
    before = server.head(tenant)
    answered = server.json(request)
    position = answered.pop("position")
    check(position == before + 1, f"the event after {before} got position {position}")
    check(answered == msgspec.json.decode(request.body), f"not what was appended: {answered}")
    _check_read(server, tenant, position, [request.body])


def check_batch(server: Server, tenant: Tenant, size: int) -> None:
    """The batch that is appended is answered, counted and read back."""
    [request] = batch_requests(tenant, size, distinct=1)
    before = server.head(tenant)
    answered = server.json(request)
    expected = {"saved": size, "first_position": before + 1, "last_position": before + size}
    check(answered == expected, f"{answered} instead of {expected}")
    bodies = msgspec.json.decode(request.body, type=list[msgspec.Raw])
    _check_read(server, tenant, before + 1, [bytes(body) for body in bodies])


def _check_read(server: Server, tenant: Tenant, first: int, bodies: Sequence[bytes]) -> None:
    path = f"/events?from={first}&to={first + len(bodies) - 1}"
    read = server.json(Request(method="GET", path=path, key=tenant.api_key))
    expected = [
        {"position": first + index, **msgspec.json.decode(body)}
        for index, body in enumerate(bodies)
    ]
    check(read == expected, f"{path} does not give what was appended")


def appended_per_s(
    server: Server,
    tenants: Sequence[Tenant],
    requests: Sequence[Request],
    *,
    connections: int,
    scale: Scale,
) -> float:
    """Events that are acknowledged in a second, when each request appends equally many.

    Afterwards the tenants' heads together have grown by those that were acknowledged, and at
    most by one more request for each connection, which wrk has not waited for: neither at the end
    of this load nor at that of the one before, whose last requests may still be under way.
    """
    before = _heads(server, tenants)
    sent = load(server, requests, connections=connections, seconds=scale.seconds)
    grown = _heads(server, tenants) - before
    size = requests[0].events
    least = sent.requests * size
    most = least + connections * size + server.events_under_way
    server.events_under_way = connections * size
    check(
        least <= grown <= most,
        f"{sent.requests} requests of {size} events were acknowledged, and {grown} events stored",
    )
    return sent.requests_per_s * size


def _heads(server: Server, tenants: Sequence[Tenant]) -> int:
    return sum(server.head(tenant) for tenant in tenants)
