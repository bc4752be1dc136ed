"""What hostile clients put into the operator's log: no key, whatever else they send."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.attempts import fields_with_his_key
from tests.hostile.conftest import HASTY
from tests.hostile.replies import check_log
from tests.hostile.talking import all_workers_answer, request, talk
from tests.hostile.tenants import Resident, write_tenants
from tests.live_server import serving


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_key_is_ever_logged(tmp_path: Path, log_format: str) -> None:
    """Not where every request is logged either, nor where a key stands in what is unreadable."""
    alice, bob = Resident("alice"), Resident("bob")
    write_tenants(tmp_path, alice, bob)
    arguments = ["--config", "tenants.yaml", "--access-log", "--log-format", log_format]
    with serving(arguments, cwd=tmp_path, environment=HASTY) as server:
        for field in [*fields_with_his_key(bob), b"X-API-Key: " + bob.key.encode()]:
            whole = request(None, b"GET /position", field)
            for sent in (
                whole,
                whole[:-2] + b"\0\r\n\r\n",
                whole[:-2],
                whole.replace(b"/position", b"/nowhere"),
                whole.replace(b"Host: x", b"Host: x\r\nHost: y"),
            ):
                talk(server, sent, half_close=True)
        all_workers_answer(server)
    assert "/nowhere" in server.log
    assert bob.key.lower() not in server.log.lower()
    check_log(server.log)
