"""Client addresses: what counts as one client."""

from __future__ import annotations

import ipaddress

from rawws.net.addresses import parse_ip


def client_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 /64, the smallest network that anybody is given."""
    address = parse_ip(host) if ":" in host else None
    if not isinstance(address, ipaddress.IPv6Address):
        return str(address or host)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
