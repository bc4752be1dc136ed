"""A credentials file is who asks, as NATS's operators make them, and its account has its limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebus import NewEvent
from ebus.core.errors import EventTooLarge, StoreUnavailable
from tests.nats.credentials import Account, Operator
from tests.nats.engines import engine_at
from tests.nats.monitoring import wait_for
from tests.nats.servers import NatsServer

LEAST_PAYLOAD = 65_536


@pytest.fixture(scope="module")
def operator(nats_directory: Path) -> Operator:
    return Operator(nats_directory / "operator")


@pytest.fixture(scope="module")
def roomy(operator: Operator) -> Account:
    return operator.account("roomy")


@pytest.fixture(scope="module")
def narrow(operator: Operator) -> Account:
    return operator.account("narrow", payload=LEAST_PAYLOAD)


@pytest.fixture(scope="module")
def served(
    nats_directory: Path, operator: Operator, roomy: Account, narrow: Account
) -> Iterator[NatsServer]:
    with NatsServer(nats_directory / "served", sync="always", config=operator.config()) as server:
        yield server


def test_a_credentials_file_lets_us_in_and_another_asks_how_the_servers_sync(
    served: NatsServer, operator: Operator, roomy: Account
) -> None:
    files = {"credentials": roomy.credentials, "system_credentials": operator.system.credentials}
    with engine_at(served.url, require_durable="true", **files) as engine:  # type: ignore[arg-type]
        engine.check_health()
        assert engine.open("acme").append([NewEvent.of("T", 1)]).last_position == 1
        assert engine.acknowledgement().is_durable


def test_what_an_account_takes_is_less_than_what_the_server_takes(
    served: NatsServer, narrow: Account
) -> None:
    with engine_at(served.url, credentials=narrow.credentials) as engine:
        store = engine.open("acme")
        store.append([NewEvent.of("T", "x" * 40_000)])
        with pytest.raises(EventTooLarge, match="NATS is set to take 6"):
            store.append([NewEvent.of("T", "x" * 70_000)])
        assert store.head() == 1
        assert f"max_payload of the servers is {LEAST_PAYLOAD} bytes" in "".join(
            engine.acknowledgement().warnings
        )


def test_a_user_whose_time_is_up_is_told_and_comes_back_with_a_new_file(
    served: NatsServer, roomy: Account
) -> None:
    roomy.user(seconds=2)
    with engine_at(served.url, credentials=roomy.credentials, timeout_s=0.5) as engine:
        store = engine.open("expires")

        def is_told() -> bool:
            try:
                store.append([NewEvent.of("T", 1)])
            except StoreUnavailable as error:
                return "the user of credentials" in str(error)
            return False

        wait_for(is_told, "the user's time to be up")
        roomy.user()
        wait_for(lambda: not is_told(), "the engine to come back")
        assert store.append([NewEvent.of("T", 1)]).last_position > 1
