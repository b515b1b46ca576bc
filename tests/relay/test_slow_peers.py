"""Peers that read more slowly than their room publishes, under each policy; each stalls and recovers."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import StreamIds
from rawws.broadcast.query import RoomQuery
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.relay.settings import RoomSettings, Slow
from rawws.wire.frames import Opcode
from tests.room_serving import rooms
from tests.serving.client import Client
from tests.serving.programs import StartProgram
from tests.serving.server import RunningHub, StartHub, websocket_on
from tests.serving.wire import Seen, close, get, masked, ping, seen_text, text
from tests.sse import read_events
from tests.traced_memory import traced_memory

# The kernel buffers about ten times as much as this for a peer that doesn't read.
SMALL = 4096
PADDING = "x" * 500


def numbered(number: int) -> str:
    return f"{number} {PADDING}"


def number_of(payload: bytes) -> int:
    return int(payload.split(b" ", 1)[0])


async def flood(running: RunningHub, messages: int, path: str = "/") -> None:
    """Publish numbered messages, with turns of the loop in between."""
    room = running.hub.room(path)
    for number in range(messages):
        room.publish(numbered(number))
        if number % 50 == 0:
            await trio.lowlevel.checkpoint()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Policy skip


async def test_policy_skip_continues_with_the_newest_message(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = start_hub(slow="skip", max_lag_bytes=20_000)
    slow, quick = running.join(send_buffer=SMALL), running.join()
    total = 1000
    quick_got: list[int] = []

    async def read_quickly() -> None:
        while len(quick_got) < total + 1:
            quick_got.append(number_of((await quick.frame()).payload))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_quickly)
        await flood(running, total)
        got = [number_of((await slow.frame()).payload)]
        while got[-1] < total - 1:
            got.append(number_of((await slow.frame()).payload))
        running.hub.room("/").publish(numbered(total))
        assert number_of((await slow.frame()).payload) == total, "it has caught up"
    assert quick_got == list(range(total + 1)), "no other peer is affected"
    assert got == sorted(set(got))
    assert 0 < len(got) < total / 2
    logged = [line for line in warnings(caplog) if "reads too slowly" in line]
    assert len(logged) == 1, "at the first loss"
    assert "messages are skipped" in logged[0]
    await slow.send(close())
    await slow.frames_to_close()
    slow.hang_up()
    await wait_all_tasks_blocked()
    assert f"it read too slowly, and {total - len(got)} messages were skipped" in caplog.text
    assert state_of(running.hub.room("/")).log.kept_bytes == 0


async def test_policy_skip_reports_its_count_to_readers_with_ids(start_hub: StartHub) -> None:
    running = start_hub(slow="skip", max_lag_bytes=20_000)
    slow = running.join(send_buffer=SMALL, subprotocol=SUBPROTOCOL)
    await slow.frame()
    total = 500
    await flood(running, total)
    got, skipped = 0, 0
    while got + skipped < total:
        head, _, payload = (await slow.frame()).payload.partition(b"\n")
        notice = json.loads(head)
        skipped += notice.get("skipped", 0)
        if "id" in notice:
            got += 1
            assert int(notice["id"].rpartition("-")[2]) == number_of(payload) + 1
    assert number_of(payload) == total - 1
    assert skipped > total / 2


async def test_a_peers_own_messages_do_not_count_as_skipped_with_exclude_sender(start_hub: StartHub) -> None:
    running = start_hub(slow="skip", max_lag_bytes=20_000, exclude_sender=True)
    slow = running.join(send_buffer=SMALL, subprotocol=SUBPROTOCOL)
    await slow.frame()
    total = 500
    for _ in range(total // 50):
        await slow.send(text(f"-1 {PADDING}") * 10)
        await flood(running, 50)
    await wait_all_tasks_blocked()
    running.hub.room("/").publish("last")
    got, skipped, payload = 0, 0, b""
    while payload != b"last":
        head, _, payload = (await slow.frame()).payload.partition(b"\n")
        skipped += json.loads(head).get("skipped", 0)
        got += "id" in json.loads(head)
    assert got + skipped == total + 1
    assert skipped > total / 2


async def test_policy_skip_reports_its_count_in_an_event_stream(start_hub: StartHub) -> None:
    running = start_hub(slow="skip", max_lag_bytes=20_000)
    ours, client = running.pair(send_buffer=SMALL)
    running.hub.stream_events(99, Transport(ours), "/", RoomQuery(), running.endpoint)
    total = 500
    await flood(running, total)
    raw = b""
    while f"data: {total - 1} ".encode() not in raw or not raw.endswith(b"\n\n"):
        raw += await client.take_some()
    events = read_events(raw)
    got = [event for event in events if event.kind == "message"]
    skipped = sum(int(event.data) for event in events if event.kind == "skipped")
    assert len(got) + skipped == total
    assert all(int(event.last_id.rpartition("-")[2]) == number_of(event.data.encode()) + 1 for event in got)


async def test_control_frames_are_never_dropped(start_hub: StartHub) -> None:
    for policy in ("skip", "latest", "wait"):
        running = start_hub(slow=policy, key="k", max_lag_bytes=10_000)
        slow = running.join(send_buffer=SMALL)
        await flood(running, 100)
        for number in range(5):
            await slow.send(ping(bytes([number])))
        await flood(running, 100)
        pongs: list[bytes] = []
        while len(pongs) < 5:
            frame = await slow.frame()
            if frame.opcode is Opcode.PONG:
                pongs.append(frame.payload)
        assert pongs == [bytes([number]) for number in range(5)]


# Gaps


class Shared:
    """A room whose messages come from a stream, as they do with a backplane."""

    def __init__(self, running: RunningHub) -> None:
        self._room = running.hub.room("/")
        self._ids = StreamIds((1, 0))
        state_of(self._room).set_ids(self._ids)

    def publish(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self._ids.add(1, number)
            self._room.publish(numbered(number))

    def begin_anew(self) -> None:
        room = state_of(self._room)
        gap = room.record_gap(lambda: self._ids.restart((0, 0)))
        current_loop().sending.notify_gap(room, gap)
        room.trim()


@pytest.mark.parametrize("encoding", ["ids", "events", "plain"])
@pytest.mark.parametrize("exclude_sender", [False, True])
async def test_a_gap_comes_in_its_place_for_a_lagging_peer_too(
    start_hub: StartHub, encoding: str, exclude_sender: bool
) -> None:
    running = start_hub(exclude_sender=exclude_sender)
    shared = Shared(running)
    slow, quick = (_open_in_encoding(running, encoding, send_buffer=size) for size in (SMALL, None))
    shared.publish(1, 200)
    shared.begin_anew()
    shared.publish(1, 1)
    expected = [*map(str, range(1, 201)), *([] if encoding == "plain" else ["gap"]), "1"]
    for client in (quick, slow):
        assert await _received(client, encoding, len(expected)) == expected


async def test_a_gap_is_sent_to_a_leaving_peer_after_the_messages_before_it(start_hub: StartHub) -> None:
    running = start_hub()
    shared = Shared(running)
    slow = _open_in_encoding(running, "ids", send_buffer=SMALL)
    shared.publish(1, 200)
    shared.begin_anew()
    (member,) = running.hub.room("/")
    member.close()
    assert await _received(slow, "ids", 201) == [*map(str, range(1, 201)), "gap"]
    assert (await slow.frame()).opcode is Opcode.CLOSE


async def test_a_peer_that_skips_past_a_gap_is_still_sent_the_gap(start_hub: StartHub) -> None:
    running = start_hub(slow="skip", max_lag_bytes=20_000)
    shared = Shared(running)
    slow = _open_in_encoding(running, "ids", send_buffer=SMALL)
    shared.publish(1, 40)
    shared.begin_anew()
    shared.publish(1, 100)
    received: list[str] = []
    skipped = 0
    while not received or received[-1] != "100":
        head, _, payload = (await slow.frame()).payload.partition(b"\n")
        notice = json.loads(head)
        skipped += notice.get("skipped", 0)
        received.append(str(number_of(payload)) if "id" in notice else next(iter(notice)))
    assert received.count("gap") == 1
    before, after = received[: received.index("gap")], received[received.index("gap") + 1 :]
    assert "1" in before
    assert "40" not in after
    messages = [each for each in received if each.isdigit()]
    assert skipped == 140 - len(messages), "a gap is no message"


async def test_a_gap_under_policy_latest_is_sent_at_once(start_hub: StartHub) -> None:
    running = start_hub(slow="latest")
    shared = Shared(running)
    slow, quick = (_open_in_encoding(running, "ids", send_buffer=size) for size in (SMALL, None))
    shared.publish(1, 100)
    shared.begin_anew()
    shared.publish(1, 1)
    for client, expected in ((slow, {"gap", "1"}), (quick, {*map(str, range(1, 101)), "gap"})):
        received = [await _received(client, "ids", 1)]
        while received.count(["gap"]) < 1 or received[-1] != ["1"]:
            received.append(await _received(client, "ids", 1))
        assert expected <= {each for (each,) in received}


def _open_in_encoding(running: RunningHub, encoding: str, *, send_buffer: int | None) -> Client:
    if encoding != "events":
        client = running.join(send_buffer=send_buffer, subprotocol=SUBPROTOCOL if encoding == "ids" else None)
    else:
        ours, client = running.pair(send_buffer=send_buffer)
        running.hub.stream_events(9, Transport(ours), "/", RoomQuery(), running.endpoint)
    return client


async def _received(client: Client, encoding: str, count: int) -> list[str]:
    """Return the numbers of the received messages, and the names of notices other than greetings."""
    received: list[str] = []
    raw = b""
    while len(received) < count:
        if encoding == "events":
            raw += await client.take_some()
            events = read_events(raw[: raw.rfind(b"\n\n") + 2])
            received = [each.data.split()[0] if each.kind == "message" else each.kind for each in events]
            continue
        payload = (await client.frame()).payload
        if encoding == "ids":
            head, _, payload = payload.partition(b"\n")
            notice = json.loads(head)
            if "id" not in notice:
                received += [name for name in notice if name not in ("at", "skipped")]
                continue
        received.append(str(number_of(payload)))
    return received


async def test_messages_skipped_by_a_flush_that_fails_are_counted(start_hub: StartHub) -> None:
    running = start_hub(slow="latest")
    running.join(send_buffer=SMALL)
    await flood(running, 200)
    state = state_of(running.hub.room("/"))
    (peer,) = state.lagging
    missed = state.log.last_message - peer.cursor(state).number
    assert missed > 1

    def send(data: bytes | bytearray | memoryview) -> int:
        """Take the rest of a message that was sent in part, but not the newest message."""
        if numbered(199).encode() in bytes(data):
            raise ConnectionResetError
        return len(data)

    peer.transport.send_now = send
    current_loop().sending.flush(peer)
    assert peer.lost
    assert current_loop().stats.messages_skipped == missed - 1, "the newest was not skipped, but lost"


# Policy latest


async def test_policy_latest_sends_the_newest_message_of_each_key(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    running = start_hub(slow="latest", key="symbol")
    slow = running.join(send_buffer=SMALL)
    room = running.hub.room("/")
    for price in range(1000):
        for symbol in ("A", "B", "C"):
            room.publish(json.dumps({"symbol": symbol, "price": price, "pad": PADDING}))
        if price % 20 == 0:
            await trio.lowlevel.checkpoint()
    assert state_of(room).log.kept_bytes == 0, "nothing is kept for a slow reader"
    newest: dict[str, int] = {}
    got = 0
    while newest != {"A": 999, "B": 999, "C": 999}:
        message = json.loads((await slow.frame()).payload)
        assert message["price"] > newest.get(message["symbol"], -1), "nothing twice, nothing older"
        newest[message["symbol"]] = message["price"]
        got += 1
    assert got < 1000
    assert len([line for line in warnings(caplog) if "reads too slowly" in line]) == 1
    room.publish('{"symbol": "A", "price": 1000}')
    assert json.loads((await slow.frame()).payload)["price"] == 1000
    assert not state_of(room).lagging


async def test_a_new_reader_under_policy_latest_gets_the_newest_message_of_each_key(start_hub: StartHub) -> None:
    running = start_hub(slow="latest", key="symbol", history=100)
    room = running.hub.room("/")
    for price in range(10):
        room.publish(json.dumps({"symbol": "A", "price": price}))
        room.publish(json.dumps({"symbol": "B", "price": price}))
    ours, client = running.pair()
    running.hub.stream_events(99, Transport(ours), "/", RoomQuery(last=100), running.endpoint)
    raw = b""
    while raw.count(b"data: ") < 2:
        raw += await client.take_some()
    assert [json.loads(event.data) for event in read_events(raw)] == [
        {"symbol": "A", "price": 9},
        {"symbol": "B", "price": 9},
    ]


async def test_a_key_holds_for_all_messages_published_with_it(start_hub: StartHub) -> None:
    running = start_hub(slow="latest", history=100)
    room = running.hub.room("/")
    room.publish_many(["A1", "x" * 5000, "A2"], key="A")  # the large one is in two pieces
    room.publish_many(["B1", "B2"], key="B")
    room.publish_many(["none", "of them"])
    ours, client = running.pair()
    running.hub.stream_events(99, Transport(ours), "/", RoomQuery(last=100), running.endpoint)
    raw = b""
    while raw.count(b"data: ") < 3:
        raw += await client.take_some()
    assert [event.data for event in read_events(raw)] == ["A2", "B2", "of them"]


# Policy wait


async def test_policy_wait_holds_publishers_back_and_loses_nothing(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    running = start_hub(slow="wait", max_lag_bytes=50_000)
    slow, quick, publisher = running.join(send_buffer=SMALL), running.join(), running.join()
    room = running.hub.room("/")
    total = 3000
    got: dict[str, list[int]] = {"slow": [], "quick": [], "publisher": []}
    go_on = trio.Event()

    async def publish() -> None:
        for number in range(total):
            await publisher.send(text(numbered(number)))

    async def read(name: str, client: Client) -> None:
        while len(got[name]) < total:
            got[name].append(number_of((await client.frame()).payload))

    async def read_slowly() -> None:
        await go_on.wait()
        await read("slow", slow)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        nursery.start_soon(read, "quick", quick)
        nursery.start_soon(read, "publisher", publisher)
        nursery.start_soon(read_slowly)
        while not room.is_held:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert len(got["quick"]) < total
        assert state_of(room).log.kept_bytes < 4_000_000
        with trio.move_on_after(0) as scope:
            await room.ready()
        assert scope.cancelled_caught
        go_on.set()
    assert got == {name: list(range(total)) for name in got}
    await room.ready()
    assert not room.is_held
    assert "publishers are held back" in warnings(caplog)[0]


async def test_policy_wait_ends_when_the_slow_peer_leaves(start_hub: StartHub) -> None:
    running = start_hub(slow="wait", max_lag_bytes=10_000)
    slow, publisher = running.join(send_buffer=SMALL), running.join()
    room = running.hub.room("/")
    await flood(running, 200)
    assert room.is_held
    slow.hang_up()
    await publisher.send(text("still here"))
    while (await publisher.frame()).payload != b"still here":
        pass
    assert not room.is_held


async def test_policy_wait_holds_back_publishers_and_no_others(start_hub: StartHub) -> None:
    running = start_hub(slow="wait", max_lag_bytes=10_000)
    slow, publisher, listener = running.join(send_buffer=SMALL), running.join(), running.join()
    room = running.hub.room("/")
    await flood(running, 200)
    assert room.is_held
    for client in (listener, publisher):
        await client.frames(200)
    await listener.send(ping(b"still there?"))
    assert await listener.frame() == Seen(Opcode.PONG, b"still there?")
    await publisher.send(text("has to wait"))
    await wait_all_tasks_blocked()
    await publisher.send(ping(b"?") + text("and so has this"))
    await wait_all_tasks_blocked()
    assert state_of(room).log.last_message == 200
    await slow.send(close())  # and never reads
    assert await listener.frames(2) == [seen_text("has to wait"), seen_text("and so has this")]
    assert not room.is_held


@pytest.mark.parametrize("found", ["by sending", "by the poller"])
async def test_messages_of_a_held_publisher_are_published_after_its_connection_is_lost(
    start_hub: StartHub, found: str
) -> None:
    running = start_hub(slow="wait", max_lag_bytes=10_000)
    slow, publisher, listener = running.join(send_buffer=SMALL), running.join(), running.join()
    room = running.hub.room("/")
    await flood(running, 200)
    assert room.is_held
    await listener.frames(200)
    await publisher.send(text("kept"))
    await wait_all_tasks_blocked()
    await publisher.send(text("unread"))
    publisher.hang_up()
    said = [seen_text("kept"), seen_text("unread")]
    if found == "by sending":
        room.publish("to a peer that is gone")
        said.insert(0, seen_text("to a peer that is gone"))
    await wait_all_tasks_blocked()
    assert len(room) == 2, "it has left its room at once"
    assert room.is_held
    await slow.send(close())  # and never reads
    assert await listener.frames(len(said)) == said
    assert not room.is_held
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 2


async def test_a_lost_publisher_is_held_for_at_most_the_close_timeout(
    start_hub: StartHub, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = start_hub(
        slow="wait", max_lag_bytes=10_000, limits=Limits(ping_interval_s=0, ping_timeout_s=0, close_timeout_s=10)
    )
    _slow, publisher = running.join(send_buffer=SMALL), running.join()
    room = running.hub.room("/")
    await flood(running, 200)
    await publisher.send(text("kept"))
    await wait_all_tasks_blocked()
    publisher.hang_up()
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 2
    mock_clock.jump(10)
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 1
    assert state_of(room).log.last_message == 200
    assert "its last messages could not be published within 10 s" in caplog.text


async def test_a_stop_does_not_wait_for_a_lost_publisher_that_is_held(start_hub: StartHub) -> None:
    running = start_hub(slow="wait", max_lag_bytes=10_000)
    publisher, _slow = running.join(), running.join(send_buffer=SMALL)
    await flood(running, 200)
    await publisher.send(text("kept"))
    await wait_all_tasks_blocked()
    publisher.hang_up()
    await wait_all_tasks_blocked()
    assert running.endpoint.peer_count == 2
    await running.stop(0)
    assert [peer.number for peer in current_loop().peers_of(running.endpoint)] == [2]


async def test_a_peer_that_stalls_a_room_is_closed_in_the_end(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
    start_hub: StartHub,
) -> None:
    limits = Limits(ping_interval_s=5, ping_timeout_s=5)
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=limits)
    running.join(send_buffer=SMALL)
    await flood(running, 200)
    room = running.hub.room("/")
    assert room.is_held
    await room.ready()
    await running.endpoint.wait_empty()


async def test_a_peer_that_only_sends_pongs_does_not_keep_a_room_waiting(
    mock_clock: trio.testing.MockClock, start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(ping_interval_s=5, ping_timeout_s=20, close_timeout_s=1)
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=limits)
    slow, slower = running.join(send_buffer=SMALL), running.join(send_buffer=SMALL)
    await flood(running, 200)
    room = running.hub.room("/")
    assert room.is_held
    for _ in range(25):
        mock_clock.jump(1)
        for client in (slow, slower):
            with contextlib.suppress(BrokenPipeError):  # it is closed in the end
                await client.send(masked(Opcode.PONG))
        await slow.frame()  # takes something each time
        await wait_all_tasks_blocked()
    assert [peer.number for peer in state_of(room).peers] == [1]
    assert room.is_held, "the room waits for the peer that takes something"
    assert "nothing taken for 20 s, while publishers wait for it" in caplog.text


async def open_relayed(running: RunningHub) -> tuple[Client, bool]:
    return running.join(send_buffer=SMALL), True


async def open_events(running: RunningHub) -> tuple[Client, bool]:
    ours, client = running.pair(send_buffer=SMALL)
    running.hub.stream_events(101, Transport(ours), "/", RoomQuery(), running.endpoint)
    return client, False


async def open_held(running: RunningHub) -> tuple[Client, bool]:
    """Return the client of a program that doesn't receive: its inbox is full, so that nothing is read from it."""
    ours, client = running.pair(send_buffer=SMALL)
    ws = websocket_on(ours, 102, running.endpoint)
    await client.send(b"".join(text("not received") for _ in range(5)))
    await wait_all_tasks_blocked()
    running.hub.room("/").join(ws)
    return client, False


@pytest.mark.parametrize("open_slow", [open_relayed, open_events, open_held])
async def test_no_kind_of_stalled_reader_holds_a_room_for_ever(
    mock_clock: trio.testing.MockClock,
    start_hub: StartHub,
    caplog: pytest.LogCaptureFixture,
    open_slow: Callable[[RunningHub], Awaitable[tuple[Client, bool]]],
) -> None:
    limits = Limits(ping_interval_s=5, ping_timeout_s=20, max_queue=2)
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=limits)
    slow, answers_pings = await open_slow(running)
    await flood(running, 200)
    room = running.hub.room("/")
    assert room.is_held
    assert "publishers are held back until it catches up or has taken nothing for 20 s (--ping-timeout)" in caplog.text
    for second in range(23):
        assert room.is_held or second >= 20
        mock_clock.jump(1)
        if answers_pings and room.is_held:
            await slow.send(masked(Opcode.PONG))
        await wait_all_tasks_blocked()
    assert not room.is_held
    assert "reads too slowly: nothing taken for 20 s, while publishers wait for it" in caplog.text


async def test_a_stalled_reader_of_events_is_dropped_by_the_server(nursery: trio.Nursery) -> None:
    async with rooms(nursery, slow="wait", max_lag_bytes=10_000, ping_interval=0.1, ping_timeout=0.3) as running:
        reader = await running.connect()
        reader.stdlib_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        await reader.send(get("/room", "Accept: text/event-stream"))
        await reader.answer()
        room = running.hub.room("/room")
        for _ in range(100):  # more than any kernel takes for it
            room.publish(b"x" * 100_000)
            await trio.lowlevel.checkpoint()
        assert room.is_held
        await running.publish("/room", "waits, and goes out in the end")
        assert not len(room)


async def test_a_room_does_not_wait_for_ever_for_a_peer_that_is_not_the_slowest(
    mock_clock: trio.testing.MockClock, start_hub: StartHub
) -> None:
    limits = Limits(ping_interval_s=5, ping_timeout_s=20)
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=limits)
    slowest = running.join(send_buffer=SMALL)
    room = running.hub.room("/")
    await flood(running, 3)
    slow = running.join(send_buffer=SMALL)
    published = 3
    while not room.is_held:
        room.publish(numbered(published))
        published += 1
        await trio.lowlevel.checkpoint()
    await slowest.frames(published)
    assert [peer.number for peer in state_of(room).lagging] == [2], "it lags, by less than the limit"
    assert room.is_held
    for _ in range(23):
        mock_clock.jump(1)
        for client in (slow, slowest):
            with contextlib.suppress(BrokenPipeError):
                await client.send(masked(Opcode.PONG))
        await wait_all_tasks_blocked()
    assert not room.is_held
    assert [peer.number for peer in state_of(room).peers] == [1]


async def test_bytes_for_one_reader_alone_count_as_progress(
    mock_clock: trio.testing.MockClock, start_hub: StartHub
) -> None:
    limits = Limits(ping_interval_s=5, ping_timeout_s=20)
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=limits)
    ours, client = running.pair(send_buffer=SMALL)
    ws = websocket_on(ours, 1, running.endpoint)
    room = running.hub.room("/")
    room.join(ws)
    await ws.send(b"x" * 1_000_000)
    await flood(running, 50)
    assert room.is_held
    for _ in range(45):
        mock_clock.jump(1)
        await trio.lowlevel.checkpoint()
        assert client.stdlib_socket.recv(10_000)
        await wait_all_tasks_blocked()
    assert room.is_held
    assert len(room) == 1, "it takes something every second"


async def test_a_room_waits_without_limit_if_there_is_no_ping_timeout(
    mock_clock: trio.testing.MockClock, start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    running = start_hub(slow="wait", max_lag_bytes=10_000, limits=Limits(ping_timeout_s=0))
    slow = running.join(send_buffer=SMALL)
    await flood(running, 200)
    room = running.hub.room("/")
    for _ in range(10):
        mock_clock.jump(86_400)
        await wait_all_tasks_blocked()
    assert room.is_held
    assert "held back until it catches up, with no time limit (--ping-timeout 0)" in caplog.text
    await slow.frames(200)
    await room.ready()


def test_the_command_line_warns_of_a_room_that_may_wait_for_ever(start_program: StartProgram) -> None:
    program = start_program("--slow", "wait", "--ping-timeout", "0")
    warning = "--slow wait with --ping-timeout 0 waits for ever: a peer that stops reading holds up its room"
    assert warning in program.lines[0]


# Per room


async def test_each_room_may_have_its_own_policy(start_hub: StartHub) -> None:
    def settings(path: str) -> RoomSettings | None:
        return RoomSettings(slow=Slow.LATEST, key="symbol") if path.startswith("/ticker/") else None

    running = start_hub(settings=settings)
    assert running.hub.room("/ticker/x").settings.slow is Slow.LATEST
    assert running.hub.room("/chat").settings.slow is Slow.CLOSE
    a, b = running.join("/chat"), running.join("/ticker/x")
    for client, path in ((a, "/chat"), (b, "/ticker/x")):
        running.hub.room(path).publish("hello")
        assert await client.frame() == seen_text("hello")
    assert current_loop().stats.messages_skipped == 0


def test_an_unknown_policy_is_rejected() -> None:
    with pytest.raises(UsageError, match="there is no policy for slow peers 'drop'; give one of 'close', 'skip'"):
        Hub(slow="drop")


def test_latest_and_exclude_sender_are_rejected_together() -> None:
    with pytest.raises(UsageError, match="may be a peer's own"):
        Hub(slow="latest", exclude_sender=True)


# The cost of slow peers


@pytest.mark.parametrize("policy", Slow)
@pytest.mark.parametrize("exclude_sender", [False, pytest.param(True, marks=pytest.mark.thorough)])
async def test_the_tiniest_messages_are_held_in_no_more_memory_than_the_limit_says(
    start_hub: StartHub, policy: Slow, exclude_sender: bool
) -> None:
    if exclude_sender and policy is Slow.LATEST:
        return  # is refused
    limit = 400_000
    running = start_hub(slow=policy, max_lag_bytes=limit, exclude_sender=exclude_sender)
    ours, mute = running.pair(send_buffer=SMALL)
    reader = running.hub.stream_events(1, Transport(ours), "/", RoomQuery(), running.endpoint)
    quick = running.join()
    room = running.hub.room("/")
    sent = 0
    while sent < 20_000 and not room.is_held:  # one turn each: 60 KB on the wire, and 3 MB held
        room.publish("a")
        sent += 1
        if sent % 100 == 0:
            await quick.frames(100)
        assert state_of(room).held_bytes < 4 * limit
    assert policy is Slow.LATEST or sent > 1000, "nothing happens below the limit"
    if policy is Slow.CLOSE:
        assert len(room) == 1
    elif policy is Slow.SKIP:
        assert reader is not None
        assert reader.flow is not None
    assert bool(state_of(room).holds) is (policy is Slow.WAIT)
    mute.hang_up()
    await wait_all_tasks_blocked()
    assert state_of(room).log.held_bytes == 0


async def test_a_watcher_that_reads_no_notices_is_closed(start_hub: StartHub) -> None:
    running = start_hub(max_lag_bytes=20_000)
    ours, watcher = running.pair(send_buffer=SMALL)
    running.hub.stream_events(1, Transport(ours), "/", RoomQuery(wants_presence=True), running.endpoint)
    room = running.hub.room("/")
    for _ in range(2000):
        running.join().hang_up()
        if not state_of(room).watchers:
            break
        await trio.lowlevel.checkpoint()
    assert not state_of(room).watchers
    watcher.hang_up()


async def test_the_end_of_a_server_does_not_copy_the_log_for_slow_peers(start_hub: StartHub) -> None:
    running = start_hub()
    for _ in range(20):
        running.join(send_buffer=SMALL)
    for _ in range(10):
        running.hub.room("/").publish(b"x" * 100_000)
    with traced_memory() as count:
        for peer in state_of(running.hub.room("/")).peers:
            current_loop().close(peer, 1001, "the server is shutting down")
        await wait_all_tasks_blocked()
        _, most = count()
    assert most < 300_000, "the peers share the segments"


async def test_a_rooms_notices_never_close_a_peer_under_policy_latest(start_hub: StartHub) -> None:
    running = start_hub(slow="latest", max_lag_bytes=2000)
    ours, client = running.pair(send_buffer=SMALL)
    running.hub.stream_events(1, Transport(ours), "/", RoomQuery(wants_presence=True), running.endpoint)
    room = running.hub.room("/")
    for number in range(20):
        room.publish(numbered(number) * 100)
        await trio.lowlevel.checkpoint()
    (reader,) = state_of(room).peers
    assert reader.queued_bytes > 2000
    running.join()
    await wait_all_tasks_blocked()
    assert reader in state_of(room).peers
    client.hang_up()


async def test_skip_notices_are_merged_while_unread(start_hub: StartHub) -> None:
    running = start_hub(slow="skip", max_lag_bytes=2000)
    ours, client = running.pair(send_buffer=SMALL)
    running.hub.stream_events(1, Transport(ours), "/", RoomQuery(), running.endpoint)
    await flood(running, 100)
    (reader,) = state_of(running.hub.room("/")).peers
    waiting = reader.queued_bytes
    await flood(running, 5000)
    assert reader.queued_bytes <= waiting + len("5000")
    raw = b""
    running.hub.room("/").publish(numbered(5100))
    while f"data: {5100} ".encode() not in raw or not raw.endswith(b"\n\n"):
        raw += await client.take_some()
    events = read_events(raw)
    skipped = sum(int(event.data) for event in events if event.kind == "skipped")
    assert sum(event.kind == "message" for event in events) + skipped == 5101
