"""Kill a server with a store again and again, and account for every message.

Publishers write numbered messages by POST and by WebSocket, and readers of all kinds resume. The server is killed
(SIGKILL) at random moments, and started again on the same path. At the end, everything that was answered with 202 or
seen by a reader has to be there, with the same id and payload, in one order, and nothing twice.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from benchmarks import wire
from benchmarks.soak.clients import Cut, Line, Refused, item_of, post_head

ROOM = "/kills"
POSTERS, WRITERS = 3, 2
# Flags with which the history of a server has all messages of a run.
HISTORY = ("--history", "1000000", "--history-bytes", "256M", "--history-age", "86400")
LATEST_KEYS = 300  # a room remembers a thousand, for ten minutes
REST_S = 0.02
PATIENCE_S = 30.0


class Killable(Protocol):
    """A server that can be killed and started again, at the same port and with the same store."""

    port: int

    async def start(self) -> None:
        """Start it, and wait until it is ready."""

    def kill(self) -> None:
        """End it at once (SIGKILL)."""


class Account:
    """All that was promised and seen, and the faults."""

    def __init__(self) -> None:
        self.payloads: dict[str, bytes] = {}  # by id
        self.posted: dict[str, tuple[bytes, str]] = {}  # the payload and the id of each Idempotency-Key
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.newest = 0

    def note(self, who: str, message_id: str, payload: bytes) -> None:
        """Record that a message has an id."""
        self.counts[who] += 1
        known = self.payloads.setdefault(message_id, payload)
        if known != payload:
            self.faults.append(f"{who}: {message_id} is {payload!r}, and was {known!r}")
        self.newest = max(self.newest, number_of(message_id))


class Track:
    """The place of one reader, who gets each message once and in order."""

    def __init__(self, account: Account, who: str) -> None:
        self._account, self.who = account, who
        self.last = "0-0"

    def take(self, message_id: str, payload: bytes) -> None:
        if number_of(message_id) != number_of(self.last) + 1:
            self._account.faults.append(f"{self.who}: {message_id} came after {self.last}")
        self._account.note(self.who, message_id, payload)
        self.last = message_id

    def tell_control(self, control: object) -> None:
        """Take a line that is no message. A gap is a fault: everything is kept."""
        if isinstance(control, dict) and control.get("gap"):
            self._account.faults.append(f"{self.who}: {control}")


def number_of(message_id: str) -> int:
    return int(message_id.partition("-")[2])


class Kills:
    """A run: ``rounds`` kills, with all publishers and readers at work."""

    def __init__(self, server: Killable, rounds: int, seed: str, most_s: float = 0.4) -> None:
        """A server lives for at most ``most_s`` after it is ready."""
        self.account = Account()
        self._server = server
        self._rounds, self._most_s = rounds, most_s
        self._chance = random.Random(seed)
        self._is_over = False
        self._tracks: list[Track] = []

    async def run(self) -> list[str]:
        """Return the faults."""
        await self._server.start()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as publishers:
                for number in range(POSTERS):
                    publishers.start_soon(self._post, f"p{number}")
                for number in range(WRITERS):
                    publishers.start_soon(self._write, f"w{number}")
                for read in (self._read_websocket, self._read_events, self._poll):
                    nursery.start_soon(self._resume, read, Track(self.account, read.__name__.removeprefix("_")))
                for _ in range(self._rounds):
                    await trio.sleep(self._chance.uniform(0, self._most_s))
                    self._server.kill()
                    self.account.counts["kills"] += 1
                    await self._server.start()
                self._is_over = True
            everything = await self._read_all()
            with trio.move_on_after(PATIENCE_S):
                while any(number_of(each.last) < len(everything) for each in self._tracks):
                    await trio.sleep(REST_S)
            nursery.cancel_scope.cancel()
        self._compare(everything)
        return self.account.faults

    async def _resume(self, read: Callable[[Track], Awaitable[None]], track: Track) -> None:
        self._tracks.append(track)
        while True:
            with suppress(Cut, OSError, Refused):
                await read(track)
            await trio.sleep(REST_S)

    # Publishers

    async def _post(self, name: str) -> None:
        """Write by POST, each message until it has an id."""
        for number in itertools.count(1):
            if self._is_over:
                return
            payload = f"{name} {number}".encode()
            await self._post_until_accepted(f"{name}:{number}", payload)
            if number % 10 == 0:  # a retry that comes late
                key = self._chance.choice(list(self.account.posted)[-LATEST_KEYS:])
                await self._post_until_accepted(key, self.account.posted[key][0])

    async def _post_until_accepted(self, key: str, payload: bytes) -> None:
        head = post_head(ROOM, len(payload), is_text=True, once=key)
        while True:
            with suppress(Cut, OSError, Refused):
                with await Line.open(self._server.port) as line:
                    given = (await line.ask(head, payload))["id"]
                self.account.note("POST", given, payload)
                before = self.account.posted.setdefault(key, (payload, given))
                if before[1] != given:
                    self.account.faults.append(f"key {key} had {before[1]}, and has {given}")
                return
            await trio.sleep(REST_S)

    async def _write(self, name: str) -> None:
        """Write by WebSocket, nothing twice: what is under way at a kill may be lost."""
        numbers = itertools.count(1)
        while not self._is_over:
            with suppress(Cut, OSError, Refused), await Line.open(self._server.port) as line:
                await line.upgrade(self._server.port, ROOM)
                while not self._is_over:
                    await line.send(wire.client_frame(f"{name} {next(numbers)}".encode(), wire.FIN | wire.TEXT))
                    await trio.sleep(self._chance.uniform(0, REST_S))
            await trio.sleep(REST_S)

    # Readers

    async def _read_websocket(self, track: Track) -> None:
        with await Line.open(self._server.port) as line:
            await line.upgrade(self._server.port, f"{ROOM}?since={track.last}")
            while True:
                item = await line.message()
                if item.message_id:
                    track.take(item.message_id, item.payload)
                else:
                    track.tell_control(json.loads(item.payload))

    async def _read_events(self, track: Track) -> None:
        with await Line.open(self._server.port) as line:
            await line.listen(ROOM, track.last)
            while True:
                item = await line.event()
                if item.message_id:
                    track.take(item.message_id, item.payload)
                else:
                    track.tell_control(json.loads(item.payload))

    async def _poll(self, track: Track) -> None:
        with await Line.open(self._server.port) as line:
            while True:
                answer = await line.ask(f"GET {ROOM}?since={track.last}&wait=1 HTTP/1.1")
                track.tell_control(answer)
                for members in answer["messages"]:
                    item = item_of(members)
                    track.take(item.message_id, item.payload)

    # The end

    async def _read_all(self) -> dict[str, bytes]:
        """Return all messages of the room, by id."""
        found: dict[str, bytes] = {}
        last = "0-0"
        with await Line.open(self._server.port) as line:
            while True:
                answer = await line.ask(f"GET {ROOM}?since={last} HTTP/1.1")
                if answer["gap"]:
                    self.account.faults.append(f"at the end: {answer['gap']}")
                for item in map(item_of, answer["messages"]):
                    found[item.message_id] = item.payload
                if not answer["messages"]:
                    return found
                last = answer["next"]

    def _compare(self, everything: dict[str, bytes]) -> None:
        faults = self.account.faults
        faults += [
            f"{message_id} {payload!r} is lost"
            for message_id, payload in self.account.payloads.items()
            if everything.get(message_id) != payload
        ]
        faults += [f"{payload!r} is there {n} times" for payload, n in Counter(everything.values()).items() if n > 1]
        if [number_of(each) for each in everything] != list(range(1, len(everything) + 1)):
            faults.append("the numbers are not contiguous")
        latest: dict[bytes, int] = {}
        for payload in everything.values():
            name, _, number = payload.partition(b" ")
            if int(number) <= latest.get(name, 0):
                faults.append(f"{payload!r} came after {latest[name]}")
            latest[name] = int(number)
        faults += [
            f"{each.who} has got only {each.last}" for each in self._tracks if number_of(each.last) < len(everything)
        ]
        self.account.counts["messages"] = len(everything)
