"""The engine that keeps each tenant in a stream of a NATS JetStream cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from ebus.backends.jetstream.address import NatsSettings, Options, parse
from ebus.backends.jetstream.faults import NoStream
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.messages import MAX_BATCH_MESSAGES
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.rules import (
    check_owner,
    check_settings,
    metadata_of,
    subjects_of,
    weaknesses,
)
from ebus.backends.jetstream.store import JetStreamStore
from ebus.backends.jetstream.stream import Stream, StreamInfo, call
from ebus.backends.jetstream.worth import Worth
from ebus.backends.jetstream.writing import gone
from ebus.core.engine import (
    Acknowledgement,
    Durability,
    Engine,
    SupportsAbsent,
    SupportsAcknowledgement,
    SupportsHealth,
    SupportsInspect,
)
from ebus.core.errors import (
    InvalidTenantName,
    StoreClosed,
    StoreError,
    StoreRefused,
)
from ebus.core.limits import Limits
from ebus.core.observing import Sizes, SupportsSizes
from ebus.core.tenant import TenantName

logger = logging.getLogger("ebus.engine")


class _Listed(msgspec.Struct, frozen=True):
    streams: list[str] | None = None
    total: int = 0


_decode_listed = msgspec.json.Decoder(_Listed).decode


class JetStreamEngine(
    Engine,
    SupportsHealth,
    SupportsInspect,
    SupportsAbsent,
    SupportsAcknowledgement,
    SupportsSizes,
):
    """Tenants in a cluster, each in a stream and a bucket of its own."""

    def __init__(self, options: Options, *, durability: Durability, limits: Limits) -> None:
        self._options = options
        self._durability = durability
        self._limits = replace(
            limits, max_batch_events=min(limits.max_batch_events, MAX_BATCH_MESSAGES)
        )
        self._link = Link(options)
        self._worth = Worth(self._link, options, self._limits)
        self._stores: dict[TenantName, JetStreamStore] = {}
        self._lock = threading.Lock()
        self._opening: dict[TenantName, threading.Lock] = {}
        """So that nobody waits for another tenant's stream."""
        self._closed = False

    def open(self, name: str, *, durability: Durability | None = None) -> JetStreamStore:
        tenant = self._name(name)
        with self._by_itself(tenant):
            store = self._stores.get(tenant)
            if store is None or store.closed:
                store = self._open(tenant)
                with self._lock:
                    if self._closed:
                        store.close()
                    self._check_open()
                    self._stores[tenant] = store
            return store

    @contextmanager
    def _by_itself(self, tenant: TenantName) -> Iterator[None]:
        """One thread at a time opens or drops a tenant."""
        with self._lock:
            self._check_open()
            opening = self._opening.setdefault(tenant, threading.Lock())
        with opening:
            yield

    def _open(self, tenant: TenantName) -> JetStreamStore:
        names = Names(self._options.prefix, tenant)
        # The bucket first: where there is a log, there is all of it.
        info, bucket_info = self._info(names.log), self._info(names.bucket)
        for found in (info, bucket_info):
            if found is not None:
                self._check_stream(found, names)
        if bucket_info is None:
            if info is not None:
                raise gone(names)
            self._check_stream(self._make(names.bucket, names), names)
        if info is None:
            try:
                info = self._make(names.log, names)
            except (StoreError, StoreRefused):
                if bucket_info is None:
                    self._withdraw(names.bucket, names)
                raise
            self._check_stream(info, names)
        has_replicas = info.config.num_replicas > 1
        log = Stream(self._link, names.log, has_replicas=has_replicas)
        bucket = Stream(self._link, names.bucket, has_replicas=has_replicas)
        return JetStreamStore(self._link, names, log, bucket, info.created, self._limits)

    def tenants(self) -> list[TenantName]:
        with self._lock:
            self._check_open()
        prefix = self._options.prefix
        found: list[str] = []
        while True:
            request = {"subject": f"{prefix}.*.*.*", "offset": len(found)}
            listed = _decode_listed(call(self._link, "STREAM.NAMES", request))
            found += listed.streams or []
            if not listed.streams or len(found) >= listed.total:
                break
        names = []
        for stream in found:
            with suppress(InvalidTenantName):  # then it is somebody else's
                if stream.startswith(f"{prefix}-"):
                    names.append(self._name(stream.removeprefix(f"{prefix}-")))
        return sorted(names)

    def drop(self, name: str) -> None:
        tenant = self._name(name)
        names = Names(self._options.prefix, tenant)
        with self._by_itself(tenant):
            store = self._stores.pop(tenant, None)
            if store is not None:
                store.close()
            for stream in (names.log, names.bucket):
                info = self._info(stream)
                if info is not None:
                    check_owner(info.config, tenant)
                    try:
                        call(self._link, f"STREAM.DELETE.{stream}")
                    except NoStream:
                        continue

    def check_health(self) -> None:
        self._link.check()
        call(self._link, "INFO")
        if self._options.require_durable:
            self._worth.require_durable()

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        return self._worth.acknowledgement(durability or self._durability)

    def inspect(self, name: str) -> str:
        tenant = self._name(name)
        names = Names(self._options.prefix, tenant)
        info = self._info(names.log)
        if info is None:
            return "new"
        self._check_stream(info, names)
        return "ready"

    def absent(self, names: Iterable[TenantName]) -> Set[TenantName]:
        try:
            return frozenset(names) - frozenset(self.tenants())
        except StoreError:  # whoever asks for one of them is told
            return frozenset()

    def sizes(self, name: str) -> Sizes | None:
        names = Names(self._options.prefix, self._name(name))
        found = [self._info(it) for it in (names.log, names.bucket)]
        if found[0] is None:
            return None
        return Sizes(sum(it.state.bytes for it in found if it is not None), 0)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            stores = list(self._stores.values())
            self._stores.clear()
        for store in stores:
            store.close()
        self._link.close()

    def _name(self, name: str) -> TenantName:
        return TenantName(name, max_chars=self._limits.max_tenant_name_chars)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("the engine is closed")

    def _info(self, stream: str) -> StreamInfo | None:
        try:
            return Stream(self._link, stream, has_replicas=False).info()
        except NoStream:
            return None

    def _make(self, stream: str, names: Names) -> StreamInfo:
        """Make a stream, or find that another server has just made it."""
        is_log = stream == names.log
        config: dict[str, Any] = {
            "name": stream,
            "subjects": subjects_of(names, stream),
            "storage": self._options.storage,
            "num_replicas": self._options.replicas,
            "retention": "limits",
            "discard": "new",
            "max_msgs_per_subject": -1 if is_log else 1,
            "deny_delete": not is_log,
            "allow_direct": True,
            "allow_atomic": True,
            "allow_rollup_hdrs": not is_log,
            "metadata": metadata_of(names.tenant),
        }
        refused = None
        try:
            call(self._link, f"STREAM.CREATE.{stream}", config)
        except StoreRefused as error:  # another server may have made it, if only in another way
            refused = error
        info = self._info(stream)
        if info is None and refused is not None:
            raise refused
        if info is None:
            raise StoreRefused(f"the stream {stream} was made, and deleted at once")
        return info

    def _withdraw(self, stream: str, names: Names) -> None:
        """Take a bucket away that was made for a log which then could not be."""
        try:
            info = self._info(stream)
            if info is not None and not info.state.last_seq and self._info(names.log) is None:
                call(self._link, f"STREAM.DELETE.{stream}")
        except (StoreError, NoStream) as error:
            logger.warning("the empty stream %s is left behind: %s", stream, error)

    def _check_stream(self, info: StreamInfo, names: Names) -> None:
        """Refuse a stream that is not ours, that would lose what is stored, or keeps it too ill."""
        config = info.config
        check_owner(config, names.tenant)
        check_settings(config, names)
        weak = weaknesses(config, self._options)
        if weak and self._options.require_durable:
            raise StoreRefused(
                f"require_durable is true, but of the stream {config.name} {', '.join(weak)}"
            )
        if weak:
            logger.warning("of the stream %s %s", config.name, ", ".join(weak))


class _Factory(NatsSettings):
    """The `EngineFactory` of `nats:` or of `tls:`."""

    def __init__(self, *, secure: bool) -> None:
        super().__init__(secure=secure)
        self._is_secure = secure

    def __call__(self, location: str, *, durability: Durability, limits: Limits) -> JetStreamEngine:
        options = parse(location, secure=self._is_secure)
        return JetStreamEngine(options, durability=durability, limits=limits)


open_nats = _Factory(secure=False)
open_tls = _Factory(secure=True)
