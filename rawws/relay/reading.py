"""Reading: one bounded receive from a peer, and its frames decoded."""

from __future__ import annotations

import time
from collections.abc import Sequence

import trio

from rawws.net.transport import MORE_RECEIVE_BYTES, RECEIVE_BYTES
from rawws.relay.peer import MOST_MESSAGES, Peer
from rawws.relay.stats import Stats
from rawws.wire.events import PlainEvent

# The size of a receive from a peer whose bytes take long to read.
LEAST_RECEIVE_BYTES = 4 * 1024
# The longest time for a turn, and for acting on a full receive. Tiny frames that wsproto reads take a hundred times as
# long as large ones.
TURN_S = 0.01

# The result of decoding the bytes of a peer: frames to relay or echo, or events for a program.
Decoded = Sequence[bytes | bytearray] | Sequence[PlainEvent]


class Reader:
    """Receives from peers, and decodes the bytes."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def receive(self, peer: Peer, at: float) -> tuple[int, Decoded, float]:
        """Receive once. Return the number of bytes, the decoded frames, and the time at which decoding started.

        The number is 0 at the end of the stream. Times are those of `time.perf_counter`; ``at`` is the present one. The
        third value is 0 where `adapt` need not be called. Raises BlockingIOError when there is nothing to receive, and
        other OSErrors when the peer is lost.
        """
        session = peer.session
        buffer = None
        if peer.receive_bytes != RECEIVE_BYTES:
            # After a full receive, more is asked for, and much of a large message goes right to its place.
            buffer = session.large_buffer(RECEIVE_BYTES)
        if buffer is None:
            data = peer.transport.receive_now(peer.receive_bytes)
            size = len(data)
        else:
            with buffer:
                received = peer.transport.try_receive_into(buffer)
            if received is None:
                raise BlockingIOError
            size = received
        if not size:
            return 0, (), 0.0
        self._stats.bytes_in += size
        peer.seen_since_ping = True
        peer.heard_at = at
        if buffer is not None:
            return size, session.received(size), 0.0
        if size < LEAST_RECEIVE_BYTES:  # so few bytes never take long
            peer.receive_bytes = RECEIVE_BYTES
            return size, self.decode(peer, data), 0.0
        started_at = time.perf_counter()
        return size, self.decode(peer, data), started_at

    @staticmethod
    def decode(peer: Peer, data: bytes) -> Decoded:
        """Return the frames or events in bytes from a peer, up to the wanted number. Its session keeps the rest."""
        inbox = peer.inbox
        if inbox is not None:
            return peer.session.receive_plain(data, inbox.most_events(peer))
        if peer.flow is None or peer.flow.bucket is None:
            return peer.session.relay_data(data, MOST_MESSAGES)
        return peer.session.relay_data(data, max(1, int(peer.flow.bucket.credit(trio.current_time()))))

    @staticmethod
    def adapt(peer: Peer, size: int, took_s: float) -> None:
        """Choose the size of the next receive from a peer: acting on ``size`` bytes took ``took_s`` seconds."""
        if took_s * RECEIVE_BYTES > size * TURN_S:
            peer.receive_bytes = LEAST_RECEIVE_BYTES
        else:
            peer.receive_bytes = MORE_RECEIVE_BYTES if size >= RECEIVE_BYTES else RECEIVE_BYTES
