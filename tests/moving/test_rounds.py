"""A copy in rounds takes what has come since, and leaves the target as the source is."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ebus.core.errors import CheckpointConflict
from ebus.moving import Copying, TargetChanged
from ebus.testing.events import new_event
from tests.moving.logs import exported, fill, memory_store, named, wires


def test_each_round_takes_what_has_come_since() -> None:
    source, target = memory_store(), memory_store()
    copying = Copying(source, target)
    for size in (2_500, 0, 1, 30):
        fill(source, named(size, first=source.head() + 1))
        assert copying.lag() == size
        assert copying.catch_up() == size
        assert copying.lag() == 0
    fill(source, named(4, first=source.head() + 1))
    moved = copying.finish()
    assert (moved.first_position, moved.last_position) == (1, source.head())
    assert moved.events == moved.appended == source.head()
    assert moved.digest == sha256(exported(source)).hexdigest()
    assert wires(target) == wires(source)


def test_checkpoints_follow_the_source_wherever_they_go() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(9))
    for name, position in {"on": 3, "back": 7, "away": 5, "behind": 2}.items():
        source.save_checkpoint(name, position)
    target.save_checkpoint("behind", 4)
    target.save_checkpoint("elsewhere", 1)
    copying = Copying(source, target)
    copying.catch_up()
    copying.copy_checkpoints()
    assert not copying.has_gone_on()
    source.save_checkpoint("on", 9)
    source.save_checkpoint("back", 1)
    source.delete_checkpoint("away")
    assert copying.has_gone_on()
    moved = copying.finish()
    assert target.checkpoints() == {"on": 9, "back": 1, "behind": 4, "elsewhere": 1}
    assert (moved.checkpoints, moved.ahead) == (3, ["behind"])
    assert not copying.has_gone_on()


def test_a_checkpoint_that_somebody_else_saves_at_the_target_is_not_overwritten() -> None:
    source, target = memory_store(), memory_store()
    source.save_checkpoint("mailer", 3)
    copying = Copying(source, target)
    copying.copy_checkpoints()
    target.save_checkpoint("mailer", 8)
    source.save_checkpoint("mailer", 4)
    with pytest.raises(CheckpointConflict):
        copying.finish()
    assert target.checkpoint("mailer") == 8


def test_who_appends_to_the_target_between_two_rounds_ends_the_copy() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(10))
    copying = Copying(source, target)
    copying.catch_up()
    target.append([new_event(type="Stranger")])
    source.append([new_event()])
    with pytest.raises(TargetChanged):
        copying.catch_up()
    assert target.head() == 11
