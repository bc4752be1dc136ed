"""One connection is made: every server is tried, until one lets us in or none of them ever will."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import ParseResult

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport

from ebus.backends.jetstream.address import Options, secret_file
from ebus.backends.jetstream.tls import tls_context
from ebus.backends.jetstream.trouble import Trouble, refuse_unfit, trouble_of
from ebus.core.errors import StoreRefused

MAX_TOLD = 3
"""Servers of which is said what is wrong with them."""


CLOSE_S = 1.0
"""How long a connection may take to say that it is closed."""


class CarefulTransport(TcpTransport):
    """The official client's streams, which end in any case and without a warning."""

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        assert self._io_writer is not None
        # Nobody tells them that they are encrypted, and then asyncio warns of how each ends.
        self._io_writer._protocol._over_ssl = True  # type: ignore[attr-defined]

    async def wait_closed(self) -> None:
        """With TLS it is not always told, where both sides go at the same moment. Who closes, or
        connects anew, would wait for ever."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await super().wait_closed()  # type: ignore[no-untyped-call]
        except TimeoutError:
            assert self._io_writer is not None
            self._io_writer.transport.abort()

    def __bool__(self) -> bool:
        return True  # or else the client makes one of its own


class CarefulClient(Client):
    """The official client, but that it knows whom it tries, and leaves who is not fit alone."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._transport = CarefulTransport()  # type: ignore[no-untyped-call]
        self.options_of_ebus = options
        self.tried = ""
        """The server that was tried last."""

    async def _connect_to_server(self, s: Srv) -> None:
        self.tried = s.uri.netloc
        if self._transport:  # of the last try, which would stay open for ever
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Without a last word: to write it fails where the other side has gone, and then neither
        would who listens be told, nor what listens be ended."""
        self._pending, self._pending_data_size = [], 0
        await super()._close(status, do_cbs)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            refuse_unfit(info, self.options_of_ebus)
            if self.options_of_ebus.tls:  # where a server leaves us the choice
                info["tls_required"] = True
        else:  # it is told of the account's own bounds once it knows whose we are
            self._max_payload = int(info.get("max_payload", self._max_payload))
        await super()._process_info(info, initial_connection=initial_connection)


class Troubles:
    """What is wrong with which server, while a connection is made."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._found: dict[str, Trouble] = {}
        self.is_hopeless = asyncio.Event()
        """Set when every server of the address has something that only a person can mend."""

    def note(self, server: str, error: BaseException) -> None:
        trouble, before = trouble_of(error, self._options), self._found.get(server)
        if before is None or trouble.is_lasting or not before.is_lasting:
            self._found[server] = trouble
        found = [self._found.get(it) for it in self._options.servers]
        if all(it is not None and it.is_lasting for it in found):
            self.is_hopeless.set()

    def told(self) -> str:
        """Each one once, with the servers it is about where there are several."""
        if not self._found:
            return "no answer in time"
        by_text: dict[str, list[str]] = {}
        for server, trouble in self._found.items():
            by_text.setdefault(trouble.text, []).append(server)
        if len(by_text) == 1:
            return next(iter(by_text))
        told = [f"{', '.join(servers)}: {text}" for text, servers in by_text.items()]
        return "; ".join(told[:MAX_TOLD])


async def connect(client: CarefulClient, troubles: Troubles, **settings: Any) -> bool:
    """Connect, however long that takes; False when it is hopeless.

    Raises `StoreRefused` and `StoreUnavailable` for files of the options that cannot be used.
    """
    options = client.options_of_ebus
    secure: dict[str, Any] = {}
    if options.tls:
        secure = {"tls": tls_context(options), "tls_handshake_first": options.tls_first}
    connecting = asyncio.ensure_future(
        client.connect(
            servers=[f"{'tls' if options.tls else 'nats'}://{it}" for it in options.servers],
            name="ebus",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            **credentials(options),
            **secure,
            **settings,
        )
    )
    hopeless = asyncio.ensure_future(troubles.is_hopeless.wait())
    try:
        await asyncio.wait({connecting, hopeless}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            return False
        await connecting
    except Exception as error:  # of what signs with the credentials too
        troubles.note(client.tried, error)
        return False
    finally:
        connecting.cancel()
        hopeless.cancel()
    return True


def credentials(options: Options) -> dict[str, Any]:
    """How to log in, as the client wants it. Reads the files that hold secrets."""
    login: dict[str, Any] = {}
    if options.credentials:
        _check_credentials(options.credentials)
        login["user_credentials"] = options.credentials
    elif options.user:
        login |= {"user": options.user, "password": options.secret() or ""}
    elif (secret := options.secret()) is not None:
        login["token"] = secret
    return login


def _check_credentials(path: str) -> None:
    """Refuse a file that cannot be one: the client would fail in ways of its own."""
    data = secret_file("credentials", path)
    parts = (b"-----BEGIN NATS USER JWT-----", b"-----BEGIN USER NKEY SEED-----")
    if not all(it in data for it in parts):
        raise StoreRefused(f"credentials: {path} is no NATS credentials file")
