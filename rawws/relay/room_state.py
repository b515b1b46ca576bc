"""The room whose members are peers. The loop, the backplane and all layers above them use it.

A program holds a `rawws.hub.room.Room`, which is above the loop.
"""

from __future__ import annotations

from rawws.relay.peer import Peer
from rawws.relay.room_base import RoomBase

RoomState = RoomBase[Peer]
