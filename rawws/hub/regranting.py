"""Grants that change while their connections are open: each connection gets the one that holds at present, or ends.

A source whose answers may change gives grants that know how to ask it again (`rawws.access.grant.Grant.present`). After
a change, `regrant_all` asks for every connection, a few at a time, so that others are served meanwhile. A connection
that was let in before the change, and joins its room after it, is asked about just before, so that it gets nothing from
a room that it may not read.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import trio

from rawws.access.grant import Action, Grant
from rawws.relay.leases import ENDS_AT_ONCE, NO_READER_NOW, PAUSE_S, WITHDRAWN
from rawws.relay.loop import current_loop
from rawws.relay.no_room import NO_ROOM
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState

# To ask about one costs some 20 µs, which makes a millisecond in a row.
ASKED_AT_ONCE = 50


class Effect(enum.Enum):
    """The effect of a new decision on a connection."""

    KEPT = enum.auto()
    CHANGED = enum.auto()  # it may do something else in its room than before
    CLOSED = enum.auto()


class Regranted(NamedTuple):
    """The numbers of connections that a change has closed, and given other rights."""

    closed: int
    changed: int


async def regrant_all() -> Regranted:
    """Give each connection of this ``trio.run()`` the grant that holds at present. Cancelling leaves out the rest."""
    counts = dict.fromkeys(Effect, 0)
    for number, peer in enumerate(list(current_loop().peers.values()), 1):
        effect = Effect.KEPT if peer.owner is not None or not peer.rooms else regrant(peer, peer.rooms[0])
        counts[effect] += 1
        if effect is Effect.CLOSED and counts[effect] % ENDS_AT_ONCE == 0:
            await trio.sleep(PAUSE_S)
        elif number % ASKED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    closed = sum(regrant_others() for regrant_others in list(current_loop().regrants))
    return Regranted(counts[Effect.CLOSED] + closed, counts[Effect.CHANGED])


def regrant(peer: Peer, room: RoomState) -> Effect:
    """Give a relayed peer the grant that holds at present, and begin to close it if that doesn't let it read its room.

    The peer is in the room, or about to join it. One that is closed must not join any more.
    """
    grant = peer.about.user
    if not isinstance(grant, Grant) or (present := grant.present) is grant:
        return Effect.KEPT
    allowed = None if present is None else present.allowed(room.path)
    if allowed is None or Action.READ not in allowed:
        current_loop().close(peer, *(WITHDRAWN if allowed is None else NO_READER_NOW))
        return Effect.CLOSED
    peer.about = peer.about._replace(user=present)
    if peer.publishes_to is not None:
        let_write(peer, room, may_write=Action.WRITE in allowed)
    return Effect.KEPT if allowed == grant.allowed(room.path) else Effect.CHANGED


def let_write(peer: Peer, room: RoomState, *, may_write: bool) -> None:
    """Publish what a peer sends in a room, or have it closed when it sends something.

    A room that is read-only for all has a reason of its own.
    """
    peer.publishes_to = room if may_write or room.settings.read_only else NO_ROOM
