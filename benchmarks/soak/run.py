"""The course of the soak: load, a pause without clients, load, a pause, and the result."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from benchmarks import procinfo
from benchmarks.soak.checker import Room
from benchmarks.soak.crowd import Crowd, Part, Tally
from benchmarks.soak.readers import (
    die_as_events,
    die_as_websocket,
    read_cut,
    read_events,
    read_polling,
    read_resuming,
    read_slowly,
)
from benchmarks.soak.stage import HISTORY_BYTES, KILLED, Holding, Node, Stage
from benchmarks.soak.teams import team_of
from benchmarks.soak.writers import rush, visit, write_by_post, write_by_websocket

ROOMS = 3
SOCKET_WORKERS = 3  # of each room, if there are groups
CAST: dict[Part, int] = {  # clients of each room
    read_resuming: 4,
    read_cut: 4,
    read_events: 4,
    read_polling: 3,
    read_slowly: 1,
    write_by_websocket: 2,
    write_by_post: 2,
    die_as_websocket: 1,
    die_as_events: 1,
}
WARM_UP, LOAD = "warm-up", "load"
WARM_UP_SHARE = 0.15  # fraction of the time
# The warm-up goes on until the histories are as full as they get, since an allocator keeps more after a higher peak.
FULL_S = 300.0  # at most
PROGRESS_S = 15.0
# A polled room is kept for a minute after the last poll. Shorter runs don't wait for that, so they can't compare
# memory.
SHORT_MINUTES = 1.0
EMPTY_S = 90.0
# The time without a change after which a node is still. Connections to Redis and others close on their own when all
# clients have left, and a node returns freed memory every ten seconds.
STILL_S, SHORT_STILL_S = 12.0, 1.5
MIB = 2**20


@dataclass(frozen=True)
class Comparison:
    """A node after the warm-up and at the end, without clients."""

    node: Node
    before: Holding
    after: Holding


class Soak:
    """One run."""

    def __init__(self, stage: Stage, minutes: float, seed: str) -> None:
        self.tally = Tally()
        self._stage = stage
        self._seconds = minutes * 60
        self._seed = seed
        self.is_short = minutes < SHORT_MINUTES
        self._began = time.monotonic()
        self.label = stage.keeper.label
        self.held: list[int] = []  # what the label says, in each pause

    async def run(self) -> list[Comparison]:
        """Run the whole course, and return the resources of each node in the two pauses."""
        await self._stage.wait_until_ready()
        outages = [node.outages() for node in self._stage.nodes]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_progress)
            nursery.start_soon(self._watch_nodes)
            before = await self._load(WARM_UP, self._seconds * WARM_UP_SHARE)
            after = await self._load(LOAD, self._seconds * (1 - WARM_UP_SHARE))
            nursery.cancel_scope.cancel()
        killed = self.tally.done[KILLED]
        for node, at_first in zip(self._stage.nodes, outages, strict=True):
            lost, found = (then - before for then, before in zip(node.outages(), at_first, strict=True))
            if lost > killed or found != lost:
                message = f"node {node.name} has lost Redis {lost} times, which was killed {killed} times"
                self.tally.faults.add("outage", f"{message}, and found it again {found} times")
            for line in node.complaints():
                self.tally.faults.add("complaint", f"node {node.name}'s log: {line}")
        return [Comparison(*each) for each in zip(self._stage.nodes, before, after, strict=True)]

    async def _load(self, name: str, seconds: float) -> list[Holding]:
        """Run all clients for this time, and return the resources of the nodes after they have left."""
        ended = trio.Event()
        rooms = [Room(f"/room/{number}", self.tally.faults) for number in range(ROOMS)]
        async with trio.open_nursery() as nursery:
            for room in rooms:
                crowd = Crowd(self._stage, room, self.tally, name[0], self._seed)
                parts = [part for part, count in CAST.items() for _ in range(count)]
                if self._stage.keeper.has_groups:
                    parts += team_of(room, self.tally, SOCKET_WORKERS)
                nursery.start_soon(crowd.run, parts, ended)
            nursery.start_soon(visit, self._stage, self.tally, name[0], self._seed, ended)
            chance = random.Random(f"{self._seed} {name} redis")
            nursery.start_soon(self._stage.keeper.trouble, seconds, chance, self.tally.done)
            if name == LOAD and not self.is_short:
                nursery.start_soon(rush, self._stage, self.tally, self._seed)
            await trio.sleep(seconds)
            if name == WARM_UP and not self.is_short:
                with trio.move_on_after(FULL_S):
                    while any(room.written_bytes < HISTORY_BYTES for room in rooms):
                        await trio.sleep(1)
            ended.set()
        self._say(f"{name} over, all have left")
        return await self._wait_until_empty()

    async def _wait_until_empty(self) -> list[Holding]:
        """Wait until there are no peers and no rooms, and nothing changes anymore."""
        nodes = self._stage.nodes
        for node in nodes:
            for fault in await node.end_groups():
                self.tally.faults.add("left over", fault)
            await node.follow_another_room()
            await node.ask_other_nodes()
        with trio.move_on_after(EMPTY_S) as patience:
            while not all([_is_empty(await node.holding(), with_rooms=not self.is_short) for node in nodes]):
                await trio.sleep(0.2)
        if patience.cancelled_caught:
            self.tally.faults.add("left over", f"peers or rooms were still there {EMPTY_S:g} s after all had left")
        found = [await node.holding() for node in nodes]
        still_since = time.monotonic()
        while time.monotonic() - still_since < (SHORT_STILL_S if self.is_short else STILL_S):
            await trio.sleep(0.2)
            before, found = found, [await node.holding() for node in nodes]
            if [_countable(each) for each in found] != [_countable(each) for each in before]:
                still_since = time.monotonic()
        self.held.append(await self._stage.keeper.held())
        return found

    async def _watch_nodes(self) -> None:
        """Fail when a node ends."""
        while True:
            for node in self._stage.nodes:
                if (status := node.process.poll()) is not None:
                    raise RuntimeError(f"node {node.name} has ended with status {status}: {node.log_tail()}")
            await trio.sleep(0.5)

    async def _report_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_S)
            tally = self.tally
            held = [f"{procinfo.resident_bytes(node.process.pid) / MIB:.0f}" for node in self._stage.nodes]
            self._say(
                f"{tally.written.total():,} written, {tally.taken.total():,} deliveries checked, "
                f"{tally.done['connections opened']:,} connections; "
                f"faults: {tally.faults.counts.total()}; the nodes have {' and '.join(held)} MiB"
            )

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", flush=True)


def _is_empty(holding: Holding, *, with_rooms: bool) -> bool:
    peers = ('rawws_peers{kind="websocket"}', 'rawws_peers{kind="events"}')
    return not any(
        holding.values[name] for name in (*peers, *(("rawws_rooms", "rawws_log_bytes") if with_rooms else ()))
    )


def _countable(holding: Holding) -> tuple[Sequence[str], int]:
    return holding.descriptors, holding.tasks
