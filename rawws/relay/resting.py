"""Connections that rest between two requests, watched by one poller.

A connection in its HTTP phase has a task of its own. If each task waited for its own socket, each request would cost a
cancel scope for the time limit, a system call that arms trio's poller, one that finds nothing to receive, and a switch
of tasks. So the tasks are parked here. One task receives for all of them, and has each connection *take* the bytes. A
connection that can act on them at once goes on resting, and its own task isn't woken.

All connections of a server may rest equally long. So they stand in the order in which their time is over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import trio

from rawws.net.transport import Transport
from rawws.relay.ready_sockets import ReadySockets

# Takes bytes that have arrived, empty at the end of the stream. Returns whether the connection goes on resting.
Take = Callable[[bytes], bool]

# The most connections that take bytes before other tasks run, and the time after which fewer do. Connections that
# don't rest any longer run then, so this also bounds how many of them run in a row.
MOST_AT_ONCE = 16
TURN_S = 0.001
# After a look in vain, the next ones are left out (a guess).
LOOK_EVERY = 16


class _Rest:
    """A connection that rests, and how that has ended."""

    __slots__ = ("error", "has_arrived", "take", "task", "transport", "until")

    def __init__(self, transport: Transport, take: Take, until: float, task: trio.lowlevel.Task) -> None:
        self.transport = transport
        self.take = take
        self.until = until
        self.task = task
        self.has_arrived = False  # bytes that have ended it
        self.error: BaseException | None = None  # of receiving, or of taking


class SecondLook:
    """Decides whether to look for data again before the poller is waited for.

    A client on this machine, or a busy one, often sends its next request before other tasks have had their turn. To
    find it then costs half as much as to wait for it. To look in vain costs as much as is saved.
    """

    def __init__(self) -> None:
        self._skipped = 0  # since the last look
        self._was_worth_it = True

    def is_due(self) -> bool:
        """Say whether to look again: if that was worth it last time, and now and then to see whether it is."""
        self._skipped += 1
        return self._was_worth_it or self._skipped >= LOOK_EVERY

    def note(self, found: bool) -> None:
        """Record whether there was data."""
        self._skipped = 0
        self._was_worth_it = found


class Resting:
    """The resting connections of one server."""

    def __init__(self) -> None:
        self._sockets: ReadySockets | None = None  # within `running`
        self._rests: dict[int, _Rest] = {}  # by descriptor; the one whose time is over first comes first
        self._rest_s = 0.0
        self._watched: set[int] = set()  # the descriptors that the poller has
        self._is_over = False  # nothing rests any more
        self._second_look = SecondLook()
        self._first = trio.lowlevel.ParkingLot()  # where the timer waits for a connection

    def __len__(self) -> int:
        """Return how many connections rest."""
        return len(self._rests)

    @trio.lowlevel.enable_ki_protection
    async def rest(self, transport: Transport, take: Take, rest_s: float) -> bool:
        """Have a connection take what arrives until it doesn't rest any longer.

        Returns False if ``rest_s`` seconds are over since it took something, or when `end` is called; then bytes may
        have arrived that nobody has received. ``rest_s`` is the same for all connections. Raises OSError when the
        connection is lost, and what ``take`` raises. Cancelling loses no bytes.
        """
        while transport.has_pending:  # the poller doesn't know of it
            await trio.lowlevel.checkpoint()
            if (data := transport.try_receive()) is not None and not take(data):
                return True
        if self._is_over:
            return False
        fd = transport.fileno()
        self._watch(fd)
        self._rest_s = rest_s
        rest = _Rest(transport, take, trio.current_time() + rest_s, trio.lowlevel.current_task())
        if not self._rests:
            self._first.unpark_all()
        self._rests[fd] = rest

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._rests[fd]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if rest.error is not None:
            try:
                raise rest.error
            finally:
                del rest  # the error's traceback has this frame
        return rest.has_arrived

    def forget(self, transport: Transport) -> None:
        """Stop watching a connection that is about to be closed, or to be watched by another one."""
        self._unwatch(transport.fileno())

    def end(self) -> None:
        """End every rest; from now on there is none."""
        self._is_over = True
        for fd in list(self._rests):
            self._wake(fd)

    # Watching

    def _watch(self, fd: int) -> None:
        if fd not in self._watched:
            assert self._sockets is not None, "connections rest only while the server runs"
            self._sockets.add(fd)
            self._watched.add(fd)

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.discard(fd)
            if self._sockets is not None:
                with contextlib.suppress(OSError):  # of a socket that is closed
                    self._sockets.remove(fd)

    def _wake(self, fd: int) -> None:
        trio.lowlevel.reschedule(self._rests.pop(fd).task)

    # Its tasks

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Return a context within which connections may rest."""
        self._sockets = ReadySockets()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_all, self._sockets)
                nursery.start_soon(self._run_timer)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._sockets.close()
            self._sockets = None

    @trio.lowlevel.enable_ki_protection
    async def _receive_all(self, sockets: ReadySockets) -> None:
        """Receive for the resting connections until cancelled."""
        while True:
            await sockets.wait()
            found = self._take_turn(sockets)
            while found and (sockets.has_waiting or self._second_look.is_due()):
                await trio.lowlevel.checkpoint()
                found = self._take_turn(sockets)
                self._second_look.note(found)

    def _take_turn(self, sockets: ReadySockets) -> bool:
        """Receive for connections that have data, each once. Return whether there were any."""
        now = trio.current_time()
        if len(self._watched) == len(self._rests) == 1 and not sockets.has_waiting:  # the poller can mean no other
            (fd,) = self._rests
            return self._receive(sockets, fd, now)
        until = time.perf_counter() + TURN_S
        left = MOST_AT_ONCE
        while listed := sockets.take():
            ready = iter(listed)
            for fd, _ in ready:
                self._receive(sockets, fd, now)
                left -= 1
                if left <= 0 or time.perf_counter() > until:
                    sockets.put_back(ready)
                    return True
            if len(listed) == 1:  # a client that has just been answered has not sent again yet
                break
        return left < MOST_AT_ONCE

    def _receive(self, sockets: ReadySockets, fd: int, now: float) -> bool:
        """Receive for a connection once. Return whether there was something."""
        rest = self._rests.get(fd)
        if rest is None:  # its task is at work, and the poller would report the socket until it has received
            self._unwatch(fd)
            return False
        try:
            data = rest.transport.try_receive()
            rest.has_arrived = data is not None and not rest.take(data)
        except Exception as error:
            rest.error = error
        if rest.has_arrived or rest.error is not None:
            self._wake(fd)
            return True
        if data is not None:
            self._go_on(fd, rest, now)
        if rest.transport.has_pending:  # the poller doesn't know of it
            sockets.add_unread(fd)
        return data is not None

    def _go_on(self, fd: int, rest: _Rest, now: float) -> None:
        """Have a connection rest anew."""
        del self._rests[fd]
        self._rests[fd] = rest
        rest.until = now + self._rest_s

    @trio.lowlevel.enable_ki_protection
    async def _run_timer(self) -> None:
        """Wake the connections whose time is over."""
        while True:
            while not self._rests:
                await self._first.park()
            await trio.sleep_until(next(iter(self._rests.values())).until)
            now = trio.current_time()
            while (fd := self._find_over(now)) is not None:
                self._wake(fd)

    def _find_over(self, now: float) -> int | None:
        """Return the connection whose time is over first, if it is."""
        for fd, rest in self._rests.items():
            return fd if rest.until <= now else None
        return None
