"""Positions that hold nothing: events that are forgotten, and gaps that are left on purpose."""

from __future__ import annotations

from collections.abc import Mapping

from ebus.backends.jetstream.bucket import Bucket
from ebus.backends.jetstream.client import Outgoing
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import MAX_BATCH_MESSAGES, seen_in
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.stream import Stream, purge
from ebus.backends.jetstream.writing import Known
from ebus.core.errors import InvalidRange
from ebus.core.limits import MIB, Limits
from ebus.core.store import check_gap

MAX_FILLED = 100_000
"""Positions that can be left out behind events that are stored: each is filled and emptied."""


class Trimmer:
    """Who takes events of one tenant away. Called by one thread at a time."""

    def __init__(
        self, link: Link, names: Names, log: Stream, bucket: Bucket, known: Known, limits: Limits
    ) -> None:
        self._link = link
        self._names = names
        self._log = log
        self._bucket = bucket
        self._known = known
        self._limits = limits

    def trim(self, through: int) -> None:
        """Like `SupportsTrim.trim`."""
        known = self._known
        known.refresh()
        if not 0 <= through <= known.head:
            raise InvalidRange(f"cannot trim through {through}: the head is {known.head}")
        if through < known.first_position:
            return
        self._remember_versions(known.first_position, through)
        purge(self._link, self._log.name, {"seq": through + 1})
        known.is_current = False

    def _remember_versions(self, first: int, through: int) -> None:
        """Of streams whose last event is among these: they must not begin anew."""
        versions: dict[str, int] = {}
        for event in self._log.read_through(
            self._names.events, first, through, many=1_000, max_bytes=4 * MIB
        ):
            seen = seen_in(event)
            if seen.stream is not None:
                versions[seen.stream] = seen.version or 0
        streams = list(versions)
        last = self._log.ask_leader([{"last_by_subj": self._names.of_stream(it)} for it in streams])
        for stream, message in zip(streams, last, strict=True):
            if message is not None and message.sequence > through:
                del versions[stream]
        self._bucket.save_versions(versions)

    def leave_gap(self, through: int, versions: Mapping[str, int], expected: int) -> None:
        """Like `SupportsGaps.leave_gap`."""
        known = self._known
        known.refresh()
        check_gap(
            through,
            versions,
            expected,
            head=known.head,
            version_of=known.stream_version,
            limits=self._limits,
        )
        missing = through - known.head
        if missing > MAX_FILLED and known.events:
            raise InvalidRange(f"JetStream leaves at most {MAX_FILLED} positions out behind events")
        self._bucket.save_versions(dict(versions))
        known.is_current = False
        if missing > MAX_FILLED:
            purge(self._link, self._log.name, {"seq": through + 1})
        else:
            self._fill(known.head, through)
        known.refresh()

    def _fill(self, head: int, through: int) -> None:
        """Take positions with messages that are no events, and take those away.

        Also those of a time when this was cut off in between.
        """
        for behind in range(head, through, MAX_BATCH_MESSAGES):
            many = min(MAX_BATCH_MESSAGES, through - behind)
            self._log.append([Outgoing(self._names.gap, b"")] * many, behind=behind)
        purge(self._link, self._log.name, {"filter": self._names.gap})
