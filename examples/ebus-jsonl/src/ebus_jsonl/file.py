"""A tenant's file: whole commits are appended to it, what is not whole is cut off."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ebus.core.engine import Durability
from ebus.core.errors import StoreBusy, StoreDamaged, StoreFull, StoreUnavailable
from ebus_jsonl.lines import HEADER, check_header, commit_line, commit_of

MAX_UNSYNCED_BYTES = 8 * 1024 * 1024
"""What a power cut may take with the durability `normal`; then it is synced all the same."""


class Frame(NamedTuple):
    """A commit that is whole."""

    offset: int
    """Where its first line begins."""
    lines: Sequence[bytes]
    recorded_ns: int


@contextmanager
def medium_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours, here and nowhere else."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(f"{path} cannot grow: the disk is full") from error
        raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from error


class TenantFile:
    """The file of one tenant, locked as long as it is open. It is written by one thread at a time.

    It is of no use before `replay` has been read to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = len(HEADER)
        """Where the last whole commit ends."""
        self._synced = 0
        """Up to where a sync is known to have reached the disk."""
        self._in_doubt = True
        """Whether anything may stand behind the end."""
        with medium_errors(path):
            self._fd = locked(path, os.O_CREAT)

    def replay(self) -> Iterator[Frame]:
        """Every commit from the first on. Then the file ends with the last, and is on the disk."""
        with medium_errors(self.path), open(self._fd, "rb", closefd=False) as file:
            if not check_header(file.readline(1 + len(HEADER)), self.path):
                write_all(self._fd, HEADER, 0)
            yield from self._whole(file)
            self._check_torn(file)
            self._mend()
            sync_directory(self.path.parent)

    def _whole(self, file: BinaryIO) -> Iterator[Frame]:
        file.seek(self.end)
        lines: list[bytes] = []
        for line in file:
            commit = commit_of(line)
            if commit is None:
                lines.append(line)
            elif commit.is_of(b"".join(lines)):
                yield Frame(self.end, lines, commit.recorded_ns)
                if commit.durability == "full":
                    self._synced = self.end  # not the commit itself: nobody knows how it fared
                self.end += commit.commit + len(line)
                lines = []
            else:
                return

    def _check_torn(self, file: BinaryIO) -> None:
        """Raise `StoreDamaged` unless what follows the last whole commit was never answered.

        A commit with `full` was written when all before it was on the disk. Where one follows,
        the disk has lost something: to cut that off would lose more.
        """
        at = self.end
        file.seek(at)
        for line in file:
            commit = commit_of(line)
            if (
                commit is not None
                and commit.durability == "full"
                and at - commit.commit >= self.end
                and commit.is_of(os.pread(self._fd, commit.commit, at - commit.commit))
            ):
                raise StoreDamaged(f"{self.path} is damaged at byte {self.end}")
            at += len(line)

    def append(self, lines: Sequence[bytes], *, recorded_ns: int, durability: Durability) -> Frame:
        """Write one commit whole, or raise and have nothing of it. With `full`, on the disk."""
        with medium_errors(self.path):
            check_in_place(self._fd, self.path)
            if self._in_doubt:
                self._mend()
            is_full = durability == "full" or self.end - self._synced > MAX_UNSYNCED_BYTES
            commit = b"".join(lines)
            commit += commit_line(commit, recorded_ns, "full" if is_full else "normal")
            self._in_doubt = True
            try:
                if is_full and self._synced < self.end:
                    sync(self._fd)
                    self._synced = self.end
                write_all(self._fd, commit, self.end)
                if is_full:
                    sync(self._fd)
            except BaseException:
                with suppress(OSError):
                    self._mend()
                raise
        frame = Frame(self.end, lines, recorded_ns)
        self.end += len(commit)
        if is_full:
            self._synced = self.end
        self._in_doubt = False
        return frame

    def _mend(self) -> None:
        """Cut off what is behind the end, and have the rest on the disk.

        After a sync that failed, the system takes for written what it could not write: only what
        is written anew is synced by the next one.
        """
        unsynced = os.pread(self._fd, self.end - self._synced, self._synced)
        write_all(self._fd, unsynced, self._synced)
        os.ftruncate(self._fd, self.end)
        sync(self._fd)
        self._synced = self.end
        self._in_doubt = False

    def read(self, offset: int, size: int) -> bytes:
        """From any thread. Raises `StoreDamaged` where the file has become shorter."""
        with medium_errors(self.path):
            found = os.pread(self._fd, size, offset)
        if len(found) < size:
            raise StoreDamaged(f"{self.path} was cut off at byte {offset + len(found)}")
        return found

    def close(self) -> None:
        os.close(self._fd)


def locked(path: Path, flags: int = 0) -> int:
    """The file, open and locked. Raises `StoreBusy` where another engine has it open."""
    fd = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        check_in_place(fd, path)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreBusy(f"{path} is open in another process, or by another engine") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_in_place(fd: int, path: Path) -> None:
    """What is written to a file that was removed is lost with the process."""
    if os.fstat(fd).st_nlink == 0:
        raise StoreUnavailable(f"{path} was removed while it was open")


def remove(path: Path) -> None:
    """Remove a tenant's file for good, unless it is open anywhere. None there is fine."""
    with medium_errors(path):
        try:
            fd = locked(path)
        except FileNotFoundError:
            return
        try:
            path.unlink()
            sync_directory(path.parent)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of it: the system may write less at a time."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written


def sync(fd: int) -> None:
    """Have the file on the disk, and on macOS not only in the disk's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk: what a file holds is lost without its name."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
