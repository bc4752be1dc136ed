"""Loads that read: every answer is looked at once before any is timed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.errors import check
from benchmarks.scale import Scale
from benchmarks.servers import Server
from benchmarks.workload import Request
from benchmarks.wrk import load


class _Placed(msgspec.Struct):
    position: int


_decode_positions = msgspec.json.Decoder(list[_Placed]).decode


def check_range(server: Server, request: Request, first: int) -> int:
    """The answer holds the events it must, from `first` on; returns its size in bytes."""
    body = server.answer(request)
    positions = [event.position for event in _decode_positions(body)]
    expected = list(range(first, first + request.events))
    check(positions == expected, f"{request.path} gives other events than {first} and on")
    return len(body)


def read_per_s(
    server: Server,
    requests: Sequence[Request],
    *,
    connections: int,
    scale: Scale,
    answer_bytes: int | None = None,
) -> float:
    """Events that are received in a second, when each request brings equally many.

    With `answer_bytes`, the size of an answer, the unfinished ones count for what has come of
    them: large answers are few in the time of a measurement.
    """
    received = load(server, requests, connections=connections, seconds=scale.seconds)
    answers = received.requests if answer_bytes is None else received.bytes / answer_bytes
    return answers * requests[0].events / received.seconds
