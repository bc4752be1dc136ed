"""The connection to the cluster: a client on an event loop of its own, for callers in threads.

Of the official client it uses the connection, its reconnects and its subscriptions. What is sent
is written, and answers are taken, below its messages: those cost headers that are parsed one by one
and a turn of a queue each, with which 1,000 events took nine times as long to read.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import msgspec
import nats.errors
import uvloop
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.connecting import CarefulClient, Troubles, connect
from ebus.backends.jetstream.faults import NOT_ENABLED, ApiError, Denied, Lost, is_passing
from ebus.backends.jetstream.moving import Kind, Moving
from ebus.backends.jetstream.trouble import Denial, denial_in, trouble_of
from ebus.core.errors import EbusError, StoreClosed, StoreUnavailable, StoreUnreachable
from ebus.core.limits import MIB

logger = logging.getLogger("ebus.engine")

T = TypeVar("T")

__all__ = ["MAX_TRY_S", "Answer", "Link", "Listening", "Outgoing", "pauses"]

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

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Between tries; the last one again and again."""


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to be published. `headers` are as they go over the wire, each with a line break."""

    subject: str
    payload: bytes
    headers: bytes = b""

    def command(self, reply: bytes = b"") -> bytes:
        """What publishes it, in NATS's protocol."""
        subject, payload = self.subject.encode(), self.payload
        if not self.headers:
            return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
        size = len(self.headers) + _HEADER_FRAME_BYTES
        total = size + len(payload)
        return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
            subject,
            reply,
            size,
            total,
            self.headers,
            payload,
        )


_HEADER_FRAME_BYTES = len(b"NATS/1.0\r\n\r\n")


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came back: the headers as they are on the wire, and the payload."""

    headers: bytes | None
    data: bytes

    @property
    def is_status(self) -> bool:
        """Whether it says that something is at its end, and holds nothing itself."""
        return self.headers is not None and self.headers.startswith(b"NATS/1.0 ")

    @property
    def has_no_responders(self) -> bool:
        """Whether nobody was there who could have answered."""
        return self.headers is not None and self.headers.startswith(b"NATS/1.0 503")


class _Waiter:
    """Who waits for answers to one request."""

    __slots__ = ("_future", "_has_many", "_timer", "answers", "asked", "loop", "patience_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: Sequence[Outgoing],
        has_many: bool,
        patience_s: float,
    ) -> None:
        self.loop = loop
        self.asked = asked
        self.answers: list[Answer] = []
        self.patience_s = patience_s
        self._has_many = has_many
        self._future: asyncio.Future[list[Answer]] = loop.create_future()
        self._timer = loop.call_later(patience_s, self._out_of_patience, -1)

    def feed(self, answer: Answer) -> None:
        if self._future.done():
            return  # while one leader takes over from another one, both may answer
        self.answers.append(answer)
        if not self._has_many or answer.is_status:
            self._timer.cancel()
            self._future.set_result(self.answers)

    def _out_of_patience(self, seen: int) -> None:
        # Many answers may take their time, as long as they keep coming.
        if seen < 0 < len(self.answers) or 0 <= seen < len(self.answers):
            self._timer = self.loop.call_later(
                self.patience_s, self._out_of_patience, len(self.answers)
            )
        else:
            self.fail(Lost("no answer in time"))

    def fail(self, error: Exception) -> None:
        self._timer.cancel()
        if not self._future.done():
            self._future.set_exception(error)

    def finish(self) -> None:
        self._timer.cancel()
        if not self._future.done():
            self._future.set_result(self.answers)

    async def wait(self) -> list[Answer]:
        return await self._future


class _Gathering(_Waiter):
    """Who waits for what all servers answer, as long as there is time."""

    __slots__ = ("_is_all",)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: Outgoing,
        is_all: Callable[[Sequence[Answer]], bool],
        within_s: float,
    ) -> None:
        super().__init__(loop, [asked], True, within_s)
        self._is_all = is_all

    def feed(self, answer: Answer) -> None:
        self.answers.append(answer)
        if answer.is_status or self._is_all(self.answers):
            self.finish()

    def _out_of_patience(self, seen: int) -> None:
        self.finish()


class _Client(CarefulClient):
    """The official client, but for what comes in to one inbox."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(options)
        self._own_loop = loop
        self._inbox = b""
        self._inbox_sid = -1
        self._waiting: dict[bytes, _Waiter] = {}
        self._numbers = count(1)
        self._inbox_denied: str | None = None

    async def open_inbox(self) -> None:
        inbox = self.new_inbox()
        subscription = await self.subscribe(f"{inbox}.*", cb=_ignore)
        self._inbox, self._inbox_sid = inbox.encode() + b".", subscription._id
        await self.flush(MAX_TRY_S)  # type: ignore[arg-type]  # a refusal comes before that

    async def _process_connect_init(self) -> None:
        self._inbox_denied = None
        await super()._process_connect_init()

    @property
    def cluster(self) -> str | None:
        return self._server_info.get("cluster")

    def deny(self, denial: Denial) -> str:
        """The servers have not allowed this: who asked for it need not wait. Returns the words."""
        waiting = list(self._waiting.values())
        asked = {it.subject.lower(): it.subject for waiter in waiting for it in waiter.asked}
        told = denial.told(self.options_of_ebus, asked.get(denial.subject, denial.subject))
        if not denial.is_publish and denial.subject.startswith("_inbox."):
            self._inbox_denied = told
        for waiter in waiting:
            if self._inbox_denied or denial.subject in {it.subject.lower() for it in waiter.asked}:
                waiter.fail(self._denied(told))
        return told

    def _denied(self, told: str) -> Denied:
        return Denied(f"{self.options_of_ebus.named()}: {told}")

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        if sid != self._inbox_sid:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        waiter = self._waiting.get(subject[len(self._inbox) :])
        if waiter is not None:
            waiter.feed(Answer(headers, data))

    async def ask(
        self, messages: Sequence[Outgoing], *, has_many: bool, patience_s: float
    ) -> list[Answer]:
        """Publish all of these, one after the other, and wait for the answer to the last."""
        return await self._answers(_Waiter(self._own_loop, messages, has_many, patience_s))

    async def gather(
        self, asked: Outgoing, is_all: Callable[[Sequence[Answer]], bool], within_s: float
    ) -> list[Answer]:
        """What all servers answer to a question to them all: those that do so in time."""
        return await self._answers(_Gathering(self._own_loop, asked, is_all, within_s))

    async def _answers(self, waiter: _Waiter) -> list[Answer]:
        number = b"%d" % next(self._numbers)
        self._waiting[number] = waiter
        try:
            if not self.is_connected:
                raise Lost("not connected")
            if self._inbox_denied:
                raise self._denied(self._inbox_denied)
            commands = [one.command() for one in waiter.asked[:-1]]
            commands.append(waiter.asked[-1].command(self._inbox + number))
            await self.send(b"".join(commands))
            return await waiter.wait()
        except (nats.errors.Error, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from error
        finally:
            waiter.fail(Lost("given up"))
            waiter._future.exception()
            del self._waiting[number]

    async def send(self, commands: bytes) -> None:
        """Write these; they are under way when this returns."""
        await self._send_command(commands)
        await self._flush_pending()

    def lose_all(self) -> None:
        """The connection has broken: what was asked is not answered any more."""
        for waiter in list(self._waiting.values()):
            waiter.fail(Lost("the connection broke"))


class Listening:
    """A subscription that outlives the client with which it was made."""

    def __init__(self, subject: str, heard: Callable[[bytes], None]) -> None:
        self._subject = subject
        self._heard = heard
        self._subscription: Subscription | None = None

    async def begin(self, client: Client) -> None:
        self._subscription = await client.subscribe(self._subject, cb=self._on_message)

    async def end(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _on_message(self, message: Any) -> None:
        self._heard(message.data)


async def _ignore(message: Any) -> None:
    """What comes too late."""


class Link:
    """A connection that comes back by itself. It is made when it is first needed.

    Every method may be called from any thread. They raise `StoreUnavailable` when the cluster
    did not answer in `options.timeout_s`, and `StoreClosed` after `close`.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: _Client | None = None
        self._attempt: asyncio.Task[_Client | None] | None = None
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
        self._moving = Moving()
        self._closed = False
        self._own_id = ""
        self._ids = count(1)
        self.reconnects = 0
        """How often the connection came back: what was known before may be old."""
        self.on_reconnect: list[Callable[[], None]] = []

    # From threads.

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
        return self.run(self._ask_until(request, has_many=has_many, patience_s=patience_s))

    def ask_all(self, requests: Sequence[tuple[str, bytes]]) -> list[Answer]:
        """The first answers to many such requests, which are all under way at once."""

        async def all_of_them() -> list[list[Answer]]:
            asked = [self._ask_until(Outgoing(*it), has_many=False) for it in requests]
            return await asyncio.gather(*asked)

        return [answers[0] for answers in self.run(all_of_them())]

    def publish(
        self, messages: Sequence[Outgoing], *, patience_s: float, news: Outgoing | None = None
    ) -> Answer:
        """Publish these in order, and return the answer to the last. One try: raises `Lost`.

        `news` is published behind an answer that is no error.
        """

        async def once() -> Answer:
            [answer] = await self._store(messages, patience_s)
            client = self._client
            if news and client and not answer.is_status and b'"error"' not in answer.data[:64]:
                with suppress(nats.errors.Error, OSError):  # it is stored, whoever hears of it
                    await client.send(news.command())
            return answer

        return self.run(once())

    def agree(self, *, agrees: bool) -> None:
        """Say whether who has answered knew of what is known to be stored."""
        if agrees:
            self._moving.succeeded("agree")
        else:
            self.spawn(self._failed("agree"))

    def gather(
        self, subject: str, is_all: Callable[[Sequence[Answer]], bool], *, within_s: float
    ) -> list[Answer]:
        """What all servers answer to a question to them all, in so much time.

        That is over once `is_all` of what has come.
        """

        async def gather() -> list[Answer]:
            client = await self._connected(self.options.timeout_s)
            try:
                return await client.gather(Outgoing(subject, b""), is_all, within_s)
            except Lost as lost:
                raise self._unavailable(str(lost)) from None

        return self.run(gather())

    def new_id(self) -> str:
        """A text that nobody else has. A system call for each would take as long as the rest."""
        return f"{self._own_id}{next(self._ids)}"

    def tell(self, news: Outgoing) -> None:
        """Publish, whether anybody listens or not; returns at once and raises nothing."""

        async def tell() -> None:
            client = self._client
            if client is not None and client.is_connected:
                await client.send(news.command())

        self.spawn(tell())

    def check(self) -> None:
        """Return when there is a connection to a server that is new enough, and what was to be
        stored of late was stored: one that is cut off says for seconds that all is well."""
        self.run(self._connected(self.options.timeout_s))
        if self._moving.stores_nothing:
            raise self._unavailable("nothing can be stored")

    @property
    def connected_to(self) -> str | None:
        """The address of the server that there is a connection to."""
        at = None if self._client is None else self._client.connected_url
        return None if at is None else at.netloc.rpartition("@")[2]

    @property
    def max_payload(self) -> int:
        """The size of a message, headers included, that is taken of us; known once connected."""
        return MIB if self._client is None else self._client.max_payload

    @property
    def cluster(self) -> str | None:
        """The name of the cluster that we are connected to; None for a server that is alone."""
        return None if self._client is None else self._client.cluster

    @property
    def server_version(self) -> str:
        return str(self.run(self._connected(self.options.timeout_s)).connected_server_version)

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
        asyncio.run_coroutine_threadsafe(self._disconnect(), loop).result()
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

    # On the loop.

    async def ask_here(
        self, messages: Sequence[Outgoing], *, patience_s: float = MAX_TRY_S
    ) -> Answer:
        """Like `publish`, for who is on the link's loop."""
        return (await self._store(messages, patience_s))[0]

    async def _store(self, messages: Sequence[Outgoing], patience_s: float) -> list[Answer]:
        client = await self._connected(patience_s)
        try:
            answers = await client.ask(messages, has_many=False, patience_s=patience_s)
        except Lost:
            await self._failed("store")
            raise
        if _passing(answers[0]) is not None:
            await self._failed("store")
        elif b'"error"' not in answers[0].data[:64]:
            self._moving.succeeded("store")
        return answers

    async def _failed(self, kind: Kind) -> None:
        """Go to another server when this one has been of no use for too long."""
        client = self._client
        if self._moving.failed(kind) and client is not None and client.is_connected:
            at = client.connected_url
            logger.warning(
                "%s: the server does not get through to the others", self.options.named()
            )
            self._moving.leave("" if at is None else at.netloc)
            await client.force_reconnect()

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Listening:
        """Have `heard` called with what is published there, once the server knows of it."""
        listening = Listening(subject, heard)
        client = await self._connected(self.options.timeout_s)
        try:
            await listening.begin(client)
            await client.flush(timeout=MAX_TRY_S)  # type: ignore[arg-type]
        except (nats.errors.Error, OSError) as error:
            raise self._unavailable(str(error) or "cannot subscribe") from None
        self._listening.append(listening)
        return listening

    async def unsubscribe(self, listening: Listening) -> None:
        self._listening.remove(listening)
        try:
            await listening.end()
        except (nats.errors.Error, OSError) as error:
            logger.debug("could not unsubscribe: %s", error)

    async def _ask_until(
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
                client = await self._connected(left_s)
                answers = await client.ask(
                    [request], has_many=has_many, patience_s=min(try_s, left_s)
                )
                passing = None if has_many else _passing(answers[-1])
                if passing is None:
                    if not has_many:
                        self._moving.succeeded("ask")
                    return answers
                trouble, is_refused = passing
            except Lost as lost:
                trouble = trouble or str(lost)
            if has_many:  # that any replica answers: another one the next time
                try_s = min(2 * try_s, MAX_TRY_S)
            else:
                await self._failed("ask")
            await asyncio.sleep(min(pause_s, max(0.0, until_s - time.monotonic())))
        if is_refused:
            raise self._unavailable(trouble)
        raise self._unreachable(trouble or "no answer")

    def _unreachable(self, trouble: str) -> StoreUnreachable:
        """What passes without anybody doing anything."""
        return StoreUnreachable(f"{self.options.named()}: {trouble}")

    def _unavailable(self, trouble: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.options.named()}: {trouble}")

    async def _connected(self, patience_s: float) -> _Client:
        """The client, connected. Raises `StoreUnavailable`."""
        client = self._client
        if client is not None and client.is_connected:
            return client
        until_s = time.monotonic() + patience_s
        if self._lost_at_s + self.options.timeout_s < time.monotonic():
            until_s = 0.0  # it has been away for so long that nobody is to wait for it
        if client is None or client.is_closed:
            await asyncio.wait({self._attempting()}, timeout=patience_s)
            client = self._client
            if client is None or client.is_closed:
                trouble = f"cannot connect: {self._trouble or 'no answer in time'}"
                raise (
                    self._unavailable(trouble) if self._is_hopeless else self._unreachable(trouble)
                )
        while not client.is_connected:
            if time.monotonic() >= until_s:
                raise self._unreachable(self._trouble or "not connected")
            await asyncio.sleep(0.02)
        return client

    def _attempting(self) -> asyncio.Task[_Client | None]:
        """One for all who wait; it goes on without them."""
        attempt = self._attempt
        if attempt is not None:
            if not attempt.done():
                return attempt
            if attempt.result() is None and time.monotonic() < self._attempted_s + REFUSED_PAUSE_S:
                return attempt
        self._attempt = asyncio.get_running_loop().create_task(self._connect())
        return self._attempt

    async def _connect(self) -> _Client | None:
        """Sets `_client`, or `_trouble` where it is hopeless."""
        troubles = Troubles(self.options)
        self._trouble, self._is_hopeless = "", False
        try:
            while not troubles.is_hopeless.is_set():
                client = await self._try_to_connect(troubles)
                if client is not None:
                    before, self._client = self._client, client
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

    async def _try_to_connect(self, troubles: Troubles) -> _Client | None:
        client = _Client(self.options, asyncio.get_running_loop())

        async def on_error(error: Exception) -> None:
            if self._client is client or denial_in(error):
                self._hear_of(client, error)
            else:
                troubles.note(client.tried, error)
                self._trouble = troubles.told()

        async def on_close() -> None:
            if self._client is client and not self._closed:
                self.spawn(self._come_back())

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
                reconnect_to_server_handler=self._moving.next_server,
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

    def _hear_of(self, client: _Client, error: Exception) -> None:
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
        if self._client is not None:
            self._client.lose_all()
            self._lost_at_s = min(self._lost_at_s, time.monotonic())
            if not self._closed:
                logger.warning("%s: the connection broke", self.options.named())

    async def _on_reconnect(self) -> None:
        self.reconnects += 1
        self._moving.arrived()
        self._lost_at_s = math.inf
        logger.warning("%s: connected again", self.options.named())
        for heard in list(self.on_reconnect):
            heard()

    async def _disconnect(self) -> None:
        if self._client is not None:
            self._client.lose_all()
            await _close(self._client)
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


def pauses() -> Iterator[float]:
    """How long to wait before each further try."""
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]


async def _close(client: Client) -> None:
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
