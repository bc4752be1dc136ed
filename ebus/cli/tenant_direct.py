"""Changing the registry of tenants directly, where no server runs and the claim is ours."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ebus.config import Config
from ebus.config.api_key import digest_of, new_key
from ebus.config.tenant_limits import TENANT_LIMIT_KEYS
from ebus.core.engine import SupportsAbsent, SupportsTrash, open_engine
from ebus.core.errors import StoreBusy
from ebus.core.tenant import TenantName
from ebus.tenants.model import By, NewKey, State, parse_end, parse_overlap
from ebus.tenants.refusals import data_from_before, refuse_of_file, refuse_taken_by_file
from ebus.tenants.registry import Registry
from ebus.tenants.shapes import (
    TenantKeyOut,
    audit_out,
    registered_out,
    served_out,
    trashed_out,
)
from ebus.tenants.trash import finish_deletions

MOVE_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.05


class DirectTenants:
    """Answers what the server would, as JSON documents. Raises `EbusError`."""

    def __init__(self, config: Config, path: Path) -> None:
        self._config = config
        self._engine = open_engine(
            config.engine, durability=config.durability, limits=config.limits
        )
        assert isinstance(self._engine, SupportsTrash)
        self._trash: SupportsTrash = self._engine
        self._registry = Registry(path)
        self._by = By(_user(), "command")
        finish_deletions(config, self._registry)

    def close(self) -> None:
        self._registry.close()
        self._engine.close()

    def create(self, name: str, wanted: Mapping[str, Any]) -> Any:
        tenant = TenantName(name, max_chars=self._config.limits.max_tenant_name_chars)
        refuse_taken_by_file(self._config.tenants, tenant)
        self._registry.refuse_taken(tenant)
        engine = self._engine
        if isinstance(engine, SupportsAbsent) and not engine.absent([tenant]):
            raise data_from_before(tenant)
        key = new_key()
        new = NewKey(
            digest=digest_of(key.encode()), name=wanted.get("key_name"), scope=wanted["scope"]
        )
        made = self._registry.create(
            tenant,
            new,
            by=self._by,
            durability=wanted.get("durability"),
            limits=wanted.get("limits"),
        )
        return _plain(TenantKeyOut(registered_out(made), key, made.keys[0].name))

    def list(self, prefix: str) -> list[Any]:
        found = {it.name: served_out(it) for it in self._config.tenants}
        found |= {it.name: registered_out(it) for it in self._registry.read().tenants}
        return [_plain(found[name]) for name in sorted(found) if name.startswith(prefix)]

    def show(self, name: str) -> Any:
        for tenant in self._config.tenants:
            if tenant.name == name:
                return _plain(served_out(tenant))
        return _plain(registered_out(self._registry.find(name)))

    def set_state(self, name: str, state: State) -> Any:
        self._refuse_file(name)
        return _plain(registered_out(self._registry.set_state(name, state, by=self._by)))

    def change(self, name: str, patch: Mapping[str, Any]) -> Any:
        self._refuse_file(name)
        limits = patch.get("limits", {})
        changed = self._registry.change(
            name,
            by=self._by,
            durability=patch.get("durability"),
            sets_durability="durability" in patch,
            limits=dict.fromkeys(TENANT_LIMIT_KEYS) if limits is None else limits,
        )
        return _plain(registered_out(changed))

    def add_key(self, name: str, wanted: Mapping[str, Any]) -> Any:
        self._refuse_file(name)
        key, end = new_key(), wanted.get("expires_at")
        new = NewKey(
            digest=digest_of(key.encode()),
            name=wanted.get("name"),
            scope=wanted["scope"],
            expires_at_s=None if end is None else parse_end(end),
        )
        tenant, key_name = self._registry.add_key(name, new, by=self._by)
        return _plain(TenantKeyOut(registered_out(tenant), key, key_name))

    def rotate_key(self, name: str, wanted: Mapping[str, Any]) -> Any:
        self._refuse_file(name)
        key = new_key()
        tenant, key_name = self._registry.rotate_key(
            name,
            digest_of(key.encode()),
            by=self._by,
            key_name=wanted.get("key_name"),
            overlap_s=parse_overlap(wanted["overlap"]),
        )
        return _plain(TenantKeyOut(registered_out(tenant), key, key_name))

    def revoke_key(self, name: str, key_name: str) -> Any:
        self._refuse_file(name)
        return _plain(registered_out(self._registry.revoke_key(name, key_name, by=self._by)))

    def delete(self, name: str, confirm: str) -> Any:
        self._refuse_file(name)
        trashed = self._registry.delete(name, confirmed=confirm, by=self._by)
        until_s = time.monotonic() + MOVE_TIMEOUT_S
        while True:
            try:
                size_bytes = self._trash.discard(trashed.tenant, trashed.id)
                break
            except StoreBusy:  # a backup has it open
                if time.monotonic() > until_s:
                    raise
                time.sleep(LOOK_AGAIN_S)
        self._registry.note_moved(trashed.id, size_bytes)
        return {"trash": trashed.id}

    def trash(self) -> Any:
        return [_plain(trashed_out(it)) for it in self._registry.trash()]

    def purge(self, trash: str, confirm: str) -> None:
        self._registry.find_trash(trash, confirmed=confirm)
        self._trash.purge(trash)
        self._registry.purge(trash, by=self._by)

    def audit(self, *, limit: int, tenant: str | None) -> Any:
        return [_plain(audit_out(it)) for it in self._registry.audit(limit=limit, tenant=tenant)]

    def _refuse_file(self, name: str) -> None:
        refuse_of_file(self._config.tenants, name)


def _plain(out: Any) -> Any:
    return msgspec.to_builtins(out)


def _user() -> str:
    """Who runs the command, as the system knows him."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
