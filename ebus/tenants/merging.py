"""The registry's tenants as a part of the config, beside those of the config file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ebus.config import Config, ConfigError, KeyConfig, Mistake, TenantConfig, TenantLimits
from ebus.config.tenant_limits import limits_over
from ebus.core.tenant import TenantName
from ebus.tenants.model import Registered, Snapshot

_TOLD_CONFLICTS = 20


def with_registered(config: Config, snapshot: Snapshot) -> Config:
    """The tenants of both. Raises `ConfigError` where both have the same name or key."""
    conflicts = dict(_conflicts(config, snapshot))
    if conflicts:
        mistakes = [Mistake("", message) for message in list(conflicts.values())[:_TOLD_CONFLICTS]]
        raise ConfigError(mistakes, config_file=config.config_file)
    return _with_warnings(_merged(config, snapshot, snapshot.tenants))


def _with_warnings(config: Config) -> Config:
    """With one for names that no tenant has."""
    if isinstance(config.read_only, bool):
        return config
    strangers = set(config.read_only) - {tenant.name for tenant in config.tenants}
    if not strangers:
        return config
    warning = f"read_only names who is no tenant: {', '.join(sorted(strangers)[:_TOLD_CONFLICTS])}"
    return msgspec.structs.replace(config, warnings=(*config.warnings, warning))


def following(config: Config, snapshot: Snapshot) -> tuple[Config, list[str]]:
    """The tenants of both, but for those of the registry that are not to be served, and why.

    For a server that runs: who is served already must not suffer.
    """
    conflicts = dict(_conflicts(config, snapshot))
    tenants = [it for it in snapshot.tenants if it.name not in conflicts]
    return _merged(config, snapshot, tenants), list(conflicts.values())


def _merged(config: Config, snapshot: Snapshot, tenants: Iterable[Registered]) -> Config:
    return msgspec.structs.replace(
        config,
        tenants=(*_of_file(config), *(_configured(it, config.tenant_limits) for it in tenants)),
        registry_revision=snapshot.revision,
    )


def _of_file(config: Config) -> list[TenantConfig]:
    return [tenant for tenant in config.tenants if not tenant.is_registered]


def _configured(tenant: Registered, defaults: TenantLimits) -> TenantConfig:
    return TenantConfig(
        name=tenant.name,
        keys=tuple(
            KeyConfig(
                digest=key.digest, name=key.name, scope=key.scope, expires_at_s=key.expires_at_s
            )
            for key in tenant.keys
        ),
        durability=tenant.durability,
        limits=limits_over(tenant.limits, defaults),
        is_registered=True,
        is_suspended=tenant.state == "suspended",
    )


def _conflicts(config: Config, snapshot: Snapshot) -> Iterator[tuple[TenantName, str]]:
    """Tenants of the registry that cannot be served beside the file, and why."""
    file = config.config_file
    names = {tenant.name.lower(): tenant.name for tenant in _of_file(config)}
    owners = {key.digest: f"tenant {it.name}" for it in _of_file(config) for key in it.keys}
    owners |= {digest: f"the admin key {name}" for digest, name in config.admins.items()}
    for tenant in snapshot.tenants:
        twin = names.get(tenant.name.lower())
        if twin is not None:
            differs = "" if twin == tenant.name else f" (there {twin}, which differs in case only)"
            yield (
                tenant.name,
                f"tenant {tenant.name} is in the registry of tenants beside the data, and in "
                f"{file} too{differs}; remove it from one of them",
            )
            continue
        for key in tenant.keys:
            if key.digest in owners:
                yield (
                    tenant.name,
                    f"key {key.name} of tenant {tenant.name}, which is in the registry of tenants "
                    f"beside the data, is that of {owners[key.digest]} in {file}; revoke one",
                )
