"""Client and server: the two sides of a WebSocket, which are not alike (RFC 6455 §5.1)."""

from __future__ import annotations

from enum import Enum

from wsproto.connection import ConnectionType


class Role(Enum):
    CLIENT = ConnectionType.CLIENT
    SERVER = ConnectionType.SERVER

    @property
    def other(self) -> Role:
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT

    @property
    def label(self) -> str:
        """``client`` or ``server``, as sentences and records have it."""
        return self.name.lower()
