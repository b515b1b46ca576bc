"""Doors: the ways into a room, and the action that each of them is for.

An application's ``authenticate`` gets it as ``Request.action`` before the client is admitted, and a grant is compared
with it. `action_through` alone decides it; `rawws.hub.hub.Hub.action` applies it to a room of that hub.
"""

from __future__ import annotations

import enum
from typing import assert_never

from rawws.access.grant import Action


class Door(enum.Enum):
    """A way into a room."""

    WEBSOCKET = "websocket"  # with or without ids, from the newest message on or resumed
    EVENTS = "events"  # Server-Sent Events
    POLL = "poll"  # answered at once, or as soon as there is a message
    PEERS = "peers"  # the number of members
    POST = "post"


def action_through(door: Door, *, relays: bool) -> Action:
    """Return the action that a door is for; ``relays`` says whether the room publishes what its WebSockets send."""
    match door:
        case Door.POST:  # a POST may publish even in a room that is read-only for its members
            return Action.WRITE
        case Door.WEBSOCKET if relays:
            return Action.READ | Action.WRITE
        case Door.WEBSOCKET | Door.EVENTS | Door.POLL | Door.PEERS:
            return Action.READ
        case _:
            assert_never(door)
