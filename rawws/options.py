"""The keywords that several public functions share: each default, and what a value means as a limit, in one place.

`serve`, `attach`, `connect` and the helpers of `rawws.testing` write their keywords out, so that ``help()`` and editors
show them. They take the defaults from here, and pass the values on as one object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rawws.errors import UsageError
from rawws.limits import NO_LIMIT, Limits, by_flag, check_number

_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Options of any connection, of a server or a client.

    Times are in seconds, sizes in bytes. None is no limit; of a time, 0 is none too.
    """

    compression: str | None = "deflate"  # permessage-deflate, where the peer agrees to it; None for none
    open_timeout: float | None = _LIMITS.header_timeout_s
    ping_interval: float | None = _LIMITS.ping_interval_s
    ping_timeout: float | None = _LIMITS.ping_timeout_s
    close_timeout: float | None = _LIMITS.close_timeout_s
    max_size: int | None = _LIMITS.max_message_bytes
    max_queue: int | None = int(_LIMITS.max_queue)
    fast_lane: bool = True  # False reads and writes each head through h11, and each frame through wsproto

    def __post_init__(self) -> None:
        """Raises `UsageError` for a compression that does not exist."""
        if self.compression not in ("deflate", None):
            raise UsageError(f"there is no compression {self.compression!r}; give 'deflate', or None for none")

    def to_limits(self) -> Limits:
        """Return the limits of a connection with these options. Raises `UsageError` for a value that is no limit."""
        return Limits(
            max_message_bytes=NO_LIMIT if self.max_size is None else self.max_size,
            max_queue=NO_LIMIT if self.max_queue is None else self.max_queue,
            header_timeout_s=self.open_timeout or 0.0,
            ping_interval_s=self.ping_interval or 0.0,
            ping_timeout_s=self.ping_timeout or 0.0,
            close_timeout_s=self.close_timeout or 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """Options of a server besides those of its connections: limits on requests, on peers in rooms, and in all."""

    rate: float | None = None
    max_connections: int | None = None
    max_connections_per_ip: int | None = None
    max_memory: int | None = None
    max_head: int = _LIMITS.max_header_bytes
    max_headers: int = _LIMITS.max_headers
    max_target: int = _LIMITS.max_target_bytes
    max_body: int = _LIMITS.max_body_bytes
    keep_alive: float | None = _LIMITS.keep_alive_timeout_s
    max_lifetime: float | None = None
    drain: float | None = _LIMITS.drain_s

    def __post_init__(self) -> None:
        """Raises `UsageError` for a compression that does not exist, and for a memory that is no limit."""
        ConnectionOptions.__post_init__(self)
        if self.max_memory is not None:
            check_number("max_memory", self.max_memory, least=1)

    def to_limits(self) -> Limits:
        """Return the limits of each connection. Raises `UsageError` for a value that is no limit."""
        return replace(
            ConnectionOptions.to_limits(self),
            max_header_bytes=self.max_head,
            max_headers=self.max_headers,
            max_target_bytes=self.max_target,
            max_body_bytes=self.max_body,
            keep_alive_timeout_s=self.keep_alive or 0.0,
            messages_per_s=self.rate or 0.0,
            max_lifetime_s=self.max_lifetime or 0.0,
            drain_s=NO_LIMIT if self.drain is None else self.drain,
        )

    def limits_by_flag(self) -> dict[str, float]:
        """Return the limits that are set, by the flag of ``rawws serve`` that sets each."""
        return self.to_limits().by_flag() | by_flag(
            max_connections=self.max_connections,
            max_connections_per_ip=self.max_connections_per_ip,
            max_memory=self.max_memory,
        )


# The defaults as values, for signatures.
CONNECTION = ConnectionOptions()
SERVER = ServerOptions()
