"""Answers that are lost, late, doubled or of old times: what is told is what is stored, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ebus.backends.jetstream import JetStreamEngine, ids, link, news, stream
from ebus.backends.jetstream.address import parse
from ebus.backends.jetstream.messages import COMMIT
from ebus.backends.jetstream.store import JetStreamStore
from ebus.core.errors import OutcomeUnknown, VersionConflict
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import Expectation
from ebus.testing.watching import Told
from tests.nats.servers import NatsServer
from tests.nats.wire import Answered, Faults, Instead, Proxy, Published, Way, proxy_before

TIMEOUT_S = 1

API = "$JS.API"
INFO, GET, DIRECT = f"{API}.STREAM.INFO.", f"{API}.STREAM.MSG.GET.", f"{API}.DIRECT.GET."


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stream, link):
        monkeypatch.setattr(module, "MAX_TRY_S", 0.2)


@pytest.fixture
def proxy(nats_server: NatsServer) -> Iterator[Proxy]:
    with proxy_before(nats_server.port) as proxy:
        yield proxy


class Doors:
    """Engines on one prefix: through the proxy, and past it."""

    def __init__(self, stack: ExitStack, prefix: str, through: str, past: str) -> None:
        self._stack = stack
        self._prefix = prefix
        self._through, self._past = through, past
        self.store = self.another(through)
        self.other = self.another(past)

    def another(self, location: str = "") -> JetStreamStore:
        options = f"?prefix={self._prefix}&timeout_s={TIMEOUT_S}"
        parsed = parse((location or self._through) + options, secure=False)
        engine = JetStreamEngine(parsed, durability="full", limits=Limits())
        return self._stack.enter_context(engine).open("alice")


@pytest.fixture
def doors(proxy: Proxy, nats_server: NatsServer, prefix: str) -> Iterator[Doors]:
    with ExitStack() as stack:
        yield Doors(stack, prefix, proxy.location, f"//127.0.0.1:{nats_server.port}")


def events(*values: object, stream: str | None = None) -> list[NewEvent]:
    return [NewEvent.of("T", it, stream=stream) for it in values]


def values(store: JetStreamStore) -> list[object]:
    found = store.read(1).events
    assert [it.position for it in found] == list(range(1, len(found) + 1))
    return [it.value() for it in found]


def is_commit(message: Published) -> bool:
    return not message.subject.startswith("$JS") and (
        COMMIT.encode() in message.headers or b"Nats-Batch-Id" in message.headers
    )


class Once(Faults):
    """The first message or answer that is meant goes another way, and then `also` is done."""

    def __init__(
        self,
        way: Way | Instead,
        *,
        published: Callable[[Published], bool] = lambda _: False,
        answered: Callable[[Answered], bool] = lambda _: False,
        also: Callable[[], object] = lambda: None,
        times: int = 1,
    ) -> None:
        self._way = way
        self._published, self._answered = published, answered
        self._also = also
        self._left = times
        self.happened = 0

    def published(self, message: Published) -> Way:
        way = self._happens() if self._published(message) else "pass"
        assert not isinstance(way, Instead)
        return way

    def answered(self, answer: Answered) -> Way | Instead:
        return self._happens() if self._answered(answer) else "pass"

    def _happens(self) -> Way | Instead:
        if self.happened == self._left:
            return "pass"
        self.happened += 1
        self._also()
        return self._way


ONE, SOME = [1], [1, 2, 3]


@pytest.mark.parametrize("sent", [ONE, SOME])
@pytest.mark.parametrize("way", ["drop", "cut"])
def test_an_append_whose_answer_is_lost_is_told_where_it_is(
    doors: Doors, proxy: Proxy, sent: list[object], way: Way
) -> None:
    doors.store.append(events(0))
    proxy.faults = faults = Once(way, answered=lambda it: is_commit(it.request))
    appended = doors.store.append(events(*sent))
    assert faults.happened
    assert (appended.first_position, appended.last_position) == (2, 1 + len(sent))
    assert values(doors.other) == [0, *sent]
    assert doors.store.append(events("next")).first_position == 2 + len(sent)


@pytest.mark.parametrize("sent", [ONE, SOME])
def test_an_append_whose_answer_is_lost_is_found_where_others_have_gone_on(
    doors: Doors, proxy: Proxy, sent: list[object]
) -> None:
    proxy.faults = faults = Once(
        "drop",
        answered=lambda it: is_commit(it.request),
        also=lambda: doors.other.append(events("other")),
    )
    assert doors.store.append(events(*sent)).last_position == len(sent)
    assert faults.happened
    assert values(doors.other) == [*sent, "other"]


@pytest.mark.parametrize("sent", [ONE, SOME])
def test_an_append_that_is_lost_on_its_way_is_sent_again(
    doors: Doors, proxy: Proxy, sent: list[object]
) -> None:
    """Of a batch, its first message: the server has nothing to go with the others."""
    proxy.faults = faults = Once("drop", published=is_commit)
    assert doors.store.append(events(*sent)).first_position == 1
    assert faults.happened
    assert values(doors.other) == sent


def test_an_append_that_is_lost_on_its_way_goes_behind_who_was_quicker(
    doors: Doors, proxy: Proxy
) -> None:
    proxy.faults = Once(
        "drop", published=is_commit, also=lambda: doors.other.append(events("other"))
    )
    assert doors.store.append(events(1)).first_position == 2
    assert values(doors.other) == ["other", 1]


@pytest.mark.parametrize("sent", [ONE, SOME])
def test_what_comes_long_after_it_was_sent_again_is_not_stored_once_more(
    doors: Doors, proxy: Proxy, sent: list[object]
) -> None:
    """Later than the server would know a message's id: its window ends at once."""
    name = doors.store._names.log
    config = json.loads(stream.call(doors.store._log._link, f"STREAM.INFO.{name}"))["config"]
    config["duplicate_window"] = 100_000_000
    stream.call(doors.store._log._link, f"STREAM.UPDATE.{name}", config)

    proxy.faults = faults = Once("hold", published=is_commit, times=len(sent))
    assert doors.store.append(events(*sent)).first_position == 1
    assert faults.happened == len(sent)
    doors.store.wait(len(sent) + 1, 0.2)
    proxy.let_go()
    assert doors.store.append(events("next")).first_position == len(sent) + 1
    assert values(doors.other) == [*sent, "next"]


def test_what_was_given_up_may_come_later_but_not_behind_others(doors: Doors, proxy: Proxy) -> None:
    proxy.faults = Once("hold", published=is_commit, times=1_000)
    with pytest.raises(OutcomeUnknown):
        doors.store.append(events("given up"))
    proxy.faults = Faults()
    doors.store.append(events("next"))
    proxy.let_go()
    assert values(doors.other) == ["next"]


@pytest.mark.parametrize("sent", [ONE, SOME])
def test_nobody_knows_of_an_append_while_no_answer_comes_at_all(
    doors: Doors, proxy: Proxy, sent: list[object]
) -> None:
    """With ids it may be sent again, and is there once."""
    sending = [NewEvent.of("T", it, id=f"id-{it}") for it in sent]
    doors.store.append(events(0))
    proxy.faults = Once(
        "drop",
        answered=lambda it: is_commit(it.request) or it.request.subject.startswith(GET),
        times=1_000,
    )
    with pytest.raises(OutcomeUnknown):
        doors.store.append(sending)
    proxy.faults = Faults()
    again = doors.store.append(sending)
    assert again.first_position == 2
    assert again.duplicates == len(sent)
    assert values(doors.other) == [0, *sent]


def test_a_checkpoint_whose_answer_is_lost_is_saved(doors: Doors, proxy: Proxy) -> None:
    doors.store.save_checkpoint("mailer", 1)
    proxy.faults = faults = Once("drop", answered=lambda it: is_commit(it.request))
    doors.store.save_checkpoint("mailer", 2, expected=1)
    assert faults.happened
    assert doors.other.checkpoint("mailer") == 2


def test_nobody_knows_of_a_checkpoint_that_others_have_changed_meanwhile(
    doors: Doors, proxy: Proxy
) -> None:
    """It was saved, and is not told that it was not: by what was expected it would be."""
    doors.store.save_checkpoint("mailer", 1)
    proxy.faults = Once(
        "drop",
        answered=lambda it: is_commit(it.request),
        also=lambda: doors.other.save_checkpoint("mailer", 3, expected=2),
    )
    with pytest.raises(OutcomeUnknown):
        doors.store.save_checkpoint("mailer", 2, expected=1)
    assert doors.other.checkpoint("mailer") == 3


def test_a_checkpoint_that_was_lost_on_its_way_is_refused_by_who_was_quicker(
    doors: Doors, proxy: Proxy
) -> None:
    doors.store.save_checkpoint("mailer", 1)
    proxy.faults = faults = Once(
        "drop",
        published=is_commit,
        also=lambda: doors.other.save_checkpoint("mailer", 3, expected=1),
    )
    doors.store.save_checkpoint("mailer", 2)
    assert faults.happened
    assert doors.other.checkpoint("mailer") == 2


def test_who_watches_is_told_of_an_append_whose_answer_is_lost(
    doors: Doors, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "SETTLING_S", ())
    told = Told()
    doors.other.watch(told)
    proxy.faults = faults = Once("drop", answered=lambda it: is_commit(it.request))
    doors.store.append(events(1))
    assert faults.happened
    told.wait_until(lambda: doors.other.head() == 1)


def test_who_watches_is_told_that_news_may_have_been_lost_with_a_connection(
    doors: Doors, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "SETTLING_S", ())
    told = Told()
    doors.store.watch(told)
    proxy.cut()
    told.wait(0)


@pytest.mark.parametrize("lost", [1, 3, 20])
def test_a_page_from_which_something_was_lost_has_no_hole(
    doors: Doors, proxy: Proxy, lost: int
) -> None:
    """Between servers, messages may be lost without anybody being told."""
    doors.store.append(events(*range(20)))
    proxy.faults = faults = Once(
        "drop", answered=lambda it: it.request.subject.startswith(DIRECT) and it.number == lost
    )
    assert values(doors.store) == list(range(20))
    assert faults.happened


def test_reading_does_not_end_before_what_is_known_to_be_stored(
    doors: Doors, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is behind, and a leader that was replaced, know of nothing."""
    doors.store.append(events(1, 2))
    monkeypatch.setattr(doors.store._log, "_has_replicas", True)
    nothing = {
        DIRECT: Instead(b"NATS/1.0 404 No Results\r\n\r\n", b""),
        GET: Instead(b"", b'{"error":{"code":404,"err_code":10037}}'),
    }

    class Old(Faults):
        def answered(self, answer: Answered) -> Way | Instead:
            [question] = [it for it in (DIRECT, GET) if answer.request.subject.startswith(it)]
            return nothing.pop(question, "pass")

    proxy.faults = Old()
    assert values(doors.store) == [1, 2]
    assert not nothing


@pytest.mark.parametrize("sent", [ONE, SOME])
def test_what_one_leader_stores_is_there_once_though_another_refuses_it(
    doors: Doors, proxy: Proxy, sent: list[object]
) -> None:
    """Both have it, and the one that has been replaced may be quicker."""
    refused = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"}}'
    doors.store.append(events(0))
    proxy.faults = faults = Once(Instead(b"", refused), answered=lambda it: is_commit(it.request))
    assert doors.store.append(events(*sent)).first_position == 2
    assert faults.happened
    assert values(doors.other) == [0, *sent]


def test_a_replica_that_hangs_is_not_waited_for(
    doors: Doors, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is asked, long before the time is over that there is for an answer."""
    monkeypatch.setattr(link, "MAX_TRY_S", 2 * TIMEOUT_S)
    doors.store.append(events(1))
    proxy.faults = faults = Once(
        "drop", published=lambda it: it.subject.startswith(DIRECT), times=2
    )
    assert values(doors.store) == [1]
    assert faults.happened == 2


@pytest.mark.parametrize("question", [INFO, GET])
def test_two_leaders_may_answer_one_question(doors: Doors, proxy: Proxy, question: str) -> None:
    """While one takes over from the other."""
    proxy.faults = faults = Once(
        "twice", answered=lambda it: it.request.subject.startswith(question), times=100
    )
    doors.store.append(events(1, stream="s"))
    assert doors.store.head() == doors.store.stream_version("s") == 1
    assert faults.happened


def test_a_stream_is_at_no_version_of_old_times(doors: Doors, proxy: Proxy) -> None:
    """A leader that was replaced answers until it is told, and only it is heard of at first."""
    old: dict[bytes, Instead] = {}
    stale: dict[bytes, Instead] = {}

    class Old(Faults):
        def answered(self, answer: Answered) -> Way | Instead:
            request = answer.request
            if not (request.subject.startswith(GET) and b".ss." in request.payload):
                return "pass"
            old[request.payload] = Instead(answer.headers, answer.payload)
            return stale.pop(request.payload, "pass")

    doors.other.append(events(1, stream="s"))
    proxy.faults = Old()
    assert doors.store.stream_version("s") == 1
    doors.other.append(events(2, stream="s"))
    stale |= old
    assert stale
    appended = doors.store.append(events(3, stream="s"))
    assert not stale
    assert appended.events[0].version == 3
    assert [it.version for it in doors.other.read(1).events] == [1, 2, 3]


def test_a_lease_is_not_lost_to_a_leader_of_old_times(doors: Doors, proxy: Proxy) -> None:
    doors.store.append(events(1))
    doors.store.save_checkpoint("workers", 0)
    old: list[Instead] = []

    def is_lookup(answer: Answered) -> bool:
        is_it = answer.request.subject.startswith(GET) and b".sub." in answer.request.payload
        if is_it and not old:
            old.append(Instead(answer.headers, answer.payload))
        return is_it

    proxy.faults = Once("pass", answered=is_lookup)
    assert doors.store.checkpoint("workers") == 0
    lease = doors.store.lease("workers")
    assert lease is not None
    proxy.faults = faults = Once(old[0], answered=is_lookup)
    doors.store.acknowledge("workers", lease.id)
    assert faults.happened
    assert doors.other.checkpoint("workers") == 1


def test_nothing_is_refused_for_what_was_so_before_another_server_wrote(doors: Doors) -> None:
    doors.store.append(events(1, stream="s"))
    doors.other.append(events(2, stream="s"))
    doors.store.append(events(3, stream="s"), expect=Expectation(versions={"s": 2}))
    doors.other.append(events(4), expect=Expectation(position=3))
    doors.store.append(events(5), expect=Expectation(position=4))
    with pytest.raises(VersionConflict):
        doors.store.append(events(6, stream="s"), expect=Expectation(versions={"s": 2}))


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_id_is_taken_also_where_the_answer_that_says_so_is_lost(
    doors: Doors, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(ids, "INDEX_EVERY", 2)
    sent = [NewEvent.of("T", it, id=f"id-{it}") for it in range(2)]
    doors.other.append(sent)
    link = doors.other._log._link
    bucket = doors.other._names.bucket
    while json.loads(stream.call(link, f"STREAM.INFO.{bucket}"))["state"]["messages"] < 3:
        pass  # they go there behind the answer
    proxy.faults = faults = Once(
        "drop",
        answered=lambda it: (
            b"multi_last" in it.request.payload
            and b".id." in it.request.payload
            and it.number == lost
        ),
    )
    again = doors.store.append(sent)
    assert faults.happened
    assert again.duplicates == 2
    assert values(doors.other) == [0, 1]
