"""Which events of a log are meant: by type, by stream, by when they were recorded."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ebus.core.errors import InvalidEvent, InvalidFilter
from ebus.core.event import check_text, instant_ns, is_timestamp
from ebus.core.limits import MAX_FILTER_TYPES, MAX_POSITION, Limits


class Filterable(Protocol):
    """What a filter looks at."""

    @property
    def type(self) -> str: ...
    @property
    def stream(self) -> str | None: ...


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Events that fulfil every condition that is set; without any, all events."""

    types: tuple[str, ...] = ()
    """The event's type is one of these, at most 100."""

    stream: str | None = None
    """The event is of this stream."""

    stream_prefix: str | None = None
    """The event is of a stream whose name begins so; with "", of any stream."""

    from_version: int | None = None
    """Its version within the stream is at least this, from 1. Needs `stream`."""

    to_version: int | None = None
    """Its version within the stream is at most this. Needs `stream`."""

    since: str | None = None
    """The server recorded it at this time or later: RFC 3339, as in an event."""

    until: str | None = None
    """The server recorded it before this time."""

    @property
    def since_ns(self) -> int | None:
        """`since` in nanoseconds since 1970."""
        return None if self.since is None else instant_ns(self.since)

    @property
    def until_ns(self) -> int | None:
        """`until` in nanoseconds since 1970."""
        return None if self.until is None else instant_ns(self.until)

    @property
    def looks_at_events(self) -> bool:
        """Whether there is more to it than when events were recorded."""
        return bool(self.types) or self.stream is not None or self.stream_prefix is not None

    def matches(self, event: Filterable, version: int | None) -> bool:
        """Whether an event fulfils all but the conditions on when it was recorded."""
        if self.types and event.type not in self.types:
            return False
        if self.stream is None and self.stream_prefix is None:
            return True
        stream = event.stream
        if stream is None or (self.stream is not None and stream != self.stream):
            return False
        if self.stream_prefix is not None and not stream.startswith(self.stream_prefix):
            return False
        least = 0 if self.from_version is None else self.from_version
        most = MAX_POSITION if self.to_version is None else self.to_version
        return least <= (version or 0) <= most


def check_filter(wanted: Filter, limits: Limits) -> None:
    """Raise `InvalidFilter` unless this can be one."""
    if len(wanted.types) > MAX_FILTER_TYPES:
        raise InvalidFilter(f"a filter has at most {MAX_FILTER_TYPES} types")
    try:
        for text in wanted.types:
            check_text(text, limits.max_type_chars, field="type")
        if wanted.stream is not None:
            check_text(wanted.stream, limits.max_stream_chars, field="stream")
        if wanted.stream_prefix:
            check_text(wanted.stream_prefix, limits.max_stream_chars, field="stream_prefix")
    except InvalidEvent as error:
        raise InvalidFilter(f"{error.field} {error.problem}") from None
    for name, version in (("from", wanted.from_version), ("to", wanted.to_version)):
        if version is None:
            continue
        if wanted.stream is None:
            raise InvalidFilter(f"{name}_version needs a stream")
        if not 0 <= version <= MAX_POSITION:
            raise InvalidFilter(f"{name}_version is 0 to {MAX_POSITION}")
    for name, moment in (("since", wanted.since), ("until", wanted.until)):
        if moment is not None and not is_timestamp(moment):
            raise InvalidFilter(
                f"{name} is an RFC 3339 time that exists, with an offset, such as "
                "2024-01-01T00:00:00Z"
            )
