"""A disk that forgets what was not synced: it records what is done to files, and can be cut.

Files are real, in a directory of the test's; they are what a process sees, as through the page
cache of its system. Beside them the disk keeps a log of every write, truncation, sync, creation
and removal in that directory. From any beginning of the log it makes an image: what could be
found after a power cut at that moment. Nothing has to be killed for it, and one run of a workload
gives as many cuts as are asked for.

What a disk may do, as SQLite's own tests of crashes have it (sqlite.org/testing.html, 4.2) and
Pillai and others, "All File Systems Are Not Created Equal" (OSDI 2014):

- Of what was written to a file since its last sync, any part may be there and any not, in units
  of sectors of 512 bytes, whatever came first. The file's length follows; what was never
  written within it reads as zeros.
- A sync covers what was written before it began, once it has ended.
- A sync that fails may have written anything, and a later one does not make up for it: the system
  takes the pages for clean (Rebello and others, "Can Applications Recover from fsync Failures?",
  ATC 2020). Only what is written anew is synced anew.
- A file's name is not there before its directory was synced, whatever was synced of the file; the
  same goes for a removal, and for directories.

Not modelled: sectors that go bad, writes to the wrong place, disks that lie about a sync, and
damage to what lies beside a sector that is being written (SQLite takes a disk to have
"powersafe overwrite").
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

SECTOR_BYTES = 512

_MAKES_ITS_DIRECTORY_SYNC = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
"""Of such a file that it may create, SQLite syncs the directory with the first sync."""


class Step(NamedTuple):
    """One entry of the log."""

    kind: str
    """write, truncate, sync, synced, unsynced, create, remove, mkdir, syncdir, or note."""
    place: str
    """The path of the file or directory, relative to the disk."""
    number: int = 0
    """Where a write begins, how long a truncated file is, which file a created one is, or how many
    steps the log had when a sync began that has now ended."""
    data: bytes = b""
    note: Any = None


Fault = Callable[[str, str], "Exception | None"]
"""Called with the kind and the place of what is about to happen; what it returns is raised."""


class Disk:
    """The files below `root`. While it is `mounted`, every connection of APSW goes by it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[Step] = []
        self.fault: Fault = lambda kind, place: None
        self.failed_syncs: Counter[str] = Counter()
        """By place. Each is told to everybody who has the file open, as Linux does from 4.13 on."""
        self.lock = threading.RLock()
        self._begin = {
            str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in sorted(root.rglob("*"))
            if not path.name.endswith("-shm")
        }

    def note(self, note: Any) -> None:
        """Put something of the test's own into the log."""
        self.add(Step("note", "", note=note))

    def add(self, step: Step) -> int:
        """Returns the number of steps with this one."""
        with self.lock:
            self.log.append(step)
            return len(self.log)

    def about_to(self, kind: str, place: str) -> None:
        """Raise what the fault says."""
        error = self.fault(kind, place)
        if error is not None:
            raise error

    def place(self, path: str | os.PathLike[str]) -> str | None:
        """The path relative to the disk; None for one that is not on it, or whose loss is no loss.

        The index of a WAL is made anew by whoever opens the file first after a cut.
        """
        place = os.path.relpath(os.path.abspath(path), self.root)
        return None if place.startswith("..") or place.endswith("-shm") else place

    def replay(self) -> Image:
        """The disk as it was before the first step."""
        return Image(self._begin)

    @contextmanager
    def mounted(self) -> Iterator[None]:
        vfs = _Vfs(self)
        with pytest.MonkeyPatch.context() as patch:
            _record_calls(self, patch)
            try:
                yield
            finally:
                vfs.unregister()


class _Vfs(apsw.VFS):
    """SQLite's own VFS for Unix, overheard."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(f"disk-{id(disk)}", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        place = self._disk.place(path) if path else None
        if place is None:
            return apsw.VFSFile("unix", name, flags)
        self._disk.about_to("open", place)
        existed = os.path.exists(path)
        file = _File(self._disk, place, name, flags)
        if not existed:
            self._disk.add(Step("create", place))
        return file

    def xDelete(self, name: str, syncdir: bool) -> None:
        place = self._disk.place(name)
        if place is not None:
            self._disk.about_to("remove", place)
        super().xDelete(name, syncdir)
        if place is not None:
            self._disk.add(Step("remove", place))
            if syncdir:
                self._disk.add(Step("syncdir", os.path.dirname(place)))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, place: str, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._place = place
        self._failed_syncs = disk.failed_syncs[place]
        wanted = flags[0]
        self._syncs_directory = bool(
            wanted & apsw.SQLITE_OPEN_CREATE and wanted & _MAKES_ITS_DIRECTORY_SYNC
        )
        super().__init__("unix", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.about_to("read", self._place)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self._disk.about_to("write", self._place)
        except ShortWrite as short:
            part = data[: len(data) // 2]
            self._disk.add(Step("write", self._place, offset, bytes(part)))
            super().xWrite(part, offset)
            raise short.error from None
        self._disk.add(Step("write", self._place, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._disk.about_to("truncate", self._place)
        self._disk.add(Step("truncate", self._place, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        begun = self._disk.add(Step("sync", self._place))
        try:
            self._disk.about_to("sync", self._place)
        except Exception:
            self._disk.add(Step("unsynced", self._place, begun))
            self._disk.failed_syncs[self._place] += 1
            self._failed_syncs = self._disk.failed_syncs[self._place]
            raise
        if self._failed_syncs != self._disk.failed_syncs[self._place]:
            self._failed_syncs = self._disk.failed_syncs[self._place]
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        # What a real sync would do is what this disk is for.
        self._disk.add(Step("synced", self._place, begun))
        if self._syncs_directory:
            self._syncs_directory = False
            self._disk.add(Step("syncdir", os.path.dirname(self._place)))


class ShortWrite(Exception):
    """A fault of `write`: half of it is done, and then the error comes."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _record_calls(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    """Overhear what is done to files without SQLite."""
    os_open, os_unlink, os_mkdir = os.open, os.unlink, os.mkdir
    os_fsync, os_pwrite = os.fsync, os.pwrite

    def record_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        place = disk.place(path) if flags & os.O_CREAT else None
        existed = place is None or os.path.exists(path)
        if not existed:
            disk.about_to("create", str(place))
        descriptor = os_open(path, flags, *args, **kwargs)
        if not existed:
            disk.add(Step("create", str(place)))
        return descriptor

    def record_unlink(path: Any, *args: Any, **kwargs: Any) -> None:
        place = disk.place(path)
        if place is not None:
            disk.about_to("remove", place)
        os_unlink(path, *args, **kwargs)
        if place is not None:
            disk.add(Step("remove", place))

    def record_mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        place = disk.place(path)
        if place is not None:
            disk.about_to("mkdir", place)
        os_mkdir(path, *args, **kwargs)
        if place is not None:
            disk.add(Step("mkdir", place))

    def place_of(descriptor: int) -> str | None:
        return disk.place(os.readlink(f"/proc/self/fd/{descriptor}"))

    def record_fsync(descriptor: int) -> None:
        place = place_of(descriptor)
        if place is None:
            os_fsync(descriptor)
        elif os.path.isdir(disk.root / place):
            disk.about_to("syncdir", place)
            disk.add(Step("syncdir", "" if place == "." else place))
        else:
            begun = disk.add(Step("sync", place))
            try:
                disk.about_to("syncfile", place)
            except OSError:
                disk.add(Step("unsynced", place, begun))
                disk.failed_syncs[place] += 1
                raise
            disk.add(Step("synced", place, begun))

    def record_pwrite(descriptor: int, data: bytes, offset: int) -> int:
        place = place_of(descriptor)
        if place is not None:
            disk.about_to("writefile", place)
            disk.add(Step("write", place, offset, data))
        return os_pwrite(descriptor, data, offset)

    patch.setattr(os, "open", record_open)
    patch.setattr(os, "unlink", record_unlink)
    patch.setattr(os, "mkdir", record_mkdir)
    patch.setattr(os, "fsync", record_fsync)
    patch.setattr(os, "pwrite", record_pwrite)


class _Inode:
    """What a file holds: what is sure to be there, and what may be."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.pending: list[tuple[int, Step]] = []
        """Steps with their numbers: writes and truncations that no sync has covered."""
        self.doubtful: list[tuple[int, bytes]] = []
        """Writes that a failed sync has left to chance, by offset."""

    def sync(self, begun: int) -> None:
        covered = [step for number, step in self.pending if number < begun]
        self.pending = [pending for pending in self.pending if pending[0] >= begun]
        for step in covered:
            _apply(self.durable, step)
            if step.kind == "write":
                self.doubtful = list(_without(self.doubtful, step.number, len(step.data)))
            else:
                self.doubtful = list(_without(self.doubtful, step.number, 1 << 62))

    def fail_to_sync(self, begun: int) -> None:
        kept = []
        for number, step in self.pending:
            if number < begun and step.kind == "write":
                self.doubtful.append((step.number, step.data))
            else:  # a length is not a page that could be taken for clean
                kept.append((number, step))
        self.pending = kept


def _apply(content: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        del content[step.number :]
        content.extend(bytes(step.number - len(content)))
    else:
        _write(content, step.number, step.data)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _without(
    writes: list[tuple[int, bytes]], offset: int, size: int
) -> Iterator[tuple[int, bytes]]:
    """What of these writes lies outside of a range."""
    for begin, data in writes:
        if begin < offset and data[: offset - begin]:
            yield begin, data[: offset - begin]
        rest = max(0, offset + size - begin)
        if data[rest:]:
            yield begin + rest, data[rest:]


class Image:
    """The disk at one moment of the log. `advance` goes on from there."""

    def __init__(self, begin: dict[str, bytes | None]) -> None:
        self._steps = 0
        self._inodes: dict[str, _Inode] = {}
        """The files by their names as a process sees them."""
        self._durable_names: dict[str, _Inode | None] = {}
        """The files by the names that are sure to be there; None for a directory."""
        self._pending_names: list[tuple[str, str, _Inode | None]] = []
        """Creations and removals that no sync of their directory has covered."""
        for place, content in begin.items():
            inode = None if content is None else _Inode(content)
            self._durable_names[place] = inode
            if inode is not None:
                self._inodes[place] = inode

    def advance(self, log: list[Step], end: int) -> None:
        """Take what the log says up to its `end`-th step."""
        for number in range(self._steps, end):
            self._take(number, log[number])
        self._steps = end

    def _take(self, number: int, step: Step) -> None:
        inode = self._inodes.get(step.place, _Inode())  # one that was removed is nobody's
        if step.kind in {"write", "truncate"}:
            inode.pending.append((number, step))
        elif step.kind == "synced":
            inode.sync(step.number)
        elif step.kind == "unsynced":
            inode.fail_to_sync(step.number)
        elif step.kind == "create":
            self._inodes[step.place] = _Inode()
            self._pending_names.append(("create", step.place, self._inodes[step.place]))
        elif step.kind == "mkdir":
            self._pending_names.append(("create", step.place, None))
        elif step.kind == "remove":
            self._inodes.pop(step.place, None)
            self._pending_names.append(("remove", step.place, None))
        elif step.kind == "syncdir":
            pending, self._pending_names = self._pending_names, []
            for kind, place, file in pending:
                if os.path.dirname(place) == step.place:
                    _rename(self._durable_names, kind, place, file)
                else:
                    self._pending_names.append((kind, place, file))

    def write_to(self, directory: Path, rng: random.Random, what: Survival | None = None) -> None:
        """Make files as they could be found after a cut now.

        `everything` of what was not synced is there after the death of a process.
        """
        what = what or rng.choice([nothing, everything, a_beginning, any_part, any_part])
        survives = what(rng)
        names = dict(self._durable_names)
        for kind, place, inode in self._pending_names:
            if survives():
                _rename(names, kind, place, inode)
        for place, file in sorted(names.items(), key=lambda item: item[0]):
            path = directory / place
            if not path.parent.is_dir():
                continue  # the directory itself has not survived
            if file is None:
                path.mkdir()
            else:
                path.write_bytes(_surviving(file, survives))


def _rename(names: dict[str, _Inode | None], kind: str, place: str, inode: _Inode | None) -> None:
    if kind == "create":
        names[place] = inode
    else:
        names.pop(place, None)


def _surviving(inode: _Inode, survives: Callable[[], bool]) -> bytes:
    content = bytearray(inode.durable)
    for offset, data in inode.doubtful:
        _write_sectors(content, offset, data, survives)
    for _, step in inode.pending:
        if step.kind == "write":
            _write_sectors(content, step.number, step.data, survives)
        elif survives():
            _apply(content, step)
    return bytes(content)


def _write_sectors(
    content: bytearray, offset: int, data: bytes, survives: Callable[[], bool]
) -> None:
    begin = 0
    while begin < len(data):
        end = begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES
        if survives():
            _write(content, offset + begin, data[begin:end])
        begin = end


Survival = Callable[[random.Random], Callable[[], bool]]
"""Says of each sector and each name that no sync has covered, one after the other, whether it is
there."""


def nothing(rng: random.Random) -> Callable[[], bool]:
    return lambda: False


def everything(rng: random.Random) -> Callable[[], bool]:
    return lambda: True


def a_beginning(rng: random.Random) -> Callable[[], bool]:
    left = int(rng.expovariate(1 / 20))

    def survives() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    return survives


def any_part(rng: random.Random) -> Callable[[], bool]:
    likely = rng.random()
    return lambda: rng.random() < likely
