"""The clients of the soak: who writes and who reads in a room, well or badly, and who only looks in.

All readers of a room are there before its first message, and read to the last, over as many connections as that takes;
so each has to get every message exactly once. Those who are dead get nothing, and have to be closed.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

import rawws
from benchmarks.servers import HOST
from benchmarks.soak.checker import Faults, Message, Reader, Room
from benchmarks.soak.clients import Cut, Item, Line, Refused, item_of, post_head
from benchmarks.soak.stage import Stage

ROOMS = 3
# Of each kind in each room.
WEBSOCKET_WRITERS, POST_WRITERS = 2, 2
RESUMING, CUT, EVENTS, POLLING, SLOW = 4, 4, 4, 3, 1
# Messages a second of one writer, on average.
WEBSOCKET_PER_S, POST_PER_S = 12.0, 8.0
WINDOW = 8  # messages of a WebSocket's that it has not seen back yet
CUT_POSTS = 0.05  # so many are cut off before they are answered
ANSWER_S = 20.0
POLL_WAIT_S = 1
REST_S = 0.2
SMALL_BUFFER_BYTES = 8192
# Of what a slow reader does; one nap in six takes longer than the server has patience.
SLOW_READS_S, SHORT_NAP_S, LONG_NAP_S = 1.0, 2.0, 16.0
# A dead peer looks whether it was closed when ping, its timeout and that of the close are over twice; and a reader of
# events, which has no pings to answer, when --max-lag has been written and what the kernel takes (5 MB, measured).
DEAD_S, DEAD_BYTES = 30.0, 8 * 2**20
END_OF_DEAD_S = 10.0
VISIT_REST_S, VISIT_S = 0.5, 30.0
ALL_ARRIVED_S = 60.0
# So long it is waited for what should not come: a message that comes twice.
NO_MORE_S = 1.0

Arrive = Callable[[], None]


@dataclass
class Tally:
    """What was done, for the report."""

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
        self.ending = trio.Event()  # no more is written; who has all may go
        self.starting = trio.Event()  # all are there
        self.writing = 0  # how many still write
        self._seed = seed

    def chance(self, number: int) -> random.Random:
        return random.Random(f"{self._seed} {self.room.path} {number}")

    def port(self, turn: int) -> int:
        """Return a node's port; another turn is another node."""
        return self.stage.nodes[turn % len(self.stage.nodes)].port

    def uri(self, turn: int) -> str:
        return f"ws://{HOST}:{self.port(turn)}{self.room.path}"

    async def run(self, ended: trio.Event) -> None:
        """Let everybody come, write and read until the event, and see that all get all."""
        parts = [read_resuming] * RESUMING + [read_cut] * CUT + [read_events] * EVENTS + [read_polling] * POLLING
        parts += [read_slowly] * SLOW + [write_by_websocket] * WEBSOCKET_WRITERS + [write_by_post] * POST_WRITERS
        async with trio.open_nursery() as nursery:
            for number, part in enumerate([*parts, die_as_websocket, die_as_events]):
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

    async def _play(
        self, part: Callable[[Crowd, int, Arrive], Awaitable[None]], number: int, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Play a part; whoever has it says when they are there, as often as they like."""
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

    def tell(self, kind: str, told: str) -> None:
        self.tally.faults.add(kind, f"{self.room.path}: {told}")

    async def open(self, turn: int, receive_buffer: int = 0) -> Line:
        line = await Line.open(self.port(turn), receive_buffer)
        self.tally.done["connections opened"] += 1
        return line

    def leave(self, line: Line, chance: random.Random) -> None:
        """Cut a connection: with RST most often, or with FIN."""
        if chance.random() < 0.3:
            line.hang_up()
        else:
            line.reset()
            self.tally.done["connections cut with RST"] += 1

    async def rest(self, seconds: float) -> None:
        """Wait, but not when all is about to end."""
        with trio.move_on_after(seconds):
            await self.ending.wait()

    async def come_again(self, refused: Refused) -> None:
        """Wait after a refusal, which may only be that of a node that can't reach Redis."""
        if refused.status == 503:
            self.tally.done["refusals with 503"] += 1
        else:
            self.tell("refused", str(refused))
        await trio.sleep(REST_S)


# Who reads


async def read_resuming(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Read with the library's own client, which goes on where it was; it leaves in an orderly way, and comes back."""
    reader, chance = crowd.reader(number, "WebSocket, rawws.connect"), crowd.chance(number)
    compression = chance.choice(["deflate", None])
    async for ws in rawws.connect(crowd.uri(number), resume=True, compression=compression):
        crowd.tally.done["connections opened"] += 1
        arrive()
        if ws.gap is not None:
            reader.note({"gap": ws.gap})
        with trio.move_on_after(chance.uniform(5, 60)):
            try:
                while True:
                    message = await ws.recv()
                    payload = message.encode() if isinstance(message, str) else message
                    crowd.take(reader, Item(ws.last_id, payload, isinstance(message, str)))
            except rawws.ConnectionClosed as error:
                reader.tell("cut off", str(error.closed))


async def read_cut(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Read by WebSocket with ids, cut that anywhere, and go on at the other node."""
    reader, chance = crowd.reader(number, "WebSocket, cut"), crowd.chance(number)
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn) as line:
                await enter(crowd, reader, line, turn)
                arrive()
                await read_for(crowd, reader, line.message, chance.uniform(0.1, 6))
                crowd.leave(line, chance)
        except Refused as refused:
            await crowd.come_again(refused)
        except (Cut, OSError) as error:
            reader.tell("cut off", str(error))
        await crowd.rest(chance.uniform(0, 2))


async def read_events(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Read Server-Sent Events, cut that anywhere, and go on at the other node with Last-Event-ID."""
    reader, chance = crowd.reader(number, "Server-Sent Events"), crowd.chance(number)
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn) as line:
                await line.listen(crowd.room.path, reader.last_id)
                reader.note(json.loads((await line.event()).payload))
                arrive()
                await read_for(crowd, reader, line.event, chance.uniform(0.1, 12))
                crowd.leave(line, chance)
        except Refused as refused:
            await crowd.come_again(refused)
        except (Cut, OSError) as error:
            reader.tell("cut off", str(error))
        await crowd.rest(chance.uniform(0, 2))


async def read_polling(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Ask for what is new, a few times over one connection; one in ten doesn't wait for the answer."""
    reader, chance = crowd.reader(number, "polling"), crowd.chance(number)
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn) as line:
                for _ in range(chance.randint(1, 20)):
                    since = f"since={reader.last_id}&wait={POLL_WAIT_S}" if reader.last_id else "last=0"
                    with trio.move_on_after(chance.uniform(0, 0.5) if chance.random() < 0.1 else ANSWER_S) as patience:
                        answer = await line.ask(f"GET {crowd.room.path}?{since} HTTP/1.1")
                    if patience.cancelled_caught:
                        break
                    for told in answer["messages"]:
                        crowd.take(reader, item_of(told))
                    reader.note({"at": answer["next"], **({"gap": answer["gap"]} if answer["gap"] else {})})
                    arrive()
                    await trio.sleep(chance.uniform(0, 0.4))
                crowd.leave(line, chance)
        except Refused as refused:
            await crowd.come_again(refused)
        except (Cut, OSError) as error:
            reader.tell("cut off", str(error))


async def read_slowly(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Read a little, and sleep; now and then for so long that the server has to close the connection."""
    reader, chance = crowd.reader(number, "WebSocket, slow"), crowd.chance(number)
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn, SMALL_BUFFER_BYTES) as line:
                await enter(crowd, reader, line, turn)
                arrive()
                while True:
                    await read_for(crowd, reader, line.message, SLOW_READS_S)
                    await crowd.rest(LONG_NAP_S if chance.random() < 1 / 6 else chance.uniform(0, SHORT_NAP_S))
        except Refused as refused:
            await crowd.come_again(refused)
        except Cut:
            crowd.tally.done["slow readers closed, who came back"] += 1


async def enter(crowd: Crowd, reader: Reader, line: Line, turn: int) -> None:
    """Become a WebSocket with ids that goes on where the reader was."""
    await line.upgrade(crowd.port(turn), crowd.room.path + (f"?since={reader.last_id}" if reader.last_id else ""))
    reader.note(json.loads((await line.message()).payload))


async def read_for(crowd: Crowd, reader: Reader, next_item: Callable[[], Awaitable[Item]], seconds: float) -> None:
    with trio.move_on_after(seconds):
        while True:
            item = await next_item()
            if item.message_id:
                crowd.take(reader, item)
            else:
                reader.note(json.loads(item.payload))


# Who writes


async def write_by_websocket(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Write over one connection that lasts, and hear all that is said there, without ids.

    What the server took is known by hearing it; so few messages are under way that this tells of trouble soon. Nothing
    is ever sent again: the connection is not to be cut.
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
            while heard < crowd.room.written[name]:
                await news.park()
            crowd.writing -= 1
    except* rawws.ConnectionClosed as errors:
        reader.tell("cut off", str(errors.exceptions[0]))


async def write_by_post(crowd: Crowd, number: int, arrive: Arrive) -> None:
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
    """Publishes by POST, with a key that makes it safe to try again, at any node; some tries it cuts off itself."""

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
        """Go on at the other node."""
        if self._line is not None:
            self._line.reset()
        self._line = None
        self._turn += 1

    async def publish(self, message: Message) -> None:
        """Publish, however often that has to be tried."""
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
        """Return the id that the message was given, empty if it isn't known; None when the try was cut off."""
        line = self._line = self._line or await self._crowd.open(self._turn)
        is_cut = self.chance.random() < CUT_POSTS
        with trio.move_on_after(self.chance.uniform(0, 0.01) if is_cut else ANSWER_S):
            return (await line.ask(head, body))["id"] or ""
        if not is_cut:
            self._crowd.tell("held", f"a POST was not answered within {ANSWER_S:g} s")
        self._crowd.tally.done["connections cut with RST"] += 1
        self._leave()
        return None


# Who is dead


async def die_as_websocket(crowd: Crowd, number: int, arrive: Arrive) -> None:
    """Connect and never read again, again and again. The server has to close that."""
    arrive()
    await crowd.starting.wait()
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn, SMALL_BUFFER_BYTES) as line:
                await line.upgrade(crowd.port(turn), crowd.room.path)
                await trio.sleep(DEAD_S)
                await find_closed(crowd, line, "WebSocket")
        except Refused as refused:
            await crowd.come_again(refused)


async def die_as_events(crowd: Crowd, number: int, arrive: Arrive) -> None:
    arrive()
    await crowd.starting.wait()
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn, SMALL_BUFFER_BYTES) as line:
                await line.listen(crowd.room.path, "")
                enough = crowd.room.written_bytes + DEAD_BYTES
                while crowd.room.written_bytes < enough:
                    await trio.sleep(0.5)
                await trio.sleep(END_OF_DEAD_S)
                await find_closed(crowd, line, "reader of events")
        except Refused as refused:
            await crowd.come_again(refused)


async def find_closed(crowd: Crowd, line: Line, what: str) -> None:
    """See that the connection has an end: one that is alive goes on for ever."""
    with trio.move_on_after(END_OF_DEAD_S) as patience:
        await line.drain()
    if patience.cancelled_caught:
        crowd.tell("not closed", f"a {what} that never reads")
    else:
        crowd.tally.done["dead peers closed by the server"] += 1


# Who looks in


async def visit(stage: Stage, tally: Tally, name: str, seed: str, ended: trio.Event) -> None:
    """Go from room to room, each of which is only there for this: say something at one node, hear it at the other."""
    for number in itertools.count():
        crowd = Crowd(stage, Room(f"/visit/{name}{number}", tally.faults), tally, name, seed)
        await _visit(crowd, number)
        tally.done["rooms visited"] += 1
        with trio.move_on_after(VISIT_REST_S):
            await ended.wait()
            return


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
