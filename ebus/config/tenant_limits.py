"""What a tenant may do to the server: the same keys for all tenants and for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebus.config.environment import MAX_RATE, parse_rate, usual_burst
from ebus.config.mistakes import FileMistakes
from ebus.config.model import Rate, TenantLimits
from ebus.config.nodes import Key, Section, parsed_by, whole_number_to
from ebus.core.errors import InvalidLimits
from ebus.core.limits import MAX_POSITION
from ebus.core.store import Quota

_read_rate = parsed_by(parse_rate, "int", "float")

TENANT_LIMIT_KEYS = {
    "max_requests_per_second": Key(_read_rate, "100"),
    "max_request_burst": Key(whole_number_to(MAX_RATE), "200"),
    "max_events_per_second": Key(_read_rate, "1000"),
    "max_stored_events": Key(whole_number_to(MAX_POSITION), "1000000"),
    "max_stored_bytes": Key(whole_number_to(MAX_POSITION), "1073741824"),
}


def tenant_limits(section: Section, defaults: TenantLimits, mistakes: FileMistakes) -> TenantLimits:
    """What the section says, and for the rest what the defaults say."""
    if "max_request_burst" in section.lines and "max_requests_per_second" not in section.lines:
        mistakes.add(
            section.lines["max_request_burst"],
            "max_request_burst has no rate to burst over; write max_requests_per_second beside it",
        )
    return limits_over(section.values, defaults)


def limits_over(values: Mapping[str, Any], defaults: TenantLimits) -> TenantLimits:
    """What these say, and for the rest what the defaults say. They have been checked."""
    requests, events = defaults.requests, defaults.events
    if (per_second := values.get("max_requests_per_second")) is not None:
        burst = values.get("max_request_burst") or usual_burst(per_second)
        requests = Rate(per_second, burst)
    if (per_second := values.get("max_events_per_second")) is not None:
        events = Rate(per_second, max(1, int(per_second)))
    quota = Quota(
        max_events=values.get("max_stored_events", defaults.quota.max_events),
        max_bytes=values.get("max_stored_bytes", defaults.quota.max_bytes),
    )
    return TenantLimits(requests=requests, events=events, quota=quota)


def checked_limits(values: Mapping[str, object]) -> dict[str, float]:
    """Limits that come as numbers, not from the file. Raises `InvalidLimits`."""
    checked: dict[str, float] = {}
    for name, value in values.items():
        if name not in TENANT_LIMIT_KEYS:
            known = ", ".join(TENANT_LIMIT_KEYS)
            raise InvalidLimits(f"{name[:_SHOWN_CHARS]!r} is no limit; known are {known}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        most = MAX_RATE if name in _OF_REQUESTS_AND_EVENTS else MAX_POSITION
        if name in _RATES:
            if not (is_number and _MIN_RATE <= value <= most):  # type: ignore[operator]
                raise InvalidLimits(f"{name} must be a number a second, more than 0, up to {most}")
        elif not (is_number and isinstance(value, int) and 1 <= value <= most):
            raise InvalidLimits(f"{name} must be a whole number from 1 to {most}")
        checked[name] = value  # type: ignore[assignment]
    if "max_request_burst" in checked and "max_requests_per_second" not in checked:
        raise InvalidLimits(
            "max_request_burst has no rate to burst over; say max_requests_per_second too"
        )
    return checked


_RATES = ("max_requests_per_second", "max_events_per_second")
_OF_REQUESTS_AND_EVENTS = (*_RATES, "max_request_burst")
_MIN_RATE = 1e-9
_SHOWN_CHARS = 40
