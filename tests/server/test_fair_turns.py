"""Turns that clients share."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.server.fair_turns import FairTurns

pytestmark = pytest.mark.usefixtures("bounded")


class Crowd:
    """Clients that take turns, and keep each until they are told to end it."""

    def __init__(self, nursery: trio.Nursery, total: int) -> None:
        self.turns = FairTurns(total)
        self.has: Counter[str] = Counter()
        self._nursery = nursery
        self._end = {name: trio.Semaphore(0) for name in "abcd"}

    async def come(self, client: str, times: int = 1) -> trio.CancelScope:
        """Have a client ask for turns; cancel the result to have it give up."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._ask, client, times, scope)
        await wait_all_tasks_blocked()
        return scope

    async def _ask(self, client: str, times: int, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for _ in range(times):
                    nursery.start_soon(self._take, client)

    async def _take(self, client: str) -> None:
        async with self.turns.turn(client):
            self.has[client] += 1
            try:
                await self._end[client].acquire()
            finally:
                self.has[client] -= 1

    async def end(self, client: str) -> None:
        self._end[client].release()
        await wait_all_tasks_blocked()


async def test_one_client_has_half_of_the_turns_and_leaves_some_to_any_newcomer(nursery: trio.Nursery) -> None:
    crowd = Crowd(nursery, 8)
    await crowd.come("a", 20)
    assert crowd.has == {"a": 4}
    await crowd.come("b", 20)
    await crowd.come("c", 20)
    assert crowd.has == {"a": 4, "b": 2, "c": 1}
    await crowd.come("d")
    assert crowd.has["d"] == 1
    nursery.cancel_scope.cancel()


async def test_a_turn_that_ends_goes_to_those_that_have_fewest(nursery: trio.Nursery) -> None:
    crowd = Crowd(nursery, 8)
    await crowd.come("a", 20)
    await crowd.come("b", 20)
    assert crowd.has == {"a": 4, "b": 2}
    await crowd.end("a")
    assert crowd.has == {"a": 3, "b": 3}
    await crowd.end("a")
    assert crowd.has == {"a": 3, "b": 3}  # 2 are free
    nursery.cancel_scope.cancel()


async def test_clients_that_give_up_leave_nothing_taken(nursery: trio.Nursery) -> None:
    crowd = Crowd(nursery, 4)
    for client in "aab":
        scope = await crowd.come(client, 5)
        scope.cancel()
        await wait_all_tasks_blocked()
    assert crowd.has.total() == 0
    await crowd.come("c", 5)
    assert crowd.has["c"] == 2
    nursery.cancel_scope.cancel()


async def test_a_turn_that_comes_to_a_client_that_gives_up_goes_on(nursery: trio.Nursery) -> None:
    turns = FairTurns(2)
    ended = []

    async def take(scope: trio.CancelScope) -> None:
        with scope:
            async with turns.turn("a"):
                ended.append(scope)

    scopes = [trio.CancelScope() for _ in range(3)]
    async with turns.turn("a"):
        for scope in scopes:
            nursery.start_soon(take, scope)
            await wait_all_tasks_blocked()  # they wait in this order
        scopes[0].cancel()  # it is given the turn all the same, since it still waits when this block ends
    await wait_all_tasks_blocked()
    assert ended == scopes[1:]
