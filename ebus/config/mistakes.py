"""What is wrong with a configuration: one mistake, one file's mistakes, the error of them all.

No message here or anywhere in this package ever holds an API key, or text that could be one:
values of `api_key` are never quoted, and neither is text that stands where none is expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ebus.core.errors import EbusError


class Mistake(msgspec.Struct, frozen=True):
    """One thing to mend. `where` is a line or a variable: `tenants.yaml:6`, `RATE_LIMIT`.

    `where` is empty when the message says it all, as for a file that is not there.
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigError(EbusError):
    """The configuration cannot be used. `mistakes` has every reason, the file's by line first."""

    code = "config_error"

    def __init__(self, mistakes: Iterable[Mistake], *, config_file: str | None) -> None:
        self.mistakes = tuple(mistakes)
        failure = "read settings" if config_file is None else "load tenants config"
        lines = [str(mistake) for mistake in self.mistakes]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} mistakes")
        super().__init__(f"Failed to {failure}: " + "\n".join(lines))


class Reading(msgspec.Struct, frozen=True):
    """What one source of settings came to: fields of `Config`, mistakes and warnings.

    The fields are of use only when there are no mistakes.
    """

    fields: dict[str, Any]
    mistakes: list[Mistake]
    warnings: list[str]


class Wrong(Exception):
    """What is wrong with one value. Who catches it knows where the value stands.

    `problem` goes on after the name of the value: `must be full or normal`. `write` is a
    value that would do, when this one suggests a better one than the usual example.
    """

    def __init__(self, problem: str, *, write: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.write = write


class FileMistakes:
    """The mistakes found in one file so far, each with its line, counted from 1."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self._found.append((line, message))

    def in_order(self) -> list[Mistake]:
        """By line, in the order of finding within one; the same mistake only once."""
        found = sorted(dict.fromkeys(self._found), key=lambda mistake: mistake[0])
        return [Mistake(f"{self._path}:{line}", message) for line, message in found]
