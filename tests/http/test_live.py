"""Events as they come: tails, long polls, and the seam between what was and what comes."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import TenantClient, write_config
from tests.http.tails import FORMS, JSON, NDJSON, SSE, WAYS, Event, Follower
from tests.live_server import LiveServer, serving

KEY = "a" * 40
MIB = 1024 * 1024
ENGINES = pytest.mark.parametrize("engine", ["memory", "sqlite"])
ALL_WAYS = pytest.mark.parametrize(
    "headers",
    [{}, {"X-Way": "long"}, {"Accept-Encoding": "gzip"}],
    ids=["short way", "long way", "gzip"],
)


def tail(
    client: TenantClient, form: str = NDJSON, headers: dict[str, str] | None = None, **query: Any
) -> Follower:
    if "start" in query:
        query["from"] = query.pop("start")
    return Follower(client.server.port, client.key, form, query, headers=headers)


@contextmanager
def server_of_one(
    directory: Path, *arguments: str, patience: str = "20s", **top: Any
) -> Iterator[LiveServer]:
    """A server with a tenant `alice`, for what needs another config."""
    top = {"engine": "sqlite", "durability": "normal", **top}
    tenants = [{"name": "alice", "api_key": KEY}]
    write_config(directory / "tenants.yaml", {"tenants": tenants, **top})
    environment = {"ENABLE_GZIP": "true", "SHUTDOWN_TIMEOUT": patience}
    arguments = ("--config", "tenants.yaml", *arguments)
    with serving(arguments, cwd=directory, environment=environment) as server:
        yield server
    assert "Traceback" not in server.log
    assert " ERROR" not in server.log


def alice(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60, verify=False)


def send(client: httpx.Client, *types: str, **members: Any) -> None:
    events = [{"type": kind, "data": 1, **members} for kind in types]
    client.post("/events/batch", json=events).raise_for_status()


# Forms


@WAYS
@FORMS
def test_a_tail_begins_in_the_history_and_goes_on_with_what_comes(
    client: TenantClient, form: str, way: dict[str, str]
) -> None:
    send(client, "A", "B")
    with tail(client, form, way, start=1) as follower:
        assert follower.status == 200
        assert follower.answer.headers["content-type"] == form
        assert follower.answer.headers["cache-control"] == "no-store"
        assert follower.answer.headers["x-accel-buffering"] == "no"
        assert [event["type"] for event in follower.take(2)] == ["A", "B"]
        for number in range(3, 8):
            send(client, f"T{number}")
            assert follower.take(number)[-1]["type"] == f"T{number}"
        assert follower.events == client.get("/events?from=1").json()


@FORMS
def test_a_tail_of_an_empty_log_waits_for_the_first_event(client: TenantClient, form: str) -> None:
    with tail(client, form) as follower:
        send(client, "A")
        assert follower.take(1)[0]["position"] == 1


def test_server_sent_events_are_framed_as_browsers_read_them(client: TenantClient) -> None:
    client.append("A", {"a": 1})
    with tail(client, SSE) as follower:
        follower.take(1)
        event = client.get("/events?from=1").content[1:-1]
        assert follower.text == b"retry: 1000\n\nid: 1\ndata: " + event + b"\n\n"


@pytest.mark.parametrize("form", [JSON, NDJSON, SSE])
def test_without_follow_every_form_ends(client: TenantClient, form: str) -> None:
    send(client, "A", "B", "C")
    with tail(client, form, start=2, follow="false") as follower:
        assert [event["type"] for event in follower.to_the_end()] == ["B", "C"]
    if form == NDJSON:
        assert follower.text.count(b"\n") == 2
    with tail(client, form, start=9, follow="false") as follower:
        assert follower.to_the_end() == []
    assert follower.text == {JSON: b"[]", NDJSON: b"", SSE: b"retry: 1000\n\n"}[form]


@pytest.mark.parametrize("form", [NDJSON, SSE])
def test_line_breaks_in_data_do_not_break_a_line(client: TenantClient, form: str) -> None:
    body = b'{"type":"T","data":{\r\n"a":\n[1,\r2],"b":"x\\n"\n}}'
    client.post("/events", content=body).raise_for_status()
    with tail(client, form, start=1) as follower:
        follower.take(1)
        client.post("/events", content=body).raise_for_status()
        for event in follower.take(2):
            assert event["data"] == {"a": [1, 2], "b": "x\n"}
    with tail(client, form, start=1, to=2, follow="false") as whole:
        assert whole.to_the_end() == follower.events
    assert whole.text == follower.text


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", SSE),
        ("text/event-stream", SSE),
        ("TEXT/Event-Stream", SSE),
        ("application/x-ndjson", NDJSON),
        ("application/x-ndjson, */*;q=0.1", NDJSON),
        ("application/x-ndjson;q=0.5, text/event-stream", SSE),
        ("application/json;q=0.2, application/x-ndjson;q=0.3", NDJSON),
        ("*/*, text/event-stream", SSE),
        ("text/html, */*", JSON),
        ("application/json;q=0, */*", NDJSON),
        ("application/*;q=0.1, */*", SSE),
        ("application/json;q=0.5, */*;q=0.8", NDJSON),
        ("application/json; charset=utf-8", JSON),
        ("image/png, text/event-stream;q=0.001", SSE),
        ("application/x-ndjson;level=1;q=0.5, application/json;q=0.4", NDJSON),
    ],
)
def test_accept_says_in_which_form_a_stream_comes(
    client: TenantClient, accept: str | None, form: str
) -> None:
    request = client.build_request("GET", "/events/stream?from=1")
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    answer = client.send(request)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == form


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "*/*;q=0",
        "application/json;q=0",
        "json",
        "text/event-stream;q=x",
        # What is no weight counts as little here as in Accept-Encoding.
        "text/event-stream;q=5",
        "text/event-stream;q=inf",
        "text/event-stream;q=1e-1",
        "text/event-stream;q=0.5;level=1",
        "text/event-stream;q=0.1234",
        "text/event-stream;",
    ],
)
def test_who_accepts_none_of_the_forms_gets_an_array(client: TenantClient, accept: str) -> None:
    answer = client.get("/events/stream?from=1", headers={"Accept": accept})
    assert (answer.status_code, answer.json()) == (200, [])


# Where it begins, and what it holds


@pytest.mark.parametrize("seen", ["3", " 3", "3 ", "\t3\t "])
@FORMS
def test_a_client_that_comes_again_goes_on_behind_what_it_saw(
    client: TenantClient, form: str, seen: str
) -> None:
    send(client, *"ABCDE")
    with tail(client, form, {"Last-Event-ID": seen}, start=1, last=1) as follower:
        assert follower.take(2)[0]["position"] == 4
        send(client, "F")
        follower.take(3)
        assert follower.positions == [4, 5, 6]


def test_a_client_that_saw_the_last_event_gets_only_what_comes(client: TenantClient) -> None:
    send(client, "A", "B")
    with tail(client, SSE, {"Last-Event-ID": "2"}) as follower:
        send(client, "C")
        follower.take(1)
        assert follower.positions == [3]


@pytest.mark.parametrize("id", ["x", "-1", "1.5", "1 2", "9223372036854775807", "9" * 30])
def test_what_is_no_last_event_id_is_400(client: TenantClient, id: str) -> None:
    answer = client.get("/events/stream?from=1&follow=true", headers={"Last-Event-ID": id})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_header")


def test_a_tail_may_begin_with_the_last_events_that_match(client: TenantClient) -> None:
    send(client, *"ABABABAB")
    with tail(client, last=2, type="A") as follower:
        assert [event["position"] for event in follower.take(2)] == [5, 7]
        send(client, "B", "A")
        follower.take(3)
        assert follower.positions == [5, 7, 10]


def test_a_tail_may_begin_beyond_the_end(client: TenantClient) -> None:
    send(client, "A")
    with tail(client, start=4) as follower, tail(client, start=1) as other:
        other.take(1)
        for number in range(2, 7):
            send(client, f"T{number}")
            other.take(number)
        follower.take(3)
        assert follower.positions == [4, 5, 6]


@FORMS
def test_a_tail_ends_at_its_last_position(client: TenantClient, form: str) -> None:
    send(client, "A", "B")
    with tail(client, form, start=1, to=4) as follower:
        follower.take(2)
        send(client, "C", "D", "E", "F")
        follower.to_the_end()
        assert follower.positions == [1, 2, 3, 4]
    with tail(client, form, start=1, to=3) as follower:
        follower.to_the_end()
        assert follower.positions == [1, 2, 3]


def test_a_tail_of_what_is_recorded_later_leaves_out_what_is_recorded_now(
    client: TenantClient,
) -> None:
    """The filter counts for what comes as it does for what was."""
    with tail(client, since="2199-01-01T00:00:00Z", to=4) as future, tail(client) as other:
        for number in range(1, 4):
            send(client, "A")
            other.take(number)
        with tail(client, start=1, since="2020-01-01T00:00:00Z") as past:
            past.take(3)
            send(client, "B")
            assert past.take(4)[-1]["type"] == "B"
        assert other.take(4)
        assert future.to_the_end() == []


def test_a_tail_hears_nothing_of_another_tenant(
    client: TenantClient, bystander: TenantClient
) -> None:
    with tail(client) as mine, tail(bystander) as theirs:
        send(bystander, "Theirs")
        assert theirs.take(1)[0]["type"] == "Theirs"
        send(client, "Mine")
        assert mine.take(1)[0]["type"] == "Mine"


def test_followers_of_all_forms_and_filters_share_what_is_read(client: TenantClient) -> None:
    queries: list[dict[str, Any]] = [
        {},
        {"type": "A"},
        {"type": ["A", "B"]},
        {"stream": "s"},
        {"stream_prefix": ""},
    ]
    followers = [tail(client, form, **query) for form in (JSON, NDJSON, SSE) for query in queries]
    try:
        for number in range(30):
            stream = {"stream": "s"} if number % 5 else {}
            send(client, "ABC"[number % 3], **stream)
        send(client, "A", stream="s")
        last = client.position()
        for follower in followers:
            follower.until(lambda follower=follower: last in follower.positions)  # type: ignore[misc]
        for at, query in enumerate(queries):
            expected = client.get("/events", params={"from": 1, **query}).json()
            for follower in followers[at :: len(queries)]:
                assert follower.events == expected
    finally:
        for follower in followers:
            follower.close()


# The seam


class Log:
    """Writers that race, and a count of what they have stored, which others may wait for."""

    def __init__(self, servers: list[str], key: str, seed: int, *, writers: int, appends: int):
        self.stored = 0
        self._grown = threading.Condition()
        self._work = [
            threading.Thread(target=self._write, args=(servers[n % len(servers)], key, by, appends))
            for n, by in enumerate(random.Random(f"{seed} {n}") for n in range(writers))
        ]

    def _write(self, url: str, key: str, by: random.Random, appends: int) -> None:
        with httpx.Client(
            base_url=url, headers={"X-API-Key": key}, timeout=60, verify=False
        ) as client:
            for _ in range(appends):
                events = [random_event(by) for _ in range(by.choice([1, 1, 1, 2, 5, 40]))]
                client.post("/events/batch", json=events).raise_for_status()
                with self._grown:
                    self.stored += len(events)
                    self._grown.notify_all()

    def start(self) -> None:
        for thread in self._work:
            thread.start()

    def finish(self) -> None:
        for thread in self._work:
            thread.join(60)

    def wait_for(self, count: int) -> None:
        """Until so many are stored, or nobody writes any more."""
        with self._grown:
            self._grown.wait_for(
                lambda: self.stored >= count or not any(it.is_alive() for it in self._work), 60
            )


TYPES = ["A", "B", "C"]
STREAMS = ["s-1", "s-2", "t-1", None]


def random_event(by: random.Random) -> Event:
    stream = by.choice(STREAMS)
    filling = "x" * by.choice([0, 0, 0, 10, 2_000])
    named = {} if stream is None else {"stream": stream}
    return {"type": by.choice(TYPES), "data": filling, **named}


LAST_BATCH = [
    {"type": kind, "data": "end", **({} if stream is None else {"stream": stream})}
    for kind in TYPES
    for stream in STREAMS
]
"""Of which something matches every filter."""


def random_query(by: random.Random) -> dict[str, Any]:
    query: dict[str, Any] = {"from": by.choice([0, 1, 1, by.randrange(1, 400)])}
    if by.random() < 0.4:
        query["type"] = by.sample(TYPES, k=by.randint(1, 2))
    match by.randrange(5):
        case 0:
            query["stream"] = by.choice(["s-1", "t-1"])
        case 1:
            query["stream_prefix"] = by.choice(["", "s-", "t"])
    if by.random() < 0.3:
        query["batch_size"] = by.choice([1, 3, 50])
    return query


def selected(events: list[Event], query: dict[str, Any]) -> list[Event]:
    return [
        event
        for event in events
        if event["position"] >= query["from"]
        and event["type"] in query.get("type", TYPES)
        and ("stream" not in query or event.get("stream") == query["stream"])
        and (
            "stream_prefix" not in query
            or ("stream" in event and event["stream"].startswith(query["stream_prefix"]))
        )
    ]


def check_the_seam(url: str, port: int, key: str, seed: int, *, tails: int = 10) -> None:
    """Every tail gets what matches, in order, no gap and no repeat."""
    log = Log([url], key, seed, writers=3, appends=25)
    with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60, verify=False) as client:

        def follow(number: int) -> tuple[dict[str, Any], list[Event]]:
            by = random.Random(f"{seed} tail {number}")
            query, form = random_query(by), by.choice([JSON, NDJSON, SSE])
            headers = by.choice([{}, {}, {"X-Way": "long"}, {"Accept-Encoding": "gzip"}])
            log.wait_for(by.randrange(400))
            with Follower(port, key, form, query, headers=headers) as follower:
                assert follower.status == 200
                follower.until(lambda: is_whole(follower.events, query))
                return query, follower.events

        ended = threading.Event()
        everything: list[Event] = []

        def is_whole(events: list[Event], query: dict[str, Any]) -> bool:
            """What comes last has come; whatever comes of it, comes together."""
            if not (events and events[-1]["data"] == "end"):
                return False
            ended.wait(60)
            return len(events) >= len(selected(everything, query))

        with ThreadPoolExecutor(tails) as threads:
            log.start()
            followers = [threads.submit(follow, number) for number in range(tails)]
            log.finish()
            client.post("/events/batch", json=LAST_BATCH).raise_for_status()
            everything.extend(client.get("/events/stream?from=1").json())
            ended.set()
            for follower in followers:
                query, events = follower.result(60)
                assert events == selected(everything, query), (seed, query)


SEEDS = 3


def test_no_tail_misses_or_repeats_an_event_between_what_was_and_what_comes(
    client: TenantClient, torture: int | None
) -> None:
    for seed in range(torture or SEEDS):
        check_the_seam(client.server.url, client.server.port, client.key, seed)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with server_of_one(tmp_path_factory.mktemp("workers"), "--workers", "2") as server:
        yield server


def test_nor_when_several_workers_write(two_workers: LiveServer, torture: int | None) -> None:
    for seed in range(torture or 2):
        check_the_seam(two_workers.url, two_workers.port, KEY, 1_000 + seed)


def test_a_tail_on_one_worker_sees_what_is_appended_through_the_others(
    two_workers: LiveServer,
) -> None:
    """New connections go to either worker: of sixteen, some are the other one's."""
    with alice(two_workers) as client:
        start = client.get("/position").json()["position"] + 1
    followers = [Follower(two_workers.port, KEY, NDJSON, {"from": start}) for _ in range(4)]
    try:
        for number in range(1, 17):
            with alice(two_workers) as client:
                send(client, "A")
            for follower in followers:
                follower.take(number)
                assert follower.positions == list(range(start, start + number))
    finally:
        for follower in followers:
            follower.close()


def test_a_long_poll_on_one_worker_is_answered_by_an_append_through_another(
    two_workers: LiveServer,
) -> None:
    for _ in range(8):
        with alice(two_workers) as client, alice(two_workers) as other:
            start = client.get("/position").json()["position"] + 1
            with ThreadPoolExecutor(1) as thread:
                poll = thread.submit(client.get, f"/events?from={start}&wait=30s")
                send(other, "A")
                assert poll.result(20).json()[0]["position"] == start


# Slow readers


def packs_badly(count: int) -> list[str]:
    """Texts of 10,000 characters, of which compression leaves half."""
    by = random.Random(0)
    return [by.randbytes(5_000).hex() for _ in range(count)]


@ALL_WAYS
def test_a_slow_reader_gets_everything_and_the_server_stays_small(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    batch = [{"type": "T", "data": data} for data in packs_badly(100)]
    with (
        server_of_one(tmp_path) as server,
        alice(server) as client,
        Follower(
            server.port, KEY, NDJSON, {"from": 1}, headers=headers, receive_bytes=8_192
        ) as slow,
        Follower(server.port, KEY, SSE, {"from": 1}) as quick,
    ):
        client.post("/events/batch", json=batch).raise_for_status()
        quick.take(100)
        before = server.resident_bytes
        for number in range(1, 61):  # some 60 MB, of which the slow one takes next to nothing
            client.post("/events/batch", json=batch).raise_for_status()
            quick.take(100 * number)
            quick.text, quick._parsed = quick.text[quick._parsed :], 0
            slow.read(1_000)
        grown = server.resident_bytes - before
        assert grown < 40 * MIB, f"{grown / MIB:.0f} MiB more"
        while len(slow.events) < 6_100:
            slow.text, slow._parsed = slow.text[slow._parsed :], 0
            assert slow.read()
        assert slow.positions == list(range(1, 6_101))
        client.post("/events", json={"type": "End", "data": 1}).raise_for_status()
        assert slow.take(6_101)[-1]["type"] == "End"


# Gzip and HTTP/1.0


@FORMS
def test_a_tail_that_is_compressed_comes_event_by_event(tmp_path: Path, form: str) -> None:
    with server_of_one(tmp_path, engine="memory") as server, alice(server) as client:
        headers = {"Accept-Encoding": "gzip"}
        with Follower(server.port, KEY, form, {"from": 1}, headers=headers) as follower:
            assert follower.answer.headers["content-encoding"] == "gzip"
            for number in range(1, 6):
                send(client, f"T{number}")
                assert follower.take(number)[-1]["type"] == f"T{number}"


def test_a_tail_over_http_1_0_comes_without_chunks(client: TenantClient) -> None:
    send(client, "A")
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=30) as connection:
        request = f"GET /events/stream?follow=true HTTP/1.0\r\nX-API-Key: {client.key}\r\n"
        connection.sendall(f"{request}Accept: {NDJSON}\r\n\r\n".encode())
        with connection.makefile("rb") as lines:
            assert b" 200 " in lines.readline()
            head = b"".join(iter(lines.readline, b"\r\n")).lower()
            assert b"transfer-encoding" not in head
            assert json.loads(lines.readline())["type"] == "A"
            for kind in "BC":
                send(client, kind)
                assert json.loads(lines.readline())["type"] == kind


# Long polls


@WAYS
def test_a_long_poll_is_answered_by_an_append(client: TenantClient, way: dict[str, str]) -> None:
    headers = list(way.items()) * 2
    with ThreadPoolExecutor(1) as thread:
        poll = thread.submit(client.get, "/events?from=1&wait=30s", headers=headers)
        client.append("A")
        answer = poll.result(20)
    assert (answer.status_code, [event["type"] for event in answer.json()]) == (200, ["A"])


def test_a_long_poll_for_what_is_there_does_not_wait(client: TenantClient) -> None:
    send(client, "A", "B")
    started = time.monotonic()
    assert len(client.get("/events?from=1&wait=60s").json()) == 2
    assert len(client.get("/events?from=2&wait=1m&limit=1").json()) == 1
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("wait", ["0s", "0", "100ms", "0.1s"])
def test_a_long_poll_over_its_time_is_empty(client: TenantClient, wait: str) -> None:
    client.append("A")
    answer = client.get(f"/events?from=2&wait={wait}")
    assert (answer.status_code, answer.json()) == (200, [])
    assert "link" not in answer.headers


def test_a_long_poll_waits_for_what_matches(client: TenantClient) -> None:
    send(client, "A", "B")
    with ThreadPoolExecutor(1) as thread:
        poll = thread.submit(client.get, "/events?from=1&type=C&wait=30s")
        for kind in "ABABC":
            client.append(kind)
        answer = poll.result(20).json()
    assert [event["position"] for event in answer] == [7]
    assert client.get("/events?from=1&type=D&wait=50ms").json() == []


def test_a_long_poll_beyond_the_end_waits_for_its_position(client: TenantClient) -> None:
    with ThreadPoolExecutor(1) as thread:
        poll = thread.submit(client.get, "/events?from=4&wait=30s")
        for kind in "ABCD":
            client.append(kind)
        assert [event["type"] for event in poll.result(20).json()] == ["D"]


def test_a_long_poll_up_to_what_is_passed_does_not_wait(client: TenantClient) -> None:
    send(client, "A", "B")
    started = time.monotonic()
    assert client.get("/events?from=1&to=2&type=X&wait=60s").json() == []
    assert time.monotonic() - started < 20


def test_a_client_may_live_by_long_polls_alone(client: TenantClient) -> None:
    """Each goes on where the one before has ended; nothing is missed while nobody waits."""
    found: list[int] = []

    def poll() -> None:
        while len(found) < 60:
            events = client.get(f"/events?from={len(found) + 1}&wait=30s&limit=7").json()
            found.extend(event["position"] for event in events)

    with ThreadPoolExecutor(1) as thread, TenantClient(client.server, 0) as writer:
        writer.headers["X-API-Key"] = client.key
        polled = thread.submit(poll)
        for number in range(30):
            send(writer, f"T{number}", "T")
        polled.result(30)
    assert found == list(range(1, 61))


# Places


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Where two requests may wait."""
    with server_of_one(
        tmp_path_factory.mktemp("narrow"), engine="memory", limits={"max_tenant_tails": 2}
    ) as server:
        yield server


ASKING = [
    ("GET", "/events/stream?follow=true", {}),
    ("GET", "/events/stream?follow=true", {"Accept": SSE}),
    ("GET", "/events/stream?follow=true", {"Accept-Encoding": "gzip"}),
    ("GET", "/events?from=1000&wait=30s", {}),
    ("GET", "/events?from=1000&wait=30s", {"Accept-Encoding": "gzip"}),
    ("POST", "/subscriptions/s/lease?wait=30s", {}),
]


@pytest.mark.parametrize(("method", "path", "headers"), ASKING)
def test_one_request_too_many_that_waits_is_503(
    narrow: LiveServer, method: str, path: str, headers: dict[str, str]
) -> None:
    with (
        alice(narrow) as client,
        Follower(narrow.port, KEY, SSE) as first,
        Follower(narrow.port, KEY, SSE) as second,
    ):
        first.until(lambda: bool(first.text))
        second.until(lambda: bool(second.text))
        answer = client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_tails")
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/events?from=1").status_code == 200
        assert client.get("/position").status_code == 200  # on the same connection


@WAYS
@FORMS
def test_who_does_not_follow_waits_for_nothing_and_needs_no_place(
    narrow: LiveServer, form: str, way: dict[str, str]
) -> None:
    with (
        Follower(narrow.port, KEY, SSE) as first,
        Follower(narrow.port, KEY, SSE) as second,
    ):
        first.until(lambda: bool(first.text))
        second.until(lambda: bool(second.text))
        with Follower(
            narrow.port, KEY, form, {"from": 1, "follow": "false"}, headers=way
        ) as finite:
            assert finite.status == 200
            finite.to_the_end()


def has_place(server: LiveServer) -> bool:
    with Follower(server.port, KEY, SSE) as follower:
        return follower.status == 200


def wait_for_place(server: LiveServer) -> None:
    """What a client has left is free as soon as the server has heard of it."""
    deadline = time.monotonic() + 20
    while not has_place(server):
        assert time.monotonic() < deadline, "the place is not free"
        time.sleep(0.01)


@pytest.mark.parametrize(("method", "path", "headers"), ASKING[:4])
def test_a_client_that_breaks_off_frees_its_place(
    narrow: LiveServer, method: str, path: str, headers: dict[str, str]
) -> None:
    wait_for_place(narrow)
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {KEY}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    for _ in range(3):
        leaving: list[socket.socket] = []
        while not leaving or has_place(narrow):  # one that found a place taken is answered
            assert len(leaving) < 1_000
            connection = socket.create_connection(("127.0.0.1", narrow.port), timeout=20)
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            leaving.append(connection)
        for connection in leaving:
            # Broken off. A mere close looks like a client that has asked all and still listens.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        wait_for_place(narrow)


def test_those_who_wait_are_counted_by_tenant(
    client: TenantClient, bystander: TenantClient
) -> None:
    followers = [tail(client) for _ in range(30)] + [tail(bystander)]
    try:
        send(client, "A")
        for follower in followers[:30]:
            follower.take(1)
        assert followers[30].events == []
    finally:
        for follower in followers:
            follower.close()


# The end of the server


@ENGINES
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_stops_ends_all_who_wait_as_it_should(
    tmp_path: Path, engine: str, workers: int
) -> None:
    if engine == "memory" and workers > 1:
        return  # which is one process's alone
    arguments = ["--workers", str(workers)] if workers > 1 else []
    with server_of_one(tmp_path, *arguments, engine=engine) as server, alice(server) as client:
        send(client, "A")
        followers = [
            Follower(server.port, KEY, form, {"from": 1}, headers=headers)
            for form in (JSON, NDJSON, SSE)
            for headers in ({}, {"X-Way": "long"}, {"Accept-Encoding": "gzip"})
        ]
        idle = Follower(server.port, KEY, SSE, {"from": 5})
        with ThreadPoolExecutor(2) as threads:
            poll = threads.submit(client.get, "/events?from=5&wait=60s")
            lease = threads.submit(
                httpx.post,
                f"{server.url}/subscriptions/s/lease?wait=60s",
                json={"max_events": 1},
                headers={"X-API-Key": KEY},
                timeout=60,
            )
            for follower in followers:
                follower.take(1)
            assert lease.result(20).status_code == 200  # event 1; the next one waits
            waits = threads.submit(
                httpx.post,
                f"{server.url}/subscriptions/s/lease?wait=60s",
                headers={"X-API-Key": KEY},
                timeout=60,
            )
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            for follower in followers:
                assert [event["type"] for event in follower.to_the_end()] == ["A"]
                if follower.form == JSON:
                    assert len(json.loads(follower.text)) == 1
            assert idle.to_the_end() == []
            assert poll.result(20).json() == []
            with suppress(httpx.TransportError):  # it may not have been heard yet
                assert waits.result(20).status_code in {204, 503}
            assert server.process.wait(20) == 0
            assert time.monotonic() - started < 15
        for follower in [*followers, idle]:
            follower.close()


def tell_to_stop(server: LiveServer) -> None:
    """Return when the server has ended what waits."""
    with Follower(server.port, KEY, SSE, {"from": 1_000_000}) as idle:
        idle.until(lambda: bool(idle.text))
        server.process.send_signal(signal.SIGTERM)
        assert idle.to_the_end() == []


@ALL_WAYS
@FORMS
def test_a_server_that_stops_finishes_what_has_an_end(
    tmp_path: Path, form: str, headers: dict[str, str]
) -> None:
    """Some 16 MB, of which the connection does not hold all when the signal comes."""
    with server_of_one(tmp_path, engine="memory") as server, alice(server) as client:
        batch = [{"type": "T", "data": data} for data in packs_badly(400)]
        for _ in range(4):
            client.post("/events/batch", json=batch).raise_for_status()
        query = {"from": 1, "follow": "false", "batch_size": 10}
        with Follower(
            server.port, KEY, form, query, headers=headers, receive_bytes=65_536
        ) as finite:
            finite.take(1)
            tell_to_stop(server)
            assert not finite.ended
            while finite.read():
                finite.text, finite._parsed = finite.text[finite._parsed :], 0
            assert finite.positions == list(range(1, 1_601))
        assert server.process.wait(20) == 0  # a second signal would end it at once


@pytest.mark.parametrize("follow", ["true", "false"])
@WAYS
@FORMS
def test_what_cannot_be_finished_in_time_does_not_look_whole(
    tmp_path: Path, form: str, way: dict[str, str], follow: str
) -> None:
    with server_of_one(tmp_path, engine="memory", patience="100ms") as server:
        with alice(server) as client:
            for _ in range(20):
                send(client, *"TTTTTTTTTT", data="x" * 100_000)
        query = {"from": 1, "to": 200, "follow": follow, "batch_size": 1}
        with Follower(server.port, KEY, form, query, headers=way, receive_bytes=8_192) as stuck:
            stuck.take(1)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                stuck.to_the_end()
            assert len(stuck.events) < 200


@ALL_WAYS
@FORMS
def test_what_follows_up_to_a_position_breaks_off_before_it(
    tmp_path: Path, form: str, headers: dict[str, str]
) -> None:
    with server_of_one(tmp_path, engine="memory") as server, alice(server) as client:
        send(client, "A", "B")
        query = {"from": 1, "to": 3}
        with (
            Follower(server.port, KEY, form, query, headers=headers) as cut,
            Follower(server.port, KEY, form, {"from": 1, "to": 2}, headers=headers) as whole,
        ):
            assert len(cut.take(2)) == len(whole.to_the_end()) == 2
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                cut.to_the_end()
            assert not cut.text.endswith(b"]")
        assert server.process.wait(20) == 0  # a second signal would end it at once


@pytest.mark.parametrize(
    ("query", "is_whole"),
    [("from=1", True), ("follow=true", True), ("follow=true&to=200", False)],
)
def test_a_client_that_has_no_more_to_say_is_told_only_what_is_so(
    client: TenantClient, query: str, is_whole: bool
) -> None:
    """It has closed its half of the connection: what has an end goes on to it, or breaks off."""
    send(client, *"TTTTTTTTTT", data="x" * 100_000)
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=30) as connection:
        lines = [f"GET /events/stream?{query} HTTP/1.1", "Host: x", f"X-API-Key: {client.key}"]
        connection.sendall("\r\n".join([*lines, f"Accept: {NDJSON}", "", ""]).encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            text = answer.read()
    assert text.endswith(b"\r\n0\r\n\r\n") == is_whole
    if "follow" not in query:
        assert text.count(b'"position"') == 10
