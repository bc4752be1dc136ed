"""Events with ids of their own: however often one is sent, it is stored once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.conftest import TenantClient

AT = "2024-01-01T00:00:00Z"


def event(id: str | None = None, **members: Any) -> dict[str, Any]:
    named = {} if id is None else {"id": id}
    return {"type": "T", "data": {"a": 1}, **named, **members}


def batch(client: TenantClient, *events: dict[str, Any]) -> httpx.Response:
    return client.post("/events/batch", json=events)


def assert_refused(answer: httpx.Response, status: int, code: str, **said: object) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert {name: problem.get(name) for name in said} == said


# One event


def test_an_event_that_is_sent_again_is_answered_like_the_first_time(client: TenantClient) -> None:
    first = client.post("/events", json=event("a", stream="s", metadata={"by": "me"}))
    again = client.post("/events", json=event("a", stream="s", metadata={"by": "me"}))
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert "ebus-duplicate" not in first.headers
    assert again.headers["ebus-duplicate"] == "true"
    assert client.position() == 1
    assert client.get("/events?from=1").json() == [first.json()]


def test_an_event_keeps_its_id_its_stream_and_its_metadata(client: TenantClient) -> None:
    sent = event("a", stream="s", metadata={"correlation": "c"}, timestamp=AT)
    assert client.post("/events", json=sent).json() == {**sent, "position": 1, "version": 1}
    assert client.get("/events?from=1").json() == [{**sent, "position": 1, "version": 1}]


def test_events_without_an_id_are_never_the_same(client: TenantClient) -> None:
    for _ in range(3):
        client.post("/events", json=event(timestamp=AT))
    assert client.position() == 3


def test_a_time_stamp_that_is_not_sent_again_does_not_matter(client: TenantClient) -> None:
    first = client.post("/events", json=event("a", timestamp=AT))
    again = client.post("/events", json=event("a"))
    assert again.headers["ebus-duplicate"] == "true"
    assert again.json() == first.json()


@pytest.mark.parametrize(
    "other",
    [
        {"type": "U"},
        {"data": {"a": 2}},
        {"stream": "other"},
        {"stream": None},
        {"metadata": {"k": "w"}},
        {"metadata": None},
        {"timestamp": "2024-01-01T00:00:00.0Z"},
    ],
    ids=str,
)
def test_an_id_that_stands_for_something_else_is_409(
    client: TenantClient, other: dict[str, Any]
) -> None:
    client.append("Before")
    sent = event("a", stream="s", metadata={"k": "v"}, timestamp=AT)
    client.post("/events", json=sent)
    answer = client.post("/events", json={**sent, **other})
    assert_refused(answer, 409, "id_conflict", current=2, index=None)
    assert answer.json()["detail"].startswith("$.id: ")
    assert client.position() == 2


def test_data_is_the_same_only_byte_for_byte(client: TenantClient) -> None:
    client.post("/events", content=b'{"type":"T","id":"a","data":{"a":1}}')
    same = client.post("/events", content=b'{ "data":{"a":1}, "id":"a","type":"T"}')
    assert same.headers["ebus-duplicate"] == "true"
    other = client.post("/events", content=b'{"type":"T","id":"a","data":{"a": 1}}')
    assert_refused(other, 409, "id_conflict", current=1)


def test_an_id_of_one_tenant_is_nothing_to_another(
    client: TenantClient, bystander: TenantClient
) -> None:
    assert client.post("/events", json=event("a", data="mine")).status_code == 200
    answer = bystander.post("/events", json=event("a", data="theirs"))
    assert answer.status_code == 200
    assert "ebus-duplicate" not in answer.headers
    assert client.get("/events?from=1").json()[0]["data"] == "mine"
    assert bystander.get("/events?from=1").json()[0]["data"] == "theirs"


@pytest.mark.parametrize("name", ["id", "stream", "metadata"])
def test_null_means_that_a_member_is_absent(client: TenantClient, name: str) -> None:
    for _ in range(2):
        answer = client.post("/events", json={**event(), name: None})
        assert answer.status_code == 200
        assert name not in answer.json()
    assert client.position() == 2
    assert all(name not in one for one in client.get("/events?from=1").json())


# Bounds


@pytest.mark.parametrize("name", ["id", "stream"])
@pytest.mark.parametrize("value", ["x" * 255, "é" * 255, "日" * 255, "a b", "'\"%/?#", "."])
def test_a_name_may_be_any_text_of_255_characters(
    client: TenantClient, name: str, value: str
) -> None:
    assert client.post("/events", json=event(**{name: value})).status_code == 200
    assert client.get("/events?from=1").json()[0][name] == value


@pytest.mark.parametrize("name", ["id", "stream"])
@pytest.mark.parametrize("value", ["", "x" * 256, "a\nb", "\0", "\x85", 5, True, [], {}], ids=repr)
def test_what_is_no_name_is_400(client: TenantClient, name: str, value: object) -> None:
    bad = {**event(), name: value}
    answer = client.post("/events", json=bad)
    assert_refused(answer, 400, answer.json()["code"], index=None)
    assert answer.json()["detail"].startswith(f"$.{name}: "), answer.text
    answer = batch(client, event(), bad)
    assert_refused(answer, 400, answer.json()["code"])
    assert answer.json()["detail"].startswith(f"$[1].{name}: "), answer.text
    assert client.position() == 0


def test_a_problem_of_an_event_in_a_batch_says_which_and_what(client: TenantClient) -> None:
    answer = batch(client, event(), event("x" * 256))
    assert_refused(answer, 400, "invalid_event", index=1, field="id")


METADATA_OVERHEAD = len('{"k":""}')


def test_metadata_may_have_16_kib(client: TenantClient) -> None:
    full = {"k": "x" * (16 * 1024 - METADATA_OVERHEAD)}
    assert client.post("/events", json=event(metadata=full)).status_code == 200
    assert client.get("/events?from=1").json()[0]["metadata"] == full
    answer = client.post("/events", json=event(metadata={"k": full["k"] + "x"}))
    assert answer.status_code in {400, 413}
    assert "metadata" in answer.json()["detail"]
    assert client.position() == 1


@pytest.mark.parametrize(
    "value", [5, "x", [], {"k": 1}, {"k": None}, {"k": {}}, {"k": ["v"]}], ids=repr
)
def test_metadata_that_is_no_flat_object_of_strings_is_400(
    client: TenantClient, value: object
) -> None:
    answer = client.post("/events", json=event(metadata=value))
    assert answer.status_code == 400
    assert "$.metadata" in answer.json()["detail"]
    assert client.position() == 0


def test_metadata_comes_back_as_it_was_sent(client: TenantClient) -> None:
    raw = '{"z":"1","a":"\\u00e9","":"x y"}'
    client.post("/events", content=f'{{"type":"T","data":1,"metadata":{raw}}}'.encode())
    assert client.get("/events?from=1").json()[0]["metadata"] == json.loads(raw)


# Batches


def test_a_batch_that_is_sent_again_stores_nothing(client: TenantClient) -> None:
    client.append("Before")
    events = [event("a", stream="s"), event("b"), event("c", stream="s")]
    first, again = batch(client, *events), batch(client, *events)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["ebus-duplicate"] == "true"
    said, repeated = first.json(), again.json()
    assert (said["saved"], repeated["saved"]) == (3, 0)
    for name in ("first_position", "last_position"):
        assert said[name] == repeated[name]
    assert [one["position"] for one in said["events"]] == [2, 3, 4]
    assert [one.get("version") for one in said["events"]] == [1, None, 2]
    assert [one | {"duplicate": True} for one in said["events"]] == repeated["events"]
    assert client.position() == 4


def test_of_a_batch_that_is_there_in_part_the_others_are_stored_together(
    client: TenantClient,
) -> None:
    batch(client, event("a", stream="s"), event("b"))
    client.append("Between")
    answer = batch(client, event("x"), event("b"), event("y", stream="s"))
    said = answer.json()
    assert answer.headers["ebus-duplicate"] == "true"
    assert (said["saved"], said["first_position"], said["last_position"]) == (2, 2, 5)
    assert [one["position"] for one in said["events"]] == [4, 2, 5]
    assert [one.get("duplicate", False) for one in said["events"]] == [False, True, False]
    assert said["events"][2]["version"] == 2
    assert client.position() == 5


def test_an_id_twice_in_a_batch_is_stored_once(client: TenantClient) -> None:
    said = batch(client, event("a"), event("b"), event("a")).json()
    assert said["saved"] == 2
    assert [one["position"] for one in said["events"]] == [1, 2, 1]
    assert [one.get("duplicate", False) for one in said["events"]] == [False, False, True]
    assert client.position() == 2


def test_an_id_twice_in_a_batch_with_other_content_is_409(client: TenantClient) -> None:
    answer = batch(client, event("a"), event("b"), event("a", data="other"))
    assert_refused(answer, 409, "id_conflict", index=2)
    assert client.position() == 0


def test_a_batch_with_one_id_that_stands_for_something_else_stores_nothing(
    client: TenantClient,
) -> None:
    client.append("Before")
    client.post("/events", json=event("a"))
    answer = batch(client, event("x"), event("y"), event("a", data="other"))
    assert_refused(answer, 409, "id_conflict", current=2, index=2)
    assert answer.json()["detail"].startswith("$[2].id: ")
    assert client.position() == 2
    assert client.post("/events", json=event("x")).json()["position"] == 3


def test_a_batch_without_ids_and_streams_is_answered_as_ever(client: TenantClient) -> None:
    answer = batch(client, event(), event())
    assert answer.content == b'{"saved":2,"first_position":1,"last_position":2}'


def test_a_single_and_a_batch_know_each_other(client: TenantClient) -> None:
    client.post("/events", json=event("a"))
    assert batch(client, event("a")).json()["saved"] == 0
    batch(client, event("b"))
    assert client.post("/events", json=event("b")).json()["position"] == 2


# What was expected, and what races


def test_a_repeated_append_whose_expectation_no_longer_holds_is_answered_as_the_first(
    client: TenantClient,
) -> None:
    sent = event("a", stream="s", expected_version=0, expected_position=0)
    first = client.post("/events", json=sent)
    client.post("/events", json=event(stream="s"))
    again = client.post("/events", json=sent)
    assert first.status_code == 200, first.text
    assert again.status_code == 200, again.text
    assert again.content == first.content
    other = client.post("/events", json={**sent, "id": "b"})
    assert other.status_code == 409
    assert other.json()["code"] in {"version_conflict", "position_conflict"}
    assert client.position() == 2


def test_a_repeated_batch_whose_expectation_no_longer_holds_is_answered_as_the_first(
    client: TenantClient,
) -> None:
    sent = {"events": [event("a", stream="s"), event("b", stream="t")]}
    expecting = {**sent, "expected_versions": {"s": 0, "t": 0}}
    first, again = (client.post("/events/batch", json=expecting) for _ in range(2))
    assert (first.json()["saved"], again.json()["saved"]) == (2, 0)
    with_a_new_one = {**expecting, "events": [*sent["events"], event("c", stream="t")]}
    answer = client.post("/events/batch", json=with_a_new_one)
    assert_refused(answer, 409, "version_conflict", current=1)
    assert client.position() == 2


def test_requests_that_race_with_one_id_store_it_once(client: TenantClient) -> None:
    def send(number: int) -> tuple[dict[str, Any], bool]:
        answer = client.post("/events", json=event("a", stream="s"))
        assert answer.status_code == 200
        return answer.json(), answer.headers.get("ebus-duplicate") == "true"

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(24)))
    assert all(said == answers[0][0] for said, _ in answers)
    assert sum(not duplicate for _, duplicate in answers) == 1
    assert client.position() == 1


def test_of_different_events_that_race_for_one_id_one_is_stored(client: TenantClient) -> None:
    def send(number: int) -> httpx.Response:
        return client.post("/events", json=event("a", data=number))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(16)))
    stored = client.get("/events?from=1").json()
    assert len(stored) == 1
    for number, answer in enumerate(answers):
        if number == stored[0]["data"]:
            assert answer.status_code == 200
        else:
            assert_refused(answer, 409, "id_conflict", current=1)


def test_batches_that_race_and_share_ids_store_each_event_once(client: TenantClient) -> None:
    def send(number: int) -> int:
        answer = batch(client, *[event(f"id-{number + step}") for step in range(5)])
        assert answer.status_code == 200
        return int(answer.json()["saved"])

    with ThreadPoolExecutor(8) as threads:
        saved = sum(threads.map(send, range(20)))
    stored = client.get("/events?from=1").json()
    assert saved == len(stored) == 24
    assert {one["id"] for one in stored} == {f"id-{number}" for number in range(24)}
    assert [one["position"] for one in stored] == list(range(1, 25))


def test_an_id_is_known_the_long_way_too(client: TenantClient) -> None:
    sent = [("X-Way", "long"), ("X-Way", "long"), ("X-API-Key", client.key)]
    for duplicate in (None, "true"):
        answer = httpx.post(
            f"{client.server.url}/events", json=event("a"), headers=sent, verify=False
        )
        assert answer.status_code == 200
        assert answer.headers.get("ebus-duplicate") == duplicate
