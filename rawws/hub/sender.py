"""The sender of a message, as a hub's ``on_message`` is given it: a WebSocket, or a client that sends a POST."""

from __future__ import annotations

from typing import NamedTuple

from rawws.hub.member import Member
from rawws.net.accept import Address
from rawws.relay.peer import Peer
from rawws.wire.messages import Request


class Sender(NamedTuple):
    """The client that publishes a message, through whichever door it comes."""

    path: str  # of the room
    user: object  # the result of the server's ``authenticate``, or a `User`; None for anybody
    remote_address: Address  # the client's, as a trusted proxy reports it
    request: Request | None  # of a POST; None for a WebSocket, whose request isn't kept
    member: Member | None  # of the room; None for a POST

    @classmethod
    def of(cls, peer: Peer) -> Sender:
        """Return the sender that a relayed peer is. For rawws itself."""
        member = Member(peer)
        assert peer.publishes_to is not None
        return cls(peer.publishes_to.path, member.user, member.remote_address, None, member)
