"""The registry's file: what holds of every change to it, and the audit log in it.

A change and its entry in the audit log are one transaction, which is durable when it has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import msgspec

from ebus.backends.sqlite.connection import driver_errors, transaction
from ebus.core.backup import Snapshot as Copied
from ebus.tenants.model import Action, AuditEntry, By
from ebus.tenants.schema import open_database


class RegistryFile:
    """One file, for callers of several threads; other processes may have it open too."""

    def __init__(self, path: Path, *, now_s: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now_s = now_s
        self._lock = threading.Lock()
        self._database: apsw.Connection | None = open_database(path)
        self._file = os.stat(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Twice is fine."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def is_in_place(self) -> bool:
        """Whether the file is still the one that was opened, and not gone or another."""
        try:
            return os.path.samestat(os.stat(self.path), self._file)
        except OSError:
            return False

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """One state of the file for the whole block."""
        with self._lock, driver_errors(self.path):
            assert self._database is not None, "the registry is closed"
            with self._database:
                yield self._database

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """All of the block or nothing, as the only writer of all processes."""
        with self._lock, driver_errors(self.path):
            assert self._database is not None, "the registry is closed"
            with transaction(self._database):
                yield self._database

    def copy_into(self, file: Path) -> Copied:
        """Write what it says into an empty file. Others go on reading and changing it."""
        with self._lock, driver_errors(self.path):
            assert self._database is not None, "the registry is closed"
            self._database.execute("VACUUM INTO ?", (str(file),))
        with driver_errors(file):
            connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                tenants: int = connection.execute("SELECT count(*) FROM tenants").get
                revision = revision_of(connection)
            finally:
                connection.close()
        return Copied(position=revision, events=tenants, checkpoints={})

    def revision(self) -> int:
        """It grows with each change."""
        with self._reading() as database:
            return revision_of(database)

    def audit(
        self, *, limit: int, before: int | None = None, tenant: str | None = None
    ) -> list[AuditEntry]:
        """The newest first. By id: a clock that jumps changes nothing about the order."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT id, at_ms, who, how, action, tenant, what FROM audit "
                "WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR tenant = ?2) "
                "ORDER BY id DESC LIMIT ?3",
                (before, tenant, limit),
            )
            return [
                AuditEntry(
                    id=number,
                    at_s=at_ms / 1_000,
                    who=who,
                    how=how,
                    action=action,
                    tenant=of,
                    what=msgspec.json.decode(what),
                )
                for number, at_ms, who, how, action, of, what in rows
            ]

    def _note(
        self,
        database: apsw.Connection,
        by: By,
        action: Action,
        tenant: str,
        what: Mapping[str, Any],
    ) -> None:
        database.execute(
            "INSERT INTO audit (at_ms, who, how, action, tenant, what) VALUES (?, ?, ?, ?, ?, ?)",
            (self._now_ms(), by.who, by.how, action, tenant, as_json(what)),
        )

    def _now_ms(self) -> int:
        return round(1_000 * self._now_s())


def revision_of(database: apsw.Connection) -> int:
    revision: int = database.execute("SELECT ifnull(max(id), 0) FROM audit").get
    return revision


def as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
