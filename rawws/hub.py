"""Rooms by path, and the program that relays each message to everybody in the sender's room."""

from __future__ import annotations

import enum
import logging
import weakref
from collections.abc import Iterator, Mapping

from rawws import logs
from rawws.errors import UsageError
from rawws.limits import MAX_LAG_BYTES
from rawws.loop import current_loop
from rawws.peer import Endpoint, Peer
from rawws.room import Room
from rawws.transport import Transport
from rawws.wire.broadcast_log import PLAIN
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.handshake import Handshake
from rawws.wire.role import Role
from rawws.wire.session import Session
from rawws.wire.trace import FAULT, STATE


class Mode(enum.Enum):
    BROADCAST = "broadcast"  # each message to all of the room, its sender included
    ECHO = "echo"  # each message to its sender alone


class Hub:
    """All rooms of an application, by path.

    Given to `rawws.serve` in place of a handler, it relays: a connection is greeted with ``hello``, put into the
    room of its path, and what it sends goes to everybody there. That needs no task for each connection. With a
    handler, the program decides who joins which room and what is published: see `Hub.room`.

    ``max_lag_bytes`` is how far a peer may fall behind a room before it is closed with 1013.
    """

    def __init__(
        self,
        *,
        mode: Mode | str = Mode.BROADCAST,
        hello: str = "",
        max_lag_bytes: int = MAX_LAG_BYTES,
    ) -> None:
        """Raises `UsageError` for a mode that there isn't."""
        try:
            self.mode = Mode(mode)
        except ValueError:
            raise UsageError(f"there is no mode {mode!r}; give 'broadcast' or 'echo'") from None
        self._max_lag_bytes = max_lag_bytes
        self._hello = encode_frame(Opcode.TEXT, hello.encode()) if hello else b""
        self._occupied: dict[str, Room] = {}
        self._known: weakref.WeakValueDictionary[str, Room] = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Hub rooms={len(self._occupied)}>"

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._occupied.values()))

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms in which somebody is, by path. To be looked at only."""
        return self._occupied

    def room(self, path: str) -> Room:
        """Return the room of that path; as long as somebody is in it or holds it, always the same."""
        room = self._occupied.get(path) or self._known.get(path)
        if room is None:
            room = self._known[path] = Room(path, self._occupied, self._max_lag_bytes)
        return room

    # As a program

    def adopt(
        self,
        number: int,
        transport: Transport,
        handshake: Handshake,
        endpoint: Endpoint,
        *,
        trailing_data: bytes = b"",
        fast_lane: bool = True,
    ) -> Peer | None:
        """Take over a connection whose handshake is complete: greet it, and put it in its path's room.

        The transport is the loop's from here on. Frames that the client sent behind its request are read at once.
        Returns None when the system can't watch one more socket; it is closed then.
        """
        loop = current_loop()
        agreement = handshake.deflate
        session = Session(
            Role.SERVER,
            max_message_bytes=endpoint.limits.max_message_bytes,
            deflate=agreement is not None,
            fast_lane=fast_lane,
            relays=True,
            echoes=self.mode is Mode.ECHO,
        )
        endpoint.show_frames(number, session)
        form = agreement.server_window_bits if agreement is not None and agreement.deflates(Role.SERVER) else PLAIN
        peer = Peer(number, transport, session, endpoint, form)
        try:
            loop.add(peer)
        except OSError as error:
            logs.line(logs.hub, logging.ERROR, number, FAULT, f"can't be watched: {error.strerror or error}")
            transport.close()
            return None
        room = self._occupied.get(handshake.path) or self.room(handshake.path)
        loop.join(peer, room)
        if self.mode is Mode.BROADCAST:
            peer.relay = room
        if logs.hub.isEnabledFor(logging.INFO):
            logs.line(logs.hub, logging.INFO, number, STATE, f"joined room {room.path} (peers in it: {len(room)})")
        if self._hello:
            loop.send(peer, self._hello)
        if trailing_data:
            loop.take_in(peer, trailing_data)
        return peer
