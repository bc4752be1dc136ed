"""Which ids are taken, and where.

JetStream's own dedupe forgets after a window of time; here an id is never forgotten. The bucket has
a key for each id, written after the events were stored: it has every id up to the position that the
key `indexed` says. What came later is known from having been written or read here, or is read now.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from ebus.backends.jetstream.bucket import ID
from ebus.backends.jetstream.client import Answer, Outgoing
from ebus.backends.jetstream.faults import Lost
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import MAX_BATCH_MESSAGES, batch, seen_in
from ebus.backends.jetstream.naming import Names, digest_of
from ebus.backends.jetstream.stream import Stream
from ebus.core.errors import EbusError
from ebus.core.limits import MIB

logger = logging.getLogger("ebus.engine")

INDEX_EVERY = 4_096
"""Positions after which ids go into the bucket. So many are read when a tenant is opened anew."""

MAX_CATCH_UP = 16_384
"""Positions that are read for the ids that may be in them, where nobody asked for any."""

_ASKED_AT_ONCE = 500
_PAGE_MESSAGES = 1_000
_PAGE_BYTES = 4 * MIB


class IdIndex:
    """The ids of one tenant. Called by one thread at a time, but for what runs on the link."""

    def __init__(self, link: Link, log: Stream, bucket: Stream, names: Names) -> None:
        self._link = link
        self._log = log
        self._bucket = bucket
        self._names = names
        self._lock = threading.Lock()
        self._recent: dict[str, int] = {}
        """Id → position, of every event behind `_base` that has one."""
        self._base = 0
        self._head = 0
        self._indexed = 0
        """Up to where the bucket has all ids, as far as we have seen."""
        self._is_indexing = False

    def note(self, ids: Mapping[str, int], head: int) -> None:
        """These are all ids of the events between the last head and this one."""
        with self._lock:
            self._recent.update(ids)
            self._head = head
        self._index_if_due()

    def lose(self, head: int) -> None:
        """The log is at this head, and what came before is not known."""
        with self._lock:
            self._recent.clear()
            self._base = self._head = head

    def catch_up(self) -> None:
        """Know what the bucket does not, unless that is too much to read for who needs no ids.

        Whoever writes keeps the bucket close to the head: so it seldom is.
        """
        with self._lock:
            base = self._base
        if base > self._indexed:
            indexed = self._indexed_there()
            if base - indexed <= MAX_CATCH_UP:
                self._know_behind(indexed)

    def _indexed_there(self) -> int:
        found = self._bucket.last_of_each([self._names.indexed])
        return int(found[0].payload) if found else 0

    def look_up(self, ids: Iterable[str], first_position: int) -> dict[str, int]:
        """Where the events are whose ids are among these, of those that are stored still."""
        ids = list(dict.fromkeys(ids))
        with self._lock:
            found = {it: self._recent[it] for it in ids if it in self._recent}
        missing = [it for it in ids if it not in found]
        for at in range(0, len(missing), _ASKED_AT_ONCE):
            few = missing[at : at + _ASKED_AT_ONCE]
            stored = self._look_in_bucket(few)
            with self._lock:
                # What was read just now may have more of them, and later ones.
                found |= {it: self._recent.get(it, stored.get(it, 0)) for it in few}
        return {it: position for it, position in found.items() if position >= first_position}

    def _look_in_bucket(self, ids: Sequence[str]) -> dict[str, int]:
        """What the bucket says. Afterwards all that it does not know of is in `_recent`."""
        keys = {self._key(it): it for it in ids}
        stored: dict[str, int] = {}
        indexed = 0
        for message in self._bucket.last_of_each([*keys, self._names.indexed]):
            if message.subject == self._names.indexed:
                indexed = int(message.payload)
            else:
                stored[keys[message.subject]] = int(message.payload)
        self._know_behind(indexed)
        return stored

    def _know_behind(self, indexed: int) -> None:
        """Have every id behind this position in `_recent`. A replica may be behind the others."""
        while True:
            with self._lock:
                base = self._base
                if base <= indexed:
                    self._indexed = max(self._indexed, indexed)
                    return
            read: dict[str, int] = {}
            for message in self._log.read_through(
                self._names.events, indexed + 1, base, many=_PAGE_MESSAGES, max_bytes=_PAGE_BYTES
            ):
                seen = seen_in(message)
                if seen.id is not None:
                    read[seen.id] = message.sequence
            with self._lock:
                if self._base == base:
                    self._recent = read | self._recent
                    self._base = indexed
                    self._indexed = max(self._indexed, indexed)
                    break
                # Ids have gone into the bucket meanwhile, and out of what is known here.
        self._index_if_due()

    def _key(self, id: str) -> str:
        return self._names.key(ID, digest_of(id))

    def _index_if_due(self) -> None:
        with self._lock:
            if (
                self._is_indexing
                or self._base > self._indexed
                or self._head - self._indexed < INDEX_EVERY
            ):
                return
            self._is_indexing = True
            through = self._head
            ids = {it: at for it, at in self._recent.items() if at > self._indexed}
        self._link.spawn(self._index(ids, through))

    async def _index(self, ids: Mapping[str, int], through: int) -> None:
        """On the link: put ids into the bucket, then say up to where they are there."""
        try:
            entries = [Outgoing(self._key(it), b"%d" % position) for it, position in ids.items()]
            for at in range(0, len(entries), MAX_BATCH_MESSAGES):
                outgoing = batch(entries[at : at + MAX_BATCH_MESSAGES], self._link.new_id())
                _check(await self._link.ask_here(outgoing))
            marker = Outgoing(self._names.indexed, b"%d" % through)
            _check(await self._link.ask_here([marker]))
        except (Lost, EbusError, OSError) as error:  # another time
            logger.debug("%s: ids were not indexed: %s", self._names.log, error)
        else:
            with self._lock:
                if self._base <= through:
                    self._recent = {it: at for it, at in self._recent.items() if at > through}
                    self._base = through
                self._indexed = max(self._indexed, through)
        finally:
            with self._lock:
                self._is_indexing = False


def _check(answer: Answer) -> None:
    if answer.is_status or b'"error"' in answer.data[:100]:
        raise Lost(answer.data[:200].decode(errors="replace"))
