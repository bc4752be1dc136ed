"""Who is let in, whether the tenant is open or has to be opened first."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebus.config.api_key import digest_of
from ebus.http.problems import Problem
from ebus.http.roster import Counters
from ebus.http.tenancy import Tenancy
from tests.http.test_reload_inside import ALICE, config_of
from tests.http.test_server_limits_inside import in_a_loop

KEY = "reads-only-key-1234567890123456789012345"


@in_a_loop
async def test_what_a_key_may_not_do_opens_nothing_and_keeps_nothing_open(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_keys": [{"name": "reader", "api_key": KEY, "scope": "read"}]}
    config = config_of(tmp_path, alice)
    config = msgspec.structs.replace(
        config, limits=msgspec.structs.replace(config.limits, max_eager_tenants=0)
    )
    tenancy = Tenancy(config, Counters(config))
    await tenancy.start()
    engine = tenancy._open_engine()
    entry = tenancy.recognise(digest_of(KEY.encode()), (), None)

    def refused() -> None:
        with pytest.raises(Problem) as caught:
            tenancy.admit_at_once(entry, "POST", "/events")
        assert caught.value.code == "insufficient_scope"

    refused()
    assert tenancy.open_tenants == 0
    assert tenancy.admit_at_once(entry, "GET", "/events") is None
    for tenant in (await tenancy.admit(entry), tenancy.admit_at_once(entry, "GET", "/events")):
        assert tenant is not None
        assert (tenant.name, tenant.key) == (ALICE, entry.key)
        refused()
        tenancy.leave(tenant)
    refused()
    assert engine._places[ALICE].users == 0
    await tenancy.stop()
