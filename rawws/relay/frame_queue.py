"""A queue of frames for one peer, most of them small, in as few objects and system calls as possible."""

from __future__ import annotations

from collections.abc import Sequence

from rawws.broadcast.log import RUN_BYTES
from rawws.net.transport import Transport
from rawws.relay.stats import Stats

# Queued frames of at most this size are joined: an object for each would take twenty times the bytes of a pong.
SMALL_BYTES = 4 * 1024

# A piece of a queue. A bytearray belongs to its peer; the others may be shared.
Piece = bytes | bytearray | memoryview


class FrameQueue:
    """Frames for one peer alone; part of the first one may have been sent. A queue exists only while it has frames."""

    __slots__ = ("answer_bytes", "pieces", "program_bytes", "size")

    def __init__(self, *pieces: Piece) -> None:
        self.pieces = list(pieces)
        self.size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        # The bytes of automatic answers, and of programs' messages, that were queued since this queue exists.
        self.answer_bytes = 0
        self.program_bytes = 0

    def append(self, frames: bytes) -> int:
        """Add frames at the end, and return the new size. Small frames become part of the piece before them."""
        tail = self.pieces[-1]
        added = len(frames)
        if added > SMALL_BYTES:
            self.pieces.append(frames)
        elif type(tail) is bytearray and len(tail) < RUN_BYTES:
            tail += frames
        elif type(tail) is bytes and len(tail) <= SMALL_BYTES:
            joined = bytearray(tail)
            joined += frames
            self.pieces[-1] = joined
        else:
            self.pieces.append(frames)
        self.size += added
        return self.size

    def append_apart(self, frames: bytes) -> None:
        """Add frames at the end as a piece of its own, which `withdraw` can remove."""
        self.pieces.append(frames)
        self.size += len(frames)

    def withdraw(self, frames: bytes) -> bool:
        """Remove these frames if they are the last piece, and return whether they were."""
        if self.pieces[-1] is not frames:
            return False
        self.size -= len(self.pieces.pop())
        return True

    def surround(self, first: Sequence[Piece], then: Sequence[Piece]) -> None:
        """Add pieces at the beginning and at the end."""
        self.pieces = [*first, *self.pieces, *then]
        self.size = sum(map(len, self.pieces))

    def send(self, transport: Transport, stats: Stats) -> bool:
        """Send as much as the socket takes; return whether that was all. Raises OSError when the connection is lost."""
        pieces = self.pieces
        while pieces:
            count, waiting = _first_of(pieces)
            sent = transport.try_send(waiting)
            stats.bytes_out += sent
            self.size -= sent
            if sent < len(waiting):
                pieces[:count] = [rest_of(waiting, sent)]
                return False
            del pieces[:count]
        return True


def rest_of(piece: Piece, sent: int) -> Piece:
    """Return what is left of a piece when some of it has been sent.

    A large rest is a view, which keeps the whole piece in memory; a small one is copied and lets go of it.
    """
    if type(piece) is bytearray:
        del piece[:sent]
        return piece
    return memoryview(piece)[sent:] if len(piece) - sent > SMALL_BYTES else bytearray(memoryview(piece)[sent:])


def _first_of(pieces: Sequence[Piece]) -> tuple[int, Piece]:
    """Return the number of pieces that are sent next, and these pieces as one.

    Small pieces are joined for one system call. Large ones are sent as they are, since other peers may share them.
    """
    count, size = 1, len(pieces[0])
    while count < len(pieces) and size + len(pieces[count]) <= RUN_BYTES:
        size += len(pieces[count])
        count += 1
    return count, pieces[0] if count == 1 else b"".join(pieces[:count])
