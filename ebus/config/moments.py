"""Moments, as YAML and RFC 3339 write them: `2027-01-31T00:00:00Z`, `2027-01-31`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ebus.config.mistakes import Wrong

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:Z|z|[+-]\d\d:\d\d))?", re.ASCII)


def parse_moment(text: str) -> float:
    """Unix seconds. A date by itself is its first moment in UTC. Raises `Wrong`."""
    if _MOMENT.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text.upper())
        except ValueError:  # the 31st of February
            pass
        else:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise Wrong("is no moment with an offset from UTC, and no date")
