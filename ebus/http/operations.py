"""What requests are counted by: operations, statuses, reasons. Each has a number, its place here.

The numbers are where counts stand in memory, so that all workers must know the same. What is in
no list counts as `OTHER`: a client cannot make up further ones.
"""

from __future__ import annotations

OTHER = "other"

OPERATIONS: tuple[tuple[str, str], ...] = (
    (OTHER, OTHER),
    ("POST", "/events"),
    ("GET", "/events"),
    ("POST", "/events/batch"),
    ("GET", "/events/stream"),
    ("GET", "/streams"),
    ("GET", "/position"),
    ("GET", "/subscriptions"),
    ("GET", "/subscriptions/{subscription_id}"),
    ("DELETE", "/subscriptions/{subscription_id}"),
    ("POST", "/subscriptions/{subscription_id}/position"),
    ("PUT", "/subscriptions/{subscription_id}/position"),
    ("GET", "/subscriptions/{subscription_id}/position"),
    ("POST", "/subscriptions/{subscription_id}/lease"),
    ("POST", "/subscriptions/{subscription_id}/lease/{lease}/ack"),
    ("POST", "/subscriptions/{subscription_id}/lease/{lease}/extend"),
    ("POST", "/subscriptions/{subscription_id}/lease/{lease}/release"),
    ("POST", "/subscriptions/{subscription_id}/parked/{first_position}/redeliver"),
    ("DELETE", "/subscriptions/{subscription_id}/parked/{first_position}"),
    ("GET", "/metrics"),
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/openapi.json"),
    ("GET", "/tenants"),
    ("GET", "/ui"),
    ("HEAD", "/ui"),
    ("GET", "/ui/{file}"),
    ("HEAD", "/ui/{file}"),
    ("GET", "/docs"),
    ("HEAD", "/docs"),
    ("GET", "/admin/tenants"),
    ("POST", "/admin/tenants"),
    ("GET", "/admin/tenants/{tenant}"),
    ("PATCH", "/admin/tenants/{tenant}"),
    ("DELETE", "/admin/tenants/{tenant}"),
    ("POST", "/admin/tenants/{tenant}/suspend"),
    ("POST", "/admin/tenants/{tenant}/resume"),
    ("POST", "/admin/tenants/{tenant}/keys"),
    ("DELETE", "/admin/tenants/{tenant}/keys/{key_name}"),
    ("POST", "/admin/tenants/{tenant}/rotate-key"),
    ("GET", "/admin/trash"),
    ("DELETE", "/admin/trash/{trash}"),
    ("GET", "/admin/audit"),
)
"""Method and route, as the OpenAPI document names them."""

_NUMBERS = {operation: number for number, operation in enumerate(OPERATIONS)}

APPENDING = frozenset(
    number
    for number, (method, route) in enumerate(OPERATIONS)
    if (method, route[:7]) == ("POST", "/events")
)
"""Operations whose events come in; those of all others go out."""

STATUSES = (
    *(201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 429, 431),
    *(500, 503, 507, 0),
)
"""Every status beside 200; 0 stands for any other."""

REASONS = (
    OTHER,
    "admin_key",
    "bad_request",
    "body_too_large",
    "change_pending",
    "checkpoint_conflict",
    "conflict",
    "engine_error",
    "engine_not_installed",
    "event_too_large",
    "head_too_large",
    "id_conflict",
    "incomplete_body",
    "insufficient_scope",
    "internal_error",
    "invalid_batch",
    "invalid_body",
    "invalid_checkpoint",
    "invalid_event",
    "invalid_expectation",
    "invalid_filter",
    "invalid_header",
    "invalid_input",
    "invalid_json",
    "invalid_lease",
    "invalid_limits",
    "invalid_parameter",
    "invalid_query",
    "invalid_range",
    "invalid_subscription_id",
    "invalid_tenant_name",
    "key_exists",
    "key_expired",
    "key_invalid",
    "key_required",
    "lease_lost",
    "match_conflict",
    "method_not_allowed",
    "no_registry",
    "not_confirmed",
    "not_found",
    "not_parked",
    "not_suspended",
    "outcome_unknown",
    "position_conflict",
    "quota_exceeded",
    "rate_limited",
    "read_only",
    "request_timeout",
    "server_overloaded",
    "store_busy",
    "store_closed",
    "store_damaged",
    "store_error",
    "store_foreign",
    "store_full",
    "store_newer",
    "store_overloaded",
    "store_refused",
    "store_unavailable",
    "tenant_exists",
    "tenant_in_file",
    "tenant_suspended",
    "too_many_connections",
    "too_many_failed_keys",
    "too_many_parked",
    "too_many_tails",
    "unknown_engine",
    "unknown_key",
    "unknown_subscription",
    "unknown_tenant",
    "unknown_trash",
    "unsupported_media_type",
    "version_conflict",
)
"""The codes of problems."""

REASON_NUMBERS = {reason: number for number, reason in enumerate(REASONS)}


def operation_number(method: str, route: str) -> int:
    """The operation's number; that of `OTHER` for one that is not listed."""
    return _NUMBERS.get((method, route), 0)
