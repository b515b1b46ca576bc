"""Leases: connections that end at a time, alone and many together."""

# ruff: noqa: ARG001 (the clock jumps because a test has it)

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rawws.relay.leases import _SPARE, ENDS_AT_ONCE, EXPIRED, LIFETIME, PAUSE_S, Leases


@dataclass
class Ended:
    """A connection that was closed: the peer's number, the code, and the time."""

    number: int
    code: int
    at: float


class World:
    """Peers without sockets, and the leases that they have."""

    def __init__(self) -> None:
        self.peers: dict[int, Any] = {}
        self.ended: list[Ended] = []
        self.leases = Leases(self.peers, self._close)

    def add(self, number: int, *, fd: int | None = None) -> Any:
        fd = number if fd is None else fd
        peer = self.peers[fd] = SimpleNamespace(number=number, transport=SimpleNamespace(fileno=lambda: fd))
        return peer

    def _close(self, peer: Any, code: int, reason: str) -> None:
        assert reason
        self.ended.append(Ended(peer.number, code, trio.current_time()))


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    world = World()
    nursery.start_soon(world.leases.run)
    return world


async def test_each_connection_ends_at_its_time_whatever_the_order_of_the_leases(
    world: World, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    for number, after_s in ((1, 30.0), (2, 10.0), (3, 20.0)):
        world.leases.add(world.add(number), began + after_s, EXPIRED)
        await trio.sleep(1)  # so that the task waits for the one before
    await trio.sleep(40)
    assert [(each.number, each.code) for each in world.ended] == [(2, 4401), (3, 4401), (1, 4401)]
    assert [round(each.at - began) for each in world.ended] == [10, 20, 30]


async def test_the_first_of_two_leases_counts(world: World, autojump_clock: MockClock) -> None:
    peer = world.add(1)
    world.leases.add(peer, trio.current_time() + 20, EXPIRED)
    world.leases.add(peer, trio.current_time() + 10, LIFETIME)
    await trio.sleep(15)
    assert [each.code for each in world.ended] == [1012]


async def test_many_that_end_together_are_spread_and_others_run_meanwhile(
    world: World, autojump_clock: MockClock
) -> None:
    ends_at = trio.current_time() + 10
    many = 10_000
    for number in range(many):
        world.leases.add(world.add(number), ends_at, EXPIRED)
    seen: list[int] = []  # the numbers that had ended whenever another task ran
    with trio.move_on_at(ends_at + 60):
        while len(world.ended) < many:
            await trio.sleep(PAUSE_S / 2)
            seen.append(len(world.ended))
    assert len(world.ended) == many
    assert max(after - before for before, after in itertools.pairwise(seen)) <= ENDS_AT_ONCE
    assert 1 < world.ended[-1].at - ends_at < 3


async def test_a_connection_that_has_gone_is_passed_over(world: World, autojump_clock: MockClock) -> None:
    for number in range(3):
        world.leases.add(world.add(number), trio.current_time() + 10, EXPIRED)
    del world.peers[0]
    world.add(7, fd=1)  # another connection has the descriptor now
    await trio.sleep(15)
    assert [each.number for each in world.ended] == [2]


async def test_leases_of_connections_that_have_gone_are_forgotten(world: World, autojump_clock: MockClock) -> None:
    for number in range(1, 20 * _SPARE):
        world.leases.add(world.add(number, fd=1), trio.current_time() + 3600, EXPIRED)
    assert len(world.leases) <= _SPARE + 4


async def test_without_leases_nothing_is_waited_for(world: World, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = math.inf
    await trio.testing.wait_all_tasks_blocked()
    assert not len(world.leases)
    assert world.ended == []
