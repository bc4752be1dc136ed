"""A real server in a thread of the tests' own process, on an engine that a test has at hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from ebus.config import Config, load_config
from ebus.core.engine import Engine
from ebus.http import tenancy as tenancy_module
from ebus.http.app import create_app
from ebus.http.protocol import EbusProtocol, Settings
from ebus.http.routes import event_routes
from ebus.http.tenancy import Tenancy
from tests.http.conftest import write_config
from tests.http.test_server_limits_inside import Inside

START_TIMEOUT_S = 60.0

KEY = "k" * 40


def key_of(tenant: str) -> str:
    return f"{KEY}-{tenant}"


class _Quiet(Inside):
    """Without a log of accesses, of which pytest makes uvicorn write one: nothing would go the
    short way."""

    def protocol(self) -> EbusProtocol:
        protocol = super().protocol()
        protocol.access_log = False
        return protocol


class InProcess:
    """A server that listens. `port` is where."""

    def __init__(self, config: Config, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run_loop)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, tenant: str = "alice", **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"X-API-Key": key_of(tenant), **headers},
            timeout=60,
            verify=False,
        )

    def start(self) -> None:
        """Return when it listens. Raises why it does not."""
        self._thread.start()
        assert self._started.wait(START_TIMEOUT_S), "the server did not start"
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the server did not stop"

    def _run_loop(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._started.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tenancy = Tenancy(self._config)
        with patch.object(tenancy_module, "open_engine", lambda *_, **__: self._engine):
            await tenancy.start()
        try:
            settings = Settings(
                self._config,
                tenancy,
                event_routes(self._config, tenancy.live),
                create_app(self._config, tenancy),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
            )
            settings.load()
            async with _Quiet(settings).listen() as self.port:
                self._started.set()
                await self._stop.wait()
                tenancy.live.close()
        finally:
            await tenancy.stop()


@contextmanager
def serving_in_process(
    directory: Path, engine: Engine, *, tenants: tuple[str, ...] = ("alice",), **top: Any
) -> Iterator[InProcess]:
    """A server of these tenants, which owns the engine."""
    named = [{"name": name, "api_key": key_of(name)} for name in tenants]
    directory.mkdir(parents=True, exist_ok=True)
    write_config(directory / "tenants.yaml", {"engine": "memory", "tenants": named, **top})
    server = InProcess(load_config(str(directory / "tenants.yaml"), {}), engine)
    server.start()
    try:
        yield server
    finally:
        server.stop()
