"""Which request a line of the log belongs to, and what an answer says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.scrapes import ADMIN_KEY, EVENT, KEYS, ask, scraped_server
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer

MADE = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("ids")
    with scraped_server(directory, "--log-format", "json", "--access-log") as server:
        yield server


def lines_of(server: LiveServer, request_id: str) -> list[dict[str, Any]]:
    """Those there are of the request, once there are any: they may come behind the answer."""
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        entries = map(json.loads, list(server.lines))
        found[:] = [entry for entry in entries if entry.get("request_id") == request_id]
        return bool(found)

    wait_until(are_there)
    return found


@pytest.mark.parametrize("path", ["/events?from=x", "/nowhere", "/subscriptions/a"])
@pytest.mark.parametrize("key", [KEYS["alice"], "wrong", ADMIN_KEY])
def test_an_error_says_which_request_it_answers(server: LiveServer, path: str, key: str) -> None:
    answer = ask(server, "GET", path, key)
    assert answer.status_code >= 400
    assert MADE.fullmatch(answer.headers["x-request-id"])
    sent = {"X-Request-Id": "Root=1-67891233-abcdef"}
    assert "x-request-id" not in ask(server, "GET", path, key, headers=sent).headers


@pytest.mark.parametrize("sent", ["", "a b", "a\tb", "x" * 129, "é", '"', "<script>"])
def test_an_id_that_is_not_sane_is_replaced(server: LiveServer, sent: str) -> None:
    headers = httpx.Headers([(b"x-request-id", sent.encode()), (b"x-api-key", b"wrong")])
    answer = httpx.get(f"{server.url}/position", headers=headers, verify=False)
    assert MADE.fullmatch(answer.headers["x-request-id"])


def test_an_id_that_holds_the_key_is_replaced(server: LiveServer) -> None:
    key = KEYS["alice"]
    for credentials in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        headers = {**credentials, "X-Request-Id": f"id-{key}"}
        answer = httpx.get(f"{server.url}/nowhere", headers=headers, verify=False)
        assert answer.status_code == 404
        assert MADE.fullmatch(answer.headers["x-request-id"])


def test_the_access_log_says_request_and_tenant(server: LiveServer) -> None:
    ask(server, "POST", "/events", json=EVENT, headers={"X-Request-Id": "append-1"})
    ask(server, "GET", "/position", "wrong", headers={"X-Request-Id": "refused-1"})
    httpx.get(f"{server.url}/health", headers={"X-Request-Id": "health-1"}, verify=False)
    [appended] = lines_of(server, "append-1")
    assert appended["tenant"] == "alice"
    assert '"POST /events HTTP/1.1" 200' in appended["message"]
    [refused] = lines_of(server, "refused-1")
    assert "tenant" not in refused
    assert '"GET /position HTTP/1.1" 401' in refused["message"]
    assert len(lines_of(server, "health-1")) == 1


def test_no_key_is_logged(server: LiveServer) -> None:
    for key in (*KEYS.values(), ADMIN_KEY):
        ask(server, "GET", "/position", key)
        assert key not in server.log


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}], ids=["short", "asgi"])
def test_what_failed_is_found_in_the_log(
    tmp_path: Path, log_format: str, headers: dict[str, str]
) -> None:
    with scraped_server(tmp_path, "--log-format", log_format) as server:
        ask(server, "POST", "/events", json=EVENT)
        (tmp_path / "data" / "alice.db").rename(tmp_path / "away.db")
        answer = ask(server, "POST", "/events", json=EVENT, headers=headers)
        (tmp_path / "away.db").rename(tmp_path / "data" / "alice.db")
        assert answer.status_code == 503
        request_id = answer.headers["x-request-id"]
        if log_format == "json":
            [line] = lines_of(server, request_id)
            assert line["tenant"] == "alice"
            assert line["level"] == "warning"
        else:
            wait_until(lambda: request_id in server.log)
            [text] = [line for line in list(server.lines) if request_id in line]
            assert text.endswith(f"(request {request_id}, tenant alice)")
