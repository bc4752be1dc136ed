"""What the commands that move logs share: where from, where to, by whose key, and how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from ebus.cli.failing import fail
from ebus.config import ConfigError, load_config
from ebus.core.engine import Engine, engine_names, open_engine
from ebus.core.errors import EbusError
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from ebus.moving import Moved

F = TypeVar("F", bound=Callable[..., Any])

SOURCE_KEY = "EBUS_SOURCE_KEY"
TARGET_KEY = "EBUS_TARGET_KEY"

_SERVERS = ("http", "https")

source_key_file = click.option(
    "--source-key-file",
    metavar="FILE",
    help=f"A file with the key of a source that is a server.  [default: {SOURCE_KEY}]",
)
target_key_file = click.option(
    "--target-key-file",
    metavar="FILE",
    help=f"A file with the key of a target that is a server.  [default: {TARGET_KEY}]",
)
config_file = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="Take the limits of this config file, where they are not the default.",
)
first = click.option(
    "--from",
    "start",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="POSITION",
    help="The first position.",
)
last = click.option(
    "--to",
    "stop",
    type=click.IntRange(1),
    metavar="POSITION",
    help="The last position.  [default: the last there is at the start]",
)
quiet = click.option("--quiet", is_flag=True, help="Show neither a progress bar nor what was done.")


def limits_of(config: str | None) -> Limits:
    if config is None:
        return Limits()
    try:
        return load_config(config, os.environ).limits
    except ConfigError as error:
        fail(str(error))


def is_server(address: str) -> bool:
    return address.partition(":")[0] in _SERVERS


def open_place(address: str, key_file: str | None, variable: str, limits: Limits) -> Engine:
    """The engine at an address. A server's key may stand in it, in a file or in the environment.

    No message repeats the address: a key may be in there.
    """
    name, colon, location = address.partition(":")
    if not colon or name not in engine_names():
        shown = f"{name!r}" if colon and name.isidentifier() else "that"
        fail(
            f"{shown} is no engine: an address is like sqlite:data or http://host:8080; known are "
            f"{', '.join(engine_names())}"
        )
    if is_server(address) and "@" not in location:
        key = _key(key_file, variable)
        location = location.replace("//", f"//{quote(key, safe='')}@", 1)
    elif key_file is not None:
        fail("a key file is for a server whose address has no key")
    return open_engine(f"{name}:{location}", limits=limits)


def _key(key_file: str | None, variable: str) -> str:
    if key_file is None:
        key = os.environ.get(variable, "")
        if not key:
            what = "source" if variable == SOURCE_KEY else "target"
            fail(f"a server needs a key: set {variable}, or say --{what}-key-file")
        return key
    try:
        return Path(key_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the key file cannot be read: {_reason(error)}")


def name_in(engine: Engine, address: str, wanted: str | None) -> TenantName:
    """The tenant that is meant: it is named, or the only one there is. It must be there."""
    names = engine.tenants()
    if is_server(address) and not names:  # of a single tenant, which it does not name
        return TenantName(wanted or "events")
    if wanted is None:
        if len(names) == 1:
            return names[0]
        said = f"there are {_listed(names)}" if names else "there are none"
        fail(f"which tenant? Say --tenant; {said}")
    if TenantName(wanted) not in names:
        fail(
            f"there is no tenant {wanted!r}; " + (f"there is {_listed(names)}" if names else "none")
        )
    return TenantName(wanted)


def _listed(names: Any) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


@contextmanager
def failures_told() -> Iterator[None]:
    """What is refused or fails ends the command with status 1 and the reason."""
    try:
        yield
    except EbusError as error:
        fail(str(error))
    except OSError as error:
        fail(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def progress_bar(label: str, length: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal; none where there is no terminal."""
    if quiet or not length or length < 0 or not sys.stderr.isatty():
        yield lambda amount: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def report(what: str, moved: Moved, *, new: str, quiet: bool, to_stderr: bool = False) -> None:
    """Say what was done, and what was left."""
    for name in moved.ahead:
        click.echo(f"{what}: the checkpoint {name} is further on there, and was left", err=True)
    for name in moved.parked:
        click.echo(f"{what}: of {name} the checkpoint was taken, not what is parked", err=True)
    if quiet:
        return
    if not moved.first_position:
        click.echo(f"{what}: no events", err=to_stderr)
    else:
        click.echo(
            f"{what}: {moved.events} events, positions {moved.first_position} to "
            f"{moved.last_position}, {moved.appended} {new}",
            err=to_stderr,
        )
        click.echo(f"SHA-256 of their lines: {moved.digest}", err=to_stderr)
    if moved.checkpoints:
        click.echo(f"Checkpoints: {moved.checkpoints}", err=to_stderr)
