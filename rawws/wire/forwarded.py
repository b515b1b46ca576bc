"""The fields in which proxies tell whose a request is, and by which scheme it came to them.

They are ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or ``Forwarded`` (RFC 7239). Anyone may send them, and most
proxies pass on what a client has sent. ``gate.py`` decides whom to believe: each element was written by the hop that
the next one names, and the last by the connection's other end.

``X-Forwarded-Host`` and ``host=`` aren't read, nor are they by uvicorn and gunicorn. A proxy can pass ``Host`` itself
on. A proxy that writes neither would pass on whatever a client has made up, and applications mail links to that host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rawws.wire.messages import Headers

# RFC 7239 §4. A colon outside of quotes is no character of a token, but some proxies write ports so.
_PAIR = re.compile(r'([-!#$%&\'*+.^_`|~0-9A-Za-z]+)=(?:([^"\s]+)|"((?:[^"\\]++|\\.)*+)")')
_ESCAPED = re.compile(r"\\(.)")

# The schemes by which a request may come, each with the one that an HTTP application is told.
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Forwarded(NamedTuple):
    """The hops that a request's fields name, the nearest last."""

    clients: Sequence[str]  # as they stand there; not all are addresses, and an empty one wasn't named
    schemes: Sequence[str | None]  # in lower case; as many as there are clients, or fewer, or more
    client_field: str
    scheme_field: str
    is_ambiguous: bool = False  # X-Forwarded-* and Forwarded are both there, so that a client may have sent one of them

    @classmethod
    def of(cls, headers: Headers) -> Forwarded:
        """Read ``X-Forwarded-*`` if there are any, since most proxies write these, and else ``Forwarded``.

        A proxy that writes either must have the other one removed, or else a client can choose which is read.
        """
        clients = _members(headers, "X-Forwarded-For")
        schemes = [scheme.lower() for scheme in _members(headers, "X-Forwarded-Proto")]
        if clients or schemes:
            return cls(clients, schemes, "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded" in headers)
        elements = [_parse(element) for element in headers.elements("Forwarded")]
        return cls([client for client, _ in elements], [scheme for _, scheme in elements], "Forwarded", "Forwarded")

    def scheme(self, hops: int) -> str | None:
        """Return the scheme that the farthest of the last so many hops tells, and that may not be one; None if none."""
        return next((scheme for scheme in self.schemes[-hops:] if scheme), None)


def _members(headers: Headers, name: str) -> list[str]:
    return [member for value in headers.get_all(name) for part in value.split(",") if (member := part.strip())]


def _parse(parts: Sequence[str]) -> tuple[str, str | None]:
    """Return an element's ``for`` and ``proto``; of one that isn't as RFC 7239 §4 has it, all of it and no scheme."""
    pairs: dict[str, str] = {}
    for part in parts:
        pair = _PAIR.fullmatch(part)
        if pair is None or pair[1].lower() in pairs:
            return ";".join(parts), None
        pairs[pair[1].lower()] = pair[2] or _ESCAPED.sub(r"\1", pair[3])
    return pairs.get("for", ""), pairs.get("proto", "").lower() or None
