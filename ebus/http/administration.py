"""Tenants that are changed while the server runs: first in the registry, then in every worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ebus.config import Config, TenantConfig
from ebus.config.api_key import digest_of, new_key
from ebus.core.errors import StoreBusy, TenantExists, UnknownTenant
from ebus.core.tenant import TenantName
from ebus.http.config_watch import LOOK_EVERY_S
from ebus.http.problems import Problem
from ebus.http.tenancy import Tenancy
from ebus.tenants.claim import addresses_of_holders
from ebus.tenants.model import AuditEntry, By, NewKey, Registered, State, Trashed
from ebus.tenants.place import refuse_lost, registry_path
from ebus.tenants.refusals import data_from_before, refuse_of_file, refuse_taken_by_file
from ebus.tenants.registry import Registry

logger = logging.getLogger("ebus.tenants")

T = TypeVar("T")

FOLLOW_TIMEOUT_S = 30.0
"""How long all workers have to serve a change."""

MOVE_TIMEOUT_S = 10.0
"""How long who deletes a tenant waits until nobody uses it any more."""

OTHERS_FOLLOW_S = 2.5 * LOOK_EVERY_S
"""After so long other servers by the same data have let go of who was deleted."""

FIRST_LOOK_S, LOOK_AGAIN_S = 0.001, 0.005

ASK_AGAIN_S = 1.0
"""How often who serves is asked to follow, in case that it could not."""

FIRST_TRY_S, TRY_AGAIN_S = 0.01, 0.5
"""How often it is tried to move what somebody still has open."""


class Administration:
    """What the admin key does. For the event loop.

    What touches the registry runs in one thread. A change is answered once every worker serves it.
    """

    def __init__(self, config: Config, tenancy: Tenancy) -> None:
        self._path: Path | None = registry_path(config)
        self._tenancy = tenancy
        self._registry: Registry | None = None
        self._thread = ThreadPoolExecutor(1, "ebus-registry")
        self._moves: set[asyncio.Task[None]] = set()
        self.follow: Callable[[], None] = _nobody
        """Has those who serve look at the registry."""

    async def aclose(self) -> None:
        """What is not moved yet is moved at the next start."""
        for move in self._moves:
            move.cancel()
        registry, self._registry = self._registry, None
        if registry is not None:
            await self._in_thread(registry.close)
        self._thread.shutdown()

    # What there is

    @property
    def in_file(self) -> list[TenantConfig]:
        """The tenants of the config file."""
        return [it for it in self._tenancy.config.tenants if not it.is_registered]

    def find_in_file(self, name: str) -> TenantConfig | None:
        return next((it for it in self.in_file if it.name == name), None)

    async def page(self, *, prefix: str, after: str, limit: int) -> list[Registered]:
        """Tenants of the registry, in the order of their names."""
        if self._path is None:
            return []
        return await self._ask(lambda it: it.page(prefix=prefix, after=after, limit=limit))

    async def count(self, prefix: str) -> int:
        """How many there are in the registry."""
        return 0 if self._path is None else await self._ask(lambda it: it.count(prefix))

    async def find(self, name: str) -> Registered:
        """Raises `UnknownTenant`."""
        if self._path is None:
            raise UnknownTenant("there is no tenant of this name")
        return await self._ask(lambda it: it.find(name))

    async def trash(self) -> list[Trashed]:
        return [] if self._path is None else await self._ask(lambda it: it.trash())

    async def audit(
        self, *, limit: int, before: int | None, tenant: str | None
    ) -> list[AuditEntry]:
        if self._path is None:
            return []
        return await self._ask(lambda it: it.audit(limit=limit, before=before, tenant=tenant))

    # What changes

    async def create(
        self,
        name: TenantName,
        *,
        by: By,
        key_name: str | None,
        scope: Any,
        durability: str | None,
        limits: Mapping[str, object],
    ) -> tuple[Registered, str]:
        """Returns the tenant's only key, too, which nobody can read again."""
        self._refuse_without_registry()
        await self._refuse_taken(name)
        key = new_key()
        new = NewKey(digest=digest_of(key.encode()), name=key_name, scope=scope)
        made = await self._change(
            lambda it: it.create(name, new, by=by, durability=durability, limits=limits)
        )
        _tell(by, "create", name, key_name=made.keys[0].name)
        return made, key

    async def _refuse_taken(self, name: TenantName) -> None:
        """Unless the name is free; who asks for it at the same time is told by the registry."""
        refuse_taken_by_file(self.in_file, name)
        if full := self._tenancy.refusal_of_one_more(name):
            raise TenantExists(full)
        await self._ask(lambda it: it.refuse_taken(name))
        if not await self._tenancy.holds_nothing_of(name):
            raise data_from_before(name)

    async def set_state(self, name: str, state: State, *, by: By) -> Registered:
        self._refuse_file(name)
        found = await self._change(lambda it: it.set_state(name, state, by=by))
        _tell(by, "suspend" if state == "suspended" else "resume", name)
        return found

    async def change(self, name: str, *, by: By, **what: Any) -> Registered:
        """Like `Registry.change`."""
        self._refuse_file(name)
        found = await self._change(lambda it: it.change(name, by=by, **what))
        _tell(by, "change", name)
        return found

    async def add_key(
        self, name: str, *, by: By, key_name: str | None, scope: Any, expires_at_s: float | None
    ) -> tuple[Registered, str, str]:
        """Returns the key and its name, too."""
        self._refuse_file(name)
        key = new_key()
        new = NewKey(
            digest=digest_of(key.encode()), name=key_name, scope=scope, expires_at_s=expires_at_s
        )
        found, given_name = await self._change(lambda it: it.add_key(name, new, by=by))
        _tell(by, "add_key", name, key_name=given_name)
        return found, key, given_name

    async def rotate_key(
        self, name: str, *, by: By, key_name: str | None, overlap_s: float
    ) -> tuple[Registered, str, str]:
        """Returns the new key and its name, too."""
        self._refuse_file(name)
        key = new_key()
        digest = digest_of(key.encode())
        found, given_name = await self._change(
            lambda it: it.rotate_key(name, digest, by=by, key_name=key_name, overlap_s=overlap_s)
        )
        _tell(by, "rotate_key", name, key_name=given_name)
        return found, key, given_name

    async def revoke_key(self, name: str, key_name: str, *, by: By) -> Registered:
        self._refuse_file(name)
        found = await self._change(lambda it: it.revoke_key(name, key_name, by=by))
        _tell(by, "revoke_key", name, key_name=key_name)
        return found

    async def delete(self, name: str, *, confirmed: str | None, by: By) -> str:
        """Forget a suspended tenant, and move its data to the trash. Returns the id there.

        Moving waits for who still uses it, such as a request that had begun, or a backup.
        """
        self._refuse_file(name)
        trashed = await self._change(lambda it: it.delete(name, confirmed=confirmed, by=by))
        _tell(by, "delete", name, trash=trashed.id)
        move = asyncio.get_running_loop().create_task(self._move(trashed))
        self._moves.add(move)
        move.add_done_callback(self._moved)
        done, _ = await asyncio.wait([move], timeout=MOVE_TIMEOUT_S)
        if not done:
            raise StoreBusy(f"tenant {name} is deleted, and still in use; it is moved after that")
        move.result()
        return trashed.id

    def _moved(self, move: asyncio.Task[None]) -> None:
        self._moves.discard(move)
        if not move.cancelled() and (error := move.exception()) is not None:
            logger.error("tenants: what was deleted is moved at the next start: %s", error)

    async def _move(self, trashed: Trashed) -> None:
        if await self._in_thread(self._has_others):
            await asyncio.sleep(OTHERS_FOLLOW_S)  # or what they acknowledge would be left behind
        pause_s = FIRST_TRY_S
        while True:
            try:
                size_bytes = await self._tenancy.discard(trashed.tenant, trashed.id)
            except StoreBusy:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, TRY_AGAIN_S)
            else:
                break
        await self._ask(lambda it: it.note_moved(trashed.id, size_bytes))

    def _has_others(self) -> bool:
        """Whether there are other servers by the same data, or were since this one started."""
        assert self._path is not None
        return len(addresses_of_holders(self._path.parent)) > 1

    async def purge(self, trash: str, *, confirmed: str | None, by: By) -> None:
        """Delete for good what is in the trash."""
        trashed = await self._ask(lambda it: it.find_trash(trash, confirmed=confirmed))
        await self._tenancy.purge(trash)
        await self._ask(lambda it: it.purge(trash, by=by))
        _tell(by, "purge", trashed.tenant, trash=trash)

    def _refuse_file(self, name: str) -> None:
        refuse_of_file(self.in_file, name)

    async def _change(self, do: Callable[[Registry], T]) -> T:
        """Change the registry, and return when every worker serves that."""
        result, revision = await self._ask(lambda it: (do(it), it.revision()))
        if self._tenancy.reloads.revision < revision:
            self.follow()
            await self._followed(revision)
        return result

    async def _followed(self, revision: int) -> None:
        pause_s, waited_s = FIRST_LOOK_S, 0.0
        try:
            async with asyncio.timeout(FOLLOW_TIMEOUT_S):
                while self._tenancy.reloads.revision < revision:
                    await asyncio.sleep(pause_s)
                    waited_s += pause_s
                    pause_s = min(2 * pause_s, LOOK_AGAIN_S)
                    if waited_s >= ASK_AGAIN_S:
                        self.follow()
                        waited_s = 0.0
        except TimeoutError:
            raise Problem(
                503,
                "change_pending",
                "The change is stored, but not every worker serves it yet; look again",
                {"Retry-After": "5"},
            ) from None

    async def _ask(self, do: Callable[[Registry], T]) -> T:
        def ask() -> T:
            assert self._path is not None
            if self._registry is not None and not self._registry.is_in_place():
                self._registry.close()
                self._registry = None
            if self._registry is None:
                refuse_lost(self._path, self._tenancy.config)
                self._registry = Registry(self._path)
            return do(self._registry)

        self._refuse_without_registry()
        return await self._in_thread(ask)

    def _refuse_without_registry(self) -> None:
        if self._path is None:
            raise Problem(
                409,
                "no_registry",
                "This server's engine has no place for tenants that are made at run time: "
                "it serves those of its config file only",
            )

    async def _in_thread(self, do: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, do)


def _nobody() -> None:
    """Where nobody reads the config again, nobody follows."""


def _tell(by: By, action: str, tenant: str, **details: str) -> None:
    said = "".join(f" {name}={value}" for name, value in details.items())
    logger.info("tenants: %s tenant=%s who=%s how=%s%s", action, tenant, by.who, by.how, said)
