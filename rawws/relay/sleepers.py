"""Tasks that sleep until something happens to a connection."""

from __future__ import annotations

import trio


class Sleepers:
    """Tasks that sleep until they are all woken together.

    trio's ``ParkingLot`` can also wake a few of them, in order. That costs twice as much, which counts where a task
    sleeps before each message.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: list[trio.lowlevel.Task] = []

    @trio.lowlevel.enable_ki_protection
    async def sleep(self) -> None:
        """Sleep until `wake` is called. Cancelling wakes this task alone."""
        task = trio.lowlevel.current_task()
        self._tasks.append(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tasks.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def wake(self) -> None:
        """Wake every task that sleeps."""
        if self._tasks:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                trio.lowlevel.reschedule(task)
