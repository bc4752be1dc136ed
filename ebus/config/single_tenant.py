"""Without a config file: one tenant, whose key is API_KEY and whose file is DB_PATH."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from ebus.config.api_key import ApiKey, KeyWarnings, parse_api_key, parse_digest
from ebus.config.environment import Variable, read_variables
from ebus.config.mistakes import Mistake, Reading, Wrong
from ebus.config.model import KeyConfig, TenantConfig
from ebus.config.networks import parse_networks
from ebus.core.address import Address
from ebus.core.errors import InvalidTenantName
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName


class Database(msgspec.Struct, frozen=True):
    """A tenant's file, taken apart: `DIRECTORY/TENANT.db`."""

    directory: str
    tenant: TenantName


def parse_db_path(text: str) -> Database:
    """Raises `Wrong` unless the path ends in the name of a tenant and `.db`."""
    if text == ":memory:":
        raise Wrong(
            "would lose every event at the end: name a file, or use a config file with "
            "`engine: memory`"
        )
    if text.startswith("~"):
        raise Wrong("begins with ~, which is not expanded")
    directory, file_name = os.path.split(text)
    name, extension = os.path.splitext(file_name)
    if extension != ".db" or not directory.isprintable():
        raise Wrong("is no path that ends in NAME.db")
    try:
        return Database(directory or ".", TenantName(name))
    except InvalidTenantName as error:
        raise Wrong(f"is no path that ends in NAME.db: {error}") from None


SINGLE_TENANT_VARIABLES = {
    "API_KEY": Variable("api_key", parse_api_key, "…", is_secret=True),
    "API_KEY_SHA256": Variable("api_key_sha256", parse_digest, "…", is_secret=True),
    "ADMIN_KEY_SHA256": Variable("admin_key_sha256", parse_digest, "…", is_secret=True),
    "TRUSTED_PROXIES": Variable("trusted_proxies", parse_networks, "10.0.0.0/8,127.0.0.1"),
    "DB_PATH": Variable("database", parse_db_path, "events.db"),
}
"""What is read only without a config file."""

DEFAULT_DB_PATH = "events.db"


def read_single_tenant(environment: Mapping[str, str]) -> Reading:
    """The one tenant, and every mistake. Never raises."""
    values, mistakes = read_variables(SINGLE_TENANT_VARIABLES, environment)
    given = [name for name in ("API_KEY", "API_KEY_SHA256") if environment.get(name)]
    if len(given) > 1:
        mistakes.append(Mistake("API_KEY_SHA256", "API_KEY is set too; unset one of them"))
    if not given:
        message = (
            "not set; start with a config file (ebus -config tenants.yaml), "
            "or with the key of a single tenant (API_KEY=… ebus)"
        )
        mistakes.insert(0, Mistake("API_KEY", message))
    key: ApiKey | None = values.get("api_key") or values.get("api_key_sha256")
    admin_key: ApiKey | None = values.get("admin_key_sha256")
    if key and admin_key and key.digest == admin_key.digest:
        message = "the admin key is the tenant's API key too; make another one"
        mistakes.append(Mistake("ADMIN_KEY_SHA256", message))
    if mistakes or key is None:
        return Reading({}, mistakes, [])
    database: Database = values.get("database") or parse_db_path(DEFAULT_DB_PATH)
    fields = {
        "config_file": None,
        "engine": Address(f"sqlite:{database.directory}"),
        "data_dir": database.directory,
        "tenants": (TenantConfig(name=database.tenant, keys=(KeyConfig(digest=key.digest),)),),
        "admin_key_digest": admin_key.digest if admin_key else None,
        "trusted_proxies": values.get("trusted_proxies", ()),
        "limits": Limits(),
    }
    warnings = KeyWarnings()
    if key.is_short:
        warnings.add_short(database.tenant)
    return Reading(fields, [], warnings.sentences())


_SAID_BY_THE_FILE = {
    "API_KEY": "every tenant has its own in",
    "API_KEY_SHA256": "every tenant has its own in",
    "ADMIN_KEY_SHA256": "that is admin_key_sha256 in",
    "TRUSTED_PROXIES": "that is trusted_proxies in",
    "DB_PATH": "the place of the data is data_dir in",
}


def warn_of_unused(environment: Mapping[str, str], config_file: str | None) -> list[str]:
    """A warning for each variable that a config file makes meaningless."""
    if config_file is None:
        return []
    return [
        f"{name} is set but not used: {reason} {config_file}"
        for name, reason in _SAID_BY_THE_FILE.items()
        if environment.get(name)
    ]
