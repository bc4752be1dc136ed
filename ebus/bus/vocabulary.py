"""The event classes that a bus knows: from an object to what is stored, and back."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ebus.bus.errors import NameTaken, NotAnEvent, UndecodableEvent
from ebus.bus.naming import SCHEMA_KEY, Naming, given_naming, naming_of
from ebus.core.errors import InvalidEvent
from ebus.core.event import Event, NewEvent

Decode = Callable[[bytes], object]


def is_model(event_class: type) -> bool:
    """Whether it is a pydantic model, told by its methods: ebus does not import pydantic."""
    return all(
        callable(getattr(event_class, method, None))
        for method in ("model_validate_json", "model_dump_json")
    )


def is_storable(event_class: type) -> bool:
    if issubclass(event_class, Event | NewEvent):
        return False
    return (
        issubclass(event_class, msgspec.Struct)
        or dataclasses.is_dataclass(event_class)
        or is_model(event_class)
    )


class Vocabulary:
    """Event classes by name. Safe to use from several threads.

    Of a class that is known, those subclasses are known too that have a name by `@event`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._classes: dict[str, type] = {}
        self._bases: tuple[type, ...] = ()
        self._decoders: dict[type, Decode] = {}

    def learn(self, event_class: type) -> Naming:
        """Know this class. Raises `NameTaken` when another one is called the same."""
        naming = naming_of(event_class)
        if self._classes.get(naming.name) is event_class:
            return naming
        with self._lock:
            for name in naming.names:
                known = self._classes.get(name, event_class)
                if known is not event_class:
                    raise NameTaken(f"{known!r} and {event_class!r} are both called {name}")
            self._classes = {**self._classes, **dict.fromkeys(naming.names, event_class)}
        return naming

    def look_below(self, base: type) -> None:
        """Know the named subclasses of a class that is no event class itself."""
        with self._lock:
            if base not in self._bases:
                self._bases = (*self._bases, base)

    def class_of(self, name: str) -> type | None:
        """The class of events that are stored under this name; None for an unknown one."""
        known = self._classes.get(name)
        if known is not None:
            return known
        for base in (*self._classes.values(), *self._bases):
            for further in _named_below(base):
                if name in naming_of(further).names:
                    self.learn(further)
                    return further
        return None

    def names_of(self, event_class: type) -> set[str]:
        """Every name under which instances of this class may be stored."""
        known = [it for it in self._classes.values() if issubclass(it, event_class)]
        return {
            name
            for it in (event_class, *known, *_named_below(event_class))
            for name in naming_of(it).names
        }

    def encode(
        self, event: object, id: str, stream: str | None, metadata: Mapping[str, str]
    ) -> NewEvent:
        """The event as it is appended. Raises `NotAnEvent`, `NameTaken` and `InvalidEvent`."""
        event_class: Any = type(event)
        if not is_storable(event_class):
            raise NotAnEvent(
                f"{event_class.__name__} is not a msgspec Struct, a dataclass or a pydantic model"
            )
        naming = self.learn(event_class)
        if SCHEMA_KEY in metadata:
            raise InvalidEvent(f"`{SCHEMA_KEY}` is the bus's own, for a version", field="metadata")
        all_metadata = dict(metadata)
        if naming.version > 1:
            all_metadata[SCHEMA_KEY] = str(naming.version)
        if is_model(event_class):
            model: Any = event
            data = Raw(model.model_dump_json(by_alias=True).encode())
        else:
            data = NewEvent.of(naming.name, event).data
        return NewEvent(naming.name, data, id=id, stream=stream, metadata=all_metadata or None)

    def decode(self, stored: Event, event_class: type) -> object:
        """The stored event as an instance of its class. Raises `UndecodableEvent`."""
        naming = naming_of(event_class)
        try:
            version = int((stored.metadata or {}).get(SCHEMA_KEY, "1"))
            data = bytes(stored.data)
            if version != naming.version:
                data = msgspec.json.encode(naming.bring_up(stored.value(), version))
            return self._decoder(event_class)(data)
        except Exception as error:  # an upcast is the user's, and may raise what it likes
            raise UndecodableEvent(stored, str(error)) from error

    def _decoder(self, event_class: Any) -> Decode:
        decoder = self._decoders.get(event_class)
        if decoder is None:
            if is_model(event_class):
                decoder = event_class.model_validate_json
            else:
                decoder = msgspec.json.Decoder(event_class).decode
            self._decoders[event_class] = decoder
        return decoder


def _named_below(event_class: type) -> Iterator[type]:
    if event_class is object:
        return  # everything is below
    below: list[type] = event_class.__subclasses__()
    for further in below:
        if given_naming(further) is not None:
            yield further
        yield from _named_below(further)
