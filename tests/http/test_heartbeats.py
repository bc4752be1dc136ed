"""What a stream says while it has nothing to say, over a connection in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ebus.http import live
from tests.http.tails import FORMS, JSON, NDJSON, SSE, Follower
from tests.http.test_server_limits_inside import KEY, in_a_loop, inside

HEARTBEATS = {JSON: b" ", NDJSON: b"\n", SSE: b": still here\n\n"}
HEADERS = pytest.mark.parametrize(
    "headers",
    [{}, {"X-Way": "long"}, {"Accept-Encoding": "gzip"}],
    ids=["short way", "long way", "gzip"],
)


def serve(directory: Path, *, to: Callable[[int], None]) -> None:
    """Have a client, in a thread, talk to a server on this port."""

    @in_a_loop
    async def run() -> None:
        async with inside(directory, enable_gzip=True) as server, server.listen() as port:
            await asyncio.to_thread(to, port)

    run()


def append(port: int, type: str) -> None:
    url = f"http://127.0.0.1:{port}/events"
    body = {"type": type, "data": 1}
    httpx.post(url, json=body, headers={"X-API-Key": f"{KEY}0"}, verify=False).raise_for_status()


def heard(follower: Follower, count: int) -> bytes:
    """So many bytes that come next, but for what the answer begins with."""
    before = len(follower.text)

    def new() -> bytes:
        return follower.text[before:].removeprefix(b"retry: 1000\n\n").removeprefix(b"[")

    follower.until(lambda: len(new()) >= count)
    return new()[:count]


@HEADERS
@FORMS
def test_a_tail_says_that_it_is_there_while_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)
    heartbeat = HEARTBEATS[form]

    def client(port: int) -> None:
        with Follower(port, f"{KEY}0", form, {"from": 1}, headers=headers) as follower:
            for number in range(1, 4):
                assert heard(follower, 3 * len(heartbeat)) == heartbeat * 3
                append(port, f"T{number}")
                follower.take(number)
            assert follower.positions == [1, 2, 3]

    serve(tmp_path, to=client)


@FORMS
def test_a_tail_sends_no_heartbeat_before_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 600)

    def client(port: int) -> None:
        with Follower(port, f"{KEY}0", form, {"from": 1}) as follower:
            for number in range(1, 20):
                append(port, "T")
                follower.take(number)
        text = follower.text.removeprefix(b"retry: 1000\n\n")
        assert b"still here" not in text
        assert b" " not in text.replace(b"data: ", b"").replace(b"id: ", b"")
        assert text.count(b"\n") == {JSON: 0, NDJSON: 19, SSE: 3 * 19}[form]

    serve(tmp_path, to=client)


@pytest.mark.parametrize("form", [NDJSON, SSE])
def test_a_stream_that_finds_nothing_for_long_says_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", -1)  # any time is longer

    def client(port: int) -> None:
        append(port, "T")
        query = {"type": "Nobody", "follow": "false"}
        with Follower(port, f"{KEY}0", form, query) as follower:
            assert follower.to_the_end() == []
        assert follower.text.endswith(HEARTBEATS[form])

    serve(tmp_path, to=client)
