"""The lock that costs nothing while it is free."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from rawws.server.quick_lock import QuickLock


async def test_a_free_lock_is_taken_without_a_checkpoint() -> None:
    lock = QuickLock()
    with trio.CancelScope() as scope:
        scope.cancel()
        await lock.acquire()
        assert lock.locked()
        lock.release()
        assert not lock.locked()
    assert not scope.cancelled_caught


async def test_tasks_get_the_lock_in_their_order_and_one_that_gives_up_loses_nothing() -> None:
    lock = QuickLock()
    order: list[int] = []

    async def use(number: int) -> None:
        await lock.acquire()
        order.append(number)
        await trio.lowlevel.checkpoint()
        lock.release()

    await lock.acquire()
    async with trio.open_nursery() as nursery:
        for number in (1, 2):
            nursery.start_soon(use, number)
            await wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await lock.acquire()
        lock.release()
        assert lock.locked(), "it was handed over"
    assert order == [1, 2]
    assert not lock.locked()
