"""A server whose config file has a mapping for a real NATS server: who asks, and what is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import in_memory
from tests.http.conftest import write_config
from tests.http.test_reload import EVENT, key_of, tenant
from tests.live_server import serving, start
from tests.nats.servers import NatsServer

tmp_path_factory = in_memory.tmp_path_factory

CANARY = "Canary7@Secret/%"

USERS = f"""
accounts {{
  EBUS {{ jetstream: enabled, users: [{{user: ebus, password: "{CANARY}"}}] }}
  APART {{ users: [{{user: apart, password: apart}}] }}
}}
no_auth_user: apart
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server whose JetStream is for one user."""
    with NatsServer(tmp_path_factory.mktemp("nats"), config=USERS) as server:
        yield server


def configure(directory: Path, server: NatsServer, secret: str, *, timeout_s: float = 5) -> None:
    password = directory / "password"
    password.write_text(f"{secret}\n")
    settings: dict[str, Any] = {
        "servers": [f"127.0.0.1:{server.port}"],
        "user": "ebus",
        "password_file": str(password),
        "timeout_s": timeout_s,
    }
    write_config(
        directory / "tenants.yaml", {"engine": {"nats": settings}, "tenants": [tenant("alice")]}
    )


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ebus", "check", "--config", "tenants.yaml"],
        cwd=directory,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_who_is_told_how_serves(tmp_path: Path, guarded: NatsServer) -> None:
    configure(tmp_path, guarded, CANARY)
    checked = check(tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert f"Engine: nats://127.0.0.1:{guarded.port}, durability full" in checked.stdout
    assert "  alice: new\n" in checked.stdout
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        headers = {"X-API-Key": key_of("alice")}
        answer = httpx.post(f"{server.url}/events", json=EVENT, headers=headers, verify=False)
        assert answer.json()["position"] == 1
        health = httpx.get(f"{server.url}/health?details=true", verify=False)
        assert health.json()["status"] == "healthy"
    assert f"Engine: nats://127.0.0.1:{guarded.port}" in server.log
    assert not (tmp_path / "data").exists()
    assert "Canary7" not in f"{checked.stdout}{checked.stderr}{server.log}{health.text}"


@pytest.mark.parametrize("secret", ["Canary7 of another", ""], ids=["wrong", "empty"])
def test_who_is_refused_says_so_without_the_secret(
    tmp_path: Path, guarded: NatsServer, secret: str
) -> None:
    configure(tmp_path, guarded, secret, timeout_s=0.5)
    checked = check(tmp_path)
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    assert server.process.wait(60) == 1
    server.stop()
    for said in (checked.stderr, server.log):
        assert "Canary7" not in said
        assert "Traceback" not in said
    assert checked.returncode == 1
    if secret:
        assert f"nats://127.0.0.1:{guarded.port}: " in checked.stderr
    else:
        assert f"password_file: {tmp_path / 'password'} is empty" in checked.stderr
