"""Streams and their versions, and appends that say what they expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.conftest import TenantClient


def event(stream: str | None = None, type: str = "T", **members: Any) -> dict[str, Any]:
    return {"type": type, "data": 1, **({"stream": stream} if stream else {}), **members}


def append(client: TenantClient, *streams: str | None) -> None:
    events = [event(stream) for stream in streams]
    client.post("/events/batch", json=events).raise_for_status()


def assert_conflict(answer: httpx.Response, code: str, current: int) -> None:
    problem = answer.json()
    assert (answer.status_code, problem.get("code")) == (409, code), answer.text
    assert problem["current"] == current


def assert_bad(answer: httpx.Response, code: str, said: str = "") -> None:
    problem = answer.json()
    assert (answer.status_code, problem.get("code")) == (400, code), answer.text
    assert said in problem["detail"]


def pages(client: TenantClient, path: str) -> Iterator[Any]:
    """The answers, from the first along the links."""
    for _ in range(1_000):
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if "next" not in answer.links:
            return
        path = answer.links["next"]["url"]
    raise AssertionError("the links have no end")


# Versions


def test_versions_of_a_stream_count_from_one_whatever_lies_between(client: TenantClient) -> None:
    append(client, "a", None, "b", "a", "a")
    answer = client.post("/events", json=event("b"))
    assert (answer.json()["position"], answer.json()["version"]) == (6, 2)
    versions = [one.get("version") for one in client.get("/events?from=1").json()]
    assert versions == [1, None, 1, 2, 3, 2]


def test_a_version_that_a_client_sends_is_ignored(client: TenantClient) -> None:
    answer = client.post("/events", json=event("a", version=9, position=9))
    assert (answer.json()["position"], answer.json()["version"]) == (1, 1)


def test_a_stream_of_one_tenant_is_nothing_to_another(
    client: TenantClient, bystander: TenantClient
) -> None:
    append(client, "a", "a")
    assert bystander.post("/events", json=event("a", expected_version=0)).json()["version"] == 1
    assert bystander.get("/streams").json() == {"streams": [{"stream": "a", "version": 1}]}


@pytest.mark.parametrize("name", ["a b", "ü/ß", "%41", "a&b=c", "'; --", "日本", "\\", "A", "a"])
def test_a_stream_is_found_by_exactly_its_name(client: TenantClient, name: str) -> None:
    append(client, name, "other", f"{name}x", f"x{name}", name.swapcase() + "y")
    found = client.get("/events", params={"stream": name}).json()
    assert [(one["stream"], one["version"]) for one in found] == [(name, 1)]
    assert {"stream": name, "version": 1} in client.get("/streams").json()["streams"]


# Expectations


@pytest.mark.parametrize("place", ["body", "query", "batch body", "batch query"])
def test_an_expected_version_is_kept_to(client: TenantClient, place: str) -> None:
    def send(version: int) -> httpx.Response:
        said: dict[str, Any] = {"expected_version": version}
        if place == "body":
            return client.post("/events", json=event("a", **said))
        if place == "query":
            return client.post("/events", params=said, json=event("a"))
        if place == "batch body":
            return client.post("/events/batch", json={"events": [event("a")], **said})
        return client.post("/events/batch", params=said, json=[event("a")])

    assert_conflict(send(1), "version_conflict", 0)
    assert send(0).status_code == 200
    assert_conflict(send(0), "version_conflict", 1)
    append(client, "b")
    assert send(1).status_code == 200
    assert_conflict(send(9), "version_conflict", 2)
    assert client.position() == 3


@pytest.mark.parametrize("place", ["body", "query", "batch body", "batch query"])
def test_an_expected_position_is_kept_to(client: TenantClient, place: str) -> None:
    def send(position: int) -> httpx.Response:
        said: dict[str, Any] = {"expected_position": position}
        if place == "body":
            return client.post("/events", json=event(**said))
        if place == "query":
            return client.post("/events", params=said, json=event())
        if place == "batch body":
            return client.post("/events/batch", json={"events": [event()], **said})
        return client.post("/events/batch", params=said, json=[event()])

    assert send(0).status_code == 200
    assert_conflict(send(0), "position_conflict", 1)
    assert_conflict(send(2), "position_conflict", 1)
    assert send(1).status_code == 200
    assert client.position() == 2


def test_versions_of_several_streams_are_kept_to(client: TenantClient) -> None:
    append(client, "a", "a", "b")

    def send(**versions: int) -> httpx.Response:
        body = {"events": [event("a"), event("c")], "expected_versions": versions}
        return client.post("/events/batch", json=body)

    assert_conflict(send(a=2, b=0), "version_conflict", 1)
    assert_conflict(send(a=3, b=1), "version_conflict", 2)
    assert_conflict(send(z=1), "version_conflict", 0)
    answer = send(a=2, b=1, c=0)
    assert [one["version"] for one in answer.json()["events"]] == [3, 1]
    assert send(a=2, b=1, c=0).json()["current"] in {3, 1}  # of a, or of c
    assert client.position() == 5


@pytest.mark.parametrize(
    ("position", "match", "current"),
    [
        (3, [{}], None),
        (2, [{}], 3),
        (0, [{"type": "A"}], 1),
        (1, [{"type": "A"}], None),
        (1, [{"type": ["A", "B"]}], 2),
        (0, [{"stream": "s-1"}], 2),
        (2, [{"stream": "s-1"}], None),
        (1, [{"stream_prefix": "s-2"}], 3),
        (2, [{"stream_prefix": "s-", "type": "B"}], None),
        (2, [{"stream_prefix": ""}], 3),
        (2, [{"type": "X"}, {"stream": "s-2"}], 3),
        (0, [{"type": "A", "stream": "s-1"}], None),
        (99, [{}], None),
    ],
)
def test_no_event_that_matches_may_have_come_after_a_position(
    client: TenantClient, position: int, match: list[dict[str, Any]], current: int | None
) -> None:
    client.post(
        "/events/batch", json=[event(type="A"), event("s-1", type="B"), event("s-2", type="C")]
    )
    condition = {"position": position, "match": match}
    batch = client.post("/events/batch", json={"events": [event()], "none_after": condition})
    if current is not None:
        assert_conflict(batch, "match_conflict", current)
        single = client.post("/events", json=event(none_after=condition))
        assert_conflict(single, "match_conflict", current)
        assert client.position() == 3
    else:
        assert batch.status_code == 200, batch.text
        assert client.position() == 4


def test_expectations_stand_together(client: TenantClient) -> None:
    append(client, "a")
    body = {
        "events": [event("a")],
        "expected_version": 1,
        "expected_position": 1,
        "none_after": {"position": 1, "match": [{"type": "T"}]},
    }
    assert client.post("/events/batch", json=body).status_code == 200
    body |= {"expected_version": 2, "expected_position": 1}
    assert client.post("/events/batch", json=body).status_code == 409
    assert client.position() == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"expected_version": -1},
        {"expected_version": 2**63},
        {"expected_position": -1},
        {"expected_versions": {"a": -1}},
        {"expected_versions": {"": 0}},
        {"expected_versions": {"x" * 256: 0}},
        {"none_after": {"position": -1, "match": [{}]}},
        {"none_after": {"position": 0, "match": []}},
        {"none_after": {"position": 0, "match": [{"type": ""}]}},
        {"none_after": {"position": 0, "match": [{"stream": "a\nb"}]}},
        {"none_after": {"position": 0, "match": [{"type": ["T"] * 101}]}},
    ],
    ids=str,
)
def test_what_cannot_be_expected_is_400(client: TenantClient, bad: dict[str, Any]) -> None:
    answer = client.post("/events/batch", json={"events": [event("a")], **bad})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in {"invalid_expectation", "invalid_filter"}
    assert client.position() == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"expected_version": "1"},
        {"expected_position": 1.5},
        {"expected_versions": {"a": "0"}},
        {"expected_versions": []},
        {"none_after": 5},
        {"none_after": {"match": [{}]}},
        {"none_after": {"position": 0}},
        {"none_after": {"position": 0, "match": [5]}},
    ],
    ids=str,
)
def test_an_expectation_of_another_shape_is_400(client: TenantClient, bad: dict[str, Any]) -> None:
    answer = client.post("/events/batch", json={"events": [event("a")], **bad})
    assert_bad(answer, "invalid_body", said="$.")
    if "expected_versions" not in bad:
        assert_bad(client.post("/events", json=event("a", **bad)), "invalid_body", said="$.")
    assert client.position() == 0


@pytest.mark.parametrize("value", ["x", "-1", "1&expected_version=1", "9223372036854775808", ""])
def test_an_expected_version_in_the_query_that_is_no_number_is_400(
    client: TenantClient, value: str
) -> None:
    for path, body in (("/events", event("a")), ("/events/batch", [event("a")])):
        answer = client.post(f"{path}?expected_version={value}", json=body)
        assert_bad(answer, "invalid_parameter", said="expected_version")
    assert client.position() == 0


@pytest.mark.parametrize(
    "events", [[event()], [event("a"), event()], [event("a"), event("b")]], ids=str
)
def test_an_expected_version_is_for_events_of_one_stream(
    client: TenantClient, events: list[dict[str, Any]]
) -> None:
    body = {"events": events, "expected_version": 0}
    assert_bad(client.post("/events/batch", json=body), "invalid_expectation", "one stream")
    answer = client.post("/events/batch?expected_version=0", json=events)
    assert_bad(answer, "invalid_expectation", "one stream")
    assert client.position() == 0


@pytest.mark.parametrize(
    "expected",
    [
        {"expected_version": 0},
        {"expected_position": 0},
        {"expected_versions": {"a": 0}},
        {"none_after": {"position": 0, "match": [{"type": "X"}]}},
    ],
    ids=str,
)
def test_an_expectation_inside_an_event_of_a_batch_is_400_and_not_ignored(
    client: TenantClient, expected: dict[str, Any]
) -> None:
    events = [event("a"), event("a", **expected)]
    for body, said in ((events, "$[1]: "), ({"events": events}, "$.events[1]: ")):
        answer = client.post("/events/batch", json=body)
        assert_bad(answer, "invalid_body", said)
        assert answer.json()["index"] == 1
    assert client.position() == 0


@pytest.mark.parametrize(
    ("expected", "field"),
    [
        ({"expected_verison": 0}, "expected_verison"),
        ({"none_after": {"position": 0, "match": [{"types": ["A"]}]}}, "types"),
        ({"none_after": {"position": 0, "match": [{"stream": "a", "from_version": 99}]}}, "from_v"),
        ({"none_after": {"position": 0, "match": [{}], "matches": []}}, "matches"),
    ],
    ids=str,
)
def test_an_expectation_that_is_misspelt_is_400_and_not_ignored(
    client: TenantClient, expected: dict[str, Any], field: str
) -> None:
    answer = client.post("/events/batch", json={"events": [event("a")], **expected})
    assert_bad(answer, "invalid_body", f"unknown field `{field}")
    assert answer.json()["field"] in {field, "none_after"}
    if "none_after" in expected:
        answer = client.post("/events", json=event("a", **expected))
        assert_bad(answer, "invalid_body", f"unknown field `{field}")
    assert client.position() == 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("expected_verison=0", "expected_position or expected_version"),
        ("expected=0", "expected_position or expected_version"),
        ("expected_versions=0", "in the body"),
        ("none_after=0", "in the body"),
        ("%65xpected_versions=", "in the body"),
    ],
)
def test_an_expectation_in_the_query_that_is_none_is_400_and_not_ignored(
    client: TenantClient, query: str, said: str
) -> None:
    for path, body in (("/events", event("a")), ("/events/batch", [event("a")])):
        assert_bad(client.post(f"{path}?{query}", json=body), "invalid_parameter", said)
    assert client.position() == 0
    assert client.post("/events?trace=expected", json=event("a")).status_code == 200


def test_what_is_expected_twice_must_be_the_same(client: TenantClient) -> None:
    append(client, "a")
    for name, other in (("expected_version", 0), ("expected_position", 0)):
        for path, body in (
            ("/events", {**event("a"), name: other}),
            ("/events/batch", {"events": [event("a")], name: other}),
        ):
            answer = client.post(f"{path}?{name}=1", json=body)
            assert_bad(answer, "invalid_expectation", name)
    body = {"events": [event("a")], "expected_versions": {"a": 0}}
    for path, more in (
        ("/events/batch?expected_version=1", {}),
        ("/events/batch", {"expected_version": 1}),
    ):
        answer = client.post(path, json={**body, **more})
        assert_bad(answer, "invalid_expectation", "expected_versions")
    assert client.position() == 1
    body = {"events": [event("a")], "expected_versions": {"a": 1}, "expected_version": 1}
    assert client.post("/events/batch?expected_version=1", json=body).status_code == 200


def test_a_batch_object_may_stand_behind_any_white_space(client: TenantClient) -> None:
    body = b" \t\r\n" * 100 + json.dumps({"events": [event("a")]}).encode()
    assert client.post("/events/batch", content=body).status_code == 200
    body = b" \t\r\n" * 100 + json.dumps([event("a")]).encode()
    assert client.post("/events/batch", content=body).status_code == 200


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (
            {"none_after": {"position": 0, "match": [{}, {"type": ""}]}},
            "none_after: filter 1: type",
        ),
        ({"none_after": {"position": 0, "match": [{"type": ["T"] * 101}]}}, "none_after: filter 0"),
        ({"none_after": {"position": -1, "match": [{}]}}, "none_after: position"),
        ({"none_after": {"position": 0, "match": []}}, "none_after: "),
        ({"expected_versions": {"": 0}}, "the stream of an expected version must not be empty"),
        (
            {"expected_versions": {"a": "0"}},
            "$.expected_versions: Expected `int`, got `str` as one",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_expected_is_named_by_its_place(
    client: TenantClient, expected: dict[str, Any], said: str
) -> None:
    answer = client.post("/events/batch", json={"events": [event("a")], **expected})
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


def test_null_expects_nothing(client: TenantClient) -> None:
    append(client, "a")
    names = ("expected_version", "expected_position", "expected_versions", "none_after")
    nothing: dict[str, Any] = dict.fromkeys(names)
    assert client.post("/events", json=event("a", **nothing)).status_code == 200
    body = {"events": [event("a", **nothing)], **nothing}
    assert client.post("/events/batch", json=body).status_code == 200


def test_an_expectation_in_an_escaped_member_is_kept_to(client: TenantClient) -> None:
    append(client, "a")
    body = b'{"type":"T","data":1,"stream":"a","\\u0065xpected_version":0}'
    assert_conflict(client.post("/events", content=body), "version_conflict", 1)


@pytest.mark.parametrize("form", ["single", "batch"])
def test_of_20_appends_that_race_with_one_expected_version_exactly_one_wins(
    client: TenantClient, form: str
) -> None:
    append(client, "a")

    def send(number: int) -> httpx.Response:
        if form == "single":
            return client.post("/events", json=event("a", expected_version=1))
        return client.post("/events/batch?expected_version=1", json=[event("a"), event("a")])

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(20)))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    current = 2 if form == "single" else 3
    for answer in answers:
        if answer is not won[0]:
            assert_conflict(answer, "version_conflict", current)
    assert client.position() == current


def test_counters_that_retry_lose_no_count(client: TenantClient) -> None:
    """Read, add one, append if nobody else did: the classic of optimistic concurrency."""

    def count_up(_: int) -> None:
        while True:
            last = client.get("/events?stream=n&last=1").json()
            data = last[0]["data"] + 1 if last else 1
            version = last[0]["version"] if last else 0
            said = event("n", data=data, expected_version=version)
            answer = client.post("/events", json=said)
            if answer.status_code == 200:
                return
            assert answer.status_code == 409

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, range(20)))
    assert [one["data"] for one in client.get("/events?stream=n").json()] == list(range(1, 21))


# Lists of streams


def test_streams_are_listed_by_name_with_their_versions(client: TenantClient) -> None:
    assert client.get("/streams").json() == {"streams": []}
    append(client, "b", "a", "b", None, "é", "B", "ab")
    assert client.get("/streams").json()["streams"] == [
        {"stream": name, "version": version}
        for name, version in [("B", 1), ("a", 1), ("ab", 1), ("b", 2), ("é", 1)]
    ]


def test_streams_are_listed_by_prefix_in_pages(client: TenantClient) -> None:
    names = sorted([f"order-{number}" for number in range(25)])
    append(client, *names, "orders", "order", "stock-1", "a%b", "a_b", "axb")
    found = list(pages(client, "/streams?prefix=order-&limit=10"))
    assert [len(page["streams"]) for page in found][:2] == [10, 10]
    assert [one["stream"] for page in found for one in page["streams"]] == names
    after = client.get("/streams?prefix=order-&after=order-7").json()["streams"]
    assert [one["stream"] for one in after] == ["order-8", "order-9"]
    assert client.get("/streams?prefix=nope").json() == {"streams": []}
    for pattern in ("a%25", "a_"):
        found_here = client.get(f"/streams?prefix={pattern}").json()["streams"]
        assert len(found_here) == 1


def test_a_page_that_is_exactly_full_leads_to_the_end(client: TenantClient) -> None:
    append(client, "a", "b", "c", "d")
    found = list(pages(client, "/streams?limit=2"))
    assert [one["stream"] for page in found for one in page["streams"]] == ["a", "b", "c", "d"]


def test_links_of_streams_hold_any_name(client: TenantClient) -> None:
    names = sorted(["&a=b", "&é", "&%41", "& c", '&">', "&+"])
    append(client, *names)
    found = list(pages(client, "/streams?prefix=%26&limit=1"))
    assert [one["stream"] for page in found for one in page["streams"]] == names


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=-1", "limit=1&limit=2"])
def test_a_bad_limit_of_streams_is_400(client: TenantClient, query: str) -> None:
    assert_bad(client.get(f"/streams?{query}"), "invalid_parameter", "limit")


@pytest.mark.parametrize("query", ["prefix=a&prefix=b", "after=%ff"])
def test_a_bad_prefix_of_streams_is_400(client: TenantClient, query: str) -> None:
    assert_bad(client.get(f"/streams?{query}"), "invalid_parameter")


# Reading one


def test_a_stream_is_read_forwards_backwards_and_by_version(client: TenantClient) -> None:
    append(client, *(["a", "b", None] * 10))

    def versions(query: str) -> list[int]:
        return [one["version"] for one in client.get(f"/events?stream=a&{query}").json()]

    assert versions("") == list(range(1, 11))
    assert versions("direction=backward") == list(range(10, 0, -1))
    assert versions("from_version=4&to_version=6") == [4, 5, 6]
    assert versions("from_version=9") == [9, 10]
    assert versions("to_version=2&direction=backward") == [2, 1]
    assert versions("from_version=11") == []
    assert versions("from_version=6&to_version=5") == []
    assert versions("last=3") == [8, 9, 10]
    assert versions("limit=3") == [1, 2, 3]
    assert versions("from=7&to=13") == [3, 4, 5]
    assert client.get("/events?stream=nobody").json() == []


def test_a_stream_is_read_in_pages_of_versions(client: TenantClient) -> None:
    append(client, *(["a", "b"] * 20))
    for query, expected in (
        ("stream=a&from_version=3&to_version=17&limit=4", list(range(3, 18))),
        ("stream=a&from_version=3&limit=4&direction=backward", list(range(20, 2, -1))),
    ):
        found = [one["version"] for page in pages(client, f"/events?{query}") for one in page]
        assert found == expected


@pytest.mark.parametrize(
    "query", ["from_version=1", "to_version=1", "stream_prefix=a&to_version=1"]
)
def test_a_version_without_a_stream_is_400(client: TenantClient, query: str) -> None:
    for path in ("/events", "/events/stream"):
        assert_bad(
            client.get(f"{path}?from=1&{query}"), "invalid_filter", "_version needs a stream"
        )
