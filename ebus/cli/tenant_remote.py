"""Changing tenants through a server that runs, with its admin key."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from ebus.core.errors import EbusError, InvalidInput
from ebus.tenants.model import State

TIMEOUT_S = 60.0
PAGE = 1_000


class ServerSaysNo(EbusError):
    """What the server has answered, in its own words."""


class RemoteTenants:
    """Answers what the server does. Raises `EbusError`, whose message never holds the key."""

    def __init__(self, url: str, admin_key: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput("the address of a server is like http://host:8080, without a key")
        self._parts = parts
        self._key = admin_key

    def close(self) -> None:
        """Each request has a connection of its own."""

    def create(self, name: str, wanted: Mapping[str, Any]) -> Any:
        return self._ask("POST", "/tenants", {"tenant": name, **wanted})

    def list(self, prefix: str) -> list[Any]:
        found: list[Any] = []
        after: str | None = ""
        while after is not None:
            query = urlencode({"prefix": prefix, "after": after, "limit": PAGE})
            page = self._ask("GET", f"/tenants?{query}")
            found += page["tenants"]
            after = page["next"]
        return found

    def show(self, name: str) -> Any:
        return self._ask("GET", _tenant(name))

    def set_state(self, name: str, state: State) -> Any:
        return self._ask("POST", _tenant(name, "suspend" if state == "suspended" else "resume"))

    def change(self, name: str, patch: Mapping[str, Any]) -> Any:
        return self._ask("PATCH", _tenant(name), patch)

    def add_key(self, name: str, wanted: Mapping[str, Any]) -> Any:
        return self._ask("POST", _tenant(name, "keys"), wanted)

    def rotate_key(self, name: str, wanted: Mapping[str, Any]) -> Any:
        return self._ask("POST", _tenant(name, "rotate-key"), wanted)

    def revoke_key(self, name: str, key_name: str) -> Any:
        return self._ask("DELETE", _tenant(name, "keys", key_name))

    def delete(self, name: str, confirm: str) -> Any:
        return self._ask("DELETE", f"{_tenant(name)}?{urlencode({'confirm': confirm})}")

    def trash(self) -> Any:
        return self._ask("GET", "/trash")["trash"]

    def purge(self, trash: str, confirm: str) -> None:
        self._ask("DELETE", f"/trash/{quote(trash, safe='')}?{urlencode({'confirm': confirm})}")

    def audit(self, *, limit: int, tenant: str | None) -> Any:
        query = {"limit": min(limit, PAGE)} | ({"tenant": tenant} if tenant else {})
        return self._ask("GET", f"/audit?{urlencode(query)}")["audit"]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        parts = self._parts
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        headers = {"X-API-Key": self._key, "Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        place = f"{parts.scheme}://{parts.netloc}"
        try:
            connection = kind(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
            try:
                target = f"{parts.path.rstrip('/')}/admin{path}"
                connection.request(method, target, content, headers)
                answer = connection.getresponse()
                status, said = answer.status, answer.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ServerSaysNo(f"{place} cannot be asked: {reason}") from None
        return _understood(place, status, said)


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    code: str = ""


def _understood(place: str, status: int, said: bytes) -> Any:
    try:
        if 200 <= status < 300:
            return msgspec.json.decode(said) if said else None
        problem = msgspec.json.decode(said, type=_Problem)
    except msgspec.MsgspecError:
        raise ServerSaysNo(f"{place} answered {status}, and nothing that ebus would say") from None
    if problem.code == "not_found":
        raise ServerSaysNo(f"{place} has no admin API: set admin_key_sha256 in its config file")
    raise ServerSaysNo(f"{problem.detail} ({problem.code})")


def _tenant(name: str, *further: str) -> str:
    return "/".join(["/tenants", *(quote(part, safe="") for part in (name, *further))])
