"""The home of a hub: the loop that serves it, and the way there from other threads.

A hub is bound to the loop of the `trio.run` in which it is served, or first used. A hub that is bound to none has its
home in the only loop of the process: a program may hold it for a handler, which joins rooms later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import trio

from rawws.errors import NotServing, UsageError
from rawws.relay.from_threads import FromThreads, Function, Publication, running_loops
from rawws.relay.loop import Loop, current_loop
from rawws.relay.thread_queue import Gate
from rawws.runtime import event_loop_here

_NOT_YET = "nobody serves this hub yet, so its rooms can't be called from a thread; start rawws.serve first"
_WHICH = "several loops run in this process, and none of them serves this hub yet; start rawws.serve with it first"
_NO_MORE = "the server has ended, so the rooms of its hub can't be called from a thread any more"


class Home:
    """The loop of one hub, and the number of its servers."""

    __slots__ = ("_calls", "_gate", "_servers")

    def __init__(self) -> None:
        self._calls: FromThreads | None = None
        self._gate = Gate()
        self._servers = 0

    def loop_here(self) -> Loop | None:
        """Return the loop if it runs in this thread, and else None.

        All earlier calls of other threads have been carried out then. Raises `NotServing` in a forked child.
        """
        if not trio.lowlevel.in_trio_run():
            return None
        loop = current_loop()
        calls = loop.from_threads
        if self._calls is not calls:
            if self._calls is not None and not self._calls.is_over:
                return None  # that of another `trio.run`
            self._bind(calls)
        if calls.is_forked:
            raise NotServing(calls.queue.ended)
        if calls.queue.waiting_bytes:
            calls.do_all()
        return loop

    def _bind(self, calls: FromThreads) -> None:
        self._calls = calls
        self._gate = Gate()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Accept calls of other threads until the end of the block, when those that were accepted are carried out."""
        calls = current_loop().from_threads
        if self._calls is not calls or self._gate.shut:
            self._bind(calls)
        self._servers += 1
        try:
            yield
        finally:
            self._servers -= 1
            if not self._servers:
                calls.queue.shut(self._gate, _NO_MORE)
                calls.do_all()

    # From other threads

    def put(self, call: Publication | Function) -> None:
        """Have the loop carry out a call. Raises `NotServing` and `QueueFull`."""
        calls = self._calls
        if calls is None or calls.is_over:
            ended = _NOT_YET if calls is None else calls.queue.ended
            running = running_loops()
            if len(running) != 1:
                raise NotServing(_WHICH if running else ended)
            (calls,) = running
            self._bind(calls)
        calls.queue.put(call, self._gate, _may_wait)

    def put_and_wait(self, call: Publication | Function, what: str) -> Any:
        """Have the loop carry out a call with an outcome, and return that.

        ``what`` is the function and its arguments for the message of the `UsageError` that the thread of an event loop
        gets.
        """
        refuse_to_wait(what)
        self.put(call)
        assert call.outcome is not None
        return call.outcome.wait()


def refuse_to_wait(what: str) -> None:
    """Raises `UsageError` in the thread of an event loop, which mustn't be blocked."""
    if loop := event_loop_here():
        function, _, arguments = what.partition(", ")
        in_thread = {
            "trio": f"await trio.to_thread.run_sync(lambda: {function}({arguments}, wait=True))",
            "asyncio": f"await asyncio.to_thread({what}, wait=True)",
        }
        raise UsageError(f"{function}(..., wait=True) would block the event loop; use {in_thread[loop]}")


def _may_wait() -> bool:
    return not event_loop_here()
