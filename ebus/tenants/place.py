"""Where the registry is: beside the data, under a name that no tenant's file can have."""

from __future__ import annotations

from pathlib import Path

from ebus.config import Config
from ebus.core.engine import SupportsTrash, open_engine
from ebus.tenants.model import EMPTY, Snapshot
from ebus.tenants.registry import Registry

REGISTRY = "tenants.registry"


def registry_path(config: Config) -> Path | None:
    """Where it is or would be; None where no tenants can be made at run time.

    That needs a config file, and an engine that can put data of a tenant away.
    """
    if config.single_tenant:
        return None
    engine = open_engine(config.engine, durability=config.durability, limits=config.limits)
    return Path(config.data_dir) / REGISTRY if isinstance(engine, SupportsTrash) else None


def has_registry(config: Config) -> bool:
    """Whether tenants can be made at run time, or were."""
    return bool(config.admin_key_digest or config.registry_revision)


def read_registry(config: Config) -> Snapshot:
    """What it says; nothing where there is none, and none is made then."""
    path = registry_path(config)
    if path is None or not path.exists():
        return EMPTY
    with Registry(path) as registry:
        return registry.read()
