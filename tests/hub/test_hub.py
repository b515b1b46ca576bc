"""The broadcast loop on real sockets: delivery, order, and the limits of slow and of misbehaving peers.

Tests of order and of rooms go through the whole server over TCP. Tests of short writes give the hub one end of a
socket pair with a small send buffer: it is full after a few kilobytes, and empty as soon as the test reads.
"""

from __future__ import annotations

import logging
import os
import random
import re
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws.relay.loop
import rawws.relay.ready_sockets
from rawws.broadcast.encodings import PLAIN, Encoding
from rawws.broadcast.log import BroadcastLog
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.start_position import StartPosition
from rawws.hub.hub_arguments import Mode
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.net.poller import READABLE, SelectorPoller, make_poller
from rawws.net.transport import MORE_RECEIVE_BYTES, RECEIVE_BYTES, Transport
from rawws.relay.loop import current_loop
from rawws.relay.ready_sockets import Ready
from rawws.relay.room_base import RoomBase
from rawws.relay.room_state import RoomState
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.wire import masking
from rawws.wire.frames import Opcode
from rawws.wire.masking import OnDemand
from rawws.wire.session import Session
from tests.serving.client import Client
from tests.serving.server import Running, RunningHub, Serve, StartHub
from tests.serving.wire import Seen, binary, close, masked, ping, seen_close, seen_text, text

# Linux gives at least about twice as much: the buffer holds a few frames, or part of a large one.
SMALL_BUFFER = 4096

KIB_MESSAGES = [f"{number:04}" + "." * 1020 for number in range(256)]


@pytest.fixture(params=[make_poller, SelectorPoller], ids=["own poller", "selectors"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with this system's poller, and with the one for systems without epoll."""
    monkeypatch.setattr(rawws.relay.ready_sockets, "make_poller", request.param)


def hub_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rawws.hub"]


async def wait_gone(running: RunningHub | Running, count: int = 0) -> None:
    """Wait until the hub has at most ``count`` peers."""
    counted = running.endpoint if isinstance(running, RunningHub) else running.server
    while counted.peer_count > count:
        await trio.lowlevel.checkpoint()


# Delivery


@pytest.mark.usefixtures("poller")
async def test_a_message_goes_to_all_in_the_room_its_sender_included(serve: Serve) -> None:
    running = await serve()
    clients = [await running.open("/room") for _ in range(3)]
    for number, sender in enumerate(clients):
        await sender.send(text(f"from {number}"))
        for client in clients:
            assert await client.frame() == seen_text(f"from {number}")


async def test_text_stays_text_and_binary_stays_binary(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    payload = "žluťoučký 🐴".encode()
    await alice.send(text(payload.decode()) + binary(payload) + binary(bytes(range(256))) + text(""))
    expected = [
        Seen(Opcode.TEXT, payload),
        Seen(Opcode.BINARY, payload),
        Seen(Opcode.BINARY, bytes(range(256))),
        Seen(Opcode.TEXT, b""),
    ]
    assert await alice.frames(4) == expected
    assert await bob.frames(4) == expected


async def test_a_message_in_fragments_arrives_as_one_frame(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(
        masked(Opcode.TEXT, b"Hel", fin=False) + ping(b"between") + masked(Opcode.CONTINUATION, b"lo", fin=True)
    )
    assert await bob.frame() == seen_text("Hello")
    assert await alice.frames(2) == [Seen(Opcode.PONG, b"between"), seen_text("Hello")]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 1 << 20])
async def test_messages_of_every_form_of_length_arrive(serve: Serve, size: int) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.send, binary(b"a" * size))
        nursery.start_soon(alice.frame)
        assert await bob.frame() == Seen(Opcode.BINARY, b"a" * size)


async def test_a_message_over_the_limit_is_refused_with_1009_and_not_delivered(serve: Serve) -> None:
    running = await serve(limits=Limits(max_message_bytes=100))
    alice, bob = await running.open(), await running.open()
    await alice.send(text("a" * 101))
    refused = await alice.frame()
    assert (refused.opcode, refused.payload[:2]) == (Opcode.CLOSE, (1009).to_bytes(2, "big"))
    await alice.assert_end()
    await bob.send(text("b" * 100))
    assert await bob.frame() == seen_text("b" * 100)


async def test_rooms_hear_nothing_of_each_other(serve: Serve) -> None:
    running = await serve()
    here, there = await running.open("/here"), await running.open("/there")
    await here.send(text("only here"))
    assert await here.frame() == seen_text("only here")
    await there.send(text("only there"))
    assert await there.frame() == seen_text("only there")


async def test_the_room_is_the_path_without_the_query(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open("/room?name=alice"), await running.open("/room")
    await alice.send(text("hi"))
    assert await bob.frame() == seen_text("hi")


async def test_a_room_and_its_log_end_with_its_last_peer(serve: Serve) -> None:
    running = await serve()
    rooms = running.hub.rooms
    first, last = await running.open("/room"), await running.open("/room")
    await first.send(text("hi"))
    await last.frame()
    first.hang_up()
    await wait_gone(running, 1)
    assert list(rooms) == ["/room"]
    last.hang_up()
    await wait_gone(running)
    assert rooms == {}


async def test_the_log_keeps_nothing_that_all_peers_have_been_sent(serve: Serve) -> None:
    running = await serve()
    client = await running.open("/room")
    for number in range(100):
        await client.send(text(str(number)))
        await client.frame()
    assert state_of(running.hub.rooms["/room"]).log.kept_bytes == 0


async def test_a_new_peer_gets_only_later_messages(serve: Serve) -> None:
    running = await serve()
    alice = await running.open()
    await alice.send(text("before"))
    await alice.frame()
    bob = await running.open()
    await alice.send(text("after"))
    assert await bob.frame() == seen_text("after")


async def test_the_greeting_comes_before_all_else(serve: Serve) -> None:
    running = await serve(hello="Welcome, 世界!")
    alice = await running.open()
    assert await alice.frame() == seen_text("Welcome, 世界!")
    bob = await running.open("/", then=text("right after the handshake"))
    assert await bob.frames(2) == [seen_text("Welcome, 世界!"), seen_text("right after the handshake")]
    assert await alice.frame() == seen_text("right after the handshake")  # alice does not get bob's greeting


async def test_echo_mode_answers_each_message_to_its_sender_alone(serve: Serve) -> None:
    running = await serve(mode=Mode.ECHO)
    alice, bob = await running.open(), await running.open()
    await alice.send(text("a") + binary(b"\0"))
    assert await alice.frames(2) == [seen_text("a"), Seen(Opcode.BINARY, b"\0")]
    await bob.send(text("b"))
    assert await bob.frame() == seen_text("b")


# Order


class Talker:
    """A peer that sends messages until it is stopped, and records all that it sent and received."""

    def __init__(self, client: Client, name: str, chance: random.Random) -> None:
        self._client = client
        self._name = name
        self._chance = chance
        self.said: list[Seen] = []
        self.seen_since_ping: list[Seen] = []

    async def talk(self, enough: trio.Event) -> None:
        while not enough.is_set() or len(self.said) < 50:
            news = [self._invent(len(self.said) + ahead) for ahead in range(self._chance.randrange(1, 10))]
            self.said += news
            stream = b"".join(masked(message.opcode, message.payload) for message in news)
            cuts = sorted(self._chance.sample(range(1, len(stream)), 2))
            for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                await self._client.send(stream[start:end])
                await trio.lowlevel.checkpoint()

    def _invent(self, number: int) -> Seen:
        opcode = self._chance.choice([Opcode.TEXT, Opcode.BINARY])
        return Seen(opcode, f"{self._name} {number} {'.' * self._chance.randrange(200)}".encode())

    async def listen(self) -> None:
        while True:
            self.seen_since_ping.append(await self._client.frame())


async def _visit(running: Running, visits: list[list[Seen]], chance: random.Random) -> None:
    for _ in range(8):
        visitor = await running.open()
        heard = await visitor.frames(chance.randrange(1, 20))
        match chance.choice(["reset", "hang up", "close"]):
            case "reset":
                visitor.reset()
            case "hang up":
                visitor.hang_up()
            case "close":
                await visitor.send(close())
                heard += (await visitor.frames_to_close())[:-1]
        visits.append(heard)


@pytest.mark.usefixtures("poller")
@pytest.mark.parametrize("seed", range(4))
async def test_all_get_each_message_exactly_once_in_one_order_while_others_join_and_leave(
    serve: Serve, seed: int
) -> None:
    chance = random.Random(seed)
    running = await serve()
    talkers = [Talker(await running.open(), name, random.Random(chance.random())) for name in "abcd"]
    visits: list[list[Seen]] = []
    enough = trio.Event()
    async with trio.open_nursery() as listening:
        for talker in talkers:
            listening.start_soon(talker.listen)
        async with trio.open_nursery() as talking:
            for talker in talkers:
                talking.start_soon(talker.talk, enough)
            async with trio.open_nursery() as visiting:
                for _ in range(3):
                    visiting.start_soon(_visit, running, visits, random.Random(chance.random()))
            enough.set()
        said = [message for talker in talkers for message in talker.said]
        while any(len(talker.seen_since_ping) < len(said) for talker in talkers):
            await trio.lowlevel.checkpoint()
        listening.cancel_scope.cancel()

    order = talkers[0].seen_since_ping
    assert sorted(order) == sorted(said)
    for talker in talkers:
        assert talker.seen_since_ping == order
        own = set(talker.said)
        assert [message for message in order if message in own] == talker.said
    assert len(visits) == 3 * 8
    for heard in visits:
        arrived = order.index(heard[0])
        assert heard == order[arrived : arrived + len(heard)]


async def test_messages_of_one_write_arrive_in_their_order(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    messages = [str(number) for number in range(1000)]
    await alice.send(b"".join(map(text, messages)))
    assert await bob.frames(1000) == await alice.frames(1000) == list(map(seen_text, messages))


async def test_data_beyond_the_limit_of_a_turn_is_read_in_the_next(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rawws.relay.loop, "TURN_BYTES", 1)
    running = await serve()
    clients = [await running.open() for _ in range(5)]
    for number, client in enumerate(clients):
        await client.send(text(str(number)))
    for client in clients:
        heard = await client.frames(5)
        assert sorted(heard) == [seen_text(str(number)) for number in range(5)]


async def test_a_peer_with_unread_data_has_one_turn_per_round(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start_hub(mode=Mode.ECHO)
    client = running.join()
    loop = current_loop()
    take = loop.sockets.take
    most = 0

    def look_and_take() -> list[Ready]:
        nonlocal most
        ready = take()
        most = max([most, *Counter(fd for fd, _ in ready).values()])
        return ready

    monkeypatch.setattr(loop.sockets, "take", look_and_take)
    messages = 2 * RECEIVE_BYTES // len(text(""))  # some stay in the kernel while others are received and unread
    await client.send(text("") * messages)
    await client.frames(messages)
    assert most == 1


@pytest.mark.usefixtures("poller")
@pytest.mark.parametrize("found", ["by sending", "by the poller"])
async def test_a_vanished_peer_over_its_rate_limit_is_read_to_the_end_at_that_rate(
    start_hub: StartHub, mock_clock: MockClock, found: str
) -> None:
    running = start_hub(limits=Limits(messages_per_s=10))
    client, listener = running.join(send_buffer=SMALL_BUFFER), running.join()
    room = running.hub.room("/")
    said = [str(number) for number in range(60)]
    await client.send(b"".join(map(text, said)))
    await wait_all_tasks_blocked()
    allowed = state_of(room).log.last_message
    assert allowed == 11
    await listener.frames(allowed)
    client.hang_up()
    if found == "by sending":
        room.publish("to one who is gone")
        await listener.frame()
    await wait_all_tasks_blocked()
    published = state_of(room).log.last_message
    assert published == allowed + (found == "by sending"), "its rate holds for what it had sent, too"
    for number in range(allowed, 60):
        if number % 10 == 1:
            mock_clock.jump(1.0)
        assert await listener.frame() == seen_text(said[number])
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 1


async def test_a_peer_that_is_always_over_its_rate_limit_is_pinged(start_hub: StartHub, mock_clock: MockClock) -> None:
    running = start_hub(limits=Limits(messages_per_s=10, ping_interval_s=5))
    client = running.join()
    await client.send(b"".join(text(str(number)) for number in range(200)))
    got: list[Seen] = []
    for _ in range(60):
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked()
    while not any(frame.opcode is Opcode.PING for frame in got):
        got.append(await client.frame())
    assert len(got) < 100, "it is pinged while it has more to say than it may"


def test_a_poller_reports_nothing_for_an_empty_interest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This selector registers anew, as that of kqueue does.
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    poller = SelectorPoller()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        poller.add(ours.fileno())
        poller.watch(ours.fileno(), 0)
        assert poller.poll() == []
        poller.watch(ours.fileno(), READABLE)
        assert poller.poll() == [(ours.fileno(), READABLE)]
        poller.watch(ours.fileno(), 0)
        poller.remove(ours.fileno())
    poller.close()


# Slow readers


@pytest.mark.usefixtures("poller")
async def test_a_peer_that_never_reads_is_closed_with_1013_and_the_others_get_everything_at_once(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    running = start_hub(max_lag_bytes=64 * 1024)
    alice, mute, bob = running.join(), running.join(send_buffer=SMALL_BUFFER), running.join()
    for message in KIB_MESSAGES:
        await alice.send(text(message))
        # Both readers have each message before the next is sent, so they do not wait for the mute peer.
        assert await alice.frame() == await bob.frame() == seen_text(message)
    (line,) = [line for line in hub_messages(caplog) if "reads too slowly" in line]
    assert re.fullmatch(r"#2 ! reads too slowly: \d+ bytes behind, over the limit of 65536 \(--max-lag\)", line)
    assert len(running.hub.rooms["/"]) == 2
    assert state_of(running.hub.rooms["/"]).log.kept_bytes == 0

    *heard, farewell = await mute.frames_to_close()  # the peer reads after all
    assert heard == list(map(seen_text, KIB_MESSAGES))[: len(heard)]
    assert farewell.payload[:2] == (1013).to_bytes(2, "big")
    await mute.send(close(1013))
    await mute.assert_end()


async def test_a_peer_that_does_not_answer_its_1013_is_dropped(start_hub: StartHub, mock_clock: MockClock) -> None:
    running = start_hub(limits=Limits(ping_interval_s=0), max_lag_bytes=1)
    alice = running.join()
    running.join(send_buffer=SMALL_BUFFER)
    await alice.send(text("a" * 100_000))
    await alice.frame()
    assert running.endpoint.peer_count == 2
    await wait_all_tasks_blocked()
    mock_clock.jump(10.0)
    await wait_gone(running, 1)


@pytest.mark.usefixtures("poller")
async def test_a_peer_that_stalls_and_recovers_gets_everything_in_order(start_hub: StartHub) -> None:
    running = start_hub()
    alice, slow = running.join(), running.join(send_buffer=SMALL_BUFFER)
    for message in KIB_MESSAGES:
        await alice.send(text(message))
        await alice.frame()
    assert state_of(running.hub.rooms["/"]).log.kept_bytes > 200 * 1024
    assert await slow.frames(len(KIB_MESSAGES)) == list(map(seen_text, KIB_MESSAGES))
    await wait_all_tasks_blocked()
    assert state_of(running.hub.rooms["/"]).log.kept_bytes == 0
    await alice.send(text("and on"))
    assert await slow.frame() == seen_text("and on")


async def test_one_log_serves_several_lagging_peers_at_different_positions(start_hub: StartHub) -> None:
    running = start_hub()
    alice = running.join()
    slow = [running.join(send_buffer=SMALL_BUFFER) for _ in range(4)]
    for number, message in enumerate(KIB_MESSAGES):
        await alice.send(text(message))
        await alice.frame()
        if number % 3 == 0:
            assert await slow[0].frame() == seen_text(KIB_MESSAGES[number // 3])
        if number % 50 == 0:
            assert await slow[1].frame() == seen_text(KIB_MESSAGES[number // 50])
    assert state_of(running.hub.rooms["/"]).log.kept_bytes < 300 * 1024
    slow[3].hang_up()
    assert await slow[2].frames(256) == list(map(seen_text, KIB_MESSAGES))
    assert await slow[1].frames(250) == list(map(seen_text, KIB_MESSAGES[6:]))
    assert await slow[0].frames(170) == list(map(seen_text, KIB_MESSAGES[86:]))
    await wait_all_tasks_blocked()
    assert state_of(running.hub.rooms["/"]).log.kept_bytes == 0


@pytest.mark.parametrize("size", [10, 1000, 100_000], ids=lambda size: f"{size} bytes a message")
async def test_pongs_never_land_inside_another_frame(start_hub: StartHub, size: int) -> None:
    running = start_hub()
    alice, slow = running.join(), running.join(send_buffer=SMALL_BUFFER)
    messages = [f"{number}" + "." * size for number in range(40)]
    for number, message in enumerate(messages):
        # A segment holds several messages, so that a cursor can stand between two frames inside it.
        await alice.send(text(message) + text(message))
        await alice.frames(2)
        await slow.send(ping(str(number).encode()))
        await wait_all_tasks_blocked()
    frames = await slow.frames(3 * len(messages))
    assert [frame for frame in frames if frame.opcode is Opcode.TEXT] == [
        seen_text(message) for message in messages for _ in range(2)
    ]
    assert [frame.payload.decode() for frame in frames if frame.opcode is Opcode.PONG] == list(map(str, range(40)))


@pytest.mark.parametrize("size", [10, 1000, 100_000], ids=lambda size: f"{size} bytes a message")
async def test_the_answer_to_a_close_never_lands_inside_another_frame(start_hub: StartHub, size: int) -> None:
    running = start_hub()
    alice, slow = running.join(), running.join(send_buffer=SMALL_BUFFER)
    messages = [f"{number}" + "." * size for number in range(40)]
    for message in messages:
        await alice.send(text(message) * 3)
        await alice.frames(3)
    await slow.send(ping(b"last") + close(1000, "enough"))
    await wait_all_tasks_blocked()
    *heard, farewell = await slow.frames_to_close()
    assert farewell == seen_close(1000, "enough")
    expected = [seen_text(message) for message in messages for _ in range(3)]
    texts = [frame for frame in heard if frame.opcode is Opcode.TEXT]
    assert texts == expected[: len(texts)]
    await slow.assert_end()


async def test_a_lagging_peer_that_vanishes_leaves_no_data_in_the_log(start_hub: StartHub) -> None:
    running = start_hub()
    alice, slow = running.join(), running.join(send_buffer=SMALL_BUFFER)
    await alice.send(text("a" * 200_000))
    await alice.frame()
    assert state_of(running.hub.rooms["/"]).log.kept_bytes > 0
    slow.hang_up()
    await wait_gone(running, 1)
    assert state_of(running.hub.rooms["/"]).log.kept_bytes == 0


@pytest.mark.usefixtures("poller")
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_peer_that_pings_and_never_reads_is_read_no_further(start_hub: StartHub, mode: Mode) -> None:
    running = start_hub(mode=mode)
    flood, bob = running.join("/flood", send_buffer=SMALL_BUFFER), running.join("/other")
    (peer,) = state_of(running.hub.rooms["/flood"]).current[PLAIN]
    pings = [f"{number:0100}".encode() for number in range(40_000)]
    stream = memoryview(b"".join(map(ping, pings)))
    position = 0
    while True:
        sent = flood.try_send(stream[position:])
        position += sent
        await wait_all_tasks_blocked()
        if not sent and not flood.try_send(stream[position : position + 1]):
            break
        position += 0 if sent else 1
        assert position < len(stream), "the flood has been taken in whole"
    assert peer.queued_bytes <= MAX_OUTBOX_BYTES + MORE_RECEIVE_BYTES

    await bob.send(text("undisturbed"))
    assert await bob.frame() == seen_text("undisturbed")
    whole = position // len(ping(pings[0]))
    assert await flood.frames(whole) == [Seen(Opcode.PONG, payload) for payload in pings[:whole]]


async def test_echo_waits_for_a_peer_that_reads_more_slowly_than_it_writes(start_hub: StartHub) -> None:
    running = start_hub(mode=Mode.ECHO)
    client = running.join(send_buffer=SMALL_BUFFER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"".join(map(text, KIB_MESSAGES)))
        await wait_all_tasks_blocked()
        assert await client.frames(256) == list(map(seen_text, KIB_MESSAGES))


# Leaving


async def test_the_client_closes_and_gets_its_code_back(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    client = await running.open()
    await client.send(close(4001, "done"))
    assert await client.frame() == seen_close(4001, "done")
    await client.assert_end()
    client.hang_up()
    await wait_gone(running)
    assert hub_messages(caplog)[-1] == "#1 = closed by the client with 4001 'done'"


async def test_a_close_without_a_code_is_answered_without_one(serve: Serve) -> None:
    client = await (await serve()).open()
    await client.send(masked(Opcode.CLOSE))
    assert await client.frame() == Seen(Opcode.CLOSE, b"")
    await client.assert_end()


async def test_the_server_closes_and_waits_for_the_clients_half(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = start_hub()
    client = running.join()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.stop, 5.0)
        assert await client.frame() == seen_close(1001, "the server is shutting down")
        await wait_all_tasks_blocked()
        assert running.endpoint.peer_count == 1
        await client.send(close(1001))
        await client.assert_end()
        client.hang_up()
    assert hub_messages(caplog)[-1] == (
        "#1 = closed by us with 1001 (going away) 'the server is shutting down', answered with 1001 (going away)"
    )


async def test_a_lagging_peer_gets_all_that_was_published_before_the_server_closes_it(start_hub: StartHub) -> None:
    running = start_hub()
    alice, slow = running.join(), running.join(send_buffer=SMALL_BUFFER)
    for message in KIB_MESSAGES:
        await alice.send(text(message))
        await alice.frame()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.stop, 5.0)
        await wait_all_tasks_blocked()
        for client in (alice, slow):
            await client.send(text("too late"))
        await wait_all_tasks_blocked()
        *heard, farewell = await slow.frames_to_close()
        assert heard == list(map(seen_text, KIB_MESSAGES))
        assert farewell == seen_close(1001, "the server is shutting down")
        alice.hang_up()
        slow.hang_up()


async def test_messages_received_before_a_peer_stopped_reading_are_answered_when_it_reads_again(
    start_hub: StartHub,
) -> None:
    running = start_hub(mode=Mode.ECHO)
    client = running.join(send_buffer=4096)
    message = "x" * 100
    count = 2 * RECEIVE_BYTES // len(text(message))  # both receives together exceed the limit for one peer in a turn
    await client.send(text(message) * count)
    await wait_all_tasks_blocked()
    (peer,) = current_loop().peers_of(running.endpoint)
    assert peer.queued_bytes > MAX_OUTBOX_BYTES
    assert peer.session.unread
    assert await client.frames(count) == [seen_text(message)] * count


@pytest.mark.usefixtures("poller")
async def test_a_closed_peer_wakes_no_loop_while_a_forked_process_holds_its_socket(
    start_hub: StartHub,
) -> None:
    running = start_hub()
    ours, client = running.pair()
    running.adopt(Transport(ours))
    copy = os.dup(ours.fileno())
    try:
        client.hang_up()
        await wait_gone(running)
        turns = current_loop().stats.turns
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert current_loop().stats.turns == turns
    finally:
        os.close(copy)


async def test_a_client_that_vanished_before_the_hand_over_leaves_no_room(start_hub: StartHub) -> None:
    running = start_hub(hello="welcome")
    ours, theirs = socket.socketpair()
    theirs.close()
    running.adopt(Transport(ours))
    await wait_gone(running)
    assert running.hub.rooms == {}


async def test_a_client_that_is_handed_over_while_the_server_stops_is_greeted_and_closed(serve: Serve) -> None:
    running = await serve(hello="welcome", process_response=lambda *_: running.server.stop())
    client = await running.open(then=text("too late"))
    assert await client.frames(3) == [
        seen_text("welcome"),
        seen_text("too late"),
        seen_close(1001, "the server is shutting down"),
    ]


async def test_a_message_and_a_close_in_one_write_are_delivered_in_that_order(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(text("last words") + close(1000, "bye"))
    assert await alice.frames(2) == [seen_text("last words"), seen_close(1000, "bye")]
    await alice.assert_end()
    assert await bob.frame() == seen_text("last words")


async def test_bytes_after_a_close_are_not_read(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(close() + text("ghost"))
    assert await alice.frame() == seen_close(1000)
    await bob.send(text("next"))
    assert await bob.frame() == seen_text("next")


@pytest.mark.usefixtures("poller")
async def test_a_half_close_after_messages_loses_none_of_them(serve: Serve) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(text("one") + text("two"))
    alice.end_stream()
    assert await bob.frames(2) == await alice.frames(2) == [seen_text("one"), seen_text("two")]
    await alice.assert_end()
    await wait_gone(running, 1)


@pytest.mark.usefixtures("poller")
@pytest.mark.parametrize("leave", [Client.reset, Client.hang_up, Client.end_stream])
@pytest.mark.parametrize("cut", range(1, 11))
async def test_a_peer_that_vanishes_inside_a_frame_does_not_disturb_others(
    serve: Serve, leave: Callable[[Client], None], cut: int
) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(text("Hello")[:cut])
    await wait_all_tasks_blocked()
    leave(alice)
    await wait_gone(running, 1)
    await bob.send(text("still here"))
    assert await bob.frame() == seen_text("still here")


async def test_peers_that_vanish_during_a_send_do_not_disturb_others(serve: Serve) -> None:
    running = await serve()
    bob = await running.open()
    for _ in range(20):
        guests = [await running.open() for _ in range(5)]
        await bob.send(text("hi"))
        for guest in guests:
            guest.reset()
        assert await bob.frame() == seen_text("hi")
    await wait_gone(running, 1)


async def test_messages_sent_before_a_reset_are_published(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    bob, alice = await running.open(), await running.open()
    alice.try_send(text("last words") + close(4000, "gone"))
    alice.reset()
    delivery = running.hub.rooms["/"].publish("this finds out")  # the loop has not read yet
    assert (delivery.sent, delivery.closed) == (1, 1)
    assert await bob.frames(2) == [seen_text("this finds out"), seen_text("last words")]
    await wait_gone(running, 1)
    assert "#2 = closed by the client with 4000 'gone'" in "\n".join(hub_messages(caplog))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05Hello", 1002),
        (masked(0x3, b""), 1002),
        (masked(Opcode.TEXT, b"\xff"), 1007),
        (masked(Opcode.CLOSE, b"\x03"), 1002),
    ],
    ids=["not masked", "opcode 3", "not UTF-8", "a close of one byte"],
)
async def test_a_peer_that_breaks_the_protocol_is_closed_and_others_are_not_affected(
    serve: Serve, frame: bytes, code: int
) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    await alice.send(text("good") + frame + text("ghost"))
    good, farewell = await alice.frames(2)
    assert good == seen_text("good")
    assert (farewell.opcode, farewell.payload[:2]) == (Opcode.CLOSE, code.to_bytes(2, "big"))
    await alice.assert_end()
    await bob.send(text("next"))
    assert await bob.frames(2) == [seen_text("good"), seen_text("next")]


async def test_a_peer_that_never_ends_its_stream_is_dropped(serve: Serve, mock_clock: MockClock) -> None:
    running = await serve(limits=Limits(ping_interval_s=0))
    client = await running.open()
    await client.send(close())
    await client.frame()
    await client.assert_end()
    await wait_all_tasks_blocked()
    assert running.server.peer_count == 1
    mock_clock.jump(10.0)
    await wait_gone(running)


async def test_an_error_of_our_own_drops_only_its_peer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    relay_data = Session.relay_data

    def stumble(session: Session, data: bytes, most: float) -> list[bytes | bytearray]:
        if data == text("stumble"):
            raise ZeroDivisionError("on purpose")
        return relay_data(session, data, most)

    monkeypatch.setattr(Session, "relay_data", stumble)
    await alice.send(text("stumble"))
    await alice.wait_lost()
    await bob.send(text("next"))
    assert await bob.frame() == seen_text("next")
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage().startswith("#1 ! an error in rawws itself")


async def test_an_error_of_our_own_during_a_join_drops_only_its_peer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()
    bob = await running.open()
    resolve = RoomBase.resolve

    def stumble(room: RoomState, reading: RoomQuery) -> StartPosition:
        if room.path == "/stumble":
            raise ZeroDivisionError("on purpose")
        return resolve(room, reading)

    monkeypatch.setattr(RoomBase, "resolve", stumble)
    alice = await running.open("/stumble")
    await alice.wait_lost()
    await bob.send(text("next"))
    assert await bob.frame() == seen_text("next")
    assert running.server.peer_count == 1
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage() == "#2 ! an error in rawws itself; the connection is dropped"


async def test_an_error_of_our_own_in_a_room_drops_all_of_its_peers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()
    bob = await running.open()
    alice, carol = await running.open("/stumble"), await running.open("/stumble")
    segment = BroadcastLog.segment

    def stumble(log: BroadcastLog, number: int, encoding: Encoding = PLAIN) -> bytes:
        found = segment(log, number, encoding)
        if b"stumble" in found:
            raise ZeroDivisionError("on purpose")
        return found

    monkeypatch.setattr(BroadcastLog, "segment", stumble)
    await alice.send(text("stumble"))
    await alice.wait_lost()
    await carol.wait_lost()
    await bob.send(text("next"))
    assert await bob.frame() == seen_text("next")
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage() == "#0 ! an error in rawws itself; all connections in room /stumble are dropped"
    dave = await running.open("/stumble")
    await dave.send(text("again"))
    assert await dave.frame() == seen_text("again")


async def test_an_error_of_our_own_in_a_timer_drops_only_its_peer(
    serve: Serve, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()
    alice, bob = await running.open(), await running.open()
    ping = Session.ping
    pinged = 0

    def stumble(session: Session, payload: bytes) -> None:
        nonlocal pinged
        pinged += 1
        if pinged == 1:
            raise ZeroDivisionError("on purpose")
        ping(session, payload)

    monkeypatch.setattr(Session, "ping", stumble)
    await wait_all_tasks_blocked()
    mock_clock.jump(20.0)
    await alice.wait_lost()
    assert (await bob.frame()).opcode is Opcode.PING
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage() == "#1 ! an error in rawws itself; the connection is dropped"


async def test_no_peer_waits_for_the_import_of_numpy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Callable[[], None]] = []
    speed = OnDemand()
    monkeypatch.setattr(masking, "speed", speed)
    monkeypatch.setattr(rawws.relay.loop, "speed", speed)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: loads.append(thread.run))
    running = await serve()
    client = await running.open()
    for _ in range(2):
        await client.send(text(KIB_MESSAGES[0] * 4))
        assert await client.frame() == seen_text(KIB_MESSAGES[0] * 4)
    (load,) = loads  # the import has not begun
    load()
    assert speed.find() is not None
    await client.send(text(KIB_MESSAGES[1] * 4))
    assert await client.frame() == seen_text(KIB_MESSAGES[1] * 4)


async def test_numpy_is_not_loaded_if_no_thread_can_start(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = OnDemand()
    monkeypatch.setattr(masking, "speed", speed)
    monkeypatch.setattr(rawws.relay.loop, "speed", speed)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    running = await serve()
    client = await running.open()
    await client.send(text(KIB_MESSAGES[0] * 4))
    assert await client.frame() == seen_text(KIB_MESSAGES[0] * 4)
    assert speed.find() is None


# Keepalive


async def test_a_silent_peer_is_pinged_and_any_byte_is_an_answer(serve: Serve, mock_clock: MockClock) -> None:
    running = await serve()
    client = await running.open()
    for _ in range(5):
        await wait_all_tasks_blocked()
        mock_clock.jump(20.0)
        assert (await client.frame()).opcode is Opcode.PING
        await client.send(text("!"))
        assert await client.frame() == seen_text("!")


async def test_a_peer_that_does_not_answer_a_ping_is_closed(
    serve: Serve, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    client = await running.open()
    await wait_all_tasks_blocked()
    mock_clock.jump(20.0)
    assert (await client.frame()).opcode is Opcode.PING
    await wait_all_tasks_blocked()
    mock_clock.jump(20.0)
    assert await client.frame() == seen_close(1011, "no answer to a ping within 20 s")
    await client.wait_lost()
    await wait_gone(running)
    assert "#1 - no byte within 20 s of a ping" in hub_messages(caplog)


async def test_a_ping_timeout_longer_than_the_interval_still_applies(serve: Serve, mock_clock: MockClock) -> None:
    running = await serve(limits=Limits(ping_interval_s=1.0, ping_timeout_s=3.0))
    client = await running.open()
    pings = 0
    for _ in range(8):
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0)
    await wait_all_tasks_blocked()
    while (frame := await client.frame()).opcode is Opcode.PING:
        pings += 1
        assert pings < 8, "pings go on for ever and nobody asks whether they were answered"
    assert frame.payload[:2] == (1011).to_bytes(2, "big")


async def test_no_ping_is_sent_to_a_peer_that_is_being_closed(serve: Serve, mock_clock: MockClock) -> None:
    running = await serve(limits=Limits(ping_interval_s=5.0, close_timeout_s=10.0))
    alice, bob = await running.open(), await running.open()
    await alice.send(masked(0x3))  # the frame fails the connection, and alice doesn't close her side
    assert (await alice.frame()).opcode is Opcode.CLOSE
    for _ in range(11):
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0)
        await bob.send(ping())  # shows that bob is alive
    await wait_gone(running, 1)
    await alice.assert_end()
    await bob.send(text("the server lives"))
    while (frame := await bob.frame()).opcode is not Opcode.TEXT:
        pass
    assert frame == seen_text("the server lives")


async def test_pings_can_be_switched_off(serve: Serve, mock_clock: MockClock) -> None:
    running = await serve(limits=Limits(ping_interval_s=0))
    client = await running.open()
    await wait_all_tasks_blocked()
    mock_clock.jump(1e6)
    await client.send(text("first of all"))
    assert await client.frame() == seen_text("first of all")
