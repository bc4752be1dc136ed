"""A directory of files as an `Engine`: `data/alice.db` is the tenant alice."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import apsw

from ebus.backends.sqlite.connection import check_sqlite_version, driver_errors, transaction
from ebus.backends.sqlite.copying import (
    check_place,
    copy_tenant,
    opened_copy,
    opened_tenant,
    stage,
    swap_in,
)
from ebus.backends.sqlite.examine import examine
from ebus.backends.sqlite.resting import Resting, settle, wal_bytes
from ebus.backends.sqlite.schema import (
    VERSION,
    FileKind,
    inspect_file,
    is_cut_off,
    is_empty,
    migrate,
)
from ebus.backends.sqlite.store import SqliteStore
from ebus.backends.sqlite.takeover import take_over
from ebus.backends.sqlite.trash import check_trash_id, empty, move_away
from ebus.core.backup import (
    Copy,
    Progress,
    Snapshot,
    SupportsBackup,
    Verification,
    no_progress,
)
from ebus.core.engine import (
    Acknowledgement,
    Durability,
    Engine,
    SupportsAbsent,
    SupportsAcknowledgement,
    SupportsHealth,
    SupportsInspect,
    SupportsSettle,
    SupportsTrash,
    check_durability,
)
from ebus.core.errors import (
    EbusError,
    InvalidTenantName,
    StoreBusy,
    StoreClosed,
    StoreRefused,
    StoreUnavailable,
)
from ebus.core.limits import Limits
from ebus.core.observing import Sizes, SupportsSizes
from ebus.core.tenant import TenantName

logger = logging.getLogger("ebus.sqlite")

SUFFIX = ".db"

TRASH = "tenants.trash"
"""A directory beside the tenants' files. No tenant can be called so: there is a dot."""

SETTLING_THREADS = 4


class SqliteEngine(
    Engine,
    SupportsHealth,
    SupportsInspect,
    SupportsAbsent,
    SupportsAcknowledgement,
    SupportsBackup,
    SupportsSettle,
    SupportsSizes,
    SupportsTrash,
):
    """Tenants as SQLite files in one directory, which is made with the first tenant.

    The directory and the files are made so that only their owner can read them.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        limits: Limits | None = None,
    ) -> None:
        check_sqlite_version()
        check_durability(durability)
        self._directory = Path(directory)
        self._durability = durability
        self._limits = limits or Limits()
        self._stores: dict[TenantName, SqliteStore] = {}
        self._resting: dict[TenantName, Resting] = {}
        self._checkpoints = ThreadPoolExecutor(1, "ebus-checkpoint")
        # Opening one tenant may take long (a takeover) and must not hold up another.
        self._tenant_locks: dict[TenantName, threading.Lock] = {}
        self._closed = False
        # Made once: a directory that goes away under a running server must not be mistaken
        # for a new one.
        self._directory_made = False

    def open(self, name: str, *, durability: Durability | None = None) -> SqliteStore:
        tenant = self._name(name)
        check_durability(durability or self._durability)
        with self._lock(tenant):
            if self._closed:
                raise StoreClosed("the engine is closed")
            store = self._stores.get(tenant)
            if store is None or store.closed:
                self._make_directory()
                path = self.path(tenant)
                resting = self._resting.get(tenant)
                if resting is not None and resting.was_replaced(path):
                    raise StoreUnavailable(
                        f"{path} is not the file that was there before, and {path.name}-wal "
                        "belongs to that one: put it back, or stop and remove the WAL"
                    )
                if resting is not None and not path.exists():
                    raise StoreUnavailable(
                        f"{path} was there and is gone: put it back, or restart to begin anew"
                    )
                if resting is None or not resting.is_at(path):
                    resting = None
                    self._prepare(path)
                store = SqliteStore(
                    path,
                    durability=durability or self._durability,
                    limits=self._limits,
                    checkpoints=self._checkpoints,
                    on_close=partial(self._forget, tenant),
                    resting=resting,
                )
                self._stores[tenant] = store
                self._resting.pop(tenant, None)
            return store

    def _forget(self, tenant: TenantName, store: SqliteStore) -> None:
        if self._stores.get(tenant, store) is not store:
            return  # it has been opened again meanwhile
        self._stores.pop(tenant, None)
        if store.resting is not None:
            self._resting[tenant] = store.resting

    def _prepare(self, path: Path) -> None:
        """Make sure that a file of the newest version is there."""
        if is_empty(path):
            _sync_emptied(path)
        if is_cut_off(path):
            self._undo(path)
        kind = inspect_file(path)
        if kind is FileKind.OURS:
            return
        with driver_errors(path):
            if kind is FileKind.ABSENT:
                _create(path)
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.set_busy_timeout(self._limits.busy_timeout_ms)
                if kind is FileKind.OUTDATED:
                    version, size = connection.pragma("user_version"), path.stat().st_size
                    to = f"from version {version} to {VERSION}"
                    logger.info("%s: migrating %d bytes %s", path.name, size, to)
                with transaction(connection):
                    if kind is FileKind.ORIGINAL:
                        take_over(connection, path, self._limits)
                    migrate(connection)
                if kind is FileKind.OUTDATED:
                    logger.info("%s: migrated", path.name)
            finally:
                connection.close()

    def _undo(self, path: Path) -> None:
        with driver_errors(path):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.set_busy_timeout(self._limits.busy_timeout_ms)
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            finally:
                connection.close()

    def inspect(self, name: str) -> str:
        tenant = self._name(name)
        return _INSPECTION[inspect_file(self.path(tenant))]

    def absent(self, names: Iterable[TenantName]) -> Set[TenantName]:
        try:
            files = os.listdir(self._directory)
        except FileNotFoundError:
            files = []
        except OSError:
            return frozenset()
        # A WAL or a journal by itself counts too, and so does a file whose name differs only
        # in case, which on some file systems is the tenant's own.
        present = {file.lower().partition(SUFFIX)[0] for file in files}
        max_chars = self._limits.max_tenant_name_chars
        return {name for name in names if name.lower() not in present and len(name) <= max_chars}

    def sizes(self, name: str) -> Sizes | None:
        path = self.path(self._name(name))
        try:
            database_bytes = os.stat(path).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from error
        return Sizes(database_bytes, wal_bytes(path))

    def tenants(self) -> list[TenantName]:
        if not self._directory.exists():
            return []
        names = []
        with driver_errors(self._directory):
            for file in os.listdir(self._directory):
                if file.endswith(SUFFIX):
                    try:
                        names.append(self._name(file.removesuffix(SUFFIX)))
                    except InvalidTenantName:
                        continue  # somebody else's file
        return sorted(names)

    def drop(self, name: str) -> None:
        tenant = self._name(name)
        with self._lock(tenant):
            store = self._stores.pop(tenant, None)
            if store is not None:
                store.close()
            self._resting.pop(tenant, None)
            if not self._directory.exists():
                return
            path = self.path(tenant)
            with driver_errors(path):
                # The database goes last: a WAL that outlived it would be taken for lost data.
                for suffix in ("-wal", "-shm", "-journal", ""):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
                _sync_directory(self._directory)

    def discard(self, name: str, trash: str) -> int:
        tenant = self._name(name)
        place = self._trash(trash)
        with self._lock(tenant):
            store = self._stores.get(tenant)
            if store is not None and not store.closed:
                raise StoreBusy(f"{self.path(tenant)} is open in this process")
            path = self.path(tenant)
            resting = self._resting.pop(tenant, None)
            if resting is not None and resting.is_at(path):
                with suppress(EbusError):  # then the WAL goes to the trash with its file
                    settle(path, resting)
            return move_away(path, place)

    def purge(self, trash: str) -> None:
        empty(self._trash(trash))

    def _trash(self, trash: str) -> Path:
        return self._directory / TRASH / check_trash_id(trash)

    @property
    def copy_suffix(self) -> str:
        return SUFFIX

    def copied_bytes(self, name: str) -> int:
        with suppress(OSError):
            return self.path(name).stat().st_size
        return 0

    def back_up(
        self,
        name: str,
        file: Path,
        *,
        known: Copy | None = None,
        progress: Progress = no_progress,
    ) -> Snapshot | None:
        path = self.path(name)
        if file.absolute().parent.resolve() == self._directory.resolve():
            raise StoreRefused(f"{path} is not to be copied into its own directory")
        try:
            return copy_tenant(
                path,
                file,
                known=known,
                busy_timeout_ms=self._limits.busy_timeout_ms,
                progress=progress,
            )
        except EbusError:
            file.unlink(missing_ok=True)
            with suppress(EbusError):
                if self.inspect(name) == _INSPECTION[FileKind.ABSENT]:
                    return None  # it was dropped meanwhile
            raise
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def restore(
        self,
        copies: Mapping[TenantName, Path],
        *,
        overwrite: bool = False,
        even_if_open: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[TenantName]:
        for name in copies:
            check_place(self.path(name), overwrite=overwrite, even_if_open=even_if_open)
        self._make_directory()
        staged = {name: self._directory / f"{name}{SUFFIX}.restoring" for name in copies}
        try:
            for name, copy in copies.items():
                stage(copy, staged[name], progress)
            for name, file in staged.items():
                with self._lock(name):
                    if name in self._stores:
                        raise StoreBusy(f"{self.path(name)} is open in this process: close it")
                    swap_in(file, self.path(name), even_if_open=even_if_open)
                    self._resting.pop(name, None)
                yield name
        finally:
            for file in staged.values():
                with suppress(OSError):
                    file.unlink(missing_ok=True)

    def verify(
        self, name: str, file: Path | None = None, *, progress: Progress = no_progress
    ) -> Verification:
        path = file or self.path(name)
        try:
            if inspect_file(path) is FileKind.ABSENT:
                return Verification(None, [f"{path} is missing or empty"])
            with driver_errors(path):
                timeout_ms = self._limits.busy_timeout_ms
                opened = opened_copy(path) if file else opened_tenant(path, timeout_ms)
                with opened as connection:
                    return examine(connection, path, progress=progress)
        except EbusError as error:
            return Verification(None, [str(error)])

    def check_health(self) -> None:
        place = self._directory
        with driver_errors(place):
            while not (self._directory_made or place.exists() or place == place.parent):
                place = place.parent  # not made yet: could it be?
            if not (place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
                raise StoreUnavailable(f"{place} is not a directory that can be written")
        for store in list(self._stores.values()):
            store.check_in_place()

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        return _WORTH[durability or self._durability]

    def close(self) -> None:
        self._closed = True
        with ExitStack() as closing:  # one that fails does not keep the others open
            closing.callback(self._checkpoints.shutdown)
            closing.callback(self._settle_all)
            for tenant in list(self._tenant_locks):
                closing.callback(self._close_tenant, tenant)

    def _close_tenant(self, tenant: TenantName) -> None:
        with self._lock(tenant):  # waits for an opening that had begun
            store = self._stores.pop(tenant, None)
            if store is not None:
                store.close()

    def _settle_all(self) -> None:
        """Write back every WAL that was left behind: several at once share the disk's syncs."""
        with ThreadPoolExecutor(SETTLING_THREADS, "ebus-settle") as threads:
            settled = [threads.submit(self._settle, tenant) for tenant in list(self._resting)]
        for one in settled:
            one.result()

    def settle(self, name: str) -> None:
        tenant = self._name(name)
        if tenant in self._resting:
            self._settle(tenant)

    def _settle(self, tenant: TenantName) -> None:
        with self._lock(tenant):
            resting = self._resting.pop(tenant, None)
            path = self.path(tenant)
            if resting is not None and resting.is_at(path):
                try:
                    settle(path, resting)
                except EbusError as error:
                    logger.warning("a WAL stays as it is until the next start: %s", error)
            elif resting is not None and resting.was_replaced(path):
                logger.warning(
                    "%s was replaced while the server ran, and %s-wal belongs to the file before "
                    "it: remove the WAL before the next start, or put that file back",
                    path,
                    path.name,
                )

    def _name(self, name: str) -> TenantName:
        return TenantName(name, max_chars=self._limits.max_tenant_name_chars)

    def _lock(self, tenant: TenantName) -> threading.Lock:
        return self._tenant_locks.setdefault(tenant, threading.Lock())

    def path(self, name: str) -> Path:
        """Where the tenant's file is, or would be."""
        return self._directory / f"{self._name(name)}{SUFFIX}"

    def _make_directory(self) -> None:
        if self._directory_made:
            return
        with driver_errors(self._directory):
            for place in reversed((self._directory, *self._directory.parents)):
                if not place.exists():
                    place.mkdir(mode=0o700, exist_ok=True)
                    with _made_anew_unless_synced(place.rmdir):
                        _sync_directory(place.parent)
        self._directory_made = True


_WORTH = {
    "full": Acknowledgement("synced to this machine's disk before the answer", is_durable=True),
    "normal": Acknowledgement("survives the process, not a power cut", is_durable=False),
}

_INSPECTION = {
    FileKind.ABSENT: "new",
    FileKind.OURS: "ready",
    FileKind.OUTDATED: "written by an older ebus, to be migrated",
    FileKind.ORIGINAL: "written by the original server, to be taken over",
}


def _create(path: Path) -> None:
    """Make an empty file that only its owner can read, unless another process was quicker.

    Its name is durable before there is a journal: a journal without a file looks like a loss.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        _sync_directory(path.parent)
    else:
        with _made_anew_unless_synced(path.unlink):
            _sync_directory(path.parent)


def _sync_emptied(path: Path) -> None:
    """Make it durable that a file has nothing in it.

    What was to become a tenant may have been undone where no sync succeeded. SQLite drops the
    journal of an empty file without one, and a power cut would bring back what was undone.
    """
    with driver_errors(path):
        file = apsw.VFSFile(
            "", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
        )
        try:
            file.xSync(apsw.SQLITE_SYNC_FULL)
        finally:
            file.xClose()


@contextmanager
def _made_anew_unless_synced(remove: Callable[[], None]) -> Iterator[None]:
    """Remove what was made when the block cannot sync its name.

    Who tries again makes it anew: to sync once more what a sync has failed for proves nothing.
    """
    try:
        yield
    except OSError:
        with suppress(OSError):
            remove()
        raise


def _sync_directory(directory: Path) -> None:
    """Make names in a directory survive a power cut, as the contents of its files do."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_sqlite(location: str, *, durability: Durability, limits: Limits) -> SqliteEngine:
    """The `EngineFactory` of `sqlite:DIRECTORY`. Without a directory it is `data`."""
    return SqliteEngine(location or "data", durability=durability, limits=limits)
