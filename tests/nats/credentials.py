"""Accounts and users as NATS's operators make them: signed tokens, and a credentials file each."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]

_BOUNDS = "subs data payload imports exports conn leaf mem_storage disk_storage streams consumer"
_UNLIMITED = dict.fromkeys(_BOUNDS.split(), -1)


class Operator:
    """One operator, and the accounts that it has made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = _new_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._token = _signed(self._key, self._key, "operator", {})
        self._accounts: dict[str, str] = {}
        self.system = self.account("system", disk_storage=0, mem_storage=0)
        self._system = next(iter(self._accounts))

    def account(self, name: str, **limits: int) -> Account:
        key = _new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        claims = {"limits": {**_UNLIMITED, "wildcards": True, **limits}}
        self._accounts[_public(key)] = _signed(self._key, key, "account", claims)
        return Account(key, self._directory / f"{name}.creds")

    def config(self) -> str:
        """For a server, in the place of accounts."""
        preload = "\n".join(f"{public}: {token}" for public, token in self._accounts.items())
        return (
            f"accounts {{}}\noperator: {self._token}\nsystem_account: {self._system}\n"
            f"resolver: MEMORY\nresolver_preload {{\n{preload}\n}}"
        )


class Account:
    def __init__(self, key: Any, file: Path) -> None:
        self._key = key
        self.credentials = file
        """The file of a user of it."""
        self.user()

    def user(self, *, seconds: int | None = None) -> None:
        """Write the file anew, for a user whose time is up after so long."""
        key = _new_key(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        until = {} if seconds is None else {"exp": int(time.time()) + seconds}
        token = _signed(self._key, key, "user", limits, **until)
        self.credentials.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(key.seed).decode()}\n"
            "------END USER NKEY SEED------\n"
        )


def _new_key(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def _public(key: Any) -> str:
    return bytes(key.public_key).decode()


def _signed(by: Any, about: Any, kind: str, claims: dict[str, Any], **more: int) -> str:
    """A token in which one key says something of another."""
    said = {
        "jti": base64.b32encode(os.urandom(20)).decode(),
        "iat": int(time.time()),
        "iss": _public(by),
        "sub": _public(about),
        "name": kind,
        "nats": {"type": kind, "version": 2, **claims},
        **more,
    }
    parts = [_encoded({"typ": "JWT", "alg": "ed25519-nkey"}), _encoded(said)]
    return ".".join([*parts, _base64(by.sign(".".join(parts).encode()))])


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
