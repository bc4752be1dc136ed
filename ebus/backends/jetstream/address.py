"""The address of a NATS cluster → its options, frozen and checked.

    nats://USER:PASSWORD@HOST:PORT,HOST:PORT?OPTION=VALUE&OPTION=VALUE
    tls://…

`SETTINGS` has every option with its bounds. In an address the dot of its name is an underscore:
`tls.ca` is `tls_ca` there. `servers` and `tls` are what stands before the question mark.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec

from ebus.backends.jetstream.settings import (
    BEFORE_THE_OPTIONS,
    SETTINGS,
    Storage,
    contradictions,
    spelled_in_address,
)
from ebus.core.address import Setting, SupportsSettings, query_of, split_location
from ebus.core.errors import InvalidInput, StoreRefused

MAX_SECRET_FILE_BYTES = 64 * 1024

EXAMPLE = "nats://user@host1:4222,host2:4222?password_file=/etc/ebus/nats.password&replicas=3"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What an address says. Nothing of a secret is in its `repr`, nor in what `named` says."""

    servers: tuple[str, ...]
    """At least one, each `host:port`, an IPv6 address in brackets."""

    tls: bool = False

    user: str | None = None
    password: str | None = None
    password_file: str | None = None
    token: str | None = None
    token_file: str | None = None
    credentials: str | None = None
    """The path of a file of a user's JWT and seed, as NATS makes them."""

    replicas: int = 1
    prefix: str = "ebus"
    storage: Storage = "file"
    require_durable: bool = False

    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_first: bool = False

    system_user: str | None = None
    system_password: str | None = None
    system_password_file: str | None = None
    system_credentials: str | None = None

    timeout_s: float = 10.0

    def named(self) -> str:
        """How logs and errors name the cluster: the servers, without who asks them."""
        return f"{'tls' if self.tls else 'nats'}://{','.join(self.servers)}"

    def secret(self) -> str | None:
        """The password of `user`, or the token; read from its file, if it is in one.

        None when there is neither. Raises `StoreRefused` when the file has none.
        """
        if self.password_file is not None:
            return _secret_in("password_file", self.password_file)
        if self.token_file is not None:
            return _secret_in("token_file", self.token_file)
        return self.password if self.password is not None else self.token

    def system_secret(self) -> str | None:
        """The password of `system_user`. Like `secret`."""
        if self.system_password_file is not None:
            return _secret_in("system.password_file", self.system_password_file)
        return self.system_password

    def __repr__(self) -> str:
        return f"Options({self.named()!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("named", self.named())]


def parse(location: str, *, secure: bool) -> Options:
    """The options at a location, which is what follows `nats:`, or with `secure` `tls:`.

    Touches no file. Raises `InvalidInput`, which never repeats a secret.
    """
    given = _given(location)
    if secure:
        given["tls"] = "true"
    values: dict[str, Any] = {}
    for name, text in given.items():
        try:
            values[spelled_in_address(name)] = SETTINGS[name].read(text)
        except InvalidInput as error:
            raise InvalidInput(f"{_told(name)} {error}; an address is like {EXAMPLE}") from None
    for name, problem in contradictions(given, spelled_in_address):
        raise InvalidInput(f"{_told(name)} {problem}; an address is like {EXAMPLE}")
    return Options(**values)


def address(given: Mapping[str, str], *, secure: bool = False) -> str:
    """The whole address that says what is given, by the names of `SETTINGS`."""
    is_secure = secure or given.get("tls") == "true"
    options = {
        spelled_in_address(name): given[name]
        for name in SETTINGS
        if name in given and name not in BEFORE_THE_OPTIONS
    }
    scheme = "tls" if is_secure else "nats"
    return f"{scheme}://{given['servers']}{query_of(options)}"


def _told(name: str) -> str:
    if name in BEFORE_THE_OPTIONS:
        return f"the {name} of the address"
    return f"the option {spelled_in_address(name)} of the address"


def _given(location: str) -> dict[str, str]:
    """What the location says, by the names of `SETTINGS`. The order is that of `SETTINGS`."""
    split = split_location(location, example=EXAMPLE)
    given = {"servers": ",".join(split.places)}
    names = {spelled_in_address(name): name for name in SETTINGS if name not in BEFORE_THE_OPTIONS}
    for option, text in split.options.items():
        if option not in names:
            raise InvalidInput(f"an option of the address is unknown{_instead(option, names)}")
        given[names[option]] = text
    if split.user is not None:
        _add_credentials(given, split.user, split.password)
    return {name: given[name] for name in SETTINGS if name in given}


def _add_credentials(given: dict[str, str], user: str, password: str | None) -> None:
    """What stands before the servers. Alone it is a token to NATS, unless there is a password."""
    has_password = "password" in given or "password_file" in given
    first = "user" if password is not None or has_password else "token"
    for name, text in ((first, user), ("password", password)):
        if text is None:
            continue
        if name in given:
            raise InvalidInput(f"{_told(name)} stands before the servers too; keep one of them")
        given[name] = text


def _instead(option: str, names: Mapping[str, str]) -> str:
    """What to write in the place of an option that is none. It is not repeated: it could be a
    secret in the wrong place."""
    if option in BEFORE_THE_OPTIONS:
        return ": write tls:// in the place of nats://, or the servers before the question mark"
    near = get_close_matches(option[:40].lower().replace("-", "_"), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"


class NatsSettings(SupportsSettings):
    """What the factories of `nats:` and `tls:` can say of their addresses."""

    def __init__(self, *, secure: bool) -> None:
        self._secure = secure

    @property
    def settings(self) -> Mapping[str, Setting]:
        return SETTINGS

    def contradictions(
        self, given: Mapping[str, str], spelled: Callable[[str], str]
    ) -> Sequence[tuple[str, str]]:
        return contradictions({**given, "tls": "true"} if self._secure else given, spelled)

    def address(self, given: Mapping[str, str]) -> str:
        return address(given, secure=self._secure)

    def check(self, location: str) -> None:
        parse(location, secure=self._secure)


def secret_file(setting: str, path: str) -> bytes:
    """All that is in a file. Raises `StoreRefused`, which says nothing of what is in there."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "cannot be read"
        raise StoreRefused(f"{setting}: {path}: {reason}") from None
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise StoreRefused(f"{setting}: {path} is too large for a file of one secret")
    return data


def _secret_in(setting: str, path: str) -> str:
    """The one line of a file. Raises as `secret_file`."""
    data = secret_file(setting, path)
    secret = data.decode(errors="replace").removesuffix("\n").removesuffix("\r")
    if not secret:
        raise StoreRefused(f"{setting}: {path} is empty")
    if not secret.isprintable() or "\ufffd" in secret:
        raise StoreRefused(f"{setting}: {path} has to hold one line of text and nothing else")
    return secret
