"""Doors: the ways into a room, and the access that each of them needs.

An application's ``authenticate`` gets that access as ``Request.action`` before the client is admitted. `access_through`
alone decides it; `rawws.hub.hub.Hub.access` applies it to a room of that hub.
"""

from __future__ import annotations

import enum
from typing import assert_never


class Access(enum.Flag):
    """The rights of a client in a room."""

    READ = enum.auto()
    WRITE = enum.auto()

    @property
    def words(self) -> str:
        """The access as the ``action`` of a request: ``read``, ``write``, or ``read write``."""
        return " ".join(access.name.lower() for access in Access if access in self and access.name is not None)


class Door(enum.Enum):
    """A way into a room."""

    WEBSOCKET = "websocket"  # with or without ids, from the newest message on or resumed
    EVENTS = "events"  # Server-Sent Events
    POLL = "poll"  # answered at once, or as soon as there is a message
    PEERS = "peers"  # the number of members
    POST = "post"


def access_through(door: Door, *, relays: bool) -> Access:
    """Return the access that a door needs; ``relays`` says whether the room publishes what its WebSockets send."""
    match door:
        case Door.POST:  # a POST may publish even in a room that is read-only for its members
            return Access.WRITE
        case Door.WEBSOCKET if relays:
            return Access.READ | Access.WRITE
        case Door.WEBSOCKET | Door.EVENTS | Door.POLL | Door.PEERS:
            return Access.READ
        case _:
            assert_never(door)
