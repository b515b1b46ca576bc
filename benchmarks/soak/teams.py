"""The workers of a group in a room of the soak: all messages there are their jobs, until each has been done."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import trio

from benchmarks.soak.checker import Room, parse
from benchmarks.soak.clients import Cut, Refused
from benchmarks.soak.crowd import Crowd, Part, Tally
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.working import answer, take, work

GROUP = "team"
MOST = 4
LIFE_S = 8.0  # at most, of a worker's connection


class Team:
    """The workers of a room's group together. It follows the room as a reader does."""

    def __init__(self, room: Room, tally: Tally) -> None:
        self._tally = tally
        self.ledger = Ledger(f"{GROUP} of {room.path}")
        self._room = room
        self._messages: dict[str, tuple[str, int]] = {}  # by id

    def about(self, job: str, payload: bytes, is_text: bool) -> tuple[str, int]:
        """Take a note of a message, and return that it has no key."""
        known = parse(payload, is_text)
        if known is None:
            self.ledger.tell(f"{job} is damaged: {len(payload)} bytes that begin {payload[:60]!r}")
        else:
            self._messages[job] = known
            if not self._room.has_id(job, *known):
                self.ledger.tell(f"message {known[1]} of {known[0]} has the id {job}, which is another's")
        return "", 0

    @property
    def has_all(self) -> bool:
        return len(self.ledger.done) >= sum(self._room.written.values())

    def finish(self) -> None:
        """Report what is wrong; no more is to come."""
        done = {self._messages[job] for job in self.ledger.done if job in self._messages}
        for writer, written in self._room.written.items():
            if lacks := [number for number in range(1, written + 1) if (writer, number) not in done]:
                self.ledger.tell(f"{len(lacks)} messages of {writer} were not done: {lacks[:5]}")
        self.ledger.check_done(self._messages)
        self._tally.done["jobs done"] += len(self.ledger.done)
        for what, count in self.ledger.counts.items():
            self._tally.done[f"{what}, of groups"] += count
        for fault in self.ledger.faults:
            self._room.faults.add("group", fault)


async def work_by_websocket(crowd: Crowd, number: int, arrive: Callable[[], None], *, team: Team) -> None:
    """Work by WebSocket, and cut the connection anywhere, now and then."""
    chance, name, ledger = crowd.chance(number), f"worker {number}", team.ledger
    # The room may keep messages of an earlier load, whose writers are others.
    target = f"{crowd.room.path}?group={GROUP}&max={MOST}&ack=120&tries=1000&last=0"
    for turn in itertools.count(number):
        link = ledger.open(name, MOST)
        try:
            with await crowd.open(turn) as line:
                await line.upgrade(crowd.port(turn), target)
                arrive()
                with trio.move_on_after(chance.uniform(0.1, LIFE_S)):
                    await work(line, ledger, link, chance, team.about)
                ledger.kill(link)
                crowd.leave(line, chance)
        except* (Cut, OSError, Refused) as errors:
            ledger.tell(f"{name} was cut off: {errors.exceptions[0]}")
        finally:
            ledger.leave(link)
        await crowd.rest(chance.uniform(0, 0.5))


async def work_by_http(crowd: Crowd, number: int, arrive: Callable[[], None], *, team: Team) -> None:
    """Work with a GET for each job and a POST for each answer."""
    ledger, path = team.ledger, f"{crowd.room.path}?group={GROUP}"
    arrive()
    await crowd.starting.wait()  # one by WebSocket has made the group, and is there
    for turn in itertools.count(number):
        link = ledger.open(f"worker {number}", 1, outlives=True)
        with await crowd.open(turn) as line:
            if taken := await take(line, f"{path}&wait=1&ack=120&tries=1000", ledger, link, team.about):
                job, lease = taken
                open_line = partial(crowd.open, turn + 1)
                await answer(open_line, f"{path}&lease={lease}", ledger, link, job, gives_back=False)
        ledger.leave(link)


def team_of(room: Room, tally: Tally, sockets: int) -> list[Part]:
    """Return the parts of a room's team: so many workers by WebSocket, and one by HTTP."""
    team = Team(room, tally)
    room.readers.append(team)
    return [*[partial(work_by_websocket, team=team)] * sockets, partial(work_by_http, team=team)]
