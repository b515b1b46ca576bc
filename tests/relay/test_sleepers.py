"""Tasks that sleep until they are all woken together."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from rawws.relay.sleepers import Sleepers


class Woken:
    """Tasks that sleep, each of which leaves its name when it wakes."""

    def __init__(self) -> None:
        self.sleepers = Sleepers()
        self.names: list[str] = []

    async def sleep(self, name: str) -> None:
        await self.sleepers.sleep()
        self.names.append(name)


async def test_all_tasks_are_woken_together() -> None:
    woken = Woken()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(woken.sleep, "one")
        nursery.start_soon(woken.sleep, "two")
        await wait_all_tasks_blocked()
        assert woken.names == []
        woken.sleepers.wake()
    assert sorted(woken.names) == ["one", "two"]


async def test_a_task_that_sleeps_again_needs_another_wake() -> None:
    woken = Woken()

    async def sleep_twice() -> None:
        await woken.sleep("first")
        await woken.sleep("second")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep_twice)
        await wait_all_tasks_blocked()
        woken.sleepers.wake()
        woken.sleepers.wake()  # nobody sleeps: the task has not run yet
        await wait_all_tasks_blocked()
        assert woken.names == ["first"]
        woken.sleepers.wake()
    assert woken.names == ["first", "second"]


async def test_a_cancelled_task_is_no_longer_woken_and_the_others_sleep_on() -> None:
    woken = Woken()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(woken.sleep, "other")
            await wait_all_tasks_blocked()
            scope.cancel()
            await woken.sleep("cancelled")
        await wait_all_tasks_blocked()
        assert woken.names == []
        woken.sleepers.wake()
    assert woken.names == ["other"]


async def test_waking_nobody_does_nothing() -> None:
    Sleepers().wake()
