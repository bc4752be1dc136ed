"""What the commands on copies of tenants share: engine, tenants, and what they say meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from ebus.cli.failing import fail
from ebus.config import load_config
from ebus.core.backup import SupportsBackup
from ebus.core.backup_directory import MAX_NAME_CHARS
from ebus.core.engine import Engine, open_engine
from ebus.core.errors import EbusError, InvalidTenantName
from ebus.core.tenant import TenantName
from ebus.tenants.place import registry_path

F = TypeVar("F", bound=Callable[..., object])

KB = 1000


def options_of_all(command: F) -> F:
    """`--config`, `--tenant` and `--quiet`."""
    config = click.option(
        "--config",
        "-config",
        "config_file",
        metavar="FILE",
        help="The config file that says where the data is. Without it: API_KEY and DB_PATH.",
    )
    tenant = click.option(
        "--tenant",
        "tenants",
        metavar="NAME",
        multiple=True,
        help="Only this tenant; may be given more than once.  [default: all]",
    )
    quiet = click.option("--quiet", is_flag=True, help="Say only what went wrong.")
    return config(tenant(quiet(command)))


class Place:
    """An engine whose tenants can be copied. `name` is its name, such as `sqlite`."""

    def __init__(self, name: str, engine: Engine, registry: Path | None = None) -> None:
        self.name = name
        self.registry = registry
        """Where the registry of tenants is, or would be; None where there can be none."""
        self.tenants = engine.tenants
        if not isinstance(engine, SupportsBackup):
            fail(
                f"The engine {name!r} makes no backups. There is nothing to back up, to "
                "restore or to verify; ebus copy takes its tenants to an engine that makes them"
            )
        self.engine: SupportsBackup = engine


@contextmanager
def configured(config_file: str | None) -> Iterator[Place]:
    """The engine of the config. Ends the command where there is none that can be copied."""
    try:
        config = load_config(config_file, os.environ)
        opened = open_engine(config.engine, durability=config.durability, limits=config.limits)
    except EbusError as error:
        fail(str(error))
    # Not the whole address, which may hold a key.
    name = config.engine.partition(":")[0]
    with opened as engine:
        yield Place(name, engine, registry_path(config))


@contextmanager
def engine_by_name(name: str) -> Iterator[Place]:
    """An engine without any place of its own, which can read copies."""
    with open_engine(f"{name}:") as engine:
        yield Place(name, engine)


def asked_for(names: Sequence[str]) -> list[TenantName]:
    """The tenants of the command line, each once."""
    try:
        return sorted({TenantName(name, max_chars=MAX_NAME_CHARS) for name in names})
    except InvalidTenantName as error:
        fail(str(error))


class Report:
    """Says what is under way: with a bar on a terminal, with lines where there is none."""

    def __init__(self, doing: str, total_bytes: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._done_bytes = 0
        self._lines: list[tuple[str, bool]] = []
        self._bar = None
        if not quiet and sys.stderr.isatty():
            self._bar = click.progressbar(
                length=max(1, total_bytes), label=doing, file=sys.stderr, show_pos=False
            )

    def __enter__(self) -> Report:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
        for line, is_error in self._lines:
            click.echo(line, err=is_error)
        self._lines.clear()

    def progress(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        if self._bar is not None:
            self._bar.update(done_bytes)

    @contextmanager
    def part(self, size_bytes: int) -> Iterator[None]:
        """Something of this size: when it has ended, so much is done, however little it took."""
        before = self._done_bytes
        yield
        self.progress(max(0, before + size_bytes - self._done_bytes))

    def say(self, line: str) -> None:
        if not self._quiet:
            self._add(line, is_error=False)

    def complain(self, line: str) -> None:
        self._add(line, is_error=True)

    def _add(self, line: str, *, is_error: bool) -> None:
        if self._bar is not None:  # which a line would tear apart
            self._lines.append((line, is_error))
        else:
            click.echo(line, err=is_error)


def plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(size_bytes: int) -> str:
    if size_bytes < KB:
        return f"{size_bytes} bytes"
    for unit in ("kB", "MB"):
        size_bytes_in = size_bytes / KB ** (1 if unit == "kB" else 2)
        if size_bytes_in < KB:
            return f"{size_bytes_in:.1f} {unit}"
    return f"{size_bytes / KB**3:.1f} GB"
