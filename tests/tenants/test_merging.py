"""Tenants of the registry beside those of the config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebus.config import ConfigError, load_config
from ebus.config.api_key import digest_of
from ebus.core.tenant import TenantName
from ebus.tenants.merging import following, with_registered
from ebus.tenants.model import NewKey
from ebus.tenants.registry import Registry
from tests.tenants.test_registry import ME, some_key

ADMIN_KEY = "the-admin-key-" + "x" * 32


def test_an_admin_key_is_no_tenants_key(tmp_path: Path) -> None:
    digest = digest_of(ADMIN_KEY.encode())
    file = tmp_path / "tenants.yaml"
    file.write_text(f"data_dir: '{tmp_path}'\nadmin_key_sha256: '{digest.hex()}'\n")
    config = load_config(str(file), {})
    with Registry(tmp_path / "tenants.registry") as registry:
        registry.create(TenantName("taken"), NewKey(digest=digest), by=ME)
        registry.create(TenantName("fine"), some_key(), by=ME)
        snapshot = registry.read()
    with pytest.raises(ConfigError, match="is that of the admin key"):
        with_registered(config, snapshot)
    merged, conflicts = following(config, snapshot)
    assert [it.name for it in merged.tenants] == ["fine"]
    assert len(conflicts) == 1
    assert ADMIN_KEY not in conflicts[0]
