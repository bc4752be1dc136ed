"""Every bound, with its unit in its name. What nobody needs to set is a constant."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB

MAX_POSITION = 2**63 - 1
"""The largest position or checkpoint: what a signed 64-bit integer holds."""

MAX_FILTER_TYPES = 100
"""Types of one filter."""

MAX_CONDITION_FILTERS = 100
"""Filters of one condition of which an append expects that nothing matches."""

MAX_LOOKED_AT_EVENTS = 32_768
MAX_LOOKED_AT_BYTES = 16 * MIB
"""What the SQLite engine looks at for one filtered page, which it then cuts short, or for one
condition, which it then refuses."""

MAX_MERGED_STREAMS = 64
"""Streams of one prefix that the SQLite engine merges; with more, it looks at all events."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one engine or server. Every one can be set; all must be at least 1."""

    max_event_bytes: int = 1 * MIB
    """Size of one event: its data in bytes, its type and time stamp in characters."""

    max_batch_events: int = 1_000
    """Events in one append."""

    max_body_bytes: int = 16 * MIB
    """Size of one request body."""

    max_head_bytes: int = 64 * KIB
    """Size of a request's line and headers."""

    max_head_fields: int = 100
    """Headers of one request."""

    max_connections: int = 4_096
    """Connections of one server process; when there are more, those that idle are closed."""

    max_pipelined_requests: int = 100
    """Requests of one connection that wait for answers; it is closed after those."""

    max_inflight_body_bytes: int = 256 * MIB
    """Bytes of request bodies in one server process, but for those of at most 64 KiB."""

    max_read_events: int = 10_000
    """Events in one page of a read."""

    max_page_bytes: int = 4 * MIB
    """Bytes after which a page is cut, so that pages of large events stay small in memory."""

    max_type_chars: int = 255
    max_event_id_chars: int = 255
    max_stream_chars: int = 255

    max_metadata_bytes: int = 16 * KIB
    """Size of one event's metadata as JSON."""

    max_tenant_name_chars: int = 100
    max_subscription_id_chars: int = 255

    max_tenant_tails: int = 1_024
    """Requests of one tenant, in one server process, that wait for events to come."""

    max_wait_s: int = 60
    """How long a request may wait for an event to come, in seconds; a tail has no such bound."""

    max_leases: int = 1_000
    """Ranges of one subscription that are leased, or wait for their turn once more.

    So many, and no new ones are leased; what comes back in parts makes at most twice as many.
    """

    max_parked: int = 1_000
    """Ranges of one subscription that failed too often; with more, it gives out no leases."""

    max_json_depth: int = 512
    """How deeply arrays and objects may nest within an event's data."""

    max_group_events: int = 4_096
    """Events of waiting appends that share one commit, or of waiting reads that share a turn."""

    max_group_bytes: int = 16 * MIB
    """Bytes of the appends that share one commit; one that is larger has one to itself."""

    max_queue_appends: int = 2_048
    """Appends and other writes of one tenant that wait; one more is refused."""

    max_queue_bytes: int = 64 * MIB
    """Bytes of the events that wait for a commit of one tenant."""

    max_tenant_reads: int = 4
    """Reads of one tenant that run at once, at most half the threads; further ones wait."""

    max_queue_reads: int = 1_024
    """Reads of one tenant that wait for their turn; one more is refused."""

    max_read_threads: int = 32
    """Threads that read, for all tenants together."""

    max_write_threads: int = 32
    """Threads that write, for all tenants together; each tenant has one at a time."""

    max_block_events: int = 128
    """Events that the SQLite engine stores in one block."""

    max_block_bytes: int = 64 * KIB
    """Bytes after which the SQLite engine starts the next block."""

    wal_checkpoint_bytes: int = 1 * MIB
    """Size of a WAL at which the SQLite engine writes it back, beside the writers."""

    max_failed_keys_per_minute: int = 60
    """API keys that open nothing, from one client's address, and at once; more get a 429."""

    max_eager_tenants: int = 100
    """Up to this many configured tenants are opened at start; with more, each at first use."""

    max_open_tenants: int = 1_000
    """Tenants that are open at once; the ones used least recently are closed."""

    busy_timeout_ms: int = 5_000
    """How long the SQLite engine waits for another process that holds a database."""
