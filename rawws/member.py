"""A member of a room, as a program sees it: who it is, and how to send to it alone.

A program iterates over a `rawws.Room` to get its members. Most are relayed: they have no task and no `WebSocket`, and
may be readers of events. A message to one of them goes through `rawws.sending.Sending`, as all that is for one peer
alone, in the member's own form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from rawws.accepting import Address
from rawws.errors import Cause, ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from rawws.peer import Peer
from rawws.runtime import check_in_trio, not_awaited
from rawws.wire.encodings import encode_alone
from rawws.wire.events import Data, as_message, check_close
from rawws.wire.messages import Request
from rawws.wire.session import State

if TYPE_CHECKING:
    from rawws.loop import Loop
    from rawws.websocket import WebSocket


class Member:
    """A connection that is in a room: a WebSocket, or a reader of events.

    It stands for the connection, and stays valid when that has left the room, or is closed. Two of the same connection
    are equal.
    """

    __slots__ = ("_loop", "_path", "_peer", "_remote_address")

    def __init__(self, peer: Peer, loop: Loop) -> None:
        """For `rawws.Room`."""
        self._peer = peer
        self._loop = loop
        # Neither can be asked of a connection that has ended.
        self._path = peer.path
        self._remote_address = peer.about.client or peer.transport.remote_address or ""

    def __repr__(self) -> str:
        return f"<Member #{self.id} {self.path} of {self.remote_address}, {self.state.value}>"

    def __eq__(self, other: object) -> bool:
        return self._peer is other._peer if isinstance(other, Member) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._peer)

    # Its identity

    @property
    def id(self) -> int:
        """The connection's number, as the log and ``?presence`` have it."""
        return self._peer.number

    @property
    def user(self) -> object:
        """The object that the server's ``authenticate`` returned for the connection; None without one."""
        websocket = self.websocket
        return self._peer.about.user if websocket is None else websocket.user

    @property
    def path(self) -> str:
        """The path that it requested, without its query."""
        return self._path

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on (RFC 6455 §1.9); None without one, and for a reader of events."""
        return self._peer.about.subprotocol if self.websocket is None else self.websocket.subprotocol

    @property
    def remote_address(self) -> Address:
        """The other end: host and port, or the path of a Unix socket.

        On a server behind one of its ``trusted_proxies`` it is the client's, as the proxy tells it.
        """
        return self._remote_address if self.websocket is None else self.websocket.remote_address

    @property
    def websocket(self) -> WebSocket | None:
        """The `WebSocket` that a handler has of the connection; None for one that the hub relays."""
        return self._peer.websocket

    @property
    def request(self) -> Request | None:
        """The request that opened the connection; None for one that the hub relays.

        Of those the request isn't kept: it takes several times the memory of the connection. An ``authenticate`` that
        returns it, or what is needed of it, makes that the `user`.
        """
        return None if self.websocket is None else self.websocket.request

    @property
    def is_behind(self) -> bool:
        """Whether the connection takes less than the room publishes, for now."""
        return self._peer.is_behind

    @property
    def state(self) -> State:
        """OPEN, CLOSING (our close is sent, the peer's has not come) or CLOSED."""
        if self._peer.transport.fileno() < 0:
            return State.CLOSED
        return self._peer.session.state if self.websocket is None else self.websocket.state

    # Messages to it alone, and its end

    async def send(self, message: Data, text: bool | None = None) -> None:
        """Send a message to this member alone: ``str`` as text, bytes-like as binary, unless ``text`` says otherwise.

        It goes out after all that its rooms have published so far. So this waits while the member hasn't taken that,
        or an earlier message; what is published meanwhile goes first. The room's policy for slow peers holds all the
        while, and may close the member. Returns when the message is on its way; when cancelled, nothing has been sent.

        The message has no id, and isn't part of the room's history. A member with the subprotocol ``rawws.id.v1`` gets
        it after the line ``{}``, a reader of events as an event without an id. It goes out uncompressed.

        Raises `ConnectionClosed` when the connection ends first; TypeError and ValueError for what can't be a message.
        """
        check_in_trio("member.send, message", is_async=True)
        peer = self._peer
        if peer.websocket is not None:
            await peer.websocket.send(message, text)
            return
        opcode, payload = as_message(message, text)
        await trio.lowlevel.checkpoint()  # before it is sent: a program may send to a thousand members in a row
        while peer.transport.fileno() >= 0:
            if peer.session.state is State.OPEN and not peer.lost and not (peer.is_blocked or peer.cursors is not None):
                self._loop.sending.send_alone(peer, encode_alone(opcode, bytes(payload), peer.form))
                return
            await peer.wait_drained()
        raise self._closed_error()

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the connection, after all that its rooms have published so far. It leaves its rooms at once.

        The closing handshake goes on in the background, for ``close_timeout`` at most; a reader's response ends.
        Harmless when the connection is closed already, or being closed. Raises `UsageError` for a code that can't be
        sent (§7.4), or a reason of more than 123 bytes.
        """
        check_in_trio("member.close")
        self._loop.close(self._peer, *check_close(code, reason))
        return not_awaited("member.close() doesn't wait for the end")

    def _closed_error(self) -> ConnectionClosed:
        peer = self._peer
        closed = peer.closed or peer.describe_end(Cause.RESET if peer.lost else Cause.EOF)
        return ConnectionClosedOK(closed) if peer.ended_well else ConnectionClosedError(closed)
