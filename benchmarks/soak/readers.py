"""The readers of a room: fast, slow and dead ones, and some that reconnect after each cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable

import trio

import rawws
from benchmarks.soak.checker import Reader
from benchmarks.soak.clients import Cut, Item, Line, Refused, item_of
from benchmarks.soak.crowd import Crowd

ANSWER_S = 20.0
POLL_WAIT_S = 1
SMALL_BUFFER_BYTES = 8192
# The times of a slow reader; one nap in six is longer than the server's limit.
SLOW_READS_S, SHORT_NAP_S, LONG_NAP_S = 1.0, 2.0, 16.0
# A dead peer looks whether it was closed when ping, its timeout and that of the close are over twice; and a reader of
# events, which has no pings to answer, when --max-lag has been written and what the kernel takes (5 MB, measured).
DEAD_S, DEAD_BYTES = 30.0, 8 * 2**20
END_OF_DEAD_S = 10.0


async def read_resuming(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Read with the library's own client, which resumes; it closes in order, and comes back."""
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


async def read_cut(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Read by WebSocket with ids, cut the connection anywhere, and resume at the other node."""
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


async def read_events(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Read Server-Sent Events, cut the connection anywhere, and resume at the other node with Last-Event-ID."""
    reader, chance = crowd.reader(number, "Server-Sent Events"), crowd.chance(number)
    for turn in itertools.count(number):
        try:
            with await crowd.open(turn) as line:
                await line.listen(crowd.room.path, reader.last_id, as_json=turn % 2 == 0)
                reader.note(json.loads((await line.event()).payload))
                arrive()
                await read_for(crowd, reader, line.event, chance.uniform(0.1, 12))
                crowd.leave(line, chance)
        except Refused as refused:
            await crowd.come_again(refused)
        except (Cut, OSError) as error:
            reader.tell("cut off", str(error))
        await crowd.rest(chance.uniform(0, 2))


async def read_polling(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Poll for new messages, a few times per connection; one poll in ten doesn't wait for the answer."""
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
                    for members in answer["messages"]:
                        crowd.take(reader, item_of(members))
                    reader.note({"at": answer["next"], **({"gap": answer["gap"]} if answer["gap"] else {})})
                    arrive()
                    await trio.sleep(chance.uniform(0, 0.4))
                crowd.leave(line, chance)
        except Refused as refused:
            await crowd.come_again(refused)
        except (Cut, OSError) as error:
            reader.tell("cut off", str(error))


async def read_slowly(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
    """Read a little, and sleep, sometimes until the server has to close the connection."""
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
    """Open a WebSocket with ids that resumes at the reader's position."""
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


async def die_as_websocket(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
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
        except (Cut, OSError) as error:
            crowd.tell("cut off", f"a WebSocket before it was dead: {error}")


async def die_as_events(crowd: Crowd, number: int, arrive: Callable[[], None]) -> None:
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
        except (Cut, OSError) as error:
            crowd.tell("cut off", f"a reader of events before it was dead: {error}")


async def find_closed(crowd: Crowd, line: Line, what: str) -> None:
    """Check that the server ends the connection; a live one would go on forever."""
    with trio.move_on_after(END_OF_DEAD_S) as patience:
        await line.drain()
    if patience.cancelled_caught:
        ago_s = trio.current_time() - line.received_at
        came = f"{line.received_bytes:,} bytes came when it read after all, the last {ago_s:.1f} s ago"
        crowd.tell("not closed", f"a {what} that never reads; {came}")
    else:
        crowd.tally.done["dead peers closed by the server"] += 1
