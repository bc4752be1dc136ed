"""Who may change the registry, and where those who serve it can be asked."""

from __future__ import annotations

from pathlib import Path

from ebus.tenants.claim import Claim, addresses_of_holders


def test_the_last_who_said_where_he_can_be_asked_comes_first(tmp_path: Path) -> None:
    first = Claim.take_for_server(tmp_path)
    assert first is not None
    assert first.is_sole
    first.share()
    first.say("http://127.0.0.1:1")
    second = Claim.take_for_server(tmp_path)
    assert second is not None
    assert not second.is_sole
    second.say("http://127.0.0.1:2")
    second.say("http://127.0.0.1:2")
    assert addresses_of_holders(tmp_path) == ["http://127.0.0.1:2", "http://127.0.0.1:1"]
    assert Claim.take(tmp_path) is None
    first.release()
    assert Claim.take(tmp_path) is None
    second.release()


def test_who_has_it_alone_is_not_taken_for_one_of_those_from_before(tmp_path: Path) -> None:
    before = Claim.take_for_server(tmp_path)
    assert before is not None
    before.say("http://127.0.0.1:1")
    before.release()
    alone = Claim.take(tmp_path)
    assert alone is not None
    assert addresses_of_holders(tmp_path) == []
    alone.release()
