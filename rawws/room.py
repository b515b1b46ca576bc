"""A room as a program holds it."""

from __future__ import annotations

from rawws.room_state import Delivery, Membership, Place, Poller, RoomSettings, Slow
from rawws.room_state import RoomState as Room

__all__ = ["Delivery", "Membership", "Place", "Poller", "Room", "RoomSettings", "Slow"]
