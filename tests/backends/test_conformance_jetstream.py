"""The JetStream engine passes the conformance suite, on a real server and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ebus.core.store import (
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsTrim,
    SupportsWatch,
    SupportsWireRead,
)
from ebus.testing import EngineConformance
from ebus.testing.consumers import Consumers
from ebus.testing.expectations import Expectations
from ebus.testing.ids import Identity
from ebus.testing.ordering import Ordering
from ebus.testing.streams import Streams
from ebus.testing.waiting import Waiting
from ebus.testing.watching import Watching
from tests import in_memory
from tests.backends.jetstream_place import JetStreamPlace, Peeking
from tests.nats import fixtures
from tests.nats.servers import NatsCluster, NatsServer

tmp_path_factory = in_memory.tmp_path_factory
nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server
nats_cluster = fixtures.nats_cluster

POWERS = frozenset(
    {
        SupportsWireRead,
        SupportsTrim,
        SupportsGaps,
        SupportsIdLookup,
        SupportsQuota,
        SupportsWatch,
    }
)


class TestJetStreamConformance(EngineConformance):
    powers = POWERS
    url: ClassVar[str]
    peeking: ClassVar[Peeking]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on_a_server(cls, nats_server: NatsServer) -> Iterator[None]:
        cls.url, cls.peeking = nats_server.url, Peeking(nats_server.url)
        yield
        cls.peeking.close()

    def new_place(self, directory: Path) -> JetStreamPlace:
        return JetStreamPlace(self.url, self.peeking)


class TestClusterConformance(
    Ordering, Identity, Streams, Expectations, Consumers, Waiting, Watching
):
    """What goes by the order of writes: of three replicas, two may be behind the one that leads."""

    powers = POWERS
    url: ClassVar[str]
    peeking: ClassVar[Peeking]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on_a_cluster(cls, nats_cluster: NatsCluster) -> Iterator[None]:
        cls.url = nats_cluster.url
        cls.peeking = Peeking(nats_cluster.url)
        yield
        cls.peeking.close()

    def new_place(self, directory: Path) -> JetStreamPlace:
        return JetStreamPlace(self.url, self.peeking, replicas=3)
