"""`GET /metrics` as text: what is counted, for whom, and who sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from ebus.http.routes.metrics import OPENMETRICS, TEXT, form_of
from tests.http.scrapes import (
    ADMIN_KEY,
    EVENT,
    KEYS,
    ask,
    scrape,
    scrape_of_all_workers,
    scraped_server,
    use_all_of_it,
)
from tests.live_server import LiveServer

JSON = "application/json"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with scraped_server(tmp_path) as server:
        yield server


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_a_tenant_does_is_counted_whichever_worker_is_asked(
    tmp_path: Path, workers: str
) -> None:
    with scraped_server(tmp_path, "--workers", workers) as server:
        use_all_of_it(server)
        scrape_of_all_workers(server)
        for _ in range(4):
            seen = scrape(server)
            assert seen("ebus_requests_total", method="POST", route="/events", status="200") == 3
            assert seen("ebus_requests_total", route="/events/batch", status="200") == 1
            route = "/subscriptions/{subscription_id}/position"
            assert seen("ebus_requests_total", method="PUT", route=route, status="204") == 1
            assert seen("ebus_requests_total", route="other", status="404") == 1
            count = seen("ebus_request_duration_seconds_count", method="POST", route="/events")
            assert count == 3
            assert seen("ebus_events_appended_total") == 7
            assert seen("ebus_events_delivered_total") == 7
            assert seen("ebus_refusals_total", reason="not_found") == 1
            assert seen("ebus_commit_writes_sum") == 5
            assert 1 <= seen("ebus_commit_writes_count") <= 5
            syncs = seen("ebus_commit_sync_duration_seconds_count")
            assert syncs == seen("ebus_commit_duration_seconds_count")
            assert seen("ebus_commit_sync_duration_seconds_sum") > 0
            assert seen("ebus_head_position") == 7
            assert seen("ebus_subscription_lag_events", subscription="mailer") == 2
            assert seen("ebus_subscription_lag_max_events") == 2
            assert seen("ebus_database_bytes") > 0
            assert seen("ebus_wal_bytes") > 0
            assert seen("ebus_scrape_unanswered_tenants") == 0


def test_no_counter_goes_back_whichever_worker_is_asked(tmp_path: Path) -> None:
    with scraped_server(tmp_path, "--workers", "2") as server:
        counted = 0.0
        for _ in range(30):
            ask(server, "POST", "/events", json=EVENT)
            was, counted = counted, scrape(server)("ebus_events_appended_total")
            assert counted >= was


def test_a_tenant_sees_nothing_of_another(server: LiveServer) -> None:
    use_all_of_it(server)
    seen = scrape(server)
    assert seen.values_of("tenant") == {"alice"}
    assert "bob" not in seen.text
    assert seen("ebus_refusals_total", reason="key_invalid") == 0
    for series in ("ebus_tenants", "ebus_open_tenants", "ebus_connections", "ebus_workers"):
        assert f"{series} " not in seen.text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_admin_key_sees_all_tenants_and_what_is_nobodys(tmp_path: Path, workers: str) -> None:
    with scraped_server(tmp_path, "--workers", workers) as server:
        use_all_of_it(server)
        seen = scrape_of_all_workers(server, ADMIN_KEY)
        assert seen.values_of("tenant") == {"alice", "bob", ""}
        for tenant in KEYS:
            assert seen("ebus_events_appended_total", tenant=tenant) == 7
            assert seen("ebus_head_position", tenant=tenant) == 7
            assert seen("ebus_subscription_lag_max_events", tenant=tenant) == 2
            assert seen("ebus_database_bytes", tenant=tenant) > 0
        assert seen("ebus_requests_total", tenant="", status="401") == 1
        assert seen("ebus_refusals_total", tenant="", reason="key_invalid") == 1
        assert seen("ebus_request_duration_seconds_count", method="POST", route="/events") == 6
        assert seen("ebus_tenants") == 2
        assert seen("ebus_open_tenants") >= 2
        assert seen("ebus_connections") >= 1
        assert seen("ebus_config_generation") == 1
        assert seen("ebus_config_last_reload_successful") == 1
        # What would be a series for each tenant and route, or for each subscription, is left out.
        assert seen.values_of("subscription") == set()
        assert 'ebus_request_duration_seconds_bucket{le="+Inf",method="POST",route="/events"}' in (
            seen.text
        )


def test_the_admin_key_opens_no_tenant(server: LiveServer) -> None:
    for method, path in [
        ("POST", "/events"),
        ("GET", "/events?from=1"),
        ("GET", "/position"),
        ("GET", "/tenants"),
        ("GET", "/nowhere"),
        ("DELETE", "/metrics"),
    ]:
        answer = ask(server, method, path, ADMIN_KEY, json=EVENT if method == "POST" else None)
        assert answer.status_code == 403
        assert answer.json()["code"] == "admin_key"
    assert ask(server, "GET", "/metrics", ADMIN_KEY[:-1]).status_code == 401
    assert httpx.get(f"{server.url}/metrics", verify=False).status_code == 401
    bearer = {"Authorization": f"Bearer {ADMIN_KEY}", "Accept": "text/plain"}
    assert httpx.get(f"{server.url}/metrics", headers=bearer, verify=False).status_code == 200
    assert ADMIN_KEY not in server.log


def test_wrong_keys_for_the_whole_server_count_as_failed_keys(tmp_path: Path) -> None:
    limits = {"max_failed_keys_per_minute": 3}
    with scraped_server(tmp_path, limits=limits) as server:
        statuses = [ask(server, "GET", "/metrics", "wrong").status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert ask(server, "GET", "/metrics", ADMIN_KEY).status_code == 200


def test_json_is_answered_unless_something_else_is_wanted(server: LiveServer) -> None:
    ask(server, "POST", "/events", json=EVENT)
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json, text/plain, */*"}):
        answer = ask(server, "GET", "/metrics", headers=headers)
        assert answer.headers["content-type"] == JSON
        body = answer.json()
        assert list(body) == ["tenant", "total_events", "timestamp"]
        assert (body["tenant"], body["total_events"]) == ("alice", 1)
    whole = ask(server, "GET", "/metrics", ADMIN_KEY).json()
    assert (whole["tenants"], whole["open_tenants"]) == (2, 2)


def test_openmetrics_can_be_read(server: LiveServer) -> None:
    use_all_of_it(server)
    for key in (KEYS["alice"], ADMIN_KEY):
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"}
        answer = ask(server, "GET", "/metrics", key, headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1")
        families = openmetrics_families(answer.text)  # type: ignore[no-untyped-call]
        names = {family.name for family in families}
        assert {"ebus_requests", "ebus_commit_writes", "ebus_head_position"} <= names


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("application/json, text/plain, */*", JSON),
        ("image/png", JSON),
        ("text/plain", TEXT),
        ("text/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/json;q=0.5, text/plain", TEXT),
        ("text/plain;q=0", JSON),
        (
            "application/openmetrics-text;version=1.0.0,"
            "application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
            OPENMETRICS,
        ),
    ],
)
def test_what_is_answered_follows_the_weights_of_accept(accept: str, form: str) -> None:
    assert form_of(accept.encode()) == form


def test_streams_are_counted_on_both_ways(server: LiveServer) -> None:
    ask(server, "POST", "/events/batch", json=[EVENT] * 5)
    for path in ("/events/stream?from=1", "/events/stream?from=1&follow=true&to=5"):
        ask(server, "GET", path)
        ask(server, "GET", path, headers={"Expect": "100-continue"})  # goes by ASGI
    seen = scrape(server)
    assert seen("ebus_requests_total", route="/events/stream", status="200") == 4
    assert seen("ebus_events_delivered_total") == 20
    assert seen("ebus_response_body_bytes_total") > 20 * 50


def test_an_answer_counts_the_same_on_both_ways(server: LiveServer) -> None:
    for key, headers in ((KEYS["alice"], {}), (KEYS["bob"], {"Expect": "100-continue"})):
        ask(server, "POST", "/events", key, json=EVENT, headers=headers)
        ask(server, "POST", "/events", key, json={"type": 1}, headers=headers)
        ask(server, "GET", "/events?from=1", key, headers=headers)
    seen = scrape(server, ADMIN_KEY)
    for name in (
        "ebus_requests_total",
        "ebus_request_body_bytes_total",
        "ebus_events_appended_total",
        "ebus_events_delivered_total",
        "ebus_refusals_total",
    ):
        assert seen(name, tenant="alice") == seen(name, tenant="bob") > 0, name


def test_an_engine_without_files_has_figures_too(tmp_path: Path) -> None:
    with scraped_server(tmp_path, engine="memory") as server:
        use_all_of_it(server)
        seen = scrape(server, ADMIN_KEY)
        assert seen("ebus_head_position", tenant="bob") == 7
        assert seen("ebus_commit_sync_duration_seconds_count") == 0
        assert "ebus_database_bytes{" not in seen.text
