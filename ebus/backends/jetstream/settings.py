"""What the engine of a NATS cluster can be told: every setting, its bounds, what contradicts what.

A name with a dot stands in a mapping of its own in a config file. In an address the dot is an
underscore.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Address
from typing import Literal, cast

from ebus.core.address import Setting
from ebus.core.errors import InvalidInput

DEFAULT_PORT = 4222
MAX_PORT = 65_535
MAX_SERVERS = 64
MAX_VALUE_CHARS = 4096
MAX_PREFIX_CHARS = 32
MIN_TIMEOUT_S = 0.1
MAX_TIMEOUT_S = 300.0

Storage = Literal["file", "memory"]


def spelled_in_address(name: str) -> str:
    """`tls_ca` for `tls.ca`."""
    return name.replace(".", "_")


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

BEFORE_THE_OPTIONS = ("servers", "tls")
"""Those that stand before the question mark of an address."""


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
