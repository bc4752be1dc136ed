"""`ebus serve`: what the start prints, how it fails, how it stops."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests import live_server
from tests.backends.test_sqlite_takeover import original_file, row
from tests.live_server import LiveServer

TENANTS = """\
tenants:
  - name: "alice"
    api_key: "alice-secret-key-123"
  - name: "bob"
    api_key: "bob-secret-key-456"
  - name: "charlie"
    api_key: "charlie-secret-key-789"
"""
ALICE = {"X-API-Key": "alice-secret-key-123"}
EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}

# All of a start is what these tests are about.
start = partial(live_server.start, from_nothing=True)
serving = partial(live_server.serving, from_nothing=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.yaml"
    path.write_text(TENANTS)
    path.chmod(0o600)
    return path


def ending(server: LiveServer) -> tuple[int, str]:
    """The exit status and the log of a server that ends by itself."""
    status = server.process.wait(60)
    return server.stop() or status, server.log


# The start


def test_the_start_prints_the_guides_five_lines(config: Path) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server:
        pass
    stamp = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d "
    assert all(re.match(stamp, line) for line in server.lines)
    assert [re.sub(stamp, "", line) for line in server.lines[:5]] == [
        "=== ebus Multi-Tenant Server ===",
        "Config file: tenants.yaml",
        "Initialized 3 tenants: [alice bob charlie]",
        "Data directory: data",
        f"Server listening on 127.0.0.1:{server.port}",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-config", "tenants.yaml"],
        ["-config=tenants.yaml"],
        ["--config", "tenants.yaml"],
        ["--config=tenants.yaml"],
        ["serve", "--config", "tenants.yaml"],
        ["serve", "-config", "tenants.yaml"],
    ],
)
def test_the_config_may_be_given_with_one_dash_or_two(config: Path, arguments: list[str]) -> None:
    server = start([*arguments, "--port", "0"], cwd=config.parent)
    try:
        server.wait_until_listening()
        assert "Initialized 3 tenants" in server.log
        assert server.lines[4].endswith(f"Server listening on :{server.port}")
        for host in ("127.0.0.1", "[::1]") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            assert httpx.get(f"http://{host}:{server.port}/health", verify=False).status_code == 200
    finally:
        assert server.stop() == 0


def test_the_databases_lie_where_the_guide_says(config: Path) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent):
        files = sorted(file.name for file in (config.parent / "data").iterdir())
    names = ("alice", "bob", "charlie")
    assert files == [f"{name}.db{suffix}" for name in names for suffix in ("", "-shm", "-wal")]


def test_many_tenants_are_opened_when_they_are_used(tmp_path: Path) -> None:
    config = tmp_path / "tenants.yaml"
    lines = [f"  - {{name: t{at}, api_key: key-of-{at}}}" for at in range(101)]
    config.write_text("\n".join(["tenants:", *lines]))
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        assert not (tmp_path / "data").exists()
        assert httpx.get(f"{server.url}/health", verify=False).status_code == 200
        headers = {"X-API-Key": "key-of-7"}
        assert (
            httpx.post(
                f"{server.url}/events", headers=headers, json=EVENT, verify=False
            ).status_code
            == 200
        )
        assert {file.stem for file in (tmp_path / "data").iterdir()} == {"t7"}


def test_json_logs_are_one_object_a_line(config: Path) -> None:
    with serving(["--config", "tenants.yaml", "--log-format", "json"], cwd=config.parent) as server:
        httpx.get(f"{server.url}/health", verify=False)
    entries = [json.loads(line) for line in server.lines]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    assert entries[0]["message"] == "=== ebus Multi-Tenant Server ==="
    assert {entry["level"] for entry in entries} == {"info", "warning"}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_requests_are_logged_only_if_that_is_asked_for(config: Path, log_format: str) -> None:
    arguments = ["--config", "tenants.yaml", "--log-format", log_format]
    with serving(arguments, cwd=config.parent) as quiet:
        httpx.get(f"{quiet.url}/position", headers=ALICE, verify=False)
    with serving([*arguments, "--access-log"], cwd=config.parent) as server:
        httpx.get(f"{server.url}/events?from=7", headers=ALICE, verify=False)
    assert "GET" not in quiet.log
    assert "GET /events?from=7 HTTP/1.1" in server.log
    assert ALICE["X-API-Key"] not in server.log


def test_short_keys_and_a_readable_config_are_warnings_without_the_key(config: Path) -> None:
    config.chmod(0o644)
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server:
        pass
    warnings = [line for line in server.lines if "WARNING" in line]
    assert any("chmod 600" in line for line in warnings)
    assert any("alice" in line and "32" in line for line in warnings)
    assert "secret-key" not in server.log


# A single tenant


def test_a_single_tenant_needs_no_config(tmp_path: Path) -> None:
    environment = {"API_KEY": "the-only-key", "PORT": "0"}
    key = {"X-API-Key": "the-only-key"}
    server = start([], cwd=tmp_path, environment=environment)
    try:
        server.wait_until_listening()
        assert (
            httpx.post(f"{server.url}/events", headers=key, json=EVENT, verify=False).json()[
                "position"
            ]
            == 1
        )
        metrics = httpx.get(f"{server.url}/metrics", headers=key, verify=False).json()
        assert set(metrics) == {"total_events", "timestamp"}
        assert httpx.get(f"{server.url}/tenants", headers=key, verify=False).status_code == 404
        assert (tmp_path / "events.db").exists()
    finally:
        assert server.stop() == 0


def test_db_path_says_where_a_single_tenant_is(tmp_path: Path) -> None:
    environment = {"API_KEY": "the-only-key", "DB_PATH": "deep/er/shop.db"}
    with serving([], cwd=tmp_path, environment=environment) as server:
        key = {"X-API-Key": "the-only-key"}
        assert (
            httpx.post(f"{server.url}/events", headers=key, json=EVENT, verify=False).status_code
            == 200
        )
        assert "Database: deep/er/shop.db" in server.log
    assert (tmp_path / "deep" / "er" / "shop.db").exists()


# Starts that fail: one clear line, status 1


def assert_fails(
    tmp_path: Path,
    arguments: list[str],
    said: str,
    *,
    environment: dict[str, str] | None = None,
) -> str:
    server = start(arguments, cwd=tmp_path, environment={"PORT": "0", **(environment or {})})
    status, log = ending(server)
    assert status == 1, log
    assert said in log
    assert "Traceback" not in log
    return log


def test_a_missing_config_is_told_in_the_guides_words(tmp_path: Path) -> None:
    log = assert_fails(tmp_path, ["-config", "missing.yaml"], "")
    assert log == "Failed to load tenants config: read config file: no such file or directory"


def test_a_repeated_key_is_told_in_the_guides_words(config: Path) -> None:
    config.write_text(TENANTS.replace("bob-secret-key-456", "alice-secret-key-123"))
    log = assert_fails(config.parent, ["-config", "tenants.yaml"], "")
    assert "duplicate API key for tenant: bob" in log
    assert "secret-key" not in log


def test_nothing_to_serve_says_both_ways_out(tmp_path: Path) -> None:
    log = assert_fails(tmp_path, [], "API_KEY")
    assert "ebus -config tenants.yaml" in log


def test_a_setting_that_cannot_be_read_is_no_silent_default(config: Path) -> None:
    arguments = ["-config", "tenants.yaml"]
    environment = {"READ_TIMEOUT": "soon", "RATE_LIMIT": "many"}
    log = assert_fails(config.parent, arguments, "READ_TIMEOUT", environment=environment)
    assert "RATE_LIMIT" in log


def test_a_port_in_use_is_one_clear_line(config: Path) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as first:
        arguments = ["serve", "-config", "tenants.yaml", "--host", "127.0.0.1"]
        arguments += ["--port", str(first.port)]
        log = assert_fails(config.parent, arguments, f"Failed to listen on 127.0.0.1:{first.port}")
    assert "address already in use" in log
    assert len(log.splitlines()) == 1


def test_a_host_that_is_not_of_this_machine_is_one_clear_line(config: Path) -> None:
    arguments = ["serve", "-config", "tenants.yaml", "--host", "192.0.2.1"]
    log = assert_fails(config.parent, arguments, "Failed to listen on 192.0.2.1:")
    assert len(log.splitlines()) == 1


@pytest.mark.parametrize("data_dir", ["/proc/ebus", "tenants.yaml", "tenants.yaml/data"])
def test_a_data_directory_that_cannot_be_written_is_told_by_name(
    config: Path, data_dir: str
) -> None:
    config.write_text(f"data_dir: {data_dir}\n{TENANTS}")
    log = assert_fails(config.parent, ["-config", "tenants.yaml"], "Failed to start: ")
    assert data_dir.split("/data", maxsplit=1)[0].rsplit("/", 1)[0] in log


def test_every_file_that_is_not_fit_is_told_by_name(config: Path) -> None:
    data = config.parent / "data"
    data.mkdir()
    (data / "alice.db").write_bytes(b"not a database" * 100)
    sqlite3.connect(data / "charlie.db").execute(
        "CREATE TABLE invoices (number)"
    ).connection.close()
    log = assert_fails(config.parent, ["-config", "tenants.yaml"], "Failed to start: ")
    assert "alice.db is not a SQLite database" in log
    assert "charlie.db is a SQLite database of another program" in log
    assert not (data / "bob.db").exists()


@pytest.mark.parametrize(
    "arguments",
    [["chek"], ["--nope"], ["serve", "--port", "x"], ["serve", "--port", "70000"], ["serve", "x"]],
)
def test_a_mistake_on_the_command_line_is_told_with_help(
    tmp_path: Path, arguments: list[str]
) -> None:
    status, log = ending(start(arguments, cwd=tmp_path))
    assert status == 2
    assert "Usage: ebus" in log


# Databases of the original server


def test_the_guides_migration_serves_the_old_events(tmp_path: Path, shared: Path) -> None:
    shutil.copyfile(shared / "compat" / "events-go-sqlite-times.db", tmp_path / "main.db")
    (tmp_path / "tenants.yaml").write_text(
        'data_dir: "."\ntenants:\n  - name: "main"\n    api_key: "your-existing-api-key"\n'
    )
    key = {"X-API-Key": "your-existing-api-key"}
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        events = httpx.get(f"{server.url}/events?from=1", headers=key, verify=False).json()
        assert [event["position"] for event in events] == [1, 2]
        assert httpx.get(f"{server.url}/position", headers=key, verify=False).json() == {
            "position": 10
        }
        assert (
            httpx.get(f"{server.url}/metrics", headers=key, verify=False).json()["total_events"]
            == 2
        )
        assert (
            httpx.post(f"{server.url}/events", headers=key, json=EVENT, verify=False).json()[
                "position"
            ]
            == 11
        )
        path = "/subscriptions/mailer/position"
        assert httpx.get(server.url + path, headers=key, verify=False).json() == {"position": 1}
    assert "main.db: took over all 2 events" in server.log


def test_a_range_of_large_events_beyond_a_hole_gives_each_event_once(tmp_path: Path) -> None:
    data = json.dumps("x" * 900_000).encode()
    positions = [1, *range(20_001, 20_009)]
    original_file(tmp_path, [row(position, data) for position in positions])
    (tmp_path / "tenants.yaml").write_text("data_dir: .\ntenants: [{name: main, api_key: k}]\n")
    seen: list[int] = []
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        following: str | None = "/events?from=1"
        while following:
            answer = httpx.get(
                server.url + following, headers={"X-API-Key": "k"}, timeout=60, verify=False
            )
            seen += [event["position"] for event in answer.json()]
            following = answer.links.get("next", {}).get("url")
    assert seen == positions


# The stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_and_closes_every_file(config: Path, number: int) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server:
        httpx.post(f"{server.url}/events", headers=ALICE, json=EVENT, verify=False)
        assert server.stop(number) == 0
    assert server.lines[-1].endswith("Server stopped")
    files = sorted(file.name for file in (config.parent / "data").iterdir())
    assert files == ["alice.db", "bob.db", "charlie.db"]


def half_sent(server: LiveServer) -> socket.socket:
    """A request that the server has begun to read, and waits for the end of."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    body = json.dumps(EVENT).encode()
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {ALICE['X-API-Key']}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1_024).startswith(b"HTTP/1.1 100 ")  # the handler waits for the body
    connection.sendall(body[:-1])
    return connection


def test_what_is_under_way_is_finished_and_nothing_new_accepted(config: Path) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server:
        with half_sent(server) as connection:
            server.process.send_signal(signal.SIGTERM)
            wait_until_refused(server)
            connection.sendall(b"}")
            assert connection.recv(1_024).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0
    rows = sqlite3.connect(config.parent / "data" / "alice.db").execute("SELECT * FROM events")
    assert len(rows.fetchall()) == 1


def wait_until_refused(server: LiveServer) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=60).close()
        except OSError:
            return


def test_what_is_not_finished_in_time_is_given_up(config: Path) -> None:
    environment = {"SHUTDOWN_TIMEOUT": "300ms"}
    with serving(
        ["--config", "tenants.yaml"], cwd=config.parent, environment=environment
    ) as server:
        with half_sent(server) as connection:
            assert server.stop() == 0
            answer = connection.recv(1_024)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in answer
    assert server.lines[-1].endswith("Server stopped")


def test_a_second_signal_ends_at_once(config: Path) -> None:
    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server, half_sent(server):
        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM


_FAILS_TO_STOP = """
from ebus.cli import main, serve
from ebus.core.errors import StoreFull

def run(*_, started, **__):
    started()
    raise StoreFull("alice.db cannot grow")

serve.run = run
main()
"""


def test_a_stop_that_fails_is_not_told_as_a_start_that_failed(config: Path) -> None:
    arguments = ["serve", "--config", config.name, "--host", "127.0.0.1", "--port", "0"]
    ended = subprocess.run(
        [sys.executable, "-c", _FAILS_TO_STOP, *arguments],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "Server listening on" in ended.stderr
    assert ended.stderr.endswith("\nFailed to stop cleanly: alice.db cannot grow\n")


def test_a_stop_under_load_loses_no_answer_that_was_given(config: Path) -> None:
    answered: list[int] = []

    def append_until_refused(url: str) -> None:
        with httpx.Client(base_url=url, headers=ALICE, verify=False) as client:
            try:
                while (answer := client.post("/events", json=EVENT)).status_code == 200:
                    answered.append(answer.json()["position"])
            except httpx.HTTPError:
                return

    with serving(["--config", "tenants.yaml"], cwd=config.parent) as server:
        threads = [
            threading.Thread(target=append_until_refused, args=(server.url,)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        while len(answered) < 100:
            assert any(thread.is_alive() for thread in threads)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
    connection = sqlite3.connect(config.parent / "data" / "alice.db")
    stored = [position for (position,) in connection.execute("SELECT position FROM events")]
    connection.close()
    assert stored == list(range(1, len(stored) + 1))
    assert set(answered) <= set(stored)


# The command


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["serve", "-h"], ["check", "--help"]])
def test_help_is_there_for_the_asking(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "ebus", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("Usage: ebus")


def test_the_installed_command_is_the_module() -> None:
    script = str(Path(sys.executable).with_name("ebus"))
    for command in ([sys.executable, "-m", "ebus"], [script]):
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"ebus, version \d+\.\d+\.\d+\n", run.stdout)
