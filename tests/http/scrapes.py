"""Servers whose figures tests look at, and figures as numbers by family and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

ADMIN_KEY = "admin-secret-key-1234567890123456789012345"
KEYS = {name: f"{name}-secret-key-{'1' * 30}" for name in ("alice", "bob")}
EVENT = {"type": "OrderPlaced", "data": {"order": 1}}

Labels = frozenset[tuple[str, str]]


@contextmanager
def scraped_server(
    directory: Path, *arguments: str, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[LiveServer]:
    """A server of alice and bob that has an admin key."""
    config = {
        "admin_key_sha256": hashlib.sha256(ADMIN_KEY.encode()).hexdigest(),
        "tenants": [{"name": name, "api_key": key} for name, key in KEYS.items()],
        **settings,
    }
    write_config(directory / "tenants.yaml", config)
    with serving(
        ["--config", "tenants.yaml", *arguments], cwd=directory, environment=environment
    ) as server:
        yield server


def ask(
    server: LiveServer, method: str, path: str, key: str = KEYS["alice"], **kwargs: Any
) -> httpx.Response:
    """One request on a connection of its own: of several workers any may get it."""
    headers = {"X-API-Key": key, **kwargs.pop("headers", {})}
    return httpx.request(method, server.url + path, headers=headers, **kwargs, verify=False)


class Scrape:
    """What a scrape has answered."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        wanted = set(labels.items())
        return sum(
            value
            for (sample, have), value in self._samples.items()
            if sample == name and wanted <= have
        )

    def values_of(self, label: str) -> set[str]:
        return {value for _, labels in self._samples for name, value in labels if name == label}


def scrape(server: LiveServer, key: str = KEYS["alice"]) -> Scrape:
    answer = ask(server, "GET", "/metrics", key, headers={"Accept": "text/plain"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)


def scrape_of_all_workers(server: LiveServer, key: str = KEYS["alice"]) -> Scrape:
    """A scrape that knows all of `use_all_of_it`: each worker publishes once a second."""
    requests = 15 if key == ADMIN_KEY else 7
    for _ in range(2_000):
        seen = scrape(server, key)
        if seen("ebus_requests_total") - seen("ebus_requests_total", route="/metrics") == requests:
            return seen
    raise AssertionError(seen.text)


def use_all_of_it(server: LiveServer) -> None:
    """Something of all that is counted."""
    for key in KEYS.values():
        for _ in range(3):
            assert ask(server, "POST", "/events", key, json=EVENT).status_code == 200
        assert ask(server, "POST", "/events/batch", key, json=[EVENT] * 4).status_code == 200
        assert ask(server, "GET", "/events?from=1", key).status_code == 200
        checkpoint = {"position": 5}
        answer = ask(server, "PUT", "/subscriptions/mailer/position", key, json=checkpoint)
        assert answer.status_code == 204
        assert ask(server, "GET", "/nowhere", key).status_code == 404
    assert ask(server, "GET", "/position", "wrong").status_code == 401
