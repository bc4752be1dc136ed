"""A place in JetStream for tests: a prefix of its own, and a look at it past the engine."""

from __future__ import annotations

import asyncio
import base64
import json
from itertools import count
from typing import Any

import nats
from nats.aio.msg import Msg

from ebus.backends.jetstream import JetStreamEngine
from ebus.backends.jetstream.address import parse
from ebus.core.limits import Limits
from ebus.testing import NOTHING_STORED, Peeked

_numbers = count(1)


class Peeking:
    """The official client, which is asked for all messages of a stream."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        servers = [f"nats://{it}" for it in url.removeprefix("nats://").split(",")]
        self._client = self._loop.run_until_complete(nats.connect(servers))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def peek(self, prefix: str, name: str) -> Peeked:
        return self._loop.run_until_complete(self._peek(prefix, name))

    def last(self, stream: str, subject: str) -> bytes | None:
        """What the leader has as the last message of a subject."""
        request = {"last_by_subj": subject}
        answer = self._loop.run_until_complete(self._ask(f"STREAM.MSG.GET.{stream}", request))
        return base64.b64decode(answer["message"]["data"]) if "message" in answer else None

    def subjects(self, stream: str) -> list[str]:
        """All that have a message."""
        answer = self._loop.run_until_complete(
            self._ask(f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
        )
        return sorted(answer["state"]["subjects"])

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
        """All that the leader has. Any replica may be asked, and be behind: then it is again."""
        while True:
            found = await self._from_any(stream, subject)
            last = await self._ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
            info = await self._ask(f"STREAM.INFO.{stream}", {"subjects_filter": subject})
            newest = last["message"]["seq"] if "message" in last else 0
            subjects = info.get("state", {}).get("subjects") or {}
            if (found[-1][0] if found else 0, len(found)) == (newest, sum(subjects.values())):
                return found

    async def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        message = await self._client.request(
            f"$JS.API.{what}", json.dumps(request).encode(), timeout=10
        )
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def _from_any(self, stream: str, subject: str) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        ended = self._loop.create_future()

        async def take(message: Msg) -> None:
            headers = message.headers or {}
            if "Status" in headers:
                ended.set_result(None)
            else:
                found.append((int(headers["Nats-Sequence"]), message.data))

        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=take, pending_msgs_limit=0)
        request: dict[str, Any] = {"seq": 1, "next_by_subj": subject, "batch": 1_000_000}
        await self._client.publish(
            f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox
        )
        await asyncio.wait_for(ended, 10)
        await subscription.unsubscribe()
        return found


class JetStreamPlace:
    """Storage that outlives the engines that are opened on it."""

    def __init__(self, url: str, peeking: Peeking, *, replicas: int = 1) -> None:
        self.prefix = f"t{next(_numbers)}"
        self.address = f"{url}?prefix={self.prefix}&replicas={replicas}"
        self.peeking = peeking

    def open(self, *, limits: Limits | None = None) -> JetStreamEngine:
        options = parse(self.address.removeprefix("nats:"), secure=False)
        return JetStreamEngine(options, durability="full", limits=limits or Limits())

    def peek(self, name: str) -> Peeked:
        return self.peeking.peek(self.prefix, name)
