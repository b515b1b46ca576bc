"""Parcels on their way from the application's thread to the server's, which is woken once for many.

A task of the application often hands over several in a row: the head of a response, its body, and the task's own end.
All that was handed over in one *step* of a call's task, from one wait to the next, crosses when the step is over.
Parcels of other tasks cross in the loop's next turn.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from rawws.application.handover import Handover
from rawws.application.parcels import Parcel

Call = Callable[[], None]


class Outbox:
    """The way out of an application's thread, to which all methods belong."""

    def __init__(self, wake: Callable[[Call], None], call_soon: Callable[[Call], object]) -> None:
        """``wake`` has the server's thread make a call, and ``call_soon`` this thread's loop."""
        self._wake = wake
        self._call_soon = call_soon
        self._handover = Handover(self._note)
        self._noted: Call | None = None  # for the server's thread, which isn't woken yet
        self._is_in_step = False

    def post(self, take: Callable[[Parcel], None], parcel: Parcel) -> None:
        """Have the server's thread take a parcel."""
        self._handover.post(partial(take, parcel))

    def _note(self, call: Call) -> None:
        self._noted = call
        if not self._is_in_step:
            self._call_soon(self._flush)

    def _flush(self) -> None:
        if self._noted is not None:
            call, self._noted = self._noted, None
            self._wake(call)

    async def run(self, task: Coroutine[Any, Any, None]) -> None:
        """Run what a call's task does, and hand over what each step of it has posted."""
        await _Steps(self, task)

    def step(self, resume: Callable[[Any], Any], value: Any) -> Any:
        """Have a task make its next step; return what it waits for. Raises StopIteration when it has ended."""
        self._is_in_step = True
        try:
            return resume(value)
        finally:
            self._is_in_step = False
            self._flush()


class _Steps:
    """An awaitable that does what a coroutine does, step by step."""

    def __init__(self, outbox: Outbox, task: Coroutine[Any, Any, None]) -> None:
        self._way_out = outbox
        self._task = task

    def __await__(self) -> Generator[Any, Any, None]:
        step, task = self._way_out.step, self._task
        resume: Callable[[Any], Any] = task.send
        value: Any = None
        while True:
            try:
                awaited = step(resume, value)
            except StopIteration:
                return
            try:
                value = yield awaited
                resume = task.send
            except GeneratorExit:
                task.close()
                raise
            except BaseException as error:  # of what it has waited for, such as a cancellation
                value = error
                resume = task.throw
