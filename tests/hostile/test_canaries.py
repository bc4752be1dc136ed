"""Alice knows names of bob's and tries everything: not a byte of his ever reaches her."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import pytest

from tests.hostile.attempts import METHODS, bodies, fields_with_his_key, naming_fields, paths
from tests.hostile.conftest import House
from tests.hostile.replies import Reply, check_log, check_reply, replies
from tests.hostile.talking import LAST, all_workers_answer, request, talk
from tests.hostile.tenants import Resident, let_out
from tests.live_server import LiveServer

THREADS = 8
RANDOM_REQUESTS = 2_000
CONVERSATIONS = 60
TURNS = 30

LONG_WAY = (b"Accept-Encoding: gzip", b"X-Way: long", b"X-Way: long")
"""Which also unpacks, where the server compresses."""

BOTH_WAYS = pytest.mark.parametrize("way", [(), LONG_WAY], ids=["short", "long"])


def asked(house: House, method: bytes, sent: bytes) -> Reply | None:
    """The one reply to a request of alice's, in which nothing of bob stands; None without one.

    Neither does it say back what she knows of him: what a server repeats, it might mean.
    """
    received = talk(house.server, sent + LAST)
    found = replies(received, method.decode())
    assert len(found) <= 2, (sent, received)
    for reply in found:
        check_reply(reply)
        known = named_before(sent, house.bob)
        assert not let_out(house.bob, reply.raw, reply.body, asked=known), (sent, reply)
    if method == b"TRACE" and found:
        assert b"X-API-Key" not in found[0].raw
    return found[0] if found else None


def all_of(run: Callable[[bytes], object], attempts: Iterator[bytes]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(run, attempts):
            pass


@pytest.fixture(autouse=True)
def bob_notices_nothing(lived_in: House) -> Iterator[None]:
    """What bob has stored, and what he has not, stays as it is."""
    before = lived_in.bob.observation(lived_in.server)
    yield
    assert lived_in.bob.observation(lived_in.server) == before
    all_workers_answer(lived_in.server)
    check_log(lived_in.server.log)


@BOTH_WAYS
@pytest.mark.parametrize("method", METHODS)
def test_no_path_leads_to_bob(lived_in: House, method: bytes, way: tuple[bytes, ...]) -> None:
    alice, bob = lived_in.alice, lived_in.bob
    body = bodies(bob)[0] if method in {b"POST", b"PUT", b"PATCH"} else None

    def run(path: bytes) -> None:
        asked(lived_in, method, request(alice, b"%b %b" % (method, path), *way, body=body))

    all_of(run, iter(paths(bob)))


@BOTH_WAYS
def test_no_header_and_no_body_names_another_tenant(
    lived_in: House, way: tuple[bytes, ...]
) -> None:
    """Whoever is named elsewhere, the key alone says who asks: alice gets what is hers."""
    alice, bob = lived_in.alice, lived_in.bob

    def read(field: bytes) -> None:
        events = asked(lived_in, b"GET", request(alice, b"GET /events?from=1&to=1", field, *way))
        assert events
        assert alice.data.encode() in events.body, field
        metrics = asked(lived_in, b"GET", request(alice, b"GET /metrics", field, *way))
        assert metrics
        assert alice.name.encode() in metrics.body, field

    all_of(read, iter(naming_fields(bob)))

    def write(body: bytes) -> None:
        for line in (b"POST /events", b"POST /events/batch", b"PUT /subscriptions/s/position"):
            for field in naming_fields(bob)[:10]:
                asked(lived_in, b"POST", request(alice, line, field, *way, body=body))

    all_of(write, iter(bodies(bob)))


@BOTH_WAYS
def test_a_key_opens_nothing_where_no_key_belongs(lived_in: House, way: tuple[bytes, ...]) -> None:
    bob = lived_in.bob

    def run(field: bytes) -> None:
        for path in (b"/events?from=1", b"/metrics", b"/subscriptions/s/position"):
            reply = asked(lived_in, b"GET", request(None, b"GET " + path, field, *way))
            assert reply
            assert reply.status == 401, (field, reply)

    all_of(run, iter(fields_with_his_key(bob)))
    key = bob.key.encode()
    for line in (
        b"GET /position?X-API-Key=" + key,
        b"GET /position?api_key=" + key,
        b"GET http://bob:%b@x/position" % key,
        b"GET /position#" + key,
    ):
        reply = asked(lived_in, b"GET", request(None, line, *way))
        assert reply
        assert reply.status == 401
    chunked = request(None, b"POST /events", b"Transfer-Encoding: chunked", *way)
    trailer = b'15\r\n{"type":"T","data":1}\r\n0\r\nX-API-Key: %b\r\n\r\n' % key
    reply = asked(lived_in, b"POST", chunked + trailer)
    assert reply
    assert reply.status == 401


@BOTH_WAYS
def test_a_key_of_bobs_beside_alices_does_not_let_her_in_to_him(
    lived_in: House, way: tuple[bytes, ...]
) -> None:
    """Alice's, or nobody's."""
    alice, bob = lived_in.alice, lived_in.bob
    for field in [
        *fields_with_his_key(bob),
        b"Authorization: Bearer " + bob.key.encode(),
        b"X-API-Key: " + bob.key.encode(),
    ]:
        reply = asked(lived_in, b"GET", request(alice, b"GET /events?from=1", field, *way))
        assert reply
        assert reply.status == 401 or alice.data.encode() in reply.body, (field, reply)


def named_before(sent: bytes, other: Resident) -> bytes:
    """What the other is called, where a list tells its owner what she has called her own.

    Among the attempts are subscriptions of hers under the names of his.
    """
    lists = b" /subscriptions" in sent.partition(b"\r\n")[0] or b" /streams" in sent
    return "\n".join(other.handles).encode() if lists else b""


def test_random_requests_of_alices_never_meet_bob_while_he_works(
    lived_in: House, torture: int | None
) -> None:
    alice, bob = lived_in.alice, lived_in.bob
    lines = [*paths(bob), *paths(alice)]
    fields = [*naming_fields(bob), *naming_fields(alice), *LONG_WAY, *fields_with_his_key(bob)]
    contents = [*bodies(bob), None, None]

    def run(seed: int) -> None:
        by = random.Random(seed)
        method = by.choice(METHODS)
        line = b"%b %b" % (method, by.choice(lines))
        chosen = by.sample(fields, k=by.randrange(4))  # two hosts, at times, are refused
        asked(lived_in, method, request(alice, line, *chosen, body=by.choice(contents)))

    with at_work(lived_in.server, bob), ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(run, range(torture or RANDOM_REQUESTS)):
            pass


@contextmanager
def at_work(server: LiveServer, tenant: Resident) -> Iterator[None]:
    """A tenant who reads all the time, on connections of his own, and makes mistakes."""
    done = Event()
    work = [
        request(tenant, b"GET /events?from=1", b"Accept-Encoding: zstd"),
        request(tenant, b"GET /events/stream?from=1&batch_size=1"),
        request(tenant, b"GET /subscriptions/%b/position" % tenant.subscription.encode()),
        request(tenant, b"POST /events", body=b'{"type":"%b\\n","data":1}' % tenant.type.encode()),
        request(tenant, b"GET /%b" % tenant.data.encode()),
        request(tenant, b"GET /metrics"),
    ]

    def toil() -> None:
        while not done.is_set():
            for reply in replies(talk(server, b"".join(work) + LAST)):
                check_reply(reply)

    with ThreadPoolExecutor(2) as threads:
        toils = [threads.submit(toil) for _ in range(2)]
        try:
            yield
        finally:
            done.set()
        for toil_ended in toils:
            toil_ended.result()


# One connection for both, as a proxy has it


def turns(tenant: Resident) -> list[tuple[bytes, int, bytes]]:
    """What a tenant asks: the request, the status of the reply, and what must stand in it."""
    data, name = tenant.data.encode(), tenant.name.encode()
    subscription = tenant.subscription.encode()
    unreadable = b'{"type":"T","data":"%b' % data
    return [
        (request(tenant, b"GET /events?from=1&to=2"), 200, data),
        (request(tenant, b"GET /events?from=1&to=9", *LONG_WAY), 200, data),
        (request(tenant, b"GET /events/stream?from=1&batch_size=3"), 200, data),
        (request(tenant, b"GET /events/stream?from=1&batch_size=7", *LONG_WAY), 200, data),
        (request(tenant, b"GET /metrics"), 200, name),
        (request(tenant, b"GET /streams"), 200, tenant.stream.encode()),
        (request(tenant, b"GET /events?stream_prefix=&last=1"), 200, tenant.id.encode()),
        (request(tenant, b"GET /events?from=1&limit=9", *LONG_WAY), 200, data),
        (request(tenant, b"GET /subscriptions"), 200, subscription),
        (request(tenant, b"GET /subscriptions/%b" % subscription), 200, subscription),
        (request(tenant, b"GET /tenants"), 200, name),
        (
            request(tenant, b"GET /subscriptions/%b/position" % subscription),
            200,
            b"%d" % tenant.checkpoint,
        ),
        (request(tenant, b"GET /position"), 200, b"position"),
        (request(tenant, b"GET /events?from=x"), 400, b"invalid_parameter"),
        (request(tenant, b"GET /" + data), 404, b"not_found"),
        (request(tenant, b"POST /events", body=unreadable), 400, b"invalid_json"),
        (request(tenant, b"POST /events/batch", *LONG_WAY, body=unreadable), 400, b"invalid_body"),
        (request(tenant, b"DELETE /events"), 405, b"method_not_allowed"),
    ]


def test_one_connection_for_both_gives_each_only_what_is_theirs(
    lived_in: House, torture: int | None
) -> None:
    """Pipelined, in turns, on many connections at once: the nth reply is to the nth request."""
    both = (lived_in.alice, lived_in.bob)
    asks = {tenant.name: turns(tenant) for tenant in both}

    def converse(seed: int) -> None:
        by = random.Random(seed)
        order = list(itertools.islice(itertools.cycle(both), by.randrange(2), TURNS))
        if by.random() < 0.5:
            by.shuffle(order)
        said = [by.choice(asks[tenant.name]) for tenant in order]
        received = talk(lived_in.server, *(sent for sent, _, _ in said), LAST)
        found = replies(received)
        assert len(found) == len(said) + 1
        for tenant, reply, (sent, status, mark) in zip(order, found, said, strict=False):
            other = both[1] if tenant is both[0] else both[0]
            assert reply.status == status, (seed, sent, reply)
            assert mark in reply.body, (seed, sent, reply)
            known = named_before(sent, other)
            assert not let_out(other, reply.raw, reply.body, asked=known), (seed, sent, reply)
            check_reply(reply)

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(converse, range(torture or CONVERSATIONS)):
            pass


def test_a_key_does_not_stay_with_the_connection(lived_in: House) -> None:
    """Who comes after bob on his connection, without a key or with a wrong one, is nobody."""
    bob = lived_in.bob
    for way in ((), LONG_WAY):
        for nobody in (
            request(None, b"GET /events?from=1", *way),
            request(None, b"GET /events?from=1", b"X-API-Key: wrong", *way),
            request(None, b"GET /events?from=1", b"X-API-Key:", *way),
        ):
            sent = request(bob, b"GET /events?from=1&to=1", *way) + nobody + LAST
            first, second, _ = replies(talk(lived_in.server, sent))
            assert (first.status, second.status) == (200, 401)
            assert not let_out(bob, second.raw, second.body)
