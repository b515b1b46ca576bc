"""Presence: the watchers of a room get the history of its members, however these join and leave."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.query import RoomQuery
from rawws.errors import ConnectionClosed
from rawws.hub.hub import Hub
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer, PeerGroup
from rawws.wire.frames import parse_header
from rawws.wire.handshake import Accept, Handshake
from rawws.wire.messages import Headers, Request
from tests.effort import examples
from tests.room_serving import rooms
from tests.serving.client import Client, HangsUp
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import StartHub, websocket_on
from tests.serving.wire import KEY, close, text
from tests.sse import read_events


def tcp_pair() -> tuple[socket.socket, Client]:
    """Return the two ends of a TCP connection: unlike a socketpair's, its peer takes one more send after its end."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, Client(theirs)


# One fault after the other


async def test_a_reader_lost_while_its_history_is_sent_is_no_watcher(
    start_hub: StartHub,
) -> None:
    running = start_hub(history=10)
    room = running.hub.room("/")
    room.publish("in the history")
    ours, client = tcp_pair()
    client.hang_up()
    reading = RoomQuery(last=10, wants_presence=True)
    running.hub.stream_events(1, Transport(ours), "/", reading, running.endpoint)
    assert (len(room), len(state_of(room).watchers)) == (0, 0)
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 0


@pytest.mark.parametrize("pair", [tcp_pair, None], ids=["in its history", "in its greeting"])
async def test_a_reader_lost_at_once_causes_no_notice_or_a_join_and_then_a_leave(
    start_hub: StartHub, pair: Callable[[], tuple[socket.socket, Client]] | None
) -> None:
    running = start_hub(history=10)
    room = running.hub.room("/")
    room.publish("in the history")
    ours, watcher = running.pair()
    running.hub.stream_events(1, Transport(ours), "/", RoomQuery(wants_presence=True), running.endpoint)
    ours, client = (pair or running.pair)()
    client.hang_up()
    running.hub.stream_events(2, Transport(ours), "/", RoomQuery(last=10), running.endpoint)
    assert len(room) == 1
    running.join().hang_up()
    await wait_all_tasks_blocked()
    kinds = [event.kind for event in read_events(await watcher.take_some())]
    assert kinds == ["join", "leave"] * (len(kinds) // 2)
    assert len(room) == 1


async def test_messages_of_a_client_that_has_gone_do_not_fail_the_server(
    start_hub: StartHub,
) -> None:
    running = start_hub(history=10, slow="wait")
    room = running.hub.room("/")
    room.publish("in the history")
    state_of(room).holds.add("a test")  # its messages have to be kept, and no more is read from it
    ours, client = running.pair()
    client.hang_up()
    handshake = Handshake((), "/", Accept.of(KEY.decode()), None)
    request = Request("GET", "/?last=10", "1.1", Headers([("Host", "a")]))
    hi = bytes.fromhex("8182 37fa213d 5f93")
    running.hub.adopt(1, Transport(ours), handshake, running.endpoint, request=request, trailing_data=hi)
    assert not len(room)
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 1
    current_loop().slow.unblock(state_of(room), "a test")
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 0
    assert state_of(room).log.last_message == 2, "its earlier messages are published"


async def leave(room: rawws.Room, ws: rawws.WebSocket) -> None:
    room.join(ws)
    room.leave(ws)


async def end_the_block(room: rawws.Room, ws: rawws.WebSocket) -> None:
    async with room.join(ws):
        pass


async def close_in_the_room(room: rawws.Room, ws: rawws.WebSocket) -> None:
    room.join(ws)
    ws.begin_close()


@pytest.mark.parametrize("go", [leave, end_the_block, close_in_the_room])
async def test_a_program_takes_a_connection_out_of_a_room_and_watchers_get_its_leave(
    nursery: trio.Nursery, go: Callable[[rawws.Room, rawws.WebSocket], Any]
) -> None:
    hub = Hub()

    async def handler(ws: rawws.WebSocket) -> None:
        await go(hub.room("/x"), ws)
        await ws.wait_closed()

    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, routes={"/handler": handler}))
    url = f"ws://{LOOPBACK}:{server.port}"
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"{url}/x?presence", subprotocols=[SUBPROTOCOL]) as watcher:
            await watcher.recv()
            async with rawws.connect(f"{url}/handler"):
                news = [json.loads(await watcher.recv()) for _ in range(2)]
    number = news[0]["join"]["peer"]
    assert news == [{"join": {"peer": number, "peers": 2}}, {"leave": {"peer": number, "peers": 1}}]
    nursery.cancel_scope.cancel()


async def test_a_watcher_is_not_sent_what_happened_before_it_joined(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        first = await running.stream("/room?presence")
        hub, endpoint = running.hub, PeerGroup(Limits())
        # All happens in one turn, so that no watcher has been notified yet.
        (before, a), (watching, second), (after, b) = (tcp_pair() for _ in range(3))
        for number, (ours, reading) in enumerate(
            [(before, RoomQuery()), (watching, RoomQuery(wants_presence=True)), (after, RoomQuery())], 101
        ):
            hub.stream_events(number, Transport(ours), "/room", reading, endpoint)
        joins = [json.loads(event.data)["peer"] for event in await first.events(3)]
        assert joins == [101, 102, 103]
        (event,) = read_events(await second.take_some())
        assert json.loads(event.data) == {"peer": 103, "peers": 4}
        for client in (a, b, second):
            client.hang_up()
        await endpoint.wait_empty()


# A connection that sending ends, while others go on with it


async def test_a_connection_that_is_gone_joins_no_room(start_hub: StartHub) -> None:
    running = start_hub()
    ours, client = running.pair()
    ws = websocket_on(ours, 1, running.endpoint)
    await client.send(b"".join(bytes.fromhex("8182 37fa213d 5f93") for _ in range(2)))
    await ws.recv()
    await ws.send("waits for more to go out with it, since there is another message to answer")
    client.hang_up()
    room = running.hub.room("/")
    room.join(ws)
    assert (len(room), list(running.hub)) == (0, [])
    assert await ws.recv() == "hi"
    with pytest.raises(ConnectionClosed):
        await ws.recv()


async def test_a_connection_that_ends_while_its_history_is_sent_leaves_nothing_in_the_room(start_hub: StartHub) -> None:
    running = start_hub(history=10)
    room = running.hub.room("/")
    room.publish("in the history")
    ours, client = running.pair()
    ws = websocket_on(ours, 1, running.endpoint)
    client.hang_up()
    room.join(ws, last=10)
    assert len(room) == 0
    with trio.fail_after(PATIENCE_S):
        await ws.wait_closed()


async def test_recv_ends_if_the_answer_that_it_sends_first_finds_the_peer_gone(start_hub: StartHub) -> None:
    running = start_hub()
    ours, client = running.pair()
    ws = websocket_on(ours, 1, running.endpoint)
    await client.send(b"".join(bytes.fromhex("8182 37fa213d 5f93") for _ in range(2)))
    assert await ws.recv() == "hi"
    await ws.send("waits for more to go out with it, since there is another message to answer")
    assert await ws.recv() == "hi"
    client.hang_up()
    with pytest.raises(ConnectionClosed):
        await ws.recv()


async def test_timers_skip_a_peer_that_ended_with_the_last_message_of_another(
    mock_clock: trio.testing.MockClock, start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(messages_per_s=1, ping_interval_s=5, ping_timeout_s=5)
    for _ in range(8):  # in half of the rounds the loop is the first to see it, by trio's choice
        running = start_hub(limits=limits)
        late, resting = running.join(), running.join()
        await wait_all_tasks_blocked()
        mock_clock.jump(5.1)
        await wait_all_tasks_blocked()
        await resting.send(text("1") + text("2") + text("3"))  # nothing more is read from it for a while
        await wait_all_tasks_blocked()
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
        late.try_send(text("is an answer to the ping, and finds the other one gone"))
        resting.hang_up()
        mock_clock.jump(6)
        await wait_all_tasks_blocked()
        late.hang_up()
        await running.endpoint.wait_empty()
    assert "an error in rawws itself" not in caplog.text


# Any order of events


@dataclass(eq=False)
class Watcher:
    """A member that watches, and the notices that it has received."""

    number: int
    client: Client
    is_events: bool
    others: set[int]  # the members besides it when it joined
    raw: bytearray = field(default_factory=bytearray)
    heard: list[tuple[str, int, int]] = field(default_factory=list)

    def take(self) -> None:
        """Read all bytes that have arrived."""
        try:
            self.raw += self.client.stdlib_socket.recv(1 << 20)
        except BlockingIOError:
            return
        if self.is_events:
            end = self.raw.rfind(b"\n\n") + 2
            for event in read_events(bytes(self.raw[:end])):
                if event.kind in ("join", "leave"):
                    self._hear(event.kind, json.loads(event.data))
            del self.raw[:end]
            return
        while (header := parse_header(self.raw)) is not None:
            end = len(header.raw) + header.payload_bytes
            assert len(self.raw) >= end, "each message goes out whole"
            head = json.loads(bytes(self.raw[len(header.raw) : end]).partition(b"\n")[0])
            del self.raw[:end]
            for kind in ("join", "leave"):
                if kind in head:
                    self._hear(kind, head[kind])

    def _hear(self, kind: str, notice: dict[str, int]) -> None:
        self.heard.append((kind, notice["peer"], notice["peers"]))

    def check(self, members: set[int]) -> None:
        """Check that its notices lead from the members that it found to the present ones."""
        there = set(self.others)
        for kind, number, peers in self.heard:
            assert number != self.number, "it isn't notified of itself"
            assert (number in there) is (kind == "leave"), "a join, then one leave"
            there ^= {number}
            assert peers == len(there) + 1
        assert there == members - {self.number}


class Stage:
    """A room, its members, and the watchers among them."""

    def __init__(self, clients: list[HangsUp]) -> None:
        self.hub = Hub(history=3)
        self.room = self.hub.room("/")
        self.endpoint = PeerGroup(Limits(ping_interval_s=0, close_timeout_s=0))
        self.clients = clients
        self.number = 0
        self.relayed: dict[int, tuple[Client, str]] = {}
        self.watchers: list[Watcher] = []
        self.held: list[tuple[rawws.WebSocket, Client]] = []

    @property
    def members(self) -> set[int]:
        return {peer.number for peer in state_of(self.room).peers}

    def _pair(self, tcp: bool) -> tuple[socket.socket, Client]:
        if tcp:
            ours, client = tcp_pair()
        else:
            ours, theirs = socket.socketpair()
            client = Client(theirs)
        self.clients.append(client)
        return ours, client

    # Steps

    def join(self, encoding: str, watches: bool, gone: bool, tcp: bool, last: int) -> None:
        """Join as a peer that is relayed, whose client may be gone already."""
        self.number += 1
        ours, client = self._pair(tcp)
        if gone:
            client.hang_up()
        others = self.members
        if encoding == "events":
            reading = RoomQuery(last=last, wants_presence=watches)
            peer = self.hub.stream_events(self.number, Transport(ours), "/", reading, self.endpoint)
        else:
            subprotocol = SUBPROTOCOL if encoding == "ids" else None
            handshake = Handshake((), "/", Accept.of(KEY.decode()), None, subprotocol=subprotocol)
            request = Request("GET", f"/?last={last}{'&presence' * watches}", "1.1", Headers([("Host", "a")]))
            peer = self.hub.adopt(self.number, Transport(ours), handshake, self.endpoint, request=request)
        if peer is None or gone:
            return
        self.relayed[self.number] = (client, encoding)
        if watches and encoding != "plain":
            self.watchers.append(Watcher(self.number, client, encoding == "events", others))

    def hold(self, joins: bool) -> None:
        """Connect to a handler, which may put the connection into the room."""
        self.number += 1
        ours, client = self._pair(tcp=False)
        ws = websocket_on(ours, self.number, self.endpoint)
        self.held.append((ws, client))
        if joins:
            self.room.join(ws)

    def program(self, which: int, action: str) -> None:
        if not self.held:
            return
        ws, client = self.held[which % len(self.held)]
        try:
            match action:
                case "join":
                    self.room.join(ws, last=2)
                case "leave":
                    self.room.leave(ws)
                case "block":
                    with self.room.join(ws):
                        pass
                case "close":
                    ws.begin_close()
                case _:
                    client.hang_up()
        except ConnectionClosed:
            assert ws.closed is not None

    def publish(self) -> None:
        self.room.publish("x" * 100)

    def leave(self, which: int, how: str) -> None:
        """Remove a relayed peer, by its client's action or the server's."""
        if not self.relayed:
            return
        number = list(self.relayed)[which % len(self.relayed)]
        client, encoding = self.relayed.pop(number)
        peer = self._find(number)
        match how:
            case "close" if encoding != "events":  # a reader of events can leave only by closing its connection
                client.try_send(close())
            case "close" | "vanish":
                client.hang_up()
            case _ if peer is not None:
                current_loop().close(peer, 1001, "the server is shutting down")
            case _:
                pass
        self.watchers = [each for each in self.watchers if each.number != number]

    def _find(self, number: int) -> Peer | None:
        return next((peer for peer in state_of(self.room).peers if peer.number == number), None)

    async def check(self) -> None:
        await wait_all_tasks_blocked()
        members = self.members
        for watcher in self.watchers:
            watcher.take()
            assert watcher.number in members
            watcher.check(members)
        assert {each.number for each in state_of(self.room).peers if each in state_of(self.room).watchers} == {
            each.number for each in self.watchers
        }
        assert len(state_of(self.room).watchers) == len(self.watchers)


some = st.integers(0, 7)
steps: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(
        st.just(Stage.join),
        st.sampled_from(["plain", "ids", "events"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.tuples(st.just(Stage.hold), st.booleans()),
    st.tuples(st.just(Stage.program), some, st.sampled_from(["join", "leave", "block", "close", "vanish"])),
    st.tuples(st.just(Stage.leave), some, st.sampled_from(["close", "vanish", "shutdown"])),
    st.tuples(st.just(Stage.publish)),
)


@settings(max_examples=examples(150))
@given(plan=st.lists(st.tuples(steps, st.booleans()), min_size=5, max_size=40))
def test_a_watcher_gets_the_history_of_the_members(plan: list[tuple[tuple[Any, ...], bool]]) -> None:
    async def play() -> None:
        clients: list[HangsUp] = []
        stage = Stage(clients)
        try:
            for (step, *given_), then_run in plan:
                step(stage, *given_)
                if then_run:  # else the next step comes in the same turn of the loop
                    await stage.check()
            await stage.check()
        finally:
            for client in clients:
                client.hang_up()
        await stage.endpoint.wait_empty()
        assert not len(stage.room)
        assert not state_of(stage.room).watchers

    trio.run(play)
