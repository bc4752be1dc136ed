"""The official client, used below its messages: what is sent is written, and answers are taken, as
they are on the wire.

Else each message costs headers that are parsed one by one and a turn of a queue, with which 1,000
events took nine times as long to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.connecting import CarefulClient
from ebus.backends.jetstream.faults import Denied, Lost
from ebus.backends.jetstream.trouble import Denial

MAX_FLUSH_S = 2.0
"""How long it may take until a server has heard what was sent to it."""


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


class InboxClient(CarefulClient):
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
        await self.flush(MAX_FLUSH_S)  # type: ignore[arg-type]  # a refusal comes before that

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

    async def begin(self, client: InboxClient) -> None:
        self._subscription = await client.subscribe(self._subject, cb=self._on_message)

    async def end(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _on_message(self, message: Any) -> None:
        self._heard(message.data)


async def _ignore(message: Any) -> None:
    """What comes too late."""
