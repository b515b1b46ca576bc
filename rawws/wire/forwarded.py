"""The header fields in which proxies report a request's client and scheme.

They are ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or ``Forwarded`` (RFC 7239). Anyone may send them, and most
proxies pass on a client's own. `rawws.server.admission` decides which hops to trust: each element was written by the
hop that the next one names, and the last by the connection's other end.

``X-Forwarded-Host`` and ``host=`` are ignored, as in uvicorn and gunicorn; a proxy can pass on ``Host`` itself. A proxy
that doesn't write them passes on a client's forgery, and applications mail links to that host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rawws.wire.messages import Headers

# RFC 7239 §4. A token can't contain a colon, but some proxies write ports without quotes.
_PAIR = re.compile(r'([-!#$%&\'*+.^_`|~0-9A-Za-z]+)=(?:([^"\s]+)|"((?:[^"\\]++|\\.)*+)")')
_ESCAPED = re.compile(r"\\(.)")

# The schemes that a proxy may report, each with the one that an HTTP application gets.
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Forwarded(NamedTuple):
    """The hops that a request's fields name, the nearest last."""

    clients: Sequence[str]  # unparsed, so some may be no addresses; empty for an element without ``for``
    schemes: Sequence[str | None]  # in lower case; their number may differ from that of the clients
    client_field: str
    scheme_field: str
    is_ambiguous: bool = False  # both kinds are there, so a client may have sent one of them

    @classmethod
    def of(cls, headers: Headers) -> Forwarded:
        """Read ``X-Forwarded-*`` if there are any, since most proxies write these, otherwise ``Forwarded``.

        A proxy that writes one kind has to remove the other; otherwise a client can choose which is read.
        """
        clients = _members(headers, "X-Forwarded-For")
        schemes = [scheme.lower() for scheme in _members(headers, "X-Forwarded-Proto")]
        if clients or schemes:
            return cls(clients, schemes, "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded" in headers)
        elements = [_parse(element) for element in headers.elements("Forwarded")]
        return cls([client for client, _ in elements], [scheme for _, scheme in elements], "Forwarded", "Forwarded")

    def scheme(self, hops: int) -> str | None:
        """Return the scheme that the farthest of the last ``hops`` hops reports, which may be invalid; None if there is
        none."""
        return next((scheme for scheme in self.schemes[-hops:] if scheme), None)


def _members(headers: Headers, name: str) -> list[str]:
    return [member for value in headers.get_all(name) for part in value.split(",") if (member := part.strip())]


def _parse(parts: Sequence[str]) -> tuple[str, str | None]:
    """Return an element's ``for`` and ``proto``; for one that violates RFC 7239 §4, the whole element and None."""
    pairs: dict[str, str] = {}
    for part in parts:
        pair = _PAIR.fullmatch(part)
        if pair is None or pair[1].lower() in pairs:
            return ";".join(parts), None
        pairs[pair[1].lower()] = pair[2] or _ESCAPED.sub(r"\1", pair[3])
    return pairs.get("for", ""), pairs.get("proto", "").lower() or None
