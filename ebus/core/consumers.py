"""Where a subscription has got to, and which events its competing consumers hold.

A lease is a contiguous range of events that one consumer holds for a time. What it acknowledges
is finished; what it does not is handed out again, one event at a time, so that only what fails
by itself is parked in the end. The checkpoint stands before the first unfinished event. It never
goes back by itself.

All of it is plain data and functions of it: a store keeps the data, and does nothing else.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from ebus.core.errors import InvalidLease, LeaseLost, TooManyParked
from ebus.core.limits import MAX_POSITION, Limits

MAX_LEASE_S = 86_400
MAX_ATTEMPTS = 1_000
MAX_REASON_CHARS = 255


def reason_of(error: Exception) -> str:
    """Why a handler failed, for people: one line, as short and as clean as a reason must be."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words.encode("utf-8", "replace").decode()[:MAX_REASON_CHARS]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The events from `first_position` to `last_position`, both inclusive, held for a time."""

    id: str
    first_position: int
    last_position: int

    attempt: int
    """How many times these events have been handed out, this time included."""

    max_attempts: int
    """After so many they are parked."""

    expires_at_ms: int
    """Until when they are held, in Unix milliseconds of the server's clock."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Events that were handed out and came back unfinished."""

    first_position: int
    last_position: int
    failures: int
    not_before_ms: int = 0

    one_by_one: bool = False
    """Each is handed out by itself: together they have failed, for one of them or for all."""


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """Events that failed too often, and are left aside until somebody looks."""

    first_position: int
    last_position: int
    attempts: int
    reason: str = ""


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint, and what is known of the events beyond it.

    No event is in two of the leases, of what waits and of what is parked. None of them lies
    beyond both the checkpoint and the frontier. The checkpoint never follows over a lease, or
    over what waits.
    """

    position: int = 0
    """Every event up to here is finished or parked."""

    frontier: int = 0
    """Events beyond this one have not been handed out; 0 when none ever was."""

    leases: tuple[Lease, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    parked: tuple[Parked, ...] = ()

    def at(self, position: int) -> Subscription:
        """With this checkpoint. What is leased is nobody's any more.

        What is parked up to there stays, and so does what was parked and is to be delivered again:
        the checkpoint had passed it. Beyond it all comes again in the ordinary way.
        """
        passed = min(self.position, position)
        it = Subscription(
            position=position,
            parked=tuple(
                replace(one, last_position=min(one.last_position, position))
                for one in self.parked
                if one.first_position <= position
            ),
        )
        for held in self.leases:
            if held.first_position <= passed:
                it = _back(it, replace(held, last_position=min(held.last_position, passed)))
        for one in self.waiting:
            if one.first_position <= passed:
                it = _wait(it, [replace(one, last_position=min(one.last_position, passed))])
        return it

    def lag(self, head: int) -> int:
        """How many positions the checkpoint is behind the head."""
        return max(0, head - self.position)


Change = Callable[[Subscription, int], tuple[Subscription, object]]
"""From a subscription and the head to what becomes of it, and an answer.

Pure: it may be called more than once for one write. Raises an error of core to change nothing.
"""


def lease(*, max_events: int, seconds: float, max_attempts: int, limits: Limits) -> Change:
    """Hand out what is to be done next; the answer is a `Lease`, None when there is nothing.

    What has run out ends here, and not before. While `limits.max_leases` ranges are leased or
    wait, only what waits is handed out. Of those there are at most twice as many: what is
    released in the middle comes back in two. (A `cut` makes one more, and what is redelivered
    comes on top.) Raises `InvalidLease`; the change raises `TooManyParked`.
    """
    if not 1 <= max_events <= limits.max_read_events:
        raise InvalidLease(f"a lease is of 1 to {limits.max_read_events} events")
    if not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise InvalidLease(f"the attempts are 1 to {MAX_ATTEMPTS}")
    _check_seconds(seconds)
    asked_ms, token = now_ms(), secrets.token_urlsafe(12)

    def change(before: Subscription, head: int) -> tuple[Subscription, Lease | None]:
        it = _expire(before, asked_ms)
        if len(it.parked) >= limits.max_parked:
            raise TooManyParked(
                f"{len(it.parked)} ranges are parked: redeliver or drop some of them",
                current=len(it.parked),
            )
        given = Lease(
            id=token,
            first_position=0,
            last_position=0,
            attempt=1,
            max_attempts=max_attempts,
            expires_at_ms=asked_ms + round(seconds * 1_000),
        )
        room = _room(it, limits)
        next_up = _next_up(it, asked_ms, room)
        if next_up is not None:
            first = next_up.first_position
            splits = first + max_events <= next_up.last_position
            # One by one what has failed: together they would all fail for one of them.
            alone = next_up.failures or next_up.one_by_one or room < 1 + splits
            last = min(next_up.last_position, first + (1 if alone else max_events) - 1)
            rest = [one for one in it.waiting if one is not next_up]
            if last < next_up.last_position:
                rest.append(replace(next_up, first_position=last + 1))
            it = replace(it, waiting=tuple(rest))
            given = replace(given, attempt=next_up.failures + 1)
        else:
            new = next_position(it, limits)
            if new is None or new > head:
                return it, None
            first, last = new, min(new + max_events - 1, head)
            it = replace(it, frontier=last)
        given = replace(given, first_position=first, last_position=last)
        return _settled(replace(it, leases=(*it.leases, given))), given

    return change


def next_position(subscription: Subscription, limits: Limits) -> int | None:
    """The first that was never handed out; None while nothing new is, since so much is held."""
    if len(subscription.leases) + len(subscription.waiting) >= limits.max_leases:
        return None
    return max(subscription.position, subscription.frontier) + 1


def next_due_ms(subscription: Subscription, after_ms: int) -> int | None:
    """When, later than this, time alone may bring something to hand out; None for never."""
    moments_ms = [one.expires_at_ms for one in subscription.leases]
    moments_ms += [one.not_before_ms for one in subscription.waiting]
    return min((it for it in moments_ms if it > after_ms), default=None)


def acknowledge(id: str, position: int | None = None) -> Change:
    """The events of the lease up to `position` are finished, or all of them; the answer is None.

    The others stay leased. A lease that has run out counts until somebody asks for the next one;
    so it does for `extend` and `release`. The change raises `LeaseLost`, and `InvalidLease` for a
    position that does not lie within the lease.
    """

    def change(before: Subscription, head: int) -> tuple[Subscription, None]:
        held = _held(before, id)
        through = held.last_position if position is None else position
        _check_within(held, through)
        rest = replace(held, first_position=through + 1)
        return _with(before, held, [rest] if through < held.last_position else []), None

    return change


def extend(id: str, seconds: float) -> Change:
    """The lease lasts for so long from now on; the answer is the `Lease`.

    Raises like the others.
    """
    _check_seconds(seconds)
    expires_at_ms = now_ms() + round(seconds * 1_000)

    def change(before: Subscription, head: int) -> tuple[Subscription, Lease]:
        held = _held(before, id)
        extended = replace(held, expires_at_ms=expires_at_ms)
        return _with(before, held, [extended]), extended

    return change


def cut(id: str, position: int) -> Change:
    """The lease ends with this position; the answer is the `Lease`. The rest comes back."""

    def change(before: Subscription, head: int) -> tuple[Subscription, Lease]:
        held = _held(before, id)
        _check_within(held, position)
        shorter = replace(held, last_position=position)
        it = _with(before, held, [shorter], settle=False)
        if position < held.last_position:
            it = _back(it, replace(held, first_position=position + 1))
        return _settled(it), shorter

    return change


def release(
    id: str,
    position: int | None = None,
    *,
    failed: bool = True,
    delay_s: float = 0.0,
    reason: str = "",
) -> Change:
    """End the lease early; the answer is None.

    With a `position` the events before it are finished and it is the one that failed; without,
    none is finished and all of them failed. What failed is handed out again after `delay_s`, or
    parked with the `reason` when it has failed too often: an event by itself, never several that
    failed together. The events behind it come back uncharged. With `failed` False nothing has
    failed: a consumer merely stops.
    """
    if not 0 <= delay_s <= MAX_LEASE_S:
        raise InvalidLease(f"a delay is of 0 to {MAX_LEASE_S} seconds")
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidLease(f"a reason has at most {MAX_REASON_CHARS} characters")
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise InvalidLease("a reason holds no lone surrogates") from None
    not_before_ms = now_ms() + round(delay_s * 1_000) if delay_s else 0

    def change(before: Subscription, head: int) -> tuple[Subscription, None]:
        held = _held(before, id)
        first = held.first_position if position is None else position
        last = held.last_position if position is None or not failed else position
        _check_within(held, first)
        it = _with(before, held, [], settle=False)
        charged = replace(held, first_position=first, last_position=last)
        it = _failed(it, [charged], not_before_ms, reason) if failed else _back(it, charged)
        if last < held.last_position:
            it = _back(it, replace(held, first_position=last + 1))
        return _settled(it), None

    return change


def redeliver_parked(first_position: int) -> Change:
    """Hand out again what was parked there; the answer says whether there was any."""

    def change(before: Subscription, head: int) -> tuple[Subscription, bool]:
        found = [one for one in before.parked if one.first_position == first_position]
        it = replace(before, parked=tuple(one for one in before.parked if one not in found))
        for one in found:
            first, last = one.first_position, one.last_position
            again = Waiting(first_position=first, last_position=last, failures=0, one_by_one=True)
            it = _wait(it, [again])
        return it, bool(found)

    return change


def drop_parked(first_position: int) -> Change:
    """Forget what was parked there; the answer says whether there was any. Events stay stored."""

    def change(before: Subscription, head: int) -> tuple[Subscription, bool]:
        parked = tuple(one for one in before.parked if one.first_position != first_position)
        return replace(before, parked=parked), len(parked) < len(before.parked)

    return change


def now_ms() -> int:
    """The clock by which leases go: Unix milliseconds."""
    return time.time_ns() // 1_000_000


def seconds_until(moment_ms: int) -> float:
    """How long it is until then; a millisecond at least."""
    return max(0.001, (moment_ms - now_ms()) / 1_000)


def _room(it: Subscription, limits: Limits) -> int:
    """How many ranges there may be more, if all that can come back in two does.

    To split what waits takes one, to lease several events of it together takes one.
    """
    several = sum(not _is_single(one) for one in it.leases)
    return 2 * limits.max_leases - len(it.leases) - len(it.waiting) - several


def _next_up(it: Subscription, moment_ms: int, room: int) -> Waiting | None:
    """The first that is due. Without room that is a single event, if there will be one."""
    due = [one for one in it.waiting if one.not_before_ms <= moment_ms]
    if room < 1 and (it.leases or any(map(_is_single, it.waiting))):
        due = [one for one in due if _is_single(one)]
    return min(due, key=lambda one: one.first_position, default=None)


def _is_single(one: Lease | Waiting) -> bool:
    return one.first_position == one.last_position


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds <= MAX_LEASE_S:
        raise InvalidLease(f"a lease lasts for more than 0 and at most {MAX_LEASE_S} seconds")


def _held(subscription: Subscription, id: str) -> Lease:
    for held in subscription.leases:
        if held.id == id:
            return held
    raise LeaseLost("this lease has ended, or was never given")


def _check_within(held: Lease, position: int) -> None:
    if not held.first_position <= position <= held.last_position:
        raise InvalidLease(
            f"the lease is of {held.first_position} to {held.last_position}, not of {position}"
        )


def _with(
    it: Subscription, held: Lease, instead: list[Lease], *, settle: bool = True
) -> Subscription:
    others = (one for one in it.leases if one is not held)
    changed = replace(it, leases=(*others, *instead))
    return _settled(changed) if settle else changed


def _expire(it: Subscription, moment_ms: int) -> Subscription:
    late = [held for held in it.leases if held.expires_at_ms <= moment_ms]
    if late:
        held = tuple(one for one in it.leases if one.expires_at_ms > moment_ms)
        it = _failed(replace(it, leases=held), late, 0, "the lease ran out")
    return _settled(it)


def _failed(
    it: Subscription, leases: Iterable[Lease], not_before_ms: int, reason: str
) -> Subscription:
    waiting: list[Waiting] = []
    # By their places: never twice, whatever has been stored before.
    parked = {(one.first_position, one.last_position): one for one in it.parked}
    for held in leases:
        first, last = held.first_position, held.last_position
        if held.attempt >= held.max_attempts and _is_single(held):
            parked.pop((first, last), None)
            parked[first, last] = Parked(
                first_position=first, last_position=last, attempts=held.attempt, reason=reason
            )
            continue
        again = Waiting(
            first_position=first,
            last_position=last,
            # Nobody knows which of several it was: each gets an attempt by itself.
            failures=min(held.attempt, held.max_attempts - 1),
            not_before_ms=not_before_ms,
            one_by_one=True,
        )
        waiting.append(again)
    return _wait(replace(it, parked=tuple(parked.values())), waiting)


def _back(it: Subscription, held: Lease) -> Subscription:
    waiting = Waiting(
        first_position=held.first_position,
        last_position=held.last_position,
        failures=held.attempt - 1,
    )
    return _wait(it, [waiting])


def _wait(it: Subscription, again: list[Waiting]) -> Subscription:
    """With these among those that wait: as one range with neighbours of the same kind."""
    waiting: list[Waiting] = []
    for one in sorted([*it.waiting, *again], key=lambda one: one.first_position):
        before = waiting[-1] if waiting else None
        if (
            before is not None
            and before.last_position + 1 == one.first_position
            and _are_alike(before, one)
        ):
            waiting[-1] = replace(before, last_position=one.last_position)
        else:
            waiting.append(one)
    return replace(it, waiting=tuple(waiting))


def _are_alike(one: Waiting, other: Waiting) -> bool:
    first, last = other.first_position, other.last_position
    return replace(one, first_position=first, last_position=last) == other


def _settled(it: Subscription) -> Subscription:
    """With the checkpoint before the first unfinished event, unless it is further already."""
    unfinished = [one.first_position for one in it.leases]
    unfinished += [one.first_position for one in it.waiting]
    through = min([*unfinished, it.frontier + 1]) - 1
    return replace(it, position=min(max(it.position, through), MAX_POSITION))
