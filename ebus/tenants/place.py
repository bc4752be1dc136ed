"""Where the registry is: beside the data, under a name that no tenant's file can have."""

from __future__ import annotations

import os
from pathlib import Path

from ebus.config import Config, Signature, signature
from ebus.core.engine import SupportsTrash, open_engine
from ebus.core.errors import StoreUnavailable
from ebus.tenants.model import EMPTY, Snapshot
from ebus.tenants.registry import Registry

REGISTRY = "tenants.registry"


def registry_path(config: Config) -> Path | None:
    """Where it is or would be; None where no tenants can be made at run time.

    That needs a config file, and an engine that can put data of a tenant away.
    """
    if config.single_tenant:
        return None
    with open_engine(config.engine, durability=config.durability, limits=config.limits) as engine:
        return Path(config.data_dir) / REGISTRY if isinstance(engine, SupportsTrash) else None


def has_registry(config: Config) -> bool:
    """Whether tenants can be made at run time, or were."""
    return bool(config.admins or config.registry_revision)


def refuse_lost(path: Path, config: Config) -> None:
    """Raise `StoreUnavailable` where a registry was, whose tenants go on being served."""
    if config.registry_revision and not path.exists():
        raise StoreUnavailable(f"{path} was there, and is gone: put it back")


class RegistryWatch:
    """Tells when somebody else may have changed the registry: another server, by the same data."""

    def __init__(self, config: Config) -> None:
        self._path = registry_path(config) if has_registry(config) else None
        self._seen = self._look()

    @property
    def has_anything(self) -> bool:
        """Whether there is a registry to be watched."""
        return self._path is not None

    def is_read(self) -> None:
        """What is there now is about to be read."""
        self._seen = self._look()

    def has_changed(self) -> bool:
        """Since it was read, or since this was asked for."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> tuple[Signature, Signature] | None:
        if self._path is None:
            return None
        journal = f"{self._path}-wal"
        try:
            is_empty = not os.stat(journal).st_size  # whoever opens it makes an empty one
        except OSError:
            is_empty = True
        return signature(str(self._path)), () if is_empty else signature(journal)


def read_registry(config: Config, *, unless: int = -1) -> Snapshot | None:
    """What it says; nothing where there is none, and none is made then.

    None where it is of the revision that is not wanted. Raises `StoreUnavailable` where tenants of
    a registry are served that is there no more.
    """
    path = registry_path(config)
    if path is not None:
        refuse_lost(path, config)
    if path is None or not path.exists():
        return None if unless == EMPTY.revision else EMPTY
    with Registry(path) as registry:
        return None if registry.revision() == unless else registry.read()
