"""Rooms from code: their peers, published messages, and the result of a delivery."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import Delivery, Hub, RoomSettings
from rawws.broadcast.log import SEGMENT_PIECES, History
from rawws.errors import UsageError
from rawws.hub.room import state_of
from rawws.relay.polling import BETWEEN_POLLS_S
from rawws.testing import Opcode, Role, open_pair, open_raw
from tests.serving.machine import PATIENCE_S

# Linux gives at least about twice as much.
SMALL_BUFFER = 4096


async def test_a_message_reaches_everybody_in_the_room_and_nobody_else() -> None:
    hub = Hub()
    news, other = hub.room("/news"), hub.room("/other")
    async with open_pair() as (alice, a), open_pair() as (bob, b), open_pair() as (carol, c):
        news.join(a)
        news.join(b)
        other.join(c)
        assert news.publish("hello") == Delivery(sent=2, queued=0, closed=0)
        assert other.publish(b"\x00") == Delivery(1, 0, 0)
        assert [await alice.recv(), await bob.recv()] == ["hello", "hello"]
        assert await carol.recv() == b"\x00"


async def test_publishing_in_an_empty_room_sends_to_no_peer() -> None:
    assert Hub().room("/").publish("hello") == Delivery(0, 0, 0)


async def test_a_connection_may_be_in_several_rooms_and_leaves_them_one_by_one() -> None:
    hub = Hub()
    a, b = hub.room("/a"), hub.room("/b")
    async with open_pair() as (client, server):
        with a.join(server):
            async with b.join(server):
                a.publish("to a")
                b.publish("to b")
                a.publish("to a again")
            assert b.publish("too late").sent == 0
            a.publish("still in a")
        assert a.publish("too late").sent == 0
        await server.send("to you alone")
        heard = [await client.recv() for _ in range(5)]
        assert heard == ["to a", "to b", "to a again", "still in a", "to you alone"]


async def test_joining_twice_counts_once() -> None:
    room = Hub().room("/")
    async with open_pair() as (client, server):
        room.join(server)
        room.join(server)
        assert len(room) == 1
        room.publish("once")
        assert await client.recv() == "once"
        room.leave(server)
        room.leave(server)
        assert len(room) == 0


async def test_a_peer_in_a_room_refers_to_the_connection_of_the_program() -> None:
    room = Hub().room("/")
    async with open_pair() as (_, server):
        room.join(server)
        (peer,) = state_of(room).peers
        assert peer.owner is server
        assert peer.id == server.id


async def test_closing_leaves_every_room() -> None:
    hub = Hub()
    async with open_pair() as (client, server):
        for path in ("/a", "/b"):
            hub.room(path).join(server)
        assert set(hub.rooms) == {"/a", "/b"}
        assert sorted(room.path for room in hub) == ["/a", "/b"]
        await client.aclose()
        await server.wait_closed()
        assert hub.rooms == {}
        with pytest.raises(rawws.ConnectionClosedOK):
            hub.room("/a").join(server)


async def test_a_room_lives_while_the_program_holds_it_or_a_peer_is_in_it() -> None:
    hub = Hub()
    room = hub.room("/a")
    assert hub.room("/a") is room
    async with open_pair() as (_, server):
        room.join(server)
        known = id(room)
        del room
        gc.collect()
        assert id(hub.room("/a")) == known
    gc.collect()
    assert len(hub.registry) == 0


async def test_a_room_is_freed_as_soon_as_its_last_peer_has_left() -> None:
    hub = Hub(history=0)
    gc.disable()  # no reference cycle may keep an empty room until the collector runs
    try:
        async with open_pair() as (_, server):
            hub.room("/a").join(server)
            held = weakref.ref(hub.room("/a"))
            assert held() is not None
            assert hub.rooms["/a"] is held()
            assert list(hub) == [held()]
            hub.room("/a").leave(server)
            assert held() is None
            assert len(hub.registry) == 0
            room = hub.room("/a")
            with room.join(server):
                pass
            assert hub.room("/a") is room
    finally:
        gc.enable()


async def test_the_rooms_of_a_hub_are_a_live_view() -> None:
    hub = Hub()
    rooms = hub.rooms
    assert (repr(rooms), len(rooms), "/a" in rooms) == ("{}", 0, False)
    async with open_pair() as (_, server):
        room = hub.room("/a")
        room.join(server)
        assert rooms == {"/a": room}
        assert repr(rooms) == f"{{'/a': {room!r}}}"
        with pytest.raises(KeyError):
            rooms["/b"]


async def test_a_room_whose_history_was_cleared_lives_as_long_as_after_a_poll(mock_clock: MockClock) -> None:
    hub = Hub(history=5)
    hub.room("/x").publish_many(("one", "two"))
    state = state_of(hub.room("/x"))
    assert state.history_messages == 2
    assert state.clear_history() == 2
    assert (state.history_messages, state.history_bytes, state.clear_history()) == (0, 0, 0)
    del state
    mock_clock.jump(BETWEEN_POLLS_S - 1)
    await wait_all_tasks_blocked()
    assert "/x" in hub.rooms
    mock_clock.jump(BETWEEN_POLLS_S)
    await wait_all_tasks_blocked()
    assert "/x" not in hub.rooms


async def test_the_readers_of_a_room_are_counted_by_kind() -> None:
    hub = Hub()
    room = state_of(hub.room("/x"))
    assert +room.readers == {}
    async with open_pair() as (_, first), open_pair() as (_, second):
        hub.room("/x").join(first)
        hub.room("/x").join(second)
        with room.poll(0), room.poll(0):
            assert room.readers == {"websocket": 2, "poll": 2}


async def test_several_messages_are_delivered_together_and_in_order() -> None:
    room = Hub().room("/")
    async with open_pair(max_queue=None) as (client, server):
        room.join(server)
        assert room.publish_many([str(number) for number in range(100)]).sent == 1
        assert [await client.recv() for _ in range(100)] == list(map(str, range(100)))


async def test_thousands_of_messages_at_once_are_one_delivery_in_order() -> None:
    room = Hub().room("/")
    count = 2 * SEGMENT_PIECES + 1
    async with open_pair(max_queue=None) as (client, server), open_pair() as (_, gone):
        room.join(server)
        room.join(gone)
        await gone.aclose()
        assert room.publish_many([str(number) for number in range(count)]) == Delivery(1, 0, 0)
        assert [await client.recv() for _ in range(count)] == list(map(str, range(count)))
        assert state_of(room).log.next == 3


async def test_publishing_never_waits_for_a_peer_that_does_not_read() -> None:
    hub = Hub(max_lag_bytes=50_000)
    room = hub.room("/")
    async with (
        open_raw(send_buffer=SMALL_BUFFER, compression=None) as (slow, server),
        open_pair(max_queue=None) as (quick, other),
    ):
        room.join(server)
        room.join(other)
        deliveries = [room.publish(f"{number:01000}") for number in range(60)]
        assert deliveries[0] == Delivery(2, 0, 0)
        assert deliveries[40] == Delivery(1, 1, 0)
        assert Delivery(1, 0, 1) in deliveries, "it was closed when it was too far behind"
        assert [int(await quick.recv()) for _ in range(60)] == list(range(60))
        heard = []
        while (frame := await slow.receive_frame()).opcode == Opcode.TEXT:
            heard.append(int(frame.payload))
        assert heard == list(range(len(heard)))
        assert frame.payload[:2] == (1013).to_bytes(2, "big")
        await slow.send_close(1013)
        await server.wait_closed()
        assert server.closed is not None
        assert (server.closed.code, server.closed.cause) == (1013, rawws.Cause.SLOW_PEER)


async def test_a_peer_that_lags_in_two_rooms_catches_up_in_both_without_a_frame_inside_another() -> None:
    hub = Hub()
    rooms = [hub.room("/a"), hub.room("/b")]
    async with open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws), trio.open_nursery() as nursery:
        for room in rooms:
            room.join(ws)
        for number in range(100):
            rooms[number % 2].publish(f"{'ab'[number % 2]}{number:0999}")
            if number % 10 == 0:
                await peer.send_frame(Opcode.PING, str(number))
        nursery.start_soon(ws.send, "at last")
        await wait_all_tasks_blocked()
        got = [await peer.receive_frame() for _ in range(111)]
        for name, numbers in (("a", range(0, 100, 2)), ("b", range(1, 100, 2))):
            heard = [
                frame.payload for frame in got if frame.payload.startswith(name.encode()) and len(frame.payload) == 1000
            ]
            assert [int(payload[1:]) for payload in heard] == list(numbers)
        pongs = [frame.payload for frame in got if frame.opcode == Opcode.PONG]
        assert pongs == [str(number).encode() for number in range(0, 100, 10)]
        # The program's own message comes after the earlier messages of its rooms.
        assert got[-1].payload == b"at last"
        assert rooms[0].publish("now").sent == 1


async def test_a_lagging_peer_that_leaves_still_gets_earlier_messages() -> None:
    room = Hub().room("/")
    async with open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws):
        room.join(ws)
        for number in range(30):
            room.publish(f"{number:01000}")
        room.leave(ws)
        room.publish("too late")
        got = [await peer.receive_frame() for _ in range(30)]
        assert [int(frame.payload) for frame in got] == list(range(30))
        await ws.send("next")
        await peer.expect_frame(Opcode.TEXT, "next")


@pytest.mark.parametrize("others", [0, 1])
async def test_a_peer_that_leaves_during_compression_still_gets_the_message_at_once(others: int) -> None:
    hub = Hub()
    async with open_pair(max_size=None, ping_interval=None) as (client, server):
        for number in range(others):
            hub.room(f"/{number}").join(server)
        with hub.room("/").join(server):
            hub.room("/").publish("x" * 1_000_000)
            (peer,) = state_of(hub.room("/")).peers
            assert peer.awaits_encoding
        assert not peer.awaits_encoding
        with trio.fail_after(PATIENCE_S):
            assert await client.recv() == "x" * 1_000_000
        assert not peer.is_lagging


async def test_a_large_message_is_compressed_once_for_all_peers_that_negotiated_it() -> None:
    room = Hub().room("/")
    async with open_raw() as (squeezed, a), open_raw(compression=None) as (plain, b):
        room.join(a)
        room.join(b)
        room.publish("x" * 5000)
        frame = await squeezed.receive_frame()
        assert frame.rsv
        assert len(frame.payload) < 100
        await plain.expect_frame(Opcode.TEXT, "x" * 5000)


async def test_a_client_s_end_cannot_join_a_room() -> None:
    async with open_raw(Role.SERVER) as (_, ws):
        with pytest.raises(UsageError, match="a client can't join one"):
            Hub().room("/").join(ws)


async def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no mode 'loud'"):
        Hub(mode="loud")


@pytest.mark.parametrize(
    ("setting", "given"),
    [
        *((name, bad) for name in ("history", "history_bytes", "history_age_s") for bad in (-1, float("nan"), "3")),
        *((name, bad) for name in ("max_lag_bytes", "max_peers", "max_rooms") for bad in (-1, 0, float("nan"), "3")),
        *(("history", 0.5), ("max_rooms", 1.5), ("hello", b"hi"), ("settings", {})),
    ],
)
def test_an_invalid_setting_of_a_hub_is_refused(setting: str, given: Any) -> None:
    with pytest.raises(UsageError, match=f"^{setting} can't be {re.escape(repr(given))}; "):
        Hub(**{setting: given})


def test_an_invalid_setting_of_a_room_is_refused() -> None:
    bad: Any = "drop"
    with pytest.raises(UsageError, match="there is no policy for slow peers 'drop'; give one of 'close', 'skip'"):
        RoomSettings(slow=bad)
    with pytest.raises(UsageError, match="history can't be -1; give a whole number that is 0 or more"):
        RoomSettings(History(-1))
