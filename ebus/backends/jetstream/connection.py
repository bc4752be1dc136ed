"""The connection to the cluster, on an event loop: it comes back by itself, or goes elsewhere."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

import msgspec
import nats.errors

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.client import Answer, InboxClient, Listening, Outgoing
from ebus.backends.jetstream.connecting import Troubles, connect
from ebus.backends.jetstream.faults import NOT_ENABLED, ApiError, Lost, is_passing
from ebus.backends.jetstream.moving import STORE, Moving
from ebus.backends.jetstream.pacing import pauses
from ebus.backends.jetstream.trouble import Denial, denial_in, trouble_of
from ebus.core.errors import EbusError, StoreUnavailable, StoreUnreachable

logger = logging.getLogger("ebus.engine")

PING_S = 1
"""How often a silent server is asked whether it is there; after two such times it is not."""

MAX_TRY_S = 2.0
"""How long one try of a request may take, where there is time for more than one."""

RECONNECT_WAIT_S = 0.25
"""Between two tries of one server."""

COME_BACK_S = 2.0
"""Between two tries of all servers after they have sent us away, while nobody waits."""

REFUSED_PAUSE_S = 0.5
"""Who was refused by all servers asks them again after that time: they count who guesses."""

MAX_DENIALS = 100
"""What is not allowed, of which the log is told once."""

REPLICA_TRY_S = 0.15
"""How long the first try may take of what any replica can answer; each further one twice as long.
One that hangs is asked like the others until they notice, which takes them minutes."""

END_S = 5.0
"""How long what runs on the loop may take to end once it is cancelled."""

CANCEL_AGAIN_S = 0.1


class Connection:
    """Made when it is first needed. Use it from its loop only.

    Raises `StoreUnavailable` when the cluster did not answer in time.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.client: InboxClient | None = None
        """The one that is connected, or was; None before the first time."""
        self.moving = Moving()
        self.on_reconnect: list[Callable[[], None]] = []
        """Called when the connection has come back: what was known before may be old."""
        self._attempt: asyncio.Task[InboxClient | None] | None = None
        """The first connection, or one after servers have sent us away, as it is made."""
        self._attempted_s = 0.0
        self._is_hopeless = False
        """Whether only a person can mend what kept us from being connected."""
        self._trouble = ""
        """What the client was last told was wrong."""
        self._listening: list[Listening] = []
        self._denials: set[Denial] = set()
        self._lost_at_s = math.inf
        """Since when there is no connection where there was one."""
        self._coming_back: asyncio.Task[None] | None = None
        self._closed = False

    async def store(self, messages: Sequence[Outgoing], patience_s: float) -> list[Answer]:
        client = await self.connected(patience_s)
        try:
            answers = await client.ask(messages, has_many=False, patience_s=patience_s)
        except Lost:
            await self.failed(STORE)
            raise
        if _passing(answers[0]) is not None:
            await self.failed(STORE)
        elif b'"error"' not in answers[0].data[:64]:
            self.moving.succeeded(STORE)
        return answers

    async def failed(self, thing: str) -> None:
        """Go to another server when this one has been of no use for too long."""
        client = self.client
        if self.moving.failed(thing) and client is not None and client.is_connected:
            at = client.connected_url
            logger.warning(
                "%s: the server does not get through to the others", self.options.named()
            )
            self.moving.leave("" if at is None else at.netloc)
            await client.force_reconnect()

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Listening:
        """Have `heard` called with what is published there, once the server knows of it."""
        listening = Listening(subject, heard)
        client = await self.connected(self.options.timeout_s)
        try:
            await listening.begin(client)
            await client.flush(timeout=MAX_TRY_S)  # type: ignore[arg-type]
        except (nats.errors.Error, OSError) as error:
            raise self.unavailable(str(error) or "cannot subscribe") from None
        self._listening.append(listening)
        return listening

    async def unsubscribe(self, listening: Listening) -> None:
        self._listening.remove(listening)
        try:
            await listening.end()
        except (nats.errors.Error, OSError) as error:
            logger.debug("could not unsubscribe: %s", error)

    async def ask(
        self, request: Outgoing, *, has_many: bool, patience_s: float | None = None
    ) -> list[Answer]:
        until_s = time.monotonic() + (patience_s or self.options.timeout_s)
        trouble, is_refused = "", False
        try_s = REPLICA_TRY_S if has_many else MAX_TRY_S
        for pause_s in pauses():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                client = await self.connected(left_s)
                answers = await client.ask(
                    [request], has_many=has_many, patience_s=min(try_s, left_s)
                )
                passing = None if has_many else _passing(answers[-1])
                if passing is None:
                    if not has_many:
                        self.moving.succeeded(request.subject)
                    return answers
                trouble, is_refused = passing
            except Lost as lost:
                trouble = trouble or str(lost)
            if has_many:  # that any replica answers: another one the next time
                try_s = min(2 * try_s, MAX_TRY_S)
            else:
                await self.failed(request.subject)
            await asyncio.sleep(min(pause_s, max(0.0, until_s - time.monotonic())))
        if is_refused:
            raise self.unavailable(trouble)
        raise self.unreachable(trouble or "no answer")

    def unreachable(self, trouble: str) -> StoreUnreachable:
        """What passes without anybody doing anything."""
        return StoreUnreachable(f"{self.options.named()}: {trouble}")

    def unavailable(self, trouble: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.options.named()}: {trouble}")

    async def connected(self, patience_s: float) -> InboxClient:
        """The client, connected. Raises `StoreUnavailable`."""
        client = self.client
        if client is not None and client.is_connected:
            return client
        until_s = time.monotonic() + patience_s
        if self._lost_at_s + self.options.timeout_s < time.monotonic():
            until_s = 0.0  # it has been away for so long that nobody is to wait for it
        if client is None or client.is_closed:
            await asyncio.wait({self._attempting()}, timeout=patience_s)
            client = self.client
            if client is None or client.is_closed:
                trouble = f"cannot connect: {self._trouble or 'no answer in time'}"
                raise (
                    self.unavailable(trouble) if self._is_hopeless else self.unreachable(trouble)
                )
        while not client.is_connected:
            if time.monotonic() >= until_s:
                raise self.unreachable(self._trouble or "not connected")
            await asyncio.sleep(0.02)
        return client

    def _attempting(self) -> asyncio.Task[InboxClient | None]:
        """One for all who wait; it goes on without them."""
        attempt = self._attempt
        if attempt is not None:
            if not attempt.done():
                return attempt
            if attempt.result() is None and time.monotonic() < self._attempted_s + REFUSED_PAUSE_S:
                return attempt
        self._attempt = asyncio.get_running_loop().create_task(self._connect())
        return self._attempt

    async def _connect(self) -> InboxClient | None:
        """Sets `_client`, or `_trouble` where it is hopeless."""
        troubles = Troubles(self.options)
        self._trouble, self._is_hopeless = "", False
        try:
            while not troubles.is_hopeless.is_set():
                client = await self._try_to_connect(troubles)
                if client is not None:
                    before, self.client = self.client, client
                    self._lost_at_s = math.inf
                    if before is not None:
                        for one in list(self._listening):
                            await one.begin(client)
                        await self._on_reconnect()
                    return client
                self._trouble = troubles.told()
                await asyncio.sleep(RECONNECT_WAIT_S)
        except (EbusError, nats.errors.Error, OSError) as error:  # a file of the options, say
            self._trouble, self._is_hopeless = str(error), isinstance(error, EbusError)
        else:
            self._is_hopeless = True
        finally:
            self._attempted_s = time.monotonic()
        return None

    async def _try_to_connect(self, troubles: Troubles) -> InboxClient | None:
        client = InboxClient(self.options, asyncio.get_running_loop())

        async def on_error(error: Exception) -> None:
            if self.client is client or denial_in(error):
                self._hear_of(client, error)
            else:
                troubles.note(client.tried, error)
                self._trouble = troubles.told()

        async def on_close() -> None:
            if self.client is client and not self._closed:
                self._coming_back = asyncio.create_task(self._come_back())

        is_connected = False
        try:
            if await connect(
                client,
                troubles,
                error_cb=on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
                closed_cb=on_close,
                connect_timeout=min(MAX_TRY_S, self.options.timeout_s / 2),
                reconnect_time_wait=RECONNECT_WAIT_S,
                reconnect_to_server_handler=self.moving.next_server,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                pending_size=0,  # what is not sent now must not be sent once nobody waits for it
            ):
                await client.open_inbox()
                is_connected = True
        except (nats.errors.Error, OSError) as error:
            troubles.note(client.tried, error)
        finally:
            if not is_connected:
                await _close(client)
        return client if is_connected else None

    async def _come_back(self) -> None:
        """Servers have sent us away, which the client takes for the end: a user that is none any
        more, or whose time is up."""
        while True:
            if await asyncio.shield(self._attempting()) is not None:
                return
            await asyncio.sleep(COME_BACK_S)

    def _hear_of(self, client: InboxClient, error: Exception) -> None:
        denial = denial_in(error)
        if denial is None:
            self._trouble = trouble_of(error, self.options).text
            logger.debug("%s: %s", self.options.named(), self._trouble)
            return
        told = client.deny(denial)
        if denial not in self._denials and len(self._denials) < MAX_DENIALS:
            self._denials.add(denial)
            logger.warning("%s: %s", self.options.named(), told)

    async def _on_disconnect(self) -> None:
        if self.client is not None:
            self.client.lose_all()
            self._lost_at_s = min(self._lost_at_s, time.monotonic())
            if not self._closed:
                logger.warning("%s: the connection broke", self.options.named())

    async def _on_reconnect(self) -> None:
        self.moving.arrived()
        self._lost_at_s = math.inf
        logger.warning("%s: connected again", self.options.named())
        for heard in list(self.on_reconnect):
            heard()

    async def close(self) -> None:
        """Break it; what waits for an answer gets none."""
        self._closed = True
        if self.client is not None:
            self.client.lose_all()
            await _close(self.client)
        until_s = time.monotonic() + END_S
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            # One whose wait ends at this very moment does not notice that it is cancelled, and the
            # client would go on connecting for ever.
            for task in others:
                task.cancel()
            ended, _ = await asyncio.wait(others, timeout=CANCEL_AGAIN_S)
            await asyncio.gather(*ended, return_exceptions=True)
            if time.monotonic() > until_s:
                break


async def _close(client: InboxClient) -> None:
    try:
        await client.close()
    except Exception as error:
        logger.debug("while closing: %s", error)


class _Errored(msgspec.Struct):
    error: ApiError | None = None


_decode_error = msgspec.json.Decoder(_Errored).decode


def _passing(answer: Answer) -> tuple[str, bool] | None:
    """Why it is worth to ask again, and whether that is to no avail in the end; None when this is
    the answer."""
    if answer.has_no_responders:
        return "JetStream does not answer: it is not there, or not enabled for this account", True
    if answer.data[:1] == b"{" and b'"error"' in answer.data[:200]:
        error = _decode_error(answer.data).error
        if error is not None and is_passing(error):
            return error.description, error.err_code in NOT_ENABLED
    return None
