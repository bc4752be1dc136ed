"""NATS's own client, as tests of the servers use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

import nats
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext

from tests.nats.monitoring import PAUSE_S

T = TypeVar("T")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client that comes back to a server which was away, as often as it takes."""
    client = await nats.connect(
        url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.02, error_cb=_quiet
    )
    try:
        yield client
    finally:
        await client.close()


async def _quiet(_: Exception) -> None:
    """That a server is away is the test's own doing."""


async def published(client: Client, stream: str, payload: bytes) -> int:
    """Its sequence, however often it must be tried: it is stored once."""
    headers = {"Nats-Msg-Id": payload.decode()}

    async def publish(jetstream: JetStreamContext) -> int:
        return (await jetstream.publish(f"{stream}.x", payload, headers=headers)).seq

    return await patiently(client, publish)


async def replicated(client: Client, stream: str) -> None:
    """Make a stream that is on three servers, for subjects below its name."""

    async def make(jetstream: JetStreamContext) -> None:
        await jetstream.add_stream(name=stream, subjects=[f"{stream}.>"], num_replicas=3)

    await patiently(client, make)


async def stored(client: Client, stream: str) -> list[bytes]:
    async def read(jetstream: JetStreamContext) -> list[bytes]:
        state = (await jetstream.stream_info(stream)).state
        sequences = range(state.first_seq, state.last_seq + 1)
        return [
            (await jetstream.get_msg(stream, seq=sequence)).data or b"" for sequence in sequences
        ]

    return await patiently(client, read)


async def patiently(client: Client, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Once a leader has been elected: until then it fails, and is tried again."""
    while True:
        try:
            return await work(client.jetstream(timeout=1))
        except (Error, TimeoutError):
            await asyncio.sleep(PAUSE_S)


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(work())
