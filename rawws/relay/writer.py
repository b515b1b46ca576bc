"""A peer's writer: the data that waits to be sent to one peer, and its order.

Data for a peer waits in two places. The *outbox* has the frames for this peer alone. The logs of its rooms have the
rest, from its cursors on. A peer is *lagging* while it has cursors; a peer that has been sent everything has none. At a
frame boundary the outbox goes first. Two rules always hold:

* Nothing is put inside a frame that has been sent in part: after a part of a segment, the rest of that segment is next.
* While a program sends a message in fragments, the logs of rooms wait, and so do frames for after the message.

Only the methods in this module touch the private attributes. They send, but decide nothing: a socket that has failed
raises OSError, or is reported in the progress that `flush` returns, and the loop acts on it. A peer that doesn't lag,
and has nothing queued, costs only its empty slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rawws.broadcast.encodings import Encoding
from rawws.broadcast.log import Cursor
from rawws.broadcast.response_stream import ResponseStream
from rawws.net.poller import READABLE, WRITABLE
from rawws.net.transport import Transport
from rawws.relay.frame_queue import FrameQueue, Piece, rest_of
from rawws.relay.lag_policies import Chunk, Lag, PartialSend
from rawws.relay.progress import Progress, Skipped
from rawws.relay.room_base import RoomBase
from rawws.relay.stats import Stats
from rawws.wire.session import Session

Room = RoomBase[Any]  # whose members are peers, which are writers

NOWHERE: tuple[Room, ...] = ()


class Encoder(Protocol):
    """Makes segments in a peer's encoding, in steps if that takes long (`rawws.relay.encoding_jobs.EncodingJobs`)."""

    def get(self, room: Room, number: int, encoding: Encoding) -> bytes | None: ...
    def run(self, room: Room, number: int, encoding: Encoding) -> tuple[bytes, list[int]]: ...
    def wait(self, peer: Any, room: Room, number: int) -> None: ...


class PeerWriter:
    """The sending side of a peer. The loop owns the transport; ``interest`` is what it has the poller watch."""

    __slots__ = (
        "_after_fragments",
        "_awaits_encoding",
        "_cursors",
        "_is_fragmenting",
        "_outbox",
        "_partial_room",
        "encoding",
        "interest",
        "number",
        "rooms",
        "session",
        "transport",
    )

    def __init__(
        self, number: int, transport: Transport, session: Session | ResponseStream, encoding: Encoding
    ) -> None:
        self.number = number
        self.transport = transport
        self.session = session
        self.encoding = encoding  # of the rooms' logs, for this peer
        self.interest = READABLE
        self.rooms = NOWHERE
        self._outbox: FrameQueue | None = None
        self._cursors: dict[Room, Cursor] | None = None  # in each of its rooms, while it lags
        self._partial_room: Room | None = None  # a part of this room's segment has been sent, or can't be taken back
        self._awaits_encoding = False  # it lags only because its next segment is being encoded
        self._is_fragmenting = False
        self._after_fragments: list[Piece] | None = None

    # Pending data

    @property
    def is_lagging(self) -> bool:
        """Whether it has been sent less than its rooms have published."""
        return self._cursors is not None

    @property
    def is_blocked(self) -> bool:
        """Whether its socket takes no more for now, so that new frames would have to wait."""
        return bool(self.interest & WRITABLE)

    @property
    def is_busy(self) -> bool:
        """Whether it is blocked or lagging, so that a program's next message has to wait."""
        return self._cursors is not None or bool(self.interest & WRITABLE)

    @property
    def is_fragmenting(self) -> bool:
        """Whether a program is sending it a message in fragments."""
        return self._is_fragmenting

    @property
    def awaits_encoding(self) -> bool:
        """Whether it lags only until its next segment is encoded. That delay is ours."""
        return self._awaits_encoding

    @property
    def has_queued(self) -> bool:
        """Whether frames for it alone wait."""
        return self._outbox is not None

    @property
    def can_flush(self) -> bool:
        """Whether frames for it alone wait, and its socket isn't known to take nothing."""
        return self._outbox is not None and not self.interest & WRITABLE

    @property
    def queued_bytes(self) -> int:
        """The bytes of the frames for it alone that wait."""
        return 0 if self._outbox is None else self._outbox.size

    @property
    def answer_bytes(self) -> int:
        """The bytes of automatic answers that were queued since the outbox was last empty."""
        return 0 if self._outbox is None else self._outbox.answer_bytes

    @property
    def program_bytes(self) -> int:
        """The bytes of programs' messages that were queued since the outbox was last empty; 0 with an inbox."""
        return 0 if self._outbox is None else self._outbox.program_bytes

    def pieces(self) -> list[Piece]:
        """Return the objects that wait for the socket, in their order, without the rooms' segments."""
        return [*(() if self._outbox is None else self._outbox.pieces), *(self._after_fragments or ())]

    def cursor(self, room: Room) -> Cursor:
        """Return its cursor in a room in which it lags."""
        assert self._cursors is not None
        return self._cursors[room]

    def lag(self, room: Room) -> Lag:
        """Return its place in a room in which it lags."""
        assert self._cursors is not None
        return Lag(room.log, self._cursors[room], self.encoding)

    def lags(self) -> Iterator[tuple[Room, Lag]]:
        """Yield the rooms in which it lags, and its place in each."""
        for room in self._cursors or ():
            yield room, self.lag(room)

    def cursor_in_use(self, room: Room) -> Cursor:
        """Return its cursor in a room in which it lags: inside a segment if a part of that can't be taken back."""
        assert self._cursors is not None
        number, offset = self._cursors[room]
        return Cursor(number, max(offset, self._partial_room is room))

    # Frames for the peer alone

    def put(self, frames: bytes, stats: Stats) -> bool:
        """Send frames now if nothing waits before them. Queue the rest, and return whether there is none."""
        if self._outbox is not None or self.interest != READABLE:
            self.queue(frames)
            return False
        try:
            sent = self.transport.send_now(frames)
        except BlockingIOError:
            sent = 0
        stats.bytes_out += sent
        if sent == len(frames):
            return True
        self._outbox = FrameQueue(rest_of(frames, sent))
        return False

    def put_pieces(self, frames: list[bytes | bytearray], stats: Stats) -> bool:
        """Send large frames as `put` does, but without joining them first. Nothing may wait before them."""
        sent = self.transport.try_send_pieces(frames)
        stats.bytes_out += sent
        if sent == sum(map(len, frames)):
            return True
        self._outbox = FrameQueue(rest_of(b"".join(frames), sent))
        return False

    def queue(self, frames: bytes) -> int:
        """Queue frames, and return the number of bytes that are queued now. Small frames join the piece before them."""
        if self._outbox is not None:
            return self._outbox.append(frames)
        self._outbox = FrameQueue(frames)
        return len(frames)

    def queue_apart(self, frames: bytes) -> None:
        """Queue frames as a piece of its own, which `withdraw` can remove."""
        if self._outbox is None:
            self._outbox = FrameQueue(frames)
        else:
            self._outbox.append_apart(frames)

    def queue_whole(self, message: bytes) -> None:
        """Queue a message, after any message that is being sent in fragments."""
        if self._is_fragmenting:
            self._after_fragments = [*(self._after_fragments or ()), message]
        else:
            self.queue(message)

    def withdraw(self, frames: bytes) -> bool:
        """Remove these frames from the end of the queue, and return whether they were there."""
        outbox = self._outbox
        if outbox is None or not outbox.withdraw(frames):
            return False
        if not outbox.pieces:
            self._outbox = None
        return True

    def count_answers(self, size: int) -> None:
        """Count bytes as automatic answers, until the outbox is empty."""
        if self._outbox is not None:
            self._outbox.answer_bytes += size

    def count_program(self, size: int) -> None:
        """Count bytes as a program's message, until the outbox is empty."""
        if self._outbox is not None:
            self._outbox.program_bytes += size

    def discard(self) -> None:
        """Forget all waiting frames: the socket is closed."""
        self._outbox = self._after_fragments = None

    def begin_fragments(self) -> bool:
        """Start a message in fragments, while its rooms' messages wait. Return whether it starts to lag by that."""
        self._is_fragmenting = True
        if self._cursors is not None or not self.rooms:
            return False
        self.start_lagging()
        return True

    def end_fragments(self) -> None:
        """End a message in fragments: the last of them has been sent, or queued."""
        self._is_fragmenting = False
        if self._after_fragments:
            self._queue_around([], self._after_fragments)
            self._after_fragments = None

    def _queue_around(self, first: Sequence[Piece], then: Sequence[Piece]) -> None:
        """Queue pieces before and after the waiting ones. Empty pieces are left out."""
        first, then = list(filter(len, first)), list(filter(len, then))
        if self._outbox is not None:
            self._outbox.surround(first, then)
        elif first or then:
            self._outbox = FrameQueue(*first, *then)

    # Its place in its rooms

    def start_lagging(self) -> None:
        """Start to keep its own cursor in each of its rooms. Harmless when it lags already."""
        if self._cursors is None and self.rooms:
            self._cursors = {room: room.tail for room in self.rooms}
            for room in self.rooms:
                room.add_lagging(self)

    def lag_from_tail(self, room: Room) -> None:
        """Start a lagging peer at the end of a room that it joins."""
        assert self._cursors is not None
        self._cursors[room] = room.tail
        room.add_lagging(self)

    def replay(self, room: Room, after: int, now: float) -> bool:
        """Start after a given message of a room that it joins; return False if there is nothing to send."""
        entry = room.log.replay_start(after, self.encoding, now)
        if not entry.rest and entry.number == room.log.next:
            return False
        if self._cursors is None:
            self._cursors = {}
            for other in self.rooms:
                if other is not room:
                    self._cursors[other] = other.tail
                    other.add_lagging(self)
        start = room.policy.start(after, entry)
        if start.rest:
            self.session.show_sent(start.rest)
            self.queue_whole(start.rest)
        self._cursors[room] = start.cursor
        room.add_lagging(self)
        return True

    def wait_for_encoding(self, room: Room, number: int, encoder: Encoder) -> None:
        """Lag at a segment until it is encoded."""
        self.start_lagging()
        assert self._cursors is not None
        if self._cursors[room].number != number:
            self._cursors[room] = Cursor(number)
        self._awaits_encoding = True
        encoder.wait(self, room, number)

    def record_partial_send(self, room: Room, number: int, segment: bytes, sent: int) -> None:
        """Start to lag: the socket took only the first ``sent`` bytes of a segment in the peer's encoding."""
        self.start_lagging()
        assert self._cursors is not None
        at = PartialSend(room.log, number, segment, sent, self.encoding, self.transport.committed_bytes)
        self._cursors[room], rest, in_segment = room.policy.on_partial_send(at)
        if in_segment:
            self._partial_room = room
        if rest:
            self._queue_around([rest], ())

    def jump_to(self, room: Room, number: int) -> tuple[int, list[int]]:
        """Go on with a later segment, but finish a message that has been sent in part.

        Returns how many messages it skips, and the numbers of the log's gaps among them.
        """
        assert self._cursors is not None
        log = room.log
        at, offset = self._cursors[room]
        gaps = log.gaps(at, number)
        skipped = room.count_for(self, log.first_of(at), log.last_before(number)) - len(gaps)
        if self._partial_room is room:
            segment = room.segment_for(self, at)
            rest = self.encoding.rest_of_message(segment, offset, committed_bytes=self.transport.committed_bytes)
            if at in gaps:
                gaps.remove(at)  # it goes out whole
            else:
                skipped -= self.encoding.count_messages(segment, offset + len(rest))
            self._partial_room = None
            self._queue_around([rest], ())
        self._cursors[room] = Cursor(number)
        return skipped, gaps

    def leave(self, room: Room) -> None:
        """Leave a room. It still gets the messages that were published before."""
        if self._cursors is not None:
            self.queue_rest((room,), whole=True)
            del self._cursors[room]
        self.rooms = tuple(other for other in self.rooms if other is not room) or NOWHERE
        if not self.rooms:
            self._cursors = None

    def forget_rooms(self) -> tuple[Room, ...]:
        """Leave all rooms, without getting any more from their logs, and return the rooms."""
        rooms, self.rooms, self._cursors, self._partial_room = self.rooms, NOWHERE, None, None
        return rooms

    def queue_rest(self, rooms: Sequence[Room], *, whole: bool) -> None:
        """Queue what it lacks of rooms that it leaves. Without ``whole``, only the rest of a message sent in part."""
        if self._cursors is None:
            return
        first: list[Piece] = []
        then: list[Piece] = []
        for room in rooms:
            if room.policy.reads_on:
                begun, others = self._rest_of_log(room, whole=whole)
                first += begun
                then += others
            elif whole:
                then += self._rest_of_selection(room)
        if self._is_fragmenting:
            self._after_fragments = [*(self._after_fragments or ()), *then]
            then = []
        self._queue_around(first, then)

    def _rest_of_log(self, room: Room, *, whole: bool) -> tuple[list[Piece], list[Piece]]:
        """Return the rest of a segment that has been sent in part, and the segments after it."""
        assert self._cursors is not None
        number, offset = self._cursors[room]
        first: list[Piece] = []
        then: list[Piece] = []
        if room is self._partial_room:
            segment = room.segment_for(self, number)
            if whole:
                first.append(memoryview(segment)[offset:])
            else:
                committed_bytes = self.transport.committed_bytes
                first.append(self.encoding.rest_of_message(segment, offset, committed_bytes=committed_bytes))
            number += 1
            self._partial_room = None
        if whole:
            for missing in range(number, room.log.next):
                # An uncompressed segment is the log's own, or is made quickly.
                plain = room.log.segment(missing, self.encoding.uncompressed)
                if segment := room.leave_out_own(self, missing, plain):
                    self.session.show_sent(segment)
                    then.append(segment)
        return first, then

    def _rest_of_selection(self, room: Room) -> list[Piece]:
        """Return everything that a policy selects from the messages that the peer lacks."""
        lag = self.lag(room)
        chunks: list[Piece] = []
        while lag.cursor != room.tail and (chunk := room.policy.next_chunk(lag)) is not None:
            chunks.append(chunk.data)
            lag = lag._replace(cursor=Cursor(chunk.upto))
        return chunks

    # Sending

    def flush(self, encoder: Encoder, stats: Stats) -> Progress:
        """Send as much as the socket takes now. A peer that has been sent everything no longer lags."""
        self._awaits_encoding = False
        skipped: list[Skipped] = []
        try:
            is_done = self._send_pending(encoder, stats, skipped)
        except OSError as error:
            return Progress(is_done=False, is_blocked=False, skipped=skipped, error=error)
        is_blocked = not (is_done or self._awaits_encoding)
        if is_blocked:
            self.start_lagging()
        elif is_done and self._cursors is not None and not self._is_fragmenting:
            self._cursors = None
            for room in self.rooms:
                room.add_current(self)
                room.trim()
        return Progress(is_done, is_blocked, skipped)

    def _send_pending(self, encoder: Encoder, stats: Stats, skipped: list[Skipped]) -> bool:
        """Send from the outbox and the logs in turn; return False if something is left.

        In that case the socket takes no more, or the next segment is still being encoded.
        """
        if self.transport.has_unsent and not self.transport.try_flush():
            return False
        while True:
            if self._outbox is not None and self._partial_room is None:
                if not self._outbox.send(self.transport, stats):
                    return False
                self._outbox = None
            if self._cursors is None or (self._is_fragmenting and self._partial_room is None):
                return True
            room = self._partial_room or self._next_room()
            if room is None:
                return True
            lag = self.lag(room)
            chunk = room.policy.next_chunk(lag)
            if chunk is not None:
                self._queue_chunk(room, lag.cursor, chunk, skipped)
            elif not self._send_segment(room, lag.cursor, encoder, stats):
                return False

    def _queue_chunk(self, room: Room, cursor: Cursor, chunk: Chunk, skipped: list[Skipped]) -> None:
        """Queue the messages that a policy has selected, and count the messages that it leaves out."""
        assert self._cursors is not None
        behind = chunk.upto - cursor.number
        if behind > chunk.messages:
            skipped.append(Skipped(behind - chunk.messages, behind))
        self._cursors[room] = Cursor(chunk.upto)
        if chunk.data:
            self.session.show_sent(chunk.data)
            self.queue(chunk.data)

    def _send_segment(self, room: Room, cursor: Cursor, encoder: Encoder, stats: Stats) -> bool:
        """Send the segment at a cursor, or several from there on; return False if a part of them is left."""
        assert self._cursors is not None
        number, offset = cursor
        segment = encoder.get(room, number, self.encoding)
        if segment is None:
            self.wait_for_encoding(room, number, encoder)
            return False
        if not segment:  # a gap, which this encoding can't express
            self._cursors[room] = Cursor(number + 1)
            return True
        is_several = not offset and number + 1 < room.log.next
        if is_several and not self.transport.has_handshake and not room.excludes_sender:
            return self._send_run(room, number, encoder, stats)
        segment = room.leave_out_own(self, number, segment)
        sent = self.transport.try_send(memoryview(segment)[offset:] if offset else segment)
        stats.bytes_out += sent
        if sent and not offset:
            self.session.show_sent(segment)
        if offset + sent < len(segment):
            self._cursors[room] = Cursor(number, offset + sent)
            self._partial_room = room if offset + sent + self.transport.committed_bytes > 0 else None
            return False
        self._cursors[room] = Cursor(number + 1)
        self._partial_room = None
        return True

    def _send_run(self, room: Room, number: int, encoder: Encoder, stats: Stats) -> bool:
        """Send several segments with one system call; return False if the socket takes no more."""
        assert self._cursors is not None
        run, sizes = encoder.run(room, number, self.encoding)
        sent = left = self.transport.try_send(run)
        stats.bytes_out += sent
        for size in sizes:
            if left and self.session.on_frame is not None:
                self.session.show_sent(room.log.segment(number, self.encoding))
            if left < size:
                break
            left -= size
            number += 1
        self._cursors[room] = Cursor(number, left)
        self._partial_room = room if left else None
        if left:
            at = sent - left
            room.log.put_back(number, self.encoding, run[at : at + size])
        return sent == len(run)

    def _next_room(self) -> Room | None:
        """Return a room in which it lacks something."""
        assert self._cursors is not None
        for room, cursor in self._cursors.items():
            if cursor != room.tail:
                return room
        return None
