"""The address of an engine: how its text is taken apart, what it may say, and what is shown of it.

    ENGINE:LOCATION
    ENGINE://USER:PASSWORD@HOST:PORT,HOST:PORT?OPTION=VALUE&OPTION=VALUE

An address may hold a secret. Whatever shows one to people shows `shown(address)` in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import quote, unquote

import msgspec

from ebus.core.errors import InvalidInput

Kind = Literal["text", "secret", "number", "switch", "texts"]
"""What a setting's value is to people: `secret` is text that is never shown, `switch` true or
false, `texts` a list, whose items stand in an address with commas between them."""


class Setting(msgspec.Struct, frozen=True):
    """One thing that an engine can be told."""

    kind: Kind

    read: Callable[[str], Any]
    """What its text comes to. Raises `InvalidInput`, whose message goes on after the setting's
    name, as `must be 1, 3 or 5`, and never repeats a secret."""

    example: str
    """A value as it stands in a config file."""


@runtime_checkable
class SupportsSettings(Protocol):
    """The power of an `EngineFactory` whose engine takes more than a place.

    Then a config file may have a mapping in the place of an address, and mistakes in both are
    told before an engine is made. Nothing here touches a file or a network.
    """

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Every setting, by its name. A name with a dot stands in a mapping of its own."""
        ...

    def contradictions(
        self, given: Mapping[str, str], spelled: Callable[[str], str]
    ) -> Sequence[tuple[str, str]]:
        """What does not go together or is missing: a setting and what is wrong, in words that
        go on after its name. Each other setting is named as it is `spelled` there."""
        ...

    def address(self, given: Mapping[str, str]) -> str:
        """The address that says all this, none of which contradicts the rest."""
        ...

    def check(self, location: str) -> None:
        """Raise `InvalidInput` when what follows the first colon of an address is none."""
        ...


def shown(address: str) -> str:
    """What may be shown of an address: the engine and the place, without who asks and how.

    Of `nats://user:password@h1,h2?replicas=3` that is `nats://h1,h2`. Any text will do: what is
    no address comes out without what could be a secret, were it one.
    """
    name, colon, location = address.partition(":")
    if not colon:
        return _without_secrets(address)
    if location.startswith("//"):
        return f"{name}://{_place(location[2:])}"
    return f"{name}:{_without_secrets(location)}"


class Address(str):
    """An address that does not show its secrets, wherever it is printed.

    To read, to log and to format it gives what `shown` does. `open_engine`, and whatever compares
    or takes it apart with a method of text, has the whole of it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return shown(super().__str__())

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)


def _place(text: str) -> str:
    # A password may hold an unencoded `/`, `?` or `#`: then all up to the last @ is dropped.
    return text.rpartition("@")[2].partition("?")[0].partition("#")[0]


def _without_secrets(text: str) -> str:
    """A directory as it is; of what looks like more than one, its place."""
    place = _place(text)
    if place == text:
        return text
    return f"{'…@' if '@' in text else ''}{place}"


class Location(msgspec.Struct, frozen=True):
    """What follows the first colon of an address that begins with two slashes."""

    user: str | None
    password: str | None
    """Both percent-decoded. There is a password, which may be empty, where there is a colon."""

    places: tuple[str, ...]
    """As they stand there."""

    options: dict[str, str]
    """The query, percent-decoded; `+` is a plus."""


def split_location(location: str, *, example: str) -> Location:
    """Take a location apart. Raises `InvalidInput`, which repeats nothing of it."""
    if not location.startswith("//"):
        raise InvalidInput(f"two slashes are missing; an address is like {example}")
    rest, has_query, query = location[2:].partition("?")
    credentials, at, places = rest.rpartition("@")
    if "#" in location or "/" in places.removesuffix("/") or "/" in credentials:
        raise InvalidInput(
            "there is something between the servers and the options, or a character that has to "
            f"be percent-encoded, such as %2F for / or %23 for #; an address is like {example}"
        )
    if "@" in credentials or "," in credentials:
        raise InvalidInput(
            "the user and the password stand once, before the first server; in them, %40 stands "
            f"for @ and %2C for a comma; an address is like {example}"
        )
    places = places.removesuffix("/")
    if not places:
        raise InvalidInput(f"the server is missing; an address is like {example}")
    user, colon, password = credentials.partition(":")
    return Location(
        user=_decoded("the user", user) if at else None,
        password=_decoded("the password", password) if colon else None,
        places=tuple(places.split(",")),
        options=_options(query) if has_query else {},
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidInput("an option of the address has no value: write OPTION=VALUE")
        name = _decoded("an option of the address", name)
        if name in options:
            raise InvalidInput("an option of the address stands there twice; keep one")
        options[name] = _decoded("an option of the address", value)
    return options


def _decoded(what: str, text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if not decoded.isprintable():
        raise InvalidInput(f"{what} holds a control character, or is not UTF-8")
    return decoded


def query_of(options: Mapping[str, str]) -> str:
    """The options as they stand in an address, with the question mark; empty without any."""
    pairs = [f"{name}={quote(value, safe='/:')}" for name, value in options.items()]
    return f"?{'&'.join(pairs)}" if pairs else ""
