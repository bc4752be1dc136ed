"""The page on operations comes true: all that it tells to type is run, and does what it says."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

import httpx
import yaml

from ebus.config import load_config
from ebus.core.limits import Limits
from ebus.http.live import HEARTBEAT_S
from ebus.http.server import FILES_PER_TENANT, OTHER_FILES
from tests.conftest import ROOT
from tests.operations.page import Block, Page, paths_outside
from tests.operations.reader import NAME, Output, Reader

PAGE = Page(ROOT / "docs" / "operations.md")

ON_YOUR_MACHINE = ("it installs packages and makes a user",)
"""Why a block is not run: all the reasons that there may be."""

SYSTEMD = ROOT / "docs" / "systemd"
PROXY = (ROOT / "docs" / "nginx" / "ebus.conf").read_text()


def setting(unit: str, name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)
    assert len(found) == 1, name
    return str(found[0])


def test_every_block_is_run_or_says_why_not() -> None:
    PAGE.check_every_block(ON_YOUR_MACHINE)


def test_every_command_within_a_sentence_is_in_a_block_too() -> None:
    PAGE.check_every_command()


def test_what_reaches_outside_of_the_root_is_found() -> None:
    outside = Block("sh", "ls $ROOT/etc\nrm -rf /etc/ebus\ncat > /var/x", 1, "", None)
    assert len(paths_outside(outside)) == 2


def test_the_unit_leaves_what_the_server_needs() -> None:
    limits = Limits()
    files = limits.max_connections + FILES_PER_TENANT * limits.max_open_tenants + OTHER_FILES
    assert files <= int(setting("ebus.service", "LimitNOFILE"))
    assert f"{files:,} by default" in PAGE.text
    config = load_config(None, {"API_KEY": "k" * 32})
    assert config.shutdown_timeout_s < int(setting("ebus.service", "TimeoutStopSec"))
    assert setting("ebus.service", "KillMode") == "mixed"


def test_the_proxy_leaves_as_much_time_and_room_as_the_server() -> None:
    limits = Limits()
    assert limits.max_body_bytes == 16 * 1024**2
    assert "client_max_body_size 16m;" in PROXY
    assert limits.max_head_bytes == 64 * 1024
    assert "large_client_header_buffers 4 64k;" in PROXY
    [read_timeout_s] = re.findall(r"proxy_read_timeout (\d+)s;", PROXY)
    assert int(read_timeout_s) > max(limits.max_wait_s, HEARTBEAT_S)
    [kept_s] = re.findall(r"keepalive_timeout (\d+)s;", PROXY)
    assert int(kept_s) < load_config(None, {"API_KEY": "k" * 32}).idle_timeout_s


def test_the_page_says_what_to_do_for_every_alert() -> None:
    alerts = yaml.safe_load((ROOT / "docs" / "prometheus" / "alerts.yml").read_text())
    names = [rule["alert"] for group in alerts["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Ebus\w+)` \|", PAGE.text, re.MULTILINE) == names


# What is looked at once the blocks below a heading have been run.


def client(reader: Reader, address: str = "127.0.0.1") -> httpx.Client:
    """A client of the proxy, from this address."""
    certificate = reader.root / "etc" / "nginx" / "ebus" / "fullchain.pem"
    return httpx.Client(
        base_url=f"https://127.0.0.1:{reader.https_port}",
        headers={"Host": NAME},
        transport=httpx.HTTPTransport(
            verify=ssl.create_default_context(cafile=str(certificate)), local_address=address
        ),
        timeout=60.0,
    )


TO_NAME = {"sni_hostname": NAME}


def check_a_tail_is_not_held_back(reader: Reader, printed: Output) -> None:
    headers = {"X-API-Key": reader.key("bob"), "Accept": "text/event-stream"}
    tail = "/events/stream?from=1&follow=true"
    with client(reader) as http, client(reader) as other:
        with http.stream("GET", tail, headers=headers, extensions=TO_NAME) as answer:
            assert answer.status_code == 200
            lines = (line for line in answer.iter_lines() if line.startswith("data:"))
            assert '"B-001"' in next(lines)
            event = {"type": "OrderPaid", "data": {"order": "B-002"}}
            appended = other.post("/events", json=event, headers=headers, extensions=TO_NAME)
            assert appended.json()["position"] == 2
            assert '"B-002"' in next(lines)


def check_keys_that_fail_are_counted_by_client(reader: Reader, printed: Output) -> None:
    def status(http: httpx.Client, **headers: str) -> int:
        wrong = {"X-API-Key": "wrong" * 10, **headers}
        return http.get("/position", headers=wrong, extensions=TO_NAME).status_code

    with client(reader, "127.0.0.2") as guesser, client(reader, "127.0.0.3") as other:
        statuses = [status(guesser) for _ in range(Limits().max_failed_keys_per_minute + 5)]
        assert (statuses[0], statuses[-1]) == (401, 429)
        assert status(guesser, **{"X-Forwarded-For": "192.0.2.7"}) == 429
        assert status(other) == 401


def check_proxy(reader: Reader, printed: Output) -> None:
    check_a_tail_is_not_held_back(reader, printed)
    check_keys_that_fail_are_counted_by_client(reader, printed)


def check_sizing(reader: Reader, printed: Output) -> None:
    assert 'ebus_head_position{tenant="alice"} 1.0' in printed.stdout
    assert re.search(r"^ebus_database_bytes\{tenant=\"bob\"\} \d", printed.stdout, re.MULTILINE)
    [(stored, sent)] = re.findall(
        r"^(\d+) bytes for one of (\d+) bytes of JSON$", printed.stdout, re.MULTILINE
    )
    assert int(sent) < int(stored) < 1.22 * int(sent), "5 to 22% more, says the page"
    assert "\nVmRSS:" in printed.stdout
    files = setting("ebus.service", "LimitNOFILE")
    assert re.search(rf"^Max open files +{files} +{files} ", printed.stdout, re.MULTILINE)


def check_service(reader: Reader, printed: Output) -> None:
    assert printed.stderr == "", "systemd-analyze has something to say"
    assert '{"status":"healthy"}' in printed.stdout
    assert (reader.root / "var" / "lib" / "ebus").stat().st_mode & 0o777 == 0o700
    config = reader.root / "etc" / "ebus" / "tenants.yaml"
    assert config.stat().st_mode & 0o777 == 0o600
    assert reader.key("alice") not in config.read_text()


def check_schedule(reader: Reader, printed: Output) -> None:
    assert "alice: whole, 1 event up to position 1\n" in printed.stdout
    assert re.search(r"^\d{4}-\d\d-\d\dT\d{6}\n", printed.stdout)
    for second in range(60):  # older ones
        (reader.root / "var" / "backups" / "ebus" / f"2001-01-01T0000{second:02}").mkdir()


def check_upgrade(reader: Reader, printed: Output) -> None:
    assert (reader.root / "opt" / "ebus").readlink() == Path("ebus-0.1.0")
    kept = sorted((reader.root / "var" / "backups" / "ebus").glob("2*T*"))
    assert len(kept) == 48, "the oldest go"
    files = [it / "alice.db" for it in (*kept[-2:], kept[0].parent / "latest")]
    assert len({file.stat().st_ino for file in files}) == 1, "what has not changed is linked"
    assert printed.stdout.count('{"status":"healthy"}') == 2


def check_monitoring(reader: Reader, printed: Output) -> None:
    assert "is valid prometheus config file syntax" in printed.stdout
    assert '"generation":1' in printed.stdout
    assert (reader.root / "etc" / "prometheus" / "ebus-admin-key").stat().st_mode & 0o777 == 0o640


def check_lost_disk(reader: Reader, printed: Output) -> None:
    for told in (
        "alice: whole, 1 event up to position 1\n",
        "bob: whole, 2 events up to position 2\n",
        '{"position":1}[{"position":1,"type":"OrderPlaced","data":{"order":"A-001"}',
        "carol: whole, 1 event up to position 1\n",
    ):
        assert told in printed.stdout
    assert printed.stdout.endswith('{"position":1}'), "who was made at run time is let in again"


def check_damaged_tenant(reader: Reader, printed: Output) -> None:
    assert printed.stdout.endswith('{"position":1}')
    assert "bob" not in printed.stdout
    assert (reader.root / "var" / "lost" / "alice" / "alice.db").exists()


def check_bad_config(reader: Reader, printed: Output) -> None:
    assert re.search(r"ebus check .* ended with status 1;", printed.stderr)
    assert "tenantz" in printed.stderr
    assert '{"position":1}' in printed.stdout


def check_leaked_key(reader: Reader, printed: Output) -> None:
    assert '{"position":1}' in printed.stdout
    assert '"key_invalid"' in printed.stdout.rpartition('{"position":1}')[2]
    assert reader.key("alice") != reader.key("alice-leaked")


def joined(outputs: Iterable[Output]) -> Output:
    pieces = list(outputs)
    return Output("".join(it.stdout for it in pieces), "".join(it.stderr for it in pieces))


CHECKS: dict[str, Callable[[Reader, Output], None]] = {
    "The service": check_service,
    "The proxy with TLS": check_proxy,
    "Sizing": check_sizing,
    "Backup schedule": check_schedule,
    "Upgrade": check_upgrade,
    "Monitoring and alerts": check_monitoring,
    "The disk is lost": check_lost_disk,
    "One tenant is damaged": check_damaged_tenant,
    "A bad config": check_bad_config,
    "A key has leaked": check_leaked_key,
}


def test_a_reader_gets_from_the_installation_through_the_drill(tmp_path: Path) -> None:
    left = dict(CHECKS)
    with Reader(tmp_path) as reader:
        for heading, blocks in groupby(PAGE.runnable(), lambda block: block.heading):
            outputs = [reader.run(block) for block in blocks]
            if heading in left:
                left.pop(heading)(reader, joined(outputs))
        log = (reader.root / "run" / "ebus.log").read_text()
        for name in ("alice", "alice-leaked", "bob", "admin"):
            assert reader.key(name) not in log
    assert not left, "a heading that was looked at is gone"
    assert "Server stopped" in (reader.root / "run" / "ebus.log").read_text()
