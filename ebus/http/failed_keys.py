"""What keys that open nothing are answered."""

from __future__ import annotations

import logging
import math
from hashlib import sha256

from ebus.config import Config, Rate
from ebus.http.credentials import Address, Headers, Peer, client_address, unauthorized
from ebus.http.problems import Problem
from ebus.http.rate import Buckets

logger = logging.getLogger("ebus.http")


FAILED_KEY_BUCKETS = 65_536
"""Client addresses share so many; two that share one only share what is refused them anyway."""


class FailedKeys:
    """Answers to keys that open nothing: 401, and 429 to an address that tries too many."""

    def __init__(self, config: Config, buckets: Buckets) -> None:
        per_minute = config.limits.max_failed_keys_per_minute
        self._rate = Rate(per_minute / 60, per_minute)
        self._buckets = buckets
        self.trust(config)

    def trust(self, config: Config) -> None:
        """Believe the proxies that this config names."""
        self._trusted = config.trusted_proxies

    def problem(self, peer: Peer, headers: Headers, problem: Problem | None = None) -> Problem:
        """Of one more such key: this one, or else that it is none."""
        address = client_address(peer, headers, self._trusted)
        wait_s = self._buckets.take(_bucket_of(address), self._rate)
        if not wait_s:
            return problem or unauthorized("key_invalid", "Invalid API key")
        return Problem(
            429,
            "too_many_failed_keys",
            "Too many invalid API keys came from this address; valid ones are still accepted",
            {"Retry-After": str(math.ceil(wait_s))},
        )


def _bucket_of(address: Address | None) -> int:
    """The same for all of a /64, which is what one customer of a provider has."""
    if address is None:
        return 0
    network = address.packed[:8]
    return int.from_bytes(sha256(network).digest()[:4]) % FAILED_KEY_BUCKETS
