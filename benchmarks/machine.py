"""Where a run takes place: machine, file system, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import apsw

import ebus
from benchmarks.record import Machine

PACKAGES = ("apsw", "msgspec", "litestar", "uvicorn", "uvloop", "httptools")

_ROOT = Path(__file__).resolve().parent.parent


def look_at_machine(directory: Path) -> Machine:
    """This machine, with the file system that `directory` lies on."""
    mount, file_system = _mount_of(directory)
    return Machine(
        cpu=_cpu(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        file_system=file_system,
        mount=mount,
    )


def look_at_versions() -> dict[str, str]:
    """The versions of everything that a figure may depend on."""
    return {
        "python": platform.python_version(),
        "ebus": ebus.__version__,
        "sqlite": apsw.sqlite_lib_version(),
        **{package: version(package) for package in PACKAGES},
        "wrk": _wrk_version(),
    }


def look_at_commit() -> tuple[str, bool]:
    """The commit of the sources, and whether they have been changed since; "" outside of git."""
    commit = _output("git", "-C", str(_ROOT), "rev-parse", "HEAD").strip()
    # What an earlier run has written changes nothing that is measured.
    sources = ("--", ".", ":!docs/benchmarks.md", ":!docs/benchmarks")
    changes = _output("git", "-C", str(_ROOT), "status", "--porcelain", *sources)
    return commit, bool(changes.strip())


def _cpu() -> str:
    try:
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _cpus() -> int:
    return os.cpu_count() or 1


def _mount_of(directory: Path) -> tuple[str, str]:
    """Where the file system of a directory is mounted, and its type and options."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "", ""
    place = directory.resolve()
    found = ("", "")
    for line in lines:
        _, mount, kind, options, *_ = line.split()
        if place.is_relative_to(mount) and len(mount) >= len(found[0]):
            found = mount, f"{kind} ({options})"
    return found


def _wrk_version() -> str:
    if shutil.which("wrk") is None:
        return ""
    match = re.search(r"^wrk (?:debian/)?(\S+)", _output("wrk", "-v"))
    return match[1] if match else ""


def _output(*command: str) -> str:
    """What a command prints; its status is not looked at: `wrk -v` ends with 1."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
