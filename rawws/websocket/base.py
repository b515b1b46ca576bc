"""The parts of a WebSocket that don't depend on how a program gets its messages: its identity, its state, its end."""

from __future__ import annotations

from rawws.broadcast.encodings import PLAIN
from rawws.errors import Closed
from rawws.limits import Limits
from rawws.net.transport import Transport
from rawws.relay.loop import Loop, current_loop
from rawws.relay.peer import Inbox, Peer, PeerGroup
from rawws.wire.deflate import Agreement, deflater_for
from rawws.wire.messages import Request, Response
from rawws.wire.role import Role
from rawws.wire.session import Session, State


class WebSocketBase:
    """A WebSocket connection after its handshake, of which a program holds the object."""

    def __init__(
        self,
        transport: Transport,
        our_role: Role,
        *,
        number: int,
        endpoint: PeerGroup,
        request: Request,
        response: Response,
        subprotocol: str | None,
        agreement: Agreement | None,
        remote_address: tuple[str, int] | str,
        user: object = None,
        fast_lane: bool = True,
        trailing_data: bytes = b"",
    ) -> None:
        """For `rawws.serve`, `rawws.connect` and `rawws.attach`. The loop owns the transport from here on.

        Raises OSError when the system can't watch one more socket; the transport is closed then.
        """
        limits = endpoint.limits
        window_bits = agreement.window_bits(our_role) if agreement is not None and agreement.deflates(our_role) else 0
        session = Session(
            our_role,
            max_message_bytes=limits.max_message_bytes,
            deflate=agreement is not None,
            takeover=agreement is not None and agreement.keeps_context(our_role.other),
            deflater=deflater_for(window_bits) if window_bits else None,
            fast_lane=fast_lane,
        )
        endpoint.show_frames(number, session)
        self._peer = Peer(number, transport, session, endpoint, PLAIN.deflated(window_bits))
        self._session = session
        self._loop: Loop = current_loop()
        self._inbox = self._peer.inbox = self._make_inbox(limits)
        self._inbox.owner = self
        self._inbox.own_bytes += request.held_bytes
        self._request = request
        self._response = response
        self._subprotocol = subprotocol
        self._agreement = agreement
        self._remote_address = remote_address
        self.user = user  # the result of the server's ``authenticate``
        try:
            self._loop.add(self._peer)
        except OSError:
            transport.close()
            raise
        self._begin()
        if trailing_data:
            self._loop.feed(self._peer, trailing_data)

    def _make_inbox(self, limits: Limits) -> Inbox:
        """Return the receiver of the messages."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Do what has to be done before the first message comes."""

    def __repr__(self) -> str:
        end = f" {self._inbox.closed}" if self._inbox.closed else ""
        return f"<{type(self).__name__} #{self.id} {self._session.our_role.label} {self.path} {self.state.value}{end}>"

    # Its identity and state

    @property
    def id(self) -> int:
        """The connection's number in the log."""
        return self._peer.number

    @property
    def request(self) -> Request:
        """The request that asked for the upgrade."""
        return self._request

    @property
    def response(self) -> Response:
        """The 101 that granted it."""
        return self._response

    @property
    def path(self) -> str:
        """The request's path, without its query."""
        return self._request.path or "/"

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on (RFC 6455 §1.9), or None."""
        return self._subprotocol

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions that were agreed on, as the 101 names them."""
        return () if self._agreement is None else (self._agreement.header,)

    @property
    def state(self) -> State:
        """OPEN, CLOSING (our close is sent, the peer's has not come) or CLOSED."""
        if self._inbox.closed is not None:
            return State.CLOSED
        return State.OPEN if self._inbox.deferred_close is not None else self._session.state

    @property
    def latency(self) -> float | None:
        """The last measured time between a ping and its pong, in seconds; None before the first."""
        return self._inbox.latency_s

    @property
    def buffered_bytes(self) -> int:
        """The bytes that were sent but not yet taken by the operating system, without messages of rooms."""
        return self._peer.queued_bytes

    @property
    def remote_address(self) -> tuple[str, int] | str:
        """The other end: host and port, or the path of a Unix socket.

        Behind one of the server's ``trusted_proxies`` it is the client's, as the proxy reports it.
        """
        return self._remote_address

    @property
    def closed(self) -> Closed | None:
        """How the connection ended; None while it has not."""
        return self._inbox.closed

    @property
    def close_code(self) -> int | None:
        """The code of the peer's close: 1005 for a close without a code, 1006 for no close; None while it is open."""
        return None if self._inbox.closed is None else self._inbox.closed.code

    @property
    def close_reason(self) -> str | None:
        """The reason in the peer's close, empty for none; None while it is open."""
        return None if self._inbox.closed is None else self._inbox.closed.reason
