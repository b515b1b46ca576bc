"""A member of a room, as a program sees it: its identity, and how to send to it alone.

A program iterates over a `rawws.Room` to get its members. Most are relayed: they have no task and no `WebSocket`, and
may be readers of events. A message to one of them goes through `rawws.relay.sending.Sending`, as everything for a
single peer does, in the member's own encoding.
"""

from __future__ import annotations

import trio

from rawws.errors import Cause, ConnectionClosed
from rawws.net.accept import Address
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer
from rawws.runtime import check_in_trio, not_awaited
from rawws.websocket import WebSocket
from rawws.wire.events import Data, as_message, check_close
from rawws.wire.messages import Request
from rawws.wire.session import State


class Member:
    """A connection that is in a room: a WebSocket, or a reader of events.

    It identifies the connection, and stays valid when that has left the room, or is closed. Two members are equal if
    they identify the same connection.
    """

    __slots__ = ("_path", "_peer", "_remote_address")

    def __init__(self, peer: Peer) -> None:
        """For `rawws.Room`."""
        self._peer = peer
        # A connection that has ended has neither.
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
        """The connection's number, as in the log and in ``?presence``."""
        return self._peer.number

    @property
    def user(self) -> object:
        """The object that the server's ``authenticate`` returned for the connection; None without one."""
        return user_of(self._peer)

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

        Behind one of the server's ``trusted_proxies`` it is the client's, as the proxy reports it.
        """
        return self._remote_address if self.websocket is None else self.websocket.remote_address

    @property
    def websocket(self) -> WebSocket | None:
        """The handler's `WebSocket` of the connection; None if the hub relays it."""
        owner = self._peer.owner
        return owner if isinstance(owner, WebSocket) else None

    @property
    def request(self) -> Request | None:
        """The request that opened the connection; None if the hub relays it.

        The hub keeps no requests: one takes several times the memory of the connection. To keep the request or a part
        of it, return that from ``authenticate``, which makes it the `user`.
        """
        return None if self.websocket is None else self.websocket.request

    @property
    def is_behind(self) -> bool:
        """Whether the connection is lagging: it has not yet been sent everything that its room has published."""
        return self._peer.is_lagging

    @property
    def state(self) -> State:
        """OPEN, CLOSING (our close is sent, the peer's has not come) or CLOSED."""
        if self._peer.transport.fileno() < 0:
            return State.CLOSED
        return self._peer.session.state if self.websocket is None else self.websocket.state

    # Sending and closing

    async def send(self, message: Data, text: bool | None = None) -> None:
        """Send a message to this member alone: ``str`` as text, bytes-like as binary, unless ``text`` says otherwise.

        The message follows everything that the member's rooms have published so far. This waits until the member has
        accepted that, and any earlier message of this kind; messages that are published meanwhile go first. The room's
        policy for slow peers applies during the wait, and may close the member. Returns when the socket or our queue
        has the message. When it is cancelled, nothing has been sent.

        The message has no id, and isn't part of the room's history. A member with the subprotocol ``rawws.id.v1`` gets
        it after the line ``{}``, a reader of events as an event without an id. It isn't compressed.

        Raises `ConnectionClosed` when the connection ends first; TypeError and ValueError for an invalid message.
        """
        check_in_trio("member.send, message", is_async=True)
        websocket, peer = self.websocket, self._peer
        if websocket is not None:
            await websocket.send(message, text)
            return
        opcode, payload = as_message(message, text)
        await trio.lowlevel.checkpoint()  # a program may send to a thousand members in a row
        while peer.transport.fileno() >= 0:
            if peer.session.state is State.OPEN and not peer.lost and not peer.is_busy:
                frames = peer.encoding.encode_alone(opcode, bytes(payload))
                current_loop().sending.send(peer, frames, count=Peer.count_program)
                return
            await peer.wait_drained()
        raise self._closed_error()

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Begin to close the connection, after all that its rooms have published. It leaves its rooms at once.

        The closing handshake goes on in the background, for at most ``close_timeout`` seconds; a reader's response
        ends. This has no effect on a connection that is closed, or being closed. Raises `UsageError` for a code that
        can't be sent (RFC 6455 §7.4), or a reason of more than 123 bytes.
        """
        check_in_trio("member.close")
        current_loop().close(self._peer, *check_close(code, reason))
        return not_awaited("member.close() doesn't wait for the end")

    def _closed_error(self) -> ConnectionClosed:
        peer = self._peer
        return peer.closed_error(peer.closed or peer.describe_end(Cause.RESET if peer.lost else Cause.EOF))


def user_of(peer: Peer) -> object:
    """Return the object that the server's ``authenticate`` returned for a connection; None without one."""
    owner = peer.owner
    return owner.user if isinstance(owner, WebSocket) else peer.about.user
