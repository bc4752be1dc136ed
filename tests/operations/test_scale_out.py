"""The page on scaling out comes true: all that it tells to type is run, and does what it says."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import pytest

from ebus.core.limits import Limits
from tests.conftest import ROOT
from tests.in_memory import tmp_path_factory
from tests.nats.guard import guard
from tests.nats.ports import claim_port
from tests.nats.servers import default_binary
from tests.operations.page import Page
from tests.operations.reader import Output, Reader

__all__ = ["tmp_path_factory"]

PAGE = Page(ROOT / "docs" / "scale-out.md")
TIMEOUT_S = 10.0

NATS = ROOT / "docs" / "nats"

ON_YOUR_MACHINE = ("it installs packages and makes users",)
"""Why a block is not run: all the reasons that there may be."""

ORDERS = [f"A-{number:03}" for number in range(1, 6)]
"""What the page appends for alice, in this order."""


def test_every_block_is_run_or_says_why_not() -> None:
    PAGE.check_every_block(ON_YOUR_MACHINE)


def test_every_command_within_a_sentence_is_in_a_block_too() -> None:
    PAGE.check_every_command()


def test_the_nodes_differ_in_no_more_than_their_names_and_addresses() -> None:
    def without_its_own(name: str, monitor: str, zone: str) -> str:
        own, shared = (NATS / f"{name}.conf").read_text().split("cluster {")
        routes = re.search(r"routes: \[.*?\]", shared, re.DOTALL)
        assert routes is not None
        names = re.findall(r"//(n\d)\.example\.com:6222", routes[0])
        assert names == ["n1", "n2", "n3"]
        rest = own + shared.replace(routes[0], "")
        return rest.replace(name, "NAME").replace(monitor, "MONITOR").replace(zone, "ZONE")

    first = without_its_own("n1", "8222", '"zone:a"')
    assert without_its_own("n2", "8223", '"zone:b"') == first
    assert without_its_own("n3", "8224", '"zone:c"') == first


def test_the_largest_event_fits_into_a_message() -> None:
    [payload_mb] = re.findall(r"^max_payload: (\d+)MB$", (NATS / "ebus.conf").read_text(), re.M)
    limits = Limits()
    assert limits.max_event_bytes + limits.max_metadata_bytes < int(payload_mb) * 1_000_000


# What is looked at once the blocks below a heading have been run.


def check_nodes(reader: Reader, printed: Output) -> None:
    assert printed.stdout.count('{"status":"ok"}') == 3
    assert "nats@" not in printed.stderr, "systemd-analyze has something to say"
    leader = re.search(r'"leader": "(n[123])"', printed.stdout)
    assert leader is not None
    assert '"cluster_size": 3' in printed.stdout
    for name in ("n1.key", "n2.key", "n3.key", "environment"):
        assert (reader.root / "etc" / "nats" / name).stat().st_mode & 0o777 == 0o600
    assert (reader.root / "var" / "lib" / "nats").stat().st_mode & 0o777 == 0o700
    check_strangers_are_refused(reader.root)


def check_strangers_are_refused(root: Path) -> None:
    config = (root / "etc" / "nats" / "n1.conf").read_text()
    clients, routes = re.findall(r'^ *listen: "(.*)"$', config, re.MULTILINE)
    trust = ssl.create_default_context(cafile=root / "etc" / "nats" / "ca.pem")
    with connection(clients) as plain:
        assert b'"tls_required":true' in plain.recv(4096)
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            assert client.recv(4096).startswith(b"-ERR 'Authorization Violation'")
    with connection(routes) as plain:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):  # it wants one of ours
            with trust.wrap_socket(plain, server_hostname="127.0.0.1") as route:
                route.recv(1)


def connection(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def check_servers(reader: Reader, printed: Output) -> None:
    assert "  alice: new\n" in printed.stdout
    assert printed.stdout.count('"status":"healthy"') == 2
    assert printed.stdout.count('"durable":true,"warnings":[]') == 2
    assert reader.key("alice") not in (reader.root / "etc" / "ebus" / "tenants.yaml").read_text()


def check_balancer(reader: Reader, printed: Output) -> None:
    assert '[{"position":1,' in printed.stdout, "what one has stored, the other one reads"
    assert '"order":"A-003"' in printed.stdout, "one server was killed, and the other one goes on"


def check_node_dies(reader: Reader, printed: Output) -> None:
    [page] = re.findall(r"\[\{.*\}\]", printed.stdout)
    assert [event["data"]["order"] for event in json.loads(page)] == ORDERS[:4]
    [lost] = (reader.root / "var" / "lost").glob("n?")
    assert (reader.root / "var" / "lib" / "nats" / lost.name).is_dir()


def check_all_die(reader: Reader, printed: Output) -> None:
    assert '{"position":4}{"position":5,' in printed.stdout
    log = (reader.root / "run").glob("tail-*")
    events = [
        json.loads(line.removeprefix("data: "))
        for line in next(log).read_text().splitlines()
        if line.startswith("data: ")
    ]
    assert [event["data"]["order"] for event in events] == ORDERS, "each once, in order"
    assert [event["position"] for event in events] == [1, 2, 3, 4, 5]


def check_backup(reader: Reader, printed: Output) -> None:
    assert printed.stderr == ""
    assert "alice: 5 events up to position 5, " in printed.stdout
    digests = re.findall(r"^([0-9a-f]{64})  -$", printed.stdout, re.MULTILINE)
    assert len(digests) == 2
    assert len({*digests, *re.findall(r"alice.*\nSHA-256.*: (\w+)", printed.stdout)}) == 1
    assert (reader.root / "var" / "backups" / "ebus" / "latest" / "manifest.json").exists()


def check_upgrade(reader: Reader, printed: Output) -> None:
    assert printed.stdout.count('{"status":"ok"}{"position":5}') == 3
    assert printed.stdout.count('{"position":5}') == 5


def check_monitoring(reader: Reader, printed: Output) -> None:
    assert printed.stdout.count('"slow_consumers": 0') == 3
    assert printed.stdout.count('"streams": 4,') == 3, "two for each tenant; none of the drill's"
    assert 'ebus_head_position{tenant="alice"} 5.0' in printed.stdout


def check_sizing(reader: Reader, printed: Output) -> None:
    assert printed.stdout.count("VmRSS:") == 6
    assert len(re.findall(r"^\d+ files, \d+ KiB on disk$", printed.stdout, re.MULTILINE)) == 6
    sizes = re.findall(r"^(\d+) bytes for one of \d+ bytes of JSON$", printed.stdout, re.MULTILINE)
    plain, with_id, with_stream = map(int, sizes)
    assert 320 <= plain <= 330, "326, says the page"
    assert plain < min(with_id, with_stream)  # how much more depends on when ids are indexed


CHECKS: Mapping[str, Callable[[Reader, Output], None]] = {
    "Three NATS servers": check_nodes,
    "The ebus servers": check_servers,
    "The load balancer": check_balancer,
    "A node dies": check_node_dies,
    "All nodes die at once": check_all_die,
    "Backup": check_backup,
    "Upgrade": check_upgrade,
    "Monitoring": check_monitoring,
    "Sizing": check_sizing,
}


@pytest.fixture
def names() -> Iterator[Mapping[str, str]]:
    """Of a machine on which all runs: three nodes by address, everything else by port."""
    claimed = [claim_port() for _ in range(7)]
    clients, routes, *monitors, first, second = (str(port.number) for port in claimed)
    yield {
        "N1": "127.0.0.1",
        "N2": "127.0.0.2",
        "N3": "127.0.0.3",
        "NATS_PORT": clients,
        "ROUTE_PORT": routes,
        **dict(zip(("M1", "M2", "M3"), monitors, strict=True)),
        "PORTS": f"{first} {second}",
        "BACKENDS": f"127.0.0.1:{first} 127.0.0.1:{second}",
        "TENANTS": "2",
        "EVENTS": "1000",
        "NATS_OWNER": str(os.getuid()),
        "NATS_SERVER": str(default_binary()),
    }
    for port in claimed:
        port.release()


def test_a_reader_gets_from_three_machines_through_the_failure_drill(
    tmp_path: Path, names: Mapping[str, str]
) -> None:
    left = dict(CHECKS)
    started: set[int] = set()
    with Reader(tmp_path, names) as reader:
        for heading, blocks in groupby(PAGE.runnable(), lambda block: block.heading):
            outputs = []
            for block in blocks:
                outputs.append(reader.run(block))
                for pid in set(reader.main_pids()) - started:
                    started.add(pid)
                    guard().watch(pid)
            if heading in left:
                printed = "".join(it.stdout for it in outputs)
                errors = "".join(it.stderr for it in outputs)
                left.pop(heading)(reader, Output(printed, errors))
        check_no_secret_is_logged(reader)
    for pid in started:
        guard().forget(pid)
    assert not left, "a heading that was looked at is gone"


def check_no_secret_is_logged(reader: Reader) -> None:
    secrets = [reader.key(name) for name in ("alice", "bob", "admin")]
    secrets += [
        path.read_text().strip()
        for path in (reader.root / "root" / "nats-secrets").glob("*.password")
    ]
    assert len(secrets) == 5
    for log in (reader.root / "run").glob("*.log"):
        for secret in secrets:
            assert secret not in log.read_text()
