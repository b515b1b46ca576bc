"""The writers of a room, by WebSocket or POST, and visitors of rooms that exist only for them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import trio

import rawws
from benchmarks.soak.checker import Message, Room
from benchmarks.soak.clients import Cut, Item, Line, Refused, post_head
from benchmarks.soak.crowd import REST_S, Crowd, Tally
from benchmarks.soak.readers import ANSWER_S, enter
from benchmarks.soak.stage import Stage

# Messages a second of one writer, on average.
WEBSOCKET_PER_S, POST_PER_S = 12.0, 8.0
WINDOW = 8  # messages of a WebSocket that have not come back yet
CUT_POSTS = 0.05  # the share of POSTs that are cut off before their answer
VISIT_REST_S, VISIT_S = 0.5, 30.0
RUSH = 300


async def write_by_websocket(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Write over one lasting connection, and read all messages there, without ids.

    The writer reads every message that the server accepted, and few messages are under way, so trouble is noticed soon.
    No message is sent again, since the connection must not be cut.
    """
    reader, chance, name = crowd.reader(number, "WebSocket"), crowd.chance(number), f"{crowd.name}w{number}"
    heard, news = 0, trio.lowlevel.ParkingLot()

    async def listen(ws: rawws.WebSocket) -> None:
        nonlocal heard
        async for message in ws:
            payload = message.encode() if isinstance(message, str) else message
            known = crowd.take(reader, Item("", payload, isinstance(message, str)))
            if known is not None and known[0] == name:
                heard = known[1]
                news.unpark_all()

    try:
        async with rawws.connect(crowd.uri(number)) as ws, trio.open_nursery() as nursery:
            crowd.tally.done["connections opened"] += 1
            nursery.start_soon(listen, ws)
            crowd.writing += 1
            arrive()
            await crowd.starting.wait()
            while not crowd.ending.is_set():
                message = crowd.room.next_message(name, chance)
                await ws.send(message.payload, text=message.is_text)
                crowd.tally.written["WebSocket"] += 1
                while message.sequence - heard >= WINDOW:
                    await news.park()
                await crowd.rest(chance.expovariate(WEBSOCKET_PER_S))
            while heard < crowd.room.written.get(name, 0):
                await news.park()
            crowd.writing -= 1
    except* rawws.ConnectionClosed as errors:
        reader.tell("cut off", str(errors.exceptions[0]))


async def write_by_post(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Write by POST, each message until it is accepted."""
    name, poster = f"{crowd.name}p{number}", Poster(crowd, crowd.chance(number), number)
    crowd.writing += 1
    arrive()
    await crowd.starting.wait()
    with poster:
        while not crowd.ending.is_set():
            await poster.publish(crowd.room.next_message(name, poster.chance))
            await crowd.rest(poster.chance.expovariate(POST_PER_S))
    crowd.writing -= 1


class Poster:
    """A publisher by POST, with a key that makes retries safe at any node; it cuts some attempts itself."""

    def __init__(self, crowd: Crowd, chance: random.Random, turn: int) -> None:
        self.chance = chance
        self._crowd = crowd
        self._turn = turn
        self._line: Line | None = None

    def __enter__(self) -> Poster:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Continue at the other node."""
        if self._line is not None:
            self._line.reset()
        self._line = None
        self._turn += 1

    async def publish(self, message: Message) -> None:
        """Publish, with as many attempts as it takes."""
        crowd, once = self._crowd, f"{message.writer}:{message.sequence}"
        head = post_head(crowd.room.path, len(message.payload), is_text=message.is_text, once=once)
        for tries in itertools.count():
            try:
                message_id = await self._try(head, message.payload)
            except Refused as refused:
                await crowd.come_again(refused)
                self._leave()
            except (Cut, OSError) as error:
                crowd.tell("cut off", f"{message.writer}'s POST of message {message.sequence}: {error}")
                self._leave()
                await trio.sleep(REST_S)
            else:
                if message_id and not crowd.room.has_id(message_id, message.writer, message.sequence):
                    crowd.tell("wrong id", f"202 said that message {message.sequence} of {message.writer} {message_id}")
                if message_id is not None:
                    crowd.tally.written["POST"] += 1
                    crowd.tally.done["POSTs that had to be repeated"] += tries > 0
                    return

    async def _try(self, head: str, body: bytes) -> str | None:
        """Return the id of the message, empty if it is unknown; None if the attempt was cut."""
        line = self._line = self._line or await self._crowd.open(self._turn)
        is_cut = self.chance.random() < CUT_POSTS
        with trio.move_on_after(self.chance.uniform(0, 0.01) if is_cut else ANSWER_S):
            return (await line.ask(head, body))["id"] or ""
        if not is_cut:
            self._crowd.tell("held", f"a POST was not answered within {ANSWER_S:g} s")
        self._crowd.tally.done["connections cut with RST"] += 1
        self._leave()
        return None


async def visit(stage: Stage, tally: Tally, name: str, seed: str, ended: trio.Event) -> None:
    """Go from room to room, each only for this: publish at one node, and read the message at the other."""
    for number in itertools.count():
        crowd = Crowd(stage, Room(f"/visit/{name}{number}", tally.faults), tally, name, seed)
        await _visit(crowd, number)
        tally.done["rooms visited"] += 1
        with trio.move_on_after(VISIT_REST_S):
            await ended.wait()
            return


async def rush(stage: Stage, tally: Tally, seed: str) -> None:
    """Visit many rooms at once: more than a node follows over one connection to Redis."""
    async with trio.open_nursery() as nursery:
        for number in range(RUSH):
            crowd = Crowd(stage, Room(f"/rush/{number}", tally.faults), tally, "rush", seed)
            nursery.start_soon(_visit, crowd, number)
    tally.done["rooms visited at once"] += RUSH
    tally.done[f"{stage.keeper.label} then"] = await stage.keeper.held()


async def _visit(crowd: Crowd, number: int) -> None:
    reader, chance = crowd.reader(number, "WebSocket, visiting"), crowd.chance(number)
    while True:
        try:
            with await crowd.open(number) as line, Poster(crowd, chance, number + 1) as poster:
                await enter(crowd, reader, line, number)
                for _ in range(chance.randint(1, 4)):
                    await poster.publish(crowd.room.next_message(f"v{number}", chance))
                with trio.move_on_after(VISIT_S):
                    while not reader.has_all:
                        crowd.take(reader, await line.message())
                reader.finish()
                crowd.leave(line, chance)
                return
        except Refused as refused:
            await crowd.come_again(refused)
        except Cut as error:
            reader.tell("cut off", str(error))
            return
