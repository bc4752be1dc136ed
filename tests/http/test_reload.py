"""The config is read again while the server runs: with one process, and with several workers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.test_sqlite_takeover import original_file, row
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.http.test_workers import has_ended, workers_of
from tests.live_server import LiveServer, start

EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}


def key_of(name: str) -> str:
    return f"key-of-{name}-{'x' * 32}"


def tenant(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "api_key": key_of(name), **more}


class Reloading:
    """A server whose config is written anew again and again."""

    def __init__(self, server: LiveServer, directory: Path, workers: int) -> None:
        self.server = server
        self.directory = directory
        self.workers = workers
        self.path = directory / "tenants.yaml"

    def write(self, *tenants: dict[str, Any], watch: bool = False, **top: Any) -> None:
        """As a careful editor does: beside it, and then in its place."""
        beside = self.directory / "tenants.new"
        write_config(beside, config_of(*tenants, watch=watch, **top))
        beside.replace(self.path)

    def hang_up(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)

    def reload(self, *tenants: dict[str, Any], **top: Any) -> str:
        """Write the config and have it read; return what the log says of it."""
        self.write(*tenants, **top)
        return self.read_again()

    def read_again(self) -> str:
        with self.reloaded() as said:
            self.hang_up()
        return said[0]

    @contextmanager
    def reloaded(self) -> Iterator[list[str]]:
        """Until the block has led to a config that all workers serve; and what the log says."""
        before, lines = self.health()["config"]["generation"], len(self.server.lines)
        said: list[str] = []
        yield said
        wait_until(lambda: self.health()["config"]["generation"] > before)
        wait_until(lambda: any("config reloaded" in it for it in self.server.lines[lines:]))
        said.append("\n".join(self.server.lines[lines:]))

    @contextmanager
    def refused(self) -> Iterator[list[str]]:
        """Until the block has led to a refusal; and what the log says of it."""
        lines, said = len(self.server.lines), list[str]()
        yield said
        wait_until(lambda: any("config not reloaded" in it for it in self.server.lines[lines:]))
        time.sleep(0.05)  # a mistake a line
        said.append("\n".join(self.server.lines[lines:]))

    def health(self) -> Any:
        return httpx.get(f"{self.server.url}/health?details=true", timeout=60, verify=False).json()

    def ask(self, name: str, method: str = "GET", path: str = "/position", **more: Any) -> Any:
        """An answer to a tenant, over a connection of its own."""
        key = more.pop("key", key_of(name))
        url = f"{self.server.url}{path}"
        return httpx.request(
            method, url, headers={"X-API-Key": key}, timeout=60, verify=False, **more
        )

    def append(self, name: str, **more: Any) -> int:
        status: int = self.ask(name, "POST", "/events", json=EVENT, **more).status_code
        return status

    def statuses(self, name: str, **more: Any) -> set[int]:
        """Of so many connections that every worker has had one."""
        times = 1 if self.workers == 1 else 12
        return {self.ask(name, **more).status_code for _ in range(times)}


def config_of(*tenants: dict[str, Any], watch: bool = False, **top: Any) -> dict[str, Any]:
    return {"watch_config": watch, "tenants": list(tenants), **top}


@contextmanager
def reloading(directory: Path, workers: int, **top: Any) -> Iterator[Reloading]:
    top.setdefault("watch", False)
    write_config(directory / "tenants.yaml", config_of(tenant("alice"), tenant("bob"), **top))
    arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
    server = start([*arguments, "--workers", str(workers)], cwd=directory)
    children: list[int] = []
    try:
        server.wait_until_listening()
        children = workers_of(server)
        yield Reloading(server, directory, workers)
        if server.process.poll() is None:
            children = workers_of(server)
            assert server.stop() == 0, server.log
        assert all(map(has_ended, children))
    finally:
        server.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert "Traceback" not in server.log, server.log
    assert "key-of-" not in server.log


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "workers"])
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reloading]:
    with reloading(tmp_path_factory.mktemp("reload"), request.param) as server:
        yield server


@pytest.fixture
def server(shared_server: Reloading) -> Reloading:
    """One that serves alice and bob."""
    if shared_server.path.is_symlink() or not shared_server.path.exists():
        shared_server.path.unlink(missing_ok=True)
    shared_server.reload(tenant("alice"), tenant("bob"))
    return shared_server


# What changes


def test_tenants_come_and_go_and_their_files_stay(server: Reloading) -> None:
    assert (server.append("alice"), server.append("bob")) == (200, 200)
    said = server.reload(tenant("bob"), tenant("carol"), tenant("dave"))
    assert "config reloaded: 2 tenants added [carol dave], 1 removed [alice]" in said
    assert server.statuses("alice") == {401}
    assert server.statuses("bob") == server.statuses("carol") == {200}
    assert server.append("dave") == 200
    listed = server.ask("bob", path="/tenants").json()
    assert listed == {"tenants": ["bob", "carol", "dave"], "count": 3}
    alice = server.directory / "data" / "alice.db"
    wait_until(lambda: not Path(f"{alice}-wal").exists())  # it is closed once nobody uses it
    stored = sqlite3.connect(alice).execute("SELECT count(*) FROM events").fetchone()[0]
    assert stored >= 1
    assert "1 tenant added [alice], 2 removed [carol dave]" in server.reload(
        tenant("alice"), tenant("bob")
    )
    assert server.ask("alice").json()["position"] == stored


def test_a_tenant_whose_file_is_deleted_while_it_is_not_served_begins_anew(
    server: Reloading,
) -> None:
    server.append("bob")
    server.reload(tenant("alice"))
    bob = server.directory / "data" / "bob.db"
    wait_until(lambda: not Path(f"{bob}-wal").exists())
    bob.unlink()
    server.reload(tenant("alice"), tenant("bob"))
    assert server.ask("bob").json() == {"position": 0}


def test_a_new_tenant_may_have_a_file_of_the_original_server(server: Reloading) -> None:
    rows = [row(position) for position in range(1, 4)]
    original_file(server.directory / "data", rows, name="otto")
    said = server.reload(tenant("alice"), tenant("otto"))
    assert said.count("took over all 3 events") == 1
    assert server.ask("otto").json() == {"position": 3}


def test_a_key_is_changed_with_an_overlap(server: Reloading) -> None:
    old, new = key_of("alice"), "n" * 40
    both = [{"name": "old", "api_key": old}, {"name": "new", "api_key": new}]
    said = server.reload({"name": "alice", "api_keys": both}, tenant("bob"))
    assert said.endswith("config reloaded: keys of 1 changed [alice]")
    assert server.statuses("alice") == server.statuses("alice", key=new) == {200}
    server.reload({"name": "alice", "api_key": new}, tenant("bob"))
    assert server.statuses("alice", key=new) == {200}
    assert server.statuses("alice") == {401}


def test_a_key_may_pass_to_another_tenant(server: Reloading) -> None:
    server.reload({"name": "carol", "api_key": key_of("alice")}, tenant("bob"))
    assert server.ask("alice", path="/metrics").json()["tenant"] == "carol"


def test_a_quota_reaches_a_store_that_is_open(server: Reloading) -> None:
    assert server.append("alice") == 200
    said = server.reload(tenant("alice", limits={"max_stored_events": 1}), tenant("bob"))
    assert "config reloaded: limits of 1 [alice]" in said
    assert {server.append("alice") for _ in range(6)} == {507}
    server.reload(tenant("alice"), tenant("bob"))
    assert {server.append("alice") for _ in range(6)} == {200}


def test_a_rate_changes_and_who_comes_back_finds_what_was_counted(server: Reloading) -> None:
    slow = {"max_requests_per_second": 0.001, "max_request_burst": 2}
    server.reload(tenant("alice"), tenant("erna", limits=slow))
    assert [server.ask("erna").status_code for _ in range(3)] == [200, 200, 429]
    server.reload(tenant("alice"))
    server.reload(tenant("frank"), tenant("erna", limits=slow))
    assert server.ask("erna").status_code == 429  # its number is the same, at another place
    assert server.ask("frank").status_code == 200
    server.reload(tenant("frank"), tenant("erna"))
    assert server.ask("erna").status_code == 200


def test_a_durability_that_changes_holds_for_stores_that_are_open(server: Reloading) -> None:
    assert server.append("alice") == server.append("bob") == 200
    said = server.reload(tenant("alice"), tenant("bob", durability="full"), durability="normal")
    assert "limits of 1 [alice]" in said  # bob's is what it was
    assert server.append("alice") == 200
    assert "limits of 1 [alice]" in server.reload(tenant("alice"), tenant("bob"))


def test_who_is_read_only_reads_on_and_others_write(server: Reloading) -> None:
    assert server.append("alice") == server.append("bob") == 200
    head = server.ask("alice").json()["position"]
    said = server.reload(tenant("alice"), tenant("bob"), read_only=["alice", "nobody"])
    assert "config reloaded: 1 read-only now [alice]" in said
    assert "read_only names who is no tenant: nobody" in said
    refused = server.ask("alice", "POST", "/events", json=EVENT)
    assert (refused.status_code, refused.json()["code"]) == (503, "read_only")
    assert refused.headers["Retry-After"] == "1"
    checkpoint = "/subscriptions/mailer/position"
    for method, path in (("POST", f"/subscriptions/{'mailer'}/lease"), ("PUT", checkpoint)):
        answer = server.ask("alice", method, path, json={"position": 1})
        assert (answer.status_code, answer.json()["code"]) == (503, "read_only"), path
    assert server.statuses("alice", method="POST", path="/events", json=EVENT) == {503}
    assert server.statuses("alice", path="/events?from=1") == {200}
    assert server.ask("alice").json()["position"] == head
    assert server.append("bob") == 200
    assert "1 writable again [alice]" in server.reload(tenant("alice"), tenant("bob"))
    assert server.append("alice") == 200
    server.reload(tenant("alice"), tenant("bob"), read_only=True)
    assert server.append("alice") == server.append("bob") == 503


def test_a_write_that_had_begun_when_its_tenant_became_read_only_is_refused(
    server: Reloading,
) -> None:
    server.append("alice")
    head = server.ask("alice").json()["position"]
    body = json.dumps(EVENT).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server.port, timeout=60)
    connection.putrequest("POST", "/events")
    for name, value in {"X-API-Key": key_of("alice"), "Content-Length": len(body)}.items():
        connection.putheader(name, str(value))
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    connection.send(body[:5])
    server.reload(tenant("alice"), tenant("bob"), read_only=True)
    connection.send(body[5:])
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (503, "read_only")
    connection.close()
    assert server.ask("alice").json()["position"] == head


def test_who_sees_whom_changes(server: Reloading) -> None:
    said = server.reload(tenant("alice"), tenant("bob"), tenants_visible="own")
    assert "tenants_visible changed" in said
    assert server.ask("alice", path="/tenants").json() == {"tenants": ["alice"], "count": 1}


def test_what_waits_for_the_next_start_is_named_and_the_rest_holds(server: Reloading) -> None:
    said = server.reload(
        tenant("alice"),
        tenant("gina"),
        engine="memory",
        data_dir="elsewhere",
        limits={"max_body_bytes": 100, "max_open_tenants": 7},
    )
    for name in ("engine", "data_dir", "limits.max_body_bytes", "limits.max_open_tenants"):
        assert f"{name} has changed, and takes effect at the next start" in said
    assert server.append("gina") == 200
    assert (server.directory / "data" / "gina.db").exists()
    assert "next start" not in server.reload(tenant("alice"), tenant("bob"))


# Those who wait


@contextmanager
def following(server: Reloading, name: str, **headers: str) -> Iterator[Iterator[str]]:
    headers |= {"X-API-Key": key_of(name), "Accept": "text/event-stream"}
    url = f"{server.server.url}/events/stream?follow=true"
    with httpx.stream("GET", url, headers=headers, timeout=20, verify=False) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


@pytest.mark.parametrize("connection", ["keep-alive", "close"], ids=["short way", "long way"])
def test_a_tail_ends_with_its_key_and_others_go_on(server: Reloading, connection: str) -> None:
    server.append("alice")
    server.append("bob")
    with (
        following(server, "alice", Connection=connection) as alice,
        following(server, "bob", Connection=connection) as bob,
    ):
        head = server.ask("bob").json()["position"]
        assert next(alice)
        assert f"id: {head}" in bob
        server.reload(tenant("bob"))
        for _ in alice:
            pass  # it ends
        assert server.ask("alice", path="/events/stream?follow=true").status_code == 401
        server.append("bob")
        assert f"id: {head + 1}" in bob


def test_a_long_poll_ends_with_its_key(server: Reloading) -> None:
    answers: list[httpx.Response] = []

    def poll() -> None:
        answers.append(server.ask("alice", path="/events?from=1000000&wait=20s"))

    thread = threading.Thread(target=poll)
    begun_s = time.monotonic()
    thread.start()
    time.sleep(0.2)
    server.reload(tenant("bob"))
    thread.join(20)
    assert time.monotonic() - begun_s < 15
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json() == []


# Mistakes


def test_a_mistake_changes_nothing_and_shows(server: Reloading) -> None:
    loaded_at = server.health()["config"]["loaded_at"]
    with server.refused() as said:
        server.write(tenant("alice"), tenant("alice"), {"name": "nobody"}, nonsense=1)
        server.hang_up()
    assert "config not reloaded, nothing has changed: Failed to load tenants config: " in said[0]
    for mistake in ("4 mistakes", "unknown key nonsense", "duplicate tenant name alice"):
        assert mistake in said[0]
    assert server.statuses("bob") == {200}
    health = server.health()
    assert health["status"] == "healthy"
    assert health["config"]["loaded_at"] == loaded_at
    assert re.fullmatch(
        r"config: the last reload failed at [-0-9T:]+Z; see the log", health["config"]["problem"]
    )
    assert httpx.get(f"{server.server.url}/health", verify=False).json() == {"status": "healthy"}
    assert httpx.get(f"{server.server.url}/health?details=x", verify=False).status_code == 400
    server.reload(tenant("alice"), tenant("bob"))
    assert "problem" not in server.health()["config"]


def test_a_tenant_whose_file_is_foreign_or_damaged_is_refused_and_all_the_rest_with_it(
    server: Reloading,
) -> None:
    foreign = sqlite3.connect(server.directory / "data" / "henry.db")
    foreign.execute("CREATE TABLE IF NOT EXISTS invoices (number)")
    foreign.close()
    (server.directory / "data" / "iris.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 500)
    with server.refused() as said:
        server.write(tenant("henry"), tenant("iris"), tenant("judy"))
        server.hang_up()
    assert "henry.db is a SQLite database of another program" in said[0]
    assert "iris.db" in said[0]
    assert server.statuses("judy") == {401}
    assert server.statuses("alice") == {200}
    for name in ("henry", "iris"):
        (server.directory / "data" / f"{name}.db").unlink()
    assert "3 tenants added" in server.read_again()  # the file itself has not changed
    assert server.statuses("iris") == {200}


def test_a_file_that_others_may_read_is_warned_of_again(server: Reloading) -> None:
    server.path.chmod(0o644)
    assert "its mode 644 lets other users of this machine at it" in server.read_again()


def test_a_file_that_can_be_read_only_once_is_refused(server: Reloading) -> None:
    server.path.unlink()
    os.mkfifo(server.path)
    with server.refused() as said:
        server.hang_up()
    assert "read config file: no regular file, which alone can be read again" in said[0]
    server.path.unlink()


def test_two_signals_at_once_are_two_reloads_or_one(server: Reloading) -> None:
    with server.reloaded() as said:
        server.write(tenant("alice"), tenant("bob"), tenant("kate"))
        for _ in range(20):
            server.hang_up()
    assert "1 tenant added [kate]" in said[0]
    assert server.statuses("kate") == {200}
    assert server.server.process.poll() is None


# Watching the file


def test_a_file_that_is_cut_short_or_deleted_changes_nothing_until_it_is_whole(
    server: Reloading,
) -> None:
    server.reload(tenant("alice"), watch=True)
    whole = server.path.read_bytes()
    if server.workers == 1:
        with server.refused() as said:
            server.path.write_bytes(whole[: len(whole) // 2])  # and whoever saves it dies
        assert "not YAML" in said[0]
    else:
        with server.refused() as said:
            server.path.unlink()
        assert "read config file: no such file or directory" in said[0]
    assert server.statuses("alice") == {200}
    with server.reloaded() as said:
        server.path.write_bytes(whole)
    assert "nothing has changed" in said[0]
    assert "problem" not in server.health()["config"]


def test_a_link_that_is_switched_is_noticed_and_clocks_do_not_matter(server: Reloading) -> None:
    """Kubernetes: the file is a link into `..data`, which is a link to a directory."""
    for version, names in enumerate((["alice"], ["alice", "mia"])):
        (server.directory / f"v{version}").mkdir(exist_ok=True)
        path = server.directory / f"v{version}" / "tenants.yaml"
        write_config(path, config_of(*map(tenant, names), watch=True))
    data, turned = server.directory / "..data", server.directory / "..turned"
    data.unlink(missing_ok=True)
    data.symlink_to("v0")
    server.path.unlink()
    server.path.symlink_to("..data/tenants.yaml")
    server.read_again()
    os.utime(server.directory / "v1" / "tenants.yaml", (0, 0))  # as if the clock had been put back
    with server.reloaded() as said:
        turned.symlink_to("v1")
        turned.replace(data)
    assert "1 tenant added [mia]" in said[0]
    assert server.statuses("mia") == {200}


# Load


def test_a_load_that_runs_through_reloads_loses_no_request(server: Reloading) -> None:
    wrong: list[object] = []
    counts = [0, 0]
    stop = threading.Event()

    def load(number: int, name: str) -> None:
        client = http.client.HTTPConnection("127.0.0.1", server.server.port, timeout=60)
        headers = {"X-API-Key": key_of(name), "Content-Type": "application/json"}
        while not stop.is_set():
            try:
                client.request("POST", "/events", json.dumps(EVENT), headers)
                answer = client.getresponse()
                answer.read()
                if answer.status != 200:
                    wrong.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(error)
            counts[number] += 1
        client.close()

    before = sum(server.ask(name).json()["position"] for name in ("alice", "bob"))
    threads = [
        threading.Thread(target=load, args=(number, name))
        for number, name in enumerate(("alice", "bob"))
    ]
    for thread in threads:
        thread.start()
    for times in range(6):
        more = [tenant(f"n{number}") for number in range(times % 3)]
        bounds = {"max_stored_events": 10_000_000 + times}
        server.reload(
            tenant("bob", durability=("full", "normal")[times % 2]),
            tenant("alice", limits=bounds),
            *more,
        )
    stop.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert min(counts) > 20
    after = sum(server.ask(name).json()["position"] for name in ("alice", "bob"))
    assert after - before == sum(counts)


# Workers, stops and starts


def test_a_signal_during_the_start_is_kept_for_later(tmp_path: Path) -> None:
    write_config(tmp_path / "tenants.yaml", config_of(tenant("alice")))
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    try:
        blocked = f"/proc/{server.process.pid}/status"
        wait_until(
            lambda: re.search(r"SigBlk:\t[0-9a-f]+1\n", Path(blocked).read_text()) is not None
        )
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "config reloaded: nothing has changed" in server.log)
        assert server.port
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.mark.parametrize("shared_server", [2], indirect=True, ids=["workers"])
def test_a_worker_that_is_started_later_begins_with_what_was_accepted(server: Reloading) -> None:
    server.reload(tenant("alice"), tenant("nora"))
    with server.refused():
        server.path.write_text("tenants: [")
        server.hang_up()
    killed, other = workers_of(server.server)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len({*workers_of(server.server)} - {killed, other}) == 1)
    assert server.statuses("nora") == {200}
    assert server.statuses("bob") == {401}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_while_the_server_stops_harms_nothing(tmp_path: Path, workers: int) -> None:
    with reloading(tmp_path, workers, watch=True) as server:
        server.append("alice")
        server.write(tenant("alice"), *(tenant(f"t{number}") for number in range(200)))
        server.hang_up()
        server.server.process.send_signal(signal.SIGTERM)
        while server.server.process.poll() is None:
            with suppress(ProcessLookupError):
                server.hang_up()
            time.sleep(0.005)
        assert server.server.stop() == 0
    assert [file.suffix for file in (tmp_path / "data").iterdir() if file.stem == "alice"] == [
        ".db"
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_single_tenant_says_that_there_is_nothing_to_read(tmp_path: Path, workers: int) -> None:
    server = start(
        ["serve", "--host", "127.0.0.1", "--port", "0", "--workers", str(workers)],
        cwd=tmp_path,
        environment={"API_KEY": "s" * 40},
    )
    try:
        server.wait_until_listening()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "there is no config file to read again" in server.log)
        headers = {"X-API-Key": "s" * 40}
        assert httpx.get(f"{server.url}/position", headers=headers, verify=False).status_code == 200
        assert server.stop() == 0
    finally:
        server.kill()


def test_ten_thousand_tenants_are_read_while_others_are_answered(tmp_path: Path) -> None:
    """It takes about half a second of a processor; a request waits for some 20 ms of that."""
    many = [tenant(f"t{number}") for number in range(10_000)]
    with reloading(tmp_path, 1) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.server.port, timeout=60)
        headers = {"X-API-Key": key_of("alice")}
        server.write(tenant("alice"), *many)
        waits_s = [0.0]
        server.hang_up()
        while "config reloaded" not in server.server.log:
            asked_s = time.monotonic()
            client.request("GET", "/position", headers=headers)
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200
            waits_s.append(time.monotonic() - asked_s)
        client.close()
        assert max(waits_s) < 0.5
        assert server.statuses("t9999") == {200}
        assert "10000 tenants added [t0 t1 " in server.server.log
        assert "t19 and 9980 more]" in server.server.log
