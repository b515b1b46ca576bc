"""Connections in their HTTP phase are let through a few at a time."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.relay.turnstile import LEAST, MOST, Turnstile


async def crowd(turnstile: Turnstile, count: int) -> list[int]:
    """Send tasks through together; return the numbers that passed between two turns of the ready tasks."""
    passed = 0
    rounds: list[int] = []

    async def go_through() -> None:
        nonlocal passed
        await turnstile.pass_through()
        passed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turnstile.run)
        async with trio.open_nursery() as people:
            for _ in range(count):
                people.start_soon(go_through)
            while passed < count:
                before = passed
                await trio.lowlevel.checkpoint()
                rounds.append(passed - before)
        nursery.cancel_scope.cancel()
    return rounds


async def test_a_task_that_comes_alone_does_not_wait() -> None:
    turnstile = Turnstile()
    rounds = await crowd(turnstile, 1)
    assert sum(rounds) == 1
    assert len(rounds) <= 2


async def test_a_crowd_goes_through_a_few_at_a_time_and_all_of_it() -> None:
    rounds = await crowd(Turnstile(), 500)
    assert sum(rounds) == 500
    assert max(rounds) <= 2 * MOST
    assert len(rounds) > 500 / (2 * MOST)


@pytest.mark.parametrize(("each_s", "fewer"), [(0.0, False), (1.0, True)])
async def test_tasks_that_take_long_go_through_in_smaller_groups(
    monkeypatch: pytest.MonkeyPatch, each_s: float, fewer: bool
) -> None:
    now = 0.0

    def thread_time() -> float:
        nonlocal now
        now += each_s
        return now

    monkeypatch.setattr(time, "thread_time", thread_time)
    turnstile = Turnstile()
    turnstile.at_a_time = 16
    await crowd(turnstile, 400)
    assert turnstile.at_a_time == (LEAST if fewer else MOST)


async def test_a_task_that_gives_up_in_line_blocks_no_other() -> None:
    turnstile = Turnstile()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                nursery.start_soon(turnstile.pass_through)
            await turnstile.pass_through()
        assert scope.cancelled_caught
        nursery.start_soon(turnstile.run)
        for _ in range(LEAST):
            await turnstile.pass_through()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
