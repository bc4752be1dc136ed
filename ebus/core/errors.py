"""Every error that ebus raises on purpose.

    EbusError
    ├── InvalidInput              what was asked is malformed; asking again will not help
    │   ├── InvalidTenantName
    │   ├── InvalidEvent          knows the event's index and the field
    │   │   └── EventTooLarge     well formed, but over its size limit
    │   ├── InvalidBatch          no events, or more than one append may hold
    │   ├── InvalidRange          a start, stop or limit that is none
    │   ├── InvalidFilter         a filter that cannot be one
    │   ├── InvalidExpectation    an expectation that cannot be one
    │   ├── InvalidCheckpoint     a checkpoint's name or position that is none
    │   ├── InvalidLease          a lease's bounds that are none
    │   ├── InvalidLimits         limits of a tenant that cannot be
    │   └── NotConfirmed          what destroys something has to be said twice
    ├── Conflict                  what is stored says otherwise; knows the current value
    │   ├── IdConflict            an event with this id is stored, with other content
    │   ├── PositionConflict      the log is not at the position that was expected
    │   ├── VersionConflict       a stream is not at the version that was expected
    │   ├── MatchConflict         an event came that was not to have come
    │   ├── CheckpointConflict    a checkpoint is not at the position that was expected
    │   ├── LeaseLost             it has ended: its events are somebody else's now
    │   ├── TooManyParked         so much of a subscription has failed that it stands still
    │   ├── TenantExists          the name is taken, or one that differs in case only
    │   ├── TenantInFile          the config file has the tenant, which only an editor changes
    │   ├── NotSuspended          only what nobody uses is deleted
    │   └── KeyExists             the tenant has a key of this name
    ├── UnknownTenant             there is none of this name
    ├── UnknownKey                the tenant has no key of this name
    ├── UnknownTrash              nothing was put away under this id
    ├── EngineError               the engine itself cannot be had
    │   ├── UnknownEngine
    │   └── EngineNotInstalled
    ├── StoreError                this tenant's store cannot do it now
    │   ├── StoreBusy             another process holds the database beyond the time limit
    │   ├── StoreClosed           closed, or closing
    │   ├── StoreFull             the disk is used up
    │   │   └── QuotaExceeded     or what the tenant may take of it
    │   ├── StoreReadOnly         its operator has writers wait
    │   ├── StoreOverloaded       more is waiting for this tenant than its queue may hold
    │   └── StoreUnavailable      the disk or the cluster failed
    │       └── StoreUnreachable  what stores it is another machine, which does not answer
    │       └── OutcomeUnknown    and what was asked may have been done, or be done yet
    └── StoreRefused              the stored data is not to be touched
        ├── StoreDamaged
        ├── StoreForeign          the file is somebody else's
        └── StoreNewer            a newer ebus wrote it

`InvalidInput`, `Conflict` and what is unknown carry a message made for the caller. The messages of
`StoreError` and `StoreRefused` are for the operator: they may name files, so no server
passes them on to its clients.
"""

from __future__ import annotations

from typing import ClassVar


class EbusError(Exception):
    """The root of the tree. `code` is a stable word that a program can branch on."""

    code: ClassVar[str] = "error"

    is_passing: bool = False
    """Whether it may pass by itself: then the same call is worth making again later."""


class InvalidInput(EbusError, ValueError):
    """What was asked is malformed."""

    code = "invalid_input"


class InvalidTenantName(InvalidInput):
    code = "invalid_tenant_name"


class InvalidBatch(InvalidInput):
    code = "invalid_batch"


class InvalidRange(InvalidInput):
    code = "invalid_range"


class InvalidCheckpoint(InvalidInput):
    code = "invalid_checkpoint"


class InvalidFilter(InvalidInput):
    code = "invalid_filter"


class InvalidExpectation(InvalidInput):
    code = "invalid_expectation"


class InvalidLease(InvalidInput):
    code = "invalid_lease"


class InvalidLimits(InvalidInput):
    code = "invalid_limits"


class NotConfirmed(InvalidInput):
    code = "not_confirmed"


class InvalidEvent(InvalidInput):
    """One event of an append is not an event.

    `problem` says what is wrong, `index` which event of the append it is (from 0) and
    `field` which of its fields, when one field is to blame.
    """

    code = "invalid_event"

    def __init__(self, problem: str, *, index: int = 0, field: str | None = None) -> None:
        self.problem = problem
        self.index = index
        self.field = field
        place = f"events[{index}]" + (f".{field}" if field else "")
        super().__init__(f"{place}: {problem}")


class EventTooLarge(InvalidEvent):
    """One event is over its size limit. Nothing is wrong with its form."""

    code = "event_too_large"


class Conflict(EbusError):
    """What is stored is not what the caller took it to be. Nothing was changed.

    `current` is what it is: a position or a version; None where there is none to tell.
    """

    code = "conflict"

    def __init__(self, problem: str, *, current: int | None = None) -> None:
        self.current = current
        super().__init__(problem)


class IdConflict(Conflict):
    """`index` is which event of the append it is, `current` the position of the stored event.

    It has no `current` when the other event is one of the same append.
    """

    code = "id_conflict"

    def __init__(self, problem: str, *, current: int | None = None, index: int = 0) -> None:
        self.index = index
        super().__init__(problem, current=current)


class PositionConflict(Conflict):
    """`current` is the head."""

    code = "position_conflict"


class VersionConflict(Conflict):
    """`current` is the version of the stream, 0 when it has no events."""

    code = "version_conflict"


class MatchConflict(Conflict):
    """`current` is the position of an event that matches."""

    code = "match_conflict"


class CheckpointConflict(Conflict):
    """`current` is the saved position, 0 when none ever was."""

    code = "checkpoint_conflict"


class LeaseLost(Conflict):
    code = "lease_lost"


class TooManyParked(Conflict):
    """`current` is how many ranges are parked."""

    code = "too_many_parked"


class TenantExists(Conflict):
    code = "tenant_exists"


class TenantInFile(Conflict):
    code = "tenant_in_file"


class NotSuspended(Conflict):
    code = "not_suspended"


class KeyExists(Conflict):
    code = "key_exists"


class UnknownTenant(EbusError, LookupError):
    code = "unknown_tenant"


class UnknownKey(EbusError, LookupError):
    code = "unknown_key"


class UnknownTrash(EbusError, LookupError):
    code = "unknown_trash"


class EngineError(EbusError):
    code = "engine_error"


class UnknownEngine(EngineError, LookupError):
    code = "unknown_engine"


class EngineNotInstalled(EngineError, ImportError):
    code = "engine_not_installed"


class StoreError(EbusError):
    """The store cannot do it now. The same call may succeed later."""

    code = "store_error"
    is_passing = True


class StoreBusy(StoreError):
    code = "store_busy"


class StoreClosed(StoreError):
    code = "store_closed"
    is_passing = False


class StoreFull(StoreError):
    code = "store_full"


class QuotaExceeded(StoreFull):
    """The tenant's own bound is reached."""

    code = "quota_exceeded"


class StoreReadOnly(StoreError):
    """Nothing is written for the time being, because the tenant is moved, say."""

    code = "read_only"


class StoreOverloaded(StoreError):
    code = "store_overloaded"


class StoreUnavailable(StoreError):
    code = "store_unavailable"


class OutcomeUnknown(StoreUnavailable):
    """No answer came for so long that nobody can tell whether the write is stored.

    Reading tells later. An event with an id may be sent again: it is stored once.
    """

    code = "outcome_unknown"


class StoreUnreachable(StoreUnavailable):
    """What stores it is on other machines, and those do not answer now.

    It passes without anybody doing anything here. So a server that starts meanwhile starts, and
    waits for them; not so with any other failure.
    """


class StoreRefused(EbusError):
    """The stored data is not to be touched; a person has to look."""

    code = "store_refused"


class StoreDamaged(StoreRefused):
    code = "store_damaged"


class StoreForeign(StoreRefused):
    code = "store_foreign"


class StoreNewer(StoreRefused):
    code = "store_newer"
