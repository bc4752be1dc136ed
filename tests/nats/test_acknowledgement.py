"""What the answer to an append is worth on a cluster is asked of it, and said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.client import Answer
from ebus.backends.jetstream.syncs import Syncs, syncs_in
from ebus.backends.jetstream.worth import Found, Kept, acknowledgement
from ebus.core.engine import Acknowledgement, look_at
from ebus.core.errors import StoreRefused, StoreUnavailable
from ebus.core.limits import MIB, Limits
from ebus.core.tenant import TenantName
from tests.http.conftest import write_config
from tests.live_server import start
from tests.nats.configuration import SYSTEM_PASSWORD, SYSTEM_USER
from tests.nats.engines import Staff, address_at, engine_at
from tests.nats.servers import NatsCluster, NatsServer

SYSTEM: dict[str, Any] = {"system_user": SYSTEM_USER, "system_password": SYSTEM_PASSWORD}
ROOM = 4 * MIB

ALWAYS = Syncs(servers=1, told=1, lazy=0, interval_s=0)
LAZY = Syncs(servers=1, told=1, lazy=1, interval_s=120)
THREE_ALWAYS = Syncs(servers=3, told=3, lazy=0, interval_s=0)
THREE_LAZY = Syncs(servers=3, told=3, lazy=3, interval_s=120)


@pytest.fixture(scope="module")
def synced(nats_directory: Path) -> Iterator[NatsServer]:
    """A server that syncs before it answers."""
    config = "max_payload: 4MB"
    with NatsServer(nats_directory / "synced", sync="always", config=config) as server:
        yield server


def worth(
    syncs: Syncs | None,
    *,
    kept: Kept | None = None,
    durability: str = "full",
    max_payload: int = ROOM,
    **options: Any,
) -> Acknowledgement:
    found = Found(syncs, kept or Kept(), max_payload)
    asked = Options(servers=("localhost:4222",), **options)
    return acknowledgement(asked, Limits(), durability, found)  # type: ignore[arg-type]


def test_one_server_that_syncs_survives_a_power_cut(synced: NatsServer, prefix: str) -> None:
    with engine_at(synced.url, prefix=prefix, require_durable="true", **SYSTEM) as engine:
        engine.check_health()
        engine.open("acme")
        assert engine.acknowledgement() == Acknowledgement(
            "synced to the disk of one server before the answer: survives a power cut, not the loss"
            " of that server",
            is_durable=True,
        )


def test_a_server_that_syncs_now_and_then_does_not_and_the_setting_is_named(
    nats_server: NatsServer, prefix: str
) -> None:
    with engine_at(nats_server.url, prefix=prefix, **SYSTEM) as engine:
        engine.check_health()
        found = engine.acknowledgement()
        assert found.worth == (
            "with one server, synced to disk within 2m: survives the end of its process, not a"
            " power cut"
        )
        assert found.is_durable is False
        [warning] = found.warnings
        assert "sync_interval is 2m, and durability full" in warning
        assert "set sync_interval: always" in warning
        assert engine.acknowledgement("normal").warnings == ()


def test_without_a_system_account_it_is_not_known_and_the_setting_is_named(
    synced: NatsServer, prefix: str
) -> None:
    with engine_at(synced.url, prefix=prefix) as engine:
        found = engine.acknowledgement()
        assert found.is_durable is None
        assert "is not known" in found.worth
        [warning] = found.warnings
        assert "system.user is not set" in warning
        assert engine.acknowledgement("normal").warnings == ()


@pytest.mark.parametrize("system", ["wrong-password", "not-of-the-system"])
def test_a_system_account_that_cannot_be_asked_is_told_without_its_secret(
    system: str, synced: NatsServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    user: dict[str, Any] = {"system_user": SYSTEM_USER, "system_password": "no-such-password"}
    if system == "not-of-the-system":
        user = {"system_credentials": "/nowhere/sys.creds"}
    with engine_at(synced.url, prefix=prefix, **user) as engine:
        [warning] = engine.acknowledgement().warnings
        assert "system.user: the servers could not be asked" in warning
    assert "how the servers sync could not be asked" in caplog.text
    assert "no-such-password" not in caplog.text + warning


def test_a_cluster_that_syncs_now_and_then_survives_one_server_but_no_power_cut(
    nats_cluster: NatsCluster, prefix: str
) -> None:
    with engine_at(nats_cluster.url, prefix=prefix, replicas=3, **SYSTEM) as engine:
        found = engine.acknowledgement()
        assert found.worth == (
            "with at least 2 of 3 servers, synced to disk within 2m: survives the loss of 1, not a"
            " power cut of all at once"
        )
        assert found.is_durable is False
        assert "a power cut of all at once takes" in found.warnings[0]


def test_too_small_a_cluster_is_told_before_any_tenant_is_made(
    synced: NatsServer, prefix: str
) -> None:
    with engine_at(synced.url, prefix=prefix, replicas=3, timeout_s=5, **SYSTEM) as engine:
        [warning] = engine.acknowledgement().warnings
        assert warning == "replicas is 3, and the cluster has 1 server: no tenant can be made"
        with pytest.raises(StoreUnavailable, match="replicas asks for more servers than are there"):
            engine.open("acme")
        assert not any(prefix in name for name in Staff(synced.url).names())


def test_a_tenant_on_fewer_servers_than_are_asked_for_is_told(
    nats_cluster: NatsCluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_at(nats_cluster.url, prefix=prefix) as engine:
        engine.open("acme")
    with engine_at(nats_cluster.url, prefix=prefix, replicas=3, **SYSTEM) as engine:
        engine.open("acme")
        assert f"of the stream {prefix}-acme replicas is 3, and it has 1" in caplog.text
        told = "\n".join(engine.acknowledgement().warnings)
        assert "replicas is 3, and one tenant is kept by fewer servers than that" in told
        assert "acme" not in told


def test_tenants_in_memory_are_told(nats_server: NatsServer, prefix: str) -> None:
    with engine_at(nats_server.url, prefix=prefix, storage="memory") as engine:
        engine.open("acme")
        found = engine.acknowledgement("normal")
        assert found.worth == "in the memory of one server: what is stored ends with them"
        assert found.is_durable is False
        assert found.warnings == ("storage is memory: what is stored ends with the servers",)
    with engine_at(nats_server.url, prefix=prefix) as engine:
        found = engine.acknowledgement("normal")
        assert found.is_durable is False
        assert found.warnings == ("storage is file, and one tenant is kept in memory",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"storage": "memory", **SYSTEM}, "storage is memory"),
        ({}, "system.user is not set"),
        (SYSTEM, "sync_interval is 2m"),
        ({"replicas": 3, **SYSTEM}, "replicas is 3, and the cluster has 1 server"),
    ],
    ids=["memory", "unknown", "lazy", "small"],
)
def test_what_has_to_be_durable_and_is_not_known_to_be_does_not_start(
    options: dict[str, Any], reason: str, nats_server: NatsServer, prefix: str
) -> None:
    with engine_at(nats_server.url, prefix=prefix, require_durable="true", **options) as engine:
        [refusal] = look_at(engine, [TenantName("acme")]).refusals
        assert "require_durable is true, but" in refusal
        assert reason in refusal


def test_a_tenant_that_is_kept_too_ill_is_not_opened_where_it_has_to_be_durable(
    synced: NatsServer, prefix: str
) -> None:
    with engine_at(synced.url, prefix=prefix, storage="memory") as engine:
        engine.open("acme")
    with engine_at(synced.url, prefix=prefix, require_durable="true", **SYSTEM) as engine:
        engine.check_health()
        for call in (engine.open, engine.inspect):
            with pytest.raises(StoreRefused, match=r"require_durable is true, but .* it is in mem"):
                call("acme")
        engine.open("other")


def test_a_server_says_it_in_its_log_and_does_not_start_where_it_must_not(
    nats_server: NatsServer, prefix: str, tmp_path: Path
) -> None:
    tenants = [{"name": "acme", "api_key": "acme-secret-key-123-aaaaaaaaaaaaaaaa"}]

    def configured(**options: Any) -> None:
        address = address_at(nats_server.url, prefix=prefix, **options, **SYSTEM)
        write_config(tmp_path / "tenants.yaml", {"engine": address, "tenants": tenants})

    configured()
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    server.wait_until_listening()
    assert server.stop() == 0
    assert "What an acknowledgement is worth: with one server, synced to disk" in server.log
    assert "sync_interval is 2m, and durability full" in server.log
    configured(require_durable="true")
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    assert server.process.wait(60) == 1
    server.stop()
    assert "require_durable is true, but sync_interval is 2m" in server.log
    assert SYSTEM_PASSWORD not in server.log


# What no server here is set up for


def test_a_cluster_that_syncs_survives_a_power_cut() -> None:
    found = worth(THREE_ALWAYS, replicas=3)
    assert found == Acknowledgement(
        "synced to the disk of at least 2 of 3 servers before the answer: survives a power cut, not"
        " the loss of more than half of them",
        is_durable=True,
    )


def test_what_most_servers_say_is_enough() -> None:
    most = Syncs(servers=3, told=2, lazy=0, interval_s=0)
    assert worth(most, replicas=3).is_durable is True
    few = Syncs(servers=3, told=1, lazy=0, interval_s=0)
    found = worth(few, replicas=3)
    assert found.is_durable is None
    assert "sync_interval is known of 1 of 3 servers only" in found.warnings[0]


def test_one_lazy_server_of_three_is_enough_to_lose_something() -> None:
    one = Syncs(servers=3, told=3, lazy=1, interval_s=10)
    found = worth(one, replicas=3)
    assert found.is_durable is False
    assert "sync_interval of 1 of 3 servers is 10s" in found.warnings[0]


def test_normal_durability_is_warned_of_nothing_that_it_does_not_promise() -> None:
    for syncs in (None, LAZY, THREE_LAZY, ALWAYS):
        assert worth(syncs, durability="normal").warnings == ()


def test_events_that_the_servers_do_not_take_are_told_by_the_name_of_their_limit() -> None:
    [warning] = worth(ALWAYS, max_payload=MIB).warnings
    assert "max_payload of the servers is 1048576 bytes" in warning
    assert "limits.max_event_bytes" in warning


def test_servers_of_other_clusters_and_without_jetstream_do_not_count() -> None:
    def told(name: str, cluster: str, data: str) -> Answer:
        text = f'{{"server":{{"name":"{name}","cluster":"{cluster}"}},"data":{data}}}'
        return Answer(None, text.encode())

    always = '{"config":{"sync_always":true},"meta_cluster":{"cluster_size":3}}'
    lazy = '{"config":{"sync_interval":120000000000},"meta_cluster":{"cluster_size":5}}'
    answers = [
        told("n1", "east", always),
        told("n1", "east", always),
        told("n2", "east", always),
        told("n9", "west", lazy),
        told("n3", "east", '{"disabled":true}'),
    ]
    assert syncs_in(answers, "east") == Syncs(servers=3, told=2, lazy=0, interval_s=0)
