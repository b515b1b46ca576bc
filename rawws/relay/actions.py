"""Actions: the decisions of the timers and the memory bound, which the loop carries out.

The modules that decide know nothing of the loop, and only the loop closes, drops or writes to a peer. So each decision
can be read and tested without a socket.
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
    """Start the closing handshake, and leave out the messages that the peer's rooms have not sent it yet."""

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
    """Send a close if the socket takes it, then close the socket without waiting for an answer."""

    peer: Peer
    code: int
    reason: str
    cause: Cause
    why: str


class EndHistory(NamedTuple):
    """Forget the messages that a room keeps for later readers."""

    room: RoomState


class ForgetMessages(NamedTuple):
    """Drop the messages that wait for a program."""

    inbox: Inbox


class Cancel(NamedTuple):
    """Cancel a task that holds memory."""

    scope: trio.CancelScope


PeerAction = SendPing | EndRest | SendDeferredClose | Close | Drop | CloseAndDrop
Action = PeerAction | EndHistory | ForgetMessages | Cancel
