"""A lane from an event loop to threads: groups, order, bounds, answers, the end.

The threads of these tests take a turn only when the test says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial, wraps
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.core import lane as lane_module
from ebus.core.errors import EngineError, StoreClosed, StoreOverloaded, StoreUnavailable
from ebus.core.lane import Lane, LaneBounds

Run = Callable[[Sequence[str]], Sequence[object]]
RunNow = Callable[[Sequence[str]], Sequence[object] | None]


class ByHand(Executor):
    """Threads whose work is done when the test says so, in the thread of the test."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], object]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(partial(fn, *args, **kwargs))
        return Future()

    async def turn(self) -> None:
        """One thread does one group, and the loop hears of it."""
        self.waiting.popleft()()
        await asyncio.sleep(0)

    async def all_turns(self) -> None:
        while self.waiting:
            await self.turn()


class Workshop:
    """A lane, its threads, and the groups that they were given so far."""

    def __init__(
        self,
        run: Run | None = None,
        run_now: RunNow | None = None,
        /,
        *,
        places: int = 1,
        max_jobs: int = 100,
        max_bytes: int = 1_000,
        max_group_weight: int = 100,
        max_group_bytes: int = 1_000,
    ) -> None:
        self.groups: list[str] = []
        self.threads = ByHand()
        self._run = run or (lambda works: [work.upper() for work in works])
        self.lane: Lane[str] = Lane(
            self._note_and_run,
            self.threads,
            places=places,
            bounds=LaneBounds(
                max_jobs=max_jobs,
                max_bytes=max_bytes,
                max_group_weight=max_group_weight,
                max_group_bytes=max_group_bytes,
                max_now_weight=max_group_weight,
                max_now_bytes=max_group_bytes,
            ),
            may_stop_early=True,
            run_now=run_now,
        )

    def _note_and_run(self, works: Sequence[str]) -> Sequence[object]:
        self.groups.append("".join(works))
        return self._run(works)

    def put(self, works: str, *, weight: int = 1, size_bytes: int = 0) -> list[asyncio.Future[Any]]:
        """A job for each letter."""
        return [self.lane.put(work, weight=weight, size_bytes=size_bytes) for work in works]


def on_a_loop(scenario: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @wraps(scenario)
    def test(*args: Any, **kwargs: Any) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return test


async def turn_of_the_loop() -> None:
    await asyncio.sleep(0)


# Groups


@on_a_loop
async def test_the_jobs_of_one_turn_of_the_loop_share_a_group() -> None:
    workshop = Workshop()
    answers = workshop.put("abc")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert workshop.groups == ["abc"]
    assert await asyncio.gather(*answers) == ["A", "B", "C"]


@on_a_loop
async def test_jobs_that_come_while_the_threads_are_busy_share_the_next_group() -> None:
    workshop = Workshop()
    workshop.put("a")
    await turn_of_the_loop()
    for work in "bcd":
        workshop.put(work)
        await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "bcd"]


@pytest.mark.parametrize(
    ("bounds", "size"),
    [({"max_group_weight": 4}, {"weight": 2}), ({"max_group_bytes": 10}, {"size_bytes": 5})],
    ids=["weight", "bytes"],
)
@on_a_loop
async def test_a_group_is_filled_up_to_its_bound(
    bounds: dict[str, int], size: dict[str, int]
) -> None:
    workshop = Workshop(**bounds)
    workshop.put("abcde", **size)
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert workshop.groups == ["ab", "cd", "e"]


@pytest.mark.parametrize("size", [{"weight": 101}, {"size_bytes": 1_001}], ids=["weight", "bytes"])
@on_a_loop
async def test_a_job_beyond_the_bounds_of_a_group_has_one_to_itself(size: dict[str, int]) -> None:
    workshop = Workshop(max_bytes=10_000)
    workshop.put("a")
    workshop.put("b", **size)
    workshop.put("c")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "b", "c"]


@on_a_loop
async def test_as_many_groups_are_under_way_at_once_as_there_are_places() -> None:
    workshop = Workshop(places=2, max_group_weight=1)
    workshop.put("abc")
    await turn_of_the_loop()
    assert len(workshop.threads.waiting) == 2
    await workshop.threads.turn()
    assert len(workshop.threads.waiting) == 2
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "b", "c"]


@on_a_loop
async def test_a_group_runs_in_a_thread_and_never_on_the_loop() -> None:
    with ThreadPoolExecutor(1) as threads:
        lane: Lane[str] = Lane(
            lambda works: [threading.get_ident()] * len(works),
            threads,
            places=1,
            bounds=LaneBounds(max_jobs=1, max_bytes=1, max_group_weight=1, max_group_bytes=1),
        )
        assert await lane.put("a") != threading.get_ident()


# Bounds of what waits


async def full_workshop(**bounds: int) -> Workshop:
    """One job is under way and two wait, of 10 bytes each."""
    workshop = Workshop(**bounds)
    workshop.put("a", size_bytes=10)
    await turn_of_the_loop()
    workshop.put("bc", size_bytes=10)
    return workshop


FULL = pytest.mark.parametrize(
    "bounds", [{"max_jobs": 2}, {"max_bytes": 20}], ids=["jobs", "bytes"]
)


@FULL
@on_a_loop
async def test_one_job_more_than_may_wait_is_refused_and_does_nothing(
    bounds: dict[str, int],
) -> None:
    workshop = await full_workshop(**bounds)
    with pytest.raises(StoreOverloaded):
        workshop.put("x", size_bytes=1)
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "bc"]


@FULL
@on_a_loop
async def test_there_is_room_again_once_those_that_waited_are_under_way(
    bounds: dict[str, int],
) -> None:
    workshop = await full_workshop(**bounds)
    await workshop.threads.turn()
    workshop.put("de", size_bytes=10)
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "bc", "de"]


@on_a_loop
async def test_there_always_is_room_for_one_job_however_large() -> None:
    workshop = Workshop(max_jobs=1, max_bytes=1)
    workshop.put("a", size_bytes=1_000)
    await turn_of_the_loop()
    workshop.put("b", size_bytes=1_000)
    with pytest.raises(StoreOverloaded):
        workshop.put("x", size_bytes=0)
    await workshop.threads.all_turns()
    assert workshop.groups == ["a", "b"]


@on_a_loop
async def test_a_turn_of_the_loop_that_fills_the_queue_does_not_wait_for_its_end_to_begin() -> None:
    workshop = Workshop(max_jobs=2)
    workshop.put("abcd")
    with pytest.raises(StoreOverloaded):
        workshop.put("x")
    await workshop.threads.all_turns()
    assert workshop.groups == ["ab", "cd"]


# Answers


@on_a_loop
async def test_an_exception_among_the_results_is_that_jobs_alone() -> None:
    def run(works: Sequence[str]) -> list[object]:
        return [ValueError(work) if work == "b" else work for work in works]

    workshop = Workshop(run)
    answers = workshop.put("abc")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    first, second, third = await asyncio.gather(*answers, return_exceptions=True)
    assert (first, repr(second), third) == ("a", "ValueError('b')", "c")


@on_a_loop
async def test_an_exception_that_is_raised_is_everybodys_in_the_group_and_nobody_elses() -> None:
    def run(works: Sequence[str]) -> Sequence[object]:
        if "b" in works:
            raise ValueError("no")
        return works

    workshop = Workshop(run, max_group_weight=2)
    answers = workshop.put("abcd")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert list(map(type, results)) == [ValueError, ValueError, str, str]


@pytest.mark.parametrize("results", [[], [1, 2, 3, 4]], ids=["none", "one too many"])
@on_a_loop
async def test_a_group_with_a_wrong_number_of_results_fails_as_a_whole(results: list[int]) -> None:
    workshop = Workshop(lambda works: results)
    answers = workshop.put("abc")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    for answer in answers:
        with pytest.raises(EngineError):
            await answer


@on_a_loop
async def test_what_got_no_result_yet_goes_first_into_the_next_group() -> None:
    workshop = Workshop(lambda works: [work.upper() for work in works[:2]])
    answers = workshop.put("abcde")
    await turn_of_the_loop()
    workshop.put("f")
    await workshop.threads.all_turns()
    assert workshop.groups == ["abcde", "cdef", "ef"]
    assert await asyncio.gather(*answers) == list("ABCDE")


@on_a_loop
async def test_what_got_no_result_yet_counts_as_waiting_again() -> None:
    workshop = Workshop(lambda works: works[:1], max_bytes=20, max_group_bytes=20)
    workshop.put("ab", size_bytes=10)
    await turn_of_the_loop()
    workshop.put("cd", size_bytes=10)
    await workshop.threads.turn()  # b and c are under way, d waits
    workshop.put("e", size_bytes=10)
    with pytest.raises(StoreOverloaded):
        workshop.put("x", size_bytes=10)
    await workshop.threads.all_turns()
    assert workshop.groups == ["ab", "bc", "cd", "de", "e"]


@on_a_loop
async def test_a_job_whose_answer_is_cancelled_while_it_waits_is_not_done() -> None:
    workshop = Workshop()
    first, second, third = workshop.put("abc")
    second.cancel()
    await turn_of_the_loop()
    first.cancel()
    await workshop.threads.all_turns()
    assert workshop.groups == ["ac"]
    assert await third == "C"


@on_a_loop
async def test_a_lane_is_drained_when_all_that_waited_have_left() -> None:
    workshop = Workshop()
    draining = asyncio.create_task(workshop.lane.drained())  # which looks before they have left
    for answer in workshop.put("ab"):
        answer.cancel()
    await asyncio.wait_for(draining, 60)
    assert workshop.groups == []


# What can be done at once


def shouted(works: Sequence[str]) -> list[str]:
    return [f"{work}!" for work in works]


@on_a_loop
async def test_what_can_be_done_at_once_needs_no_thread() -> None:
    workshop = Workshop(None, shouted)
    answers = workshop.put("ab")
    await turn_of_the_loop()
    assert not workshop.threads.waiting
    assert await asyncio.gather(*answers) == ["a!", "b!"]


@on_a_loop
async def test_what_cannot_be_done_at_once_goes_to_a_thread() -> None:
    workshop = Workshop(None, lambda works: None)
    answers = workshop.put("ab")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert await asyncio.gather(*answers) == ["A", "B"]


@on_a_loop
async def test_nothing_is_done_at_once_before_what_came_earlier() -> None:
    done: list[str] = []

    def run(works: Sequence[str]) -> Sequence[object]:
        done.extend(works)
        return works

    workshop = Workshop(run, lambda works: None if "a" in works else run(works))
    workshop.put("a")
    await turn_of_the_loop()
    workshop.put("b")
    await turn_of_the_loop()
    assert done == []
    await workshop.threads.all_turns()
    assert done == ["a", "b"]


@on_a_loop
async def test_what_fails_at_once_fails_for_the_group_and_for_nobody_else() -> None:
    def now(works: Sequence[str]) -> Sequence[object]:
        if "a" in works:
            raise ValueError("no")
        return works

    workshop = Workshop(None, now)
    [failing] = workshop.put("a")
    await turn_of_the_loop()
    [answer] = workshop.put("b")
    with pytest.raises(ValueError, match="no"):
        await failing
    assert await answer == "b"


@on_a_loop
async def test_a_lane_whose_last_jobs_are_done_at_once_comes_to_its_end() -> None:
    workshop = Workshop(None, shouted)
    workshop.put("a")
    workshop.lane.close()
    async with asyncio.timeout(60):
        await workshop.lane.drained()


# The end


@on_a_loop
async def test_a_closed_lane_refuses_what_is_new_and_finishes_what_waits() -> None:
    workshop = Workshop()
    under_way = workshop.put("a")
    await turn_of_the_loop()
    waiting = workshop.put("b")
    workshop.lane.close()
    assert workshop.lane.closing
    with pytest.raises(StoreClosed):
        workshop.put("x")
    await workshop.threads.all_turns()
    assert await asyncio.gather(*under_way, *waiting) == ["A", "B"]


@on_a_loop
async def test_a_lane_is_idle_when_nothing_waits_and_nothing_is_under_way() -> None:
    workshop = Workshop()
    idle = [workshop.lane.idle]
    workshop.put("a")
    idle.append(workshop.lane.idle)
    await turn_of_the_loop()
    idle.append(workshop.lane.idle)
    await workshop.threads.all_turns()
    idle.append(workshop.lane.idle)
    assert idle == [True, False, False, True]


@on_a_loop
async def test_whoever_waits_for_the_end_of_a_lane_waits_for_the_last_of_its_jobs() -> None:
    workshop = Workshop(max_group_weight=1)
    workshop.put("ab")
    drained = [asyncio.create_task(workshop.lane.drained()) for _ in range(2)]
    await turn_of_the_loop()
    await workshop.threads.turn()
    assert not any(task.done() for task in drained)
    await workshop.threads.turn()
    await asyncio.gather(*drained)


@on_a_loop
async def test_a_lane_without_jobs_has_come_to_its_end() -> None:
    await Workshop().lane.drained()


@on_a_loop
async def test_one_who_waits_for_the_end_may_leave_and_the_others_still_hear_of_it() -> None:
    workshop = Workshop()
    workshop.put("a")
    leaving, staying = (asyncio.create_task(workshop.lane.drained()) for _ in range(2))
    await turn_of_the_loop()
    leaving.cancel()
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    await staying


# A store that is away


def away(works: Sequence[str]) -> Sequence[object]:
    raise StoreUnavailable("nobody answers")


@on_a_loop
async def test_who_waits_behind_what_was_long_in_vain_is_refused_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "IN_VAIN_S", 0.0)
    workshop = Workshop(away, max_group_weight=1)
    answers = workshop.put("abcd", size_bytes=10)
    await turn_of_the_loop()
    await workshop.threads.turn()
    failures = [answer.exception() for answer in answers]
    assert [str(failure) for failure in failures] == [
        "nobody answers",
        *["not tried: nobody answers"] * 3,
    ]
    assert all(type(failure) is StoreUnavailable for failure in failures)
    assert workshop.groups == ["a"]
    assert workshop.lane.idle
    assert workshop.lane.waiting_bytes == 0
    [later] = workshop.put("e")  # is tried
    await turn_of_the_loop()
    await workshop.threads.turn()
    assert str(later.exception()) == "nobody answers"


@on_a_loop
async def test_closing_waits_for_no_more_than_what_was_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "IN_VAIN_S", 0.0)
    workshop = Workshop(away, max_group_weight=1)
    answers = workshop.put("abc")
    await turn_of_the_loop()
    workshop.lane.close()
    drained = asyncio.create_task(workshop.lane.drained())
    await turn_of_the_loop()
    await workshop.threads.turn()
    await drained
    assert all(answer.exception() for answer in answers)


@on_a_loop
async def test_what_fails_at_once_is_that_of_the_first_and_the_rest_is_tried() -> None:
    failures = iter([True, False])

    def run(works: Sequence[str]) -> Sequence[object]:
        if next(failures):
            raise StoreUnavailable("the disk is on fire")
        return works

    workshop = Workshop(run)
    first, *others = workshop.put("abc")
    await turn_of_the_loop()
    await workshop.threads.all_turns()
    assert str(first.exception()) == "the disk is on fire"
    assert await asyncio.gather(*others) == ["b", "c"]
    assert workshop.groups == ["abc", "bc"]


# Whatever happens

JOB = st.tuples(st.just("put"), st.integers(1, 4), st.integers(0, 30))
STEP = st.one_of(
    JOB,
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("loop"), st.just(0), st.just(0)),
    # How many of a group get results, and whether the group, one of it or its first one fails.
    st.tuples(st.just("thread"), st.integers(1, 5), st.sampled_from([0, 0, 0, 1, 2, 3])),
)


@given(steps=st.lists(STEP, max_size=60), places=st.integers(1, 3))
def test_a_job_is_done_once_or_if_its_caller_left_not_at_all(
    steps: list[tuple[str, int, int]], places: int
) -> None:
    async def scenario() -> None:
        turns: deque[tuple[int, int]] = deque()
        done: list[int] = []
        failed: set[int] = set()

        def run(works: Sequence[str]) -> Sequence[object]:
            most, how = turns.popleft() if turns else (len(works), 0)
            jobs = list(map(int, works[: max(1, most)]))
            if how == 1:
                done.extend(map(int, works))
                failed.update(map(int, works))
                raise ValueError("the group")
            if how == 3:
                done.append(int(works[0]))
                failed.add(int(works[0]))
                raise StoreUnavailable("the first")
            done.extend(jobs)
            if how == 2:
                failed.add(jobs[0])
                return [ValueError(jobs[0]), *jobs[1:]]
            return jobs

        bounds = {"max_jobs": 6, "max_bytes": 60, "max_group_weight": 6, "max_group_bytes": 50}
        workshop = Workshop(run, places=places, **bounds)
        answers: list[asyncio.Future[Any]] = []
        left: set[int] = set()
        for what, number, other in steps:
            if what == "put":
                try:
                    work = str(len(answers))
                    answers.append(workshop.lane.put(work, weight=number, size_bytes=other))
                except StoreOverloaded:
                    pass
            elif what == "cancel" and number < len(answers):
                if answers[number].cancel():
                    left.add(number)
            elif what == "loop":
                await turn_of_the_loop()
            elif what == "thread" and workshop.threads.waiting:
                turns.append((number, other))
                await workshop.threads.turn()
        workshop.lane.close()
        drained = asyncio.create_task(workshop.lane.drained())
        await turn_of_the_loop()
        await workshop.threads.all_turns()
        await drained
        assert len(done) == len(set(done))
        assert set(range(len(answers))) - set(done) <= left
        if places == 1:
            assert done == sorted(done)
        for number, answer in enumerate(answers):
            assert answer.done()
            if number in left:
                assert answer.cancelled()
            elif number in failed:
                assert isinstance(answer.exception(), ValueError | StoreUnavailable)
            else:
                assert answer.result() == number

    asyncio.run(scenario())
