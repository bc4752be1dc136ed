"""The registry: tenants that are made at run time, and their keys' digests.

Every change and its entry in the audit log are one transaction, which is durable when a method
returns. It knows nothing of who is served, nor of how that is asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, get_args

import apsw
import msgspec

from ebus.config import Scope
from ebus.config.tenant_limits import checked_limits
from ebus.core.engine import check_durability
from ebus.core.errors import (
    Conflict,
    InvalidInput,
    KeyExists,
    NotConfirmed,
    NotSuspended,
    TenantExists,
    UnknownKey,
    UnknownTenant,
    UnknownTrash,
)
from ebus.core.tenant import TenantName
from ebus.tenants.model import (
    Action,
    By,
    Key,
    NewKey,
    Registered,
    Snapshot,
    State,
    Trashed,
    check_key_name,
    moment,
)
from ebus.tenants.registry_file import RegistryFile, as_json, revision_of

MAX_KEYS = 100
"""Of one tenant."""

MAX_NAME_CHARS = 255
"""Of a tenant that is stored already, whatever the bound is now."""

TRASH_NAME_CHARS = 200
"""So many of a tenant's name are a part of the id of its trash, which is a directory's name."""

_TENANT = "SELECT tenant, name, state, created_at_ms, durability, limits FROM tenants"
_KEYS = "SELECT tenant, name, digest, scope, expires_at_ms FROM keys"


class Registry(RegistryFile):
    """The tenants in it, and what was deleted of them."""

    def read(self) -> Snapshot:
        """All of it, in the order in which the tenants were made."""
        with self._reading() as database:
            keys: dict[int, list[Key]] = {}
            for tenant, *key in database.execute(f"{_KEYS} ORDER BY tenant, added"):
                keys.setdefault(tenant, []).append(_key(*key))
            tenants = tuple(
                _registered(row, keys.get(row[0], ()))
                for row in database.execute(f"{_TENANT} ORDER BY tenant")
            )
            return Snapshot(revision_of(database), tenants)

    def page(self, *, prefix: str = "", after: str = "", limit: int) -> list[Registered]:
        """Tenants in the order of their names."""
        with self._reading() as database:
            rows: list[Any] = database.execute(
                f"{_TENANT} WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?",
                (after, prefix, _behind(prefix), limit),
            ).fetchall()
            return [_registered(row, _keys_of(database, row[0])) for row in rows]

    def count(self, prefix: str = "") -> int:
        with self._reading() as database:
            query = "SELECT count(*) FROM tenants WHERE name >= ? AND name < ?"
            count: int = database.execute(query, (prefix, _behind(prefix))).get
            return count

    def find(self, name: str) -> Registered:
        """Raises `UnknownTenant`."""
        with self._reading() as database:
            return _find(database, name)[1]

    def create(
        self,
        name: TenantName,
        key: NewKey,
        *,
        by: By,
        durability: str | None = None,
        limits: Mapping[str, object] | None = None,
    ) -> Registered:
        """Raises `TenantExists`, `InvalidLimits` and `InvalidInput`."""
        checked = checked_limits(limits or {})
        _check_durability(durability)
        with self._writing() as database:
            self._refuse_taken(database, name)
            row = (name, name.lower(), self._now_ms(), durability, as_json(checked))
            database.execute(
                "INSERT INTO tenants (name, folded, state, created_at_ms, durability, limits, "
                "keys_made) VALUES (?, ?, 'active', ?, ?, ?, 0)",
                row,
            )
            number, _ = _find(database, name)
            key_name = self._insert_key(database, number, key)
            what: dict[str, Any] = {"key_name": key_name, "scope": key.scope}
            if durability is not None:
                what["durability"] = durability
            if checked:
                what["limits"] = checked
            self._note(database, by, "create", name, what)
            return _find(database, name)[1]

    def refuse_taken(self, name: TenantName) -> None:
        """Raise `TenantExists` unless the registry has room for this name."""
        with self._reading() as database:
            self._refuse_taken(database, name)

    def _refuse_taken(self, database: apsw.Connection, name: TenantName) -> None:
        folded = name.lower()
        query = "SELECT name FROM tenants WHERE folded = ?"
        for (taken,) in database.execute(query, (folded,)):
            if taken == name:
                raise TenantExists(f"there is a tenant {name} already")
            raise TenantExists(
                f"there is a tenant {taken}, which differs from {name} in upper and lower case only"
            )
        query = "SELECT 1 FROM trash WHERE NOT is_moved AND lower(tenant) = ?"
        if database.execute(query, (folded,)).fetchall():
            raise TenantExists(f"a tenant {name} is being deleted, and its files are still there")

    def set_state(self, name: str, state: State, *, by: By) -> Registered:
        """Suspend or resume; nothing happens to one that is that already."""
        with self._writing() as database:
            number, before = _find(database, name)
            if before.state != state:
                query = "UPDATE tenants SET state = ? WHERE tenant = ?"
                database.execute(query, (state, number))
                action: Action = "suspend" if state == "suspended" else "resume"
                self._note(database, by, action, name, {})
            return _find(database, name)[1]

    def change(
        self,
        name: str,
        *,
        by: By,
        durability: str | None = None,
        sets_durability: bool = False,
        limits: Mapping[str, object] | None = None,
    ) -> Registered:
        """Change the durability, if that is to be set, and these limits: None removes one."""
        with self._writing() as database:
            number, before = _find(database, name)
            merged: dict[str, object] = {**before.limits, **(limits or {})}
            checked = checked_limits({k: v for k, v in merged.items() if v is not None})
            what: dict[str, Any] = {}
            if checked != before.limits:
                query = "UPDATE tenants SET limits = ? WHERE tenant = ?"
                database.execute(query, (as_json(checked), number))
                what["limits"] = checked
            if sets_durability and durability != before.durability:
                _check_durability(durability)
                query = "UPDATE tenants SET durability = ? WHERE tenant = ?"
                database.execute(query, (durability, number))
                what["durability"] = durability
            if what:
                self._note(database, by, "change", name, what)
            return _find(database, name)[1]

    def add_key(self, name: str, key: NewKey, *, by: By) -> tuple[Registered, str]:
        """Returns the key's name, too. Raises `KeyExists`."""
        with self._writing() as database:
            number, _ = _find(database, name)
            key_name = self._insert_key(database, number, key)
            what: dict[str, Any] = {"key_name": key_name, "scope": key.scope}
            if key.expires_at_s is not None:
                what["expires_at"] = moment(key.expires_at_s)
            self._note(database, by, "add_key", name, what)
            return _find(database, name)[1], key_name

    def rotate_key(
        self, name: str, digest: bytes, *, by: By, key_name: str | None = None, overlap_s: float
    ) -> tuple[Registered, str]:
        """One more key, and the end of this one after the overlap, or of all there are.

        Without an overlap they are gone at once, whatever a clock does later.
        """
        with self._writing() as database:
            number, before = _find(database, name)
            old = [key for key in before.keys if key_name in {None, key.name}]
            if key_name is not None and not old:
                raise _no_key(name, key_name)
            scopes: set[Scope] = {key.scope for key in old}
            scope: Scope = scopes.pop() if len(scopes) == 1 else "both"
            until_ms = self._now_ms() + round(1_000 * overlap_s)
            for key in old:
                if overlap_s <= 0:
                    database.execute("DELETE FROM keys WHERE digest = ?", (key.digest,))
                else:
                    database.execute(
                        "UPDATE keys SET expires_at_ms = min(?, ifnull(expires_at_ms, ?)) "
                        "WHERE digest = ?",
                        (until_ms, until_ms, key.digest),
                    )
            new_name = self._insert_key(database, number, NewKey(digest=digest, scope=scope))
            what = {
                "key_name": new_name,
                "scope": scope,
                "replaces": [key.name for key in old],
                "old_keys_end_at": moment(until_ms / 1_000),
            }
            self._note(database, by, "rotate_key", name, what)
            return _find(database, name)[1], new_name

    def revoke_key(self, name: str, key_name: str, *, by: By) -> Registered:
        """The last one may go as well. Raises `UnknownKey`."""
        with self._writing() as database:
            number, before = _find(database, name)
            if key_name not in {key.name for key in before.keys}:
                raise _no_key(name, key_name)
            query = "DELETE FROM keys WHERE tenant = ? AND name = ?"
            database.execute(query, (number, key_name))
            self._note(database, by, "revoke_key", name, {"key_name": key_name})
            return _find(database, name)[1]

    def delete(self, name: str, *, confirmed: str | None, by: By) -> Trashed:
        """Forget a suspended tenant, whose files are to be moved to the trash; see `note_moved`.

        Raises `NotSuspended`, and `NotConfirmed` unless its name is repeated.
        """
        with self._writing() as database:
            number, before = _find(database, name)
            if before.state != "suspended":
                raise NotSuspended(f"tenant {name} is active; suspend it first")
            _confirm(name, confirmed)
            trash_id = f"{name[:TRASH_NAME_CHARS]}-{secrets.token_hex(6)}"
            database.execute("DELETE FROM tenants WHERE tenant = ?", (number,))
            database.execute(
                "INSERT INTO trash VALUES (?, ?, ?, 0, 0)", (trash_id, name, self._now_ms())
            )
            self._note(database, by, "delete", name, {"trash": trash_id})
            return _find_trash(database, trash_id)

    def note_moved(self, id: str, size_bytes: int) -> None:
        """Its files are in the trash, and another tenant may have the name."""
        with self._writing() as database:
            query = "UPDATE trash SET is_moved = 1, size_bytes = ? WHERE id = ?"
            database.execute(query, (size_bytes, id))

    def trash(self) -> list[Trashed]:
        """What was deleted and not yet purged, in the order of deletion."""
        with self._reading() as database:
            return [
                _trashed(*row) for row in database.execute("SELECT * FROM trash ORDER BY rowid")
            ]

    def find_trash(self, id: str, *, confirmed: str | None) -> Trashed:
        """What is to be purged. Raises `UnknownTrash` and `NotConfirmed`."""
        with self._reading() as database:
            found = _find_trash(database, id)
            _confirm(found.tenant, confirmed)
            if not found.is_moved:
                raise Conflict(f"the files of {found.tenant} are not in the trash yet")
            return found

    def purge(self, id: str, *, by: By) -> None:
        """Forget what was in the trash, whose files are gone."""
        with self._writing() as database:
            found = _find_trash(database, id)
            database.execute("DELETE FROM trash WHERE id = ?", (id,))
            what = {"trash": id, "size_bytes": found.size_bytes}
            self._note(database, by, "purge", found.tenant, what)

    def _insert_key(self, database: apsw.Connection, number: int, key: NewKey) -> str:
        if key.scope not in get_args(Scope):
            raise InvalidInput(f"a scope is {', '.join(get_args(Scope))}, not {key.scope[:40]!r}")
        taken = {it.name for it in _keys_of(database, number)}
        if len(taken) >= MAX_KEYS:
            self._forget_ended_keys(database, number)
            taken = {it.name for it in _keys_of(database, number)}
        if len(taken) >= MAX_KEYS:
            raise Conflict(f"a tenant has at most {MAX_KEYS} keys; revoke one")
        made: int = database.execute(
            "UPDATE tenants SET keys_made = keys_made + 1 WHERE tenant = ? RETURNING keys_made",
            (number,),
        ).get
        name = key.name
        while name is None or (key.name is None and name in taken):
            name, made = f"key-{made}", made + 1
        if check_key_name(name) in taken:
            raise KeyExists(f"there is a key {name} already")
        expires_at_ms = None if key.expires_at_s is None else round(1_000 * key.expires_at_s)
        row = (key.digest, number, name, key.scope, expires_at_ms, made)
        database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", row)
        return name

    def _forget_ended_keys(self, database: apsw.Connection, number: int) -> None:
        """Make room, or who rotates keys on a timer could do so 100 times only."""
        query = "DELETE FROM keys WHERE tenant = ? AND expires_at_ms <= ?"
        database.execute(query, (number, self._now_ms()))


def _find(database: apsw.Connection, name: str) -> tuple[int, Registered]:
    row = database.execute(f"{_TENANT} WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise UnknownTenant("there is no tenant of this name")
    return row[0], _registered(row, _keys_of(database, row[0]))


def _keys_of(database: apsw.Connection, number: int) -> list[Key]:
    rows = database.execute(f"{_KEYS} WHERE tenant = ? ORDER BY added", (number,))
    return [_key(*row[1:]) for row in rows]


def _key(name: str, digest: bytes, scope: Scope, expires_at_ms: int | None) -> Key:
    expires_at_s = None if expires_at_ms is None else expires_at_ms / 1_000
    return Key(name=name, digest=digest, scope=scope, expires_at_s=expires_at_s)


def _registered(row: Any, keys: Any) -> Registered:
    _, name, state, created_at_ms, durability, limits = row
    return Registered(
        name=TenantName(name, max_chars=MAX_NAME_CHARS),
        state=state,
        created_at_s=created_at_ms / 1_000,
        durability=durability,
        limits=msgspec.json.decode(limits),
        keys=tuple(keys),
    )


def _find_trash(database: apsw.Connection, id: str) -> Trashed:
    row = database.execute("SELECT * FROM trash WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise UnknownTrash("there is nothing of this id in the trash")
    return _trashed(*row)


def _trashed(id: str, tenant: str, deleted_at_ms: int, size_bytes: int, is_moved: int) -> Trashed:
    return Trashed(
        id=id,
        tenant=TenantName(tenant, max_chars=MAX_NAME_CHARS),
        deleted_at_s=deleted_at_ms / 1_000,
        size_bytes=size_bytes,
        is_moved=bool(is_moved),
    )


def _confirm(name: str, confirmed: str | None) -> None:
    if confirmed != name:
        raise NotConfirmed(f"repeat the name to confirm: {name}")


def _check_durability(durability: str | None) -> None:
    if durability is not None:
        check_durability(durability)


def _no_key(name: str, key_name: str) -> UnknownKey:
    return UnknownKey(f"tenant {name} has no key {key_name[:64]}")


def _behind(prefix: str) -> str:
    """Behind every name that begins so: names are ASCII."""
    return f"{prefix}\x7f"
