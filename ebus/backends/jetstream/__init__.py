"""The engine that keeps each tenant in a stream of a NATS JetStream cluster.

It needs the official client: `pip install 'ebus[jetstream]'`.
"""

from ebus.backends.jetstream.engine import JetStreamEngine, open_nats, open_tls

__all__ = ["JetStreamEngine", "open_nats", "open_tls"]
