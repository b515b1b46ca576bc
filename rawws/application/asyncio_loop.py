"""A loop of asyncio in a thread of its own, in which an application runs.

The loop that serves the peers stays on trio, in the main thread. An application that blocks its own loop, or that waits
for a library which does, delays its own responses and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

import sniffio
import trio

from rawws import logs
from rawws.application.asyncio_call import AsyncioCall
from rawws.application.asyncio_side import AsyncioSide
from rawws.application.handover import Handover
from rawws.application.loop import GRACE_S, ReceiveNow, Track
from rawws.application.outbox import Outbox
from rawws.application.parcels import Parcel
from rawws.application.server_side import ServerSide
from rawws.application.spec import Application, Receive, Scope, Send
from rawws.errors import RawwsError, UsageError
from rawws.wire.trace import FAULT

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
        self._calls: set[AsyncioCall] = set()
        self.failure: BaseException | None = None

    def describe(self) -> str:
        return f"{self.name}, in a thread of its own"

    @contextlib.asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        if self._thread is not None:
            raise UsageError("this loop runs already; each server has one of its own")
        self._nursery = nursery
        thread = self._thread = _Thread(self._make_loop, self._give_up)
        thread.start()
        try:
            yield
        finally:
            await thread.stop()
            self._thread = self._nursery = None
            self.failure = thread.error

    def _give_up(self, *, is_early: bool) -> None:
        """The loop has ended, so that nothing can be answered any more."""
        for call in list(self._calls):
            call.give_up(RawwsError("the loop in which the application runs has ended"))
        if is_early and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def begin(
        self,
        app: Application,
        scope: Scope,
        receive: Receive,
        send: Send,
        receive_now: ReceiveNow | None = None,
        track: Track | None = None,
    ) -> AsyncioCall:
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
        call = AsyncioCall(ours, theirs, thread.inbox.post, self._calls.discard)
        self._calls.add(call)
        return call

    async def call(
        self,
        app: Application,
        scope: Scope,
        receive: Receive,
        send: Send,
        receive_now: ReceiveNow | None = None,
        track: Track | None = None,
    ) -> None:
        await self.begin(app, scope, receive, send, receive_now, track).follow(bool)


class _Thread(trio.abc.Instrument):
    """The thread in which a loop of asyncio runs. The server's thread owns this object.

    As an instrument of trio's, it learns when the server's thread has nothing else to do. Only then is the
    application's thread woken, for all that was posted in this turn. If it were woken earlier, both would compete for
    Python's lock.
    """

    def __init__(self, make_loop: MakeLoop | None, on_end: _OnEnd) -> None:
        """``on_end`` is called in the server's thread when the loop has ended."""
        self._make_loop = make_loop
        self._on_end = on_end
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: one that an application keeps for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="rawws-application", daemon=True)
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # as long as it runs
        self._server_posts: Callable[[], None] | None = None  # for the application's thread, which isn't woken yet
        self._over = trio.Event()
        self._is_stopping = False
        self.error: BaseException | None = None  # that has ended the loop

    @property
    def has_ended(self) -> bool:
        return self._over.is_set()

    def start(self) -> None:
        """Start the thread, and wait until its loop runs, which takes about a millisecond."""
        self.inbox = Handover(self._wake)
        self._thread.start()
        self._is_up.wait()
        trio.lowlevel.add_instrument(self)

    async def stop(self) -> None:
        """Stop the loop. Tasks that still run in it are cancelled, and have `GRACE_S` to end."""
        self._is_stopping = True
        if not self.has_ended:
            self.inbox.post(self._begin_end)
        with trio.CancelScope(deadline=trio.current_time() + GRACE_S, shield=True) as patience:
            await self._over.wait()
        trio.lowlevel.remove_instrument(self)
        if patience.cancelled_caught:
            text = f"the application's loop did not end within {GRACE_S:g} seconds of its cancellation"
            logs.server_line(logging.ERROR, FAULT, f"{text}{self._place()}; it is left alone")

    def _wake(self, call: Callable[[], None]) -> None:
        self._server_posts = call

    def before_io_wait(self, timeout: float) -> None:
        if self._server_posts is not None:
            call, self._server_posts = self._server_posts, None
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed; every call gets to know that
                    self._loop.call_soon_threadsafe(call)

    def _place(self) -> str:
        """Return where the application's thread is at present."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return ""
        last = traceback.extract_stack(frame)[-1]
        return f" (it is at {last.filename}:{last.lineno}, in {last.name})"

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
        self._way_out = Outbox(self._wake_server, self._loop.call_soon)
        self._is_up.set()
        await self._end.wait()

    def _begin_end(self) -> None:
        self._end.set()

    def start_call(self, call: AsyncioSide, app: Application, scope: Scope, context: contextvars.Context) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._way_out.run(call.run(app, scope)), context=context)
        self._tasks.add(task)  # the loop itself keeps no task alive

    def end_call(self) -> None:
        """Forget the task that runs now, whose last parcel crosses with its last step."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)

    def to_server(self, take: Callable[[Parcel], None]) -> Callable[[Parcel], None]:
        """Return a function that hands parcels to the server's thread."""
        return lambda parcel: self._way_out.post(take, parcel)

    def _wake_server(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)
