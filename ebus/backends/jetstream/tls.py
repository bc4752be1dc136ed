"""TLS to the servers of a cluster."""

from __future__ import annotations

import ssl

from ebus.backends.jetstream.address import Options
from ebus.core.errors import StoreUnavailable


def tls_context(options: Options) -> ssl.SSLContext:
    """What is trusted, and who we say we are. Raises `StoreUnavailable` for a file that is none."""
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StoreUnavailable(f"tls_ca, tls_cert or tls_key cannot be used: {error}") from None
    return context
