"""Every limit of the server in one place: the unit is in its name, and the reason next to its default."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from rawws.errors import UsageError

KIB = 1024
MIB = 1024 * KIB

# A size that means no limit: more than any length on the wire, less than zlib's integers.
NO_LIMIT = 1 << 62

# How far a peer may lag in its room before it is closed with 1013 (a guess: with messages of 1 KiB
# it is 16,000 messages, and a thousand such peers still share one log).
MAX_LAG_BYTES = 16 * MIB

# The least limit of a store's file: it has to have space for a message of the default size, and for what is accepted
# before publishers wait.
LEAST_STORE_BYTES = 8 * MIB


def check_number(keyword: str, given: object, *, least: int = 0, whole: bool = True) -> None:
    """Raises `UsageError` for an invalid value of a keyword: not a number, too small, or NaN."""
    known: Any = numbers.Integral if whole else numbers.Real  # which NumPy's are too
    if not isinstance(given, known) or not given >= least:  # which NaN isn't
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{keyword} can't be {given!r}; give {kind} that is {least} or more")


def check_names(keyword: str, given: object) -> None:
    """Raises `UsageError` for a single text in place of a list, since its letters would be taken for the items."""
    if isinstance(given, str):
        raise UsageError(f"{keyword} can't be {given!r} alone; give a list, such as [{given!r}]")


def by_flag(**limits: float | None) -> dict[str, float]:
    """Return the limits that are set, by the flag of ``rawws serve``, which has the name of the keyword."""
    return {
        f"--{keyword.replace('_', '-')}": limit
        for keyword, limit in limits.items()
        if limit is not None and limit not in (NO_LIMIT, math.inf)
    }


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the cost of one peer; sizes are in bytes, times in seconds.

    For a time or a rate, 0 and infinity both mean that there is no limit, and are kept as infinity, so that code which
    reads a limit needs no case for 0. The exception is ``drain_s``, where 0 means not to wait.
    """

    # The HTTP phase. h11, Tomcat and IIS stop at 8 to 16 KiB, Node.js at 16 KiB since 2018.
    max_header_bytes: int = 16 * KIB
    # A browser sends about 15 fields, a chain of proxies adds a few. Apache's default is 100.
    max_headers: int = 100
    # RFC 9110 §4.1 recommends supporting at least 8,000 octets for a URI.
    max_target_bytes: int = 8 * KIB
    # A body that a handler gets as a whole, or that is discarded so that the connection can be kept.
    max_body_bytes: int = 64 * KIB
    # From the first awaited byte to the last one of the header block, however slowly they come. An application may
    # take as long again to decide about a handshake.
    header_timeout_s: float = 10.0
    # How long a connection may be idle between two requests (nginx: 75 s, Node.js: 5 s), or in a body that is streamed
    # to an application (nginx: 60 s).
    keep_alive_timeout_s: float = 75.0

    # The WebSocket phase. 1 MiB is also the default of Python's websockets and of trio-websocket.
    max_message_bytes: int = MIB
    # Messages per second that a peer may send into a room; more are read later.
    messages_per_s: float = math.inf
    # Load balancers and NAT boxes commonly forget a silent connection after 30 to 60 s.
    ping_interval_s: float = 20.0
    # The time for any byte after a ping, and for any progress of a peer that a room's publishers wait for.
    ping_timeout_s: float = 20.0
    # Messages that wait for a program before reading from the peer is paused. Python's websockets has 16 too.
    max_queue: float = 16
    # How long we wait for the peer's half of the closing handshake before the socket is closed anyway.
    close_timeout_s: float = 10.0
    # How long a WebSocket or an event stream may last.
    max_lifetime_s: float = math.inf
    # How long a stopping server waits for its peers.
    drain_s: float = 5.0

    def __post_init__(self) -> None:
        """Raises `UsageError` for an invalid limit, with the name of the keyword that sets it elsewhere."""
        for keyword, size in self._sizes().items():
            check_number(keyword, size, least=0 if keyword == "max_body" else 1)
        check_number("max_queue", self.max_queue, least=1, whole=False)
        for keyword, given in self._times().items():
            check_number(keyword, given, whole=False)
        for name in _NONE_AT_0:
            if not getattr(self, name):
                object.__setattr__(self, name, math.inf)

    def _sizes(self) -> dict[str, int]:
        """Return the limits in whole numbers, by the keyword that sets each."""
        return {
            "max_head": self.max_header_bytes,
            "max_headers": self.max_headers,
            "max_target": self.max_target_bytes,
            "max_body": self.max_body_bytes,
            "max_size": self.max_message_bytes,
        }

    def _times(self) -> dict[str, float]:
        """Return the times and rates, by the keyword that sets each."""
        return {
            "open_timeout": self.header_timeout_s,
            "keep_alive": self.keep_alive_timeout_s,
            "rate": self.messages_per_s,
            "ping_interval": self.ping_interval_s,
            "ping_timeout": self.ping_timeout_s,
            "close_timeout": self.close_timeout_s,
            "max_lifetime": self.max_lifetime_s,
            "drain": self.drain_s,
        }

    def by_flag(self) -> dict[str, float]:
        """Return the limits that are set, by the flag of ``rawws serve`` that sets each."""
        given: dict[str, float | None] = {**self._sizes(), **self._times(), "drain": self.drain_s or None}
        del given["max_body"]  # no flag sets it
        return by_flag(**given)


_NONE_AT_0 = (
    "header_timeout_s",
    "keep_alive_timeout_s",
    "messages_per_s",
    "ping_interval_s",
    "ping_timeout_s",
    "close_timeout_s",
    "max_lifetime_s",
)
