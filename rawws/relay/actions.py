"""Actions: what timers and the memory bound have decided, for the loop to carry out.

The parts that decide don't hold the loop, and the loop is the only one that closes, drops or writes to a peer. So each
decision can be read, and tested, without a socket.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from rawws.errors import Cause
from rawws.relay.peer import Inbox, Peer
from rawws.relay.room_state import RoomState


class SendPing(NamedTuple):
    """Send a ping."""

    peer: Peer
    payload: bytes


class EndRest(NamedTuple):
    """Read again from a peer that had sent more than its rate allows."""

    peer: Peer


class SendDeferredClose(NamedTuple):
    """Send the close that waited for the program to answer earlier messages."""

    peer: Peer


class Close(NamedTuple):
    """Begin the closing handshake, without the rest of what the peer's rooms have published."""

    peer: Peer
    code: int
    reason: str
    cause: Cause


class Drop(NamedTuple):
    """Close the socket, whatever state the connection is in. ``why`` is for the log."""

    peer: Peer
    cause: Cause
    why: str


class CloseAndDrop(NamedTuple):
    """Send a close if the socket takes it, and close the socket without waiting for an answer."""

    peer: Peer
    code: int
    reason: str
    cause: Cause
    why: str


class EndHistory(NamedTuple):
    """Forget what a room keeps for readers that come later."""

    room: RoomState


class ForgetMessages(NamedTuple):
    """Drop the messages that wait for a program."""

    inbox: Inbox


class Cancel(NamedTuple):
    """Cancel a task that holds memory."""

    scope: trio.CancelScope


PeerAction = SendPing | EndRest | SendDeferredClose | Close | Drop | CloseAndDrop
Action = PeerAction | EndHistory | ForgetMessages | Cancel
