"""Where the sources of settings come together."""

from __future__ import annotations

from collections.abc import Mapping

from ebus.config.environment import VARIABLES, read_environment
from ebus.config.file import read_file
from ebus.config.mistakes import ConfigError
from ebus.config.model import Config
from ebus.config.single_tenant import (
    SINGLE_TENANT_VARIABLES,
    read_single_tenant,
    warn_of_unused,
)

ENVIRONMENT: tuple[str, ...] = (*SINGLE_TENANT_VARIABLES, *VARIABLES)
"""Every environment variable that `load_config` looks at."""


def load_config(path: str | None, environment: Mapping[str, str]) -> Config:
    """The configuration from a config file and the environment.

    With a path, the file has the tenants. With None there is one tenant, whose key is the
    variable API_KEY and whose file is DB_PATH. An empty variable counts as unset.

    Raises `ConfigError` with every mistake in the file and the environment at once. What
    works but should be looked at is in the `warnings` of the answer.
    """
    tenants = read_single_tenant(environment) if path is None else read_file(path)
    server = read_environment(environment)
    if mistakes := tenants.mistakes + server.mistakes:
        # Raised here and not where they were found: what raises there has seen the keys.
        raise ConfigError(mistakes, config_file=path)
    warnings = [*tenants.warnings, *warn_of_unused(environment, path), *server.warnings]
    return Config(**tenants.fields, **server.fields, warnings=tuple(warnings))
