"""Calls from other threads than the loop's, such as `rawws.Room.publish`: the loop carries them out in their order.

A thread puts its call into a queue, and wakes the loop, once for all calls that have come since the loop has looked.
The loop carries out what has come, between two of its turns, for about a millisecond at a time. Messages of one
room go out together, as those of one turn do.

The order of each thread is kept. Code in trio's thread that publishes comes after everything that other threads have
put before: they may have told it to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import trio

from rawws import logs
from rawws.broadcast.outbox import Outgoing
from rawws.errors import NotServing, PublishError, RawwsError, sentence_of
from rawws.relay.encoding_jobs import SENT_AT_ONCE_BYTES
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.relay.sending import Sending
from rawws.relay.thread_queue import Outcome, ThreadQueue
from rawws.wire.trace import FAULT

# The loop carries out calls for about this long before other tasks run.
STEP_S = 0.001
# The memory of a message that waits, besides its frames (measured).
CALL_BYTES = 260

_ENDED = "the message can't be published, since the program's trio.run has ended"
_FORKED = (
    "the message can't be published, since this process is a fork of the server's; publish over HTTP, or before it"
)


class Publication:
    """Messages to be published in a room: frames without mask."""

    __slots__ = ("frames", "held_bytes", "key", "outcome", "room")

    def __init__(
        self, room: RoomState, frames: list[bytes | bytearray], key: str | None, outcome: Outcome | None = None
    ) -> None:
        """``outcome`` is for a single message, and becomes its id."""
        self.room = room
        self.frames = frames
        self.key = key
        self.outcome = outcome
        self.held_bytes = CALL_BYTES + sum(map(len, frames))

    def carry_out(self, batch: Batch) -> None:
        room, outcome = self.room, self.outcome
        is_held = room.holds or (room.shared is not None and room.shared.is_full)
        if outcome is not None and is_held and not room.is_refused:
            batch.calls.publish_when_ready(self)
        elif outcome is None or outcome.begin():
            batch.publish(self)


class Function:
    """A function to be called in trio's thread, after all earlier calls."""

    __slots__ = ("_function", "held_bytes", "outcome")

    def __init__(self, function: Callable[[], object], outcome: Outcome | None = None) -> None:
        """``outcome`` becomes the function's result."""
        self._function = function
        self.outcome = outcome
        self.held_bytes = CALL_BYTES

    def carry_out(self, batch: Batch) -> None:
        if self.outcome is not None and not self.outcome.begin():
            return
        batch.send()
        result = self._function()
        if self.outcome is not None:
            self.outcome.succeed(result)


class Batch:
    """Messages that are added to their rooms one after the other, and then sent together."""

    def __init__(self, calls: FromThreads, sending: Sending) -> None:
        self.calls = calls
        self._sending = sending
        self._rooms: dict[RoomState, None] = {}
        self._numbers: list[tuple[Publication, int]] = []
        self.sends = 0  # the bytes that these messages make, over all peers that are sent them

    def publish(self, publication: Publication) -> None:
        """Add messages to the log of their room, or give them to its backplane."""
        room, outcome = publication.room, publication.outcome
        if room.shared is not None:
            if outcome is None:
                room.shared.take(room, publication.frames, NOBODY, publication.key)
                return
            history = room.settings.history
            (message,) = Outgoing.split(room.path, publication.frames, history, NOBODY, publication.key)
            message.on_done = partial(_tell, message, outcome)
            room.shared.publish(message)
            return
        room.add(publication.frames, NOBODY, publication.key)
        self._rooms[room] = None
        self.sends += publication.held_bytes * (1 + len(room))
        if outcome is not None:
            self._numbers.append((publication, room.log.next_message - 1))

    def send(self) -> None:
        """Send what was added, and tell the threads that wait for an id."""
        rooms, self._rooms = self._rooms, {}
        for room in rooms:
            publish_added(room, self._sending)
        numbers, self._numbers = self._numbers, []
        for publication, number in numbers:
            cast(Outcome, publication.outcome).succeed(publication.room.log.label(number))


def publish_added(room: RoomState, sending: Sending) -> tuple[int, int, int]:
    """Send the messages that were added to a room, and return the number of peers for each case of a `Delivery`."""
    if len(room):
        return sending.broadcast(room)
    room.seal_all()
    return 0, 0, 0


def _tell(message: Outgoing, outcome: Outcome) -> None:
    """Tell a thread what has become of a message that went to the backplane."""
    if message.problem:
        outcome.fail(PublishError(f"this message can't be published: {message.problem}"))
    else:
        outcome.succeed(message.label)


class FromThreads:
    """The calls from other threads for one loop."""

    def __init__(self, sending: Sending, schedule: Callable[[], None]) -> None:
        """``schedule`` is called in trio's thread when there is work for `do_some`."""
        self._token = trio.lowlevel.current_trio_token()
        self._schedule = schedule
        self.queue = ThreadQueue(self._wake)
        self._sending = sending
        self._taken: deque[Any] = deque()
        self._is_busy = False
        self.is_forked = False  # this process has the loop's memory, and not the loop
        _running.append(self)

    def _wake(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # `end` has carried out the call
            self._token.run_sync_soon(self._schedule)

    @property
    def has_work(self) -> bool:
        """Whether there are calls to carry out."""
        return bool(self._taken) or len(self.queue) > 0

    @property
    def is_over(self) -> bool:
        """Whether no call is accepted any more."""
        return bool(self.queue.ended)

    def held_bytes(self) -> int:
        """Return the bytes of memory of all calls that wait."""
        return self.queue.waiting_bytes

    def do_some(self) -> None:
        """Carry out calls for about a millisecond."""
        self._do(time.perf_counter() + STEP_S)

    def do_all(self) -> None:
        """Carry out all calls that have been put by now."""
        if not self._is_busy:  # or a call here has led to this one
            self._do(None)

    def _do(self, until: float | None) -> None:
        self._taken += self.queue.take()
        batch, released = Batch(self, self._sending), 0
        self._is_busy = True
        try:
            while self._taken:
                call = self._taken.popleft()
                released += call.held_bytes
                self._carry_out(call, batch)
                if batch.sends > SENT_AT_ONCE_BYTES:
                    batch.send()
                    batch.sends = 0
                if until is not None and time.perf_counter() > until:
                    break
            batch.send()
        finally:
            self._is_busy = False
            self.queue.release(released)

    def _carry_out(self, call: Any, batch: Batch) -> None:
        try:
            call.carry_out(batch)
        except Exception as error:
            if call.outcome is not None:
                call.outcome.fail(error)
            elif isinstance(error, RawwsError):
                message = f"a call from another thread has failed: {sentence_of(error)}"
                logs.server_line(logging.ERROR, FAULT, message)
            else:
                logs.server.exception("#%d ! a call from another thread has failed", logs.SERVER)

    def publish_when_ready(self, publication: Publication) -> None:
        """Publish a message, for whose id a thread waits, when publishers in its room are no longer held back."""
        trio.lowlevel.spawn_system_task(self._publish_when_ready, publication)

    @trio.lowlevel.enable_ki_protection
    async def _publish_when_ready(self, publication: Publication) -> None:
        is_ready = False
        try:
            await publication.room.ready()
            is_ready = True
        finally:
            if not is_ready and publication.outcome is not None:  # the run ends
                publication.outcome.fail(NotServing(_ENDED))
        batch = Batch(self, self._sending)
        self._carry_out(publication, batch)
        batch.send()

    def end(self) -> None:
        """Accept no more calls, and carry out those that were put before."""
        self.queue.end(_ENDED)
        _running.remove(self)
        self.do_all()


_running: list[FromThreads] = []  # of all loops of this process


def running_loops() -> list[FromThreads]:
    """Return the calls for each loop of this process. Nearly always there is one."""
    return list(_running)


def _forget_in_child() -> None:
    for calls in _running:
        calls.is_forked = True
        calls.queue.end_in_child(_FORKED)
    _running.clear()


os.register_at_fork(after_in_child=_forget_in_child)
