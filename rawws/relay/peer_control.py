"""The loop's operations on peers, for the modules below it, which don't import it."""

from __future__ import annotations

from typing import Protocol

from rawws.errors import Cause
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState


class PeerControl(Protocol):
    """The loop implements this. Nothing else closes or drops a peer, or talks to the poller."""

    def watch(self, peer: Peer, *, done: bool) -> None:
        """Have the poller report when a peer can be read from and, unless all is ``done``, written to."""

    def close(
        self, peer: Peer, code: int, reason: str, cause: Cause = Cause.OUR_CLOSE, *, with_the_rest: bool = True
    ) -> None:
        """Begin the closing handshake."""

    def lose(self, peer: Peer, error: OSError) -> None:
        """Give up a peer whose socket takes nothing more."""

    def abort_after_bug(self, peer: Peer) -> None:
        """Drop a peer while an exception is being handled."""

    def abort_room_after_bug(self, room: RoomState) -> None:
        """Drop all peers of a room while an exception is being handled."""

    def schedule_deferred_work(self) -> None:
        """Wake the task that flushes queued frames, encodes in steps, and notifies watchers."""
