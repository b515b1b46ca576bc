"""A room and the peers in it: what the broadcast loop in ``hub.py`` works on."""

from __future__ import annotations

import math
from collections.abc import Callable

from rawws.transport import READABLE, RECEIVE_BYTES, Transport
from rawws.wire.broadcast_log import BroadcastLog, Cursor
from rawws.wire.session import Session

CAUGHT_UP = Cursor(-1)


class Room:
    """The peers and the log of one URL path. A peer that is in the room is either current or behind."""

    __slots__ = ("behind", "current", "log", "path")

    def __init__(self, path: str, deflate: Callable[[bytes, int], bytes]) -> None:
        self.path = path
        self.log = BroadcastLog(deflate)
        # Those that have been sent everything, by the form that they get: their place is the log's tail.
        self.current: dict[int, set[Peer]] = {}
        # Those that have a cursor of their own, and wait for their socket to take more.
        self.behind: set[Peer] = set()

    def __repr__(self) -> str:
        return f"<Room {self.path} peers={len(self)} behind={len(self.behind)} {self.log!r}>"

    def __len__(self) -> int:
        return sum(map(len, self.current.values())) + len(self.behind)

    def add_current(self, peer: Peer) -> None:
        self.behind.discard(peer)
        self.current.setdefault(peer.form, set()).add(peer)

    def add_behind(self, peer: Peer) -> None:
        self._discard_current(peer)
        self.behind.add(peer)

    def is_current(self, peer: Peer) -> bool:
        return peer in self.current.get(peer.form, ())

    def remove(self, peer: Peer) -> None:
        self._discard_current(peer)
        self.behind.discard(peer)
        self.trim()

    def _discard_current(self, peer: Peer) -> None:
        if peers := self.current.get(peer.form):
            peers.discard(peer)
            if not peers:
                del self.current[peer.form]

    def trim(self) -> None:
        """Forget what no peer needs any more."""
        self.log.trim(min((peer.cursor.number for peer in self.behind), default=self.log.next))


class Peer:
    """One WebSocket connection as the broadcast loop sees it. The loop owns its transport."""

    __slots__ = (
        "answer_by",
        "close_at",
        "cursor",
        "farewell",
        "form",
        "heard",
        "in_segment",
        "interest",
        "number",
        "outbox",
        "ping_at",
        "receive_bytes",
        "room",
        "session",
        "shut",
        "stop_before",
        "transport",
    )

    def __init__(self, number: int, transport: Transport, session: Session, room: Room, form: int) -> None:
        self.number = number
        self.transport = transport
        self.session = session
        self.room: Room | None = room
        self.cursor = CAUGHT_UP  # means something only while the peer is in room.behind
        self.in_segment = False  # a part of the segment at the cursor has gone, or can't be called back
        self.stop_before: int | None = None  # the segment that this peer doesn't get any more
        self.form = form  # in which the room's log is sent to it
        self.outbox: bytes | memoryview = b""  # whole frames, but for the first, part of which may have gone
        self.farewell = b""
        self.interest = READABLE
        self.receive_bytes = RECEIVE_BYTES  # to ask for next time
        self.heard = False  # anything, since the last ping
        self.ping_at = math.inf
        self.answer_by = math.inf  # when the last ping must have been answered
        self.close_at = math.inf  # when the socket is closed, whatever the peer does
        self.shut = False  # we have sent all that we ever will, and wait for the peer's end of the stream

    def __repr__(self) -> str:
        room = self.room.path if self.room is not None else None
        return f"<Peer #{self.number} room={room} {self.cursor} outbox={len(self.outbox)} {self.session!r}>"
