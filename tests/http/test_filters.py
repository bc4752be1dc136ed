"""What a read selects: every parameter by itself, together, and against a plain model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.conftest import TenantClient
from tests.live_server import LiveServer

TYPES = ["A", "B", "C d&e"]
STREAMS = [None, "s-1", "s-2", "t-1", "s"]

Event = dict[str, Any]


def event(number: int) -> Event:
    """No two members go in step."""
    stream = STREAMS[number * number % 7 % len(STREAMS)]
    named = {} if stream is None else {"stream": stream}
    return {"type": TYPES[number % 3], "data": number, "timestamp": "2024-01-01T00:00:00Z", **named}


def fill(client: TenantClient, count: int) -> list[Event]:
    """So many events are stored; what is there in the end."""
    for start in range(0, count, 1_000):
        some = [event(number) for number in range(start, min(count, start + 1_000))]
        client.post("/events/batch", json=some).raise_for_status()
    return list(client.get("/events/stream?from=1").json())


class Filled:
    """A tenant with some hundred events, and these."""

    def __init__(self, client: TenantClient) -> None:
        self.client = client
        self.events = fill(client, 300)


@pytest.fixture(scope="module")
def filled(server: LiveServer, numbers: Iterator[int]) -> Iterator[Filled]:
    with TenantClient(server, next(numbers)) as client:
        yield Filled(client)


def get(client: TenantClient, path: str, query: dict[str, Any]) -> httpx.Response:
    return client.get(f"{path}?{urlencode(query, doseq=True)}")


def follow(client: TenantClient, query: dict[str, Any]) -> list[Event]:
    """Everything along the links; every page is within its limit."""
    url, found = f"/events?{urlencode(query, doseq=True)}", []
    for _ in range(2_000):
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page) <= query.get("limit", 10_000)
        found += page
        if "next" not in answer.links:
            return found
        url = answer.links["next"]["url"]
    raise AssertionError("the links have no end")


def model(events: list[Event], query: dict[str, Any]) -> list[Event]:
    """What a query selects, by looking at every event."""
    found = [
        one
        for one in events
        if one["position"] >= query.get("from", 0)
        and one["position"] <= query.get("to", 2**63)
        and (not query.get("type") or one["type"] in query["type"])
        and ("stream" not in query or one.get("stream") == query["stream"])
        and (
            "stream_prefix" not in query
            or ("stream" in one and one["stream"].startswith(query["stream_prefix"]))
        )
        and ("from_version" not in query or one["version"] >= query["from_version"])
        and ("to_version" not in query or one["version"] <= query["to_version"])
    ]
    if "last" in query:
        found = found[-query["last"] :]
    return found[::-1] if query.get("direction") == "backward" else found


positions = st.integers(0, 320)
selections = st.fixed_dictionaries(
    {},
    optional={
        "type": st.lists(st.sampled_from([*TYPES, "nobody"]), min_size=1, max_size=3),
        "stream": st.sampled_from(["s-1", "s-2", "t-1", "s", "nobody"]),
        "stream_prefix": st.sampled_from(["", "s", "s-", "t-1", "x"]),
        "from_version": st.integers(0, 60),
        "to_version": st.integers(0, 60),
        "from": positions,
        "to": positions,
        "since": st.just("2020-01-01T00:00:00Z"),
        "until": st.just("2199-01-01T00:00:00+01:00"),
    },
)


def with_a_stream(query: dict[str, Any]) -> dict[str, Any]:
    """Versions are those of a stream."""
    if "stream" not in query:
        query = {k: v for k, v in query.items() if k not in {"from_version", "to_version"}}
    return query


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_links_lead_through_exactly_what_a_plain_model_finds(
    filled: Filled, data: st.DataObject
) -> None:
    client, events = filled.client, filled.events
    query = with_a_stream(data.draw(selections))
    query |= data.draw(
        st.fixed_dictionaries(
            {"limit": st.sampled_from([7, 50, 10_000])},
            optional={"direction": st.sampled_from(["forward", "backward"])},
        )
    )
    if query.keys() <= {"from", "to", "limit"}:
        query.setdefault("from", 1)
    assert follow(client, query) == model(events, query)


@settings(max_examples=40, deadline=None)
@given(query=selections, batch=st.sampled_from([1, 7, 1_000]), last=st.sampled_from([None, 1, 40]))
def test_a_stream_of_events_is_filtered_in_every_form(
    filled: Filled,
    query: dict[str, Any],
    batch: int,
    last: int | None,
) -> None:
    client, events = filled.client, filled.events
    query = {"from": 1, **with_a_stream(query), "batch_size": batch}
    if last is not None:
        query = {**query, "last": last}
    expected = model(events, query)
    assert get(client, "/events/stream", query).json() == expected
    lines = client.get(
        f"/events/stream?{urlencode(query, doseq=True)}", headers={"Accept": "application/x-ndjson"}
    )
    assert [json.loads(line) for line in lines.content.splitlines()] == expected


@settings(max_examples=40, deadline=None)
@given(query=selections, last=st.sampled_from([1, 2, 20, 500]), backward=st.booleans())
def test_the_last_that_match_are_what_the_model_ends_with(
    filled: Filled,
    query: dict[str, Any],
    last: int,
    backward: bool,
) -> None:
    client, events = filled.client, filled.events
    query = {**with_a_stream(query), "last": last}
    if backward:
        query["direction"] = "backward"
    answer = get(client, "/events", query)
    assert answer.json() == model(events, query)
    assert "link" not in answer.headers  # these are all


def test_the_last_are_paged_from_the_end_and_no_more_than_asked_for(
    filled: Filled,
) -> None:
    client, events = filled.client, filled.events
    backward = {"last": 20, "limit": 6, "direction": "backward", "type": "A"}
    found = follow(client, backward)
    assert found == [one for one in events if one["type"] == "A"][-20:][::-1]


# Each by itself


@pytest.mark.parametrize(
    "query",
    [
        {"type": ["A"]},
        {"type": ["A", "C d&e"]},
        {"stream": "s-1"},
        {"stream_prefix": "s-"},
        {"stream_prefix": ""},
        {"stream": "s-1", "from_version": 3, "to_version": 5},
        {"direction": "forward"},
        {"direction": "forward", "to": 9},
        {"direction": "backward"},
        {"direction": "backward", "to": 9},
        {"direction": "backward", "from": 290},
        {"direction": "backward", "from": 100, "to": 105},
        {"last": 20},
        {"last": 20, "to": 100},
        {"last": 20, "type": ["B"], "from": 280},
        {"from": 1, "type": ["A"], "stream_prefix": "s", "to": 200},
        {"from": 400, "type": ["A"]},
        {"from": 20, "to": 10, "type": ["A"]},
    ],
    ids=str,
)
def test_a_parameter_selects_what_it_says(filled: Filled, query: dict[str, Any]) -> None:
    client, events = filled.client, filled.events
    assert get(client, "/events", query).json() == model(events, query)


def test_a_stream_of_the_last_begins_no_sooner_than_from(filled: Filled) -> None:
    client, events = filled.client, filled.events
    for start in (0, 250, 299, 300, 301, 400):
        for more in ({}, {"type": ["A"]}, {"to": 298}):
            query = {"last": 3, "from": start, **more}
            assert get(client, "/events/stream", query).json() == model(events, query), query


def test_a_limit_says_where_to_go_on_and_keeps_the_rest_of_the_query(
    filled: Filled,
) -> None:
    client = filled.client
    answer = client.get("/events?type=C+d%26e&limit=5&to=200&stream_prefix=")
    url = httpx.URL(answer.links["next"]["url"])
    assert url.path == "/events"
    kept = {"type": "C d&e", "limit": "5", "to": "200", "stream_prefix": ""}
    assert {**kept, "from": url.params["from"]} == dict(url.params)
    assert int(url.params["from"]) > answer.json()[-1]["position"]


def test_a_limit_alone_needs_from(filled: Filled) -> None:
    client, events = filled.client, filled.events
    assert client.get("/events?from=1&limit=3").json() == events[:3]
    answer = client.get("/events?limit=3")
    assert answer.status_code == 400
    assert "'from'" in answer.json()["detail"]


def test_nothing_that_matches_in_a_log_of_many_is_an_answer_with_an_end(
    client: TenantClient,
) -> None:
    """One read looks at so many events; the links lead on, though nothing has been found."""
    for _ in range(25):
        client.post("/events/batch", json=[{"type": "A", "data": 1}] * 1_000).raise_for_status()
    client.append("Rare")
    for query in ({"type": "Rare"}, {"type": "Rare", "from": 5}):
        assert [one["position"] for one in follow(client, query)] == [25_001]
    assert follow(client, {"type": "Nobody"}) == []
    assert follow(client, {"type": "Nobody", "direction": "backward"}) == []
    assert follow(client, {"stream_prefix": ""}) == []
    assert len(follow(client, {"type": "A", "last": 11})) == 11
    found = client.get("/events/stream?type=Rare&last=5").json()
    assert [one["position"] for one in found] == [25_001]
    wait = client.get("/events?type=Rare&from=1&wait=20s").json()
    assert [one["position"] for one in wait] == [25_001]


# Time


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_since_and_until_are_of_the_clock_of_the_server(client: TenantClient) -> None:
    client.append("Early")  # whose own time stamp is of 2024
    between = [now()]
    client.append("Late")

    def types(**query: Any) -> list[str]:
        return [one["type"] for one in get(client, "/events", query).json()]

    [moment] = between
    assert types(since=moment) == ["Late"]
    assert types(until=moment) == ["Early"]
    assert types(since=moment, until=moment) == []
    assert types(since="2020-01-01T00:00:00Z") == ["Early", "Late"]
    assert types(since="2199-01-01T00:00:00Z") == []
    assert types(until="2024-06-01T00:00:00Z") == []
    assert types(since=moment, type="Early") == []
    assert types(since=moment, direction="backward") == ["Late"]
    assert types(until=moment, last=5) == ["Early"]


def test_the_plus_of_an_offset_may_stand_in_a_query_as_it_is(client: TenantClient) -> None:
    client.append()
    for moment in ("2020-01-01T00:00:00+02:00", "2020-01-01T00:00:00%2B02:00"):
        assert len(client.get(f"/events?since={moment}").json()) == 1


# What cannot be


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("type=", "invalid_filter", "type"),
        ("type=a%0Ab", "invalid_filter", "type"),
        (f"type={'x' * 256}", "invalid_filter", "type"),
        ("type=A&type=", "invalid_filter", "type"),
        ("type=%ff", "invalid_parameter", "'type'"),
        ("stream=", "invalid_filter", "stream"),
        ("stream=%00", "invalid_filter", "stream"),
        (f"stream={'x' * 256}", "invalid_filter", "stream"),
        ("stream=a&stream=b", "invalid_parameter", "'stream'"),
        (f"stream_prefix={'x' * 256}", "invalid_filter", "stream_prefix"),
        ("stream_prefix=a&stream_prefix=b", "invalid_parameter", "'stream_prefix'"),
        ("from_version=1", "invalid_filter", "needs a stream"),
        ("stream=a&from_version=x", "invalid_parameter", "'from_version'"),
        ("stream=a&to_version=-1", "invalid_parameter", "'to_version'"),
        ("since=yesterday", "invalid_filter", "since"),
        ("since=", "invalid_filter", "since"),
        ("since=2024-02-30T00:00:00Z", "invalid_filter", "since"),
        ("until=2024-01-01T00:00:00", "invalid_filter", "until"),
        ("until=2024-01-01T00:00:00Z&until=2024-01-01T00:00:00Z", "invalid_parameter", "'until'"),
        ("last=0", "invalid_parameter", "'last'"),
        ("last=x", "invalid_parameter", "'last'"),
    ],
)
def test_a_filter_that_cannot_be_is_400_and_says_why(
    client: TenantClient, query: str, code: str, said: str
) -> None:
    for path in ("/events", "/events/stream"):
        answer = client.get(f"{path}?from=1&{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
        assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "'limit'"),
        ("limit=-5", "'limit'"),
        ("limit=1&limit=2", "'limit'"),
        ("direction=up", "forward or backward"),
        ("direction=", "forward or backward"),
        ("direction=backward&direction=backward", "'direction'"),
        ("wait=soon", "'wait'"),
        ("wait=-1s", "'wait'"),
        ("wait=61s", "at most 60s"),
        ("wait=2m", "at most 60s"),
        ("wait=", "'wait'"),
        ("wait=1s&direction=backward", "'wait'"),
        ("wait=1s&last=2", "'wait'"),
        ("wait=1s&until=2024-01-01T00:00:00Z", "'wait'"),
    ],
)
def test_what_a_read_cannot_do_is_400(client: TenantClient, query: str, said: str) -> None:
    answer = client.get(f"/events?from=1&{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter"), answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("follow=yes", "true or false"),
        ("follow=", "true or false"),
        ("follow=true&until=2199-01-01T00:00:00Z", "'until'"),
        ("last=10001", "at most 10000"),
        ("limit=5", "'limit' does not go with a stream"),
        ("direction=backward", "'direction' does not go with a stream"),
        ("wait=5s", "'wait' does not go with a stream"),
    ],
)
def test_what_a_stream_cannot_do_is_400(client: TenantClient, query: str, said: str) -> None:
    answer = client.get(f"/events/stream?from=1&{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter"), answer.text
    assert said in answer.json()["detail"]


def test_101_types_are_400(client: TenantClient) -> None:
    types = "&".join(f"type=t{number}" for number in range(100))
    answer = client.get(f"/events?{types}")
    assert answer.status_code == 200, answer.text
    assert client.get(f"/events?{types}&type=more").status_code == 400


def test_a_filter_finds_nothing_of_another_tenant(
    client: TenantClient, bystander: TenantClient
) -> None:
    client.post("/events", json={"type": "A", "data": 1, "stream": "s"})
    for query in ("type=A", "stream=s", "stream_prefix=", "last=5", "direction=backward"):
        assert bystander.get(f"/events?{query}").json() == []
        assert len(client.get(f"/events?{query}").json()) == 1
