"""Addresses and networks of proxies, as people write them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from ebus.config.mistakes import Wrong


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """`10.0.0.0/8`, or one address: `127.0.0.1`, `::1`. Raises `Wrong`."""
    try:
        return ip_network(text)
    except ValueError:
        raise Wrong("is no address of a proxy or of a network of proxies") from None


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Several of them, with commas between. Raises `Wrong`."""
    return tuple(parse_network(part.strip()) for part in text.split(","))
