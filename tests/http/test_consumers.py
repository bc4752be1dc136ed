"""Checkpoints that are compared, and consumers who share the work of a subscription."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import TenantClient, write_config
from tests.live_server import LiveServer, serving

KEY = "a" * 40


def fill(client: httpx.Client, count: int) -> None:
    client.post("/events/batch", json=[{"type": "T", "data": 1}] * count).raise_for_status()


def lease(client: httpx.Client, name: str = "s", wait: str = "0s", **asked: Any) -> dict[str, Any]:
    """A lease that there must be."""
    answer = client.post(f"/subscriptions/{name}/lease?wait={wait}", json=asked)
    assert answer.status_code == 200, (answer.status_code, answer.text)
    given: dict[str, Any] = answer.json()
    positions = [event["position"] for event in given["events"]]
    assert positions == list(range(given["first_position"], given["last_position"] + 1))
    return given


def nothing(client: httpx.Client, name: str = "s", **asked: Any) -> bool:
    answer = client.post(f"/subscriptions/{name}/lease", json=asked)
    return answer.status_code == 204


def bounds(given: dict[str, Any]) -> tuple[int, int, int]:
    return given["first_position"], given["last_position"], given["attempt"]


def end(
    client: httpx.Client, given: dict[str, Any], how: str = "ack", name: str = "s", **said: Any
) -> httpx.Response:
    return client.post(f"/subscriptions/{name}/lease/{given['lease']}/{how}", json=said)


def state(client: httpx.Client, name: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/subscriptions/{name}").raise_for_status().json()
    return found


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


# Checkpoints


def test_a_checkpoint_is_saved_only_where_it_is_what_was_expected(client: TenantClient) -> None:
    path = "/subscriptions/s/position"
    assert client.get(path).headers["etag"] == '"0"'

    def save(position: int, expected: str) -> httpx.Response:
        return client.put(path, json={"position": position}, headers={"If-Match": expected})

    first = save(5, '"0"')
    assert (first.status_code, first.headers["etag"]) == (204, '"5"')
    refused = save(9, '"0"')
    assert_refused(refused, 412, "checkpoint_conflict")
    assert (refused.headers["etag"], refused.json()["current"]) == ('"5"', 5)
    assert save(3, '"5"').status_code == 204
    assert client.get(path).json() == {"position": 3}


@pytest.mark.parametrize(
    "value", ["", "*", "5", '"x"', 'W/"5"', '"1", "2"', '""', '"9223372036854775808"']
)
def test_what_is_no_etag_of_a_checkpoint_is_400(client: TenantClient, value: str) -> None:
    answer = client.put(
        "/subscriptions/s/position", json={"position": 1}, headers={"If-Match": value}
    )
    assert_refused(answer, 400, "invalid_header")
    assert client.get("/subscriptions/s/position").json() == {"position": 0}


@pytest.mark.parametrize(
    "headers",
    [
        [("If-Match", '"0"'), ("If-Match", '"7"')],
        [("If-Match", '"0"'), ("If-Match", '"0"')],
        [("If-None-Match", "*")],
        [("If-Match", '"0"'), ("If-None-Match", '"0"')],
    ],
    ids=str,
)
def test_no_condition_on_a_checkpoint_is_overlooked(
    client: TenantClient, headers: list[tuple[str, str]]
) -> None:
    for method in ("PUT", "POST"):
        path, body = "/subscriptions/s/position", {"position": 1}
        answer = client.request(method, path, json=body, headers=headers)
        assert_refused(answer, 400, "invalid_header")
        assert "If-Match" in answer.json()["detail"]
    assert client.get("/subscriptions/s/position").json() == {"position": 0}


def test_of_savers_that_race_exactly_one_wins(client: TenantClient) -> None:
    def save(position: int) -> int:
        headers = {"If-Match": '"0"'}
        body = {"position": position}
        return client.put("/subscriptions/s/position", json=body, headers=headers).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(save, range(1, 17)))
    assert sorted(statuses) == [204] + [412] * 15


def test_subscriptions_are_listed_with_how_far_they_are_behind(client: TenantClient) -> None:
    assert client.get("/subscriptions").json() == {"subscriptions": [], "head": 0}
    fill(client, 10)
    for name, position in (("b", 4), ("a-2", 10), ("a-1", 99)):
        client.put(f"/subscriptions/{name}/position", json={"position": position})
    listed = client.get("/subscriptions").json()
    assert listed["head"] == 10
    assert [(one["id"], one["position"], one["lag"]) for one in listed["subscriptions"]] == [
        ("a-1", 99, 0),
        ("a-2", 10, 0),
        ("b", 4, 6),
    ]
    found = client.get("/subscriptions?prefix=a-").json()["subscriptions"]
    assert [one["id"] for one in found] == ["a-1", "a-2"]
    found = client.get("/subscriptions?after=a-1").json()["subscriptions"]
    assert [one["id"] for one in found] == ["a-2", "b"]


def test_subscriptions_are_listed_in_pages(client: TenantClient) -> None:
    names = sorted(f"n{number}&=" for number in range(11))
    for name in names:
        client.put(f"/subscriptions/{name}/position", json={"position": 1})
    url, found = "/subscriptions?prefix=n&limit=4", []
    for _ in range(5):
        answer = client.get(url)
        found += [one["id"] for one in answer.json()["subscriptions"]]
        if "next" not in answer.links:
            break
        url = answer.links["next"]["url"]
    assert found == names


def test_a_subscription_that_is_deleted_is_gone_with_all_it_held(
    client: TenantClient, bystander: TenantClient
) -> None:
    for one in (client, bystander):
        fill(one, 3)
        given = lease(one)
    assert client.delete("/subscriptions/s").status_code == 204
    assert_refused(client.get("/subscriptions/s"), 404, "unknown_subscription")
    assert_refused(client.delete("/subscriptions/s"), 404, "unknown_subscription")
    assert client.get("/subscriptions").json()["subscriptions"] == []
    assert bounds(lease(client)) == (1, 3, 1)
    assert end(bystander, given).status_code == 204  # which nobody has deleted


def test_a_subscription_is_deleted_only_where_it_is_what_was_expected(
    client: TenantClient,
) -> None:
    def delete(expected: str) -> httpx.Response:
        return client.delete("/subscriptions/s", headers={"If-Match": expected})

    assert_refused(delete('"7"'), 404, "unknown_subscription")
    client.put("/subscriptions/s/position", json={"position": 5})
    refused = delete('"7"')
    assert_refused(refused, 412, "checkpoint_conflict")
    assert (refused.headers["etag"], refused.json()["current"]) == ('"5"', 5)
    assert_refused(delete("*"), 400, "invalid_header")
    assert state(client)["position"] == 5
    assert delete('"5"').status_code == 204
    assert_refused(delete('"5"'), 404, "unknown_subscription")


# Leases


def test_leases_are_ranges_one_after_the_other(client: TenantClient) -> None:
    assert nothing(client)
    fill(client, 25)
    given = [lease(client, max_events=10) for _ in range(3)]
    assert [bounds(one) for one in given] == [(1, 10, 1), (11, 20, 1), (21, 25, 1)]
    assert nothing(client)
    assert len({one["lease"] for one in given}) == 3
    assert given[0]["events"] == client.get("/events?from=1&to=10").json()
    assert [one["lease"] for one in state(client)["leases"]] == [one["lease"] for one in given]


def test_the_checkpoint_never_passes_what_is_unfinished(client: TenantClient) -> None:
    fill(client, 30)
    first, second, third = (lease(client, max_events=10) for _ in range(3))
    assert end(client, second).status_code == 204
    assert state(client)["position"] == 0
    assert end(client, first, position=4).status_code == 204
    assert (state(client)["position"], state(client)["lag"]) == (4, 26)
    assert end(client, first).status_code == 204
    assert state(client)["position"] == 20
    assert end(client, third).status_code == 204
    assert state(client)["position"] == 30
    assert client.get("/subscriptions/s/position").json() == {"position": 30}


def test_a_lease_that_has_ended_is_lost(client: TenantClient) -> None:
    fill(client, 5)
    given = lease(client)
    end(client, given)
    for how in ("ack", "extend", "release"):
        assert_refused(end(client, given, how), 409, "lease_lost")
        unknown = {"lease": "never-given"}
        assert_refused(end(client, unknown, how), 409, "lease_lost")
    fill(client, 1)
    held = lease(client)
    client.put("/subscriptions/s/position", json={"position": 0})
    assert_refused(end(client, held), 409, "lease_lost")
    assert bounds(lease(client)) == (1, 6, 1)


def test_what_runs_out_is_handed_out_again_one_by_one(client: TenantClient) -> None:
    fill(client, 3)
    lost = lease(client, seconds=0.05)
    again = [lease(client, wait="20s"), lease(client), lease(client)]
    assert [bounds(one) for one in again] == [(1, 1, 2), (2, 2, 2), (3, 3, 2)]
    assert_refused(end(client, lost), 409, "lease_lost")
    for one in again:
        end(client, one)
    assert state(client)["position"] == 3


def test_what_fails_too_often_is_parked_and_redelivered_or_dropped(client: TenantClient) -> None:
    fill(client, 2)
    for attempt in (1, 2):
        for _ in range(2 if attempt == 2 else 1):
            given = lease(client, max_attempts=2)
            assert given["attempt"] == attempt
            assert end(client, given, "release", reason="no luck").status_code == 204
    now = state(client)
    assert now["position"] == 2
    assert [(one["first_position"], one["attempts"], one["reason"]) for one in now["parked"]] == [
        (1, 2, "no luck"),
        (2, 2, "no luck"),
    ]
    assert nothing(client)
    parked = "/subscriptions/s/parked"
    assert client.post(f"{parked}/1/redeliver").status_code == 204
    assert_refused(client.post(f"{parked}/1/redeliver"), 404, "not_parked")
    assert bounds(lease(client)) == (1, 1, 1)
    assert client.delete(f"{parked}/2").status_code == 204
    for bad in ("2", "x", "-1", "9" * 40):
        assert_refused(client.delete(f"{parked}/{bad}"), 404, "not_parked")
    assert state(client)["parked"] == []
    assert client.position() == 2


def test_a_release_says_what_has_failed(client: TenantClient) -> None:
    fill(client, 10)
    assert end(client, lease(client), "release", position=4).status_code == 204
    assert state(client)["position"] == 3
    failed, rest = lease(client), lease(client)
    assert [bounds(failed), bounds(rest)] == [(4, 4, 2), (5, 10, 1)]
    assert end(client, rest, "release", failed=False).status_code == 204
    assert bounds(lease(client)) == (5, 10, 1)


def test_what_is_released_with_a_delay_comes_later(client: TenantClient) -> None:
    fill(client, 1)
    started = time.monotonic()
    end(client, lease(client), "release", delay=0.4)
    again = lease(client, wait="20s")
    assert 0.3 < time.monotonic() - started < 15
    assert bounds(again) == (1, 1, 2)


def test_a_lease_that_is_extended_lasts(client: TenantClient) -> None:
    fill(client, 1)
    given = lease(client, seconds=5)
    extended = end(client, given, "extend", seconds=600)
    assert extended.status_code == 200
    assert extended.json()["expires_at"] > given["expires_at"]
    assert extended.json()["lease"] == given["lease"]
    short = end(client, given, "extend", seconds=0.05)
    assert short.json()["expires_at"] < given["expires_at"]
    assert bounds(lease(client, wait="20s")) == (1, 1, 2)


def test_who_waits_for_a_lease_gets_what_comes(client: TenantClient) -> None:
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(lease, client, "s", "30s")
        fill(client, 2)
        assert waits.result(20)["first_position"] == 1
    assert client.post("/subscriptions/t/lease?wait=20ms", json={}).status_code == 200
    assert client.post("/subscriptions/t/lease?wait=20ms", json={}).status_code == 204


def wait_while(client: httpx.Client, happens: Callable[[], object]) -> tuple[int, int, int]:
    """The lease of one who has waited for a moment when this happens."""
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(lease, client, "s", "50s")
        with pytest.raises(TimeoutError):
            waits.result(0.3)
        happens()
        return bounds(waits.result(20))


@pytest.mark.parametrize("what", ["release", "rewind", "delete", "redeliver", "fail later"])
def test_who_waits_for_a_lease_gets_what_others_let_go(client: TenantClient, what: str) -> None:
    fill(client, 2)
    end(client, lease(client, max_events=1, max_attempts=1), "release")
    given = lease(client)

    def let_go() -> object:
        if what == "rewind":
            return client.put("/subscriptions/s/position", json={"position": 1})
        if what == "delete":
            return client.delete("/subscriptions/s")
        if what == "redeliver":
            return client.post("/subscriptions/s/parked/1/redeliver")
        if what == "fail later":
            return end(client, given, "release", delay=0.2)
        return end(client, given, "release", failed=False)

    expected = {"delete": (1, 2, 1), "redeliver": (1, 1, 1), "fail later": (2, 2, 2)}
    assert wait_while(client, let_go) == expected.get(what, (2, 2, 1))


def test_a_lease_of_large_events_is_cut_and_the_rest_is_for_others(client: TenantClient) -> None:
    for _ in range(9):
        client.post("/events", json={"type": "T", "data": "x" * 900_000}).raise_for_status()
    found: list[dict[str, Any]] = []
    while not nothing_left(client, found):
        pass
    ranges = [bounds(one) for one in found]
    assert len(ranges) > 1
    assert ranges[0][0] == 1
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(ranges))
    assert ranges[-1][1] == 9
    assert {attempt for _, _, attempt in ranges} == {1}
    for one in found:
        end(client, one)
    assert state(client)["position"] == 9


def nothing_left(client: httpx.Client, found: list[dict[str, Any]]) -> bool:
    answer = client.post("/subscriptions/s/lease", json={})
    if answer.status_code == 200:
        found.append(answer.json())
    return answer.status_code == 204


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("", {"max_events": 0}),
        ("", {"max_events": 10_001}),
        ("", {"seconds": 0}),
        ("", {"seconds": 86_401}),
        ("", {"max_attempts": 0}),
        ("/LEASE/ack", {"position": 3}),
        ("/LEASE/ack", {"position": 0}),
        ("/LEASE/extend", {"seconds": -1}),
        ("/LEASE/release", {"delay": -1}),
        ("/LEASE/release", {"reason": "x" * 256}),
        ("/LEASE/release", {"position": 3}),
    ],
)
def test_bounds_that_cannot_be_are_400_and_change_nothing(
    client: TenantClient, how: str, said: dict[str, Any]
) -> None:
    fill(client, 2)
    given = lease(client)
    before = state(client)
    path = f"/subscriptions/s/lease{how}".replace("LEASE", given["lease"])
    assert_refused(client.post(path, json=said), 400, "invalid_lease")
    assert state(client) == before


@pytest.mark.parametrize("body", [b"[]", b"5", b'{"max_events":"x"}', b'{"seconds":null}', b"{"])
def test_a_lease_that_is_asked_for_badly_is_400(client: TenantClient, body: bytes) -> None:
    assert client.post("/subscriptions/s/lease", content=body).status_code == 400
    assert client.post("/subscriptions/s/lease").status_code == 204


def test_leases_of_one_tenant_are_nothing_to_another(
    client: TenantClient, bystander: TenantClient
) -> None:
    for one in (client, bystander):
        fill(one, 1)
    given = lease(client)
    for how in ("ack", "extend", "release"):
        assert_refused(end(bystander, given, how), 409, "lease_lost")
    assert end(client, given).status_code == 204


def test_the_default_of_a_lease_is_never_more_than_may_be_read(tmp_path: Path) -> None:
    tenants = [{"name": "alice", "api_key": KEY}]
    config = {"engine": "memory", "tenants": tenants, "limits": {"max_read_events": 20}}
    write_config(tmp_path / "tenants.yaml", config)
    with (
        serving(["--config", "tenants.yaml"], cwd=tmp_path) as server,
        httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, verify=False) as client,
    ):
        fill(client, 30)
        assert bounds(lease(client)) == (1, 20, 1)


def test_with_too_much_parked_there_are_no_leases_until_somebody_looks(tmp_path: Path) -> None:
    tenants = [{"name": "alice", "api_key": KEY}]
    config = {"engine": "memory", "tenants": tenants, "limits": {"max_parked": 2}}
    write_config(tmp_path / "tenants.yaml", config)
    with (
        serving(["--config", "tenants.yaml"], cwd=tmp_path) as server,
        httpx.Client(
            base_url=server.url, headers={"X-API-Key": KEY}, timeout=60, verify=False
        ) as client,
    ):
        fill(client, 4)
        for _ in range(2):
            end(client, lease(client, max_events=1, max_attempts=1), "release", reason="no luck")
        for wait in ("0s", "20s"):
            refused = client.post(f"/subscriptions/s/lease?wait={wait}", json={})
            assert_refused(refused, 409, "too_many_parked")
            assert refused.json()["current"] == 2
        assert client.delete("/subscriptions/s/parked/1").status_code == 204
        assert bounds(lease(client)) == (3, 4, 1)


def test_events_that_failed_together_are_not_parked_together(client: TenantClient) -> None:
    fill(client, 10)
    lease(client, max_attempts=1, seconds=0.01)
    again = [lease(client, wait="20s", max_attempts=1) for _ in range(2)]
    assert [bounds(one) for one in again] == [(1, 1, 1), (2, 2, 1)]
    assert state(client)["parked"] == []
    end(client, again[0], "release")
    end(client, again[1])
    assert [one["first_position"] for one in state(client)["parked"]] == [1]


# Competition


def compete(url: str, key: str, name: str, *, workers: int = 4, events: int = 200) -> None:
    """Everything is processed, nothing by two at once, whatever fails on the way."""
    held: set[int] = set()
    done: list[int] = []
    guard = threading.Lock()

    def work(number: int) -> None:
        with httpx.Client(
            base_url=url, headers={"X-API-Key": key}, timeout=60, verify=False
        ) as client:
            for turn in itertools.count(number):
                if len(done) >= events:
                    return
                asked = {"max_events": 7, "seconds": 60, "max_attempts": 100}
                answer = client.post(f"/subscriptions/{name}/lease?wait=100ms", json=asked)
                if answer.status_code == 204:
                    continue
                given = answer.raise_for_status().json()
                mine = {event["position"] for event in given["events"]}
                with guard:
                    assert not mine & held
                    held.update(mine)
                fails = turn % 5 == 0 and given["attempt"] < 3
                with guard:
                    held.difference_update(mine)
                    if not fails:
                        done.extend(mine)
                how = "release" if fails else "ack"
                end(client, given, how, name).raise_for_status()

    with ThreadPoolExecutor(workers) as threads:
        for result in [threads.submit(work, number) for number in range(workers)]:
            result.result(60)
    assert sorted(done) == list(range(1, events + 1))


def test_workers_that_compete_process_everything_once(client: TenantClient) -> None:
    fill(client, 200)
    compete(client.server.url, client.key, "s")
    assert (state(client)["position"], state(client)["parked"]) == (200, [])


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory: Path = tmp_path_factory.mktemp("workers")
    tenants = [{"name": "alice", "api_key": KEY}]
    write_config(directory / "tenants.yaml", {"tenants": tenants, "durability": "normal"})
    arguments = ["--config", "tenants.yaml", "--workers", "2"]
    with serving(arguments, cwd=directory) as server:
        yield server
    assert "Traceback" not in server.log


def test_nor_does_it_matter_through_which_server_process(two_workers: LiveServer) -> None:
    with httpx.Client(base_url=two_workers.url, headers={"X-API-Key": KEY}, verify=False) as client:
        fill(client, 200)
        compete(two_workers.url, KEY, "s")
        assert state(client)["position"] == 200


def test_who_waits_for_a_lease_gets_what_another_server_process_lets_go(
    two_workers: LiveServer,
) -> None:
    headers = {"X-API-Key": KEY}
    with httpx.Client(
        base_url=two_workers.url, headers=headers, timeout=60, verify=False
    ) as client:
        fill(client, 1)
        client.put(
            "/subscriptions/waits/position",
            json={"position": client.get("/position").json()["position"] - 1},
        )
        for _ in range(4):
            given = lease(client, "waits")
            with (
                ThreadPoolExecutor(1) as thread,
                httpx.Client(
                    base_url=two_workers.url, headers=headers, timeout=60, verify=False
                ) as other,
            ):
                waits = thread.submit(lease, other, "waits", "50s")
                with pytest.raises(TimeoutError):
                    waits.result(0.3)
                end(client, given, "release", "waits", failed=False)
                end(client, waits.result(20), "release", "waits", failed=False)
