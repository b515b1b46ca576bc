"""Parcels cross to the server's thread once for each step of a call's task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from rawws.application.outbox import Outbox
from rawws.application.parcels import Parcel

FIRST: Parcel = {"type": "first"}
SECOND: Parcel = {"type": "second"}


class Way:
    """An outbox in the running loop. The other thread makes its calls at once."""

    def __init__(self) -> None:
        self.crossings: list[list[Parcel]] = []
        self.soon: list[Callable[[], None]] = []
        self.outbox = Outbox(self.wake, self.soon.append)

    def wake(self, call: Callable[[], None]) -> None:
        self.crossings.append([])
        call()

    def post(self, parcel: Parcel) -> None:
        self.outbox.post(lambda taken: self.crossings[-1].append(taken), parcel)


def test_a_step_is_over_when_its_task_waits_or_ends() -> None:
    async def call() -> None:
        way.post(FIRST)
        way.post(SECOND)
        assert not way.crossings
        await asyncio.sleep(0)
        way.post(FIRST)

    way = Way()
    asyncio.run(way.outbox.run(call()))
    assert way.crossings == [[FIRST, SECOND], [FIRST]]
    assert not way.soon, "no further turn of the loop is needed"


def test_the_parcels_of_other_tasks_cross_in_the_next_turn() -> None:
    way = Way()
    way.post(FIRST)
    way.post(SECOND)
    assert not way.crossings
    (flush,) = way.soon
    flush()
    assert way.crossings == [[FIRST, SECOND]]
    flush()
    assert len(way.crossings) == 1


def test_values_errors_and_cancellations_reach_the_task() -> None:
    seen: list[Any] = []

    async def call() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, 5)
        seen.append(await future)
        failing = loop.create_future()
        loop.call_soon(failing.set_exception, ValueError("on purpose"))
        try:
            await failing
        except ValueError as error:
            seen.append(str(error))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            raise

    async def main() -> None:
        task = asyncio.create_task(Way().outbox.run(call()))
        while len(seen) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [5, "on purpose", "cancelled"]


def test_a_task_that_is_dropped_is_closed() -> None:
    seen: list[str] = []

    async def call() -> None:
        with contextlib.suppress(ZeroDivisionError):
            try:
                await asyncio.sleep(0)
            finally:
                seen.append("closed")

    running = Way().outbox.run(call())
    running.send(None)
    running.close()
    assert seen == ["closed"]
