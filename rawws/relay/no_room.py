"""The room of a peer that may not write: in place of its own room, the peer publishes to this one, which is read-only.

So a reader costs nothing while it only reads, and nothing is asked about each message of a peer that may write.
"""

from __future__ import annotations

from typing import Any

from rawws.relay.gates import ReadOnly
from rawws.relay.room_base import RoomBase
from rawws.relay.room_state import RoomState
from rawws.relay.settings import RoomSettings


class _NoRegistry:
    """Keeps nothing: the room never has a member or a message."""

    def add(self, room: RoomBase[Any]) -> None:
        raise AssertionError("nobody joins it")

    keep = discard = add


NO_ROOM: RoomState = RoomBase(
    "", RoomSettings(), _NoRegistry(), gate=ReadOnly("this client may not write in this room")
)
