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
from rawws.application.asyncio_call import AsyncioCall
from rawws.application.asyncio_side import AsyncioSide
from rawws.application.handover import Handover
from rawws.application.loop import GRACE_S, Channel
from rawws.application.outbox import Outbox
from rawws.application.parcels import Parcel
from rawws.application.server_side import ServerSide
from rawws.application.spec import Application, Scope
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
        self._calls: set[AsyncioCall] = set()
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
        for call in list(self._calls):
            call.give_up(RawwsError("the loop in which the application runs has ended"))
        if is_early and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def begin(self, app: Application, scope: Scope, channel: Channel) -> AsyncioCall:
        thread, nursery = self._thread, self._nursery
        if thread is None or nursery is None or thread.has_ended:
            raise UsageError("an application on asyncio can be called only while its loop runs")
        ours = ServerSide(channel, thread.inbox.post, nursery)
        if channel.track is not None:
            channel.track(lambda: ours.held_bytes)
        first = None if channel.receive_now is None else channel.receive_now()
        theirs = ours.other = AsyncioSide(thread.to_server(ours.take), thread.end_call, first)
        context = contextvars.copy_context()
        if sniffio.current_async_library_cvar.get() is not None:
            context.run(sniffio.current_async_library_cvar.set, None)  # that of the server's loop
        thread.inbox.post(partial(thread.start_call, theirs, app, scope, context))
        call = AsyncioCall(
            ours,
            theirs,
            thread.inbox.post,
            self._calls.discard,
            thread.patience,
            partial(self._leave_alone, thread),
        )
        self._calls.add(call)
        return call

    async def call(self, app: Application, scope: Scope, channel: Channel) -> None:
        await self.begin(app, scope, channel).follow(bool)

    def _leave_alone(self, thread: _Thread, call: AsyncioSide) -> None:
        """Tell of a call that goes on after its cancellation."""
        if thread.is_blocked:
            thread.tell_blocked()
        elif self._left_alone is not None:
            self._left_alone.add(call.place())


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


class _Thread(trio.abc.Instrument):
    """The thread in which a loop of asyncio runs. The server's thread owns this object.

    As an instrument of trio's, it learns when the server's thread has nothing else to do. Only then is the
    application's thread woken, for all that was posted in this turn. If it were woken earlier, both would compete for
    Python's lock. In the other direction, it makes the application's calls as soon as trio has woken up, so that the
    tasks that wait for them run in this very turn.
    """

    def __init__(self, make_loop: MakeLoop | None, on_end: _OnEnd) -> None:
        """``on_end`` is called in the server's thread when the loop has ended."""
        self._make_loop = make_loop
        self._on_end = on_end
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: one that an application keeps for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # as long as it runs
        self._server_posts: Callable[[], None] | None = None  # for the application's thread, which isn't woken yet
        self._application_posts: Callable[[], None] | None = None  # for the server's thread, which is being woken
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
        trio.lowlevel.add_instrument(self)

    async def stop(self, *, is_told_of: bool) -> None:
        """Stop the loop. Tasks that still run in it are cancelled, and have `GRACE_S` to end.

        ``is_told_of`` says that the log has named such tasks already.
        """
        self._is_stopping = True
        if not self.has_ended:
            self.inbox.post(self._begin_end)
        with trio.CancelScope(deadline=trio.current_time() + self.patience(), shield=True) as patience:
            await self._over.wait()
        trio.lowlevel.remove_instrument(self)
        if not patience.cancelled_caught:
            return
        if self.is_blocked:
            self.tell_blocked()
        elif not is_told_of:
            text = f"the application's loop did not end within {GRACE_S:g} seconds of its cancellation"
            logs.server_line(logging.ERROR, FAULT, f"{text}; it is left alone")

    def _wake(self, call: Callable[[], None]) -> None:
        self._server_posts = call
        self._woken_at = trio.current_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._server_posts is not None:
            call, self._server_posts = self._server_posts, None
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed; every call gets to know that
                    self._loop.call_soon_threadsafe(self._heed, call)

    def after_io_wait(self, timeout: float) -> None:
        self._make_posted_calls()

    def _make_posted_calls(self) -> None:
        call, self._application_posts = self._application_posts, None
        if call is not None:
            call()

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

    def patience(self) -> float:
        """Return the seconds that something cancelled in the loop has to end: none while the loop is blocked."""
        return 0.0 if self.is_blocked else GRACE_S

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
        self._way_out = Outbox(self._wake_server, self._loop.call_soon)
        self._is_up.set()
        await self._end.wait()

    def _begin_end(self) -> None:
        self._end.set()

    def start_call(self, call: AsyncioSide, app: Application, scope: Scope, context: contextvars.Context) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._way_out.run(call.run(app, scope)), context=context)
        self._tasks.add(task)  # the loop itself keeps no task alive
        if task.done():  # as one may be in a loop whose tasks begin eagerly
            self._tasks.discard(task)

    def end_call(self) -> None:
        """Forget the task that runs now, whose last parcel crosses with its last step."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)

    def to_server(self, take: Callable[[Parcel], None]) -> Callable[[Parcel], None]:
        """Return a function that hands parcels to the server's thread."""
        return lambda parcel: self._way_out.post(take, parcel)

    def _wake_server(self, call: Callable[[], None]) -> None:
        self._application_posts = call  # the only one: the outbox wakes the server anew when this has been made
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._make_posted_calls)  # it finds none if the instrument was first
