"""What the file says of the engine → an address for `ebus.open_engine`."""

from __future__ import annotations

from difflib import get_close_matches

from ebus.config.mistakes import Wrong
from ebus.core.engine import engine_names

_IN_MEMORY = "memory"


def engine_address(engine: str, data_dir: str) -> str:
    """The address of an engine given by its name, or by an address of its own.

    `sqlite` becomes `sqlite:DATA_DIR`, `memory` becomes `memory:`; what has a colon is an
    address already. Raises `Wrong` when no such engine is registered.
    """
    name, colon, _ = engine.partition(":")
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
            f"{name[:20]!r} is unknown; known are {', '.join(known)}",
            write=near[0] if near else None,
        )
    if colon:
        return engine
    return f"{name}:" if name == _IN_MEMORY else f"{name}:{data_dir}"
