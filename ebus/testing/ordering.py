"""Order: positions without gaps, never used twice, whoever races whom."""

from __future__ import annotations

from functools import partial

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import InvalidBatch, InvalidEvent, StoreBusy
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, SupportsTrim, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import parsed, read_through, stored
from ebus.testing.place import NOTHING_STORED, Place
from ebus.testing.racing import (
    Writer,
    append_interrupted,
    check_news,
    check_written,
    race,
    race_watched,
    write_batches,
    write_commits,
    write_singles,
)
from ebus.testing.suite import ALICE, Suite

WRITERS = 4

each_writer = pytest.mark.parametrize(
    "write", [write_singles, write_batches, write_commits], ids=lambda write: write.__name__
)
one_and_two_engines = pytest.mark.parametrize("engines", [1, 2], ids=["one engine", "two engines"])


def need_trim(store: TenantStore) -> SupportsTrim:
    if not isinstance(store, SupportsTrim):
        pytest.skip("SupportsTrim is not among the powers of this engine")
    return store


class Ordering(Suite):
    @one_and_two_engines
    @each_writer
    def test_racing_writers_get_the_positions_at_which_their_events_are(
        self, place: Place, write: Writer, engines: int
    ) -> None:
        with self.open_stores(place, engines) as stores:
            written = race(
                *(partial(write, stores[writer % engines], writer) for writer in range(WRITERS))
            )
            for store in stores:
                check_written(read_through(store), written)
            check_written(parsed(place.peek(ALICE).events), written)

    @one_and_two_engines
    def test_singles_batches_and_commits_race_each_other(self, place: Place, engines: int) -> None:
        with self.open_stores(place, engines) as stores:
            writers = [write_singles, write_batches, write_commits, write_batches]
            written = race(
                *(
                    partial(write, stores[number % engines], number)
                    for number, write in enumerate(writers)
                )
            )
            for store in stores:
                check_written(read_through(store), written)

    @one_and_two_engines
    @each_writer
    def test_readers_that_race_writers_never_see_a_gap_or_a_part_of_a_batch(
        self, place: Place, write: Writer, engines: int
    ) -> None:
        with self.open_stores(place, engines) as stores:
            writers = [partial(write, stores[0], writer) for writer in range(WRITERS)]
            written = race_watched(writers, [stores[0], stores[-1]])
            check_written(read_through(stores[-1]), written)

    @one_and_two_engines
    def test_nobody_gets_into_the_middle_of_a_batch_or_sees_half_of_it(
        self, place: Place, engines: int
    ) -> None:
        with self.open_stores(place, engines) as stores:
            written, logs = append_interrupted(stores[0], stores)
            assert logs, "the batch was not gone through"
            for log in logs:
                check_news(log, seen=0)
            check_written(read_through(stores[0]), written)

    def test_two_engines_take_turns_at_one_log(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            for number in range(1, 11):
                writer, reader = (first, second) if number % 2 else (second, first)
                assert writer.append(numbered(1, first=number)) == Appended(number, number)
                assert (reader.head(), reader.count()) == (number, number)
                assert read_through(reader) == stored(numbered(number))
                writer.save_checkpoint("mailer", number)
                assert reader.checkpoint("mailer") == number
            if isinstance(first, SupportsTrim):
                first.trim(7)
                assert (second.head(), second.count()) == (10, 3)
                assert second.append(numbered(1)) == Appended(11, 11)

    def test_a_second_engine_is_served_or_refused_as_the_author_says(self, place: Place) -> None:
        with place.open() as first:
            store = first.open(ALICE)
            store.append(numbered(2))
            if self.shared:
                with place.open() as second:
                    assert read_through(second.open(ALICE)) == stored(numbered(2))
            else:
                with pytest.raises(StoreBusy), place.open() as second:
                    second.open(ALICE)
            assert store.append(numbered(1)) == Appended(3, 3)

    def test_threads_that_open_a_new_tenant_at_once_share_its_log(self, engine: Engine) -> None:
        written = race(
            *(
                lambda writer=writer: write_singles(engine.open(ALICE), writer)
                for writer in range(4)
            )
        )
        check_written(read_through(engine.open(ALICE)), written)

    def test_positions_go_on_after_reopening(self, place: Place) -> None:
        for number in range(4):
            with place.open() as engine:
                store = engine.open(ALICE)
                assert store.head() == 2 * number
                appended = store.append(numbered(2, first=2 * number + 1))
                assert appended == Appended(2 * number + 1, 2 * number + 2)
        with place.open() as engine:
            assert read_through(engine.open(ALICE)) == stored(numbered(8))

    def test_refused_appends_take_no_positions(self, store: TenantStore) -> None:
        for number in range(1, 4):
            with pytest.raises(InvalidEvent):
                store.append([*numbered(3), new_event(b"{")])
            with pytest.raises(InvalidBatch):
                store.append([])
            store.commit([Append([]), Append([new_event(type="")])])
            assert store.head() == number - 1
            assert store.append(numbered(1, first=number)) == Appended(number, number)
        assert read_through(store) == stored(numbered(3))

    @pytest.mark.parametrize("through", [1, 2, 5], ids="through {}".format)
    def test_trimming_forgets_the_oldest_events_and_leaves_the_head(
        self, place: Place, store: TenantStore, through: int
    ) -> None:
        store.append(numbered(2))
        store.append(numbered(3, first=3))
        store.save_checkpoint("mailer", 1)
        need_trim(store).trim(through)
        assert (store.head(), store.count()) == (5, 5 - through)
        left = stored(numbered(5))[through:]
        assert read_through(store, 0) == left
        assert read_through(store, 1, limit=1) == left
        assert parsed(place.peek(ALICE).events) == left
        assert store.checkpoints() == {"mailer": 1}

    @pytest.mark.parametrize("through", [1, 2, 5], ids="through {}".format)
    def test_positions_of_trimmed_events_are_not_used_again(
        self, place: Place, through: int
    ) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            store.append(numbered(5))
            need_trim(store).trim(through)
            assert store.append(numbered(1, first=6)) == Appended(6, 6)
            need_trim(store).trim(6)
        with place.open() as engine:
            store = engine.open(ALICE)
            assert (store.head(), store.count()) == (6, 0)
            assert store.append(numbered(2, first=7)) == Appended(7, 8)
            assert read_through(store) == stored(numbered(2, first=7), 7)

    def test_trimming_again_or_below_changes_nothing(self, store: TenantStore) -> None:
        trim = need_trim(store).trim
        trim(0)
        store.append(numbered(5))
        for through in (0, 3, 3, 1, 0):
            trim(through)
        assert (store.head(), store.count()) == (5, 2)
        assert read_through(store) == stored(numbered(5))[3:]

    def test_trimming_within_small_blocks_keeps_the_rest(self, place: Place) -> None:
        with place.open(limits=Limits(max_block_events=4)) as engine:
            store = engine.open(ALICE)
            store.append(numbered(20))
            for through in range(1, 21):
                need_trim(store).trim(through)
                assert (store.head(), store.count()) == (20, 20 - through)
                assert read_through(store) == stored(numbered(20))[through:]
                assert parsed(place.peek(ALICE).events) == stored(numbered(20))[through:]

    def test_a_dropped_tenant_begins_anew(self, place: Place, engine: Engine) -> None:
        store = engine.open(ALICE)
        store.append(numbered(5))
        store.save_checkpoint("mailer", 5)
        engine.drop(ALICE)
        assert place.peek(ALICE) == NOTHING_STORED
        store = engine.open(ALICE)
        assert (store.head(), store.count(), store.checkpoints()) == (0, 0, {})
        assert store.checkpoint("mailer") is None
        assert store.read(1).events == []
        new = numbered(2, first=100)
        assert store.append(new) == Appended(1, 2)
        assert read_through(store) == stored(new)
