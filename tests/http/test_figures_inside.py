"""The memory in which is counted: rows of workers, and blocks that are taken when needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter_ns

import pytest

from ebus.config import load_config
from ebus.core.errors import StoreFull
from ebus.http import figures as memory
from ebus.http import tenancy as tenancy_module
from ebus.http.figures import BOUNDS_S, BUCKETS, COMMITS, GAUGES, Figures
from ebus.http.openapi import openapi_document
from ebus.http.operations import OPERATIONS, OTHER, REASONS, STATUSES, operation_number
from ebus.http.roster import Counters
from ebus.http.tenancy import Tenancy
from tests.http.conftest import write_config
from tests.http.test_reload_inside import config_of
from tests.http.test_server_limits_inside import in_a_loop, until
from tests.test_docs import raised_codes

POST = operation_number("POST", "/events")


def test_what_workers_count_is_added_up() -> None:
    figures = Figures(3, workers=2)
    for worker in (0, 1):
        counting = figures.of(worker)
        counting.of(2).count(POST, 200, perf_counter_ns(), 10, 20, 1)
        counting.publish()
    [(key, block)] = figures.gather().items()
    assert key == (2, POST)
    assert sum(block[memory.OK : memory.OK + BUCKETS]) == 2
    assert block[memory.BODY_BYTES_IN : memory.EVENTS + 1] == [20, 40, 2]
    assert figures.gather(1) == {}
    assert figures.gather(2) == {key: block}


def test_a_worker_that_replaces_another_counts_on_without_its_gauges() -> None:
    figures = Figures(2)
    first = figures.of(0).of(1)
    first.count_refusal("rate_limited")
    first.set_gauges({memory.QUEUED_WRITES: 7})
    first.publish()
    second = figures.of(0).of(1)
    second.count_refusal("rate_limited")
    second.publish()
    sums = figures.gather(1)
    assert sums[1, memory.REFUSALS][REASONS.index("rate_limited")] == 2
    assert sums[1, GAUGES] == [0] * memory.CELLS


def test_every_block_there_can_be_has_room() -> None:
    figures = Figures(2)
    worker = figures.of(0)
    for tenant in range(3):
        for kind in range(memory.KINDS):
            worker.block(tenant, kind)
    assert len(figures.gather()) == 3 * memory.KINDS


@pytest.mark.parametrize(
    ("duration_ns", "bucket"),
    [(0, 0), (65_535, 0), (65_536, 1), (10**9, 14), (2**34 - 1, 18), (2**34, 19), (2**62, 19)],
)
def test_a_duration_is_counted_below_its_bound(duration_ns: int, bucket: int) -> None:
    figures = Figures(1)
    tenant = figures.of(0).of(0)
    tenant.begin_to_observe()
    tenant.committed(1, duration_ns)
    tenant.publish()
    buckets = figures.gather()[0, COMMITS][memory.COMMIT :][:BUCKETS]
    assert buckets.index(1) == bucket
    assert bucket == len(BOUNDS_S) or duration_ns / 1e9 <= BOUNDS_S[bucket]


@pytest.mark.parametrize(("writes", "bucket"), [(1, 0), (2, 1), (3, 2), (2_048, 11), (2_049, 12)])
def test_a_group_is_counted_below_its_bound(writes: int, bucket: int) -> None:
    figures = Figures(1)
    tenant = figures.of(0).of(0)
    tenant.begin_to_observe()
    tenant.committed(writes, 1)
    tenant.publish()
    block = figures.gather()[0, COMMITS]
    assert block[memory.GROUP :][: memory.GROUP_BUCKETS].index(1) == bucket
    assert block[memory.GROUP_WRITES] == writes


def test_a_status_and_a_reason_that_nobody_knows_are_counted_as_others() -> None:
    figures = Figures(1)
    tenant = figures.of(0).of(0)
    tenant.count(POST, 418, perf_counter_ns(), 0, 0, 0)
    tenant.count_refusal("no_such_code")
    tenant.publish()
    assert figures.gather()[0, POST][memory.FIRST_STATUS + len(STATUSES) - 1] == 1
    assert figures.gather()[0, memory.REFUSALS][REASONS.index(OTHER)] == 1


def test_every_operation_has_a_number(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    write_config(path, {"admin_key_sha256": "0" * 64, "tenants": []})
    document = openapi_document(load_config(str(path), {}))
    documented = {
        (method.upper(), route)
        for route, methods in document["paths"].items()
        for method in methods
    }
    assert documented | {(OTHER, OTHER)} == set(OPERATIONS)


def test_reasons_that_do_not_fit_into_one_block_are_counted_too() -> None:
    figures = Figures(1)
    last = figures.of(0).of(0)
    last.count_refusal(REASONS[-1])
    last.count_refusal(REASONS[0])
    last.publish()
    blocks = figures.gather()
    assert blocks[0, memory.MORE_REFUSALS][len(REASONS) - 1 - memory.CELLS] == 1
    assert blocks[0, memory.REFUSALS][0] == 1


def test_every_code_has_a_number() -> None:
    assert raised_codes() <= set(REASONS)


# When is published what was counted


async def begun(directory: Path) -> tuple[Tenancy, Figures]:
    """The first of two workers, with alice."""
    config = config_of(directory, "alice")
    counters = Counters(config, workers=2)
    tenancy = Tenancy(config, counters)
    await tenancy.start()
    return tenancy, counters.figures


def posts(figures: Figures) -> int:
    block = figures.gather(0).get((0, POST), [0] * memory.CELLS)
    return sum(block[memory.OK : memory.OK + BUCKETS])


@in_a_loop
async def test_the_others_are_shown_what_was_counted_also_after_that_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy_module, "PUBLISH_AGAIN_S", 0.001)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: failures.append(it))
    tenancy, figures = await begun(tmp_path)

    def fail_once() -> int:
        tenancy.count_connections = lambda: 0
        raise ZeroDivisionError

    tenancy.count_connections = fail_once
    await until(lambda: len(failures) == 1)
    for posted in (1, 2):
        tenancy.figures.of(0).count(POST, 200, perf_counter_ns(), 0, 0, 1)
        await until(lambda posted=posted: posts(figures) == posted)
    await tenancy.stop()
    assert len(failures) == 1


@in_a_loop
async def test_a_worker_that_ends_leaves_its_counts_to_the_next_even_if_it_ends_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenancy, figures = await begun(tmp_path)
    tenancy.figures.of(0).count(POST, 200, perf_counter_ns(), 0, 0, 1)
    assert posts(figures) == 0
    close = tenancy._open_engine().aclose

    async def close_badly(**_: object) -> None:
        tenancy.figures.of(0).count(POST, 200, perf_counter_ns(), 0, 0, 1)
        await close()
        raise StoreFull("alice.db cannot grow")

    monkeypatch.setattr(tenancy._open_engine(), "aclose", close_badly)
    with pytest.raises(StoreFull):
        await tenancy.stop()
    assert posts(figures) == 2


def test_no_tenant_is_published_twice_and_none_is_left_out() -> None:
    figures = Figures(3)
    worker = figures.of(0)
    alice, bob = worker.of(0), worker.of(1)
    for turn in (1, 2, 3):
        for tenant in (alice, bob):
            tenant.count_more(POST, 10, 1)
            tenant.count(POST, 404, perf_counter_ns(), 1, 2, 0)
            tenant.count_refusal("rate_limited")
        assert worker.unpublished == [alice, bob]
        worker.publish()
        worker.publish()
        assert worker.unpublished == []
        sums = figures.gather()
        for number in (0, 1):
            block = sums[number, POST]
            assert block[memory.BODY_BYTES_IN : memory.EVENTS + 1] == [turn, 12 * turn, turn]
            assert sum(block[memory.NOT_OK : memory.NOT_OK + BUCKETS]) == turn
            assert sum(sums[number, memory.REFUSALS]) == turn
