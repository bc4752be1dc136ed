"""Where the sources of settings come together."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from ebus.config.environment import LIMIT_VARIABLES, VARIABLES, read_environment
from ebus.config.file import read_file
from ebus.config.mistakes import ConfigError
from ebus.config.model import Config
from ebus.config.single_tenant import (
    SINGLE_TENANT_VARIABLES,
    read_single_tenant,
    warn_of_unused,
)

ENVIRONMENT: tuple[str, ...] = (*SINGLE_TENANT_VARIABLES, *VARIABLES, *LIMIT_VARIABLES)
"""Every environment variable that `load_config` looks at."""


def load_config(path: str | None, environment: Mapping[str, str]) -> Config:
    """The configuration from a config file and the environment.

    With a path, the file has the tenants. With None there is one tenant, whose key is the
    variable API_KEY and whose file is DB_PATH. An empty variable counts as unset.

    Raises `ConfigError` with every mistake in the file and the environment at once. What
    works but should be looked at is in the `warnings` of the answer.
    """
    with _collector_paused():
        tenants = read_single_tenant(environment) if path is None else read_file(path)
    server = read_environment(environment)
    if mistakes := tenants.mistakes + server.mistakes:
        # Raised here and not where they were found: what raises there has seen the keys.
        raise ConfigError(mistakes, config_file=path)
    warnings = [*tenants.warnings, *warn_of_unused(environment, path), *server.warnings]
    limits = msgspec.structs.replace(tenants.fields["limits"], **server.fields["limits"])
    fields = {**tenants.fields, **server.fields, "limits": limits}
    return Config(**fields, warnings=tuple(warnings))


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
