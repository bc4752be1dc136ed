"""What a tenant may do to the server: the same keys for all tenants and for one."""

from __future__ import annotations

from typing import Any

from ebus.config.environment import MAX_RATE, parse_rate, usual_burst
from ebus.config.mistakes import FileMistakes
from ebus.config.model import Rate, TenantLimits
from ebus.config.nodes import Key, Section, parsed_by, whole_number_to
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
    values: dict[str, Any] = section.values
    requests, events = defaults.requests, defaults.events
    if (per_second := values.get("max_requests_per_second")) is not None:
        burst = values.get("max_request_burst") or usual_burst(per_second)
        requests = Rate(per_second, burst)
    elif "max_request_burst" in section.lines and "max_requests_per_second" not in section.lines:
        mistakes.add(
            section.lines["max_request_burst"],
            "max_request_burst has no rate to burst over; write max_requests_per_second beside it",
        )
    if (per_second := values.get("max_events_per_second")) is not None:
        events = Rate(per_second, max(1, int(per_second)))
    quota = Quota(
        max_events=values.get("max_stored_events", defaults.quota.max_events),
        max_bytes=values.get("max_stored_bytes", defaults.quota.max_bytes),
    )
    return TenantLimits(requests=requests, events=events, quota=quota)
