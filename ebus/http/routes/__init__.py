"""What the server answers, one theme a module."""

from __future__ import annotations

from ebus.config import Config
from ebus.http.endpoint import Route
from ebus.http.live import Live
from ebus.http.routes.events import append_routes
from ebus.http.routes.reads import read_routes


def event_routes(config: Config, live: Live) -> list[Route]:
    """The routes that may be answered the short way."""
    return [*append_routes(config), *read_routes(config, live)]
