"""Keys, their digests, scopes and ends; limits of tenants; proxies."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebus.config import Config, ConfigError, KeyConfig, Rate, TenantLimits, load_config
from ebus.core.store import Quota
from tests.config import tenants_yaml
from tests.config.tenants_yaml import LONG_KEY

END = datetime(2999, 1, 31, 10, tzinfo=UTC)
DIGEST = sha256(LONG_KEY.encode()).hexdigest()


def as_yaml(*tenants: dict[str, Any], **top: Any) -> str:
    return msgspec.json.encode({**top, "tenants": tenants}).decode()  # JSON is YAML


def load(directory: Path, *tenants: dict[str, Any], **top: Any) -> Config:
    return tenants_yaml.load(directory, as_yaml(*tenants, **top))


def mistakes(directory: Path, *tenants: dict[str, Any], **top: Any) -> list[str]:
    found = tenants_yaml.mistakes(directory, as_yaml(*tenants, **top))
    return [mistake.removeprefix("tenants.yaml:1: ") for mistake in found]


@pytest.mark.parametrize("digest", [DIGEST, DIGEST.upper()])
def test_a_digest_stands_for_its_key(tmp_path: Path, digest: str) -> None:
    with_digest = load(tmp_path, {"name": "alice", "api_key_sha256": digest})
    assert with_digest == load(tmp_path, {"name": "alice", "api_key": LONG_KEY})
    assert with_digest.warnings == ()


@pytest.mark.parametrize(
    "wrong", ["0" * 63, "0" * 65, "g" * 64, LONG_KEY, f"0x{'0' * 62}", DIGEST + "\n"]
)
def test_what_is_no_digest_is_a_mistake_that_does_not_show_it(tmp_path: Path, wrong: str) -> None:
    assert mistakes(tmp_path, {"name": "alice", "api_key_sha256": wrong}) == [
        "api_key_sha256 is no SHA-256 in 64 hexadecimal digits, such as `ebus keygen` prints; "
        'write `api_key_sha256: "…"`'
    ]


def test_a_tenant_may_have_several_keys(tmp_path: Path) -> None:
    keys = [
        {"name": "backend", "api_key": "b" * 40, "scope": "write"},
        {"name": "report", "api_key_sha256": DIGEST, "scope": "read"},
        {"name": "old", "api_key": "o" * 40, "expires_at": "2999-01-31T12:00:00+02:00"},
    ]
    config = load(tmp_path, {"name": "alice", "api_key": "a" * 40, "api_keys": keys})
    [alice] = config.tenants
    assert alice.keys == (
        KeyConfig(digest=sha256(b"a" * 40).digest()),
        KeyConfig(digest=sha256(b"b" * 40).digest(), name="backend", scope="write"),
        KeyConfig(digest=bytes.fromhex(DIGEST), name="report", scope="read"),
        KeyConfig(digest=sha256(b"o" * 40).digest(), name="old", expires_at_s=END.timestamp()),
    )
    assert config.warnings == ()


def test_named_keys_are_enough(tmp_path: Path) -> None:
    keys = [{"name": "backend", "api_key": LONG_KEY}]
    [alice] = load(tmp_path, {"name": "alice", "api_keys": keys}).tenants
    assert [key.name for key in alice.keys] == ["backend"]


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        ({}, 'api_key is missing; write `api_key: "…"`'),
        (
            {"api_keys": []},
            'api_keys is empty; write `api_keys: [{name: "backend", api_key_sha256: "…"}]`',
        ),
        ({"api_keys": [{"name": "a"}]}, 'api_key is missing; write `api_key: "…"`'),
        (
            {"api_key": LONG_KEY, "api_key_sha256": "0" * 64},
            "api_key_sha256 stands in the place of api_key; keep one of them",
        ),
        (
            {"api_keys": [{"name": n, "api_key": f"{LONG_KEY}{i}"} for i, n in enumerate("aba")]},
            "duplicate key name for tenant: alice; line 1 has it too, choose another",
        ),
        (
            {"api_key": LONG_KEY, "api_keys": [{"name": "a", "api_key_sha256": DIGEST}]},
            "duplicate API key for tenant: alice; give every tenant a key of its own",
        ),
        (
            {"api_keys": [{"name": "a", "api_key": LONG_KEY, "scope": "admin"}]},
            "scope must be both or read or write; write `scope: both`",
        ),
        (
            {"api_key": LONG_KEY, "scope": "read"},
            "unknown key scope: it belongs to a key, below `api_keys:`",
        ),
        (
            {"api_key": LONG_KEY, "max_stored_events": 1},
            "unknown key max_stored_events: it belongs below the tenant's `limits:`",
        ),
    ],
)
def test_what_is_wrong_with_keys(tmp_path: Path, tenant: dict[str, Any], said: str) -> None:
    assert mistakes(tmp_path, {"name": "alice", **tenant}) == [said]


def test_a_digest_and_its_key_are_the_same_key(tmp_path: Path) -> None:
    tenants: list[dict[str, Any]] = [
        {"name": "alice", "api_key": LONG_KEY},
        {"name": "bob", "api_keys": [{"name": "a", "api_key_sha256": DIGEST}]},
    ]
    assert mistakes(tmp_path, *tenants) == [
        "duplicate API key for tenant: bob; give every tenant a key of its own"
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-02", 86_400),
        ('"1970-01-02"', 86_400),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01 00:01:00z", 60),
        ('"1970-01-01T01:01:00+01:00"', 60),
    ],
)
def test_an_end_is_a_date_or_a_moment(tmp_path: Path, written: str, seconds: float) -> None:
    text = (
        f"tenants: [{{name: alice, api_keys: "
        f"[{{name: old, api_key: {LONG_KEY}, expires_at: {written}}}]}}]"
    )
    config = tenants_yaml.load(tmp_path, text)
    assert config.tenants[0].keys[0].expires_at_s == seconds
    assert config.warnings == ("these API keys have expired: old of alice; remove them",)


@pytest.mark.parametrize(
    "written",
    [
        "2027-02-30",
        "2027-01-31T00:00:00",
        "tomorrow",
        "20270131",
        "2027-W01",
        "'١٩٧٠-01-01'",
        '"2027-01-31\\n"',
    ],
)
def test_what_is_no_end_is_a_mistake(tmp_path: Path, written: str) -> None:
    text = (
        f"tenants: [{{name: alice, api_keys: "
        f"[{{name: old, api_key: {LONG_KEY}, expires_at: {written}}}]}}]"
    )
    [mistake] = tenants_yaml.mistakes(tmp_path, text)
    assert mistake.startswith("tenants.yaml:1: expires_at ")
    assert mistake.endswith("; write `expires_at: 2027-01-31T00:00:00Z`")


# Limits


def test_limits_are_those_of_all_tenants_unless_a_tenant_has_its_own(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {"name": "alice", "api_key": "a" * 40},
        {
            "name": "bob",
            "api_key": "b" * 40,
            "limits": {"max_requests_per_second": 2.5, "max_stored_bytes": 2**40},
        },
        tenant_limits={
            "max_requests_per_second": 100,
            "max_request_burst": 10,
            "max_events_per_second": 1000,
            "max_stored_events": 7,
        },
    )
    alice, bob = config.tenants
    assert alice.limits == TenantLimits(
        requests=Rate(100.0, 10), events=Rate(1000.0, 1000), quota=Quota(max_events=7)
    )
    assert bob.limits == TenantLimits(
        requests=Rate(2.5, 6), events=Rate(1000.0, 1000), quota=Quota(7, 2**40)
    )


def test_without_limits_there_are_none(tmp_path: Path) -> None:
    [alice] = load(tmp_path, {"name": "alice", "api_key": LONG_KEY}).tenants
    assert alice.limits == TenantLimits()
    assert alice.limits.quota == Quota()


@pytest.mark.parametrize("place", ["limits", "tenant_limits"])
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_request_burst": 5}, "max_request_burst has no rate to burst over"),
        (
            {"max_requests_per_second": 0},
            "max_requests_per_second is no number a second, more than 0",
        ),
        ({"max_requests_per_second": "5"}, "max_requests_per_second must be a number, not text"),
        ({"max_events_per_second": -1}, "max_events_per_second is no number a second, more than 0"),
        ({"max_stored_events": 0}, "max_stored_events must be a whole number from 1"),
        ({"max_stored_bytes": 1.5}, "max_stored_bytes must be a whole number from 1"),
        ({"max_stored_bytes": 2**63}, "max_stored_bytes must be a whole number from 1"),
    ],
)
def test_limits_that_are_none(
    tmp_path: Path, place: str, limits: dict[str, Any], said: str
) -> None:
    tenant: dict[str, Any] = {"name": "alice", "api_key": LONG_KEY}
    top: dict[str, Any] = {}
    (tenant if place == "limits" else top)[place] = limits
    [mistake] = mistakes(tmp_path, tenant, **top)
    assert mistake.startswith(said)


# Proxies


def test_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        {"name": "alice", "api_key": LONG_KEY},
        trusted_proxies=["127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"],
    )
    expected = ("127.0.0.1/32", "10.0.0.0/8", "::1/128", "fd00::/8")
    assert config.trusted_proxies == tuple(map(ip_network, expected))
    with_variable = load_config(
        None, {"API_KEY": LONG_KEY, "TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,::1,fd00::/8"}
    )
    assert with_variable.trusted_proxies == config.trusted_proxies


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "proxy", "*", "10.0.0.0/33"])
def test_a_proxy_that_is_none(tmp_path: Path, wrong: str) -> None:
    found = mistakes(
        tmp_path, {"name": "alice", "api_key": LONG_KEY}, trusted_proxies=["::1", wrong]
    )
    assert found == [
        'a proxy is no address of a proxy or of a network of proxies; write `- "10.0.0.0/8"`'
    ]


# A single tenant


def test_a_single_tenants_key_may_be_a_digest() -> None:
    assert load_config(None, {"API_KEY_SHA256": DIGEST}) == load_config(None, {"API_KEY": LONG_KEY})


# The key to the whole server


ADMIN_KEY = "admin-" + LONG_KEY
ADMIN_DIGEST = sha256(ADMIN_KEY.encode()).hexdigest()


def test_an_admin_key_is_known_by_its_digest(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_key": LONG_KEY}
    assert load(tmp_path, alice).admin_key_digest is None
    config = load(tmp_path, alice, admin_key_sha256=ADMIN_DIGEST)
    assert config.admin_key_digest == bytes.fromhex(ADMIN_DIGEST)
    variables = {"API_KEY": LONG_KEY, "ADMIN_KEY_SHA256": ADMIN_DIGEST}
    assert load_config(None, variables).admin_key_digest == bytes.fromhex(ADMIN_DIGEST)


def test_the_admin_key_is_no_tenants(tmp_path: Path) -> None:
    for keys in ({"api_key": ADMIN_KEY}, {"api_keys": [{"name": "a", "api_key": ADMIN_KEY}]}):
        tenant = {"name": "alice", **keys}
        assert mistakes(tmp_path, tenant, admin_key_sha256=ADMIN_DIGEST) == [
            "the admin key is an API key of tenant alice; make another one"
        ]
    with pytest.raises(ConfigError, match="the admin key is the tenant's API key too"):
        load_config(None, {"API_KEY": ADMIN_KEY, "ADMIN_KEY_SHA256": ADMIN_DIGEST})


def test_admin_keys_have_names(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_key": LONG_KEY}
    named = [{"name": "anna", "api_key_sha256": "2" * 64}]
    config = load(tmp_path, alice, admin_key_sha256=ADMIN_DIGEST, admin_keys=named)
    assert config.admins == {
        bytes.fromhex(ADMIN_DIGEST): "admin",
        bytes.fromhex("2" * 64): "anna",
    }
    assert load(tmp_path, alice, admin_keys=named).admins == {bytes.fromhex("2" * 64): "anna"}
    assert load(tmp_path, alice).admins == {}


def test_no_two_admins_share_a_name_or_a_key_and_none_has_a_tenants(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_key": LONG_KEY}
    admin_keys = [
        {"name": "anna", "api_key_sha256": ADMIN_DIGEST},
        {"name": "anna", "api_key_sha256": "2" * 64},
        {"name": "admin", "api_key_sha256": DIGEST},
    ]
    found = mistakes(tmp_path, alice, admin_key_sha256=ADMIN_DIGEST, admin_keys=admin_keys)
    assert {it.partition(";")[0] for it in found} == {
        "duplicate admin key",
        "duplicate admin key name",
        "the admin key is an API key of tenant alice",
    }


def test_tenants_may_be_left_out_with_an_admin_key_only(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    for text, is_fine in {
        f"admin_key_sha256: '{ADMIN_DIGEST}'": True,
        f"admin_key_sha256: '{ADMIN_DIGEST}'\ntenants: []": True,
        f"admin_keys: [{{name: anna, api_key_sha256: '{ADMIN_DIGEST}'}}]": True,
        "tenants: []": False,
        "data_dir: x": False,
    }.items():
        path.write_text(text)
        path.chmod(0o600)
        if is_fine:
            assert load_config(str(path), {}).tenants == ()
        else:
            with pytest.raises(ConfigError, match="tenants is"):
                load_config(str(path), {})


def test_an_admin_key_that_is_no_digest_is_not_quoted(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_key": LONG_KEY}
    [mistake] = mistakes(tmp_path, alice, admin_key_sha256=ADMIN_KEY)
    assert mistake.startswith("admin_key_sha256 is no SHA-256 in 64 hexadecimal digits")
    assert ADMIN_KEY not in mistake
