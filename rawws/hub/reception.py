"""How a connection that the hub has taken over comes into a room: greeted, at the position that it asked for."""

from __future__ import annotations

import logging
import math
from functools import partial

import trio

from rawws import logs
from rawws.access.grant import ANYBODY, Action, Admitted
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.token_bucket import TokenBucket
from rawws.hub.hub_arguments import Mode
from rawws.hub.moderator import Attendance
from rawws.hub.registry import RoomRegistry
from rawws.hub.regranting import Effect, let_write, regrant
from rawws.relay.leases import EXPIRED
from rawws.relay.loop import current_loop
from rawws.relay.peer import FlowControl, Peer
from rawws.relay.room_state import RoomState
from rawws.wire.trace import FAULT, STATE


class Reception:
    """Puts the peers of a hub into its rooms."""

    def __init__(self, registry: RoomRegistry, mode: Mode, hello: str, attendance: Attendance | None) -> None:
        """``hello`` greets each peer, unless it is empty. The ``attendance``, if any, is told of each join."""
        self._registry = registry
        self._mode = mode
        self._hello = hello
        self._attendance = attendance

    def add(
        self, peer: Peer, path: str, reading: RoomQuery, admitted: Admitted, trailing_data: bytes = b""
    ) -> Peer | None:
        """Have the loop serve a peer, and put it into the room of a path; return None if it has gone meanwhile.

        A peer that is lost meanwhile is in no room, but what it had sent before is still published.
        """
        loop = current_loop()
        try:
            loop.add(peer)
        except OSError as error:
            logs.line(logs.hub, logging.ERROR, peer.number, FAULT, f"can't be watched: {error.strerror or error}")
            peer.transport.close()
            return None
        if admitted.ends_at != math.inf:
            loop.leases.add(peer, admitted.ends_at, EXPIRED)
        room = self._registry.get(path)
        if self._publishes(peer):
            let_write(peer, room, may_write=admitted is ANYBODY or Action.WRITE in admitted.action)
        room.begin_soon(peer, partial(self._begin, peer, room, reading, trailing_data))
        return peer if peer.transport.fileno() >= 0 else None

    def _begin(self, peer: Peer, room: RoomState, reading: RoomQuery, trailing_data: bytes) -> None:
        """Greet a peer, send it its starting position, put it into a room, and take what it has sent already."""
        if peer.transport.fileno() < 0:
            return
        loop = current_loop()
        if regrant(peer, room) is not Effect.CLOSED:  # its grant was asked for before a change
            self._put_into(room, peer, reading)
        if trailing_data and peer.transport.fileno() >= 0:
            loop.feed(peer, trailing_data)

    def _put_into(self, room: RoomState, peer: Peer, reading: RoomQuery) -> None:
        loop = current_loop()
        place = room.resolve(reading)
        if logs.hub.isEnabledFor(logging.INFO):
            sentence = f"joined room {room.path} (peers in it: {len(room) + 1})"
            if place.after < room.log.last_message:
                sentence += f", and reads from message {place.after + 1} of {room.log.last_message} on"
            if place.gap is not None:
                sentence += f"; messages after {place.gap['since']} are gone"
            logs.line(logs.hub, logging.INFO, peer.number, STATE, sentence)
        if self._publishes(peer) and (rate := peer.endpoint.limits.messages_per_s) != math.inf:
            peer.flow = FlowControl(TokenBucket(rate, trio.current_time()))
        if greeting := peer.encoding.greeting(self._hello, room.log.label(place.after), place.gap):
            loop.sending.send(peer, greeting)
        loop.join(peer, room, place.after, watches=reading.wants_presence and peer.encoding.has_controls)
        if self._attendance is not None and room in peer.rooms:
            self._attendance.join(peer)

    def _publishes(self, peer: Peer) -> bool:
        """Whether what the peer sends is a message for its room."""
        return self._mode is Mode.BROADCAST and not peer.encoding.is_one_way
