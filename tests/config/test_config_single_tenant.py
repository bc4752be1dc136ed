"""Without a config file: one tenant from API_KEY and DB_PATH."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ebus.config import ConfigError, KeyConfig, TenantConfig, load_config
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from tests.config.tenants_yaml import LONG_KEY


def refused(**environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environment)
    return str(caught.value)


def test_a_key_is_all_that_is_needed() -> None:
    config = load_config(None, {"API_KEY": LONG_KEY})
    assert config.single_tenant
    assert config.config_file is None
    assert config.tenants == (
        TenantConfig(
            name=TenantName("events"), keys=(KeyConfig(digest=sha256(LONG_KEY.encode()).digest()),)
        ),
    )
    assert (config.engine, config.data_dir) == ("sqlite:.", ".")
    assert (config.durability, config.limits) == ("full", Limits())
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("path", "directory", "name"),
    [
        ("main.db", ".", "main"),
        ("./main.db", ".", "main"),
        ("../main.db", "..", "main"),
        ("data/shop-1.db", "data", "shop-1"),
        ("/var/lib/ebus/events.db", "/var/lib/ebus", "events"),
        ("/events.db", "/", "events"),
        ("a.b/größe/c d/x_1.db", "a.b/größe/c d", "x_1"),
        ("C:/x.db", "C:", "x"),
    ],
)
def test_the_database_says_the_directory_and_the_tenants_name(
    path: str, directory: str, name: str
) -> None:
    config = load_config(None, {"API_KEY": LONG_KEY, "DB_PATH": path})
    assert config.engine == f"sqlite:{directory}"
    assert config.data_dir == directory
    assert [tenant.name for tenant in config.tenants] == [name]


def test_without_key_and_file_the_answer_says_both_ways_out() -> None:
    assert refused() == (
        "Failed to read settings: API_KEY: not set; start with a config file "
        "(ebus -config tenants.yaml), or with the key of a single tenant (API_KEY=… ebus)"
    )


def test_an_empty_key_counts_as_none() -> None:
    assert refused(API_KEY="") == refused()


@pytest.mark.parametrize(
    "path",
    [
        *("events", "events.sqlite", "events.DB", "events.db ", "events.db/", "events.db\n"),
        *(".db", "data/.db", "a\nb/events.db", "a\0/x.db", "file:events.db?mode=ro"),
    ],
)
def test_a_database_has_to_end_in_db(path: str) -> None:
    assert refused(API_KEY=LONG_KEY, DB_PATH=path) == (
        f"Failed to read settings: DB_PATH: {path!r} is no path that ends in NAME.db; "
        "write DB_PATH=events.db"
    )


@pytest.mark.parametrize("name", ["my.events", "größe", "a b", "a" * 101])
def test_a_database_has_to_be_named_like_a_tenant(name: str) -> None:
    message = refused(API_KEY=LONG_KEY, DB_PATH=f"data/{name}.db")
    assert "is no path that ends in NAME.db: '" in message
    assert "is no tenant name: " in message


def test_a_database_in_memory_gets_an_answer_of_its_own() -> None:
    assert refused(API_KEY=LONG_KEY, DB_PATH=":memory:") == (
        "Failed to read settings: DB_PATH: ':memory:' would lose every event at the end: name a "
        "file, or use a config file with `engine: memory`; write DB_PATH=events.db"
    )


def test_a_tilde_is_not_expanded() -> None:
    assert "'~/events.db' begins with ~, which is not expanded" in refused(
        API_KEY=LONG_KEY, DB_PATH="~/events.db"
    )


@pytest.mark.parametrize("key", [" ", "a b", "abc\n", "größe", "k" * 4097])
def test_a_key_that_cannot_travel_in_a_header(key: str) -> None:
    message = refused(API_KEY=key)
    assert message.startswith("Failed to read settings: API_KEY: the key h")
    assert "HTTP header" in message


def test_every_mistake_is_told_at_once() -> None:
    assert [line.split(" ")[0] for line in refused(DB_PATH="x", PORT="y").splitlines()] == [
        "Failed",
        "API_KEY:",
        "DB_PATH:",
        "PORT:",
    ]


def test_a_short_key_gets_a_warning() -> None:
    [warning] = load_config(None, {"API_KEY": "short"}).warnings
    assert warning.startswith("API keys of fewer than 32 characters are easier to guess: events;")
