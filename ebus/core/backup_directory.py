"""A directory of backups: a file for each tenant, and a manifest that says what is in them.

At every moment what the manifest says is there as a whole, whatever is killed or cut off. New
copies lie beside the old ones under names of their own; then the manifest is replaced, which is
when they count; then they take the places of the old ones. Who finds a copy that has not yet done
so, reads it where it lies. `.lock` is locked by who reads or writes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from ebus.core.backup import Copy, Progress, Snapshot, SupportsBackup, no_progress
from ebus.core.errors import (
    EbusError,
    InvalidTenantName,
    StoreBusy,
    StoreDamaged,
    StoreForeign,
    StoreFull,
    StoreNewer,
    StoreUnavailable,
)
from ebus.core.tenant import TenantName

FORMAT = "ebus backup"
VERSION = 1

MANIFEST = "manifest.json"
LOCK = ".lock"

MAX_NAME_CHARS = 255
"""Of a tenant's name, whatever the bound of the server is: no file system knows longer ones."""

PIECE_BYTES = 1024 * 1024

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

_OF_NOBODY = {LOCK, "lost+found"}
"""What may lie in a directory that counts as empty."""

_UNFINISHED = re.compile(r".+\.(?:part|[0-9a-f]{16})")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest says of one tenant."""

    file: str
    """The name of its copy in this directory."""

    position: int
    """The head: the last position that was given out."""

    events: int
    checkpoints: dict[str, int]
    size_bytes: int
    sha256: str

    taken_at: datetime
    """The tenant was like this then."""

    mark: str = ""
    """`Snapshot.mark`"""

    is_gone: bool = False
    """The tenant was not there any more when the last backup was made."""

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(
            position=self.position,
            events=self.events,
            checkpoints=self.checkpoints,
            mark=self.mark,
        )


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the directory."""

    format: str = FORMAT
    version: int = VERSION
    engine: str
    """The name of the engine that made the copies and can read them."""

    finished_at: datetime | None = None
    """When the last backup ended, well or not; None before the first did."""

    tenants: dict[str, Entry] = {}

    registry: Entry | None = None
    """Tenants that were made at run time, and their keys; None where there were none."""


class _Kind(msgspec.Struct, frozen=True):
    format: str
    version: int


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_manifest = msgspec.json.Decoder(Manifest).decode


class Outcome(msgspec.Struct, frozen=True):
    """What has become of one tenant."""

    name: TenantName | None
    """None for the registry of tenants."""

    entry: Entry | None = None
    """What the manifest will say; None when it says nothing of the tenant."""

    is_copied: bool = False
    error: EbusError | None = None
    """Why there is no new copy. An older one stays."""


class BackupDirectory:
    """A directory that is locked, and what its manifest said when it was."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._files = {name: entry.file for name, entry in manifest.tenants.items()}

    @classmethod
    @contextmanager
    def reading(cls, path: Path) -> Iterator[Self]:
        """One that is there. Raises `StoreRefused`, `StoreBusy` and `StoreUnavailable`."""
        with disk_errors(path):
            manifest = _read(path)
            if manifest is None:
                raise StoreForeign(f"{path} is not a backup: it has no {MANIFEST}")
        with _locked(path, fcntl.LOCK_SH):
            yield cls(path, _read(path) or manifest)

    @classmethod
    @contextmanager
    def writing(cls, path: Path, *, engine: str) -> Iterator[Self]:
        """One that is there or is made, for one writer. Raises like `reading`, and `StoreFull`."""
        with disk_errors(path):
            manifest = _read(path)
            if manifest is None:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(path.absolute().parent)
                strange = sorted(
                    name
                    for name in os.listdir(path)
                    if name not in _OF_NOBODY and name != f"{MANIFEST}.part"
                )
                if strange:
                    raise StoreForeign(
                        f"{path} is something else: it holds {strange[0]}, and no {MANIFEST}; "
                        "choose a directory that is empty or that is a backup"
                    )
        with _locked(path, fcntl.LOCK_EX):
            with disk_errors(path):
                manifest = _read(path)
                if manifest is None:  # so that what a first backup leaves is known for its own
                    manifest = Manifest(engine=engine)
                    _write(path, manifest)
                if manifest.engine != engine:
                    raise StoreForeign(
                        f"{path} is a backup of the engine {manifest.engine}, not of {engine}"
                    )
                directory = cls(path, manifest)
                directory._finish()
                directory._remove_unfinished()
            yield directory

    def names(self) -> list[TenantName]:
        """The tenants of the manifest."""
        return [TenantName(name, max_chars=MAX_NAME_CHARS) for name in self.manifest.tenants]

    def file(self, entry: Entry) -> Path:
        """Where a tenant's copy is."""
        staged = self._staged(entry)
        return staged if staged.exists() else self.path / entry.file

    def _staged(self, entry: Entry) -> Path:
        return self.path / f"{entry.file}.{entry.sha256[:16]}"

    def check(self, entry: Entry, *, progress: Progress = no_progress) -> None:
        """Raise `StoreDamaged` unless the copy is the one that was made."""
        file = self.file(entry)
        with disk_errors(file):
            try:
                size = file.stat().st_size
            except FileNotFoundError:
                raise StoreDamaged(f"{file} is missing") from None
            if size != entry.size_bytes:
                raise StoreDamaged(
                    f"{file} is damaged: it has {size} bytes, not {entry.size_bytes}"
                )
            if digest_of(file, progress=progress) != entry.sha256:
                raise StoreDamaged(f"{file} is damaged: its digest is another")

    def back_up(
        self,
        engine: SupportsBackup,
        name: TenantName,
        *,
        progress: Progress = no_progress,
    ) -> Outcome:
        """Make a copy of a tenant, which counts once it is passed to `commit`. Raises nothing."""
        return self._copy(
            name,
            self.manifest.tenants.get(name),
            self._file_name(name, engine.copy_suffix),
            lambda part, known: engine.back_up(name, part, known=known, progress=progress),
        )

    def back_up_registry(
        self, name: str, copy: Callable[[Path, Copy | None], Snapshot | None]
    ) -> Outcome:
        """Make a copy of the registry of tenants, by its own means, under this name."""
        return self._copy(None, self.manifest.registry, name, copy)

    def _copy(
        self,
        name: TenantName | None,
        before: Entry | None,
        file: str,
        copy: Callable[[Path, Copy | None], Snapshot | None],
    ) -> Outcome:
        part = self.path / f"{file}.part"
        taken_at = datetime.now(UTC)
        try:
            with _removed_unless_done(part):
                with disk_errors(part):
                    known = self._known(before)
                    part.unlink(missing_ok=True)
                snapshot = copy(part, known)
                if snapshot is None:
                    return Outcome(name)
                with disk_errors(part):
                    is_copied = before is None or part.exists()
                    size, digest = (
                        (part.stat().st_size, digest_of(part))
                        if before is None or is_copied
                        else (before.size_bytes, before.sha256)
                    )
                    entry = Entry(
                        file=file,
                        position=snapshot.position,
                        events=snapshot.events,
                        checkpoints=snapshot.checkpoints,
                        mark=snapshot.mark,
                        size_bytes=size,
                        sha256=digest,
                        taken_at=taken_at,
                    )
                    if is_copied:
                        os.replace(part, self._staged(entry))
        except EbusError as error:
            return Outcome(name, before, error=error)
        return Outcome(name, entry, is_copied=is_copied)

    def _known(self, before: Entry | None) -> Copy | None:
        if before is None:
            return None
        file = self.path / before.file
        try:
            is_whole = file.stat().st_size == before.size_bytes
        except FileNotFoundError:
            return None
        return Copy(file, before.snapshot) if is_whole else None

    def _file_name(self, name: TenantName, suffix: str) -> str:
        """One that is no other tenant's, on no file system: some do not know case."""
        if name not in self._files:
            taken = {file.lower() for file in self._files.values()}
            file = f"{name}{suffix}"
            if file.lower() in taken:
                file = f"{name}.{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
            self._files[name] = file
        return self._files[name]

    def commit(self, outcomes: list[Outcome], *, prunes: bool = False) -> list[TenantName]:
        """Let the new copies count, all at once. Returns tenants that are there no more.

        Their copies stay, or are removed when it `prunes`. Raises `StoreFull` and
        `StoreUnavailable`; then the backup is what it was.
        """
        tenants = dict(self.manifest.tenants)
        registry = self.manifest.registry
        gone: list[TenantName] = []
        for outcome in outcomes:
            if outcome.name is None:
                registry = outcome.entry or registry
            elif outcome.entry is not None:
                tenants[outcome.name] = outcome.entry
            elif outcome.error is None and _is_there(tenants.get(outcome.name)):
                gone.append(outcome.name)
                entry = msgspec.structs.replace(tenants[outcome.name], is_gone=True)
                tenants[outcome.name] = entry
        removed = [name for name, entry in tenants.items() if prunes and entry.is_gone]
        files = [self.path / tenants.pop(name).file for name in removed]
        now = datetime.now(UTC)
        manifest = msgspec.structs.replace(
            self.manifest, tenants=tenants, registry=registry, finished_at=now
        )
        with disk_errors(self.path):
            sync_directory(self.path)
            _write(self.path, manifest)
            self.manifest = manifest
            self._finish()
            for file in files:
                file.unlink(missing_ok=True)
        return gone

    def _finish(self) -> None:
        """Put the copies that count in their places."""
        moved = False
        for entry in self._entries():
            with suppress(FileNotFoundError):
                os.replace(self._staged(entry), self.path / entry.file)
                moved = True
        if moved:
            sync_directory(self.path)

    def _entries(self) -> Iterator[Entry]:
        yield from self.manifest.tenants.values()
        if self.manifest.registry is not None:
            yield self.manifest.registry

    def _remove_unfinished(self) -> None:
        for name in os.listdir(self.path):
            if _UNFINISHED.fullmatch(name):
                (self.path / name).unlink()


def digest_of(file: Path, *, progress: Progress = no_progress) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        while piece := opened.read(PIECE_BYTES):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StoreFull(f"{path} cannot grow: the disk is full") from error
        raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from error


@contextmanager
def _removed_unless_done(file: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT if how == fcntl.LOCK_EX else os.O_RDONLY
    descriptor = None
    with disk_errors(path):
        # A backup that was carried elsewhere may have none, where nobody writes either.
        with suppress(FileNotFoundError):
            descriptor = os.open(path / LOCK, flags, 0o600)
    try:
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except OSError:
                raise StoreBusy(f"{path} is being used by another command of ebus") from None
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _read(path: Path) -> Manifest | None:
    """None when there is no manifest."""
    file = path / MANIFEST
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreForeign(f"{path} is not a directory") from None
    try:
        kind = _decode_kind(content)
        if kind.format != FORMAT:
            raise StoreForeign(f"{path} is something else: its {MANIFEST} is not one of ebus")
        if kind.version > VERSION:
            raise StoreNewer(
                f"{path} was written by a newer ebus (version {kind.version} of the manifest, "
                f"this ebus knows up to {VERSION}): upgrade ebus"
            )
        manifest = _decode_manifest(content)
        for name in manifest.tenants:
            TenantName(name, max_chars=MAX_NAME_CHARS)
        for entry in (*manifest.tenants.values(), manifest.registry):
            if entry is None:
                continue
            if Path(entry.file).name != entry.file or entry.file in {MANIFEST, LOCK}:
                raise StoreDamaged(f"{file} is damaged: {entry.file!r} is not the name of a copy")
    except (msgspec.MsgspecError, InvalidTenantName) as error:
        if content.lstrip().startswith(b"{") and FORMAT.encode() not in content:
            raise StoreForeign(
                f"{path} is something else: its {MANIFEST} is not one of ebus"
            ) from None
        raise StoreDamaged(f"{file} is damaged: {error}") from None
    return manifest


def _write(path: Path, manifest: Manifest) -> None:
    file = path / MANIFEST
    part = path / f"{MANIFEST}.part"
    content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    with _removed_unless_done(part):
        with open(os.open(part, NEW_FILE, 0o600), "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, file)
    sync_directory(path)


def _is_there(entry: Entry | None) -> bool:
    return entry is not None and not entry.is_gone
