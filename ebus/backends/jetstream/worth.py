"""What an acknowledgement of the cluster is worth: by replicas, storage and how it syncs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import msgspec

from ebus.backends.jetstream.address import Options
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import HEADER_BYTES
from ebus.backends.jetstream.stream import StreamInfo, call
from ebus.backends.jetstream.syncs import Syncs, ask_syncs
from ebus.core.engine import Acknowledgement, Durability
from ebus.core.errors import StoreRefused, StoreUnavailable
from ebus.core.limits import Limits

logger = logging.getLogger("ebus.engine")

ASK_AGAIN_S = 30.0
"""How old what is known may be where a start or a health check depends on it."""


class Kept(msgspec.Struct, frozen=True):
    """How the tenants are kept that there are."""

    few: int = 0
    """Tenants with fewer replicas than are asked for."""

    in_memory: int = 0


class Found(msgspec.Struct, frozen=True):
    """What the cluster has said of itself."""

    syncs: Syncs | None = None
    """None where nobody could be asked."""

    kept: Kept = Kept()
    max_payload: int = 0


class Worth:
    """Asked of the cluster, and known for a while. From any thread."""

    def __init__(self, link: Link, options: Options, limits: Limits) -> None:
        self._link = link
        self._options = options
        self._limits = limits
        self._lock = threading.Lock()
        self._found: Found | None = None
        self._found_s = 0.0

    def acknowledgement(self, durability: Durability) -> Acknowledgement:
        """Asks anew. Raises `StoreUnavailable`."""
        with self._lock:
            found = self._ask()
        return acknowledgement(self._options, self._limits, durability, found)

    def require_durable(self) -> None:
        """Raise `StoreUnavailable` unless it is known that a power cut takes nothing."""
        with self._lock:
            found = self._found
            if found is None or time.monotonic() - self._found_s > ASK_AGAIN_S:
                found = self._ask()
        wrong = list(_shortfalls(self._options, "full", found))
        if wrong:
            named = self._options.named()
            raise StoreUnavailable(f"{named}: require_durable is true, but {'; '.join(wrong)}")

    def _ask(self) -> Found:
        options = self._options
        self._link.check()
        syncs = None
        if options.system_user or options.system_credentials:
            try:
                syncs = ask_syncs(options, self._link.cluster)
            except (StoreUnavailable, StoreRefused) as error:
                logger.warning("how the servers sync could not be asked: %s", error)
        self._found = Found(syncs, _kept(self._link, options), self._link.max_payload)
        self._found_s = time.monotonic()
        return self._found


class _Listed(msgspec.Struct, frozen=True):
    streams: list[StreamInfo] | None = None
    total: int = 0


_decode_listed = msgspec.json.Decoder(_Listed).decode


def _kept(link: Link, options: Options) -> Kept:
    """Asked for the logs of all tenants, some hundred at a time."""
    few = in_memory = seen = 0
    while True:
        request = {"subject": f"{options.prefix}.*.*.*", "offset": seen}
        listed = _decode_listed(call(link, "STREAM.LIST", request))
        for stream in listed.streams or ():
            few += stream.config.num_replicas < options.replicas
            in_memory += stream.config.storage == "memory"
        seen += len(listed.streams or ())
        if not listed.streams or seen >= listed.total:
            return Kept(few, in_memory)


def acknowledgement(
    options: Options, limits: Limits, durability: Durability, found: Found
) -> Acknowledgement:
    """What it is worth in words. They name settings, and no machine."""
    warnings = [*_shortfalls(options, durability, found), *_about_tenants(options, found.kept)]
    needed = limits.max_event_bytes + limits.max_metadata_bytes + HEADER_BYTES
    if found.max_payload < needed:
        warnings.append(
            f"max_payload of the servers is {found.max_payload} bytes, and events may have"
            f" {limits.max_event_bytes} (limits.max_event_bytes): the largest ones are refused"
        )
    return Acknowledgement(_worth(options, found), _is_durable(options, found), tuple(warnings))


def _is_durable(options: Options, found: Found) -> bool | None:
    syncs = found.syncs
    if options.storage == "memory" or found.kept.in_memory:
        return False
    if syncs is not None and syncs.lazy:
        return False
    return True if syncs is not None and syncs.is_known else None


def _worth(options: Options, found: Found) -> str:
    replicas, syncs = options.replicas, found.syncs
    least = replicas // 2 + 1
    where = "one server" if replicas == 1 else f"at least {least} of {replicas} servers"
    if options.storage == "memory":
        return f"in the memory of {where}: what is stored ends with them"
    lost = "the loss of that server" if replicas == 1 else "the loss of more than half of them"
    if _is_durable(options, found):
        return f"synced to the disk of {where} before the answer: survives a power cut, not {lost}"
    survives = "the end of its process" if replicas == 1 else f"the loss of {replicas - least}"
    if syncs is None or not syncs.lazy:
        return (
            f"with {where}: survives {survives}; whether it is on disk by then, and survives a"
            " power cut, is not known"
        )
    cut = "a power cut" if replicas == 1 else "a power cut of all at once"
    return f"with {where}, synced to disk within {_span(syncs)}: survives {survives}, not {cut}"


def _shortfalls(options: Options, durability: Durability, found: Found) -> Iterator[str]:
    """What is less than was asked for, for every tenant."""
    syncs = found.syncs
    if syncs is not None and syncs.told and syncs.servers < options.replicas:
        yield (
            f"replicas is {options.replicas}, and the cluster has {syncs.servers}"
            f" server{'s' if syncs.servers > 1 else ''}: no tenant can be made"
        )
    if options.storage == "memory":
        yield "storage is memory: what is stored ends with the servers"
    elif durability == "full":
        yield from _unsynced(options, syncs)


def _unsynced(options: Options, syncs: Syncs | None) -> Iterator[str]:
    if syncs is None and not (options.system_user or options.system_credentials):
        yield (
            "system.user is not set: nobody else can ask whether the servers sync before they"
            " answer, as durability full has it"
        )
    elif syncs is None:
        yield "system.user: the servers could not be asked whether they sync before they answer"
    elif syncs.lazy:
        some = "" if syncs.lazy == syncs.told else f" of {syncs.lazy} of {syncs.told} servers"
        of_all = "" if options.replicas == 1 else " of all at once"
        yield (
            f"sync_interval{some} is {_span(syncs)}, and durability full: a power cut{of_all}"
            " takes what came since the last sync; set sync_interval: always in their config"
        )
    elif not syncs.is_known:
        yield (
            f"sync_interval is known of {syncs.told} of {syncs.servers} servers only: the others"
            " have not answered"
        )


def _about_tenants(options: Options, kept: Kept) -> Iterator[str]:
    if kept.few:
        yield (
            f"replicas is {options.replicas}, and {_tenants(kept.few)} kept by fewer servers than"
            " that; the log names each when it is opened"
        )
    if kept.in_memory and options.storage != "memory":
        yield f"storage is file, and {_tenants(kept.in_memory)} kept in memory"


def _tenants(count: int) -> str:
    return "one tenant is" if count == 1 else f"{count} tenants are"


def _span(syncs: Syncs) -> str:
    minutes, seconds = divmod(syncs.interval_s, 60)
    return f"{minutes:g}m" if minutes and not seconds else f"{syncs.interval_s:g}s"
