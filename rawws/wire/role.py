"""Client and server: the two sides of a WebSocket, which are not alike (RFC 6455 §5.1)."""

from __future__ import annotations

from enum import Enum

from wsproto.connection import ConnectionType


class Role(Enum):
    """One of the two sides of a connection. A client masks its frames, and a server doesn't (§5.3)."""

    CLIENT = ConnectionType.CLIENT
    SERVER = ConnectionType.SERVER

    @property
    def other(self) -> Role:
        """The role of the other end."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT

    @property
    def label(self) -> str:
        """``client`` or ``server``, as sentences and records have it."""
        return self.name.lower()
