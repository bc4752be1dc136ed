"""The HTTP server: the wire of `docs/http-api.md` on any engine."""

from ebus.http.app import create_app

__all__ = ["create_app"]
