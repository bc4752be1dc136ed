"""Which streams a tenant has: those of its events, and those whose events were trimmed."""

from __future__ import annotations

from collections.abc import Mapping

from ebus.backends.jetstream.bucket import Bucket
from ebus.backends.jetstream.messages import seen_in
from ebus.backends.jetstream.naming import Names, name_of
from ebus.backends.jetstream.stream import Stream
from ebus.backends.jetstream.writing import versions_of
from ebus.core.store import StreamInfo


class StreamList:
    """The streams of one tenant, as the servers have them."""

    def __init__(self, names: Names, log: Stream, bucket: Bucket) -> None:
        self._names = names
        self._log = log
        self._bucket = bucket

    def page(
        self, prefix: str, after: str, limit: int, trimmed: Mapping[str, int]
    ) -> list[StreamInfo]:
        """Those whose names begin so, behind `after`; `trimmed` are versions of old streams."""
        versions = {
            name: version
            for name, version in trimmed.items()
            if name.startswith(prefix) and name > after
        }
        names = {
            name
            for token in self._tokens()
            if (name := self._named(token)).startswith(prefix) and name > after
        }
        wanted = sorted(names | versions.keys())[:limit]
        found = versions_of(self._log, self._bucket, self._names, wanted)
        return [StreamInfo(name, found[name]) for name in wanted]

    def _tokens(self) -> set[str]:
        """Of all streams that have events."""
        tokens: set[str] = set()
        seen = 0
        while True:
            info = self._log.info(subjects=self._names.events, offset=seen)
            subjects = info.state.subjects
            tokens.update(it for it in map(self._names.stream_token, subjects) if it is not None)
            seen += len(subjects)
            if not subjects or seen >= info.total:
                return tokens

    def _named(self, token: str) -> str:
        name = name_of(token)
        if name is None:  # too long for a subject: the events have it
            message = self._log.last(f"{self._names.root}.s{token}.*")
            name = (None if message is None else seen_in(message).stream) or ""
        return name
