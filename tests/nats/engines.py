"""Engines on the servers of tests, and who runs those servers: asked over their own protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats

from ebus.backends.jetstream import JetStreamEngine
from ebus.backends.jetstream.address import parse
from ebus.core.engine import Durability
from ebus.core.limits import Limits

TIMEOUT_S = 30.0
"""For what is to succeed, however busy the machine is."""


def address_at(url: str, **options: Any) -> str:
    query = "&".join(
        f"{name}={value}" for name, value in {"timeout_s": TIMEOUT_S, **options}.items()
    )
    return f"{url}?{query}"


def engine_at(
    url: str, *, durability: Durability = "full", limits: Limits | None = None, **options: Any
) -> JetStreamEngine:
    scheme, _, location = address_at(url, **options).partition(":")
    parsed = parse(location, secure=scheme == "tls")
    return JetStreamEngine(parsed, durability=durability, limits=limits or Limits())


class Staff:
    """Who may do anything to the streams of an account, and does it with NATS's own client."""

    def __init__(self, url: str) -> None:
        self._servers = [f"nats://{it}" for it in url.removeprefix("nats://").split(",")]
        if "@" in url:
            user, _, hosts = url.removeprefix("nats://").partition("@")
            self._servers = [f"nats://{user}@{it}" for it in hosts.split(",")]

    def ask(self, subject: str, request: object = None) -> Any:
        """What the API of JetStream answers, which is no error."""
        return asyncio.run(self._ask(subject, request))

    def make(self, name: str, **config: object) -> None:
        self.ask(f"STREAM.CREATE.{name}", {"name": name, **config})

    def change(self, name: str, **config: object) -> None:
        """Change some of a stream's settings."""
        before = self.ask(f"STREAM.INFO.{name}")["config"]
        self.ask(f"STREAM.UPDATE.{name}", {**before, **config})

    def delete(self, name: str) -> None:
        self.ask(f"STREAM.DELETE.{name}")

    def names(self) -> list[str]:
        return self.ask("STREAM.NAMES")["streams"] or []

    async def _ask(self, subject: str, request: object) -> Any:
        client = await nats.connect(self._servers)
        try:
            payload = b"" if request is None else json.dumps(request).encode()
            message = await client.request(f"$JS.API.{subject}", payload, timeout=TIMEOUT_S)
            answer = json.loads(message.data)
            assert "error" not in answer, answer["error"]
            return answer
        finally:
            await client.close()
