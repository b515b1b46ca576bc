"""The store of a hub while it isn't open: nothing can be published, since it would not be stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.node_answers import Gathered
from rawws.broadcast.outbox import Outgoing
from rawws.errors import NotServing, Refusal
from rawws.relay.backplane import AWAY
from rawws.relay.room_state import RoomState

_CLOSED = "the store of this hub isn't open; rawws.serve opens it for as long as it serves the hub"


class ClosedStore:
    """The backplane of rooms before their store is opened. A program may hold such a room, and no more."""

    is_away = True
    is_full = False
    refuses = False
    waiting = 0
    refusal = AWAY
    trouble = _CLOSED

    async def ready(self) -> None:
        pass

    async def flush(self) -> None:
        pass

    def take(self, room: RoomState, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        raise NotServing(_CLOSED)

    def publish(self, message: Outgoing) -> NoReturn:
        raise NotServing(_CLOSED)

    def withdraw(self, message: Outgoing) -> bool:
        return False

    async def clear(self, room: RoomState) -> Refusal | None:
        return AWAY

    def ids_before_loading(self) -> None:
        return None

    def follow(self, room: RoomState) -> NoReturn:
        raise NotServing(_CLOSED)

    async def prepare(self, room: RoomState, since: MessageId | None = None) -> Refusal | None:
        return AWAY

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        pass

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        return Gathered()
