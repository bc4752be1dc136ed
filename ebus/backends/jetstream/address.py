"""The address of a NATS cluster → its options, frozen and checked.

    nats://USER:PASSWORD@HOST:PORT,HOST:PORT?OPTION=VALUE&OPTION=VALUE
    tls://…

`SETTINGS` has every option with its bounds. In an address the dot of its name is an underscore:
`tls.ca` is `tls_ca` there. `servers` and `tls` are what stands before the question mark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import IPv6Address
from typing import Any, Literal, cast

import msgspec

from ebus.core.address import Setting, SupportsSettings, query_of, split_location
from ebus.core.errors import InvalidInput, StoreRefused

DEFAULT_PORT = 4222
MAX_PORT = 65_535
MAX_SERVERS = 64
MAX_VALUE_CHARS = 4096
MAX_PREFIX_CHARS = 32
MAX_SECRET_FILE_BYTES = 64 * 1024
MIN_TIMEOUT_S = 0.1
MAX_TIMEOUT_S = 300.0

EXAMPLE = "nats://user@host1:4222,host2:4222?password_file=/etc/ebus/nats.password&replicas=3"

Storage = Literal["file", "memory"]


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

    timeout_s: float = 5.0

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
        if name in given and name not in _BEFORE_THE_OPTIONS
    }
    scheme = "tls" if is_secure else "nats"
    return f"{scheme}://{given['servers']}{query_of(options)}"


def spelled_in_address(name: str) -> str:
    """`tls_ca` for `tls.ca`."""
    return name.replace(".", "_")


def _told(name: str) -> str:
    if name in _BEFORE_THE_OPTIONS:
        return f"the {name} of the address"
    return f"the option {spelled_in_address(name)} of the address"


def _given(location: str) -> dict[str, str]:
    """What the location says, by the names of `SETTINGS`. The order is that of `SETTINGS`."""
    split = split_location(location, example=EXAMPLE)
    given = {"servers": ",".join(split.places)}
    names = {spelled_in_address(name): name for name in SETTINGS if name not in _BEFORE_THE_OPTIONS}
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
    if option in _BEFORE_THE_OPTIONS:
        return ": write tls:// in the place of nats://, or the servers before the question mark"
    near = get_close_matches(option[:40].lower().replace("-", "_"), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"


def contradictions(
    given: Mapping[str, str], spelled: Callable[[str], str]
) -> list[tuple[str, str]]:
    """What does not go together, or is missing: a setting, and what is wrong with it."""
    missing = [] if "servers" in given else [("servers", "is missing")]
    return [
        *missing,
        *_of_credentials(given, spelled),
        *_of_system(given, spelled),
        *_of_tls(given, spelled),
    ]


def _of_credentials(
    given: Mapping[str, str], spelled: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    ways = [name for name in ("user", "token", "token_file", "credentials") if name in given]
    for name in ways[1:]:
        yield name, f"and {spelled(ways[0])} are two ways to say who asks: keep one of them"
    yield from _user_and_password(given, spelled, "user", "password", "password_file")


def _of_system(
    given: Mapping[str, str], spelled: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    user, credentials = "system.user", "system.credentials"
    if user in given and credentials in given:
        yield credentials, f"and {spelled(user)} are two ways to say who asks: keep one of them"
    yield from _user_and_password(given, spelled, user, "system.password", "system.password_file")


def _user_and_password(
    given: Mapping[str, str], spelled: Callable[[str], str], user: str, password: str, file: str
) -> Iterator[tuple[str, str]]:
    passwords = [name for name in (password, file) if name in given]
    if len(passwords) > 1:
        yield file, f"stands in the place of {spelled(password)}: keep one of them"
    elif passwords and user not in given:
        yield passwords[0], f"has no user: say {spelled(user)} too"
    elif user in given and not passwords:
        yield user, f"has no password: say {spelled(file)} too"


def _of_tls(given: Mapping[str, str], spelled: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    if given.get("tls") != "true":
        for name in given:
            if name.startswith("tls."):
                yield name, "is for tls only: write tls:// in the place of nats://"
        return
    for one, other in (("tls.cert", "tls.key"), ("tls.key", "tls.cert")):
        if one in given and other not in given:
            yield one, f"needs {spelled(other)} beside it"


def _servers(text: str) -> tuple[str, ...]:
    servers = tuple(_server(one) for one in text.split(","))
    if len(servers) > MAX_SERVERS:
        raise InvalidInput(f"must be at most {MAX_SERVERS}")
    if len(set(servers)) < len(servers):
        raise InvalidInput("name one server twice; keep one of them")
    return servers


_SERVER = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[^\[\]]*\])(?::(?P<port>.*))?")
_WHOLE_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_SERVERS_WANTED = "must be HOST or HOST:PORT, an IPv6 address in brackets, without a user"


def _server(text: str) -> str:
    found = _SERVER.fullmatch(text)
    if found is None:
        raise InvalidInput(_SERVERS_WANTED)
    host: str | None = found["host"]
    port: str | None = found["port"]
    assert host is not None
    if host.startswith("["):
        host = _bracketed(host[1:-1])
    if not host:
        raise InvalidInput(_SERVERS_WANTED)
    if port is None:
        return f"{host}:{DEFAULT_PORT}"
    if not (_WHOLE_NUMBER.fullmatch(port) and int(port) <= MAX_PORT):
        raise InvalidInput(f"must have a port from 1 to {MAX_PORT}")
    return f"{host}:{port}"


def _bracketed(text: str) -> str | None:
    """An IPv6 address in its shortest form. None for what is none, without an error that has it."""
    try:
        return f"[{IPv6Address(text)}]"
    except ValueError:
        return None


def _text(text: str) -> str:
    if not text.strip():
        raise InvalidInput("is empty")
    if len(text) > MAX_VALUE_CHARS:
        raise InvalidInput(f"has more than {MAX_VALUE_CHARS} characters")
    if not text.isprintable():
        raise InvalidInput("must not hold line breaks or control characters")
    return text


def _path(text: str) -> str:
    if text.startswith("~"):
        raise InvalidInput("must be a full path or one relative to where ebus starts, without ~")
    return _text(text)


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise InvalidInput("must be true or false")
    return text == "true"


def _replicas(text: str) -> int:
    if text not in {"1", "3", "5"}:
        raise InvalidInput("must be 1, 3 or 5")
    return int(text)


def _prefix(text: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9]{{1,{MAX_PREFIX_CHARS}}}", text):
        raise InvalidInput(f"must be 1 to {MAX_PREFIX_CHARS} letters and digits")
    return text


def _storage(text: str) -> Storage:
    if text not in {"file", "memory"}:
        raise InvalidInput("must be file or memory")
    return cast(Storage, text)


def _timeout_s(text: str) -> float:
    if re.fullmatch(r"(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,3})?", text):
        timeout_s = float(text)
        if MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S:
            return timeout_s
    raise InvalidInput(f"must be seconds from {MIN_TIMEOUT_S:g} to {MAX_TIMEOUT_S:g}, as 5 or 0.5")


_SECRET_FILE = Setting("text", _path, '"/etc/ebus/nats.password"')

SETTINGS: dict[str, Setting] = {
    "servers": Setting("texts", _servers, '["localhost:4222"]'),
    "user": Setting("text", _text, '"ebus"'),
    "password": Setting("secret", _text, '"…"'),
    "password_file": _SECRET_FILE,
    "token": Setting("secret", _text, '"…"'),
    "token_file": Setting("text", _path, '"/etc/ebus/nats.token"'),
    "credentials": Setting("text", _path, '"/etc/ebus/nats.creds"'),
    "replicas": Setting("number", _replicas, "3"),
    "prefix": Setting("text", _prefix, "ebus"),
    "storage": Setting("text", _storage, "file"),
    "require_durable": Setting("switch", _switch, "true"),
    "tls": Setting("switch", _switch, "true"),
    "tls.ca": Setting("text", _path, '"/etc/ebus/ca.pem"'),
    "tls.cert": Setting("text", _path, '"/etc/ebus/cert.pem"'),
    "tls.key": Setting("text", _path, '"/etc/ebus/key.pem"'),
    "tls.first": Setting("switch", _switch, "true"),
    "system.user": Setting("text", _text, '"sys"'),
    "system.password": Setting("secret", _text, '"…"'),
    "system.password_file": _SECRET_FILE,
    "system.credentials": Setting("text", _path, '"/etc/ebus/sys.creds"'),
    "timeout_s": Setting("number", _timeout_s, "5"),
}
"""Every option: how it is read, and an example."""

_BEFORE_THE_OPTIONS = ("servers", "tls")


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


def _secret_in(setting: str, path: str) -> str:
    """The one line of a file. Raises `StoreRefused`, which says nothing of what is in there."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "cannot be read"
        raise StoreRefused(f"{setting}: {path}: {reason}") from None
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise StoreRefused(f"{setting}: {path} is too large for a file of one secret")
    secret = data.decode(errors="replace").removesuffix("\n").removesuffix("\r")
    if not secret:
        raise StoreRefused(f"{setting}: {path} is empty")
    if not secret.isprintable() or "\ufffd" in secret:
        raise StoreRefused(f"{setting}: {path} has to hold one line of text and nothing else")
    return secret
