"""A room's members as a program sees them: their identities, and messages to one of them alone."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS
from rawws.errors import Cause, ConnectionClosedError, ConnectionClosedOK, UsageError
from rawws.hub.room import state_of
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.relay.settings import RoomSettings
from rawws.wire.frames import Opcode
from tests.room_serving import rooms
from tests.serving.client import Client
from tests.serving.server import RunningHub, StartHub
from tests.serving.wire import Seen, close, seen_close, seen_text, text

SMALL = 4096  # a socket's buffer
PADDING = "x" * 900
WITH_IDS = f"Sec-WebSocket-Protocol: {SUBPROTOCOL}"


def member_of(running: RunningHub, path: str = "/") -> rawws.Member:
    (member,) = running.hub.room(path)
    return member


async def publish_until_behind(running: RunningHub, member: rawws.Member) -> int:
    """Publish numbered messages until a member that doesn't read is lagging; return their number."""
    count = 0
    while not member.is_behind:
        running.hub.room("/").publish(f"{count} {PADDING}")
        count += 1
        await trio.lowlevel.checkpoint()
    return count


def numbers(frames: list[Seen]) -> list[str]:
    return [frame.payload.decode().partition(" ")[0] for frame in frames]


# Identities


async def test_a_program_sees_the_members_of_a_room(nursery: trio.Nursery) -> None:
    def authenticate(request: rawws.Request) -> str:
        return request.query.partition("&")[0]

    async with rooms(nursery, authenticate=authenticate) as running:
        clients = [await running.open("/room?ann"), await running.open("/room?bob", WITH_IDS)]
        await running.stream("/room?eve")
        room = running.hub.room("/room")
        assert [(member.user, member.path, member.subprotocol, member.state.name) for member in room] == [
            ("ann", "/room", None, "OPEN"),
            ("bob", "/room", SUBPROTOCOL, "OPEN"),
            ("eve", "/room", None, "OPEN"),
        ]
        assert len(list(room)) == len(room) == 3
        addresses = [member.remote_address for member in room]
        assert [client.stdlib_socket.getsockname() for client in clients] == addresses[:2]
        assert [member.id for member in room] == [1, 2, 3]
        assert all(member.websocket is None and member.request is None for member in room)
        assert all(member in room for member in room)


async def test_a_program_sees_its_own_connections_as_members(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    room = hub.room("/chat")
    joined = trio.Event()
    held: list[rawws.WebSocket] = []

    async def handler(ws: rawws.WebSocket) -> None:
        held.append(ws)
        assert ws not in room
        async with room.join(ws):
            assert ws in room
            joined.set()
            await ws.wait_closed()

    server: rawws.Server = await nursery.start(rawws.serve, handler, 0)
    async with rawws.connect(f"ws://localhost:{server.port}/of/mine?x") as client:
        await joined.wait()
        (member,) = room
        assert member.websocket is held[0]
        assert (member.path, member.request, member.user) == ("/of/mine", held[0].request, None)
        assert member.remote_address == held[0].remote_address
        await member.send("hello")
        assert await client.recv() == "hello"
        member.close(4000, "enough")
        with pytest.raises(rawws.ConnectionClosed) as closed:
            await client.recv()
        assert (closed.value.code, closed.value.reason) == (4000, "enough")
        await held[0].wait_closed()
        with pytest.raises(rawws.ConnectionClosed):
            await member.send("too late")
        assert (member.state.name, list(room)) == ("CLOSED", [])
    server.stop()


async def test_a_member_behind_a_trusted_proxy_has_the_address_of_the_client(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    server: rawws.Server = await nursery.start(
        lambda task_status: rawws.serve(hub, 0, trusted_proxies=["127.0.0.1", "::1"], task_status=task_status)
    )
    headers = {"X-Forwarded-For": "192.0.2.7"}
    async with rawws.connect(f"ws://localhost:{server.port}/", headers=headers) as ws:
        await ws.ping()
        (member,) = hub.room("/")
        assert member.remote_address == ("192.0.2.7", 0)
    server.stop()


async def test_iteration_covers_the_members_at_its_start(start_hub: StartHub) -> None:
    running = start_hub()
    first, second = running.join(), running.join()
    seen = []
    for member in running.hub.room("/"):
        seen.append(member)
        running.join()
        member.close()
    assert [member.id for member in seen] == [1, 2]
    assert len(running.hub.room("/")) == 2
    assert not any(member in running.hub.room("/") for member in seen)
    for client in (first, second):
        assert await client.frame() == seen_close(1000)


async def test_members_of_one_connection_are_equal(start_hub: StartHub) -> None:
    running = start_hub()
    running.join()
    one, other = member_of(running), member_of(running)
    assert one == other
    assert len({one, other}) == 1
    running.join()
    assert len({one, *running.hub.room("/")}) == 2


# Messages to one of them


async def test_each_member_gets_a_message_in_its_own_encoding(start_hub: StartHub) -> None:
    running = start_hub(history=10)
    room = running.hub.room("/")
    forms: dict[str, Client] = {"plain": running.join(), "ids": running.join(subprotocol=SUBPROTOCOL)}
    for name, encoding in (("events", EVENTS), ("json", JSON_EVENTS)):
        ours, forms[name] = running.pair()
        running.hub.stream_events(
            90 + len(forms), Transport(ours), "/", RoomQuery(), running.endpoint, encoding=encoding
        )
    await forms["ids"].frame()
    for name in ("events", "json"):
        assert (await forms[name].take_some()).startswith(b"retry:")
    for member in room:
        await member.send("a\r\nb")
        await member.send(b"\x00\xff")
    assert await forms["plain"].frames(2) == [seen_text("a\r\nb"), Seen(Opcode.BINARY, b"\x00\xff")]
    assert await forms["ids"].frames(2) == [seen_text("{}\na\r\nb"), Seen(Opcode.BINARY, b"{}\n\x00\xff")]
    assert await forms["events"].take_some() == b"data: a\ndata: b\n\nevent: binary\ndata: AP8=\n\n"
    assert await forms["json"].take_some() == b'data: {"text":"a\\r\\nb"}\n\ndata: {"base64":"AP8="}\n\n'
    assert state_of(room).log.last_message == 0, "it is no message of the room"


async def test_a_message_to_a_resuming_client_does_not_move_its_position(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=10) as running:
        room = running.hub.room("/room")
        async with rawws.connect(f"ws://127.0.0.1:{running.server.port}/room", resume=True) as ws:
            room.publish("to all")
            (member,) = room
            await member.send("to you")
            assert [await ws.recv(), await ws.recv()] == ["to all", "to you"]
            assert ws.last_id == room.last_id


@pytest.mark.parametrize("settings", [{"mode": "echo"}, {"read_only": True}, {"slow": "latest", "key": "k"}])
async def test_a_message_can_go_to_members_of_any_room(start_hub: StartHub, settings: dict[str, Any]) -> None:
    running = start_hub(**settings)
    client = running.join()
    await member_of(running).send("to you")
    assert await client.frame() == seen_text("to you")


async def test_a_message_to_a_member_keeps_its_order_among_those_of_the_room(start_hub: StartHub) -> None:
    running = start_hub()
    room = running.hub.room("/")
    one, other = running.join(), running.join()
    member, _ = room
    for number in range(3):
        room.publish(f"{number}a")
        await member.send(f"{number}b")
    assert numbers(await one.frames(6)) == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert numbers(await other.frames(3)) == ["0a", "1a", "2a"]


async def test_a_lagging_member_gets_its_message_after_those_of_the_room(
    start_hub: StartHub, nursery: trio.Nursery
) -> None:
    running = start_hub()
    client = running.join(send_buffer=SMALL)
    member = member_of(running)
    count = await publish_until_behind(running, member)
    nursery.start_soon(member.send, "alone")
    await wait_all_tasks_blocked()
    running.hub.room("/").publish("meanwhile")
    got = numbers(await client.frames(count + 2))
    assert got == [*map(str, range(count)), "meanwhile", "alone"]


async def test_a_send_waits_for_a_stalled_member_and_sends_nothing_if_cancelled(
    start_hub: StartHub, nursery: trio.Nursery
) -> None:
    running = start_hub()
    client = running.join(send_buffer=SMALL)
    member = member_of(running)
    (peer,) = state_of(running.hub.room("/")).peers
    large = "0 " + "x" * 1_000_000
    await member.send(large)  # the message waits for the socket
    assert 0 < peer.queued_bytes < len(large) + 20
    waiting_bytes = peer.queued_bytes
    with trio.CancelScope() as scope:
        nursery.start_soon(member.send, "2")
        await wait_all_tasks_blocked()
        scope.cancel()
        await member.send("1")
    assert scope.cancelled_caught
    assert peer.queued_bytes == waiting_bytes, "what waits to be sent isn't queued"
    assert numbers(await client.frames(2)) == ["0", "2"]


async def test_a_cancelled_send_sends_nothing_even_if_it_need_not_wait(start_hub: StartHub) -> None:
    running = start_hub()
    client = running.join()
    with trio.CancelScope() as scope:
        scope.cancel()
        await member_of(running).send("never")
    running.hub.room("/").publish("last")
    assert await client.frame() == seen_text("last")


async def test_a_member_with_an_unread_large_message_can_still_send(start_hub: StartHub) -> None:
    running = start_hub()
    slow = running.join(send_buffer=SMALL)
    member = member_of(running)
    other = running.join()
    await member.send("x" * 10 * MAX_OUTBOX_BYTES)
    await slow.send(text("I am here"))
    assert await other.frame() == seen_text("I am here")


async def test_the_lag_policy_applies_while_a_message_waits(start_hub: StartHub) -> None:
    running = start_hub(max_lag_bytes=100_000)
    client = running.join(send_buffer=SMALL)
    member = member_of(running)
    await publish_until_behind(running, member)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def sends() -> None:
            with pytest.raises(ConnectionClosedError) as closed:
                await member.send("alone")
            assert closed.value.closed.cause is Cause.SLOW_PEER

        await wait_all_tasks_blocked()
        while len(running.hub.room("/")):
            running.hub.room("/").publish(PADDING)
            await trio.lowlevel.checkpoint()
        assert member.state.name == "CLOSING"
        client.hang_up()


# The end


async def test_a_program_closes_one_member(start_hub: StartHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = start_hub()
    one, other = running.join(), running.join()
    room = running.hub.room("/")
    member, _ = room
    ends = sum(current_loop().stats.ends.values())
    room.publish("before")
    member.close(4000, "enough")
    member.close(4001, "once more")
    room.publish("after")
    assert [each.id for each in room] == [2]
    assert await one.frames(2) == [seen_text("before"), seen_close(4000, "enough")]
    assert await other.frames(2) == [seen_text("before"), seen_text("after")]
    assert member.state.name == "CLOSING"
    await one.send(close(4000))
    await one.assert_end()
    one.hang_up()
    with pytest.raises(ConnectionClosedError) as closed:
        await member.send("too late")
    assert closed.value.closed.sent == (4000, "enough")
    assert closed.value.closed.by_us
    member.close()
    assert "closed by us with 4000 'enough', answered with 4000" in caplog.text
    assert sum(current_loop().stats.ends.values()) == ends + 1


async def test_a_reader_of_events_can_be_closed(start_hub: StartHub) -> None:
    running = start_hub()
    ours, client = running.pair()
    running.hub.stream_events(9, Transport(ours), "/", RoomQuery(), running.endpoint)
    member_of(running).close(4000, "enough")
    assert (await client.take_some()).startswith(b"retry:")
    await client.assert_end()


async def test_a_message_to_a_member_that_leaves_raises_connection_closed(
    start_hub: StartHub, nursery: trio.Nursery
) -> None:
    running = start_hub()
    client = running.join(send_buffer=SMALL)
    member = member_of(running)
    await member.send("x" * 1_000_000)
    raised: list[rawws.ConnectionClosed] = []

    async def send() -> None:
        try:
            await member.send("alone")
        except rawws.ConnectionClosed as error:
            raised.append(error)

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    client.hang_up()
    await wait_all_tasks_blocked(0.01)
    (error,) = raised
    assert error.closed.cause in (Cause.RESET, Cause.EOF)
    assert (member.state.name, member.path) == ("CLOSED", "/")


async def test_an_orderly_end_raises_connection_closed_ok(start_hub: StartHub) -> None:
    running = start_hub()
    client = running.join()
    member = member_of(running)
    await client.send(close(1000, "bye"))
    assert await client.frame() == seen_close(1000, "bye")
    client.hang_up()
    with pytest.raises(ConnectionClosedOK, match="closed by the client with 1000"):
        await member.send("too late")


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (1010 + 5, ""), (99, ""), (1000, "x" * 124)])
async def test_a_close_that_can_not_be_sent_is_refused(start_hub: StartHub, code: int, reason: str) -> None:
    running = start_hub()
    running.join()
    with pytest.raises(UsageError, match="close"):
        member_of(running).close(code, reason)
    assert len(running.hub.room("/")) == 1


async def test_an_invalid_message_is_refused_before_anything_is_sent(start_hub: StartHub) -> None:
    running = start_hub()
    running.join()
    with pytest.raises(TypeError):
        await member_of(running).send(json)  # type: ignore[arg-type]


async def test_idle_members_allocate_nothing_of_their_own(start_hub: StartHub) -> None:
    running = start_hub(settings=lambda _: RoomSettings())
    running.join()
    running.join()
    one, other = state_of(running.hub.room("/")).peers
    assert one.about is other.about
    assert one.drained is None
