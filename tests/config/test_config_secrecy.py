"""No secret is ever shown, of a key or of an engine: in no message, warning, repr or traceback."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import yaml

from ebus.config import ConfigError, document, load_config
from tests.config import nats_factory
from tests.config.tenants_yaml import ONE_TENANT, load, write

CANARY = "Canary7Key"


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def each_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(document, "LOADER", getattr(yaml, request.param))


def everything_shown(path: str | None, environment: dict[str, str]) -> str:
    """All that a program, or a reporter of errors, could show of the outcome."""
    try:
        config = load_config(path, environment)
    except ConfigError as error:
        contexts = [error.__cause__, error.__context__]
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        variables = [
            repr(value)
            for frame in frames
            for name, value in frame.f_locals.items()
            if name != "environment"  # it is the caller's, and has the key
        ]
        shown = [str(error), repr(error), repr(contexts), repr(error.mistakes), repr(vars(error))]
        return "\n".join([*shown, *traceback.format_exception(error), *variables])
    return f"{config} {config!r} {config.tenants!r} {config.warnings}"


# What may stand after `api_key:`, well written and wrong in every way.
VALUES = [
    "CANARY",
    '"CANARY"',
    "'CANARY'",
    "CANARY # a comment",
    '"CANARY with spaces"',
    "größe-CANARY",
    '"CANARY\\n"',
    '"CANARY\\q"',
    '"CANARY\\x0"',
    '"CANARY',
    "'CANARY",
    '"CANARY" CANARY',
    "CANARY: CANARY",
    "[CANARY]",
    "[CANARY",
    "{CANARY}",
    "{CANARY: CANARY}",
    "{CANARY",
    "*CANARY",
    "&CANARY",
    "&CANARY x\n    durability: &CANARY full",
    "!CANARY",
    "!CANARY CANARY",
    "!CANARY!CANARY CANARY",
    "!<CANARY",
    "!!CANARY x",
    "!!int CANARY",
    "!!binary CANARY",
    "@CANARY",
    "`CANARY",
    "%CANARY",
    "|CANARY",
    ">CANARY",
    "|\n      CANARY",
    "- CANARY",
    "? CANARY",
    ",CANARY",
    "]CANARY",
    "\tCANARY",
    "\x07CANARY",
    "\n   CANARY",
    "\n    CANARY",
    "\nCANARY",
    "\n  - CANARY",
    "x\n    CANARY: x",
    "x\n    CANARY",
    "x\n    api_keyCANARY: x",
    "x\n    api_key:CANARY: x",
    "x\n    api_key=CANARY: x",
    "x\n    durability: CANARY",
    "x\nCANARY: x",
    "x\n---\nCANARY: x",
    "x\n%CANARY",
    "0123" * 3,
    "CANARY\n  - name: bob\n    api_key: CANARY",
    "CANARY\n  - name: alice\n    api_key: CANARY2",
    "CANARY\n  - CANARY",
    "CANARY\n  - api_key: CANARY",
    "CANARY\nlimits: {max_read_events: CANARY}",
    "CANARY\nlimits: CANARY",
    "CANARY\nlimits: {CANARY: 1}",
    "CANARY\ndurability: CANARY",
    "CANARY\ndata_dir: [CANARY]",
    "CANARY\nengine: 'nats://ebus:CANARY@host'",
    "CANARY\nengine: {CANARY: CANARY}",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_key_in_the_file_is_not_shown(tmp_path: Path, value: str) -> None:
    text = f"tenants:\n  - name: alice\n    api_key: {value}\n"
    path = write(tmp_path, text.replace("CANARY", CANARY))
    assert CANARY not in everything_shown(path, {})


@pytest.mark.parametrize(
    "text",
    [
        "CANARY",
        "- CANARY",
        "CANARY: alice",
        "tenants: CANARY",
        "tenants: {CANARY: alice}",
        "tenants: {alice: CANARY}",
        "tenants: [CANARY]",
        "tenants: [{CANARY: alice}]",
        "tenants: [{alice: CANARY}]",
        "tenants: [{name: alice, api_key:CANARY}]",
        "tenants: [{name: alice, apikey: CANARY}]",
        "tenants: [{name: alice, api_key: x, api_key: CANARY}]",
        "tenants: [{name: ../x, api_key: CANARY}]",
        "tenants: [{name: alice, api_key: CANARY}, {name: alice, api_key: CANARY}]",
        "api_key: CANARY",
        "name: alice\napi_key: CANARY",
        "? {api_key: CANARY}\n: CANARY",
        "[[[" * 20 + "CANARY",
        "tenants: [{name: alice, api_key: CANARY}]\n---\nCANARY",
        "tenants:\n- name: alice\n  api_key: CANARY\n  name: x\n colour: 1",
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text.replace("CANARY", CANARY))
    assert CANARY not in everything_shown(path, {})


def test_a_key_in_a_file_that_is_not_utf8_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, f"tenants: [{{name: größe, api_key: {CANARY}}}]".encode("latin-1"))
    assert CANARY not in everything_shown(path, {})


@pytest.mark.parametrize("key", [CANARY, f"{CANARY} x", f"{CANARY}\n", f"ö{CANARY}", CANARY * 999])
@pytest.mark.parametrize("others", [{}, {"PORT": "x", "DB_PATH": ":memory:"}])
def test_a_key_in_the_environment_is_not_shown(key: str, others: dict[str, str]) -> None:
    assert CANARY not in everything_shown(None, {"API_KEY": key, **others})


@pytest.mark.parametrize("text", ["", "tenants: [{name: alice, api_key: x}]"])
def test_a_key_in_the_environment_that_is_not_used_is_not_shown(tmp_path: Path, text: str) -> None:
    assert CANARY not in everything_shown(write(tmp_path, text), {"API_KEY": CANARY})


# What may stand after `engine:`, well written and wrong in every way.
ENGINES = [
    "nats://ebus:CANARY@h1,h2?replicas=3",
    "nats://CANARY@h1",
    "tls://h1?user=ebus&password=CANARY&system_user=sys&system_password=CANARY",
    "http://CANARY@h1:8080",
    '{nats: {servers: [h1], user: ebus, password: "CANARY"}}',
    '{nats: {servers: [h1], token: "CANARY", tls: {ca: x}}}',
    "{nats: {servers: [h1], system: {user: sys, password: CANARY}}}",
    "CANARY@h1",
    "nats:ebus:CANARY@h1",
    "nats:/ebus:CANARY@h1",
    "nats://ebus:CANARY@",
    "nats://ebus:CANARY@h1:x",
    "nats://ebus:CANARY@h1/x",
    "nats://ebus:CANARY/x@h1",
    "nats://ebus:CANARY@x@h1",
    "nats://ebus:CANARY@h1,ebus:CANARY@h2",
    "nats://ebus:CANARY@h1?replicas=2",
    "nats://h1:CANARY",
    "nats://h1/CANARY",
    "nats://h1?CANARY",
    "nats://h1?CANARY=1",
    "nats://h1?password=CANARY",
    "nats://h1?user=x&password=CANARY&password=CANARY",
    "nats://h1?user=x&password=CANARY&replicas=2",
    "nats://[CANARY]",
    "nast://ebus:CANARY@h1",
    "cluster://ebus:CANARY@h1",
    "memory://ebus:CANARY@h1",
    "{nats: CANARY}",
    "{nats: [CANARY]}",
    "{CANARY: {servers: [h1]}}",
    "{nats: {servers: CANARY}}",
    "{nats: {servers: [[CANARY]]}}",
    "{nats: {servers: ['ebus:CANARY@h1']}}",
    "{nats: {servers: ['nats://ebus:CANARY@h1']}}",
    "{nats: {servers: ['[CANARY]']}}",
    "{nats: {servers: ['h1:CANARY']}}",
    "{nats: {servers: ['h1,CANARY']}}",
    "{nats: {servers: [h1], password: CANARY}}",
    "{nats: {servers: [h1], user: x, password: [CANARY]}}",
    "{nats: {servers: [h1], user: x, password: {CANARY: CANARY}}}",
    "{nats: {servers: [h1], user: x, password: 'CANARY\u0007'}}",
    "{nats: {servers: [h1], user: x, password: !!binary CANARY}}",
    "{nats: {servers: [h1], user: x, passwort: CANARY}}",
    "{nats: {servers: [h1], user: x, password: CANARY, token: CANARY}}",
    "{nats: {servers: [h1], user: x, password: CANARY, replicas: CANARY}}",
    "{nats: {servers: [h1], user: x, password: CANARY, timeout_s: CANARY}}",
    "{nats: {servers: [h1], CANARY: x}}",
    "{nats: {servers: [h1], tls: CANARY}}",
    "{nats: {servers: [h1], tls: {CANARY: x}}}",
    "{nats: {servers: [h1], system: {password: CANARY}}}",
    "{nats: {servers: [h1], system: CANARY}}",
    "{nats: {servers: [h1]}, CANARY: {}}",
    "{sqlite: {CANARY: CANARY}}",
    "{http: CANARY}",
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("environment", [{}, {"PORT": "x"}], ids=["", "and a mistake elsewhere"])
def test_a_secret_of_an_engine_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, environment: dict[str, str]
) -> None:
    nats_factory.register(monkeypatch)
    path = write(tmp_path, f"engine: {engine}\n{ONE_TENANT}".replace("CANARY", CANARY))
    assert CANARY not in everything_shown(path, environment)


def test_the_secret_is_there_for_who_opens_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats_factory.register(monkeypatch)
    text = f"engine: {{nats: {{servers: [h1], user: u, password: {CANARY}}}}}\n{ONE_TENANT}"
    address = load(tmp_path, text).engine
    assert address.endswith(f"?user=u&password={CANARY}")
    assert f"{address}" == "nats://h1"
