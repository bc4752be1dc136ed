"""Opening an engine by its address."""

from __future__ import annotations

from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

from ebus import engine_names, open_engine
from ebus.backends.memory import MemoryEngine
from ebus.backends.sqlite import SqliteEngine
from ebus.core import engine as registry
from ebus.core.engine import (
    SupportsAcknowledgement,
    SupportsHealth,
    SupportsInspect,
    look_at,
)
from ebus.core.errors import EngineNotInstalled, StoreUnavailable, UnknownEngine
from ebus.core.tenant import TenantName
from tests.config.nats_factory import without_driver


def test_our_own_engines_are_registered() -> None:
    assert engine_names() == ["http", "https", "memory", "nats", "sqlite", "tls"]


def test_the_part_before_the_colon_chooses_the_engine(tmp_path: Path) -> None:
    assert isinstance(open_engine("memory:"), MemoryEngine)
    with open_engine(f"sqlite:{tmp_path}/data") as engine:
        assert isinstance(engine, SqliteEngine)
        engine.open("alice")
    assert (tmp_path / "data" / "alice.db").exists()


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownEngine, match="'postgres'; known are http, https, memory, nats, sqlite"
    ):
        open_engine("postgres://host")


def test_a_known_engine_without_its_driver_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **_: EntryPoints([without_driver()]))
    with pytest.raises(EngineNotInstalled, match=r"pip install 'ebus\[cluster\]'"):
        open_engine("cluster:")


class Unreachable(MemoryEngine, SupportsHealth, SupportsInspect):
    """A cluster that is away; each question takes as long as it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    def check_health(self) -> None:
        self.questions += 1
        raise StoreUnavailable("the cluster is away")

    def inspect(self, name: str) -> str:
        self.check_health()
        return "ready"


def test_an_engine_that_cannot_be_used_is_not_asked_for_each_tenant() -> None:
    engine = Unreachable()
    findings = look_at(engine, [TenantName("alice"), TenantName("bob")])
    assert findings.refusals == ["the cluster is away"]
    assert findings.tenants == {}
    assert engine.questions == 1


def test_our_own_engines_say_what_an_acknowledgement_is_worth(tmp_path: Path) -> None:
    with open_engine(f"sqlite:{tmp_path}/data", durability="normal") as engine:
        assert isinstance(engine, SupportsAcknowledgement)
        assert engine.acknowledgement().is_durable is False
        assert engine.acknowledgement("normal") == engine.acknowledgement()
        assert engine.acknowledgement("full").is_durable is True
        assert not (tmp_path / "data").exists()
    with open_engine("memory:") as engine:
        assert isinstance(engine, SupportsAcknowledgement)
        assert engine.acknowledgement("full").is_durable is False
