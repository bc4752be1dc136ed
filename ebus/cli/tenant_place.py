"""Which tenants a command is about: those of a server that runs, or of the registry itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from ebus.cli.failing import fail
from ebus.cli.tenant_direct import DirectTenants
from ebus.cli.tenant_remote import RemoteTenants
from ebus.config import load_config
from ebus.core.errors import EbusError
from ebus.tenants.claim import Claim, addresses_of_holders
from ebus.tenants.place import registry_path

ADMIN_KEY = "EBUS_ADMIN_KEY"

CLAIM_TIMEOUT_S = 10.0
LOOK_AGAIN_S = 0.05
LISTENS_TIMEOUT_S = 2.0

Tenants = DirectTenants | RemoteTenants


class Where(msgspec.Struct, frozen=True):
    """What the command line says of that, and of the form of the answer."""

    config_file: str | None
    url: str | None
    admin_key_file: str | None
    as_json: bool

    @contextmanager
    def tenants(self) -> Iterator[Tenants]:
        """Of the server, or the registry itself. What is refused ends the command."""
        claim: Claim | None = None
        tenants: Tenants | None = None
        try:
            if self.url is not None:
                tenants = RemoteTenants(self.url, _admin_key(self.admin_key_file, self.url))
            else:
                claim, tenants = _found(self.config_file, self.admin_key_file)
            yield tenants
        except EbusError as error:
            fail(str(error))
        finally:
            if tenants is not None:
                tenants.close()
            if claim is not None:
                claim.release()


def told_where(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where the tenants are, as the command's `where`."""

    @wraps(command)
    def run(
        config_file: str | None,
        url: str | None,
        admin_key_file: str | None,
        as_json: bool,
        **arguments: Any,
    ) -> None:
        command(where=Where(config_file, url, admin_key_file, as_json), **arguments)

    told = run
    for option in reversed(_OPTIONS):
        told = option(told)
    return told


_OPTIONS = (
    click.option(
        "--config",
        "-config",
        "config_file",
        metavar="FILE",
        help="The server's config file: a server that runs is asked, else it is done here.",
    ),
    click.option("--url", metavar="URL", help="The server, in the place of a config file."),
    click.option(
        "--admin-key-file",
        metavar="FILE",
        help=f"A file with the admin key of a server.  [default: {ADMIN_KEY}]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Answer with a JSON document."),
)


def _found(config_file: str | None, admin_key_file: str | None) -> tuple[Claim | None, Tenants]:
    if config_file is None:
        fail("where are the tenants? Say --config FILE, or --url URL of a server")
    config = load_config(config_file, os.environ)
    path = registry_path(config)
    if path is None:
        fail("the engine of this config has no place for tenants that are made at run time")
    until_s = time.monotonic() + CLAIM_TIMEOUT_S
    while True:
        claim = Claim.take(path.parent)
        if claim is not None:
            return claim, DirectTenants(config, path)
        addresses = addresses_of_holders(path.parent)
        if addresses:
            address = next(filter(_listens, addresses), addresses[0])
            return None, RemoteTenants(address, _admin_key(admin_key_file, address))
        if time.monotonic() > until_s:  # a command, or a server that has just begun to start
            fail(f"{path} is in use, and whoever has it does not say where to ask; try again")
        time.sleep(LOOK_AGAIN_S)


def _listens(url: str) -> bool:
    """Whether anybody does there: of servers by the same data one may have ended."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=LISTENS_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _admin_key(file: str | None, url: str) -> str:
    """Never from the command line, which every user of a machine can see."""
    if file is None:
        key = os.environ.get(ADMIN_KEY, "")
        if not key:
            fail(f"the server at {url} needs its admin key: set {ADMIN_KEY}, or --admin-key-file")
        return key
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the file of the admin key cannot be read: {getattr(error, 'strerror', 'no text')}")
