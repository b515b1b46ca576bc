"""A loop of asyncio in a thread of its own, in which an application runs.

The loop that serves the peers stays on trio, in the main thread. An application that blocks its own loop, or that waits
for a library which does, delays its own responses and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

import sniffio
import trio

from rawws import logs
from rawws.application.asyncio_side import AsyncioSide
from rawws.application.handover import Handover
from rawws.application.loop import GRACE_S, ReceiveNow, Track
from rawws.application.parcels import Ended, Parcel
from rawws.application.server_side import ServerSide
from rawws.application.spec import Application, Receive, Scope, Send
from rawws.application.whereabouts import THREAD_NAME, place_of_thread
from rawws.errors import RawwsError, UsageError
from rawws.wire.trace import FAULT

# Calls that are cancelled together, and don't end, have one line in the log.
MOMENT_S = 0.05

MakeLoop = Callable[[], asyncio.AbstractEventLoop]


class _OnEnd(Protocol):
    def __call__(self, *, is_early: bool) -> None:
        """The loop has ended; ``is_early`` if nobody has stopped it."""


class AsyncioLoop:
    """An `ApplicationLoop` of asyncio. One object is for one server at a time."""

    def __init__(self, name: str = "asyncio", make_loop: MakeLoop | None = None) -> None:
        """``make_loop`` makes the event loop, in the application's thread; by default it is asyncio's own."""
        self.name = name
        self._make_loop = make_loop
        self._thread: _Thread | None = None
        self._nursery: trio.Nursery | None = None
        self._calls: set[ServerSide] = set()
        self._left_alone: LeftAlone | None = None
        self.failure: BaseException | None = None

    def describe(self) -> str:
        return f"{self.name}, in a thread of its own"

    @contextlib.asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        if self._thread is not None:
            raise UsageError("this loop runs already; each server has one of its own")
        self._nursery = nursery
        self._left_alone = LeftAlone(nursery)
        thread = self._thread = _Thread(self._make_loop, self._give_up)
        thread.start()
        try:
            yield
        finally:
            await thread.stop(is_told_of=self._left_alone.has_any)
            self._thread = self._nursery = None
            self.failure = thread.error

    async def wait_blocked(self) -> None:
        assert self._thread is not None
        await self._thread.wait_blocked()

    def _give_up(self, *, is_early: bool) -> None:
        """The loop has ended, so that nothing can be answered any more."""
        for call in self._calls:
            call.take(Ended(RawwsError("the loop in which the application runs has ended")))
        if is_early and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def call(
        self,
        app: Application,
        scope: Scope,
        receive: Receive,
        send: Send,
        receive_now: ReceiveNow | None = None,
        track: Track | None = None,
    ) -> None:
        thread, nursery = self._thread, self._nursery
        if thread is None or nursery is None or thread.has_ended:
            raise UsageError("an application on asyncio can be called only while its loop runs")
        ours = ServerSide(receive, send, thread.inbox.post, nursery, receive_now)
        if track is not None:
            track(lambda: ours.held_bytes)
        first = None if receive_now is None else receive_now()
        theirs = ours.other = AsyncioSide(thread.to_server(ours.take), thread.end_call, first)
        context = contextvars.copy_context()
        if sniffio.current_async_library_cvar.get() is not None:
            context.run(sniffio.current_async_library_cvar.set, None)  # that of the server's loop
        thread.inbox.post(partial(thread.start_call, theirs, app, scope, context))
        self._calls.add(ours)
        try:
            error = await ours.serve()
        except trio.Cancelled:
            thread.inbox.post(theirs.cancel)
            error = await self._wait_cancelled(ours, theirs, thread)
            if error is None:
                raise
        finally:
            self._calls.discard(ours)
            ours.close()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame

    async def _wait_cancelled(self, ours: ServerSide, theirs: AsyncioSide, thread: _Thread) -> BaseException | None:
        """Return the error that a cancelled call has raised, if it is one of its own.

        A call may take `GRACE_S` to end.
        """
        patience_s = 0.0 if thread.is_blocked else GRACE_S
        with trio.CancelScope(deadline=trio.current_time() + patience_s, shield=True):
            return await ours.serve_cancelled()
        if thread.is_blocked:
            thread.tell_blocked()
        elif self._left_alone is not None:
            self._left_alone.add(theirs.place())
        return None


class LeftAlone:
    """The calls that go on after their cancellation: one line in the log for those of a moment."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._places: list[str] = []
        self.has_any = False

    def add(self, place: str) -> None:
        """Note a call, and where it is."""
        self.has_any = True
        self._places.append(place)
        if len(self._places) == 1:
            self._nursery.start_soon(self._tell)

    async def _tell(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(MOMENT_S)
        places, self._places = self._places, []
        is_one = len(places) == 1
        what = "a call of the application" if is_one else f"{len(places)} calls of the application"
        place = next(filter(None, places), "")
        where = f" ({'it' if is_one else 'one'} is at {place})" if place else ""
        after = f"within {GRACE_S:g} seconds of {'its' if is_one else 'their'} cancellation{where}"
        text = f"{what} did not end {after}; {'it is' if is_one else 'they are'} left alone"
        logs.server_line(logging.ERROR, FAULT, text)


class _Thread:
    """The thread in which a loop of asyncio runs. The server's thread owns this object."""

    def __init__(self, make_loop: MakeLoop | None, on_end: _OnEnd) -> None:
        """``on_end`` is called in the server's thread when the loop has ended."""
        self._make_loop = make_loop
        self._on_end = on_end
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: one that an application keeps for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # as long as it runs
        self._over = trio.Event()
        self._is_stopping = False
        self._woken_at: float | None = None  # the time of a wakeup that the loop hasn't heeded yet
        self._is_told_blocked = False
        self.error: BaseException | None = None  # that has ended the loop

    @property
    def has_ended(self) -> bool:
        return self._over.is_set()

    def start(self) -> None:
        """Start the thread, and wait until its loop runs, which takes about a millisecond."""
        self.inbox = Handover(self._wake)
        self._thread.start()
        self._is_up.wait()

    async def stop(self, *, is_told_of: bool) -> None:
        """Stop the loop. Tasks that still run in it are cancelled, and have `GRACE_S` to end.

        ``is_told_of`` says that the log has named such tasks already.
        """
        self._is_stopping = True
        if not self.has_ended:
            self.inbox.post(self._begin_end)
        patience_s = 0.0 if self.is_blocked else GRACE_S
        with trio.CancelScope(deadline=trio.current_time() + patience_s, shield=True) as patience:
            await self._over.wait()
        if not patience.cancelled_caught:
            return
        if self.is_blocked:
            self.tell_blocked()
        elif not is_told_of:
            text = f"the application's loop did not end within {GRACE_S:g} seconds of its cancellation"
            logs.server_line(logging.ERROR, FAULT, f"{text}; it is left alone")

    def _wake(self, call: Callable[[], None]) -> None:
        if self._loop is not None:
            self._woken_at = trio.current_time()
            with contextlib.suppress(RuntimeError):  # the loop is closed; every call gets to know that
                self._loop.call_soon_threadsafe(self._heed, call)

    def _heed(self, call: Callable[[], None]) -> None:
        """In the application's thread: the loop has a turn."""
        self._woken_at = None
        self._is_told_blocked = False
        call()

    @property
    def _blocked_s(self) -> float:
        """The time for which the loop hasn't heeded a wakeup."""
        woken_at = self._woken_at
        return 0.0 if woken_at is None or self.has_ended else trio.current_time() - woken_at

    @property
    def is_blocked(self) -> bool:
        """Whether the application blocks the loop, and has done so for `GRACE_S` since something was to reach it."""
        return self._blocked_s >= GRACE_S

    async def wait_blocked(self) -> None:
        """Return when the loop is blocked. The log says so."""
        while not self.is_blocked:
            await trio.sleep(max(0.01, GRACE_S - self._blocked_s))
        self.tell_blocked()

    def tell_blocked(self) -> None:
        """Log that the loop is blocked, and where, once."""
        if self._is_told_blocked:
            return
        self._is_told_blocked = True
        text = f"the application blocks its loop, in the thread {THREAD_NAME!r} at {place_of_thread(self._thread)}"
        remedy = "have a function that takes long run in a thread of its own: await asyncio.to_thread(function)"
        logs.server_line(logging.ERROR, FAULT, f"{text}; it is left alone; {remedy}")

    # In the server's thread, called by the application's

    def _has_ended(self, error: BaseException | None) -> None:
        self._over.set()
        if not self._is_stopping:
            self.error = error or RawwsError("the application has stopped the loop in which it runs")
        self._on_end(is_early=not self._is_stopping)

    # In the application's thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=self._make_loop) as runner:
                runner.run(self._main())
        except BaseException as raised:
            error = raised
        finally:
            self._is_up.set()
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._has_ended, error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._end = asyncio.Event()
        self._outgoing = Handover(self._wake_server)
        self._server_call: Callable[[], None] | None = None  # for the server's thread, which isn't woken yet
        self._is_up.set()
        await self._end.wait()

    def _begin_end(self) -> None:
        self._end.set()

    def start_call(self, call: AsyncioSide, app: Application, scope: Scope, context: contextvars.Context) -> None:
        assert self._loop is not None
        task = self._loop.create_task(call.run(app, scope), context=context)
        self._tasks.add(task)  # the loop itself keeps no task alive

    def end_call(self) -> None:
        """Forget the task that runs now, and hand over its last parcel at once."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        self._wake_server_now()

    def to_server(self, take: Callable[[Parcel], None]) -> Callable[[Parcel], None]:
        """Return a function that hands parcels to the server's thread."""
        return lambda parcel: self._outgoing.post(partial(take, parcel))

    def _wake_server(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        self._server_call = call
        # At the end of this turn of the loop, so that what the turn still does crosses together with this.
        self._loop.call_soon(self._wake_server_now)

    def _wake_server_now(self) -> None:
        if self._server_call is not None:
            call, self._server_call = self._server_call, None
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(call)
