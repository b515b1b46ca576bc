"""The loop, which serves every WebSocket peer, of servers and of clients alike.

A peer has no task of its own. One poller (epoll or kqueue) watches all sockets. The loop waits for the poller, and each
time it wakes, it takes one *turn*:

1. Read: it receives once, within bounds, from each socket that has data, and decodes the frames. Pings are answered,
   closes recorded. Each message goes to its room's log, or to the inbox of the program that holds the `WebSocket`.
2. Seal: the messages that a room's log gained in this turn become one segment, or several if there are very many.
3. Write: the segment goes to every peer of the room with one ``send()`` each. All peers that are caught up get the
   same ``bytes``. A peer whose kernel buffer is full keeps a cursor, and goes on from there when it can take more.

There is no checkpoint within a turn, so nothing here needs a lock: any task may have a peer join, leave or close, but
only between turns. Sending is by far the most expensive step (a system call for each peer). Under load turns get longer
and segments larger, without any rule for it, and that is what makes the loop fast. A budget on how much one turn reads
bounds the segments, and so the time between two looks at any socket. Longer work, such as deflating a large message, is
done in steps between turns (`rawws.relay.encoding_jobs`).

Each ``trio.run()`` has one loop, in a system task that starts with the first peer. So a client needs no task either,
and a room may have peers from several servers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import assert_never

import trio

from rawws.errors import Cause
from rawws.net.connection_errors import TlsFlood, describe_loss
from rawws.net.poller import LOST, READABLE, WRITABLE
from rawws.net.transport import RECEIVE_BYTES
from rawws.relay.actions import (
    Action,
    Cancel,
    Close,
    CloseAndDrop,
    Drop,
    EndHistory,
    EndRest,
    ForgetMessages,
    SendDeferredClose,
    SendPing,
)
from rawws.relay.connections import Connections
from rawws.relay.encoding_jobs import SENT_AT_ONCE_BYTES, TURN_WORK
from rawws.relay.gates import Gate
from rawws.relay.peer import Peer
from rawws.relay.reading import LEAST_RECEIVE_BYTES, TURN_S, Reader
from rawws.relay.ready_sockets import Ready
from rawws.relay.room_state import RoomState
from rawws.relay.turnstile import Turnstile
from rawws.runtime import check_runs_on_trio
from rawws.wire.deflate import AT_ONCE_BYTES, deflate_frames
from rawws.wire.events import PlainEvent
from rawws.wire.masking import speed
from rawws.wire.session import State

# The bytes that one turn reads before it writes: sixteen full receives. With more, segments would be no cheaper to send
# (64 KiB already cost far more in copying than in the system call), and every peer would wait longer.
TURN_BYTES = 16 * RECEIVE_BYTES
# At most this many messages are read in a turn. Each counts once for every encoding in which its room is read, since it
# has to be encoded in each of them.
TURN_MESSAGES = 16 * 1024

# While there is work, the loop keeps the thread for about this long before other tasks run (connections in their HTTP
# phase, programs that handle messages). A checkpoint costs as much as five messages (40 µs), so the loop doesn't make
# one after each turn.
TURNS_S = 0.001

# A global is found three times as fast as an Enum's member.
OPEN, CLOSING, CLOSED = State.OPEN, State.CLOSING, State.CLOSED

_running: trio.lowlevel.RunVar[Loop] = trio.lowlevel.RunVar("rawws loop")


def current_loop() -> Loop:
    """Return the loop of this ``trio.run()``. The first call starts it."""
    try:
        return _running.get()
    except RuntimeError:
        check_runs_on_trio("rawws")
        raise
    except LookupError:
        speed.load_by = _import_in_thread
        loop = Loop()
        _running.set(loop)
        trio.lowlevel.spawn_system_task(loop.run, name="rawws loop")
        return loop


class Loop(Connections):
    """The tasks that serve all connections, in turns."""

    def __init__(self) -> None:
        super().__init__()
        self._dirty_rooms: set[RoomState] = set()  # rooms whose logs have an open segment
        self._closing: list[tuple[Peer, bytes]] = []  # peers whose sessions have ended, with our last frames
        self._turn_messages = 0  # read in this turn, counted once for each encoding in which they are sent
        self._turn_sends = 0  # the bytes that these messages make, over all peers that are sent them
        self._turn_at = 0.0  # when the present turn began, by time.perf_counter()
        self._reader = Reader(self.stats)
        self.turnstile = Turnstile()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve the peers until cancelled. Then close every socket that is left, at once.

        A KeyboardInterrupt is for the program's tasks: within a system task it would be an internal error of trio's.
        Each child task needs this protection as well.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_timers)
                nursery.start_soon(self._run_deferred_work)
                nursery.start_soon(self.turnstile.run)
                nursery.start_soon(self.leases.run)
                while True:
                    if self.sockets.has_waiting:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self.sockets.wait()
                    self._take_turns()
        finally:
            self.from_threads.end()
            for peer in list(self.peers.values()):
                self.drop(peer, Cause.SHUTDOWN, "cut off, since the program ends")
            self.calls.make_all()
            self.sockets.close()

    def feed(self, peer: Peer, data: bytes) -> None:
        """Act on bytes that were received together with the handshake."""
        self._act_on(peer, self._reader.decode(peer, data))
        self._end_turn()
        self._read_on_soon(peer)

    # One turn

    def _take_turns(self) -> None:
        """Take turns until no socket is ready, or other tasks have waited for long enough."""
        started_at = self._turn_at = time.perf_counter()
        until = started_at + TURNS_S
        while True:
            ready = self.sockets.take()
            if not ready:
                return
            self._turn(ready)
            self.stats.turns += 1
            now = time.perf_counter()
            self.stats.turns_s += now - started_at
            started_at = self._turn_at = now
            if now > until:
                return

    def _turn(self, sockets: list[Ready]) -> None:
        """Serve sockets that are ready, within the budget, and send the messages that this has published."""
        budget = TURN_BYTES
        self.encoding_jobs.allowance = TURN_WORK
        self._turn_messages = self._turn_sends = 0
        peers = self.peers
        ready = iter(sockets)
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
                self.abort_after_bug(peer)
            if (
                budget <= 0
                or self._turn_messages > TURN_MESSAGES
                or self._turn_sends > SENT_AT_ONCE_BYTES
                or time.perf_counter() > until
            ):
                self.sockets.put_back(ready)
                break
        if self._dirty_rooms or self._closing:
            self._end_turn()

    def read_now(self, peer: Peer) -> None:
        """Read the bytes that a peer has sent by now, before it is given up."""
        if peer.interest & READABLE:
            self._turn_at = time.perf_counter()
            self._turn([(peer.transport.fileno(), READABLE)])

    def _read(self, peer: Peer) -> int:
        """Receive once from a peer, act on the bytes, and return their number."""
        if peer.deferred_frames is not None and peer.held_back is None:
            return self._read_deferred(peer, peer.deferred_frames)
        session = peer.session
        if session.unread:
            self._act_on(peer, self._reader.decode(peer, b""))
            self._read_on_soon(peer)
            return LEAST_RECEIVE_BYTES
        try:
            size, decoded, started_at = self._reader.receive(peer, self._turn_at)
        except BlockingIOError:
            self._wait_for_more(peer)
            return 0
        except OSError as error:
            cause = Cause.LIMIT if isinstance(error, TlsFlood) else Cause.RESET
            self.drop(peer, cause, (peer.lost and peer.lost.why) or describe_loss(error))
            return 0
        if not size:
            self._end_of_stream(peer)
            return 0
        self._act_on(peer, decoded)
        if started_at:
            self._reader.adapt(peer, size, time.perf_counter() - started_at)
        self._read_on_soon(peer)
        return size

    def _wait_for_more(self, peer: Peer) -> None:
        """Read again later from a peer that had no data for us: the first TLS record had none, but more may be here."""
        if peer.lost and not peer.transport.has_pending:
            self.drop(peer, Cause.RESET, peer.lost.why)
        else:
            self._read_on_soon(peer)

    def _read_deferred(self, peer: Peer, deferred: list[bytes | bytearray]) -> int:
        """Act on the messages that were deferred while a peer was held back."""
        peer.deferred_frames = None
        self._act_on(peer, deferred)
        self._read_on_soon(peer)
        return sum(map(len, deferred))

    def _end_of_stream(self, peer: Peer) -> None:
        if peer.lost and peer.lost.why:
            self.drop(peer, Cause.RESET, "" if peer.session.is_closed else peer.lost.why)
            return
        them = peer.session.our_role.other.label
        if not peer.write_shut_down:
            peer.transport.shutdown_write()  # a bare close would end TLS without its alert (RFC 8446 §6.1)
        self.drop(peer, Cause.EOF, "" if peer.session.is_closed else f"the {them} ended the stream")

    def _note_loss(self, peer: Peer) -> None:
        """Give up a peer whose connection the poller reports as lost, while it is not read from."""
        if peer.inbox is not None:  # the program's queue takes the messages that have arrived
            self._read(peer)
        elif not peer.lost:
            self._lose(peer, "")  # the reason shows when all has been read

    def _act_on(self, peer: Peer, got: Sequence[bytes | bytearray] | Sequence[PlainEvent]) -> None:
        """Pass on the messages of a peer, and send it the answers of its session."""
        session = peer.session
        room = peer.publishes_to
        if room is not None and room.holds and got and peer.cause is None:
            self.slow.hold_back(peer, room, got)  # type: ignore[arg-type]
            return
        answers = session.data_to_send() if session.outgoing else b""
        if peer.inbox is not None:
            if got:
                self.stats.messages_in += len(got)
                if peer.inbox.deliver(peer, got):  # type: ignore[arg-type]
                    self.watch(peer, done=not peer.is_blocked)
                if answers and session.state is CLOSING:  # the program has closed it, and nothing may follow (§5.5.1)
                    answers = b""
        # §5.5.1: after our close has gone out, further data need not be processed.
        elif got and peer.cause is None:
            frames: list[bytes | bytearray] = got  # type: ignore[assignment]
            if room is not None:
                if room.gate is not None:
                    frames, answers = self._pass_gate(peer, room.gate, frames, answers)
                if not frames:
                    messages = 0
                elif room.shared is not None:
                    messages = room.shared.take(room, frames, peer.number)
                else:
                    open_bytes = room.log.open_bytes
                    messages = room.add(frames, peer.number)
                    self._dirty_rooms.add(room)
                    self._turn_messages += messages * len(room.current)
                    self._turn_sends += (room.log.open_bytes - open_bytes) * len(room)
                self.stats.messages_in += messages
                if peer.flow is not None:
                    self.slow.apply_rate_limit(peer, messages)
            elif type(frames[-1]) is bytearray and not answers and self.sending.echo_large(peer, frames):
                return
            else:
                self.stats.messages_in += len(frames)
                self.stats.messages_out += len(frames) - 1
                echo = b"".join(frames)
                window_bits = peer.encoding.window_bits
                answers = (deflate_frames(echo, window_bits, AT_ONCE_BYTES) if window_bits else echo) + answers
        if session.state is CLOSED:
            if not peer.write_shut_down and not self._defer_close(peer, answers):
                self._closing.append((peer, answers))
        elif answers:
            self.sending.send(peer, answers, count=Peer.count_answers)

    def _pass_gate(
        self, peer: Peer, gate: Gate, frames: list[bytes | bytearray], answers: bytes
    ) -> tuple[list[bytes | bytearray], bytes]:
        """Return what is published of a peer's messages, and what is left of the answers of its session."""
        passage = gate.pass_on(peer, frames)
        self.stats.messages_in += passage.stopped
        session = peer.session
        if passage.close is not None and session.state is OPEN:
            session.close(*passage.close)
            peer.cause = passage.cause
            # At the end of the turn, so that its messages before this one reach itself, too.
            self._closing.append((peer, answers + session.data_to_send()))
            answers = b""
        elif session.state is CLOSING:  # the program has closed it meanwhile, and nothing may follow (§5.5.1)
            answers = b""
        if passage.stopped and peer.flow is not None:
            self.slow.apply_rate_limit(peer, passage.stopped)
        return passage.frames, answers

    def _end_turn(self) -> None:
        """Seal and send the appended messages; then close the peers whose sessions have ended."""
        dirty, self._dirty_rooms = self._dirty_rooms, set()
        for room in dirty:
            self.sending.broadcast(room)
        # This comes last, so that a peer which publishes a message and closes in one turn still gets that message.
        closing, self._closing = self._closing, []
        for peer, last_frames in closing:
            try:
                self._leave(peer, last_frames, with_the_rest=False)
            except Exception:
                self.abort_after_bug(peer)

    # Timers and the memory bound

    @trio.lowlevel.enable_ki_protection
    async def _run_timers(self) -> None:
        """Carry out the actions that are due, at each tick."""
        while True:
            now = await self.timers.wait_for_tick()
            for action in self.memory.excess():
                self._carry_out(action)
            self.timers.expire_rooms()
            for peer in list(self.peers.values()):
                try:
                    self._check_timers(peer, now)
                except Exception:
                    self.abort_after_bug(peer)

    def _check_timers(self, peer: Peer, now: float) -> None:
        if peer.transport.fileno() < 0:
            return  # it was closed while another one was handled
        if now >= peer.pong_deadline or now >= peer.close_at:
            self.read_now(peer)  # its answer may be here, unread: then only we are late
            if peer.transport.fileno() < 0:
                return
        # This comes before the keepalive: it is for every peer, even one that answers pings, or that isn't read from.
        may_lag = peer.is_lagging or peer.flow is not None
        if may_lag and not peer.lost and peer.session.state is OPEN:
            self.slow.check_progress(peer, now)
            if peer.session.state is not OPEN:
                return
        action = self.timers.due(peer, now)
        if isinstance(action, EndRest):
            # A peer that always says too much rests at every tick. It is pinged all the same.
            self._carry_out(action)
            action = self.timers.due(peer, now) if peer.transport.fileno() >= 0 else None
        if action is not None:
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        """Carry out a decision of the timers or the memory bound."""
        match action:
            case SendPing(peer, payload):
                peer.session.ping(payload)
                self.sending.send(peer, peer.session.data_to_send())
            case EndRest(peer):
                self.slow.end_rest(peer)
            case SendDeferredClose(peer):
                self.send_deferred_close(peer)
            case Close(peer, code, reason, cause):
                self.close(peer, code, reason, cause, with_the_rest=False)
            case Drop(peer, cause, why):
                self.drop(peer, cause, why)
            case CloseAndDrop(peer, code, reason, cause, why):
                self.close(peer, code, reason, cause, with_the_rest=False)
                self.drop(peer, cause, why)
            case EndHistory(room):
                room.end_history()
                if room in self.timers.aging:
                    self.timers.expire(room)
            case ForgetMessages(inbox):
                inbox.forget()
            case Cancel(scope):
                scope.cancel()
            case _:
                assert_never(action)

    # Deferred work

    def _notify_watchers(self) -> None:
        for watcher, room, data in self.presence.take():
            try:
                self.sending.send(watcher, data)
                if watcher in room.watchers:
                    self.slow.check_notices(watcher, room, len(data))
            except Exception:
                self.abort_after_bug(watcher)

    @trio.lowlevel.enable_ki_protection
    async def _run_deferred_work(self) -> None:
        """Do the work that no poller reports.

        This carries out the calls of other threads, notifies watchers and the program, flushes what `send_soon` has
        queued, does a step of encoding, and reads data that is here already.
        """
        from_threads = self.from_threads
        while True:
            has_work = self.sending.has_queued or self.presence.has_news or self.encoding_jobs.has_work
            if not (has_work or self.calls or self.sockets.has_waiting or from_threads.has_work):
                await self._idle.park()
            if from_threads.has_work:
                from_threads.do_some()
                await trio.lowlevel.checkpoint()
            self._notify_watchers()
            self.calls.make_some()
            if self.calls:
                await trio.lowlevel.checkpoint()
            self.sending.flush_those_queued()
            if self.encoding_jobs.has_work:
                self.sending.do_work()
                await trio.lowlevel.checkpoint()
            if self.sockets.has_waiting:
                self._take_turns()
                await trio.lowlevel.checkpoint()


def _import_in_thread(load: Callable[[], None]) -> None:
    """Import in a thread. In this one, all peers would wait for 50 to 150 ms."""
    with contextlib.suppress(RuntimeError):  # no thread can be started: rawws is slower without numpy
        threading.Thread(target=load, name="rawws: import of numpy").start()
