"""The WebSocket that a program holds, against a raw peer and in a pair, in both roles."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import Cause, ConnectionClosedError, ConnectionClosedOK, State
from rawws.errors import UsageError
from rawws.net.transport import MORE_RECEIVE_BYTES
from rawws.relay.loop import current_loop
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.testing import Opcode, Role, open_pair, open_raw
from rawws.websocket import CALLS_IN_A_ROW
from rawws.websocket.internals import receive_without_limit
from rawws.wire.frames import RSV1, encode_frame
from tests.serving.machine import PATIENCE_S
from tests.serving.wire import masked

BOTH_ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: f"raw {role.name.lower()}")
BOTH_LANES = pytest.mark.parametrize("fast_lane", [True, False], ids=["fast lane", "plain"])

Receive = Callable[[rawws.WebSocket], Awaitable[list[str | bytes]]]

# Linux gives at least about twice as much.
SMALL_BUFFER = 4096


# Messages


@BOTH_LANES
@pytest.mark.parametrize("message", ["", "Hello", "é€😀" * 50, b"", b"\x00\xff", b"x" * 70_000, "y" * 70_000])
async def test_text_stays_text_and_binary_stays_binary(message: str | bytes, fast_lane: bool) -> None:
    async with open_pair(fast_lane=fast_lane) as (client, server):
        await client.send(message)
        assert await server.recv() == message
        await server.send(message)
        assert await client.recv() == message


async def test_the_text_argument_sets_the_type_of_bytes() -> None:
    async with open_raw(compression=None) as (peer, ws):
        await ws.send(b"Hello", text=True)
        await peer.expect_frame(Opcode.TEXT, "Hello")
        await ws.send("Hello", text=False)
        await peer.expect_frame(Opcode.BINARY, b"Hello")
        await ws.send(bytearray(b"a"))
        await peer.expect_frame(Opcode.BINARY, b"a")
        await ws.send(memoryview(b"b"))
        await peer.expect_frame(Opcode.BINARY, b"b")


async def test_an_invalid_message_raises_and_sends_nothing() -> None:
    async with open_raw() as (peer, ws):
        with pytest.raises(TypeError, match="a message is a str or bytes-like, not int"):
            await ws.send(1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="utf-8"):
            await ws.send(b"\xff", text=True)
        with pytest.raises(ValueError, match="surrogates"):
            await ws.send("\ud800")
        await ws.send("fine")
        await peer.expect_frame(Opcode.TEXT, "fine")


@BOTH_ROLES
async def test_each_frame_of_a_client_is_masked_with_a_key_of_its_own_and_none_of_a_server(role: Role) -> None:
    async with open_raw(role) as (peer, ws):
        keys = set()
        for _ in range(20):
            await ws.send("Hello")
            header = await peer.receive_bytes(2)
            assert bool(header[1] & 0x80) is (role is Role.SERVER)
            if role is Role.SERVER:
                keys.add(await peer.receive_bytes(4))
            await peer.receive_bytes(5)
        assert len(keys) == (20 if role is Role.SERVER else 0)


async def test_iterating_ends_with_an_orderly_close() -> None:
    async with open_raw() as (peer, ws):
        for message in ("a", "b"):
            await peer.send_frame(Opcode.TEXT, message)
        await peer.send_close(1001)
        assert [message async for message in ws] == ["a", "b"]


async def test_iterating_raises_at_any_other_end() -> None:
    async with open_raw() as (peer, ws):
        await peer.send_frame(Opcode.TEXT, "a")
        await peer.send_close(1011, "oops")
        assert await anext(ws) == "a"
        with pytest.raises(ConnectionClosedError, match=r"closed by the client with 1011 \(internal error\) 'oops'"):
            await anext(ws)


async def test_messages_before_the_end_are_still_received() -> None:
    async with open_raw() as (peer, ws):
        for number in range(10):
            await peer.send_frame(Opcode.TEXT, str(number))
        peer.hang_up()
        await ws.wait_closed()
        assert [await ws.recv() for _ in range(10)] == list(map(str, range(10)))
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1006


async def test_cancelling_recv_loses_nothing(autojump_clock: MockClock) -> None:  # noqa: ARG001
    async with open_raw() as (peer, ws):
        for number in range(40):
            with trio.move_on_after(1) as gave_up:
                await ws.recv()
            assert gave_up.cancelled_caught
            await peer.send_frame(Opcode.TEXT, str(number))
            assert await ws.recv() == str(number)


async def recv(ws: rawws.WebSocket) -> list[str | bytes]:
    return [await ws.recv()]


async def recv_streaming(ws: rawws.WebSocket) -> list[str | bytes]:
    return [piece async for piece in ws.recv_streaming()]


@pytest.mark.parametrize("first", [recv, recv_streaming])
@pytest.mark.parametrize("second", [recv, recv_streaming])
async def test_one_task_at_a_time_may_wait_for_a_message(first: Receive, second: Receive) -> None:
    got: list[str | bytes] = []

    async def wait() -> None:
        got.extend(await first(ws))

    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
            await second(ws)
        await peer.send_frame(Opcode.TEXT, "a", fin=False)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
            await second(ws)
        await peer.send_frame(Opcode.CONTINUATION, b"b")
        await wait_all_tasks_blocked()
    assert got == (["ab"] if first is recv else ["a", "b"])


async def test_streaming_is_refused_while_another_task_waits_for_a_message() -> None:
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:
        await peer.send_frame(Opcode.TEXT, "a", fin=False)
        pieces = ws.recv_streaming()
        assert await anext(pieces) == "a"
        nursery.start_soon(ws.recv)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
            await anext(pieces)
        nursery.cancel_scope.cancel()


async def test_a_task_that_never_waits_lets_others_run() -> None:
    async with open_pair(max_queue=None) as (client, server), trio.open_nursery() as nursery:
        for number in range(CALLS_IN_A_ROW * 3):
            await client.send(str(number))
        await wait_all_tasks_blocked()
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        for _ in range(CALLS_IN_A_ROW * 3):
            await server.recv()
        assert others >= 1
        nursery.cancel_scope.cancel()


# A program that is slower than its peer


async def test_a_full_queue_holds_the_peer_back_and_nothing_is_lost() -> None:
    async with open_pair(max_queue=4, compression=None) as (client, server):
        messages = [f"{number:0100000}" for number in range(60)]

        async def send_all() -> None:
            for message in messages:
                await client.send(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await wait_all_tasks_blocked()
            assert nursery.child_tasks, "more was taken than the queue holds"
            assert [await server.recv() for _ in messages] == messages


async def test_a_peer_that_is_held_back_is_not_dropped_as_dead(mock_clock: MockClock) -> None:
    async with open_raw(max_queue=1, ping_interval=1, ping_timeout=2) as (peer, ws):
        for number in range(5):
            await peer.send_frame(Opcode.TEXT, str(number))
        await wait_all_tasks_blocked()
        for _ in range(20):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert ws.state is State.OPEN
        assert [await ws.recv() for _ in range(5)] == list("01234")


async def test_pings_are_answered_while_no_task_receives() -> None:
    async with open_raw() as (peer, _):
        await peer.send_frame(Opcode.PING, b"there?")
        await peer.expect_frame(Opcode.PONG, b"there?")


# Streams


@BOTH_LANES
async def test_a_message_is_received_in_pieces_as_they_arrive(fast_lane: bool) -> None:
    async with open_raw(fast_lane=fast_lane) as (peer, ws):
        pieces = ws.recv_streaming()
        await peer.send_frame(Opcode.TEXT, "Hel", fin=False)
        assert await anext(pieces) == "Hel"
        await peer.send_frame(Opcode.PING, b"between")
        await peer.expect_frame(Opcode.PONG, b"between")
        await peer.send_frame(Opcode.CONTINUATION, b"lo")
        assert [piece async for piece in pieces] == ["lo"]
        await peer.send_frame(Opcode.BINARY, b"whole")
        assert await ws.recv() == b"whole"


@BOTH_LANES
async def test_a_part_of_a_large_frame_is_streamed_at_once(fast_lane: bool) -> None:
    async with open_raw(fast_lane=fast_lane, max_size=None, compression=None) as (peer, ws):
        payload = bytes(range(256)) * 4096
        async with trio.open_nursery() as nursery:
            await peer.send_bytes(bytes([0x82, 0xFF]) + len(payload).to_bytes(8, "big") + bytes(4) + payload[:100])
            await wait_all_tasks_blocked()
            pieces = ws.recv_streaming()
            received = await anext(pieces)
            assert isinstance(received, bytes)
            assert received == payload[:100]
            nursery.start_soon(peer.send_bytes, payload[100:])
            async for piece in pieces:
                assert isinstance(piece, bytes)
                received += piece
            assert received == payload


async def test_the_rest_of_a_stream_that_is_left_early_is_dropped() -> None:
    async with open_raw() as (peer, ws):
        await peer.send_frame(Opcode.TEXT, "a", fin=False)
        async for piece in ws.recv_streaming():
            assert piece == "a"
            break
        await peer.send_frame(Opcode.CONTINUATION, b"b")
        await peer.send_frame(Opcode.TEXT, "next")
        assert await ws.recv() == "next"


async def test_the_parts_after_an_abandoned_stream_make_a_message() -> None:
    async with open_raw() as (peer, ws):
        with trio.move_on_after(0.01):
            await anext(ws.recv_streaming())
        for _ in range(2):
            await peer.send_frame(Opcode.TEXT, "a", fin=False)
            await peer.send_frame(Opcode.CONTINUATION, b"b")
            assert await ws.recv() == "ab"


@pytest.mark.parametrize("compress", [None, True])
async def test_an_async_iterable_is_sent_as_one_message_in_fragments(compress: bool | None) -> None:
    async def pieces() -> AsyncIterator[str]:
        for piece in ("a", "b" * 5000, "c"):
            yield piece

    async with open_pair() as (client, server):
        await client.send(pieces(), compress=compress)
        assert await server.recv() == "a" + "b" * 5000 + "c"
        await server.send(pieces(), compress=compress)
        assert await client.recv() == "a" + "b" * 5000 + "c"
    async with open_raw(compression=None) as (peer, ws):
        await ws.send(pieces())
        got = [await peer.receive_frame() for _ in range(3)]
        assert [(frame.opcode, frame.fin) for frame in got] == [(1, False), (0, False), (0, True)]


async def test_an_empty_iterable_is_an_empty_message() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with open_raw() as (peer, ws):
        await ws.send(nothing())
        await peer.expect_frame(Opcode.BINARY, b"")
        await ws.send(nothing(), text=True)
        await peer.expect_frame(Opcode.TEXT, b"")


async def test_other_messages_wait_for_the_end_of_a_stream_and_control_frames_do_not() -> None:
    more = trio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await more.wait()
        yield "c"

    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:
        nursery.start_soon(ws.send, pieces())
        await wait_all_tasks_blocked()
        nursery.start_soon(ws.send, "later")
        await wait_all_tasks_blocked()
        await peer.send_frame(Opcode.PING)
        more.set()
        got = [await peer.receive_frame() for _ in range(5)]
        assert [(frame.opcode, frame.payload) for frame in got] == [
            (Opcode.TEXT, b"a"),
            (Opcode.PONG, b""),
            (Opcode.CONTINUATION, b"b"),
            (Opcode.CONTINUATION, b"c"),
            (Opcode.TEXT, b"later"),
        ]


async def test_half_a_message_fails_the_connection() -> None:
    async def pieces() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        raise ZeroDivisionError

    async with open_raw() as (peer, ws):
        with pytest.raises(ZeroDivisionError):
            await ws.send(pieces())
        assert (await peer.receive_frame()).fin is False
        await peer.expect_close(1011, "a message could not be completed")


async def test_messages_of_a_room_wait_for_the_end_of_a_stream() -> None:
    more = trio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await more.wait()
        yield "c"

    room = rawws.Hub().room("/")
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:
        room.join(ws)
        nursery.start_soon(ws.send, pieces())
        await wait_all_tasks_blocked()
        assert room.publish("news") == (0, 1, 0)
        more.set()
        got = [(await peer.receive_frame()).payload for _ in range(4)]
        assert got == [b"a", b"b", b"c", b"news"]
        assert room.publish("more") == (1, 0, 0)


# Sending to a peer that does not read


async def test_sending_waits_while_the_peer_does_not_read() -> None:
    async with open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws):
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(100):
                await ws.send(f"{number:01000}")
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await wait_all_tasks_blocked()
            assert 0 < sent < 50
            assert 0 < ws.buffered_bytes < 2000
            got = [await peer.receive_frame() for _ in range(100)]
            assert [int(frame.payload) for frame in got] == list(range(100))
        assert ws.buffered_bytes == 0


async def test_a_message_whose_sending_is_cancelled_is_not_sent_at_all(autojump_clock: MockClock) -> None:  # noqa: ARG001
    async with open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws):
        with trio.move_on_after(1) as gave_up:
            for number in range(100):
                await ws.send(f"{number:01000}")
        assert gave_up.cancelled_caught
        got = []
        with trio.move_on_after(1):
            while True:
                got.append(await peer.receive_frame())
        assert [int(frame.payload) for frame in got] == list(range(number))
        await ws.send("after")
        await peer.expect_frame(Opcode.TEXT, "after")


async def test_two_tasks_may_send_at_once_and_each_message_is_whole() -> None:
    async with open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws):

        async def send_all(letter: str) -> None:
            for size in range(100, 20_000, 900):
                await ws.send(letter * size)

        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(send_all, letter)
            got = [await peer.receive_frame() for _ in range(23 * 3)]
        assert all(len(set(frame.payload)) == 1 for frame in got)
        for first in b"abc":
            sizes = [len(frame.payload) for frame in got if frame.payload[0] == first]
            assert sizes == list(range(100, 20_000, 900))


async def test_a_waiting_send_learns_that_the_connection_is_closed() -> None:
    async with open_raw(send_buffer=SMALL_BUFFER) as (peer, ws), trio.open_nursery() as nursery:

        async def send_for_ever() -> None:
            while True:
                await ws.send("x" * 900)

        async def send() -> None:
            with pytest.raises(ConnectionClosedError):
                await send_for_ever()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        peer.hang_up()


async def test_echoes_of_messages_that_arrived_together_are_sent_in_order() -> None:
    async with open_raw(max_queue=None) as (peer, ws), trio.open_nursery() as nursery:

        async def echo() -> None:
            async for message in ws:
                await ws.send(message)

        nursery.start_soon(echo)
        for number in range(300):
            await peer.send_frame(Opcode.TEXT, str(number))
        for number in range(300):
            await peer.expect_frame(Opcode.TEXT, str(number))
        await peer.send_close()
        await peer.expect_close(1000)


async def test_gathered_messages_are_sent_even_if_the_program_does_something_else() -> None:
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:

        async def answer_one_and_sleep() -> None:
            await ws.recv()
            await ws.send("answer")
            await trio.sleep_forever()

        for _ in range(3):
            await peer.send_frame(Opcode.TEXT, "question")
        await wait_all_tasks_blocked()
        nursery.start_soon(answer_one_and_sleep)
        await peer.expect_frame(Opcode.TEXT, "answer")
        nursery.cancel_scope.cancel()


# A close or fault after messages that the program has not answered yet


@BOTH_LANES
@pytest.mark.parametrize(
    ("after", "code"),
    [(b"\x88\x80\x00\x00\x00\x00", 1005), (b"\x83\x80\x00\x00\x00\x00", 1002)],
    ids=["close", "fault"],
)
async def test_messages_before_a_close_or_fault_are_answered_first(after: bytes, code: int, fast_lane: bool) -> None:
    async with open_raw(fast_lane=fast_lane) as (peer, ws), trio.open_nursery() as nursery:

        async def echo() -> None:
            with contextlib.suppress(ConnectionClosedError):
                async for message in ws:
                    await trio.lowlevel.checkpoint()
                    assert ws.state is State.OPEN
                    await ws.send(message)

        await peer.send_bytes(b"\x81\x81\x00\x00\x00\x00a\x81\x81\x00\x00\x00\x00b" + after)
        await wait_all_tasks_blocked()
        nursery.start_soon(echo)
        await peer.expect_frame(Opcode.TEXT, "a")
        await peer.expect_frame(Opcode.TEXT, "b")
        await peer.expect_close(code)


async def test_a_program_that_does_not_receive_delays_the_closing_handshake_only_briefly(
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    async with open_raw() as (peer, ws):
        await peer.send_frame(Opcode.TEXT, "unheard")
        await peer.send_close()
        started = trio.current_time()
        await peer.expect_close(1000)
        assert trio.current_time() - started < 3
        assert ws.closed is not None


async def test_a_close_by_the_program_does_not_wait_for_unread_messages() -> None:
    async with open_raw() as (peer, ws):
        await peer.send_frame(Opcode.TEXT, "unheard")
        await peer.send_close(1001)
        await wait_all_tasks_blocked()
        await ws.aclose()
        await peer.expect_close(1001)
        assert await ws.recv() == "unheard"


# Compression


async def test_large_messages_are_compressed_and_small_ones_are_not() -> None:
    async with open_raw() as (peer, ws):
        await ws.send("x" * 2000)
        frame = await peer.receive_frame()
        assert frame.rsv == RSV1
        assert len(frame.payload) < 100
        await ws.send("x" * 100)
        assert (await peer.receive_frame()).rsv == 0
        await ws.send("x" * 2000, compress=False)
        assert (await peer.receive_frame()).rsv == 0
        await ws.send("x" * 100, compress=True)
        assert (await peer.receive_frame()).rsv == RSV1


async def test_nothing_is_compressed_without_an_agreement() -> None:
    async with open_raw(compression=None) as (peer, ws):
        assert ws.extensions == ()
        await ws.send("x" * 2000, compress=True)
        await peer.expect_frame(Opcode.TEXT, "x" * 2000)


# Pings


@BOTH_ROLES
async def test_a_ping_returns_the_time_to_its_pong(role: Role, mock_clock: MockClock) -> None:
    async with open_raw(role) as (peer, ws), trio.open_nursery() as nursery:
        latencies = []

        async def ping() -> None:
            latencies.append(await ws.ping())

        assert ws.latency is None
        nursery.start_soon(ping)
        frame = await peer.receive_frame()
        assert frame.opcode == Opcode.PING
        mock_clock.jump(0.25)
        await peer.send_frame(Opcode.PONG, frame.payload)
        await wait_all_tasks_blocked()
        assert latencies == [0.25]
        assert ws.latency == 0.25


async def test_5_5_3_a_pong_answers_the_pings_before_it_too() -> None:
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:
        for payload in ("a", "b", "c"):
            nursery.start_soon(ws.ping, payload)
            await peer.expect_frame(Opcode.PING, payload)
        await peer.send_frame(Opcode.PONG, "nobody asked")
        await peer.send_frame(Opcode.PONG, "b")
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        await peer.send_frame(Opcode.PONG, "c")


async def test_a_ping_raises_when_the_connection_ends_before_its_pong() -> None:
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:

        async def ping() -> None:
            with pytest.raises(ConnectionClosedOK):
                await ws.ping()

        nursery.start_soon(ping)
        await wait_all_tasks_blocked()
        await peer.send_close()


async def test_a_ping_holds_125_bytes_and_waiting_pings_differ() -> None:
    async with open_raw() as (_, ws), trio.open_nursery() as nursery:
        with pytest.raises(UsageError, match="126 bytes are too many for a ping or pong; it holds 125"):
            await ws.ping(b"x" * 126)
        with pytest.raises(UsageError, match="126 bytes are too many"):
            await ws.pong(b"x" * 126)
        nursery.start_soon(ws.ping, "a")
        await wait_all_tasks_blocked()
        with pytest.raises(UsageError, match="still waiting for its pong"):
            await ws.ping("a")
        nursery.cancel_scope.cancel()


async def test_a_pong_may_be_sent_unsolicited() -> None:
    async with open_raw() as (peer, ws):
        await ws.pong("heartbeat")
        await peer.expect_frame(Opcode.PONG, "heartbeat")


async def test_the_keepalive_measures_latency(mock_clock: MockClock) -> None:
    async with open_raw(ping_interval=1) as (peer, ws):
        await wait_all_tasks_blocked()
        mock_clock.jump(1)
        frame = await peer.receive_frame()
        mock_clock.jump(0.1)
        await peer.send_frame(Opcode.PONG, frame.payload)
        await wait_all_tasks_blocked()
        assert ws.latency == pytest.approx(0.1)


# The end


@BOTH_ROLES
async def test_closing_waits_for_the_peer_s_close(role: Role) -> None:
    async with open_raw(role) as (peer, ws), trio.open_nursery() as nursery:
        nursery.start_soon(ws.aclose, 4321, "done")
        await peer.expect_close(4321, "done")
        await wait_all_tasks_blocked()
        assert ws.state is State.CLOSING
        assert ws.closed is None
        await peer.send_close(4321, "well then")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4321, "well then")
        assert ws.closed is not None
        assert (ws.closed.by_us, ws.closed.cause) == (True, Cause.OUR_CLOSE)
        if role is Role.CLIENT:  # §7.1.1: the server is the first to end the stream
            await peer.expect_end()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
async def test_7_4_codes_that_are_never_sent_are_refused(code: int) -> None:
    async with open_raw() as (_, ws):
        with pytest.raises(UsageError, match=f"{code} can't be sent as a close code"):
            await ws.aclose(code)
        assert ws.state is State.OPEN


async def test_a_reason_holds_123_bytes() -> None:
    async with open_raw() as (peer, ws):
        with pytest.raises(UsageError, match="a close reason of 124 bytes is too long"):
            await ws.aclose(1000, "é" * 62)
        ws.begin_close(1000, "x" * 123)
        await peer.expect_close(1000, "x" * 123)


async def test_closing_gives_up_on_a_mute_peer(autojump_clock: MockClock) -> None:  # noqa: ARG001
    async with open_raw(close_timeout=5) as (_, ws):
        started = trio.current_time()
        await ws.aclose()
        assert 5 <= trio.current_time() - started < 8
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.rcvd, ws.closed.cause) == (1006, None, Cause.CLOSE_TIMEOUT)
        assert ws.closed.sent == (1000, "")
        with pytest.raises(ConnectionClosedError, match="has not closed within 5 s"):
            await ws.recv()


async def test_a_cancelled_close_drops_the_connection() -> None:
    async with open_raw() as (peer, ws):
        with trio.move_on_after(0.01):
            await ws.aclose()
        assert ws.state is State.CLOSED
        await peer.expect_close(1000)
        await peer.expect_end()


async def test_a_close_is_seen_though_the_queue_is_full() -> None:
    async with open_raw(max_queue=1) as (peer, ws):
        for _ in range(10):
            await peer.send_frame(Opcode.TEXT, "x")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.aclose)
            await peer.expect_close(1000)
            for _ in range(10):
                await peer.send_frame(Opcode.TEXT, "late")
            await peer.send_close()
        assert ws.closed is not None
        assert ws.closed.cause is Cause.OUR_CLOSE


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9bye"])
async def test_a_close_of_the_peer_s_is_answered_and_reported(payload: bytes) -> None:
    async with open_raw() as (peer, ws):
        await peer.send_frame(Opcode.CLOSE, payload)
        await peer.expect_frame(Opcode.CLOSE, payload)
        with pytest.raises(ConnectionClosedOK) as caught:
            await ws.recv()
        closed = caught.value.closed
        assert closed is ws.closed
        assert closed.code == (int.from_bytes(payload[:2], "big") if payload else 1005)
        assert (closed.by_us, closed.cause) == (False, Cause.PEER_CLOSE)


async def test_sending_and_pinging_after_the_end_raise_its_cause() -> None:
    async with open_raw() as (peer, ws):
        await peer.send_close(1001, "moving")
        await ws.wait_closed()
        for attempt in (partial(ws.send, "x"), ws.ping, ws.pong, ws.recv):
            with pytest.raises(ConnectionClosedOK, match="closed by the client with 1001"):
                await attempt()
        await ws.aclose()  # harmless


async def test_a_send_during_our_close_waits_for_the_end() -> None:
    async with open_raw() as (peer, ws), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(ConnectionClosedOK):
                await ws.send("too late")

        ws.begin_close()
        nursery.start_soon(send)
        await peer.expect_close(1000)
        await peer.send_close()


# Answers to our close with 4000 "ours": the bytes, the code and reason that count, and the cause.
ANSWERS = {
    "the same code": (b"\x0f\xa0ours", 4000, "ours", Cause.OUR_CLOSE),
    "1001": (b"\x03\xe9", 1001, "", Cause.OUR_CLOSE),
    "1009": (b"\x03\xf1too big", 1009, "too big", Cause.OUR_CLOSE),
    "no code": (b"", 1005, "", Cause.OUR_CLOSE),
    "no close": (None, 1006, "", Cause.EOF),
}


@BOTH_ROLES
@pytest.mark.parametrize(("answer", "code", "reason", "cause"), ANSWERS.values(), ids=ANSWERS)
async def test_7_1_5_the_code_is_that_of_the_close_received(
    role: Role, answer: bytes | None, code: int, reason: str, cause: Cause
) -> None:
    async with open_raw(role) as (peer, ws):
        ws.begin_close(4000, "ours")
        if answer is None:
            peer.end_stream()
        else:
            await peer.send_frame(Opcode.CLOSE, answer)
        with pytest.raises(ConnectionClosedError) as caught:
            await ws.recv()
        closed = caught.value.closed
        assert closed is ws.closed
        assert (closed.code, closed.reason) == (ws.close_code, ws.close_reason) == (code, reason)
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.rcvd == closed.rcvd == (None if answer is None else rawws.CloseFrame(code, reason))
        assert caught.value.sent == closed.sent == rawws.CloseFrame(4000, "ours")
        assert (closed.by_us, closed.cause) == (True, cause)
        assert str(closed).startswith("closed by us with 4000 'ours', ")
        if answer is not None:
            assert str(closed).endswith(f"answered with {closed.rcvd}")


@BOTH_ROLES
async def test_a_close_is_read_while_a_message_is_being_written(role: Role) -> None:
    async with open_raw(role, send_buffer=SMALL_BUFFER, compression=None, close_timeout=1) as (peer, ws):
        await ws.send(b"x" * 1_000_000)
        assert ws.buffered_bytes > 500_000
        await peer.send_close(1009, "too big")  # the peer has read at most the header
        with trio.fail_after(PATIENCE_S):
            await ws.wait_closed()
        assert ws.closed is not None
        assert ws.closed.rcvd == (1009, "too big")
        assert (ws.closed.by_us, ws.closed.cause) == (False, Cause.PEER_CLOSE)


@BOTH_ROLES
async def test_a_close_that_came_before_a_reset_is_found(role: Role) -> None:
    async with open_raw(role) as (peer, ws):
        await ws.send("what is never read makes a reset of the end")
        key = None if role is Role.SERVER else bytes(4)
        for opcode, payload in ((Opcode.TEXT, b"last words"), (Opcode.CLOSE, b"\x03\xf0why")):
            os.write(peer._socket.fileno(), encode_frame(opcode, payload, mask_key=key))
        peer.hang_up()
        await ws.send("this finds out")  # the loop has not read yet
        assert await ws.recv() == "last words"
        with pytest.raises(ConnectionClosedError, match=r"1008 \(policy violation\) 'why'"):
            await ws.recv()
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.cause) == (1008, Cause.PEER_CLOSE)


async def test_a_reset_without_a_close_is_reported_as_a_reset() -> None:
    async with open_raw() as (peer, ws):
        await ws.send("never read")
        peer.hang_up()
        await ws.send("this finds out")
        with pytest.raises(ConnectionClosedError):
            await ws.wait_sent()
        with pytest.raises(
            ConnectionClosedError, match=r"lost without a close \(1006\): (Connection reset|Broken pipe)"
        ):
            await ws.recv()
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.reason, ws.closed.cause) == (1006, "", Cause.RESET)


async def test_messages_of_a_lost_peer_are_bounded_by_the_queue() -> None:
    async with open_raw(max_queue=3) as (peer, ws):
        await ws.send("never read")
        os.write(peer._socket.fileno(), masked(Opcode.TEXT, b"x") * 1000 + masked(Opcode.CLOSE, b"\x03\xf0"))
        peer.hang_up()
        await ws.send("this finds out")
        with trio.fail_after(PATIENCE_S):
            await ws.wait_closed()
        assert ws.close_code == 1008
        for _ in range(4):
            assert await ws.recv() == "x"
        with pytest.raises(ConnectionClosedError):
            await ws.recv()


async def test_no_message_follows_one_that_was_dropped_after_our_close() -> None:
    async with open_raw(max_queue=3) as (peer, ws):
        ws.begin_close()
        await peer.send_bytes(b"".join(masked(Opcode.TEXT, b"%d" % number) for number in range(100)))
        await wait_all_tasks_blocked()
        assert [await ws.recv() for _ in range(3)] == list("012")
        receive_without_limit(ws)
        await peer.send_frame(Opcode.TEXT, "later")
        await peer.send_close(1000)
        assert await ws.recv() == "3"
        with pytest.raises(ConnectionClosedOK):
            await ws.recv()


async def test_no_part_of_a_message_follows_one_that_was_dropped() -> None:
    async with open_raw(max_queue=3, compression=None) as (peer, ws):
        pieces = ws.recv_streaming()
        await peer.send_frame(Opcode.BINARY, b"0", fin=False)
        assert await anext(pieces) == b"0"
        ws.begin_close()
        for number in range(1, 10):
            await peer.send_frame(Opcode.CONTINUATION, b"%d" % number, fin=False)
            await wait_all_tasks_blocked()
        received = [await anext(pieces) for _ in range(3)]
        await peer.send_frame(Opcode.CONTINUATION, b"end")
        await peer.send_close(1000)
        received.append(await anext(pieces))
        with pytest.raises(ConnectionClosedOK):
            await anext(pieces)
        assert received == [b"1", b"2", b"3", b"4"]


async def test_a_lost_peer_that_never_stops_sending_is_dropped(
    monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.setattr("rawws.relay.loop.TURNS_S", 0.0)  # so that the peer can send more after each turn
    async with open_raw(close_timeout=3) as (peer, ws):
        frames = masked(Opcode.TEXT, b"x" * 100)
        flood = frames * 5000
        peer._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(flood))
        peer._socket.shutdown(socket.SHUT_RD)
        sent = os.write(peer._socket.fileno(), flood)
        await ws.send("this finds out")
        turns = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while turns < 100:
                with contextlib.suppress(BlockingIOError):
                    sent += os.write(peer._socket.fileno(), flood[sent % len(frames) :])
                await trio.lowlevel.checkpoint()
                mock_clock.jump(1)
                turns += 1
        assert turns < 100
        assert ws.closed is not None
        assert ws.closed.cause is Cause.RESET


async def test_two_peers_can_send_each_other_large_messages_at_once() -> None:
    large = b"x" * 1_000_000
    async with open_pair(compression=None, close_timeout=1) as (client, server):
        for ws in (client, server):
            await ws.send(large)
        assert client.buffered_bytes  # each side has sent a part
        assert server.buffered_bytes
        with trio.fail_after(PATIENCE_S):
            assert await client.recv() == await server.recv() == large


async def test_a_peer_that_pings_and_never_reads_is_read_no_further() -> None:
    async with open_raw(send_buffer=SMALL_BUFFER) as (peer, ws):
        flood = masked(Opcode.PING, b"x" * 125) * 40_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_bytes, flood)
            await wait_all_tasks_blocked()
            held = ws.buffered_bytes
            nursery.cancel_scope.cancel()
        assert 0 < held <= MAX_OUTBOX_BYTES + MORE_RECEIVE_BYTES


async def test_wait_sent_returns_when_all_is_sent() -> None:
    async with (
        open_raw(send_buffer=SMALL_BUFFER, compression=None) as (peer, ws),
        trio.open_nursery() as nursery,
    ):
        await ws.wait_sent()
        await ws.send(b"x" * 100_000)
        nursery.start_soon(ws.wait_sent)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await peer.receive_frame()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not ws.buffered_bytes
        await ws.send(b"x" * 100_000)
        peer.hang_up()
        with pytest.raises(ConnectionClosedError):
            await ws.wait_sent()


CAUSES = {
    "a stream that ends": (b"", 1006, Cause.EOF),
    "an unmasked frame": (b"\x81\x00", 1002, Cause.PROTOCOL_ERROR),
    "bad UTF-8": (b"\x81\x81\x00\x00\x00\x00\xff", 1007, Cause.PROTOCOL_ERROR),
    "too long a message": (b"\x82\xfe\x00\xc8" + bytes(4), 1009, Cause.LIMIT),
}


@BOTH_LANES
@pytest.mark.parametrize(("data", "code", "cause"), CAUSES.values(), ids=CAUSES)
async def test_the_cause_of_an_end_is_reported(data: bytes, code: int, cause: Cause, fast_lane: bool) -> None:
    async with open_raw(max_size=100, fast_lane=fast_lane) as (peer, ws):
        await peer.send_bytes(data)
        if not data:
            peer.end_stream()
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        assert ws.closed is not None
        # §7.1.5: no close was received.
        assert (ws.closed.code, ws.closed.reason, ws.closed.cause) == (1006, "", cause)
        assert (ws.closed.sent.code if ws.closed.sent else 1006) == code
        assert ws.closed.by_us is (code != 1006)
        for send in (partial(ws.send, "late"), partial(ws.ping, "late")):
            with pytest.raises(ConnectionClosedError) as raised:
                await send()
            assert raised.value.closed is ws.closed
        with pytest.raises(ConnectionClosedError) as raised:
            ws.send_raw(b"late")
        assert raised.value.closed is ws.closed


async def test_a_peer_that_answers_no_ping_is_dropped(mock_clock: MockClock) -> None:
    async with open_raw(ping_interval=1, ping_timeout=1) as (peer, ws):
        await wait_all_tasks_blocked()
        for _ in range(4):
            mock_clock.jump(1)
            await wait_all_tasks_blocked()
        assert ws.closed is not None
        assert (ws.closed.code, ws.closed.cause) == (1006, Cause.PING_TIMEOUT)
        assert ws.closed.sent is not None
        assert ws.closed.sent.code == 1011
        assert (await peer.receive_frame()).opcode == Opcode.PING


async def test_both_sides_show_the_request_the_agreement_and_the_state() -> None:
    async with open_pair("/chat?name=alice", subprotocols=["chat.v1"]) as (client, server):
        for ws in (client, server):
            assert ws.path == "/chat"
            assert ws.request.query == "name=alice"
            assert ws.response.status == 101
            assert ws.subprotocol == "chat.v1"
            assert ws.extensions == ("permessage-deflate; server_no_context_takeover; client_no_context_takeover",)
            assert ws.state is State.OPEN
        assert client.id != server.id
        assert repr(client).startswith(f"<WebSocket #{client.id} client /chat open")


# Raw bytes, for study


async def test_raw_bytes_are_sent_unchanged_after_earlier_messages() -> None:
    async with open_raw(Role.SERVER) as (peer, ws):
        await ws.send("first")
        ws.send_raw(bytes.fromhex("8b00"))  # a reserved opcode, without a mask
        await peer.expect_frame(Opcode.TEXT, "first")
        assert await peer.receive_bytes(2) == bytes.fromhex("8b00")


async def test_raw_bytes_are_logged_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rawws.frames")
    async with open_raw(Role.SERVER) as (_, ws):
        ws.send_raw(b"\x81\x85half a frame")
        assert caplog.messages == [f"#{ws.id} > raw bytes: 81 85 68 61 6c 66 20 61 20 66 72 61 6d 65"]


async def test_raw_bytes_after_our_close_are_refused() -> None:
    async with open_raw(Role.SERVER) as (_, ws):
        ws.begin_close()
        with pytest.raises(rawws.ConnectionClosed):
            ws.send_raw(b"late")


async def test_a_close_after_many_unread_messages_is_found_soon() -> None:
    async with open_raw(max_queue=1) as (client, server):
        await client.send_bytes(masked(Opcode.TEXT, b"x") * 5000 + masked(Opcode.CLOSE, b"\x03\xe8"))
        await wait_all_tasks_blocked()
        before = current_loop().stats.turns
        await server.aclose()
        assert current_loop().stats.turns - before < 50
        assert server.close_code == 1000
