"""The types of ASGI, and the versions that are spoken here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# From 2.4 on, sending to a client that has gone raises OSError, and frameworks rely on it: Starlette (0.42 on) then
# leaves ``receive`` to the application while it streams, whose upload would else lose pieces to Starlette's watch.
HTTP_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
LIFESPAN_VERSIONS = {"version": "3.0", "spec_version": "2.0"}


class ClientDisconnected(ConnectionError):
    """The client has gone: `send` raises this in the application (HTTP part, "Disconnected Client")."""
