"""Compression: who gets it, of what, and that nothing of the answer changes but its coding."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import weakref
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from ebus.http import compression
from ebus.http.compression import MAX_INLINE_BYTES, MIN_COMPRESSED_BYTES, compress, negotiate
from tests.http.test_settings import KEYS, client_of, server_with, sockets, wait_until
from tests.live_server import LiveServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}
CODINGS = ["gzip", "zstd"]


def whole(coding: str, body: bytes) -> bytes:
    """What the body says. It must be a frame that has its end, and nothing after it."""
    said, ended = unpack(coding, body)
    assert ended
    return said


def unpack(coding: str, body: bytes) -> tuple[bytes, bool]:
    """What a body says as far as it goes, and whether its frame has an end."""
    frame: Any = zstd.ZstdDecompressor() if coding == "zstd" else zlib.decompressobj(wbits=31)
    said = frame.decompress(body)
    assert not frame.unused_data
    return said, frame.eof


# Who gets it


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("ZStd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.9", "gzip"),
        ("zstd;q=0.001, gzip;q=0", "zstd"),
        ("gzip\t; q=1.000", "gzip"),
        ("gzip;Q=0.5", "gzip"),
        (",, gzip ,", "gzip"),
        ("*", "zstd"),
        ("*;q=0.1", "zstd"),
        ("zstd;q=0, *", "gzip"),
        ("gzip;q=0.5, *", "zstd"),
        ("gzip;q=0.8, *;q=0.2", "gzip"),
        ("identity, gzip", "gzip"),
        ("identity;q=0.5, gzip;q=0.8", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("", None),
        ("br, deflate", None),
        ("x-gzip", None),
        ("gzipped", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("*;q=0", None),
        ("identity", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("identity, *;q=0.5", None),
        ("identity;q=0", None),
        ("identity;q=0, *;q=0", None),
        ("gzip;q=x", None),
        ("gzip;q=nan", None),
        ("gzip;q=-1", None),
        ("gzip;q=2", None),
        ("gzip;q=1.001", None),
        ("gzip;q=0.5;level=9", None),
        ("gzip;level=9", None),
        ("gzip;q", None),
        ("gzip=1", None),
    ],
)
def test_the_client_chooses_its_coding(accepted: str, coding: str | None) -> None:
    assert negotiate([(b"accept-encoding", accepted.encode())]) == coding


def test_a_client_that_says_nothing_gets_no_coding() -> None:
    assert negotiate([(b"accept", b"gzip")]) is None


def test_a_list_may_come_in_several_headers() -> None:
    headers = [(b"accept-encoding", b"br"), (b"host", b"x"), (b"accept-encoding", b"gzip")]
    assert negotiate(headers) == "gzip"


@given(
    st.dictionaries(
        st.sampled_from(["gzip", "zstd", "identity", "br", "*"]), st.integers(0, 1_000)
    ),
    st.randoms(use_true_random=False),
)
def test_nothing_that_is_available_is_liked_better_than_what_is_chosen(
    thousandths: dict[str, int], random: Any
) -> None:
    entries = [f"{coding};q={weight / 1_000:.3f}" for coding, weight in thousandths.items()]
    random.shuffle(entries)
    chosen = negotiate([(b"accept-encoding", ", ".join(entries).encode())])

    unnamed = thousandths.get("*", 0)
    liked = {name: thousandths.get(name, unnamed) for name in ("identity", "gzip", "zstd")}
    assert liked[chosen or "identity"] == max(liked.values())
    if chosen:
        assert liked[chosen] > 0


@given(st.binary())
def test_no_header_is_too_strange(value: bytes) -> None:
    assert negotiate([(b"accept-encoding", value)]) in {None, "gzip", "zstd"}


# What a server answers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with server_with(tmp_path_factory.mktemp("gzip"), {"ENABLE_GZIP": "true"}) as server:
        with client_of(server) as alice:
            alice.post("/events/batch", json=[EVENT] * 100)
        yield server
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with server_with(tmp_path_factory.mktemp("plain"), {}) as server:
        with client_of(server) as alice:
            alice.post("/events/batch", json=[EVENT] * 100)
        yield server


def ask(
    server: LiveServer,
    path: str,
    accepted: str,
    *,
    method: str = "GET",
    tenant: str = "alice",
    body: object = None,
) -> tuple[httpx.Headers, bytes]:
    """The answer's head and its body as it is on the wire: httpx would unpack it."""
    headers = {"X-API-Key": KEYS.get(tenant, "none"), "Accept-Encoding": accepted}
    with httpx.stream(
        method, server.url + path, headers=headers, json=body, verify=False
    ) as answer:
        return answer.headers, b"".join(answer.iter_raw())


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    "path", ["/events?from=1", "/events/stream?from=1", "/events/stream?from=1&batch_size=1"]
)
def test_large_answers_are_compressed_for_those_who_ask(
    server: LiveServer, path: str, coding: str
) -> None:
    headers, body = ask(server, path, f"{coding}, deflate")
    assert headers["content-encoding"] == coding
    assert headers["content-type"] == "application/json"
    assert headers["vary"] == "accept-encoding"
    said = whole(coding, body)
    assert said == ask(server, path, "identity")[1]
    assert len(json.loads(said)) == 100
    assert len(body) < len(said) / 3


@pytest.mark.parametrize("coding", CODINGS)
def test_the_length_of_a_compressed_answer_is_said(server: LiveServer, coding: str) -> None:
    headers, body = ask(server, "/events?from=1", coding)
    assert headers["content-length"] == str(len(body))


@pytest.mark.parametrize("coding", CODINGS)
def test_an_appended_event_is_compressed_too(server: LiveServer, coding: str) -> None:
    event = {**EVENT, "data": "x" * 2_000}
    headers, body = ask(server, "/events", coding, method="POST", tenant="bob", body=event)
    assert headers["content-encoding"] == coding
    assert json.loads(whole(coding, body))["data"] == "x" * 2_000


def test_what_lies_behind_the_door_is_compressed_once(server: LiveServer) -> None:
    headers, body = ask(server, "/openapi.json", "gzip, zstd")
    assert headers.get_list("content-encoding") == ["zstd"]
    assert json.loads(whole("zstd", body))["openapi"]


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000", "x-gzip"])
@pytest.mark.parametrize("path", ["/events?from=1", "/events/stream?from=1"])
def test_nobody_gets_gzip_who_does_not_accept_it(
    server: LiveServer, path: str, accepted: str
) -> None:
    headers, body = ask(server, path, accepted)
    assert "content-encoding" not in headers
    assert headers["vary"] == "accept-encoding"
    assert len(json.loads(body)) == 100


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    "path",
    [
        "/position",
        "/metrics",
        "/health",
        "/events?from=1&to=2",
        "/events/stream?from=99&batch_size=1",
        "/events/stream?from=1000",
    ],
)
def test_small_answers_are_not_compressed(server: LiveServer, path: str, coding: str) -> None:
    headers, body = ask(server, path, coding)
    assert "content-encoding" not in headers
    assert headers["vary"] == "accept-encoding"
    json.loads(body)


@pytest.mark.parametrize(
    ("path", "tenant", "code"),
    [
        ("/nope", "alice", "not_found"),
        ("/events", "alice", "invalid_parameter"),
        ("/events", "nobody", "key_invalid"),
    ],
)
def test_errors_vary_too(server: LiveServer, path: str, tenant: str, code: str) -> None:
    headers, body = ask(server, path, "gzip", tenant=tenant)
    assert headers["vary"] == "accept-encoding"
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == code


def test_an_answer_without_a_body_says_nothing_of_coding(server: LiveServer) -> None:
    path = "/subscriptions/s/position"
    headers, body = ask(server, path, "gzip", method="PUT", body={"position": 1})
    assert body == b""
    assert not {"vary", "content-encoding", "content-length"} & headers.keys()


def test_head_is_answered_as_ever(server: LiveServer, plain_server: LiveServer) -> None:
    headers, body = ask(server, "/health", "gzip", method="HEAD")
    plain, _ = ask(plain_server, "/health", "gzip", method="HEAD")
    assert body == b""
    assert headers.get("content-length") == plain.get("content-length")
    assert "content-encoding" not in headers


@pytest.mark.parametrize("path", ["/events?from=1", "/events/stream?from=1", "/nope", "/position"])
def test_compression_is_off_unless_it_is_asked_for(plain_server: LiveServer, path: str) -> None:
    headers, body = ask(plain_server, path, "gzip, zstd")
    assert not {"content-encoding", "vary"} & headers.keys()
    json.loads(body)


@pytest.mark.parametrize("coding", CODINGS)
def test_who_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path, coding: str) -> None:
    request = (
        f"GET /events/stream?from=1 HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['alice']}\r\n"
        f"Accept-Encoding: {coding}\r\n\r\n"
    )
    noise = "".join(map(chr, range(0x4E00, 0x9E00)))  # what zlib and zstd make little of
    with server_with(tmp_path, {"ENABLE_GZIP": "true"}) as server:
        idle = sockets(server)
        with client_of(server) as alice:
            for _ in range(4):
                alice.post("/events/batch", json=[{"type": "T", "data": noise * 10}] * 10)
        wait_until(lambda: sockets(server) == idle)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request.encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: sockets(server) == idle)
        with client_of(server) as alice:
            assert alice.get("/position").json() == {"position": 40}
        assert "Traceback" not in server.log


# What any application answers


Answering = Callable[[Send], Awaitable[None]]


def answering(answer: Answering) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    return app


async def sent_by(
    answer: Answering, *, accepted: str = "gzip", sent: list[Message] | None = None
) -> list[Message]:
    """What goes to the server when an application answers so."""
    sent = [] if sent is None else sent
    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", accepted.encode())]}

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await compress(answering(answer))(cast("Scope", scope), receive, send)
    return sent


def head(status: int = 200, **fields: str) -> Message:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return cast("Message", {"type": "http.response.start", "status": status, "headers": headers})


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def answer_of(*messages: Message) -> Answering:
    async def answer(send: Send) -> None:
        for message in messages:
            await send(message)

    return answer


def fields_of(sent: list[Message]) -> dict[bytes, bytes]:
    assert sent[0]["type"] == "http.response.start"
    headers = list(sent[0]["headers"])
    fields = dict(headers)
    assert len(fields) == len(headers)
    return fields


def bodies_of(sent: list[Message]) -> list[bytes]:
    return [cast("dict[str, bytes]", message)["body"] for message in sent[1:]]


@pytest.mark.parametrize("coding", CODINGS)
@given(parts=st.lists(st.binary(max_size=3_000) | st.just(b"x" * 100_000), min_size=1, max_size=6))
def test_whatever_comes_in_parts_is_the_same_unpacked(coding: str, parts: list[bytes]) -> None:
    *first, last = parts
    messages = [*(part(body, more=True) for body in first), part(last)]
    sent = asyncio.run(sent_by(answer_of(head(), *messages), accepted=coding))
    body = b"".join(bodies_of(sent))
    if b"content-encoding" in fields_of(sent):
        body = whole(coding, body)
    assert body == b"".join(parts)
    assert [message.get("more_body") for message in sent[1:]][-1] is False


@pytest.mark.parametrize("coding", CODINGS)
def test_the_bound_is_exact(coding: str) -> None:
    for size, packed in ((MIN_COMPRESSED_BYTES - 1, False), (MIN_COMPRESSED_BYTES, True)):
        sent = asyncio.run(sent_by(answer_of(head(), part(b"x" * size)), accepted=coding))
        assert (b"content-encoding" in fields_of(sent)) is packed


@pytest.mark.parametrize("size", [MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1])
@pytest.mark.parametrize("coding", CODINGS)
def test_only_large_bodies_go_to_a_thread(
    coding: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    codec = compression._CODECS[coding]
    last = codec.last

    def last_seen(self: Any, body: bytes) -> bytes:
        threads.append(threading.current_thread())
        return last(self, body)

    monkeypatch.setattr(codec, "last", last_seen)
    sent = asyncio.run(sent_by(answer_of(head(), part(b"x" * size)), accepted=coding))
    assert whole(coding, bodies_of(sent)[0]) == b"x" * size
    assert [thread is threading.current_thread() for thread in threads] == [
        size <= MAX_INLINE_BYTES
    ]


@pytest.mark.parametrize("coding", CODINGS)
def test_each_part_can_be_unpacked_when_it_comes(coding: str) -> None:
    pages = [b'{"position":%d}' % number * 200 for number in range(3)]
    sent: list[Message] = []

    async def answer(send: Send) -> None:
        await send(head(content_length="1"))
        for count, page in enumerate(pages, 1):
            await send(part(page, more=True))
            said, ended = unpack(coding, b"".join(bodies_of(sent)))
            assert said == b"".join(pages[:count])
            assert not ended
        await send(part(b""))

    asyncio.run(sent_by(answer, accepted=coding, sent=sent))
    assert whole(coding, b"".join(bodies_of(sent))) == b"".join(pages)
    assert b"content-length" not in fields_of(sent)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [5_000, 200_000])
def test_an_answer_that_breaks_off_is_no_whole_frame(coding: str, size: int) -> None:
    sent: list[Message] = []

    async def answer(send: Send) -> None:
        await send(head())
        await send(part(b"x" * size, more=True))
        raise OSError("the disk failed")

    with pytest.raises(OSError, match="the disk failed"):
        asyncio.run(sent_by(answer, accepted=coding, sent=sent))
    said, ended = unpack(coding, b"".join(bodies_of(sent)))
    assert said == b"x" * size
    assert not ended
    assert all(message.get("more_body") for message in sent[1:])


def test_an_answer_that_breaks_off_early_has_begun_all_the_same() -> None:
    """Otherwise the server would answer by itself, after the door has seen an answer begin."""
    sent: list[Message] = []

    async def answer(send: Send) -> None:
        await send(head())
        await send(part(b"[1", more=True))
        raise OSError("the disk failed")

    with pytest.raises(OSError, match="the disk failed"):
        asyncio.run(sent_by(answer, sent=sent))
    assert bodies_of(sent) == [b"[1"]
    assert sent[1].get("more_body")
    assert b"content-encoding" not in fields_of(sent)


def test_what_does_not_get_smaller_goes_as_it_is() -> None:
    noise = b"".join(zlib.crc32(b"%d" % number).to_bytes(4, "big") for number in range(400))
    sent = asyncio.run(sent_by(answer_of(head(content_length="1600"), part(noise))))
    assert fields_of(sent) == {b"content-length": b"1600", b"vary": b"accept-encoding"}
    assert bodies_of(sent) == [noise]


def test_what_is_encoded_already_is_left_alone() -> None:
    messages = [head(content_encoding="br", content_length="5000"), part(b"x" * 5_000)]
    assert asyncio.run(sent_by(answer_of(*messages))) == messages


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_is_left_alone(status: int) -> None:
    messages = [head(status), part(b"")]
    assert asyncio.run(sent_by(answer_of(*messages))) == messages


@pytest.mark.parametrize(
    ("vary", "merged"),
    [
        ("origin", "origin, accept-encoding"),
        ("Origin, Accept-Encoding", "Origin, Accept-Encoding"),
        ("*", "*"),
    ],
)
def test_what_an_answer_varies_by_already_is_kept(vary: str, merged: str) -> None:
    sent = asyncio.run(sent_by(answer_of(head(vary=vary), part(b"x" * 2_000))))
    assert fields_of(sent)[b"vary"] == merged.encode()


def test_the_application_s_own_message_is_not_changed() -> None:
    begin = head(content_length="2000")
    asyncio.run(sent_by(answer_of(begin, part(b"x" * 2_000))))
    assert begin == head(content_length="2000")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_client_that_does_not_read_holds_up_the_application(coding: str) -> None:
    async def scenario() -> None:
        given: list[int] = []
        room = asyncio.Event()
        full = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(head())
            for number in range(3):
                given.append(number)
                await send(part(b"x" * 100_000, more=True))
            await send(part(b""))

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                full.set()
                await room.wait()

        headers = [(b"accept-encoding", coding.encode())]
        scope = cast("Scope", {"type": "http", "method": "GET", "headers": headers})
        answer = asyncio.ensure_future(compress(app)(scope, cast("Any", None), send))
        await full.wait()
        assert given == [0]
        room.set()
        await answer
        assert given == [0, 1, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize("coding", CODINGS)
def test_an_answer_that_is_given_up_is_freed(coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[weakref.ref[Any]] = []
    codec = compression._CODECS[coding]

    def make_codec() -> Any:
        made = codec()
        frames.append(weakref.ref(made))
        return made

    monkeypatch.setitem(cast("dict[str, Any]", compression._CODECS), coding, make_codec)

    async def scenario() -> None:
        begun = asyncio.Event()

        async def answer(send: Send) -> None:
            await send(head())
            await send(part(b"x" * 100_000, more=True))
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(sent_by(answer, accepted=coding))
        await begun.wait()
        assert [frame() is not None for frame in frames] == [True]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task

    asyncio.run(scenario())
    assert [frame() for frame in frames] == [None]
