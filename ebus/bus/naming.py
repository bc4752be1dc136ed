"""What an event class is called where it is stored, and how its old versions become new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

SCHEMA_KEY = "schema"
"""Where in an event's metadata the version of its class is; without it, that is 1."""

_ATTRIBUTE = "__ebus_event__"

C = TypeVar("C", bound=type)
Upcast = Callable[[Any], Any]
U = TypeVar("U", bound=Upcast)


class Naming:
    """The name and version of an event class, its former names, and its upcasts by version."""

    def __init__(self, name: str, version: int = 1, formerly: tuple[str, ...] = ()) -> None:
        self.name = name
        self.version = version
        self.formerly = formerly
        self.upcasts: dict[int, Upcast] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.formerly)

    def bring_up(self, data: Any, version: int) -> Any:
        """Data of an old version as data of this one. Raises `ValueError` when it cannot be."""
        if version > self.version:
            raise ValueError(f"is of version {version}, this program knows {self.version}")
        for step in range(version, self.version):
            if step not in self.upcasts:
                raise ValueError(f"there is no upcast from version {step}")
            data = self.upcasts[step](data)
        return data


def event(name: str, *, version: int = 1, formerly: tuple[str, ...] = ()) -> Callable[[C], C]:
    """Give an event class a name and a version that stay when the class is renamed or moved.

    Events that were stored under a name in `formerly` are of this class too. A subclass needs a
    name of its own. Without this decorator a class is called as it is (`__qualname__`, behind
    any `<locals>`), and its version is 1.
    """
    if not name or version < 1:
        raise ValueError("an event class has a name, and a version from 1 on")

    def decorate(event_class: C) -> C:
        setattr(event_class, _ATTRIBUTE, Naming(name, version, formerly))
        return event_class

    return decorate


def upcast(event_class: type, *, from_version: int) -> Callable[[U], U]:
    """The decorated function makes data of `from_version` into data of the next version.

    It is given the JSON as Python objects, may change them, and returns what they have become.
    Raises `ValueError` unless the class is called something by `@event` with a later version.
    """
    naming = given_naming(event_class)
    if naming is None or not 1 <= from_version < naming.version:
        raise ValueError(f"{event_class.__name__} has no @event with a version over {from_version}")
    if from_version in naming.upcasts:
        raise ValueError(f"{naming.name} has an upcast from version {from_version} already")
    upcasts = naming.upcasts

    def decorate(function: U) -> U:
        upcasts[from_version] = function
        return function

    return decorate


def given_naming(event_class: type) -> Naming | None:
    """What `@event` said of this very class; None when it said nothing."""
    naming = vars(event_class).get(_ATTRIBUTE)
    return naming if isinstance(naming, Naming) else None


def naming_of(event_class: type) -> Naming:
    return given_naming(event_class) or Naming(event_class.__qualname__.rpartition("<locals>.")[2])
