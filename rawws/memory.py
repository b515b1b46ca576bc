"""The bytes that all peers and rooms of a loop hold together, and a bound to them.

Each peer is bounded by itself (a message's size, how far it may lag, how much waits for a program); a crowd of them
that are all just within their bounds is not. So what they hold is added up every so often, and when it is too much
those go that hold most, until it isn't.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from rawws import logs
from rawws.errors import Cause
from rawws.peer import Peer
from rawws.room import Room
from rawws.wire.session import State
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.loop import Loop

# Looked at so often where there is a bound.
MEMORY_TICK_S = 0.1

# Of a message that waits for a program, beside its payload: the tuple, the head of the bytes, its place in the queue.
WAITING_BYTES = 120


class Memory:
    """Adds up, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.max_bytes = math.inf
        self._has_told = False

    def used_bytes(self) -> int:
        """Return what logs, outboxes, inboxes and messages that are not whole hold together, in bytes.

        What is held for those who are being closed is not counted: it goes with them.
        """
        stay = [peer for peer in self._loop.peers.values() if peer.session.state is State.OPEN]
        return sum(room.log.kept_bytes for room in self._rooms()) + sum(map(own_bytes, stay))

    def _rooms(self) -> set[Room]:
        return {room for peer in self._loop.peers.values() for room in peer.rooms}

    def check(self) -> None:
        """Close those who hold most, one after the other, as long as it is too much."""
        used = self.used_bytes()
        if used <= self.max_bytes:
            self._has_told = False
            return
        for peer in sorted(self._loop.peers.values(), key=_weight, reverse=True):
            if not _weight(peer):
                break
            if peer.session.state is not State.OPEN:
                continue
            told = f"the server holds {used} bytes for its peers, over its limit of {self.max_bytes} (--max-memory)"
            self._loop.log(peer, FAULT, f"is closed, since it holds {_weight(peer)} of them: {told}", logging.WARNING)
            self._loop.close(peer, 1013, "the server's memory is full", Cause.LIMIT, with_the_rest=False)
            used = self.used_bytes()
            if used <= self.max_bytes:
                return
        if not self._has_told:
            self._has_told = True
            told = f"{used} bytes are held, over the limit of {self.max_bytes} (--max-memory), and not by slow peers: "
            told += "by histories (--history-bytes)"
            logs.line(logs.server, logging.WARNING, logs.SERVER, FAULT, told)


def own_bytes(peer: Peer) -> int:
    """Return what is held for a peer alone."""
    inbox = peer.inbox
    waiting = 0 if inbox is None else sum(len(item.payload) + WAITING_BYTES for item in inbox.items)
    return peer.outbox_bytes + peer.session.held_bytes + waiting


def unsent(peer: Peer) -> int:
    """Return how many bytes wait for a peer's socket: its own, and what it lacks of its rooms."""
    if peer.cursors is None:
        return peer.outbox_bytes
    rooms = [(room, cursor) for room, cursor in peer.cursors.items() if not room.conflates]
    return peer.outbox_bytes + sum(room.log.lag_bytes(cursor, peer.form) for room, cursor in rooms)


def _weight(peer: Peer) -> int:
    """Return how much would not have to be held if it weren't for a peer, at most."""
    return own_bytes(peer) - peer.outbox_bytes + unsent(peer)
