"""An API key, from its text to its digest. The text goes no further than this module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from ebus.config.mistakes import Wrong

MAX_CHARS = 4096
"""A longer key does not fit into the headers that servers and proxies accept."""

STRONG_CHARS = 32
"""Keys below this length get a warning. The figure is the multi-tenant guide's."""

_SHOWN_NAMES = 5

_KEY = re.compile(r"[!-~]+")  # visible ASCII: what a header carries unchanged


class ApiKey(msgspec.Struct, frozen=True):
    """What is kept of a key: its SHA-256, and whether the key is shorter than it should be."""

    digest: bytes
    is_short: bool


def parse_api_key(text: str) -> ApiKey:
    """The key, or `Wrong`, whose message holds none of it."""
    if not _KEY.fullmatch(text):
        raise Wrong(
            "holds a character that cannot travel in an HTTP header; "
            "use visible ASCII characters only, no spaces or line ends"
        )
    if len(text) > MAX_CHARS:
        raise Wrong(f"has {len(text)} characters, at most {MAX_CHARS} fit into an HTTP header")
    return ApiKey(sha256(text.encode("ascii")).digest(), len(text) < STRONG_CHARS)


def warn_of_short_keys(tenants: Sequence[str]) -> list[str]:
    """One warning for all tenants with short keys, or none."""
    if not tenants:
        return []
    names = ", ".join(tenants[:_SHOWN_NAMES])
    if len(tenants) > _SHOWN_NAMES:
        names += f" and {len(tenants) - _SHOWN_NAMES} more"
    return [
        f"API keys of fewer than {STRONG_CHARS} characters are easier to guess: {names}; "
        "use long random ones, such as `openssl rand -hex 32` prints"
    ]
