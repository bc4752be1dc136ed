"""Where the sources of settings come together."""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from ebus.config.document import ConfigFile, read_config_file
from ebus.config.environment import LIMIT_VARIABLES, VARIABLES, read_environment
from ebus.config.file import read_file, unreadable
from ebus.config.mistakes import ConfigError, Wrong
from ebus.config.model import Config
from ebus.config.single_tenant import (
    SINGLE_TENANT_VARIABLES,
    read_single_tenant,
    warn_of_unused,
)

ENVIRONMENT: tuple[str, ...] = (*SINGLE_TENANT_VARIABLES, *VARIABLES, *LIMIT_VARIABLES)
"""Every environment variable that `load_config` looks at."""


def load_config(
    path: str | None, environment: Mapping[str, str], *, file: ConfigFile | None = None
) -> Config:
    """The configuration from a config file and the environment.

    With a path, the file has the tenants; `file` is what stands there, where it has been read
    already. With None there is one tenant, whose key is the variable API_KEY and whose file is
    DB_PATH. An empty variable counts as unset.

    Raises `ConfigError` with every mistake in the file and the environment at once. What
    works but should be looked at is in the `warnings` of the answer.
    """
    with _collector_paused():
        tenants = read_single_tenant(environment) if path is None else read_file(path, file)
    server = read_environment(environment)
    if mistakes := tenants.mistakes + server.mistakes:
        # Raised here and not where they were found: what raises there has seen the keys.
        raise ConfigError(mistakes, config_file=path)
    warnings = [*tenants.warnings, *warn_of_unused(environment, path), *server.warnings]
    limits = msgspec.structs.replace(tenants.fields["limits"], **server.fields["limits"])
    fields = {**tenants.fields, **server.fields, "limits": limits}
    return Config(**fields, warnings=tuple(warnings))


def load_again(
    path: str, environment: Mapping[str, str], *, unless: bytes | None = None
) -> tuple[Config | None, ConfigFile]:
    """What `load_config` makes of a file that may be changing, and what stood in it.

    A file that is written to while it is read is read anew, for a while. Nothing is made of one
    whose digest is `unless`. Raises `ConfigError`.
    """
    try:
        file = _settled(path)
    except Wrong as wrong:
        raise ConfigError([unreadable(wrong)], config_file=path) from None
    if file.digest == unless:
        return None, file
    return load_config(path, environment, file=file), file


def _settled(path: str) -> ConfigFile:
    for _ in range(_READINGS):
        before = signature(path)
        file = read_config_file(path, again=True)
        if signature(path) == before:
            break
        time.sleep(_PAUSE_S)
    return file


_READINGS = 20
_PAUSE_S = 0.05

Signature = tuple[int, ...]


def signature(path: str) -> Signature:
    """What is another number for each change of a file, be it a write, a rename or a chmod.

    Nothing is compared but for being the same: clocks may jump.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # a path that no file can have
        return (errno.ENOENT,)
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Let the garbage collector wait until a file has been read.

    A large file becomes a large tree, all of it in use, and the collector would look through it
    again and again while it grows: with ten thousand tenants for longer than reading takes. What
    there is to free meanwhile is free without it, but for aliases that lead back to themselves.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
