"""The names that a request may give its server: a defence against DNS rebinding.

A web page may have its own name point to this machine after the browser has loaded it. The page's requests to that name
then come here. For the browser this is the page's own site, so that neither the Origin nor CORS stops the requests. But
the name is in the request's Host, and a server on loopback has the name of a web site only by its operator's choice.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable
from functools import lru_cache

from rawws.errors import Refusal, UsageError
from rawws.wire.messages import Request
from rawws.wire.trace import MAX_NAME_CHARACTERS, shorten

# Most requests name the same few hosts. A name in DNS isn't longer (RFC 1035 §2.3.4), apart from its port.
_MOST_CHARACTERS = 261


class Hosts:
    """The names of a server, besides its addresses and ``localhost``."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """``*`` stands for any name. Raises `UsageError` for an invalid name."""
        self._names = frozenset(_checked(name) for name in names)

    def __repr__(self) -> str:
        return f"<Hosts {', '.join(sorted(self._names)) or 'of this machine'}>"

    def allow(self, host: str) -> bool:
        """Say whether a ``Host`` is allowed, in any case, with or without a port."""
        return is_local_name(host) or "*" in self._names or name_of(host) in self._names

    def refuse(self, request: Request) -> Refusal | None:
        """Return a refusal for a request that was not meant for this server; None for others (RFC 9110 §7.4)."""
        host = request.authority
        if self.allow(host) or not (host or "Host" in request.headers):  # none is HTTP/1.0, which no browser speaks
            return None
        name = name_of(host)
        message = f"This server is not called {shorten(name)}."
        return Refusal(421, "host_unknown", message, hint=_advise(name))


def is_local_name(host: str) -> bool:
    """Say whether a ``Host`` is an address or ``localhost``, which no DNS server controls (RFC 6761 §6.3)."""
    return _is_known_local(host) if len(host) <= _MOST_CHARACTERS else _is_local(name_of(host))


@lru_cache(maxsize=16)
def _is_known_local(host: str) -> bool:
    return _is_local(name_of(host))


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def name_of(host: str) -> str:
    """Return a ``Host`` in lower case, without its port, an IPv6 address's brackets, and the dot of a full name."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".") if name.count(":") == 1 else name.removesuffix(".")


def _advise(name: str) -> str:
    """Return advice on how to allow a name, if it can be a flag's value; the client may have sent any name."""
    try:
        _checked(name)
    except UsageError:
        return ""
    if name.startswith(("*", "-")):  # as a value, * means any name, and - begins a flag
        return ""
    return f"if it is, start it with --allow-host {shlex.quote(name)}"


def _checked(name: str) -> str:
    plain = name_of(name)
    odd = not plain or len(plain) > MAX_NAME_CHARACTERS or "/" in name or " " in name
    if odd or (":" in name and not name.startswith("[")):
        raise UsageError(f"{name!r} is no host's name; give one such as chat.example, without a scheme or a port")
    return plain
