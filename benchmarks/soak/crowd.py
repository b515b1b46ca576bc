"""All clients in one room of the soak, and their common parts. Their kinds are in ``readers`` and ``writers``.

All readers of a room are there before its first message, and read to the last one, over as many connections as that
takes. So each has to get every message exactly once. Dead readers get nothing, and have to be closed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from benchmarks.servers import HOST
from benchmarks.soak.checker import Faults, Reader, Room
from benchmarks.soak.clients import Item, Line, Refused
from benchmarks.soak.stage import Stage

REST_S = 0.2
ALL_ARRIVED_S = 60.0
# The time to wait for a repeated message, which should not come.
NO_MORE_S = 1.0

# The part of one client in a room. It has a number, and calls a function when it is there, possibly several times.
Part = Callable[["Crowd", int, Callable[[], None]], Awaitable[None]]


@dataclass
class Tally:
    """Counts of everything that was done, for the report."""

    done: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)  # messages, by way
    taken: Counter[str] = field(default_factory=Counter)  # the same
    faults: Faults = field(default_factory=Faults)


class Crowd:
    """Everybody in one room."""

    def __init__(self, stage: Stage, room: Room, tally: Tally, name: str, seed: str) -> None:
        """The ``name`` makes those of its writers unique."""
        self.stage = stage
        self.name = name
        self.room = room
        self.tally = tally
        self.ending = trio.Event()  # no more is written; a reader that has all may go
        self.starting = trio.Event()  # all are there
        self.writing = 0  # number of active writers
        self._seed = seed

    def chance(self, number: int) -> random.Random:
        return random.Random(f"{self._seed} {self.room.path} {number}")

    def port(self, turn: int) -> int:
        """Return a node's port; another turn is another node."""
        return self.stage.nodes[turn % len(self.stage.nodes)].port

    def uri(self, turn: int) -> str:
        return f"ws://{HOST}:{self.port(turn)}{self.room.path}"

    async def run(self, parts: Sequence[Part], ended: trio.Event) -> None:
        """Run a client of each part until the event, and check that every reader gets every message."""
        async with trio.open_nursery() as nursery:
            for number, part in enumerate(parts):
                await nursery.start(self._play, part, number)
            self.starting.set()
            await ended.wait()
            self.ending.set()
            with trio.move_on_after(ALL_ARRIVED_S):
                while self.writing or not all(reader.has_all for reader in self.room.readers):
                    await trio.sleep(0.02)
            if self.writing:
                self.tell("held", f"{self.writing} writers still wait to be heard")
            await trio.sleep(NO_MORE_S)
            for reader in self.room.readers:
                reader.finish()
            nursery.cancel_scope.cancel()

    async def _play(self, part: Part, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        has_arrived = False

        def arrive() -> None:
            nonlocal has_arrived
            if not has_arrived:
                has_arrived = True
                task_status.started()

        await part(self, number, arrive)

    def reader(self, number: int, way: str) -> Reader:
        return self.room.read(f"reader {number}", way)

    def take(self, reader: Reader, item: Item) -> tuple[str, int] | None:
        self.tally.taken[reader.way] += 1
        return reader.take(item.payload, is_text=item.is_text, message_id=item.message_id)

    def tell(self, kind: str, message: str) -> None:
        self.tally.faults.add(kind, f"{self.room.path}: {message}")

    async def open(self, turn: int, receive_buffer: int = 0) -> Line:
        line = await Line.open(self.port(turn), receive_buffer)
        self.tally.done["connections opened"] += 1
        return line

    def leave(self, line: Line, chance: random.Random) -> None:
        """Cut a connection, mostly with RST, otherwise with FIN."""
        if chance.random() < 0.3:
            line.hang_up()
        else:
            line.reset()
            self.tally.done["connections cut with RST"] += 1

    async def rest(self, seconds: float) -> None:
        """Wait, unless the run is ending."""
        with trio.move_on_after(seconds):
            await self.ending.wait()

    async def come_again(self, refused: Refused) -> None:
        """Wait after a refusal. Only a node that can't reach the rooms may refuse, and only meanwhile."""
        if refused.status == 503 and self.stage.keeper.was_away_lately:
            self.tally.done["refusals with 503"] += 1
        else:
            self.tell("refused", str(refused))
        await trio.sleep(REST_S)
