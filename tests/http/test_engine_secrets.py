"""A server on an engine whose address has a secret: no log line and no answer has it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import httpx

from tests.http.conftest import write_config
from tests.http.test_reload import Reloading, key_of, reloading, tenant
from tests.http.test_settings import wait_until
from tests.live_server import start

CANARY = "canary-7-secret-" + "x" * 32
ADMIN_KEY = "the-admin-key-" + "x" * 32

PATHS = [
    "/health",
    "/health?details=true",
    "/metrics",
    "/admin/tenants",
    "/admin/tenants/alice",
    "/admin/audit",
    "/admin/config/reload",
    "/openapi.json",
    "/events",
    "/position",
    "/tenants",
    "/nowhere",
]


def test_neither_the_log_nor_an_answer_has_it(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    with reloading(below, 1) as origin:
        origin.reload(tenant("alice") | {"api_key": CANARY})
        write_config(
            tmp_path / "tenants.yaml",
            {
                "engine": f"http://{CANARY}@127.0.0.1:{origin.server.port}",
                "watch_config": False,
                "admin_key_sha256": sha256(ADMIN_KEY.encode()).hexdigest(),
                "tenants": [tenant("alice")],
            },
        )
        arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
        server = start([*arguments, "--access-log"], cwd=tmp_path)
        try:
            server.wait_until_listening()
            assert f"Engine: http://127.0.0.1:{origin.server.port}" in server.log
            assert "Data directory" not in server.log
            above = Reloading(server, tmp_path, 1)
            assert above.append("alice") == 200
            answers = [
                httpx.request(
                    method, f"{server.url}{path}", headers={"X-API-Key": key}, verify=False
                )
                for method in ("GET", "POST")
                for path in PATHS
                for key in (ADMIN_KEY, key_of("alice"), "no key")
            ]
            write_config(tmp_path / "tenants.yaml", {"engine": f"nast://x:{CANARY}@h1"})
            above.hang_up()
            wait_until(lambda: "config not reloaded" in server.log)
            wait_until(lambda: "engine 'nast' is unknown" in server.log)
        finally:
            server.stop()
    assert CANARY not in server.log
    assert not any(CANARY in f"{answer.text} {answer.headers}" for answer in answers)
