"""Deletions that were cut off: their files are moved before anybody is served."""

from __future__ import annotations

import logging

from ebus.config import Config
from ebus.core.engine import SupportsTrash, open_engine
from ebus.core.errors import EbusError
from ebus.tenants.registry import Registry

logger = logging.getLogger("ebus.tenants")


def finish_deletions(config: Config, registry: Registry) -> None:
    """For who has the claim on the registry, and has opened no tenant. Raises `EbusError`."""
    unfinished = [it for it in registry.trash() if not it.is_moved]
    if not unfinished:
        return
    with open_engine(config.engine, durability=config.durability, limits=config.limits) as engine:
        assert isinstance(engine, SupportsTrash)
        for trashed in unfinished:
            try:
                size_bytes = engine.discard(trashed.tenant, trashed.id)
            except EbusError as error:  # which is no reason to serve nobody
                logger.warning("a deleted tenant is not in the trash yet: %s", error)
            else:
                registry.note_moved(trashed.id, size_bytes)
