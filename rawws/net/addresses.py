"""Addresses of sockets and processes: parsing them, and writing them for people."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any


def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address without its zone. An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) becomes IPv4.

    Raises ValueError for any other text.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def plain_address(address: tuple[Any, ...]) -> tuple[str, int]:
    """Return host and port of a socket address; an IPv4-mapped host becomes IPv4."""
    host, port, *_ = address
    return (str(parse_ip(host)) if host.startswith("::ffff:") else host), port


def name_this_process() -> str:
    """Return ``machine:process``, by which operators know this process among others. It has no slash."""
    return f"{socket.gethostname().replace('/', '-') or 'localhost'}:{os.getpid()}"


def format_address(address: object) -> str:
    """Return a socket address as ``host:port``, an IPv6 host in brackets, or as a Unix socket's path."""
    if isinstance(address, tuple):
        host, port = plain_address(address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):  # of Linux's abstract namespace, written as ss and systemd do
        return "@" + address.removeprefix(b"\0").decode(errors="backslashreplace")
    if isinstance(address, str) and address:  # its bytes need not be UTF-8, and then JSON can't hold them as they are
        return address.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "a Unix socket"
