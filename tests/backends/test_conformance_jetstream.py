"""The JetStream engine passes the conformance suite, on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import nats
import pytest

from ebus.backends.jetstream import JetStreamEngine
from ebus.backends.jetstream.address import parse
from ebus.core.limits import Limits
from ebus.core.store import (
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsTrim,
    SupportsWatch,
    SupportsWireRead,
)
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked
from tests import in_memory
from tests.nats import fixtures
from tests.nats.servers import NatsServer

tmp_path_factory = in_memory.tmp_path_factory
nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server

_numbers = count(1)


class JetStreamPlace:
    """A prefix of its own, on one server for all tests."""

    def __init__(self, url: str, prefix: str, peeking: Peeking) -> None:
        self.location = f"{url.removeprefix('nats:')}?prefix={prefix}"
        self.prefix = prefix
        self.peeking = peeking

    def open(self, *, limits: Limits | None = None) -> JetStreamEngine:
        options = parse(self.location, secure=False)
        return JetStreamEngine(options, durability="full", limits=limits or Limits())

    def peek(self, name: str) -> Peeked:
        return self.peeking.peek(self.prefix, name)


class Peeking:
    """The official client, which asks for one message after the other."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(nats.connect(url))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def peek(self, prefix: str, name: str) -> Peeked:
        return self._loop.run_until_complete(self._peek(prefix, name))

    async def _peek(self, prefix: str, name: str) -> Peeked:
        events = [
            b'{"position":%d,%b' % (sequence, data[1:])
            for sequence, data in await self._messages(f"{prefix}-{name}", f"{prefix}.{name}.*.*")
        ]
        saved = await self._messages(f"KV_{prefix}-{name}", f"$KV.{prefix}-{name}.sub.*")
        checkpoints = {
            it["name"]: it["subscription"].get("position", 0)
            for it in (json.loads(data) for _, data in saved if data)
        }
        return Peeked(events, checkpoints) if events or saved else NOTHING_STORED

    async def _messages(self, stream: str, subject: str) -> list[tuple[int, bytes]]:
        """Every message, page by page."""
        found: list[tuple[int, bytes]] = []
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, pending_msgs_limit=0)
        request: dict[str, Any] = {"seq": 1, "next_by_subj": subject, "batch": 1_000_000}
        await self._client.publish(
            f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox
        )
        while True:
            message = await subscription.next_msg(timeout=10)
            headers = message.headers or {}
            if "Status" in headers:
                break
            found.append((int(headers["Nats-Sequence"]), message.data))
        await subscription.unsubscribe()
        return found


class TestJetStreamConformance(EngineConformance):
    powers = frozenset(
        {
            SupportsWireRead,
            SupportsTrim,
            SupportsGaps,
            SupportsIdLookup,
            SupportsQuota,
            SupportsWatch,
        }
    )
    server: ClassVar[NatsServer]
    peeking: ClassVar[Peeking]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on_a_server(cls, nats_server: NatsServer) -> Iterator[None]:
        cls.server, cls.peeking = nats_server, Peeking(nats_server.url)
        yield
        cls.peeking.close()

    def new_place(self, directory: Path) -> JetStreamPlace:
        return JetStreamPlace(self.server.url, f"t{next(_numbers)}", self.peeking)
