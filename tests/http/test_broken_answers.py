"""Answers whose store fails: before they begin, and half way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebus.core.aio import AsyncTenantStore
from ebus.core.errors import StoreDamaged, StoreUnavailable
from ebus.core.store import WirePage
from tests.http.conftest import write_config
from tests.http.tails import FORMS
from tests.http.test_server_limits_inside import KEY, append, in_a_loop, inside, until
from tests.live_server import serving

WAYS = {"short": "", "long": "X-Way: a\r\nX-Way: b\r\n"}
"""A header that comes twice goes the long way."""

PAGES = "/events/stream?from=1&batch_size=1"


def get(path: str, way: str, form: str = "*/*") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"X-API-Key: {KEY}0", f"Accept: {form}"]
    return "\r\n".join([*lines, f"{WAYS[way]}\r\n"]).encode()


def after_the_first_page(monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any]) -> None:
    """From the second page of a read on, wait for `what` first."""
    read_wire = AsyncTenantStore.read_wire
    pages = 0

    async def read(store: AsyncTenantStore, *args: Any, **kwargs: Any) -> WirePage:
        nonlocal pages
        pages += 1
        if pages > 1:
            await what()
        return await read_wire(store, *args, **kwargs)

    monkeypatch.setattr(AsyncTenantStore, "read_wire", read)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("follow", ["", "&follow=true", "&follow=true&to=9"])
@FORMS
def test_a_stream_whose_store_fails_half_way_never_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, follow: str, way: str
) -> None:
    async def fail() -> None:
        # What follows waits for what passes by itself.
        raise (StoreDamaged if follow else StoreUnavailable)("the disk is on fire")

    @in_a_loop
    async def test() -> None:
        async with inside(tmp_path) as server:
            protocol, wire = server.connect()
            for answers in (1, 2, 3):
                protocol.data_received(append(10))
                await until(lambda answers=answers: wire.written.count(b"200 OK") == answers)
            wire.written = b""
            after_the_first_page(monkeypatch, fail)
            protocol.data_received(get(PAGES + follow, way, form))
            await until(lambda: wire.closed or wire.aborted)
            assert b'"position":1' in wire.written
            assert b"]" not in wire.written
            assert b"0\r\n\r\n" not in wire.written
            assert b"fire" not in wire.written

    test()


@pytest.mark.parametrize("way", WAYS)
@FORMS
def test_a_tail_that_is_up_to_date_breaks_off_when_the_store_fails_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, way: str
) -> None:
    async def fail(*_: object, **__: object) -> WirePage:
        raise StoreDamaged("the disk is on fire")

    @in_a_loop
    async def test() -> None:
        async with inside(tmp_path) as server:
            protocol, wire = server.connect()
            protocol.data_received(get("/events/stream?follow=true", way, form))
            other, answers = server.connect()
            other.data_received(append(10))
            await until(lambda: b'"position":1' in wire.written)
            monkeypatch.setattr(AsyncTenantStore, "read_wire", fail)
            other.data_received(append(10))
            await until(lambda: answers.written.count(b"200 OK") == 2)
            await until(lambda: wire.closed or wire.aborted)
            assert b"]" not in wire.written
            assert b"0\r\n\r\n" not in wire.written

    test()


@pytest.mark.parametrize("way", WAYS)
def test_a_page_is_sent_before_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    @in_a_loop
    async def test() -> None:
        gate = asyncio.Event()
        async with inside(tmp_path) as server:
            protocol, wire = server.connect()
            for answers in (1, 2):
                protocol.data_received(append(10))
                await until(lambda answers=answers: wire.written.count(b"200 OK") == answers)
            wire.written = b""
            after_the_first_page(monkeypatch, gate.wait)
            protocol.data_received(get(PAGES, way))
            await until(lambda: b'"position":1' in wire.written)
            assert b'"position":2' not in wire.written
            gate.set()
            await until(lambda: wire.written.endswith(b"0\r\n\r\n"))
            assert b'"position":2' in wire.written

    test()


@pytest.mark.parametrize(
    ("method", "path"),
    [("count", "/metrics"), ("head", "/position"), ("checkpoint", "/subscriptions/s/position")],
)
def test_a_figure_that_cannot_be_read_is_an_error_and_not_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    async def fail(*_: object) -> int:
        raise StoreUnavailable("the disk is on fire")

    @in_a_loop
    async def test() -> None:
        async with inside(tmp_path) as server:
            monkeypatch.setattr(AsyncTenantStore, method, fail)
            protocol, wire = server.connect()
            protocol.data_received(get(path, "short"))
            await until(lambda: b"\r\n\r\n" in wire.written)
            assert wire.written.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"store_unavailable"' in wire.written
            assert b'"position"' not in wire.written
            assert b"total_events" not in wire.written

    test()


def test_a_server_whose_tenants_file_is_gone_is_unhealthy_until_it_is_back(tmp_path: Path) -> None:
    config = {"tenants": [{"name": "alice", "api_key": KEY}]}
    write_config(tmp_path / "tenants.yaml", config)
    file, elsewhere = tmp_path / "data" / "alice.db", tmp_path / "elsewhere"
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        health = f"{server.url}/health"
        assert (
            httpx.get(health, verify=False).status_code,
            httpx.get(health, verify=False).json(),
        ) == (
            200,
            {"status": "healthy"},
        )
        file.rename(elsewhere)
        answer = httpx.get(health, verify=False)
        assert (answer.status_code, answer.json()) == (503, {"status": "unhealthy"})
        assert httpx.head(health).status_code == 503
        assert "unhealthy: " in server.log
        elsewhere.rename(file)
        assert httpx.get(health, verify=False).status_code == 200
