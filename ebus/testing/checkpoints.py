"""Checkpoints: positions that are saved under names."""

from __future__ import annotations

from typing import Any

import pytest

from ebus.core.errors import InvalidCheckpoint, InvalidRange
from ebus.core.limits import MAX_POSITION
from ebus.core.store import TenantStore
from ebus.testing.events import HARD_TYPES, numbered
from ebus.testing.observation import unchanged
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite

BAD_NAMES: dict[str, Any] = {
    "empty": "",
    "256 characters": "x" * 256,
    "a newline": "a\nb",
    "a newline at the end": "a\n",
    "NUL": "a\x00b",
    "delete": "\x7f",
    "a C1 control character": "\x9f",
    "a lone high surrogate": "\ud800",
    "a lone low surrogate": "\udfff",
    "None": None,
    "a number": 7,
    "bytes": b"x",
}

BAD_POSITIONS: dict[str, Any] = {
    "minus one": -1,
    "2**63": 2**63,
    "a fraction": 1.5,
    "a float": 1.0,
    "text": "1",
    "None": None,
    "True": True,
}

LISTED = ["b", "a", "Z", "~", "~~", "10", "9", "aa", "a*", "a_b", "a!1", "a!10", "a!2"]
"""Names that go over HTTP too."""


class Checkpoints(Suite):
    def test_a_checkpoint_never_saved_is_none(self, store: TenantStore) -> None:
        store.save_checkpoint("mailer", 1)
        assert store.checkpoint("printer") is None
        assert store.checkpoint("Mailer") is None
        assert store.checkpoint("maile") is None

    @pytest.mark.parametrize("position", [0, 1, 2, 2**31, 2**53 + 1, MAX_POSITION])
    def test_a_checkpoint_is_kept_before_and_beyond_the_head(
        self, place: Place, store: TenantStore, position: int
    ) -> None:
        store.append(numbered(1))
        store.save_checkpoint("mailer", position)
        assert store.checkpoint("mailer") == position
        assert store.checkpoints() == {"mailer": position}
        assert place.peek(ALICE).checkpoints == {"mailer": position}
        assert (store.head(), store.count()) == (1, 1)

    def test_the_position_saved_last_counts(self, store: TenantStore) -> None:
        for position in (5, 9, 9, 3, 0):
            store.save_checkpoint("mailer", position)
            assert store.checkpoint("mailer") == position
            assert store.checkpoints() == {"mailer": position}

    def test_a_checkpoint_does_not_move_with_the_log(self, store: TenantStore) -> None:
        store.save_checkpoint("mailer", 1)
        store.append(numbered(3))
        assert store.checkpoint("mailer") == 1

    def test_checkpoints_do_not_touch_each_other(self, store: TenantStore) -> None:
        names = ["a", "A", "a ", "b", "a%", "a_", "ab", "é", "e\u0301", "1", "01"]
        for position, name in enumerate(names):
            store.save_checkpoint(name, position)
        assert store.checkpoints() == {name: position for position, name in enumerate(names)}
        assert store.delete_checkpoint("a")
        store.save_checkpoint("A", 99)
        assert [store.checkpoint(name) for name in names] == [None, 99, *range(2, len(names))]

    def test_checkpoints_come_in_the_order_of_their_names(self, store: TenantStore) -> None:
        names = ["b", "a", "Z", "é", "😀", "\uff5e", "10", "9", "aa"]
        for name in names:
            store.save_checkpoint(name, 1)
        assert list(store.checkpoints()) == sorted(names)

    def test_checkpoints_are_listed_page_by_page(self, store: TenantStore) -> None:
        assert store.checkpoints(limit=1) == {}
        for position, name in enumerate(LISTED):
            store.save_checkpoint(name, position)
        everything = sorted((name, position) for position, name in enumerate(LISTED))
        assert list(store.checkpoints().items()) == everything
        for limit in (1, 2, 5, len(LISTED), len(LISTED) + 1, MAX_POSITION):
            listed: list[tuple[str, int]] = []
            while page := store.checkpoints(after=listed[-1][0] if listed else "", limit=limit):
                assert len(page) <= limit
                listed += page.items()
            assert listed == everything

    def test_checkpoints_are_listed_by_the_beginning_of_their_names(
        self, store: TenantStore
    ) -> None:
        for name in LISTED:
            store.save_checkpoint(name, 1)
        for prefix in ["a", "a!", "a!1", "a_", "a*", "~", "x", "A", "z" * 300]:
            expected = [name for name in sorted(LISTED) if name.startswith(prefix)]
            assert list(store.checkpoints(prefix)) == expected
            assert list(store.checkpoints(prefix, limit=2)) == expected[:2]
            for after in ["a", "a!", "a!1", "b", "é", "~~~", "\0"]:
                behind = [name for name in expected if name > after]
                assert list(store.checkpoints(prefix, after=after)) == behind
                assert list(store.checkpoints(prefix, after=after, limit=1)) == behind[:1]

    @pytest.mark.parametrize("limit", [0, -1, 2**63])
    def test_a_list_of_so_many_is_refused(self, store: TenantStore, limit: int) -> None:
        with pytest.raises(InvalidRange):
            store.checkpoints(limit=limit)

    def test_a_deleted_checkpoint_is_gone(self, place: Place, store: TenantStore) -> None:
        store.save_checkpoint("mailer", 0)
        store.save_checkpoint("printer", 2)
        assert store.delete_checkpoint("mailer") is True
        assert store.delete_checkpoint("mailer") is False
        assert store.checkpoint("mailer") is None
        assert store.checkpoints() == {"printer": 2}
        assert place.peek(ALICE).checkpoints == {"printer": 2}

    def test_deleting_what_was_never_saved_changes_nothing(
        self, place: Place, store: TenantStore
    ) -> None:
        store.save_checkpoint("mailer", 1)
        with unchanged(place, ALICE, store):
            assert store.delete_checkpoint("printer") is False

    def test_a_deleted_checkpoint_can_be_saved_again(self, store: TenantStore) -> None:
        store.save_checkpoint("mailer", 7)
        store.delete_checkpoint("mailer")
        store.save_checkpoint("mailer", 3)
        assert store.checkpoints() == {"mailer": 3}

    @pytest.mark.parametrize("name", HARD_TYPES.values(), ids=HARD_TYPES)
    def test_a_checkpoint_keeps_its_name_as_it_is(
        self, place: Place, store: TenantStore, name: str
    ) -> None:
        store.save_checkpoint(name, 7)
        assert store.checkpoint(name) == 7
        assert store.checkpoints() == {name: 7}
        assert place.peek(ALICE).checkpoints == {name: 7}
        assert store.delete_checkpoint(name)

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    def test_a_bad_name_is_refused(self, place: Place, store: TenantStore, name: Any) -> None:
        store.save_checkpoint("mailer", 1)
        with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
            store.save_checkpoint(name, 1)

    @pytest.mark.parametrize(
        "name",
        ["", "x" * 256, "a\nb", "a\x00b", "\ud800"],
        ids=["empty", "too long", "a line break", "a NUL", "a lone surrogate"],
    )
    def test_a_name_that_cannot_be_saved_never_was(self, store: TenantStore, name: str) -> None:
        store.save_checkpoint("a", 1)
        assert store.checkpoint(name) is None
        assert store.delete_checkpoint(name) is False

    @pytest.mark.parametrize("position", BAD_POSITIONS.values(), ids=BAD_POSITIONS)
    def test_a_bad_position_is_refused(
        self, place: Place, store: TenantStore, position: Any
    ) -> None:
        store.save_checkpoint("mailer", 1)
        with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
            store.save_checkpoint("mailer", position)
