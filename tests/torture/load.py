"""Clients of a real server that know what they sent and what was answered, whatever happens to it.

Every event tells whose it is: its client, the number of the request and its place in that. So
whoever reads them all can tell what is missing, what is there twice and what nobody sent.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

TIMEOUT_S = 60.0

KIB = 1024

Connection = http.client.HTTPConnection


class Request(msgspec.Struct):
    """What a client has asked for once: to append these events, or to save a checkpoint."""

    number: int
    data: list[bytes]
    """Of each event; none for a checkpoint."""
    is_batch: bool = False
    first_position: int | None = None
    """Where the events are, once that was answered or seen."""


class _Identity(msgspec.Struct, frozen=True):
    """The data of an event."""

    client: str
    number: int
    index: int
    of: int
    padding: str


class Event(msgspec.Struct, frozen=True):
    """As it is read."""

    position: int
    type: str
    data: msgspec.Raw
    timestamp: str


class _Position(msgspec.Struct, frozen=True):
    """The answer to an append, and to a question for a position."""

    position: int


class _Saved(msgspec.Struct, frozen=True):
    saved: int
    first_position: int
    last_position: int


class Refusal(msgspec.Struct, frozen=True):
    status: int
    code: str


_decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_identity = msgspec.json.Decoder(_Identity).decode
_decode_position = msgspec.json.Decoder(_Position).decode
_decode_saved = msgspec.json.Decoder(_Saved).decode
_decode_refusal = msgspec.json.Decoder(Refusal).decode


def key_of(tenant: str) -> str:
    return f"key-of-{tenant}-{'x' * 32}"


def tenant_config(tenants: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": tenant, "api_key": key_of(tenant)} for tenant in tenants]


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    connection = Connection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.connect()
        yield connection
    finally:
        connection.close()


def ask(
    connection: Connection, tenant: str, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body, {"X-API-Key": key_of(tenant)})
    answer = connection.getresponse()
    return answer.status, answer.read()


class Client:
    """One client of one tenant, which asks for one thing after the other.

    Its own checkpoint is called like itself. `refusals` are the answers that refused something,
    `failures` what must never happen; of what is in `unanswered` the client knows nothing.
    """

    def __init__(self, tenant: str, name: str, *, mean_bytes: int = 1_000) -> None:
        self.tenant = tenant
        self.name = name
        self.acknowledged: dict[int, Request] = {}
        self.unanswered: dict[int, Request] = {}
        self.refusals: list[Refusal] = []
        self.failures: list[str] = []
        self.checkpoint = 0
        """The number of the request that last saved it, as far as that was answered."""
        self.unanswered_checkpoints: list[int] = []
        """Later saves."""
        self._rng = random.Random(name)
        self._mean_bytes = mean_bytes
        self._number = 0
        self._stored_positions = 0

    def work(self, port: int, stop: threading.Event, *, most: int | None = None) -> None:
        """Ask until told to stop, or so often, over one connection after the other."""
        last = None if most is None else self._number + most
        while not stop.is_set() and self._number != last and not self.failures:
            try:
                with connected(port) as connection:
                    # With several workers each connection is one worker's.
                    for _ in range(self._rng.randint(1, 60)):
                        if stop.is_set() or self._number == last or self.failures:
                            break
                        self.ask_for_something(connection)
            except TimeoutError:
                self.failures.append(f"no answer within {TIMEOUT_S} s")
            except (OSError, http.client.HTTPException):
                stop.wait(0.01)  # it has died, or is about to stop

    def ask_for_something(self, connection: Connection) -> None:
        kind = self._rng.random()
        if kind < 0.05:
            self._look_back(connection)
        elif kind < 0.15:
            self.save_checkpoint(connection)
        elif kind < 0.8:
            self.append(connection, 1)
        else:
            self.append(connection, self._rng.choice([1, 2, 10, 50, 150]), is_batch=True)

    def append(self, connection: Connection, events: int, *, is_batch: bool = False) -> bool:
        """Whether it was acknowledged."""
        request = self._next_request(events, is_batch=is_batch)
        sent = [
            b'{"type":"T","data":%b,"timestamp":"2024-01-01T00:00:00Z"}' % data
            for data in request.data
        ]
        body = b"[%b]" % b",".join(sent) if is_batch else sent[0]
        self.unanswered[request.number] = request
        path = "/events/batch" if is_batch else "/events"
        status, answer = ask(connection, self.tenant, "POST", path, body)
        del self.unanswered[request.number]
        if status != 200:
            self._take_refusal(status, answer)
            return False
        if is_batch:
            saved = _decode_saved(answer)
            request.first_position = saved.first_position
            last_position = saved.first_position + events - 1
            if (saved.saved, saved.last_position) != (events, last_position):
                self.failures.append(f"{events} events were answered with {answer!r}")
        else:
            request.first_position = _decode_position(answer).position
        self.acknowledged[request.number] = request
        return True

    def save_checkpoint(self, connection: Connection) -> bool:
        """Whether it was acknowledged."""
        request = self._next_request(0)
        self.unanswered_checkpoints.append(request.number)
        path = f"/subscriptions/{self.name}/position"
        body = b'{"position":%d}' % request.number
        status, answer = ask(connection, self.tenant, "POST", path, body)
        if status != 204:
            self.unanswered_checkpoints.pop()
            self._take_refusal(status, answer)
            return False
        self.checkpoint = request.number
        self.unanswered_checkpoints.clear()
        return True

    def _look_back(self, connection: Connection) -> None:
        """What was acknowledged is to be seen at once, by whichever worker."""
        if not self.acknowledged:
            return
        request = self.acknowledged[max(self.acknowledged)]
        assert request.first_position is not None
        last = request.first_position + len(request.data) - 1
        status, answer = ask(connection, self.tenant, "GET", "/position")
        if status != 200:
            self._take_refusal(status, answer)
            return
        if _decode_position(answer).position < last:
            self.failures.append(f"position {last} was acknowledged, the head is {answer!r}")
        path = f"/events?from={request.first_position}&to={last}"
        status, answer = ask(connection, self.tenant, "GET", path)
        if status != 200:
            self._take_refusal(status, answer)
        elif [bytes(event.data) for event in _decode_events(answer)] != request.data:
            self.failures.append(f"request {request.number} was acknowledged and cannot be read")

    def _next_request(self, events: int, *, is_batch: bool = False) -> Request:
        self._number += 1
        data = []
        for index in range(events):
            padding = "x" * int(self._rng.expovariate(1 / self._mean_bytes))
            identity = _Identity(self.name, self._number, index, events, padding)
            data.append(msgspec.json.encode(identity))
        return Request(self._number, data, is_batch)

    def _take_refusal(self, status: int, answer: bytes) -> None:
        if status in {503, 507}:
            refusal = _decode_refusal(answer)
            self.refusals.append(refusal)
            if refusal.status != status:
                self.failures.append(f"{status} says {answer!r}")
        else:
            self.failures.append(f"{status} {answer[:500]!r}")

    # What is there afterwards

    def compare(self, found: dict[int, list[Event]], checkpoint: int) -> None:
        """Compare what is stored with what was sent; what was unanswered is known from now on.

        `found` are this client's events, those of one request after the other in the order of
        their positions. Raises AssertionError.
        """
        assert not self.failures, f"{self.name}: {self.failures}"
        for number, events in found.items():
            request = self.acknowledged.get(number) or self.unanswered.get(number)
            assert request is not None, f"{self.name}: {number} was refused, or never sent"
            first = events[0].position
            positions = [event.position for event in events]
            assert positions == list(range(first, first + len(events))), f"{self.name}: {number}"
            stored = [bytes(event.data) for event in events]
            assert stored == request.data, f"{self.name}: {number} is not what was sent"
            if number in self.acknowledged:
                answered = request.first_position
                assert first == answered, f"{self.name}: {number} is at {first}, not {answered}"
            request.first_position = first
        missing = self.acknowledged.keys() - found.keys()
        assert not missing, f"{self.name}: acknowledged and lost: {sorted(missing)}"
        assert list(found) == sorted(found), f"{self.name}: out of order: {list(found)}"
        self.acknowledged = {
            number: self.acknowledged.get(number) or self.unanswered[number] for number in found
        }
        self.unanswered.clear()  # the rest is not there, and must not come back
        possible = {self.checkpoint, *self.unanswered_checkpoints}
        assert checkpoint in possible, f"{self.name}: {checkpoint} is not in {possible}"
        self.checkpoint = checkpoint
        self.unanswered_checkpoints.clear()


class Load:
    """Clients that work, each in a thread of its own."""

    def __init__(self, port: int, clients: Sequence[Client], *, most: int | None = None) -> None:
        self._clients = clients
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=client.work, args=(port, self._stop), kwargs={"most": most}, daemon=True
            )
            for client in clients
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
            assert not thread.is_alive()

    @property
    def acknowledged(self) -> int:
        return sum(len(client.acknowledged) for client in self._clients)

    def wait_for(self, more: int) -> None:
        """Wait until so many further appends have been acknowledged."""
        wanted, deadline_s = self.acknowledged + more, time.monotonic() + TIMEOUT_S
        while self.acknowledged < wanted:
            self.check()
            assert time.monotonic() < deadline_s, f"{self.acknowledged}, not {wanted}"

    def check(self) -> None:
        """Let them work for a moment, and see that nothing has failed."""
        time.sleep(0.001)
        failures = [failure for client in self._clients for failure in client.failures]
        assert not failures, failures


def read_everything(connection: Connection, tenant: str) -> list[Event]:
    """Every event of a tenant. Their positions are contiguous and end with the head."""
    status, answer = ask(connection, tenant, "GET", "/events/stream?from=1")
    assert status == 200, answer[:500]
    events = _decode_events(answer)
    for position, event in enumerate(events, 1):
        assert event.position == position, f"{tenant}: {event.position} is at {position}"
    status, answer = ask(connection, tenant, "GET", "/position")
    assert (status, _decode_position(answer).position) == (200, len(events)), answer
    return events


def compare_all(port: int, clients: Sequence[Client]) -> None:
    """Compare what a server shows with what these clients, all there are, know.

    Raises AssertionError for anything that is lost, doubled, changed, in parts, out of order, or
    of nobody.
    """
    with connected(port) as connection:
        for tenant in {client.tenant: None for client in clients}:
            found: dict[str, dict[int, list[Event]]] = {
                client.name: {} for client in clients if client.tenant == tenant
            }
            for event in read_everything(connection, tenant):
                identity = _decode_identity(event.data)
                assert identity.client in found, f"{tenant} has an event of {identity.client}"
                requests = found[identity.client]
                requests.setdefault(identity.number, []).append(event)
            for client in clients:
                if client.tenant == tenant:
                    path = f"/subscriptions/{client.name}/position"
                    status, answer = ask(connection, tenant, "GET", path)
                    assert status == 200, answer
                    client.compare(found[client.name], _decode_position(answer).position)
