"""A real file system of a few MiB, which can be filled up, and on which servers can run.

It is a tmpfs in a mount namespace of its own. Root may make one, and in a user namespace
everybody may, where the system allows those (on Ubuntu from 24.04 on with the setting
`kernel.apparmor_restrict_unprivileged_userns=0`). A container that may not mount anything mostly
has a small tmpfs of its own at /dev/shm, which is used instead.

A tmpfs tells of a full disk when it is written to, and never when it is synced.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024

SHARED_MEMORY = Path("/dev/shm")
MAX_SHARED_MEMORY_BYTES = 256 * MIB
"""A larger /dev/shm is that of a whole machine, and is left alone."""

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo mounted && exec cat'

WAYS: dict[str, tuple[list[str], list[str]]] = {
    "as root": (["unshare", "--mount"], ["nsenter", "--mount"]),
    "in a user namespace": (
        ["unshare", "--map-root-user", "--mount"],
        ["nsenter", "--user", "--mount", "--preserve-credentials"],
    ),
}
"""How a mount namespace is made, and how it is entered."""


class NoSmallDisk(Exception):
    """This environment lets nobody make one. The message says why."""


class SmallDisk:
    """`path` is its root for who runs `within` it, and `seen` is the same for everybody."""

    def __init__(self, path: Path, seen: Path, within: list[str]) -> None:
        self.path = path
        self.seen = seen
        self.within = within

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.seen)
        return status.f_bavail * status.f_frsize

    def put_ballast(self, size_bytes: int, name: str = "ballast") -> None:
        with (self.seen / name).open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)

    def fill(self) -> None:
        """Leave not a single byte."""
        with (self.seen / "filling").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4_096)):
                    pass
            except OSError:
                pass
        assert self.free_bytes == 0

    def drop_ballast(self) -> None:
        for name in ("ballast", "filling"):
            (self.seen / name).unlink(missing_ok=True)


@contextmanager
def small_disk(size_bytes: int, directory: Path) -> Iterator[SmallDisk]:
    """One of this size, mounted in this directory. Raises `NoSmallDisk`."""
    reasons = []
    for name, (make, enter) in WAYS.items():
        mount_point = directory / "disk"
        mount_point.mkdir(exist_ok=True)
        try:
            # It is there for as long as somebody is in its namespace: until we close the pipe.
            holder = subprocess.Popen(
                [*make, "sh", "-c", _MOUNT, str(mount_point), str(size_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError as error:
            reasons.append(f"{name}: {error}")
            continue
        with holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stderr is not None
            if holder.stdout.readline() == "mounted\n":
                within = [*enter, f"--target={holder.pid}"]
                seen = Path(f"/proc/{holder.pid}/root{mount_point}")
                yield SmallDisk(mount_point, seen, within)
                holder.stdin.close()
                return
            reasons.append(f"{name}: {holder.stderr.read().strip()}")
    with _shared_memory(size_bytes, reasons) as disk:
        yield disk


@contextmanager
def _shared_memory(size_bytes: int, reasons: list[str]) -> Iterator[SmallDisk]:
    status = os.statvfs(SHARED_MEMORY)
    total_bytes = status.f_blocks * status.f_frsize
    if not size_bytes <= total_bytes <= MAX_SHARED_MEMORY_BYTES:
        reasons.append(f"/dev/shm has {total_bytes // MIB} MiB")
        raise NoSmallDisk("; ".join(reasons))
    path = Path(tempfile.mkdtemp(prefix="ebus-small-disk-", dir=SHARED_MEMORY))
    try:
        disk = SmallDisk(path, path, [])
        if disk.free_bytes > size_bytes:
            disk.put_ballast(disk.free_bytes - size_bytes, "everything-else")
        yield disk
    finally:
        shutil.rmtree(path)
