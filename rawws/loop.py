"""The loop: what serves every WebSocket peer, of servers and of clients alike.

A peer has no task of its own. All their sockets are watched by one poller (an epoll or kqueue), the loop waits
for the poller, and each time it wakes it takes one *turn*:

1. Read: one bounded receive from each socket that has something, its frames decoded. Pings are answered, closes
   noted. Each message goes to its room's log, or to the inbox of the program that holds the `WebSocket`.
2. Seal: what a room's log gained in this turn becomes one segment, or several of very many messages.
3. Write: the segment goes to every peer of the room with one ``send()`` each. The many that had caught up are
   given the same ``bytes``; a peer whose kernel buffer is full keeps a cursor and is asked for again when it
   can take more.

There is no checkpoint within a turn, so nothing here needs a lock: a peer joins, leaves or is closed between
turns, by whichever task calls for it. Sending is by far the dearest step (a system call a peer), so under load
the way to be fast is to let turns get longer and segments bigger, which happens by itself; a budget on what one
turn reads keeps the segments, and with them the time between two looks at any socket, within bounds. Longer
work, such as deflating a large message, is done in steps between turns (``forms.py``).

There is one loop for all that happens under one ``trio.run()``, in a system task that begins with the first
peer. So a client needs no task either, and rooms may hold peers from several servers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import trio

from rawws import logs
from rawws.connection_errors import EXHAUSTED, TlsFlood, describe_loss
from rawws.deadlines import Deadlines
from rawws.errors import SHUTTING_DOWN, Cause
from rawws.forms import SENT_AT_ONCE_BYTES, TURN_WORK, Forms
from rawws.memory import Memory, unsent
from rawws.peer import NOWHERE, Endpoint, Loss, Peer
from rawws.poller import LOST, READABLE, WRITABLE, make_poller
from rawws.presence import Presence
from rawws.room_state import RoomState
from rawws.runtime import check_runs_on_trio
from rawws.sending import MAX_OUTBOX_BYTES, Sending
from rawws.slow import SlowPeers
from rawws.traffic import Traffic
from rawws.transport import MORE_RECEIVE_BYTES, RECEIVE_BYTES, Transport
from rawws.turnstile import Turnstile
from rawws.wire.deflate import AT_ONCE_BYTES, deflate_frames
from rawws.wire.event_stream import EventStream
from rawws.wire.events import Event, Message, MessagePart, PongReceived
from rawws.wire.masking import speed
from rawws.wire.recent_frames import describe_recent_frames
from rawws.wire.session import Session, State
from rawws.wire.trace import FAULT, STATE

# How much one turn reads before it writes: sixteen full receives. More makes segments no cheaper to send (64 KiB
# already costs far more in copying than in the system call) and every peer wait longer for its turn.
TURN_BYTES = 16 * RECEIVE_BYTES
# For so long, however few bytes that is: tiny frames that wsproto reads take a hundred times as long as large ones.
TURN_S = 0.01
# The least that is asked for of a peer whose bytes take long to read.
LEAST_RECEIVE_BYTES = 4 * 1024
# So many messages at most are read of one peer at a time; the rest of what was received has its turn behind others.
MOST_MESSAGES = 500
# And in one turn, when each is counted once for every form in which its room is read: each has to be made.
TURN_MESSAGES = 16 * 1024

# For so long the loop may keep the thread while there is work, before other tasks (connections in their HTTP
# phase, programs that handle messages) get their turn. Going through trio costs as much as five messages (40 µs),
# so not after each turn.
TURNS_S = 0.001


# For so long our close waits for a program to answer what came before it. Most do at once, or never will.
LAST_ANSWERS_S = 1.0

OUR_ERROR = "dropped because of an error in rawws"

OPEN, CLOSED = State.OPEN, State.CLOSED  # a global is found three times as fast as an Enum's member

_running: trio.lowlevel.RunVar[Loop] = trio.lowlevel.RunVar("rawws loop")


def current_loop() -> Loop:
    """Return the loop of this ``trio.run()``, which is started if there is none yet."""
    try:
        return _running.get()
    except RuntimeError:
        check_runs_on_trio("rawws")
        raise
    except LookupError:
        loop = Loop()
        _running.set(loop)
        trio.lowlevel.spawn_system_task(loop.run, name="rawws loop")
        return loop


class Loop:
    """All peers, and the turns in which they are served."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)  # for connections, as the log names them
        # Provisional numbers, below zero, for connections that may turn out to be the page's.
        self.provisional_numbers = itertools.count(-1, -1)
        self.peers: dict[int, Peer] = {}  # by descriptor
        self._fresh: set[RoomState] = set()  # whose logs have an open segment
        self._leaving: list[tuple[Peer, bytes]] = []  # whose sessions have ended in this turn, with our last words
        self._ready: list[tuple[int, int]] = []  # what the poller reported and no turn has looked at yet
        self._unread: dict[int, int] = {}  # the same for those whose bytes are here already, as no poller tells
        self._turn_messages = 0  # that this turn has read, counted for each form in which they are sent
        self._turn_sends = 0  # how many bytes that makes for all who are sent them
        self._turn_at = 0.0  # when the present turn began, by time.perf_counter()
        self._idle = trio.lowlevel.ParkingLot()  # where `_run_errands` waits for one
        self._poller = make_poller()
        self.traffic = Traffic()
        self.forms = Forms(self)
        self.sending = Sending(self)
        self.presence = Presence(self)
        self.slow = SlowPeers(self)
        self.memory = Memory(self)
        self.deadlines = Deadlines(self)
        self.turnstile = Turnstile()
        speed.load_by = _load_beside

    @property
    def peer_count(self) -> int:
        return len(self.peers)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve the peers until cancelled; then every socket that is left is closed at once.

        A KeyboardInterrupt is for the program's tasks: within a system task it would be an internal error of trio's.
        Its children need the protection as well, each by itself.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.deadlines.run)
                nursery.start_soon(self._run_errands)
                nursery.start_soon(self.turnstile.run)
                while True:
                    if self._ready or self._unread:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._poller.fileno())
                    self._take_turns()
        finally:
            for peer in list(self.peers.values()):
                self.drop(peer, Cause.SHUTDOWN, "cut off, since the program ends")
            trio.lowlevel.notify_closing(self._poller.fileno())
            self._poller.close()

    # Coming

    def add(self, peer: Peer) -> None:
        """Take over a peer and its transport. Raises OSError when it can't be watched; nothing has changed then."""
        fd = peer.transport.fileno()
        self._poller.add(fd)
        self.peers[fd] = peer
        peer.endpoint.peer_count += 1
        self.deadlines.add(peer)
        self._read_on_soon(peer)

    def join(self, peer: Peer, room: RoomState, after: int | None = None, *, watches: bool = False) -> bool:
        """Put a peer into a room: from now on it gets what is published there. Return whether it is there afterwards.

        With ``after`` it first gets what the room's log has after the message of that number. With ``watches`` it is
        notified of the other peers that join and leave. A peer that has gone, is lost, or is being closed, can't join.
        """
        if room in peer.rooms:
            return True
        if peer.transport.fileno() < 0 or peer.lost or peer.session.state is not OPEN:
            return False
        peer.rooms = (*peer.rooms, room) if peer.rooms else room.alone
        room.admit(peer, self, watches=watches)
        if after is not None and after < room.log.last_message and self.sending.replay(peer, room, after):
            pass
        elif peer.cursors is not None:
            peer.cursors[room] = room.tail
            room.add_behind(peer)
        elif peer.is_blocked or peer.in_message:
            self.sending.fall_behind(peer)
        return room in peer.rooms  # what it was sent may have ended it

    def take_in(self, peer: Peer, data: bytes) -> None:
        """Act on bytes that were received already, with the handshake."""
        self._act_on(peer, self._decode(peer, data))
        self.publish_fresh()
        self._read_on_soon(peer)

    # One turn

    def _take_turns(self) -> None:
        """Take turns until no socket is ready, or other tasks have waited for long enough."""
        began = self._turn_at = time.perf_counter()
        until = began + TURNS_S
        while True:
            if not self._ready:
                self._ready = self._poller.poll()
                if self._unread:
                    self._add_unread()
                if not self._ready:
                    return
            self._turn()
            self.traffic.turns += 1
            now = time.perf_counter()
            self.traffic.turns_s += now - began
            began = self._turn_at = now
            if now > until:
                return

    def _add_unread(self) -> None:
        """Have those who are here already looked at as well: once, and behind those who have had no turn yet."""
        unread, self._unread = self._unread, {}
        others = []
        for fd, events in self._ready:
            if fd in unread:
                unread[fd] |= events
            else:
                others.append((fd, events))
        self._ready = [*others, *unread.items()]

    def _turn(self) -> None:
        """Look at the sockets that are ready, within the budget, and send what that brought."""
        budget = TURN_BYTES
        self.forms.allowance = TURN_WORK
        self._turn_messages = self._turn_sends = 0
        peers = self.peers
        ready = iter(self._ready)
        self._ready = []
        until = time.perf_counter() + TURN_S
        for fd, events in ready:
            peer = peers.get(fd)
            if peer is None:
                continue  # dropped since the poller reported it
            try:
                if events & WRITABLE:
                    self.sending.flush(peer)
                    if fd not in peers:
                        continue
                if events & (READABLE | LOST):
                    if peer.interest & READABLE:
                        budget -= self._read(peer)
                    elif events & LOST:
                        self._note_loss(peer)
            except Exception:
                self.give_up(peer)
            if (
                budget <= 0
                or self._turn_messages > TURN_MESSAGES
                or self._turn_sends > SENT_AT_ONCE_BYTES
                or time.perf_counter() > until
            ):
                break
        self._ready = [*ready, *self._ready]  # what is left has its turn first
        if self._fresh or self._leaving:
            self.publish_fresh()

    def hear(self, peer: Peer) -> None:
        """Read at once what a peer has sent by now: for who is about to give it up."""
        if peer.interest & READABLE:
            self._turn_at = time.perf_counter()
            self._ready.insert(0, (peer.transport.fileno(), READABLE))
            self._turn()

    def _decode(self, peer: Peer, data: bytes) -> Sequence[bytes | bytearray] | Sequence[Event]:
        """Return what bytes from a peer amount to, as far as that is wanted at a time; its session keeps the rest."""
        inbox = peer.inbox
        if inbox is not None:
            # Behind our close, what doesn't fit is dropped, and the peer's close may be the last of it.
            drops = peer.session.close_sent is not None or peer.lost is not None
            space = MOST_MESSAGES if drops else inbox.limit + 1 - len(inbox.items)
            return peer.session.receive_data(data, max(1, min(space, MOST_MESSAGES)))
        if peer.pace is None or peer.pace.bucket is None:
            return peer.session.relay_data(data, MOST_MESSAGES)
        return peer.session.relay_data(data, max(1, int(peer.pace.bucket.credit(trio.current_time()))))

    def _read_on_soon(self, peer: Peer) -> None:
        """Read more from a peer whose bytes no poller reports, and send what TLS has to answer."""
        if peer.lost:
            self._read_to_the_end_soon(peer)
            return
        if peer.transport.needs_flush:
            peer.transport.needs_flush = False
            self.sending.flush(peer)
            if peer.transport.fileno() < 0:
                return
            self._poll(peer)
        is_here = peer.kept is not None or peer.session.has_unread or peer.transport.has_pending
        if peer.interest & READABLE and is_here:
            self._unread[peer.transport.fileno()] = READABLE
            self.run_errands_soon()

    def _read(self, peer: Peer) -> int:
        """Receive once from a peer, act on what came, and return how many bytes that was."""
        if peer.kept is not None and not peer.held_back:
            return self._go_on(peer, peer.kept)
        session = peer.session
        if session.has_unread:
            self._act_on(peer, self._decode(peer, b""))
            self._read_on_soon(peer)
            return LEAST_RECEIVE_BYTES
        try:
            # After a full receive, more is asked for, and much of a large message goes right to its place.
            if peer.receive_bytes != RECEIVE_BYTES and (buffer := session.large_buffer(RECEIVE_BYTES)) is not None:
                return self._read_into(peer, buffer)
            data = peer.transport.receive_now(peer.receive_bytes)
        except BlockingIOError:
            self._wait_for_more(peer)
            return 0
        except OSError as error:
            cause = Cause.LIMIT if isinstance(error, TlsFlood) else Cause.RESET
            self.drop(peer, cause, (peer.lost and peer.lost.why) or describe_loss(error))
            return 0
        size = len(data)
        if not size:
            self._end_of_stream(peer)
            return 0
        self.traffic.bytes_in += size
        peer.heard = True
        peer.heard_at = self._turn_at
        if size < LEAST_RECEIVE_BYTES:
            peer.receive_bytes = RECEIVE_BYTES
            self._act_on(peer, self._decode(peer, data))
        else:
            began = time.perf_counter()
            self._act_on(peer, self._decode(peer, data))
            if (time.perf_counter() - began) * RECEIVE_BYTES > size * TURN_S:
                peer.receive_bytes = LEAST_RECEIVE_BYTES
            else:
                peer.receive_bytes = MORE_RECEIVE_BYTES if size >= RECEIVE_BYTES else RECEIVE_BYTES
        self._read_on_soon(peer)
        return size

    def _wait_for_more(self, peer: Peer) -> None:
        """Go on with a peer that had no data for us: records of TLS may be here, though the first of them held none."""
        if peer.lost and not peer.transport.has_pending:
            self.drop(peer, Cause.RESET, peer.lost.why)
        else:
            self._read_on_soon(peer)

    def _go_on(self, peer: Peer, kept: list[bytes | bytearray]) -> int:
        """Act on what was kept while a peer was held back."""
        peer.kept = None
        self._act_on(peer, kept)
        self._read_on_soon(peer)
        return sum(map(len, kept))

    def _read_into(self, peer: Peer, buffer: memoryview) -> int:
        with buffer:
            size = peer.transport.try_receive_into(buffer)
        if size is None:
            self._wait_for_more(peer)
            return 0
        if not size:
            self._end_of_stream(peer)
            return 0
        self.traffic.bytes_in += size
        peer.heard = True
        peer.heard_at = self._turn_at
        self._act_on(peer, peer.session.received(size))
        self._read_on_soon(peer)
        return size

    def _end_of_stream(self, peer: Peer) -> None:
        if peer.lost and peer.lost.why:
            self.drop(peer, Cause.RESET, "" if peer.session.is_closed else peer.lost.why)
            return
        them = peer.session.our_role.other.label
        if not peer.shut:
            peer.transport.shutdown_write()  # of TLS a close says nothing (RFC 8446 §6.1)
        self.drop(peer, Cause.EOF, "" if peer.session.is_closed else f"the {them} ended the stream")

    def _act_on(self, peer: Peer, got: Sequence[bytes | bytearray] | Sequence[Event]) -> None:
        """Pass on what a peer has sent, and send it what its session has to say."""
        session = peer.session
        room = peer.relay
        if room is not None and room.holds and got and peer.cause is None:
            self.slow.hold_back(peer, room, got)  # type: ignore[arg-type]
            return
        answers = session.data_to_send() if session.outgoing else b""
        if peer.inbox is not None:
            if got:
                self._deliver(peer, got)  # type: ignore[arg-type]
        # §5.5.1: once our close has gone out, what still comes need not be processed.
        elif got and peer.cause is None:
            frames: list[bytes | bytearray] = got  # type: ignore[assignment]
            if room is not None:
                if room.settings.read_only:
                    self.close(peer, 1008, "this room is for reading only", with_the_rest=False)
                    return
                if room.shared is not None:
                    messages = room.send_out(frames, peer.number)
                else:
                    open_bytes = room.log.open_bytes
                    messages = room.add(frames, peer.number)
                    self._fresh.add(room)
                    self._turn_messages += messages * len(room.current)
                    self._turn_sends += (room.log.open_bytes - open_bytes) * len(room)
                self.traffic.messages_in += messages
                if peer.pace is not None:
                    self.slow.hold_to_its_rate(peer, messages)
            elif type(frames[-1]) is bytearray and not answers and self.sending.echo_large(peer, frames):
                return
            else:
                self.traffic.messages_in += len(frames)
                self.traffic.messages_out += len(frames) - 1
                echo = b"".join(frames)
                answers = (deflate_frames(echo, peer.encoding, AT_ONCE_BYTES) if peer.encoding else echo) + answers
        if session.state is CLOSED:
            if not peer.shut and not self._waits_for_the_program(peer, answers):
                self._leaving.append((peer, answers))
        elif answers:
            if peer.inbox is not None:
                peer.inbox.answer_bytes += len(answers)
            self.sending.send(peer, answers)

    def _deliver(self, peer: Peer, events: Sequence[Event]) -> None:
        """Put messages into a peer's inbox, and stop reading from it when they are too many."""
        inbox = peer.inbox
        assert inbox is not None
        self.traffic.messages_in += len(events)
        # Messages after our close, or from a peer that is lost, are still taken while they fit; there must be no end
        # to reading, or the peer's close would not be seen.
        closing = peer.session.close_sent is not None or peer.lost is not None
        for event in events:
            if type(event) is Message or type(event) is MessagePart:
                if not closing or not inbox.is_full:
                    inbox.items.append(event)
                else:
                    inbox.take_no_more()
            elif type(event) is PongReceived:
                inbox.answer_ping(event.payload, trio.current_time())
        inbox.wake()
        if inbox.is_full and not inbox.paused and not closing:
            inbox.paused = True
            self.watch(peer, done=not peer.is_blocked)

    def _waits_for_the_program(self, peer: Peer, last_words: bytes) -> bool:
        """Hold our close back while the program has messages to answer that came before it (§5.5.1 lets us)."""
        inbox = peer.inbox
        if inbox is None or peer.cause is not None or peer.lost:
            return False
        if inbox.last_words is None:
            if not inbox.items:
                return False
            inbox.last_words = b""
            peer.close_at = trio.current_time() + LAST_ANSWERS_S
        inbox.last_words += last_words
        return True

    def finish(self, peer: Peer) -> None:
        """Send the close that was held back."""
        assert peer.inbox is not None
        last_words, peer.inbox.last_words = peer.inbox.last_words, None
        peer.close_at = math.inf
        self._leave(peer, last_words or b"", with_the_rest=False)

    def publish_fresh(self) -> None:
        """Seal what was appended and send it; then let those go whose sessions have ended."""
        fresh, self._fresh = self._fresh, set()
        for room in fresh:
            self.sending.spread(room)
        # Only now, so that a peer that says something and closes in one breath still gets what it said.
        leaving, self._leaving = self._leaving, []
        for peer, last_words in leaving:
            try:
                self._leave(peer, last_words, with_the_rest=False)
            except Exception:
                self.give_up(peer)

    # Errands

    def run_errands_soon(self) -> None:
        """There is something to be done when all others rest."""
        if self._idle:
            self._idle.unpark()

    @trio.lowlevel.enable_ki_protection
    async def _run_errands(self) -> None:
        """Do the work that no poller reports.

        It sends joins and leaves, flushes what `send_soon` has queued, does a step of long work, and reads on where
        bytes are here already.
        """
        while True:
            has_errands = self.sending.has_queued or self.presence.has_news or self.forms.has_work
            if not (has_errands or self._ready or self._unread):
                await self._idle.park()
            self.presence.tell()
            self.sending.flush_those_queued()
            if self.forms.has_work:
                self.forms.step()
                await trio.lowlevel.checkpoint()
            if self._ready or self._unread:
                self._take_turns()
                await trio.lowlevel.checkpoint()

    def watch(self, peer: Peer, *, done: bool) -> None:
        """Ask the poller for what this peer is waited for."""
        inbox = peer.inbox
        is_slow = peer.unanswered_bytes > MAX_OUTBOX_BYTES or (inbox is not None and inbox.paused)
        reads = (
            (not is_slow or peer.lost is not None)  # a lost one takes no answers, and its program is not waited for
            and not peer.held_back
            and not (peer.pace is not None and peer.pace.rests_until and peer.session.state is OPEN)
        )
        interest = READABLE if reads else 0
        if not done:
            interest |= WRITABLE
        if interest != peer.interest or peer.transport.reads_first:
            begins_to_read = interest & ~peer.interest & READABLE
            peer.interest = interest
            self._poll(peer)
            if begins_to_read:
                self._read_on_soon(peer)

    def _poll(self, peer: Peer) -> None:
        """Update what the poller watches for a peer; a writable socket is of no use while TLS has to read first."""
        if peer.lost:
            return
        interest = peer.interest & READABLE if peer.transport.reads_first else peer.interest
        self._poller.watch(peer.transport.fileno(), interest)

    def resume(self, peer: Peer) -> None:
        """Read on from a peer whose inbox was full."""
        assert peer.inbox is not None
        peer.inbox.paused = False
        peer.heard = True  # it could not be heard
        if peer.transport.fileno() >= 0:
            self.watch(peer, done=not peer.is_blocked)

    # Going

    def close(
        self, peer: Peer, code: int, reason: str, cause: Cause = Cause.OUR_CLOSE, *, with_the_rest: bool = True
    ) -> None:
        """Begin the closing handshake. Nothing happens if it has begun already, or the peer is gone.

        Our close goes out behind what its rooms have published so far, or else at the next frame boundary.
        """
        if peer.transport.fileno() < 0:
            return
        if peer.session.state is not OPEN:
            if peer.inbox is not None and peer.inbox.last_words is not None:
                self.finish(peer)
            return
        if peer.lost and not peer.interest & READABLE:
            self.drop(peer, cause, peer.lost.why)
            return
        peer.session.close(code, reason)
        peer.cause = cause
        if peer.inbox is not None and peer.inbox.paused:
            self.resume(peer)
        self._leave(peer, peer.session.data_to_send(), with_the_rest=with_the_rest)

    def leave_room(self, peer: Peer, room: RoomState) -> None:
        """Take a peer out of a room; what was published there before is still sent to it."""
        if room not in peer.rooms:
            return
        if peer.cursors is not None:
            self.sending.queue_rest(peer, (room,), whole=True)
            del peer.cursors[room]
        peer.rooms = tuple(other for other in peer.rooms if other is not room) or NOWHERE
        if not peer.rooms:
            peer.cursors = None
        room.remove(peer)
        if room.is_held:
            self.slow.release_publishers(room)
        if peer.awaits_form:  # its socket isn't full, so no poller tells when it can be sent what it has left with
            self.sending.flush(peer)

    def _leave(self, peer: Peer, last_words: bytes, *, with_the_rest: bool) -> None:
        """Take a peer out of its rooms and send it the last that it gets from us."""
        if peer.cursors is not None:
            self.sending.queue_rest(peer, peer.rooms, whole=with_the_rest and not peer.in_message)
        self.slow.forget(peer)
        self._forget_rooms(peer)
        if last_words:
            peer.session.show_sent(last_words)
            self.sending.queue(peer, last_words)
        peer.close_at = min(peer.close_at, trio.current_time() + peer.endpoint.limits.close_timeout_s)
        if peer.session.is_closed:
            peer.end(Cause.OUR_CLOSE)
        self.sending.flush(peer)

    def _forget_rooms(self, peer: Peer) -> None:
        rooms, peer.rooms, peer.cursors, peer.in_segment = peer.rooms, NOWHERE, None, None
        for room in rooms:
            room.remove(peer)
            if room.is_held:
                self.slow.release_publishers(room)

    def lose(self, peer: Peer, error: OSError) -> None:
        """Give up a peer whose socket takes nothing any more, once all that it had sent before has been read.

        A peer that refuses what we send says why in its close, and then resets the connection. The reset is found
        first where we are sending, while the close, or a last message, is still in our socket's buffer. The peer leaves
        its rooms at once; the messages that it had sent are still published. One that is held back, or over its rate,
        is read on when it may speak again, unless that takes longer than a close may.
        """
        if peer.lost or peer.transport.fileno() < 0:
            return
        if error.errno in EXHAUSTED:  # of ours: the connection itself is intact, and might never end
            self.drop(peer, Cause.RESET, describe_loss(error))
        else:
            self._lose(peer, describe_loss(error))

    def _note_loss(self, peer: Peer) -> None:
        """Give up a peer that is not read from for now, and whose socket takes nothing any more, as the poller says."""
        if peer.inbox is not None:  # the program's queue takes what had come
            self._read(peer)
        elif not peer.lost:
            self._lose(peer, "")  # how it ended shows when all has been read

    def _lose(self, peer: Peer, why: str) -> None:
        peer.lost = Loss(why, unsent(peer))
        self._poller.remove(peer.transport.fileno())  # it would report the loss for ever
        # Through a Unix socket a peer may refuse all that we send and go on sending itself.
        peer.close_at = min(peer.close_at, trio.current_time() + peer.endpoint.limits.close_timeout_s)
        self._forget_rooms(peer)
        self.watch(peer, done=True)
        self._read_to_the_end_soon(peer)

    def _read_to_the_end_soon(self, peer: Peer) -> None:
        """Schedule the next read of what a lost peer had sent, unless it may say no more for now."""
        if peer.transport.fileno() >= 0 and peer.interest & READABLE:
            self._unread[peer.transport.fileno()] = READABLE
            self.run_errands_soon()

    def give_up_reading(self, peer: Peer) -> None:
        """Drop a lost peer that could not be read to its end in time."""
        assert peer.lost is not None
        why = peer.lost.why
        if not peer.interest & READABLE:
            within = f"within {peer.endpoint.limits.close_timeout_s:g} s"
            what = f"what it had said could not be published {within}, since its room or its rate had it wait"
            why = f"{why}; {what}" if why else what
        self.drop(peer, Cause.RESET, why)

    def drop(self, peer: Peer, cause: Cause, told: str) -> None:
        """Close a peer's socket, whatever state it is in. Harmless when it was dropped before."""
        fd = peer.transport.fileno()
        if fd < 0:
            return
        unsent_bytes = peer.lost.unsent_bytes if peer.lost else unsent(peer)
        self.slow.forget(peer)
        self._forget_rooms(peer)
        del self.peers[fd]
        if not peer.lost:
            self._poller.remove(fd)
        peer.transport.close()
        peer.outbox = peer.later = None
        peer.outbox_bytes = 0
        peer.endpoint.has_left(peer.number)
        if peer.alone is not None:
            peer.alone.drained.unpark_all()
        if peer.inbox is not None:
            self.memory.adopt(peer.inbox)
        had_ended = peer.closed is not None
        closed = peer.end(cause, told)
        self.traffic.ends[closed.cause] += 1
        tracer = peer.endpoint.tracer
        if not tracer.is_watched and not logs.hub.isEnabledFor(logging.INFO):
            return
        session = peer.session
        # Who only reads has no other way to say goodbye than to end the stream.
        orderly = (session.close_rcvd is not None and session.fault is None) or isinstance(session, EventStream)
        end = f"{closed.sentence}; {told}" if told and had_ended else closed.sentence
        if peer.pace is not None and peer.pace.skipped:
            end += f"; it read too slowly, and {peer.pace.skipped} messages were skipped"
        tracer.ended(peer.number, end, closed.cause)
        if not orderly and (before := _what_was_before(peer, unsent_bytes)):
            self.log(peer, STATE, before)
        logs.end(peer.number, STATE if orderly else FAULT, end, closed.cause)

    def show_frames(self, endpoint: Endpoint) -> None:
        """Have every peer of an endpoint show its frames from now on to those who want to see them by now."""
        for peer in self.peers_of(endpoint):
            if isinstance(peer.session, Session):
                endpoint.show_frames(peer.number, peer.session)

    def give_up(self, peer: Peer) -> None:
        """Drop a peer in whose service an exception came up, which is being handled.

        It is ours to mend, but not a reason to leave the others without a server.
        """
        logs.hub.exception("#%d ! an error in rawws itself; the connection is dropped", peer.number)
        self.drop(peer, Cause.ERROR, OUR_ERROR)

    def give_up_all(self, room: RoomState) -> None:
        """Drop all of a room in whose broadcast an exception came up, which is being handled.

        Nobody can say who has got what of the segment, so none of them may be sent another.
        """
        message = "#%d ! an error in rawws itself; all connections in room %s are dropped"
        logs.hub.exception(message, logs.SERVER, room.path)
        for peer in room.peers:
            self.drop(peer, Cause.ERROR, OUR_ERROR)

    def forget(self, transport: Transport) -> None:
        """Close a transport, and drop the peer that it may belong to by now: something in rawws itself has failed."""
        peer = self.peers.get(transport.fileno())
        if peer is not None:
            self.drop(peer, Cause.ERROR, OUR_ERROR)
        transport.close()

    def peers_of(self, endpoint: Endpoint) -> list[Peer]:
        """Return those of one endpoint."""
        return [peer for peer in self.peers.values() if peer.endpoint is endpoint]

    def drop_all(self, endpoint: Endpoint) -> None:
        """Cut off every peer of an endpoint that ends at once; who can still take it is told so."""
        for peer in self.peers_of(endpoint):
            self.close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN, with_the_rest=False)
            self.drop(peer, Cause.SHUTDOWN, "cut off, since the server stops")

    def log(self, peer: Peer, mark: str, text: str, level: int = logging.INFO) -> None:
        logs.line(logs.hub, level, peer.number, mark, text)


def _load_beside(load: Callable[[], None]) -> None:
    """Import in a thread: here it would keep all peers waiting for 50 to 150 ms."""
    with contextlib.suppress(RuntimeError):  # there is no thread to be had, and it goes without
        threading.Thread(target=load, name="rawws: import of numpy").start()


def _what_was_before(peer: Peer, unsent_bytes: int) -> str:
    """Return what is known of a connection that doesn't end well, so that nobody need wonder."""
    told = []
    if frames := describe_recent_frames(peer.session.recent_frames):
        them = peer.session.our_role.other.label
        ago_s = time.perf_counter() - peer.heard_at
        told.append(f"the last frames from the {them} were {frames}, {ago_s:.1f} s ago")
    if unsent_bytes:
        told.append(f"{unsent_bytes:,} bytes for it had not gone out")
    return "; ".join(told)
