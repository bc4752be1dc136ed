"""The original server's recorded answers: the same requests get the same ones from ebus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

KEYS = {
    "alice": "alice-secret-key-123",
    "bob": "bob-secret-key-456",
    "charlie": "charlie-secret-key-789",
}
NOT_AS_RECORDED = "the body is ours"


@pytest.fixture(params=["memory", "sqlite"])
def fresh_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """A server of the three tenants of the recording, without any data."""
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    write_config(tmp_path / "tenants.yaml", {"engine": request.param, "tenants": tenants})
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        yield server


def test_every_recorded_exchange_is_answered_as_recorded(
    fresh_server: LiveServer, shared: Path
) -> None:
    recording = json.loads((shared / "compat" / "http.json").read_bytes())
    assert len(recording["exchanges"]) >= 27
    differences = {}
    with httpx.Client(base_url=fresh_server.url, verify=False) as client:
        for exchange in recording["exchanges"]:
            request = exchange["request"]
            answer = client.request(
                request["method"],
                request["path"],
                headers=request["headers"],
                content=body_of(request["body"], recording),
            )
            if difference := differing(exchange, answer):
                differences[exchange["name"]] = difference
    assert differences == {}


def body_of(body: str | None, recording: dict[str, Any]) -> str | None:
    if body == "1001 copies of the batch event":
        [batch] = [it for it in recording["exchanges"] if it["name"] == "batch"]
        event = json.loads(batch["request"]["body"])[0]
        return json.dumps([event] * 1_001)
    return body


def differing(exchange: dict[str, Any], answer: httpx.Response) -> str | None:
    """What is not as it was recorded."""
    recorded = exchange["response"]
    note = exchange.get("note", "")
    if answer.status_code != recorded["status"]:
        return f"status {answer.status_code}, recorded {recorded['status']}: {answer.text}"
    if recorded["status"] >= 400:
        assert NOT_AS_RECORDED in note
        problem = answer.json()
        if answer.headers["content-type"] != "application/problem+json":
            return f"not a problem document: {answer.headers['content-type']}"
        if recorded["status"] == 401 and problem["detail"] != recorded["body"]:
            return f"detail {problem['detail']!r}, recorded {recorded['body']!r}"
        return None
    if recorded["status"] == 204:
        return None if answer.content == b"" else "a body where there was none"
    if answer.headers["content-type"] != recorded["content_type"]:
        return f"content type {answer.headers['content-type']}"
    expected, got = json.loads(recorded["body"]), answer.json()
    if "Unix seconds" in note:
        assert isinstance(got["timestamp"], int)
        if abs(got["timestamp"] - time.time()) > 3_600:
            return f"time {got['timestamp']}"
        expected["timestamp"] = got["timestamp"]
    if "config file" in note:
        expected["tenants"] = list(KEYS)
    if isinstance(expected, dict):
        got = {name: got.get(name) for name in expected}  # more fields are fine
    return None if got == expected else f"{got!r}, recorded {expected!r}"
