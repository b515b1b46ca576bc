"""Admission of connections: limits on their number, in all and for each client, and the proxies that name clients."""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rawws import logs
from rawws.errors import Refusal, UsageError
from rawws.limits import check_names, check_number
from rawws.net.accept import Address
from rawws.net.addresses import parse_ip
from rawws.net.client_address import client_of
from rawws.wire.allowed_hosts import name_of
from rawws.wire.forwarded import SCHEMES, Forwarded
from rawws.wire.messages import Request
from rawws.wire.trace import FAULT, shorten

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RETRY_LATER = ((b"Retry-After", b"5"),)  # connections that end make space in a few seconds (a guess)


class Sender(NamedTuple):
    """The client that a request comes from, and the scheme that a proxy reports: ``http``, ``https``, or None."""

    address: Address
    scheme: str | None = None


class Admission:
    """Counts a server's connections, from accept to the end, as a whole and for each client (`client_of`).

    Where a connection comes from one of the ``trusted_proxies`` (addresses or networks such as ``10.0.0.0/8``), the
    client and the scheme are those of the proxy's ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or else its
    ``Forwarded``. Other clients' fields are ignored, since anyone may send them.
    """

    def __init__(
        self, max_connections: int | None, max_connections_per_ip: int | None, trusted_proxies: Sequence[str] = ()
    ) -> None:
        """Raises `UsageError` for a proxy that is neither an address nor a network, and for a limit below 1."""
        for keyword, most in (
            ("max_connections", max_connections),
            ("max_connections_per_ip", max_connections_per_ip),
        ):
            if most is not None:
                check_number(keyword, most, least=1)
        check_names("trusted_proxies", trusted_proxies)
        self._max_connections = max_connections
        self._max_per_ip = max_connections_per_ip
        self._trusted = [_network(proxy) for proxy in trusted_proxies]
        self._warned: set[str] = set()  # the kinds of proxies' mistakes that have been logged
        self._from: dict[int, str] = {}  # by the connection's number
        self._counts: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether there is no limit, so that connections need not be counted."""
        return self._max_connections is None and self._max_per_ip is None

    @property
    def uses_forwarded_for(self) -> bool:
        """Whether a request's fields may name its sender."""
        return bool(self._trusted)

    def enter(self, number: int, address: Address) -> Refusal | None:
        """Count a connection that was just accepted, or return why it is refused."""
        if self.is_open:
            return None
        if self._max_connections is not None and len(self._from) >= self._max_connections:
            sentence = f"The server has as many connections as it takes (--max-connections {self._max_connections})."
            return Refusal(503, "max_connections", sentence, _RETRY_LATER)
        host = address[0] if isinstance(address, tuple) else ""
        counted = "" if self._trusts(host) else client_of(host)
        if refusal := self._check(counted):
            return refusal
        self._from[number] = counted
        self._counts[counted] += 1
        return None

    def renumber(self, before: int, number: int) -> None:
        """Replace the number by which a connection is known."""
        if before in self._from:
            self._from[number] = self._from.pop(before)

    def leave(self, number: int) -> None:
        """Stop counting a connection, which has ended; no effect for one that isn't counted."""
        host = self._from.pop(number, None)
        if host is not None:
            self._counts[host] -= 1
            if not self._counts[host]:
                del self._counts[host]

    def find_sender(self, number: int, request: Request, address: Address) -> Sender | Refusal:
        """Return the sender of a request: the nearest address on its way that is not one of our proxies.

        Returns a refusal if that sender has too many connections.
        """
        # A Unix socket is a proxy's by nature, if proxies are trusted at all.
        if isinstance(address, tuple) and not self._trusts(address[0]):
            return Sender(address)
        forwarded = Forwarded.of(request.headers)
        if forwarded.is_ambiguous:
            fault = "sends both X-Forwarded-... and Forwarded, and Forwarded is ignored"
            advice = "have it remove the kind that it doesn't write"
            self._warn_once("ambiguous", number, address, f"{fault}; {advice}")
        client = address
        hops = 0  # written by trusted proxies
        for hop in reversed(forwarded.clients):
            hops += 1
            if not hop:
                break
            try:
                host = str(parse_ip(name_of(hop)))  # some proxies add a port
            except ValueError:
                fault = f"sends {shorten(hop)!r} in {forwarded.client_field}, which is not an IP address"
                advice = "such clients are counted as one; have it write addresses"
                self._warn_once("client", number, client, f"{fault}: {advice}")
                break  # an element that no proxy wrote isn't trusted, nor are those to its left
            client = (host, 0)
            if not self._trusts(host):
                break
        scheme = forwarded.scheme(hops or 1)
        if scheme is not None and scheme not in SCHEMES:
            fault = f"sends the scheme {shorten(scheme)!r} in {forwarded.scheme_field}, which is ignored"
            self._warn_once("scheme", number, address, f"{fault}; have it write http or https")
        if forwarded.clients and not self.is_open:
            counted = client_of(client[0]) if isinstance(client, tuple) else "a Unix socket"
            if self._from.get(number) != counted and (refusal := self._check(counted)):
                return refusal
            self.leave(number)
            self._from[number] = counted
            self._counts[counted] += 1
        return Sender(client, None if scheme is None else SCHEMES.get(scheme))

    def _warn_once(self, kind: str, number: int, proxy: Address, fault: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            who = proxy[0] if isinstance(proxy, tuple) else "on a Unix socket"
            logs.line(logs.server, logging.WARNING, number, FAULT, f"the proxy {who} {fault}")

    def _check(self, host: str) -> Refusal | None:
        if not host or self._max_per_ip is None or self._counts[host] < self._max_per_ip:
            return None
        sentence = f"There are as many connections from {host} as the server takes from one address "
        sentence += f"(--max-connections-per-ip {self._max_per_ip})."
        return Refusal(429, "max_connections_per_ip", sentence, _RETRY_LATER)

    def _trusts(self, host: str) -> bool:
        if not self._trusted or not host:
            return False
        address = parse_ip(host)
        return any(address in network for network in self._trusted)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(
            f"{text!r} in trusted_proxies is neither an address nor a network; give such as 127.0.0.1 or 10.0.0.0/8"
        ) from None
