"""Files of the package that are served as they are: in memory, with a tag, for a strict browser."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from pathlib import PurePosixPath

import msgspec

from ebus.http.answers import Answer

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By the end of a file's name. What ends otherwise is not served."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Nothing that stands in a page runs, nothing comes from elsewhere, and nothing goes there. What a
script puts into the page is text: the browser refuses what it would have to read as HTML."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}
"""Of every file. A browser keeps it, and asks each time whether it is still the one."""


_OF_A_BODY = frozenset({b"content-length", b"content-type"})


class StaticFile(msgspec.Struct, frozen=True):
    """One file, and what it is."""

    body: bytes
    media_type: str
    tag: str
    """Weak: a compressed answer has it too."""

    @classmethod
    def of(cls, body: bytes, suffix: str) -> StaticFile:
        return cls(body, MEDIA_TYPES[suffix], f'W/"{sha256(body).hexdigest()[:32]}"')

    def answer(self, if_none_match: str | None) -> Answer:
        """The file, or 304 where the client has it."""
        headers = {**HEADERS, "ETag": self.tag}
        if if_none_match is not None and _has(if_none_match, self.tag):
            unchanged = Answer(status=304, headers=headers)
            # Which has no body: what would be said of one is not (RFC 9110, 15.4.5).
            unchanged.fields = [field for field in unchanged.fields if field[0] not in _OF_A_BODY]
            return unchanged
        return Answer(self.body, media_type=self.media_type, headers=headers)


def load_files(directory: str) -> dict[str, StaticFile]:
    """Those of a directory of `ebus.http`, by their names."""
    found = {}
    for file in (files("ebus.http") / directory).iterdir():
        suffix = PurePosixPath(file.name).suffix
        if suffix in MEDIA_TYPES:
            found[file.name] = StaticFile.of(file.read_bytes(), suffix)
    return found


def _has(if_none_match: str, tag: str) -> bool:
    """Whether a client names this tag among those that it has. Weak ones are as good as strong."""
    named = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in named or tag.removeprefix("W/") in named
