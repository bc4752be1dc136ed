"""What requests and commits are counted in: memory that all workers of a server share.

Each worker writes only blocks of its own, so that no lock is needed and none is missed; whoever
is asked for figures reads the blocks of all workers and adds them up. A block belongs to a tenant
and a kind, and is taken when the first thing is counted in it: a tenant that does nothing costs
nothing. A worker that replaces another counts on in its blocks.

Requests are counted in lists first, at half the cost, and are to be published from time to time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from time import perf_counter_ns

from ebus.http.operations import OPERATIONS, REASON_NUMBERS, REASONS, STATUSES

CELLS = 64
"""Numbers in one block."""

_OF_WORD = 8

COMMITS = len(OPERATIONS)
SYNCS = COMMITS + 1
GAUGES = COMMITS + 2
REFUSALS = COMMITS + 3
MORE_REFUSALS = REFUSALS + 1
"""There are more reasons than cells in one block."""
KINDS = MORE_REFUSALS + 1
"""What there are blocks of: one for each operation, and these."""

assert len(REASONS) <= 2 * CELLS

FIRST_BITS, LAST_BITS = 16, 34
BUCKETS = LAST_BITS - FIRST_BITS + 2
BOUNDS_S = tuple(2**bits / 1e9 for bits in range(FIRST_BITS, LAST_BITS + 1))
"""Upper bounds of durations: powers of two in nanoseconds, from 65 µs to 17 s; beyond, one more."""

_BUCKET_OF = tuple(min(max(bits, FIRST_BITS), LAST_BITS + 1) - FIRST_BITS for bits in range(65))
"""By how many bits a number of nanoseconds has."""

GROUP_BUCKETS = 13
GROUP_BOUNDS = tuple(2**bits for bits in range(GROUP_BUCKETS - 1))
"""Upper bounds of how many writes share a commit: 1 to 2,048; beyond, one more."""

# The cells of an operation's block. Those of 200 and of all other statuses are apart: the common
# answer is counted in one step, by its duration.
OK = 0
NOT_OK = OK + BUCKETS
DURATION_NS = NOT_OK + BUCKETS
BODY_BYTES_IN = DURATION_NS + 1
BODY_BYTES_OUT = BODY_BYTES_IN + 1
EVENTS = BODY_BYTES_OUT + 1
FIRST_STATUS = EVENTS + 1
_STATUS_CELLS = {status: FIRST_STATUS + place for place, status in enumerate(STATUSES)}
_ANY_OTHER_STATUS = FIRST_STATUS + len(STATUSES) - 1

assert _ANY_OTHER_STATUS < CELLS

# Those of the block of commits, and of that of syncs.
GROUP = 0
GROUP_WRITES = GROUP + GROUP_BUCKETS
COMMIT = GROUP_WRITES + 1
COMMIT_NS = COMMIT + BUCKETS
SYNC = 0
SYNC_NS = SYNC + BUCKETS
WRITE_BACK = SYNC_NS + 1
WRITE_BACK_NS = WRITE_BACK + BUCKETS

# Gauges of a tenant, and of a worker as a whole.
QUEUED_WRITES, QUEUED_BYTES, QUEUED_READS, IS_OPEN, WAITING = range(5)
OPEN_TENANTS, CONNECTIONS, HELD_BODY_BYTES, IS_UP = range(4)

Block = list[int]

_NOTHING = memoryview(bytes(_OF_WORD * CELLS)).cast("Q")


class Figures:
    """The memory. To be made before the workers are."""

    def __init__(self, tenants: int, *, workers: int = 1) -> None:
        self.nobody = tenants
        """The number under which is counted what belongs to no tenant."""
        self._workers = workers
        self._blocks = (tenants + 1) * KINDS
        self._used = memoryview(mmap.mmap(-1, _OF_WORD * workers)).cast("Q")
        # The system gives memory only for what is written to.
        self._heads = [_words(self._blocks) for _ in range(workers)]
        self._cells = [_words(self._blocks * CELLS) for _ in range(workers)]

    def of(self, worker: int) -> WorkerFigures:
        """What this worker counts in, from 0 on."""
        return WorkerFigures(self, worker, self._used, self._heads[worker], self._cells[worker])

    def gather(
        self, tenant: int | None = None, *, kind: int | None = None
    ) -> dict[tuple[int, int], Block]:
        """The sums over all workers by tenant and kind: of this tenant and kind, or of all."""
        sums: dict[tuple[int, int], Block] = {}
        for worker in range(self._workers):
            for key, block in self._blocks_of(worker, tenant, kind):
                known = sums.get(key)
                sums[key] = block if known is None else added(known, block)
        return sums

    def _blocks_of(
        self, worker: int, tenant: int | None, wanted: int | None
    ) -> Iterator[tuple[tuple[int, int], Block]]:
        """What one worker has counted."""
        cells = self._cells[worker]
        for place, head in enumerate(self._heads[worker][: self._used[worker]].tolist()):
            number, kind = divmod(head, KINDS)
            if tenant in {None, number} and wanted in {None, kind}:
                yield (number, kind), cells[place * CELLS : (place + 1) * CELLS].tolist()


def added(one: Block, other: Block) -> Block:
    """The sums of what two blocks of a kind have counted."""
    return [count + further for count, further in zip(one, other, strict=True)]


def _words(count: int) -> memoryview:
    return memoryview(mmap.mmap(-1, _OF_WORD * count)).cast("Q")


class WorkerFigures:
    """What one worker counts in. Blocks are taken on its event loop only."""

    def __init__(
        self,
        figures: Figures,
        worker: int,
        used: memoryview,
        heads: memoryview,
        cells: memoryview,
    ) -> None:
        self.all = figures
        self.cells = cells
        self._worker = worker
        self._used = used
        self._heads = heads
        self._tenants: dict[int, TenantFigures] = {}
        self.unpublished: list[TenantFigures] = []
        """Those who have counted something since it was last published."""
        # Those of the worker whose place this one has taken.
        self._taken = {head: place for place, head in enumerate(heads[: used[worker]].tolist())}
        for head, place in self._taken.items():
            if head % KINDS == GAUGES:
                cells[place * CELLS : (place + 1) * CELLS] = _NOTHING
        self.nobody = self.of(figures.nobody)
        """Where is counted what belongs to no tenant."""

    def of(self, tenant: int) -> TenantFigures:
        """Where is counted what belongs to the n-th tenant."""
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = TenantFigures(self, tenant)
        return found

    def publish(self) -> None:
        """Show the others what was counted here."""
        tenants, self.unpublished = self.unpublished, []
        for tenant in tenants:
            tenant.publish()

    def block(self, tenant: int, kind: int) -> int:
        """Where the cells of this block begin."""
        head = tenant * KINDS + kind
        place = self._taken.get(head)
        if place is None:
            place = self._taken[head] = self._used[self._worker]
            self._heads[place] = head
            self._used[self._worker] = place + 1  # others read it from now on
        return place * CELLS


class TenantFigures:
    """What is counted of one tenant in one worker. It is a `StoreObserver`, too.

    For the event loop, apart from `synced` and `written_back`.
    """

    __slots__ = ("_cells", "_counts", "_number", "_places", "_syncs", "_worker")

    def __init__(self, worker: WorkerFigures, number: int) -> None:
        self._worker = worker
        self._cells = worker.cells
        self._number = number
        self._places: dict[int, int] = {}
        self._counts: dict[int, Block] = {}
        """What is yet to be published, by kind."""
        self._syncs = 0

    def _block(self, kind: int) -> int:
        place = self._places.get(kind)
        if place is None:
            place = self._places[kind] = self._worker.block(self._number, kind)
        return place

    def _begin(self, kind: int) -> Block:
        if not self._counts:
            self._worker.unpublished.append(self)
        counts = self._counts[kind] = [0] * CELLS
        return counts

    def publish(self) -> None:
        """Show the others what was counted."""
        cells = self._cells
        for kind, counts in self._counts.items():
            at = self._block(kind)
            for place, count in enumerate(counts, at):
                if count:
                    cells[place] += count
        self._counts.clear()

    def count(
        self,
        operation: int,
        status: int,
        begun_ns: int,
        body_bytes_in: int,
        body_bytes_out: int,
        events: int,
    ) -> None:
        """A request that came at this time of `perf_counter_ns` is being answered now."""
        counts = self._counts.get(operation) or self._begin(operation)
        duration_ns = perf_counter_ns() - begun_ns
        if status == 200:
            counts[_BUCKET_OF[duration_ns.bit_length()]] += 1
        else:
            counts[NOT_OK + _BUCKET_OF[duration_ns.bit_length()]] += 1
            counts[_STATUS_CELLS.get(status, _ANY_OTHER_STATUS)] += 1
        counts[DURATION_NS] += duration_ns
        counts[BODY_BYTES_IN] += body_bytes_in
        counts[BODY_BYTES_OUT] += body_bytes_out
        counts[EVENTS] += events

    def count_more(self, operation: int, body_bytes_out: int, events: int) -> None:
        """More of an answer goes out, which has been counted already."""
        counts = self._counts.get(operation) or self._begin(operation)
        counts[BODY_BYTES_OUT] += body_bytes_out
        counts[EVENTS] += events

    def count_refusal(self, code: str) -> None:
        """A request was refused with a problem of this code."""
        further, cell = divmod(REASON_NUMBERS.get(code, 0), CELLS)
        counts = self._counts.get(REFUSALS + further) or self._begin(REFUSALS + further)
        counts[cell] += 1

    def set_gauges(self, gauges: Mapping[int, int]) -> None:
        at = self._block(GAUGES)
        for gauge, value in gauges.items():
            self._cells[at + gauge] = value

    def begin_to_observe(self) -> None:
        """Take the block in which other threads count."""
        self._syncs = self._block(SYNCS)

    def committed(self, writes: int, duration_ns: int) -> None:
        counts = self._counts.get(COMMITS) or self._begin(COMMITS)
        counts[GROUP + min((writes - 1).bit_length(), GROUP_BUCKETS - 1)] += 1
        counts[GROUP_WRITES] += writes
        counts[COMMIT + _BUCKET_OF[duration_ns.bit_length()]] += 1
        counts[COMMIT_NS] += duration_ns

    def synced(self, duration_ns: int) -> None:
        self._count_duration(self._syncs + SYNC, duration_ns)

    def written_back(self, duration_ns: int) -> None:
        self._count_duration(self._syncs + WRITE_BACK, duration_ns)

    def _count_duration(self, at: int, duration_ns: int) -> None:
        self._cells[at + _BUCKET_OF[duration_ns.bit_length()]] += 1
        self._cells[at + BUCKETS] += duration_ns
