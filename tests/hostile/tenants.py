"""Two tenants who must never see a byte of each other, and what each of them keeps.

What a tenant keeps holds strings that stand nowhere else, canaries: one that comes back to
anybody else, or that the server logs, has been let out.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx
import msgspec

from tests.http.conftest import write_config
from tests.live_server import LiveServer


class Resident:
    """One tenant. `handles` are the names that a stranger could guess and ask for; `canaries`
    are what nobody else can know. All are fit for a URL and need no escaping in JSON."""

    def __init__(self, who: str) -> None:
        def canary(what: str) -> str:
            return f"{who}-{what}-{secrets.token_hex(8)}"

        self.name = canary("name")
        self.key = f"{canary('key')}{secrets.token_hex(16)}"
        self.subscription = canary("subscription")
        self.other_subscription = canary("subscription")
        self.stream = canary("stream")
        self.id = canary("id")
        self.metadata = canary("metadata")
        self.lease = ""
        """Of its subscription, once it has moved in: what nobody else can know."""

        self.type = canary("type")
        self.data = canary("data")
        self.field = canary("field")
        self.timestamp = f"2001-02-03T04:05:06.{secrets.randbelow(10**9) | 1:09}Z"
        self.checkpoint = 2**62 + secrets.randbelow(2**61)

    @property
    def handles(self) -> list[str]:
        return [self.name, self.subscription]

    @property
    def secrets(self) -> list[str]:
        return [
            self.key,
            self.other_subscription,
            self.stream,
            self.id,
            self.metadata,
            self.type,
            self.data,
            self.field,
            self.timestamp.partition(".")[2],
            str(self.checkpoint),
        ]

    def event(self) -> bytes:
        data = {self.field: self.data, "filling": "x" * 200}
        return msgspec.json.encode({"type": self.type, "data": data, "timestamp": self.timestamp})

    def move_in(self, server: LiveServer) -> None:
        """Store everything."""
        with self.client(server) as client:
            for _ in range(3):
                client.post("/events", content=self.event()).raise_for_status()
            batch = b"[%b]" % b",".join([self.event()] * 20)
            client.post("/events/batch", content=batch).raise_for_status()
            for name in (self.subscription, self.other_subscription):
                body = {"position": self.checkpoint}
                client.put(f"/subscriptions/{name}/position", json=body).raise_for_status()
            members = {"stream": self.stream, "id": self.id, "metadata": {"by": self.metadata}}
            event = {**msgspec.json.decode(self.event()), **members}
            client.post("/events", json=event).raise_for_status()
            path = f"/subscriptions/{self.other_subscription}-group/lease"
            asked = {"max_events": 2, "seconds": 3_600}
            self.lease = client.post(path, json=asked).raise_for_status().json()["lease"]

    def observation(self, server: LiveServer) -> object:
        """All that this tenant sees of what it stored."""
        with self.client(server) as client:
            return (
                client.get("/events/stream?from=1").content,
                client.get("/position").content,
                client.get(f"/subscriptions/{self.subscription}/position").content,
                client.get("/metrics").json()["total_events"],
                client.get("/streams").content,
                client.get("/subscriptions").content,
                client.get(f"/subscriptions/{self.other_subscription}-group").content,
            )

    def client(self, server: LiveServer) -> httpx.Client:
        headers = {"X-API-Key": self.key}
        # It never speaks TLS, and what that needs takes longer than any test.
        return httpx.Client(base_url=server.url, headers=headers, timeout=60, verify=False)


def let_out(tenant: Resident, *texts: bytes, asked: bytes = b"") -> list[str]:
    """What of the tenant stands in these bytes, in any case of letters.

    A handle does not count where it was `asked` for: whoever names it knows it.
    """
    everything, asked = b"\n".join(texts).lower(), asked.lower()
    return [
        *(canary for canary in tenant.secrets if canary.lower().encode() in everything),
        *(
            handle
            for handle in tenant.handles
            if handle.encode() in everything and handle.encode() not in asked
        ),
    ]


def write_tenants(directory: Path, *tenants: Resident, **top: object) -> None:
    """A config in which no tenant may see another's name."""
    write_config(
        directory / "tenants.yaml",
        {
            "engine": "sqlite",
            "tenants_visible": "own",
            "limits": {
                "max_failed_keys_per_minute": 1_000_000,
                "max_read_events": 20,  # fewer than each has, so that a read says where to go on
            },
            "tenants": [{"name": tenant.name, "api_key": tenant.key} for tenant in tenants],
            **top,
        },
    )
