"""An engine that takes more than a place: a mapping or an address in the config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebus.backends.jetstream.address import Options, parse
from ebus.backends.jetstream.settings import SETTINGS, spelled_in_address
from ebus.core.engine import settings_of
from tests.config import nats_factory
from tests.config.tenants_yaml import ONE_TENANT, load, mistakes
from tests.conftest import ROOT

EXAMPLE = '`engine: {nats: {servers: ["localhost:4222"]}}`'


@pytest.fixture(autouse=True)
def _nats(monkeypatch: pytest.MonkeyPatch) -> None:
    nats_factory.register(monkeypatch)


def test_a_mapping_becomes_an_address(tmp_path: Path) -> None:
    config = load(tmp_path, f'engine: {{nats: {{servers: ["h1", "h2:4223"]}}}}\n{ONE_TENANT}')
    assert config.engine == "nats://h1,h2:4223"
    assert config.data_dir == "data"
    assert config.warnings == ()


EVERYTHING = """\
engine:
  nats:
    servers:
      - h1:4222
      - "[::1]:4222"
    user: "ebus"
    password: "p@:/%+ #?"
    replicas: 3
    prefix: orders
    storage: file
    require_durable: yes
    tls:
      ca: /etc/ca.pem
      cert: /etc/cert.pem
      key: /etc/key.pem
      first: true
    system: {user: sys, password_file: /etc/sys}
    timeout_s: 2.5
"""


def test_everything_in_a_mapping_is_in_the_address(tmp_path: Path) -> None:
    scheme, _, location = load(tmp_path, EVERYTHING + ONE_TENANT).engine.partition(":")
    assert scheme == "tls"
    options = parse(location, secure=True)
    assert (options.servers, options.user) == (("h1:4222", "[::1]:4222"), "ebus")
    assert options.secret() == "p@:/%+ #?"
    assert (options.replicas, options.prefix, options.storage) == (3, "orders", "file")
    assert options.require_durable
    assert options.timeout_s == 2.5
    assert (options.tls_ca, options.tls_cert, options.tls_key, options.tls_first) == (
        "/etc/ca.pem",
        "/etc/cert.pem",
        "/etc/key.pem",
        True,
    )
    assert (options.system_user, options.system_password_file) == ("sys", "/etc/sys")


@pytest.mark.parametrize(
    ("engine", "address"),
    [
        ("{nats: {servers: [h1], tls: true}}", "tls://h1"),
        ("{nats: {servers: [h1], tls: {}}}", "tls://h1"),
        ("{nats: {servers: [h1], tls: false}}", "nats://h1"),
        ("{tls: {servers: [h1]}}", "tls://h1"),
        ("{tls: {servers: [h1], tls: {ca: x}}}", "tls://h1?tls_ca=x"),
        ("{nats: {servers: [h1], system: {}}}", "nats://h1"),
        ("nats://user:p%40ss@h1?replicas=3", "nats://user:p%40ss@h1?replicas=3"),
        ("tls://h1", "tls://h1"),
    ],
)
def test_tls_is_said_by_the_mapping_or_by_the_name(
    tmp_path: Path, engine: str, address: str
) -> None:
    config = load(tmp_path, f"engine: {engine}\n{ONE_TENANT}")
    assert (config.engine, config.data_dir) == (address, "data")


def test_a_data_directory_beside_servers_gets_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, "data_dir: a\nengine: {nats: {servers: [h1]}}\n" + ONE_TENANT)
    assert config.warnings == ("data_dir is not used: engine names a place of its own",)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("", 'nats is empty; write `nats: {servers: ["localhost:4222"]}`'),
        (
            " [h1]",
            'nats must be a mapping, not a list; write `nats: {servers: ["localhost:4222"]}`',
        ),
        (" {}", 'servers is missing; write `servers: ["localhost:4222"]`'),
        (" {servers: []}", 'servers is empty; write `servers: ["localhost:4222"]`'),
        (" {servers: h1}", 'servers must be a list, not text; write `servers: ["localhost:4222"]`'),
        (
            ' {servers: ["h1:x"]}',
            'one of these must have a port from 1 to 65535; write `- "localhost:4222"`',
        ),
        (
            ' {servers: ["h1,h2"]}',
            'one of these holds a comma: write one in each line; write `- "localhost:4222"`',
        ),
        (
            ' {servers: ["h1", "h1:4222"]}',
            'servers name one server twice; keep one of them; write `servers: ["localhost:4222"]`',
        ),
        (" {servers: [h1], replica: 3}", "unknown key replica; did you mean replicas?"),
        (" {servers: [h1], replicas: 2}", "replicas must be 1, 3 or 5; write `replicas: 3`"),
        (
            ' {servers: [h1], replicas: "3"}',
            "replicas must be a number, not text; write `replicas: 3`",
        ),
        (
            " {servers: [h1], password: 1234, user: a}",
            'password is a number to YAML unless it is quoted; write `password: "…"`',
        ),
        (
            " {servers: [h1], require_durable: 1}",
            "require_durable must be true or false, not a number; write `require_durable: true`",
        ),
        (
            " {servers: [h1], timeout_s: 0}",
            "timeout_s must be seconds from 0.1 to 300, as 5 or 0.5; write `timeout_s: 5`",
        ),
        (
            " {servers: [h1], tls: 1}",
            'tls must be true or false, not a number; write `tls: {ca: "/etc/ebus/ca.pem"}`',
        ),
        (" {servers: [h1], tls: {caa: x}}", "unknown key caa; did you mean ca?"),
        (
            " {servers: [h1], tls: {ca: ~/x}}",
            "ca must be a full path or one relative to where ebus starts, without ~; "
            'write `ca: "/etc/ebus/ca.pem"`',
        ),
        (
            " {servers: [h1], system: sys}",
            'system must be a mapping, not text; write `system: {user: "sys"}`',
        ),
        (" {servers: [h1], user: a}", "user has no password: say password_file too"),
        (" {servers: [h1], tls: {cert: x}}", "tls.cert needs tls.key beside it"),
        (
            " {servers: [h1], system: {user: a}}",
            "system.user has no password: say system.password_file too",
        ),
        (
            " {servers: [h1], user: a, password: b, credentials: c}",
            "credentials and user are two ways to say who asks: keep one of them",
        ),
    ],
)
def test_a_mistake_in_a_mapping_is_told_with_what_to_write(
    tmp_path: Path, settings: str, told: str
) -> None:
    assert mistakes(tmp_path, f"engine:\n  nats:{settings}\n{ONE_TENANT}") == [
        f"tenants.yaml:2: {told}"
    ]


def test_every_mistake_is_told_at_once_with_its_own_line(tmp_path: Path) -> None:
    text = """\
engine:
  nats:
    servers: [h1]
    prefix: a-b
    replicas: 4
    tls:
      first: maybe
    system:
      user: 7
"""
    found = mistakes(tmp_path, text + ONE_TENANT)
    assert [mistake.partition(": ")[0] for mistake in found] == [
        f"tenants.yaml:{line}" for line in (4, 5, 7, 9)
    ]


def test_what_contradicts_is_told_where_it_stands(tmp_path: Path) -> None:
    text = """\
engine:
  nats:
    servers: [h1]
    password: "x"
    tls:
      ca: a
      key: b
    system:
      password_file: c
"""
    assert mistakes(tmp_path, text + ONE_TENANT) == [
        "tenants.yaml:4: password has no user: say user too",
        "tenants.yaml:7: tls.key needs tls.cert beside it",
        "tenants.yaml:9: system.password_file has no user: say system.user too",
    ]


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("nats", f"engine has to be told where; write {EXAMPLE}"),
        ("nast://h1", "engine 'nast' is unknown; known are "),
        ("nats:h1", "engine cannot be used: two slashes are missing; an address is like nats://"),
        (
            "nats://h1?replicas=2",
            "engine cannot be used: the option replicas of the address must be 1, 3 or 5; ",
        ),
        ("nats://h1?tls_ca=x", "the option tls_ca of the address is for tls only"),
        ("{}", "engine must name one engine, and below it what that is told; write"),
        ("{nats: {servers: [a]}, tls: {servers: [b]}}", "engine must name one engine"),
        ("{nast: {servers: [a]}}", "unknown key nast; did you mean nats?"),
        ("{sqlite: {directory: x}}", "sqlite takes no settings; write `engine: sqlite`"),
        ("cluster", "the engine 'cluster' needs no_such_driver, which is not installed: pip"),
        ("cluster://h1", "the engine 'cluster' needs no_such_driver, which is not installed"),
        ("{cluster: {a: b}}", "the engine 'cluster' needs no_such_driver, which is not installed"),
    ],
)
def test_a_mistake_of_an_engine_is_told_with_its_line(
    tmp_path: Path, engine: str, told: str
) -> None:
    [mistake] = mistakes(tmp_path, f"engine: {engine}\n{ONE_TENANT}")
    assert mistake.startswith("tenants.yaml:1: ")
    assert told in mistake


def test_the_older_name_of_engine_takes_an_address_too(tmp_path: Path) -> None:
    assert load(tmp_path, f"store_backend: nats://h1\n{ONE_TENANT}").engine == "nats://h1"
    [mistake] = mistakes(tmp_path, f"store_backend: {{nats: {{}}}}\n{ONE_TENANT}")
    assert "store_backend must be text, not a mapping" in mistake


def test_what_an_engine_can_be_told_is_found_by_its_name() -> None:
    found = settings_of("nats")
    assert found is not None
    assert found.settings == SETTINGS
    assert settings_of("sqlite") is None
    assert settings_of("memory") is None


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `nats.{name}` | ")]
    option = spelled_in_address(name)
    assert name in {"servers", "tls"} or f"| `{option}` |" in row
    default = getattr(Options(servers=("h1:4222",)), option) if name != "servers" else None
    if isinstance(default, int | float) and not isinstance(default, bool):
        assert f"| {default:g} |" in row
