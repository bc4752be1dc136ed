"""Noticing that the config file has changed."""

from __future__ import annotations

from collections.abc import Callable

from ebus.config import Signature, signature

LOOK_EVERY_S = 1.0


class ConfigWatch:
    """Looks at a file again and again. `since` is what it was when it was read.

    What is looked at is what stands at the path, so that a file which is replaced, or a link that
    is turned to another file, is a change too.
    """

    def __init__(
        self, path: str, since: Signature, *, sign: Callable[[str], Signature] = signature
    ) -> None:
        self._path = path
        self._sign = sign
        self._told = self._seen = since

    def has_changed(self) -> bool:
        """Whether it is another file than was told last, and the same as at the look before.

        So one that is being saved is left alone until nothing has happened to it for a while.
        """
        seen, self._seen = self._seen, self._sign(self._path)
        if self._seen == self._told or self._seen != seen:
            return False
        self._told = self._seen
        return True

    def is_read(self) -> None:
        """Somebody is about to read it without having been told."""
        self._told = self._seen = self._sign(self._path)
