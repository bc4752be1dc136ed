"""The environment variables that count with a config file and without one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.config import ENVIRONMENT, Config, ConfigError, Rate, load_config
from ebus.config.environment import LIMIT_VARIABLES, VARIABLES
from tests.config.tenants_yaml import LONG_KEY, ONE_TENANT, load, refusal


def with_variable(name: str, value: str) -> Config:
    return load_config(None, {"API_KEY": LONG_KEY, name: value})


def mistake(name: str, value: str) -> str:
    """The one mistake that this variable makes."""
    with pytest.raises(ConfigError) as caught:
        with_variable(name, value)
    [only] = caught.value.mistakes
    assert only.where == name
    return only.message


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("PORT", "0", "port", 0),
        ("PORT", "9000", "port", 9000),
        ("PORT", "65535", "port", 65535),
        ("RATE_LIMIT", "100", "request_rate", Rate(100.0, 200)),
        ("RATE_LIMIT", "0.5", "request_rate", Rate(0.5, 2)),
        ("ENABLE_GZIP", "true", "enable_gzip", True),
        ("ENABLE_GZIP", "TRUE", "enable_gzip", True),
        ("ENABLE_GZIP", "1", "enable_gzip", True),
        ("ENABLE_GZIP", "yes", "enable_gzip", True),
        ("ENABLE_GZIP", "On", "enable_gzip", True),
        ("ENABLE_GZIP", "false", "enable_gzip", False),
        ("ENABLE_GZIP", "0", "enable_gzip", False),
        ("ENABLE_GZIP", "no", "enable_gzip", False),
        ("ENABLE_GZIP", "off", "enable_gzip", False),
        ("READ_TIMEOUT", "2m", "read_timeout_s", 120.0),
        ("WRITE_TIMEOUT", "500ms", "write_timeout_s", 0.5),
        ("IDLE_TIMEOUT", "1m30s", "idle_timeout_s", 90.0),
        ("SHUTDOWN_TIMEOUT", "1.5h", "shutdown_timeout_s", 5400.0),
    ],
)
def test_a_variable_sets_its_field_in_both_modes(
    tmp_path: Path, name: str, value: str, field: str, read: Any
) -> None:
    assert getattr(with_variable(name, value), field) == read
    assert getattr(load(tmp_path, ONE_TENANT, **{name: value}), field) == read


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("MAX_CONNECTIONS", "max_connections"),
        ("MAX_INFLIGHT_BODY_BYTES", "max_inflight_body_bytes"),
    ],
)
def test_a_limit_of_the_machine_can_be_set_in_the_environment_which_goes_before_the_file(
    tmp_path: Path, name: str, limit: str
) -> None:
    file = f"{ONE_TENANT}limits: {{{limit}: 5, max_type_chars: 7}}\n"
    assert getattr(load(tmp_path, file).limits, limit) == 5
    limits = load(tmp_path, file, **{name: "9"}).limits
    assert (getattr(limits, limit), limits.max_type_chars) == (9, 7)
    assert getattr(with_variable(name, "9").limits, limit) == 9
    assert f"write {name}=" in mistake(name, "0")


def test_what_is_not_set_has_its_default(tmp_path: Path) -> None:
    config = load(tmp_path, ONE_TENANT)
    assert (config.host, config.port, config.enable_gzip) == ("", 8080, False)
    assert config.request_rate is None
    assert (config.read_timeout_s, config.write_timeout_s) == (30.0, 60.0)
    assert (config.idle_timeout_s, config.shutdown_timeout_s) == (120.0, 30.0)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    empty = dict.fromkeys(ENVIRONMENT, "")
    assert load(tmp_path, ONE_TENANT, **empty) == load(tmp_path, ONE_TENANT)


def test_other_variables_are_none_of_ours(tmp_path: Path) -> None:
    assert load(tmp_path, ONE_TENANT, HOME="/x", port="x") == load(tmp_path, ONE_TENANT)


@pytest.mark.parametrize(
    "value",
    [
        *("-1", "65536", "99999999999", "080", "00", "+80", " 80", "80 ", "80\n", "8_080", "1e3"),
        *("80.0", "0x50", "٨٠", "http", ":8080", "8080/tcp", "localhost:8080"),
    ],
)
def test_a_port_that_is_none(value: str) -> None:
    assert mistake("PORT", value) == (
        f"{value!r} is no whole number from 0 to 65535 in plain digits; write PORT=8080"
    )


@pytest.mark.parametrize(
    "value",
    [
        *("0", "0.0", "-1", "nan", "inf", "Infinity", "1e3", "1_0", "+1", " 1", ".5", "1.", "01"),
        *("1/s", "1,5", "٣", "9999999999", "1" * 400),
    ],
)
def test_a_rate_that_is_none(value: str) -> None:
    message = mistake("RATE_LIMIT", value)
    assert "is no number a second, more than 0" in message
    assert message.endswith("; unset, there is no limit; write RATE_LIMIT=100")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "010", "1e3", "1_0", "+5", "٣", "many"])
def test_a_burst_that_is_none(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"API_KEY": LONG_KEY, "RATE_LIMIT": "1", "RATE_BURST": value})
    assert [mistake.message for mistake in caught.value.mistakes] == [
        f"{value!r} is no whole number from 1 to 1000000000 in plain digits; write RATE_BURST=200"
    ]


@pytest.mark.parametrize("value", ["maybe", "truee", "2", " true", "t", "enabled"])
def test_a_switch_that_is_none(value: str) -> None:
    assert mistake("ENABLE_GZIP", value) == (
        f"{value!r} is neither true nor false; write ENABLE_GZIP=true"
    )


@pytest.mark.parametrize("name", [name for name in ENVIRONMENT if name.endswith("_TIMEOUT")])
def test_a_timeout_without_a_unit_is_told_with_its_unit(name: str) -> None:
    assert mistake(name, "45") == f"'45' has no unit; write {name}=45s"


def test_a_long_value_is_shortened_in_its_mistake() -> None:
    assert len(mistake("PORT", "x" * 10_000)) < 150


@pytest.mark.parametrize(
    ("rate", "burst"), [("0.001", 2), ("0.5", 2), ("1", 2), ("1.5", 4), ("100", 200)]
)
def test_a_burst_is_two_seconds_worth_unless_it_is_set(rate: str, burst: int) -> None:
    assert with_variable("RATE_LIMIT", rate).request_rate == Rate(float(rate), burst)


def test_a_burst_can_be_set(tmp_path: Path) -> None:
    config = load(tmp_path, ONE_TENANT, RATE_LIMIT="10", RATE_BURST="1")
    assert config.request_rate == Rate(10.0, 1)


def test_a_burst_without_a_rate_is_a_mistake() -> None:
    assert mistake("RATE_BURST", "5") == (
        "there is no rate limit to burst over; write RATE_LIMIT=100, or unset it"
    )


def test_a_burst_beside_an_unreadable_rate_is_not_blamed(tmp_path: Path) -> None:
    error = refusal(tmp_path, ONE_TENANT, RATE_LIMIT="fast", RATE_BURST="5")
    assert [mistake.where for mistake in error.mistakes] == ["RATE_LIMIT"]


def test_every_variables_mistake_is_told(tmp_path: Path) -> None:
    error = refusal(tmp_path, ONE_TENANT, **dict.fromkeys(ENVIRONMENT, "?"))
    assert {mistake.where for mistake in error.mistakes} == {*VARIABLES, *LIMIT_VARIABLES}


def test_with_a_config_file_the_single_tenants_variables_get_a_warning(tmp_path: Path) -> None:
    config = load(tmp_path, ONE_TENANT, API_KEY=LONG_KEY + "x", DB_PATH="old.sqlite")
    assert config.warnings == (
        f"API_KEY is set but not used: every tenant has its own in {config.config_file}",
        f"DB_PATH is set but not used: the place of the data is data_dir in {config.config_file}",
    )


@given(st.dictionaries(st.sampled_from(ENVIRONMENT), st.text()))
def test_whatever_the_environment_holds_the_answer_is_a_config_or_its_mistakes(
    environment: dict[str, str],
) -> None:
    with suppress(ConfigError):
        config = load_config(None, environment)
        assert 0 <= config.port <= 65535
        assert config.request_rate is None or config.request_rate.burst >= 1
