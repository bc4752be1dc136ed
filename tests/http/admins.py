"""A server with an admin key, whose tenants are made at run time."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.http.conftest import write_config
from tests.http.test_workers import has_ended, workers_of
from tests.live_server import LiveServer, start

ADMIN_KEY = "the-admin-key-" + "x" * 32
FILE_KEY = "key-of-filed-" + "x" * 32
EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}
FILED = {"name": "filed", "api_key": FILE_KEY}


class Administered:
    """The server, and whoever has its admin key."""

    def __init__(self, server: LiveServer, directory: Path, workers: int) -> None:
        self.server = server
        self.directory = directory
        self.data = directory / "data"
        self.workers = workers
        self.secrets: list[str] = [ADMIN_KEY, FILE_KEY]

    def ask(self, method: str, path: str, *, key: str = ADMIN_KEY, **more: Any) -> httpx.Response:
        """Over a connection of its own."""
        headers = {"X-API-Key": key} if key else {}
        url = f"{self.server.url}{path}"
        answer = httpx.request(method, url, headers=headers, timeout=60, verify=False, **more)
        if answer.status_code == 201 and "key" in answer.json():
            self.secrets.append(answer.json()["key"])
        return answer

    def create(self, name: str, **more: Any) -> str:
        """Make a tenant; returns its key."""
        answer = self.ask("POST", "/admin/tenants", json={"tenant": name, **more})
        assert answer.status_code == 201, answer.text
        key: str = answer.json()["key"]
        return key

    def done(self, method: str, path: str, **more: Any) -> Any:
        answer = self.ask(method, f"/admin{path}", **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, **more: Any) -> tuple[int, str]:
        answer = self.ask(method, f"/admin{path}", **more)
        return answer.status_code, answer.json()["code"]

    def delete(self, name: str) -> str:
        """Both steps; returns where it is in the trash."""
        self.done("POST", f"/tenants/{name}/suspend")
        trash: str = self.done("DELETE", f"/tenants/{name}?confirm={name}")["trash"]
        return trash

    def append(self, key: str) -> httpx.Response:
        return self.ask("POST", "/events", key=key, json=EVENT)

    def statuses(self, key: str) -> set[int]:
        """Of so many connections that every worker has had one."""
        times = 1 if self.workers == 1 else 12
        return {self.ask("GET", "/position", key=key).status_code for _ in range(times)}


def config_of(**top: Any) -> dict[str, Any]:
    return {
        "watch_config": False,
        "admin_key_sha256": hashlib.sha256(ADMIN_KEY.encode()).hexdigest(),
        "tenants": [FILED],
        **top,
    }


@contextmanager
def administered(directory: Path, workers: int = 1, **top: Any) -> Iterator[Administered]:
    write_config(directory / "tenants.yaml", config_of(**top))
    arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
    server = start([*arguments, "--workers", str(workers)], cwd=directory)
    children: list[int] = []
    it = Administered(server, directory, workers)
    try:
        server.wait_until_listening()
        children = workers_of(server)
        yield it
        if server.process.poll() is None:
            children = workers_of(server)
            assert server.stop() == 0, server.log
        assert all(map(has_ended, children))
    finally:
        server.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert "Traceback" not in server.log, server.log
    registry = b"".join(file.read_bytes() for file in it.data.glob("tenants.registry*"))
    for secret in it.secrets:
        assert secret not in server.log
        assert secret.encode() not in registry
