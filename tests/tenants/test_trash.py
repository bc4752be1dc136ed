"""Deletions that were cut off: what a start does about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.config import load_config
from ebus.core.tenant import TenantName
from ebus.tenants.registry import Registry
from ebus.tenants.trash import finish_deletions
from tests.tenants.test_registry import ME, some_key


def test_one_that_cannot_be_moved_holds_up_neither_the_others_nor_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    (tmp_path / "tenants.yaml").write_text(f"data_dir: '{data}'\nadmin_key_sha256: '{'0' * 64}'\n")
    config = load_config(str(tmp_path / "tenants.yaml"), {})
    with Registry(data / "tenants.registry") as registry, SqliteEngine(data) as engine:
        trash = {}
        for name in ("stuck", "fine"):
            registry.create(TenantName(name), some_key(), by=ME)
            engine.open(name).append([NewEvent.of("T", 1)])
            registry.set_state(name, "suspended", by=ME)
            trash[name] = registry.delete(name, confirmed=name, by=ME).id
        engine.close()
        place = data / "tenants.trash"
        place.mkdir()
        (place / trash["stuck"]).write_text("in the way")
        finish_deletions(config, registry)
        assert {it.tenant: it.is_moved for it in registry.trash()} == {"stuck": False, "fine": True}
        assert "is not in the trash yet" in caplog.text
        (place / trash["stuck"]).unlink()
        finish_deletions(config, registry)
        assert all(it.is_moved for it in registry.trash())
    assert not list(data.glob("*.db"))
    assert (place / trash["stuck"] / "stuck.db").exists()
