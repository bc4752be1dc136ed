"""The connection to the cluster, for callers in threads: it is on an event loop of its own."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import nats.errors
import uvloop

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.client import Answer, Listening, Outgoing
from ebus.backends.jetstream.connection import MAX_TRY_S, Connection
from ebus.backends.jetstream.faults import Lost
from ebus.backends.jetstream.moving import AGREE
from ebus.core.errors import StoreClosed
from ebus.core.limits import MIB

T = TypeVar("T")


class Link:
    """A connection that comes back by itself. It is made when it is first needed.

    Every method may be called from any thread. They raise `StoreUnavailable` when the cluster
    did not answer in `options.timeout_s`, and `StoreClosed` after `close`.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._connection = Connection(options)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._own_id = ""
        self._ids = count(1)

    def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        has_many: bool = False,
        patience_s: float | None = None,
    ) -> list[Answer]:
        """The answers to a request that changes nothing, or may be carried out twice."""
        request = Outgoing(subject, payload)
        return self.run(self._connection.ask(request, has_many=has_many, patience_s=patience_s))

    def ask_all(self, requests: Sequence[tuple[str, bytes]]) -> list[Answer]:
        """The first answers to many such requests, which are all under way at once."""

        async def all_of_them() -> list[list[Answer]]:
            asked = [self._connection.ask(Outgoing(*it), has_many=False) for it in requests]
            return await asyncio.gather(*asked)

        return [answers[0] for answers in self.run(all_of_them())]

    def publish(
        self, messages: Sequence[Outgoing], *, patience_s: float, news: Outgoing | None = None
    ) -> Answer:
        """Publish these in order, and return the answer to the last. One try: raises `Lost`.

        `news` is published behind an answer that is no error.
        """

        async def once() -> Answer:
            [answer] = await self._connection.store(messages, patience_s)
            client = self._connection.client
            if news and client and not answer.is_status and b'"error"' not in answer.data[:64]:
                with suppress(nats.errors.Error, OSError):  # it is stored, whoever hears of it
                    await client.send(news.command())
            return answer

        return self.run(once())

    def agree(self, *, agrees: bool) -> None:
        """Say whether who has answered knew of what is known to be stored."""
        if agrees:
            self._connection.moving.succeeded(AGREE)
        else:
            self.spawn(self._connection.failed(AGREE))

    def gather(
        self, subject: str, is_all: Callable[[Sequence[Answer]], bool], *, within_s: float
    ) -> list[Answer]:
        """What all servers answer to a question to them all, in so much time.

        That is over once `is_all` of what has come.
        """

        async def gather() -> list[Answer]:
            client = await self._connection.connected(self.options.timeout_s)
            try:
                return await client.gather(Outgoing(subject, b""), is_all, within_s)
            except Lost as lost:
                raise self._connection.unavailable(str(lost)) from None

        return self.run(gather())

    def new_id(self) -> str:
        """A text that nobody else has. A system call for each would take as long as the rest."""
        return f"{self._own_id}{next(self._ids)}"

    def tell(self, news: Outgoing) -> None:
        """Publish, whether anybody listens or not; returns at once and raises nothing."""

        async def tell() -> None:
            client = self._connection.client
            if client is not None and client.is_connected:
                await client.send(news.command())

        self.spawn(tell())

    def check(self) -> None:
        """Return when there is a connection to a server that is new enough, and what was to be
        stored of late was stored: one that is cut off says for seconds that all is well."""
        self.run(self._connection.connected(self.options.timeout_s))
        if self._connection.moving.stores_nothing:
            raise self._connection.unavailable("nothing can be stored")

    @property
    def connected_to(self) -> str | None:
        """The address of the server that there is a connection to."""
        client = self._connection.client
        at = None if client is None else client.connected_url
        return None if at is None else at.netloc.rpartition("@")[2]

    @property
    def max_payload(self) -> int:
        """The size of a message, headers included, that is taken of us; known once connected."""
        client = self._connection.client
        return MIB if client is None else client.max_payload

    @property
    def cluster(self) -> str | None:
        """The name of the cluster that we are connected to; None for a server that is alone."""
        client = self._connection.client
        return None if client is None else client.cluster

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have this done on the link's loop; nobody waits for it."""
        try:
            loop = self._running_loop()
        except StoreClosed:
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, loop)

    def close(self) -> None:
        """Break the connection; what waits for an answer gets none. Twice is fine."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self._connection.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What this comes to on the link's loop."""
        try:
            loop = self._running_loop()
        except StoreClosed:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            if self._loop is None:
                # A loop that runs while the interpreter ends may bring the process down.
                atexit.register(self.close)
                self._own_id = secrets.token_hex(8) + "-"
                self._loop = uvloop.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="ebus-nats", daemon=True
                )
                self._thread.start()
            return self._loop

    # For who is on the link's loop.

    @property
    def on_reconnect(self) -> list[Callable[[], None]]:
        """Called when the connection has come back."""
        return self._connection.on_reconnect

    async def ask_here(
        self, messages: Sequence[Outgoing], *, patience_s: float = MAX_TRY_S
    ) -> Answer:
        """Like `publish`."""
        return (await self._connection.store(messages, patience_s))[0]

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Listening:
        return await self._connection.subscribe(subject, heard)

    async def unsubscribe(self, listening: Listening) -> None:
        await self._connection.unsubscribe(listening)
