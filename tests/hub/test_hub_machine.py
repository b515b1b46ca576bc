"""A hub held to its promises in any order of events: joins, messages, reads of a few bytes, stalls, ends, returns.

Everything but the network is real: the hub, its loop, and sockets that hold little. A witness, which always reads,
records the order of the room's messages. The messages of each other reader are compared with that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import parse_id
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS
from rawws.errors import ConnectionClosed
from rawws.hub.hub import Hub
from rawws.hub.member import Member
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.net.transport import Transport
from rawws.relay.peer import PeerGroup
from rawws.relay.settings import Slow
from rawws.wire.deflate import answer_offers, inflate_whole
from rawws.wire.frames import Opcode, parse_header
from rawws.wire.handshake import Accept, Handshake
from rawws.wire.messages import Headers, Request
from tests.serving.client import Client, HangsUp
from tests.serving.server import RunningHub
from tests.serving.wire import KEY, close, ping, text
from tests.sse import read_events

HISTORY = 12
MAX_LAG_BYTES = 6_000
SEND_BUFFER = 4_096  # of each socket: the minimum of Linux, about 9 KiB with its overhead
KEYS = "abc"
# A frame of more than about 4,096 bytes is stored in the log in two pieces.
SIZES = st.sampled_from([0, 10, 200, 3_000, 20_000]) | st.integers(4_030, 4_070)


class Alone(NamedTuple):
    """A message to one reader alone, and the number of the room's last message when it was sent."""

    says: str
    after: int


class Received(NamedTuple):
    """A message as a reader received it: its text, and its number in the room's log if the form carries it."""

    number: int | None
    says: str


@dataclass(eq=False)
class Reader:
    """A reader of the room in one of its forms, from a position on."""

    form: str
    client: Client
    first: int  # number of the first message for this reader
    id: int
    varies: bool = False  # its frames are compressed, or its events JSON, and it is notified of joins and leaves
    raw: bytearray = field(default_factory=bytearray)
    messages: list[Received] = field(default_factory=list)
    skipped: int = 0
    gap: bool = False
    pinged: int = 0
    ponged: int = 0
    close_code: int | None = None
    ended: bool = False
    received: int = 0  # bytes
    sent_alone: list[Alone] = field(default_factory=list)
    got_alone: list[tuple[str, int]] = field(default_factory=list)  # with the number of ``messages`` before it
    members: int | None = None  # in the room, as of the last notice of a join or leave

    def take(self, size: int) -> None:
        """Read at most ``size`` bytes that are there."""
        try:
            received = self.client.stdlib_socket.recv(size)
        except BlockingIOError:
            return
        self.ended = not received
        self.received += len(received)
        self.raw += received
        if self.form == "events":
            self._parse_events()
        else:
            self._parse_frames()

    def _parse_events(self) -> None:
        end = self.raw.rfind(b"\n\n") + 2
        if end < 2:
            return
        for event in read_events(bytes(self.raw[:end])):
            match event.kind:
                case "skipped":
                    self.skipped += int(event.data)
                case "gap":
                    self.gap = True
                case "join" | "leave":
                    self._note_members(event.kind, json.loads(event.data))
                case _:
                    says = json.loads(event.data)["text"] if self.varies else event.data
                    if self._is_alone(says):
                        continue
                    self.messages.append(Received(parse_id(event.last_id).number, says))
        del self.raw[:end]

    def _parse_frames(self) -> None:
        while (header := parse_header(self.raw)) is not None:
            end = len(header.raw) + header.payload_bytes
            if len(self.raw) < end:
                return
            assert self.close_code is None, "nothing comes after a close"
            payload = bytes(self.raw[len(header.raw) : end])
            del self.raw[:end]
            if header.rsv1:
                assert self.varies
                inflated = inflate_whole(payload, 1 << 20)
                assert inflated is not None
                payload = inflated
            match header.opcode:
                case Opcode.PONG:
                    self.ponged += 1
                case Opcode.CLOSE:
                    self.close_code = int.from_bytes(payload[:2], "big")
                case _:
                    assert header.opcode == Opcode.TEXT
                    self._take_message(payload.decode())

    def _is_alone(self, says: str) -> bool:
        """Record a message to this reader alone; return False for a message of the room."""
        if "alone" not in json.loads(says):
            return False
        self.got_alone.append((says, len(self.messages)))
        return True

    def _take_message(self, message: str) -> None:
        if self.form == "plain":
            if not self._is_alone(message):
                self.messages.append(Received(None, message))
            return
        line, _, says = message.partition("\n")
        head = json.loads(line)
        if not head:
            assert self._is_alone(says)
        self.skipped += head.get("skipped", 0)
        self.gap = self.gap or "gap" in head
        for what in ("join", "leave"):
            if what in head:
                self._note_members(what, head[what])
        if "id" in head:
            self.messages.append(Received(parse_id(head["id"]).number, says))

    def _note_members(self, what: str, notice: dict[str, int]) -> None:
        assert self.varies
        before = notice["peers"] + (1 if what == "leave" else -1)
        assert self.members in (None, before), "each join and each leave is notified of once, and in order"
        self.members = notice["peers"]


class Room:
    """A room, its witness, and its readers and writers."""

    def __init__(self, slow: Slow, clients: list[HangsUp], nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._queues: dict[int, trio.MemorySendChannel[str]] = {}  # by reader: a program's messages to it alone
        self._opened = 0
        if slow is Slow.LATEST:  # its limit is for the newest messages of all keys together
            hub = Hub(slow=slow, key="key", history=HISTORY)
        else:
            hub = Hub(slow=slow, max_lag_bytes=MAX_LAG_BYTES, history=HISTORY)
        self.slow = slow
        self.running = RunningHub(hub, PeerGroup(Limits(ping_interval_s=0, close_timeout_s=0)), True, clients)
        self.room = hub.room("/")
        self.said = 0
        self.witness = self._open("ids", None, send_buffer=None)
        self.readers: list[Reader] = []
        self.closing: list[Reader] = []  # readers that have sent a close, and still read
        self.gone: list[Reader] = []

    def _open(
        self, form: str, since: str | None, *, varies: bool = False, send_buffer: int | None = SEND_BUFFER
    ) -> Reader:
        ours, client = self.running.pair(send_buffer=send_buffer)
        query = [*(["presence"] if varies else []), *([] if since is None else [f"since={since}"])]
        target = "/?" + "&".join(query)
        hub, endpoint, log = self.running.hub, self.running.endpoint, state_of(self.room).log
        self._opened += 1
        reader = Reader(form, client, log.next_message if since is None else parse_id(since).number + 1, self._opened)
        reader.varies = varies
        if form == "events":
            reading = RoomQuery(since=None if since is None else parse_id(since), wants_presence=varies)
            encoding = JSON_EVENTS if varies else EVENTS
            hub.stream_events(reader.id, Transport(ours), "/", reading, endpoint, encoding=encoding)
            return reader
        subprotocol = SUBPROTOCOL if form == "ids" else None
        deflate = answer_offers(["permessage-deflate; server_max_window_bits=9"]) if varies else None
        handshake = Handshake((), "/", Accept.of(KEY.decode()), None, deflate, subprotocol=subprotocol)
        request = Request("GET", target, "1.1", Headers([("Host", "a")]))
        hub.adopt(reader.id, Transport(ours), handshake, endpoint, request=request)
        return reader

    def _new_message(self, size: int, key: str) -> str:
        self.said += 1
        return json.dumps({"message": self.said, "key": key, "padding": "x" * size})

    def _choose(self, which: int) -> Reader | None:
        return self.readers[which % len(self.readers)] if self.readers else None

    # Steps

    def join(self, form: str, varies: bool) -> None:
        self.readers.append(self._open(form, None, varies=varies))

    def publish(self, sizes: list[int], key: str) -> None:
        for size in sizes:
            self.room.publish(self._new_message(size, key))

    def say(self, which: int, sizes: list[int], key: str) -> None:
        reader = self._choose(which)
        if reader is None or reader.form == "events":
            return
        for size in sizes:
            frame = text(self._new_message(min(size, 200), key))
            assert reader.client.try_send(frame) in (0, len(frame))

    def say_alone(self, which: int, size: int) -> None:
        """Send to one reader alone, in the task that sends all messages to that reader."""
        reader = self._choose(which)
        if reader is None or (member := next((each for each in self.room if each.id == reader.id), None)) is None:
            return
        self.said += 1
        says = json.dumps({"alone": self.said, "padding": "x" * size})
        if reader.id not in self._queues:
            self._queues[reader.id], queue = trio.open_memory_channel[str](math.inf)
            self._nursery.start_soon(self._send_alone, member, queue)
        reader.sent_alone.append(Alone(says, state_of(self.room).log.last_message))
        self._queues[reader.id].send_nowait(says)

    @staticmethod
    async def _send_alone(member: Member, queue: trio.MemoryReceiveChannel[str]) -> None:
        with suppress(ConnectionClosed):
            async for says in queue:
                await member.send(says)

    def ask(self, which: int) -> None:
        reader = self._choose(which)
        if reader is not None and reader.form != "events" and reader.client.try_send(ping(b"?")):
            reader.pinged += 1

    def read(self, which: int, size: int) -> None:
        if (reader := self._choose(which)) is not None:
            reader.take(size)

    def leave(self, which: int, how: str) -> None:
        if (reader := self._choose(which)) is None:
            return
        self.readers.remove(reader)
        if how == "close" and reader.form != "events":
            reader.client.try_send(close())
            self.closing.append(reader)
        else:
            reader.client.hang_up()
            self.gone.append(reader)

    def come_back(self, which: int) -> None:
        """Let a reader that has gone resume after its last message."""
        known = [reader for reader in self.gone if reader.messages and reader.form != "plain"]
        if known:
            reader = known[which % len(known)]
            since = f"{state_of(self.room).log.tail_id.partition('-')[0]}-{reader.messages[-1].number}"
            self.readers.append(self._open(reader.form, since, varies=reader.varies))

    # Invariants

    async def let_it_run(self) -> None:
        await wait_all_tasks_blocked()
        while True:
            before = len(self.witness.messages), len(self.witness.raw)
            self.witness.take(1 << 20)
            await wait_all_tasks_blocked()
            if before == (len(self.witness.messages), len(self.witness.raw)):
                return

    async def read_all(self) -> None:
        there = [*self.readers, *self.closing]
        before: list[int] = []
        while before != (before := [reader.received for reader in there]):
            for reader in there:
                reader.take(1 << 20)
            await self.let_it_run()

    def check_all(self, *, at_end: bool) -> None:
        order = self.witness.messages
        assert [message.number for message in order] == list(range(1, len(order) + 1)), "the witness misses nothing"
        for reader in [*self.readers, *self.closing, *self.gone]:
            self._check(reader, order, at_end=at_end and reader in self.readers)
        for reader in self.closing if at_end else []:
            assert not reader.raw, "a frame that was begun is sent whole"
            assert reader.close_code in ((1000, 1013) if self.slow is Slow.CLOSE else (1000,))

    def _check(self, reader: Reader, order: list[Received], *, at_end: bool) -> None:
        if reader.form == "plain":
            places = {message.says: message.number for message in order}
            numbers = [places[message.says] for message in reader.messages]
        else:
            numbers = [message.number for message in reader.messages]
            assert reader.messages == [order[number - 1] for number in numbers if number is not None]
        assert all(number is not None for number in numbers)
        got = [number for number in numbers if number is not None]
        assert [says for says, _ in reader.got_alone] == [
            sent.says for sent in reader.sent_alone[: len(reader.got_alone)]
        ], "in order, and nothing twice"
        if self.slow in (Slow.CLOSE, Slow.WAIT):
            for sent, (_, before) in zip(reader.sent_alone, reader.got_alone, strict=False):
                reached = got[before - 1] if before else reader.first - 1
                assert reached >= sent.after, "after all that the room had published"
        assert got == sorted(set(got)), "in order, and nothing twice"
        assert not got or got[0] >= reader.first
        missing = set(range(reader.first, (got[-1] if got else reader.first - 1) + 1)) - set(got)
        if reader.gap:  # the history no longer had these messages
            missing -= set(range(reader.first, got[0] if got else reader.first))
        if self.slow in (Slow.CLOSE, Slow.WAIT):
            assert not missing, "no message is left out"
        elif self.slow is Slow.SKIP and reader.form != "plain":
            assert len(missing) <= reader.skipped, "each skipped message is counted"
        if not at_end:
            return
        if reader.ended or reader.close_code is not None:
            assert self.slow is Slow.CLOSE
            assert reader.close_code == (None if reader.form == "events" else 1013), "it was too slow for this room"
            return
        assert not reader.raw, "a frame that was begun is sent whole"
        assert reader.ponged == reader.pinged
        assert len(reader.got_alone) == len(reader.sent_alone), "it has all messages to it alone"
        assert reader.members in (None, len(self.room)), "it has been notified of all who came and went"
        last = order[-1].number if order else 0
        assert last is not None
        if self.slow is Slow.LATEST:
            wanted = {json.loads(message.says)["key"]: message.number for message in order[reader.first - 1 :]}
            assert set(wanted.values()) <= set(got), "it has the newest of each key"
        elif last >= reader.first:
            assert got, "it has heard nothing"
            assert got[-1] == last, "it has caught up"
        if self.slow is Slow.SKIP and reader.form != "plain":
            assert len(missing) == reader.skipped, "each counted message was skipped"


readers = st.integers(0, 5)
some = st.lists(SIZES, min_size=1, max_size=4)
keys = st.sampled_from(KEYS)
Step = tuple[Callable[..., None], ...]
steps: st.SearchStrategy[tuple[object, ...]] = st.one_of(
    st.tuples(st.just(Room.join), st.sampled_from(["plain", "ids", "events"]), st.booleans()),
    st.tuples(st.just(Room.publish), some, keys),
    st.tuples(st.just(Room.publish), some, keys),
    st.tuples(st.just(Room.say), readers, some, keys),
    st.tuples(st.just(Room.ask), readers),
    st.tuples(st.just(Room.say_alone), readers, SIZES),
    st.tuples(st.just(Room.read), readers, st.sampled_from([1, 7, 100, 5_000, 1 << 20])),
    st.tuples(st.just(Room.leave), readers, st.sampled_from(["close", "vanish"])),
    st.tuples(st.just(Room.come_back), readers),
)


@pytest.mark.parametrize("allowance", [None, 0], ids=["at once", "in steps"])
@pytest.mark.parametrize("slow", Slow)
@given(plan=st.lists(st.tuples(steps, st.booleans()), min_size=5, max_size=60))
def test_each_reader_gets_what_its_policy_promises_after_any_steps(
    slow: Slow, allowance: int | None, plan: list[tuple[tuple[Callable[..., None], object], bool]]
) -> None:
    """Without an allowance, each form but the plain one is encoded in steps, and its readers wait for that."""

    async def play() -> None:
        clients: list[HangsUp] = []
        async with trio.open_nursery() as nursery:
            room = Room(slow, clients, nursery)
            try:
                await room.let_it_run()
                for (step, *given), then_run in plan:
                    step(room, *given)
                    if then_run:  # otherwise the next step is in the same turn of the loop
                        await room.let_it_run()
                        room.check_all(at_end=False)
                await room.let_it_run()
                await room.read_all()
                room.check_all(at_end=True)
            finally:
                for client in clients:
                    client.hang_up()
                nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert not room.running.endpoint.peer_count

    with pytest.MonkeyPatch.context() as patch:
        if allowance is not None:
            patch.setattr("rawws.relay.loop.TURN_WORK", allowance)
            patch.setattr("rawws.relay.encoding_jobs.TURN_WORK", allowance)
            patch.setattr("rawws.relay.sending.STEP_BYTES", 1)
        trio.run(play)
