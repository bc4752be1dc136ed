"""Reading the config again: what may change while the server runs, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ebus.config import Config, Signature, TenantConfig, load_again, load_config, signature
from ebus.config.document import read_config_file
from ebus.config.mistakes import Wrong
from ebus.core.aio import Terms, open_bounded
from ebus.core.engine import Engine, look_at
from ebus.core.errors import EbusError
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from ebus.http.reload_state import ReloadState
from ebus.http.slots import Slots
from ebus.tenants.merging import following, with_registered
from ebus.tenants.model import EMPTY
from ebus.tenants.place import has_registry, read_registry

logger = logging.getLogger("ebus.http")

CHANGEABLE = (
    "tenants",
    "registry_revision",
    "tenant_limits",
    "durability",
    "read_only",
    "tenants_visible",
    "trusted_proxies",
    "watch_config",
    "warnings",
)
"""The fields of `Config` that may change while the server runs."""

SHOWN_NAMES = 20

TENANTS_AT_A_TIME = 200


class Loaded(msgspec.Struct, frozen=True):
    """A config that was loaded from a file, and how that file is known again."""

    config: Config
    signature: Signature
    digest: bytes


def load_first(path: str, environment: Mapping[str, str]) -> Loaded:
    """The config of the start. Raises `ConfigError`."""
    while True:
        since = signature(path)  # first: what changes from now on is a change
        try:
            file = read_config_file(path)
        except Wrong:
            load_config(path, environment)  # which says so, unless the file has come meanwhile
        else:
            return Loaded(load_config(path, environment, file=file), since, file.digest)


class Changes(msgspec.Struct, frozen=True):
    """What is different in a config, by the names of tenants and settings. Never holds a key."""

    added: tuple[TenantName, ...] = ()
    removed: tuple[TenantName, ...] = ()
    keys: tuple[TenantName, ...] = ()
    limits: tuple[TenantName, ...] = ()
    """Limits or durability, the tenant's own or those of all."""

    read_only: tuple[TenantName, ...] = ()
    writable: tuple[TenantName, ...] = ()
    """Who may not write any more, and who may again."""

    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self._parts()) or "nothing has changed"

    def _parts(self) -> Iterator[str]:
        if self.added:
            tenants = "tenant" if len(self.added) == 1 else "tenants"
            yield f"{len(self.added)} {tenants} added {_listed(self.added)}"
        if self.removed:
            tenants = "" if self.added else " tenant" if len(self.removed) == 1 else " tenants"
            yield f"{len(self.removed)}{tenants} removed {_listed(self.removed)}"
        if self.keys:
            yield f"keys of {len(self.keys)} changed {_listed(self.keys)}"
        if self.limits:
            yield f"limits of {len(self.limits)} {_listed(self.limits)}"
        if self.read_only:
            yield f"{len(self.read_only)} read-only now {_listed(self.read_only)}"
        if self.writable:
            yield f"{len(self.writable)} writable again {_listed(self.writable)}"
        yield from (f"{name} changed" for name in self.settings)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return f"[{' '.join(islice(names, SHOWN_NAMES))}{f' and {more} more' if more > 0 else ''}]"


def terms_of(tenant: TenantConfig, config: Config) -> Terms:
    quota = tenant.limits.quota
    if config.is_read_only(tenant.name):
        quota = msgspec.structs.replace(quota, is_read_only=True)
    return Terms(tenant.durability or config.durability, quota)


def changes_between(old: Config, new: Config) -> Changes:
    before = {tenant.name: tenant for tenant in old.tenants}
    after = {tenant.name: tenant for tenant in new.tenants}
    both = [(before[name], after[name]) for name in after if name in before]
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        keys=tuple(is_now.name for was, is_now in both if was.keys != is_now.keys),
        limits=tuple(
            is_now.name
            for was, is_now in both
            if was.limits != is_now.limits
            or (was.durability or old.durability) != (is_now.durability or new.durability)
        ),
        read_only=tuple(
            it.name for _, it in both if new.is_read_only(it.name) and not old.is_read_only(it.name)
        ),
        writable=tuple(
            it.name for _, it in both if old.is_read_only(it.name) and not new.is_read_only(it.name)
        ),
        settings=tuple(
            name
            for name in ("tenants_visible", "trusted_proxies", "watch_config")
            if getattr(old, name) != getattr(new, name)
        ),
    )


def servable(running: Config, read: Config) -> tuple[Config, list[str]]:
    """Of a config that was read what can be served at once, and the settings that have to wait."""
    changes = {name: getattr(read, name) for name in CHANGEABLE}
    return msgspec.structs.replace(running, **changes), list(_waiting(running, read))


def _waiting(running: Config, read: Config) -> Iterator[str]:
    if running.data_dir != read.data_dir:
        yield "data_dir"
    kinds = [config.engine.partition(":")[0] for config in (running, read)]
    if kinds[0] != kinds[1] or (
        running.engine != read.engine and running.data_dir == read.data_dir
    ):
        yield "engine"
    if running.admin_key_digest != read.admin_key_digest:
        yield "admin_key_sha256"
    if running.admin_keys != read.admin_keys:
        yield "admin_keys"
    for name in Limits.__struct_fields__:
        if getattr(running.limits, name) != getattr(read.limits, name):
            yield f"limits.{name}"


def deleted(running: Config, changes: Changes) -> list[TenantName]:
    """Who is gone for good: tenants of the file may come back, and find their data."""
    removed = frozenset(changes.removed)
    return [it.name for it in running.tenants if it.is_registered and it.name in removed]


class Proposal(msgspec.Struct, frozen=True):
    """A config that was read again and has no mistake. Tenants' files are yet to be looked at."""

    config: Config
    digest: bytes
    changes: Changes
    warnings: tuple[str, ...]
    is_new: bool = True
    """Whether it has to be accepted; if not, it is the one that is served."""

    is_followed: bool = False
    """Whether it is the registry that has changed, and not the file."""


def propose(running: Config, environment: Mapping[str, str], *, unless: bytes | None) -> Proposal:
    """Read the config again. It is as it was where its digest is `unless`. Raises `ConfigError`."""
    assert running.config_file is not None
    read, file = load_again(running.config_file, environment, unless=unless)
    if read is None:
        warnings = tuple(it for it in file.warnings if it not in running.warnings)
        return Proposal(running, file.digest, Changes(), warnings, is_new=False)
    # Of the place where the registry is now, which is another one from the next start on. Who had
    # none at the start has no claim on one that has come since.
    registered = read_registry(running) if has_registry(running) else None
    read = with_registered(read, registered or EMPTY)
    config, waiting = servable(running, read)
    later = tuple(f"{name} has changed, and takes effect at the next start" for name in waiting)
    changes = changes_between(running, config)
    return Proposal(config, file.digest, changes, (*later, *config.warnings))


def follow(running: Config, digest: bytes) -> Proposal:
    """The same config with the tenants that the registry has now. The file is not read.

    Raises `EbusError` when the registry cannot be read.
    """
    snapshot = read_registry(running, unless=running.registry_revision)
    if snapshot is None:
        return Proposal(running, digest, Changes(), (), is_new=False, is_followed=True)
    config, conflicts = following(running, snapshot)
    return Proposal(
        config,
        digest,
        changes_between(running, config),
        tuple(f"not served: {conflict}" for conflict in conflicts),
        is_followed=True,
    )


def try_out(engine: Engine, config: Config, added: Iterable[TenantName]) -> list[str]:
    """Why which of these tenants could not be served: they are looked at, and opened if few.

    That is what is done at start. The engine must be one that nobody else uses.
    """
    names = dict.fromkeys(added)
    if not names:
        return []
    try:
        refusals = look_at(engine, names).refusals
    except EbusError as error:
        return [str(error)]
    if refusals or len(names) > config.limits.max_eager_tenants:
        return refusals
    for tenant in config.tenants:
        if tenant.name in names:
            terms = terms_of(tenant, config)
            try:
                open_bounded(engine, tenant.name, terms.durability, terms.quota).close()
            except EbusError as error:
                refusals.append(str(error))
    return refusals


def in_pieces(generation: int, config: Config, slots: Slots | None = None) -> Iterator[Any]:
    """What is to be known of a config, in things none of which is large."""
    yield generation
    yield msgspec.structs.replace(config, tenants=(), warnings=())
    tenants = iter(config.tenants)
    while piece := tuple(islice(tenants, TENANTS_AT_A_TIME)):
        yield piece, {it.name: slots.of(it.name) for it in piece} if slots else {}


def from_pieces(pieces: Sequence[Any]) -> tuple[int, Config, dict[str, int]]:
    """What was taken to pieces."""
    generation, config, *rest = pieces
    tenants: list[TenantConfig] = []
    numbers: dict[str, int] = {}
    for some, some_numbers in rest:
        tenants += some
        numbers.update(some_numbers)
    return generation, msgspec.structs.replace(config, tenants=tuple(tenants)), numbers


def report_accepted(state: ReloadState, proposal: Proposal) -> None:
    """Say what has changed; of a change of the registry has said so who made it."""
    if proposal.is_followed:
        state.note_followed()
    else:
        state.note_accepted()
        logger.info("config reloaded: %s", proposal.changes)
    report_warnings(proposal)


def report_warnings(proposal: Proposal) -> None:
    for warning in proposal.warnings:
        logger.warning("%s", warning)


def report_refused(state: ReloadState, reason: object) -> None:
    """Say why nothing has changed."""
    state.note_failed()
    logger.error("config not reloaded, nothing has changed: %s", reason)


def report_not_followed(reason: object) -> None:
    """Say that the registry says more than is served."""
    logger.error("the registry of tenants has changed, and is not served yet: %s", reason)


def report_nothing_to_read() -> None:
    logger.warning(
        "SIGHUP: there is no config file to read again; a single tenant is set up by the "
        "environment, which changes with a restart"
    )
