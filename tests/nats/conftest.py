"""The servers that tests of this package share."""

from __future__ import annotations

from itertools import count

import pytest

from tests.nats import fixtures

nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server
nats_cluster = fixtures.nats_cluster
divided_cluster = fixtures.divided_cluster

_numbers = count(1)


@pytest.fixture
def prefix() -> str:
    """One that no other test has used."""
    return f"p{next(_numbers)}"
