"""The page at /ui and the documentation at /docs, as HTTP: what is served, and to whom."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from ebus.config import load_config
from ebus.http.static_files import MEDIA_TYPES
from tests.conftest import ROOT
from tests.http.conftest import TenantClient
from tests.http.scrapes import scraped_server

FILES = sorted(path.name for path in (ROOT / "ebus" / "http" / "ui").iterdir())
PATHS = ["/ui", "/ui/", "/docs", "/docs/", *(f"/ui/{name}" for name in FILES)]

STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}


def get(client: TenantClient, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """As a browser that has no key."""
    return httpx.get(client.server.url + path, headers=headers)


@pytest.mark.parametrize("path", PATHS)
def test_a_file_is_served_without_a_key_under_a_strict_policy(
    client: TenantClient, path: str
) -> None:
    answer = get(client, path)
    assert answer.status_code == 200
    suffix = Path(path).suffix or ".html"
    assert answer.headers["content-type"] == MEDIA_TYPES[suffix]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy == STRICT
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/ui", "/docs", "/ui/style.css"])
def test_a_file_that_the_client_has_is_not_sent_again(client: TenantClient, path: str) -> None:
    first = get(client, path)
    tag = first.headers["etag"]
    for held in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = get(client, path, {"If-None-Match": held})
        assert again.status_code == 304, held
        assert again.content == b""
        assert again.headers["etag"] == tag
        assert "content-security-policy" in again.headers
        assert not {"content-length", "content-type"} & again.headers.keys()
    assert get(client, path, {"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("path", ["/ui", "/docs", "/ui/main.js"])
def test_head_answers_as_get_without_the_body(client: TenantClient, path: str) -> None:
    whole, head = get(client, path), httpx.head(client.server.url + path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length", "etag", "content-security-policy"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("path", ["/ui", "/docs", "/ui/main.js"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_file_can_only_be_read(client: TenantClient, method: str, path: str) -> None:
    answer = httpx.request(method, client.server.url + path)
    assert answer.status_code == 405
    assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "path",
    [
        "/ui/nope.js",
        "/ui/main.js/x",
        "/ui/..",
        "/ui/../app.py",
        "/ui/..%2fapp.py",
        "/ui/%2e%2e/app.py",
        "/ui/..%5capp.py",
        "/ui/%2fetc%2fpasswd",
        "/ui/main.js%00",
        "/ui/__init__.py",
        "/ui/../events",
        "/ui/../metrics",
    ],
)
def test_nothing_else_is_served_from_there(client: TenantClient, path: str) -> None:
    """A client that tidies the path first would not ask for it."""
    request = f"GET {path} HTTP/1.1\r\nHost: ebus\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port)) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
    assert b'"code":"not_found"' in answer


@pytest.mark.parametrize("path", ["/uix", "/ui.js", "//ui", "/docs/x", "/docsx", "/UI"])
def test_what_only_looks_like_it_needs_a_key(client: TenantClient, path: str) -> None:
    host = urlsplit(client.server.url).netloc
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port)) as connection:
        connection.sendall(request.encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_every_file_that_one_of_them_names_is_there(client: TenantClient) -> None:
    named = set()
    for name in FILES:
        text = (ROOT / "ebus" / "http" / "ui" / name).read_text()
        named |= set(re.findall(r'from "\./([\w.]+)"', text))
        named |= set(re.findall(r'(?:src|href)="/ui/([\w.]+)"', text))
    named |= set(re.findall(r'(?:src|href)="/ui/([\w.]+)"', get(client, "/docs").text))
    assert {"main.js", "style.css", "api.js", "docs.js"} <= named
    assert named <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_server(name: str) -> None:
    text = (ROOT / "ebus" / "http" / "ui" / name).read_text()
    found = re.findall(r"https?://[^\s\"'`)]+", text)
    assert set(found) <= {"http://www.w3.org/2000/svg"}  # which is a name, not an address


def test_the_documentation_has_every_operation_and_schema(client: TenantClient) -> None:
    page = get(client, "/docs").text
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "head":
                assert f'id="{operation["operationId"]}"' in page, path
    for schema in document["components"]["schemas"]:
        assert f'id="schema-{schema}"' in page
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links <= set(re.findall(r'id="([^"]+)"', page))
    assert "<script>" not in page
    assert "`" not in page
    assert "Events from <code>from</code> to <code>to</code>" in page
    assert " style=" not in page


def test_the_documentation_says_nothing_of_tenants(client: TenantClient) -> None:
    page = get(client, "/docs").text
    assert client.name not in page
    assert client.key not in page


def test_the_page_can_be_switched_off(tmp_path: Path) -> None:
    with scraped_server(tmp_path, environment={"ENABLE_UI": "false"}, engine="memory") as server:
        for path in ("/ui", "/ui/", "/ui/main.js", "/docs"):
            assert httpx.get(server.url + path).json()["code"] == "key_required"
        paths = load_config(None, {"API_KEY": "k" * 40, "ENABLE_UI": "false"})
        assert not paths.enable_ui
