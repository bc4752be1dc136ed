"""The engine: what opens, lists and drops tenants, and the registry of engines by name.

An engine registers in the entry-point group `ebus.engines`. The entry point names a callable
of the type `EngineFactory`; the part of the address before the first colon chooses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Literal, Protocol, Self, get_args, runtime_checkable

import msgspec

from ebus.core.address import SupportsSettings, shown
from ebus.core.errors import EbusError, EngineNotInstalled, InvalidInput, UnknownEngine
from ebus.core.limits import Limits
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName

ENTRY_POINT_GROUP = "ebus.engines"

Durability = Literal["full", "normal"]
"""What an acknowledged event survives: `full` a power cut, `normal` the death of the process."""


def check_durability(durability: str) -> None:
    """Raise `InvalidInput` for a word that is no durability: a slip must not mean less."""
    if durability not in get_args(Durability):
        raise InvalidInput(f"durability is full or normal, not {durability!r}")


@runtime_checkable
class Engine(Protocol):
    """Where tenants live. Safe to call from several threads.

    An engine may inherit what has a body here.
    """

    def open(self, name: str, *, durability: Durability | None = None) -> TenantStore:
        """The tenant's store, made empty if there is none yet.

        A tenant that is open already gives the same store. `durability` overrides the
        engine's own for this tenant. Raises `InvalidTenantName`, `StoreRefused`,
        `StoreUnavailable`, and `StoreClosed` when the engine is closed.
        """
        ...

    def tenants(self) -> Sequence[TenantName]:
        """The names of all tenants that exist, in the order of their code points."""
        ...

    def drop(self, name: str) -> None:
        """Close the tenant and delete everything of it. Dropping one that is not is fine.

        A tenant opened under the same name afterwards is new: its positions start at 1.
        """
        ...

    def close(self) -> None:
        """Close every open store. Twice is fine."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class SupportsDurability(Protocol):
    """The power of a store to change, while it is open, what an acknowledged event survives."""

    def set_durability(self, durability: Durability) -> None:
        """From the next write on. Waits for the one that is under way.

        With `full`, the next write makes durable what was written before it too.
        """
        ...


@runtime_checkable
class SupportsHealth(Protocol):
    """The power to say whether an engine can be used, without opening a tenant."""

    def check_health(self) -> None:
        """Return when the engine can be used; raise `StoreUnavailable` when it cannot."""
        ...


@runtime_checkable
class SupportsInspect(Protocol):
    """The power to look at stored tenants before any is opened."""

    def inspect(self, name: str) -> str:
        """Say in a few words what opening the tenant would find, such as `new` or `ready`.

        Cheap, and changes nothing. Raises `StoreRefused` when it could not be opened.
        """
        ...


@runtime_checkable
class SupportsAbsent(Protocol):
    """The power to tell quickly which of many tenants have nothing stored."""

    def absent(self, names: Iterable[TenantName]) -> Set[TenantName]:
        """Those of the tenants of whom there is nothing at all: `inspect` would say `new`.

        Changes nothing. May leave out any of which it is not certain. Raises `StoreUnavailable`
        where none can be asked for.
        """
        ...


@runtime_checkable
class SupportsSettle(Protocol):
    """The power to finish what was left to do when a tenant was put away."""

    def settle(self, name: str) -> None:
        """Leave a tenant that was put away as closing it for good would have left it.

        Nothing happens to one that is open, or that was never put away. Raises nothing of what
        goes wrong with the tenant's file, which is the operator's to look at.
        """
        ...


@runtime_checkable
class SupportsTrash(Protocol):
    """The power to put away everything of a tenant, so that it is gone and yet not lost."""

    def discard(self, name: str, trash: str) -> int:
        """Move everything of a tenant to the trash, under this id. Returns its size in bytes.

        A tenant opened under the same name afterwards is new: its positions start at 1. What was
        cut off half way is finished by the same call. An id has letters, digits, `_` and `-`.
        Raises `StoreBusy` while anybody has the tenant open, and `StoreUnavailable`.
        """
        ...

    def purge(self, trash: str) -> None:
        """Delete for good what was put away under this id. Where nothing was, that is fine."""
        ...


class Acknowledgement(msgspec.Struct, frozen=True):
    """What it is worth to a client that its append was answered.

    It is told to whoever asks `/health`, which needs no key: it names settings, and never a
    machine, a path or a secret.
    """

    worth: str
    """Where the event is by then, and what it survives: the rest of a short sentence, such as
    `synced to this machine's disk before the answer`."""

    is_durable: bool | None
    """Whether it survives a power cut of everything that it is on; None where nobody can tell."""

    warnings: tuple[str, ...] = ()
    """What is less than was asked for: a sentence each, which names the setting."""


@runtime_checkable
class SupportsAcknowledgement(Protocol):
    """The power of an engine to say what the answers to appends are worth."""

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        """What they are worth to tenants of this durability, or without one, of the engine's own.

        It is asked for at the start and again now and then. May take a few seconds. Raises
        `StoreUnavailable` when what it depends on cannot be asked.
        """
        ...


class Findings(msgspec.Struct, frozen=True):
    """What a look at an engine and its tenants has found."""

    tenants: dict[TenantName, str]
    """What opening each tenant would find, such as `new` or `ready`."""

    refusals: list[str]
    """Why the engine cannot be used, or which tenants could not be opened: for the operator."""


def look_at(engine: Engine, names: Iterable[TenantName]) -> Findings:
    """Look at an engine and these tenants without changing anything.

    An engine that cannot look ahead has nothing to say. One that cannot be used is not asked for
    any tenant: a cluster that is away would be waited for once more with each.
    """
    findings = Findings({}, [])
    names = list(names)
    absent: Set[TenantName] = frozenset()
    try:
        if isinstance(engine, SupportsHealth):
            engine.check_health()
        if isinstance(engine, SupportsInspect) and isinstance(engine, SupportsAbsent):
            absent = engine.absent(names)
    except EbusError as error:
        # Each tenant would be told the same, and a cluster that is away takes its time every time.
        findings.refusals.append(str(error))
        return findings
    if isinstance(engine, SupportsInspect):
        for name in names:
            try:
                findings.tenants[name] = "new" if name in absent else engine.inspect(name)
            except EbusError as error:
                findings.refusals.append(str(error))
    return findings


class EngineFactory(Protocol):
    """Makes an engine from the part of its address that follows the first colon.

    Making one touches no storage: a command that only looks makes one too. One that fulfils
    `SupportsSettings` of `ebus.core.address` as well takes a mapping of the config file.
    """

    def __call__(self, location: str, *, durability: Durability, limits: Limits) -> Engine: ...


def engine_names() -> list[str]:
    """The names of all registered engines, sorted."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def open_engine(
    address: str, *, durability: Durability = "full", limits: Limits | None = None
) -> Engine:
    """Open an engine by its address: `sqlite:DIRECTORY`, `memory:` or `ENGINE://PLACE?OPTIONS`.

    Raises `UnknownEngine` with the names of the known ones, `InvalidInput` for a durability
    that is none, and `EngineNotInstalled` when a
    known one lacks its driver. Its place is made when the first tenant is opened.
    """
    check_durability(durability)
    name, _, location = address.partition(":")
    factory = _load_factory(name)
    return factory(location, durability=durability, limits=limits or Limits())


def settings_of(name: str) -> SupportsSettings | None:
    """What the engine of this name can be told; None of one that takes nothing but a place.

    Raises what `open_engine` does of an engine that cannot be had.
    """
    factory = _load_factory(name)
    return factory if isinstance(factory, SupportsSettings) else None


@cache
def _load_factory(name: str) -> EngineFactory:
    """Kept: to look through all that is installed takes some ms."""
    found: list[EntryPoint] = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        raise UnknownEngine(
            f"unknown engine {shown(name)!r}; known are {', '.join(engine_names())}"
        )
    try:
        factory: EngineFactory = found[0].load()
    except ImportError as error:
        extras, owner = found[0].extras, found[0].dist
        package = f"'{error.name}'"
        if extras and owner is not None:
            package = f"'{owner.name}[{','.join(extras)}]'"
        raise EngineNotInstalled(
            f"the engine {name!r} needs {error.name}, which is not installed: pip install {package}"
        ) from error
    return factory
