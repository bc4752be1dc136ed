"""What the file says of the engine → an address for `ebus.open_engine`."""

from __future__ import annotations

from difflib import get_close_matches

from ebus.config.engine_settings import settings_example
from ebus.config.mistakes import Wrong
from ebus.core.address import shown
from ebus.core.engine import engine_names, settings_of
from ebus.core.errors import InvalidInput

_IN_MEMORY = "memory"


def engine_address(engine: str, data_dir: str) -> str:
    """The address of an engine given by its name, or by an address of its own.

    `sqlite` becomes `sqlite:DATA_DIR`, `memory` becomes `memory:`; what has a colon is an
    address already. Raises `Wrong` when no such engine is registered or when it says that the
    address is none, and `EngineNotInstalled`.
    """
    name, colon, location = engine.partition(":")
    if name.lower() == "pebble":
        raise Wrong(
            "is pebble, whose files only the original server can read: use sqlite, and replay "
            "the events from the old server over HTTP",
            write="sqlite",
        )
    known = engine_names()
    if name not in known:
        near = get_close_matches(name.lower()[:40], known, n=1)
        raise Wrong(
            f"{shown(name)[:20]!r} is unknown; known are {', '.join(known)}",
            write=near[0] if near else None,
        )
    _check(name, location if colon else None)
    if colon:
        return engine
    return f"{name}:" if name == _IN_MEMORY else f"{name}:{data_dir}"


def _check(name: str, location: str | None) -> None:
    """Have the engine say what it thinks of a location, if it takes more than a place."""
    settings = settings_of(name)
    if settings is None:
        return
    example = f"{{{name}: {settings_example(settings)}}}"
    if location is None:
        raise Wrong("has to be told where", write=example)
    try:
        settings.check(location)
    except InvalidInput as error:
        raise Wrong(f"cannot be used: {error}", write=example) from None
