"""An API key, from its text to its digest. The text goes no further than this module."""

from __future__ import annotations

import re
import secrets
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
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

PREFIX = "ebus_"
"""What keys that ebus makes begin with, so that scanners for leaked secrets know them."""

RANDOM_BYTES = 32


def new_key() -> str:
    """A key that nobody guesses: 256 random bits, in 48 characters."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. A fast digest will do: there are too many keys to try them all."""
    return sha256(key).digest()


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
    return ApiKey(digest_of(text.encode("ascii")), len(text) < STRONG_CHARS)


def parse_digest(text: str) -> ApiKey:
    """The key of which this is the SHA-256 in hexadecimal, or `Wrong`."""
    if not _DIGEST.fullmatch(text):
        raise Wrong("is no SHA-256 in 64 hexadecimal digits, such as `ebus keygen` prints")
    return ApiKey(bytes.fromhex(text), is_short=False)


class KeyWarnings:
    """What should be looked at in the keys of all tenants, in a sentence a kind."""

    def __init__(self) -> None:
        self._with_short_keys: list[str] = []
        self._expired: list[str] = []

    def add_short(self, tenant: str) -> None:
        self._with_short_keys.append(tenant)

    def add_expired(self, key: str, tenant: str) -> None:
        self._expired.append(f"{key} of {tenant}")

    def sentences(self) -> list[str]:
        sentences = []
        if self._with_short_keys:
            sentences.append(
                f"API keys of fewer than {STRONG_CHARS} characters are easier to guess: "
                f"{_listed(self._with_short_keys)}; "
                "use long random ones, such as `ebus keygen` prints"
            )
        if self._expired:
            sentences.append(f"these API keys have expired: {_listed(self._expired)}; remove them")
        return sentences


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return f"{listed} and {more} more" if more > 0 else listed
