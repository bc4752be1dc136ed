"""Bytes that no client library sends: what is no request is refused, and nothing is smuggled."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.hostile.conftest import House
from tests.hostile.mutations import hostile_stream
from tests.hostile.replies import Reply, check_log, check_reply, replies
from tests.hostile.shapes import CHUNKED, CHUNKS, REFUSED, SERVED, TOO_LARGE, get, post
from tests.hostile.talking import LAST, all_workers_answer, cut, talk, talk_in_turns
from tests.hostile.tenants import let_out

STREAMS = 4_000
THREADS = 32
"""Most of the time a stream waits for the end of the server's patience."""

SMUGGLED = post(b"Content-Length: 28", body=b'{"type":"Smuggled","data":1}')


def with_key(house: House, stream: bytes) -> bytes:
    return stream.replace(b"KEY", house.alice.key.encode())


def exchanged(house: House, stream: bytes, *, cut_by: random.Random | None = None) -> list[Reply]:
    """The replies to a stream of bytes, each as it should be."""
    stream = with_key(house, stream)
    if cut_by is None:
        found = replies(talk(house.server, stream))
    else:
        places = cut_by.sample(range(1, min(len(stream), 300)), k=3)
        found = replies(talk_in_turns(house.server, cut(stream, places)))
    for reply in found:
        check_reply(reply)
    return found


def statuses(found: list[Reply]) -> str:
    return " ".join(str(reply.status) for reply in found)


IN_PIECES = pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])


@IN_PIECES
@pytest.mark.parametrize("shape", REFUSED)
def test_what_two_could_read_in_two_ways_is_refused(
    lived_in: House, shape: str, in_pieces: bool
) -> None:
    """One 400, and nothing that follows is looked at."""
    before = lived_in.alice.observation(lived_in.server)
    cut_by = random.Random(shape) if in_pieces else None
    found = exchanged(lived_in, REFUSED[shape] + SMUGGLED + LAST, cut_by=cut_by)
    assert statuses(found) == "400"
    assert found[0].closes
    assert lived_in.alice.observation(lived_in.server) == before


@IN_PIECES
@pytest.mark.parametrize("shape", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused(lived_in: House, shape: str, in_pieces: bool) -> None:
    cut_by = random.Random(shape) if in_pieces else None
    found = exchanged(lived_in, TOO_LARGE[shape] + SMUGGLED + LAST, cut_by=cut_by)
    assert statuses(found) == "431"


@IN_PIECES
@pytest.mark.parametrize("shape", SERVED)
def test_what_is_unusual_is_answered_once(lived_in: House, shape: str, in_pieces: bool) -> None:
    stream, expected = SERVED[shape]
    cut_by = random.Random(shape) if in_pieces else None
    assert statuses(exchanged(lived_in, stream + LAST, cut_by=cut_by)) == expected


# Requests within requests


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


OUTER: dict[str, Callable[[bytes], bytes]] = {
    "an event": lambda body: post(length(body), body=body),
    "chunks": lambda body: post(CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    "a GET": lambda body: post(length(body), body=body, line=b"GET /position HTTP/1.1"),
    "no path": lambda body: post(length(body), body=body, line=b"POST /nowhere HTTP/1.1"),
    "no method": lambda body: post(length(body), body=body, line=b"DELETE /events HTTP/1.1"),
    "no need of a key": lambda body: post(length(body), body=body, line=b"GET /health HTTP/1.1"),
    "a wrong key": lambda body: post(length(body), body=body).replace(b"KEY", b"wrong"),
    "an upgrade": lambda body: post(
        b"Connection: Upgrade", b"Upgrade: h2c", length(body), body=body
    ),
    "text": lambda body: post(b"Content-Type: text/plain", length(body), body=body),
}


@IN_PIECES
@pytest.mark.parametrize("outer", OUTER)
def test_a_body_is_no_request_whatever_becomes_of_it(
    lived_in: House, outer: str, in_pieces: bool
) -> None:
    stream = OUTER[outer](with_key(lived_in, SMUGGLED))
    cut_by = random.Random(outer) if in_pieces else None
    found = exchanged(lived_in, stream + LAST, cut_by=cut_by)
    assert len(found) == (1 if outer == "an upgrade" else 2)
    with lived_in.alice.client(lived_in.server) as alice:
        assert "Smuggled" not in alice.get("/events/stream?from=1").text


# Several requests, and clients that stop sending


def test_pipelined_requests_are_answered_one_by_one(lived_in: House) -> None:
    some = [
        (get(), 200),
        (post(b"Content-Length: 21"), 200),
        (get(line=b"GET /nowhere HTTP/1.1"), 404),
        (post(CHUNKED, body=CHUNKS), 200),
        (get(line=b"GET /events/stream?from=1&batch_size=5 HTTP/1.1"), 200),
        (get(line=b"DELETE /events HTTP/1.1"), 405),
        (get(b"Accept-Encoding: gzip", line=b"GET /events?from=1&to=20 HTTP/1.1"), 200),
        (post(b"Content-Length: 1", body=b"{"), 400),
        (get().replace(b"KEY", b"wrong"), 401),
        (get(line=b"OPTIONS /events HTTP/1.1"), 204),
    ]
    for seed in range(10):
        order = random.Random(seed).choices(some, k=40)
        found = exchanged(lived_in, b"".join(request for request, _ in order) + LAST)
        assert [reply.status for reply in found] == [*(status for _, status in order), 200]


def test_more_than_a_connection_may_have_waiting_are_never_mixed_up(lived_in: House) -> None:
    stream = b"".join(get(b"X-A: %d" % n, b"Accept: x, y") for n in range(500))
    found = exchanged(lived_in, stream + LAST)
    assert {reply.status for reply in found} == {200}
    assert len(found) <= 501


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (get(), "200"),
        (get(b"Connection: keep-alive", b"Connection: keep-alive"), "200"),
        (post(CHUNKED, body=CHUNKS), "200"),
        (get(line=b"GET /events/stream?from=1&batch_size=1 HTTP/1.1"), "200"),
        (get() * 5, "200 200 200 200 200"),
        (post(b"Content-Length: 9223372036854775829"), "413"),
    ],
)
def test_who_has_nothing_more_to_say_still_gets_all_answers(
    lived_in: House, stream: bytes, expected: str
) -> None:
    received = talk(lived_in.server, with_key(lived_in, stream), half_close=True)
    assert statuses(replies(received)) == expected


@pytest.mark.parametrize("whole", [get(), post(b"Content-Length: 21"), post(CHUNKED, body=CHUNKS)])
def test_who_stops_in_the_middle_is_not_waited_for(lived_in: House, whole: bytes) -> None:
    whole = with_key(lived_in, whole)
    before = lived_in.alice.observation(lived_in.server)
    for end in range(len(whole)):
        found = replies(talk(lived_in.server, whole[:end], half_close=True))
        assert statuses(found) in {"", "400"}, whole[:end]
    assert lived_in.alice.observation(lived_in.server) == before


# Whatever else


def test_random_bytes_between_requests_never_break_anything(
    lived_in: House, torture: int | None
) -> None:
    """Valid requests, cut up, doubled, mixed and sent in pieces.

    Each stream ends within its time, in whole replies, of which there are not more than the
    requests that it could hold; none is a failure or lets bob be seen.
    """

    def run(seed: int) -> None:
        stream = hostile_stream(random.Random(seed))
        text = with_key(lived_in, b"".join(stream.pieces))
        pieces = cut(text, stream.places(len(text)))
        received = talk(lived_in.server, *pieces, half_close=stream.half_close)
        try:
            # What is no request ends the connection, and a stream that is under way there.
            found = replies(received, may_break_off=True)
            for reply in found:
                check_reply(reply)
            # Each request names its protocol, and after the first that is none comes nothing.
            assert len(found) <= len(re.findall(rb"(?:HTTP|RTSP|ICE)/", text)) + 1
            assert not let_out(lived_in.bob, received, *(reply.body for reply in found))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {pieces!r}\nwas answered {received!r}") from error

    before = lived_in.bob.observation(lived_in.server)
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(run, range(torture or STREAMS)):
            pass
    all_workers_answer(lived_in.server)
    assert lived_in.bob.observation(lived_in.server) == before
    check_log(lived_in.server.log)
