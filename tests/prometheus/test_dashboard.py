"""The dashboard and the alerts in `docs/`, against a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.http.scrapes import ADMIN_KEY, KEYS, scrape, scraped_server, use_all_of_it
from tests.live_server import LiveServer

DASHBOARD = ROOT / "docs" / "grafana" / "ebus.json"
ALERTS = ROOT / "docs" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "metrics.md"

TIMEOUT_S = 60.0


def program(name: str) -> str:
    """Where it is: installed, or where `make prometheus` has put it."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"needs {name}: make prometheus")
        pytest.skip(f"needs {name}: make prometheus")
    return found


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_bytes())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Prometheus:
    """One that scrapes every second."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str) -> list[Any]:
        """Raises `AssertionError` with what is wrong with the query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        result: list[Any] = answer["data"]["result"]
        return result

    def wait(self, is_so: Callable[[], object]) -> None:
        until_s = time.monotonic() + TIMEOUT_S
        while not is_so():
            assert time.monotonic() < until_s
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with scraped_server(tmp_path_factory.mktemp("ebus"), "--workers", "2") as server:
        use_all_of_it(server)
        yield server


@pytest.fixture(scope="module")
def prometheus(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    jobs = {"ebus": ADMIN_KEY, "ebus-alice": KEYS["alice"]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": job,
                "authorization": {"credentials": key},
                "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
            }
            for job, key in jobs.items()
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        prometheus = Prometheus(f"http://{address}")
        prometheus.wait(prometheus.is_ready)
        prometheus.wait(lambda: len(prometheus.query("up == 1")) == len(jobs))
        use_all_of_it(server)  # so that rates have something to rise by
        prometheus.wait(
            lambda: prometheus.query('sum(rate(ebus_refusals_total{job="ebus"}[30s])) > 0')
        )
        yield prometheus
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


VARIABLES = {"$__rate_interval": "30s", "$job": "ebus|ebus-alice", "$tenant": ".*"}
"""What Grafana would put in their places."""


def test_every_query_of_the_dashboard_finds_something(prometheus: Prometheus) -> None:
    found = {}
    for query in queries():
        filled = query
        for variable, value in VARIABLES.items():
            filled = filled.replace(variable, value)
        assert "$" not in filled
        found[query] = prometheus.query(filled)
    assert [query for query, result in found.items() if not result] == []
    assert len(found) > 40


def test_every_alert_can_be_evaluated_and_is_quiet(prometheus: Prometheus) -> None:
    for rule in rules():
        if rule["alert"] != "EbusFailedKeys":  # there are some
            assert prometheus.query(rule["expr"]) == [], rule["alert"]
        selectors = re.findall(r"(?:ebus_\w+|up)\{[^}]*\}", rule["expr"])
        assert selectors
        for selector in selectors:  # what it looks for by name and job is there
            without_values = re.sub(r',(?:status|reason)=~"[^"]*"', "", selector)
            assert prometheus.query(without_values), selector


def test_an_alert_fires_when_its_reason_is_there(
    prometheus: Prometheus, server: LiveServer
) -> None:
    """The one of the queue, with a bound that is passed: the labels of its two sides must match."""
    [rule] = [rule for rule in rules() if rule["alert"] == "EbusQueueLong"]
    assert prometheus.query(rule["expr"].replace("> on", ">= on").replace("0.8", "0"))


def test_the_rules_and_the_text_pass_promtool(server: LiveServer) -> None:
    promtool = program("promtool")
    subprocess.run([promtool, "check", "rules", ALERTS], check=True, capture_output=True)
    for key in (ADMIN_KEY, KEYS["alice"]):
        text = scrape(server, key).text
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_every_family_with_its_type_and_labels(server: LiveServer) -> None:
    rows = dict(re.findall(r"^\| `(ebus_\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    found: dict[str, tuple[str, set[str]]] = {}
    for key in (ADMIN_KEY, KEYS["alice"]):
        for family in scrape(server, key).families:
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            kind, known = found.setdefault(name, (family.type, set()))
            known |= labels
    assert rows.keys() == found.keys()
    for name, (kind, labels) in found.items():
        said_kind, said_labels, *_ = (cell.strip() for cell in rows[name].split("|"))
        assert said_kind == kind, name
        assert set(re.findall(r"`(\w+)`", said_labels)) == labels, name
