"""Hostile clients over real sockets: whatever one does, an ordinary client is served at once, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import signal
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.limits import KIB, MIB, NO_LIMIT, Limits
from rawws.server.connection import LINGER_S, MAX_LINGERING
from rawws.wire.frames import RSV1, Opcode, encode_frame
from tests.forked import Forker
from tests.serving.client import Client, HangsUp
from tests.serving.machine import LOOPBACK, PATIENCE_S, pace
from tests.serving.programs import Program, StartProgram
from tests.serving.server import Running, Serve
from tests.serving.wire import MASK_KEY, Seen, binary, close, get, masked, ping, seen_text, text, upgrade
from tests.traced_memory import traced_memory

pytestmark = pytest.mark.usefixtures("bounded")

# A connection, its handshake, a message and its close take some milliseconds, and at worst as long as the server works
# for the hostile clients. But on a machine with two cores, the other tests compete for these too.
SOON_S = 30.0

PROC = Path("/proc")
NEEDS_PROC = pytest.mark.skipif(not (PROC / "self" / "fd").exists(), reason="counts descriptors and memory in /proc")

COMPRESSION = "Sec-WebSocket-Extensions: permessage-deflate"


class Serving(Protocol):
    async def connect(self) -> Client: ...


async def assert_serves(server: Serving) -> None:
    """Check that an ordinary client that comes now is served at once."""
    with trio.fail_after(SOON_S * pace()):
        client = await (await server.connect()).open("/room/ordinary")
        await client.send(text("hello"))
        assert await client.frame() == seen_text("hello")
        await client.send(close())
        await client.frames_to_close()
        await client.assert_end()
    client.hang_up()


def count_descriptors(pid: int) -> int:
    return len(os.listdir(PROC / str(pid) / "fd"))


def resident_bytes(program: Program) -> int:
    status = (PROC / str(program.process.pid) / "status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * KIB


async def wait_descriptors(program: Program, count: int) -> None:
    """Wait until the program has at most this number of descriptors open."""
    while count_descriptors(program.process.pid) > count:
        await trio.sleep(0.01)


async def assert_left_alone(running: Running) -> None:
    """Wait until the server has no connection and no room left."""
    while running.server.peer_count:
        await wait_all_tasks_blocked(0.001)
    assert not running.hub.rooms


def assert_no_traceback(program: Program) -> None:
    """Check that a program that has ended has logged no error of its own."""
    assert [line for line in program.lines if "Traceback" in line or "error in rawws" in line] == []


async def assert_ends_in_order(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(program.wait) == 0
    assert_no_traceback(program)


@pytest.fixture(scope="module")
def program(forker: Forker) -> Iterator[Program]:
    """One program with short timeouts and no greeting for all of these tests; at the end it has no peer left."""
    starter = StartProgram(forker)
    try:
        # It would import numpy, whose memory would be counted for the test that runs then, for the first long message.
        flags = ("--hello", "", "--open-timeout", "1", "--drain", "0.2", "--max-lag", "1M", "--page")
        program = starter(*flags, imports=["numpy"])
        yield program
        program.signal(signal.SIGTERM)
        assert program.wait() == 0
        assert_no_traceback(program)
    finally:
        for started in starter.started:
            started.end()


@pytest.fixture
async def running(serve: Serve, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Running]:
    """A server that must not log a traceback."""
    caplog.set_level(logging.INFO, "rawws")
    yield await serve()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def with_small_window(port: int, clients: list[HangsUp]) -> Client:
    """Connect with a small receive buffer, so that unread bytes soon wait at the server."""
    stdlib_socket = socket.socket()
    stdlib_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    client = Client(stdlib_socket)
    clients.append(client)
    return await client.connect(port)


@contextlib.asynccontextmanager
async def going_on(hostility: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Repeat a call until the end of the block."""

    async def go_on() -> None:
        with contextlib.suppress(OSError):  # the server has had enough of it
            while True:
                await hostility()
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        yield
        nursery.cancel_scope.cancel()


# Clients that never finish a request


def half_open(port: int, count: int) -> list[socket.socket]:
    """Make this number of connections, which send nothing or an incomplete request."""
    crowd = []
    for number in range(count):
        client = socket.create_connection((LOOPBACK, port), timeout=PATIENCE_S)
        client.send((b"", b"GET / HT", upgrade()[:-2])[number % 3])
        crowd.append(client)
    return crowd


@NEEDS_PROC
@pytest.mark.patience(300)
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.thorough)])
async def test_thousands_of_half_open_connections_keep_no_client_out_and_are_closed(
    program: Program, count: int
) -> None:
    before = count_descriptors(program.process.pid)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - count_descriptors(os.getpid()) - 50
    crowd = await trio.to_thread.run_sync(half_open, program.port, min(count, most))
    try:
        await assert_serves(program)
        for client in crowd:
            assert client.recv(13) == b"HTTP/1.1 408 "
    finally:
        for client in crowd:
            client.close()
    await wait_descriptors(program, before)
    await assert_serves(program)


async def test_heads_that_drip_a_byte_at_a_time_run_out_of_time_all_together(serve: Serve) -> None:
    running = await serve(limits=Limits(header_timeout_s=0.3))
    drippers = [await running.connect() for _ in range(50)]
    head = iter(upgrade()[:-2] + b"A: ")

    async def drip() -> None:
        byte = bytes([next(head, b"a"[0])])
        for client in drippers:
            client.try_send(byte)
        await wait_all_tasks_blocked()

    async with going_on(drip):
        await assert_serves(running)
        assert {(await client.answer()).status for client in drippers} == {408}
    await assert_serves(running)


HEADS_WITHOUT_END = {
    "one line": (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ", b"b" * 64 * KIB, 431),
    "fields": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"A: b\r\n" * 10 * KIB, 431),
    "field names": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"a" * 64 * KIB, 431),
    "a target": (b"GET /", b"a" * 64 * KIB, 414),
    "a chunk's extension": (
        get("/", "Transfer-Encoding: chunked", method="POST") + b"1;",
        b"a" * 64 * KIB,
        400,
    ),
    "trailers": (
        get("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\n",
        b"A: b\r\n" * 10 * KIB,
        400,
    ),
}


@NEEDS_PROC
@pytest.mark.parametrize(("start", "more", "status"), HEADS_WITHOUT_END.values(), ids=HEADS_WITHOUT_END.keys())
async def test_an_endless_head_or_body_is_refused_and_not_kept(
    program: Program, start: bytes, more: bytes, status: int
) -> None:
    await assert_serves(program)
    before = resident_bytes(program)
    client = await program.connect()
    await client.send(start)
    async with going_on(lambda: client.send(more)):
        assert (await client.answer()).status == status
        await assert_serves(program)
    assert resident_bytes(program) - before < 4 * MIB
    client.reset()


@pytest.mark.parametrize(
    ("limits", "status"),
    [(Limits(header_timeout_s=0.2, max_header_bytes=1 << 40), 408), (Limits(header_timeout_s=PATIENCE_S), 431)],
    ids=["time", "bytes"],
)
async def test_endless_empty_lines_are_no_request_and_time_out(serve: Serve, limits: Limits, status: int) -> None:
    running = await serve(limits=limits)
    client = await running.connect()
    async with going_on(lambda: client.send(b"\r\n" * 1000)):
        await assert_serves(running)
        assert (await client.answer()).status == status


# Floods of frames

FLOODS = {
    "empty texts": (text(""), False),
    "texts": (text("flood"), False),
    "texts whose echoes are read": (text("flood"), True),
    "large messages": (binary(b"x" * 500 * KIB), False),
    "empty pings": (ping(), False),
    "empty pings whose pongs are read": (ping(), True),
    "empty pongs": (masked(Opcode.PONG), False),
    "empty fragments": (
        masked(Opcode.TEXT, fin=False) + masked(Opcode.CONTINUATION, fin=False) * 5000 + masked(Opcode.CONTINUATION),
        False,
    ),
    "messages in two fragments": (masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONTINUATION), False),
    "pings": (ping(b"x" * 125), False),
    "pings whose pongs are read": (ping(b"x" * 125), True),
    "pongs": (masked(Opcode.PONG, b"x" * 125), False),
    "fragments": (
        masked(Opcode.BINARY, fin=False)
        + masked(Opcode.CONTINUATION, b"x" * 125, fin=False) * 50
        + masked(Opcode.CONTINUATION),
        False,
    ),
}


@NEEDS_PROC
@pytest.mark.parametrize(("frames", "reads"), FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_keeps_no_other_client_waiting_and_costs_little(
    program: Program, frames: bytes, reads: bool
) -> None:
    await assert_serves(program)
    before = resident_bytes(program)
    flooder = await (await program.connect()).open("/flood")
    some = frames * max(1, 64 * KIB // len(frames))
    async with trio.open_nursery() as nursery, going_on(lambda: flooder.send(some)):
        if reads:
            nursery.start_soon(_read_all, flooder)
        for _ in range(2):
            await assert_serves(program)
        nursery.cancel_scope.cancel()
    assert resident_bytes(program) - before < 32 * MIB
    flooder.reset()
    await assert_serves(program)


async def _read_all(client: Client) -> None:
    with contextlib.suppress(OSError):
        while await client.take_some():
            pass


TINY_FRAMES = {
    "pings": (b"", ping()),
    "pongs": (b"", masked(Opcode.PONG)),
    "empty fragments": (masked(Opcode.TEXT, fin=False), masked(Opcode.CONTINUATION, fin=False)),
    "pings between two fragments": (masked(Opcode.TEXT, b"a", fin=False), ping()),
}


@NEEDS_PROC
@pytest.mark.parametrize(("first", "frame"), TINY_FRAMES.values(), ids=TINY_FRAMES.keys())
async def test_the_tiniest_frames_take_no_lasting_memory(program: Program, first: bytes, frame: bytes) -> None:
    await assert_serves(program)
    before = resident_bytes(program)
    flooder = await (await program.connect()).open("/flood", then=first)
    await flooder.send(frame * 20_000)
    assert resident_bytes(program) - before < 8 * MIB
    flooder.reset()


# The cost of one byte


async def _wait_read(running: Running) -> None:
    """Wait until the server has read all bytes that have arrived over loopback."""
    for _ in range(5):
        await wait_all_tasks_blocked(0.001)
    assert running.server.peer_count


OVERHEAD_BYTES = 64 * KIB  # of a connection, and of the test's own objects

PINNING = {
    "fragments of a byte": masked(Opcode.TEXT, fin=False) + masked(Opcode.CONTINUATION, b"a", fin=False) * 4_000,
    "empty fragments": masked(Opcode.TEXT, fin=False) + masked(Opcode.CONTINUATION, fin=False) * 4_000,
    "fragments, some of them empty": (
        masked(Opcode.BINARY, fin=False)
        + (masked(Opcode.CONTINUATION, b"ab", fin=False) + masked(Opcode.CONTINUATION, fin=False)) * 2_000
    ),
    "pings between fragments": (
        masked(Opcode.BINARY, b"a", fin=False) + (ping() + masked(Opcode.CONTINUATION, b"a", fin=False)) * 1_500
    ),
    "the beginning of a large frame": binary(b"x" * 1_000_000)[:100_000],
    "a byte of a large frame": binary(b"x" * 1_000_000)[:11],
}


@pytest.mark.parametrize("sent", PINNING.values(), ids=PINNING.keys())
async def test_a_byte_of_an_unfinished_message_pins_no_more_than_four(running: Running, sent: bytes) -> None:
    await assert_serves(running)
    client = await running.open("/hostile")
    with traced_memory() as count:
        await client.send(sent)
        await _wait_read(running)
        now, most = count()
        assert now <= 4 * len(sent) + OVERHEAD_BYTES
        assert most <= 8 * len(sent) + 8 * OVERHEAD_BYTES
    await assert_serves(running)
    client.reset()
    await assert_left_alone(running)


def _header(length: int, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    """Return a frame's header that declares a length of eight bytes."""
    return bytes([opcode | 0x80 * fin, 0xFF]) + length.to_bytes(8, "big") + MASK_KEY


@pytest.mark.parametrize("fragment", [b"", masked(Opcode.BINARY, b"a", fin=False)], ids=["alone", "after a fragment"])
@pytest.mark.parametrize(
    ("length", "code"), [(1 << 62, 1009), ((1 << 63) - 1, 1009), (1 << 63, 1002), ((1 << 64) - 1, 1002)]
)
async def test_a_length_beyond_all_bounds_is_refused_by_its_header(
    running: Running, fragment: bytes, length: int, code: int
) -> None:
    client = await running.open("/hostile")
    opcode = Opcode.CONTINUATION if fragment else Opcode.BINARY
    with traced_memory() as count:
        await client.send(fragment + _header(length, opcode))
        *_, close = await client.frames_to_close()
        assert count()[1] < MIB
    assert close.payload[:2] == code.to_bytes(2, "big")
    await client.assert_end()
    await assert_serves(running)


async def test_a_frame_of_2_to_the_62_bytes_costs_only_the_bytes_that_have_come(serve: Serve) -> None:
    running = await serve(limits=Limits(max_message_bytes=NO_LIMIT))
    client = await running.open("/hostile")
    with traced_memory() as count:
        await client.send(_header(1 << 62) + b"x" * 100_000)
        await _wait_read(running)
        assert count()[0] < 4 * 100_000 + OVERHEAD_BYTES
        await assert_serves(running)
    client.reset()
    await assert_left_alone(running)


def _bomb(megabytes: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(deflate.compress(bytes(MIB)) for _ in range(megabytes)) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("size", [1, 50, 60_000], ids=lambda size: f"{size} bytes a fragment")
async def test_a_bomb_in_fragments_ends_in_1009_and_costs_one_message(running: Running, size: int) -> None:
    await assert_serves(running)
    bomb = _bomb(50)
    if size == 1:  # the rest would not be read, but would take its time
        bomb = bomb[:3000]
    pieces = [bomb[start : start + size] for start in range(0, len(bomb), size)]
    frames = encode_frame(Opcode.BINARY, pieces[0], fin=False, rsv=RSV1, mask_key=MASK_KEY)
    frames += b"".join(ping(b"?") + masked(Opcode.CONTINUATION, piece, fin=False) for piece in pieces[1:])
    client = await running.open("/hostile", COMPRESSION)
    with traced_memory() as count:
        await client.send(frames)
        *pongs, close = await client.frames_to_close()
        assert count()[1] < 8 * MIB
    assert {pong.opcode for pong in pongs} <= {Opcode.PONG}
    assert close.payload[:2] == (1009).to_bytes(2, "big")
    client.reset()
    await assert_left_alone(running)
    await assert_serves(running)


async def test_bombs_of_just_the_allowed_size_are_sent_on_and_not_piled_up(running: Running) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    frame = encode_frame(Opcode.BINARY, bomb, rsv=RSV1, mask_key=MASK_KEY)
    client = await running.open("/hostile", COMPRESSION)
    with traced_memory() as count:
        for _ in range(5):
            await client.send(frame)
        await _wait_read(running)
        await assert_serves(running)
        assert count()[1] < 16 * MIB
    client.reset()
    await assert_left_alone(running)


async def test_a_program_holds_its_peer_back_before_few_bytes_become_many(nursery: trio.Nursery) -> None:
    held: list[rawws.WebSocket] = []

    async def never_reads(ws: rawws.WebSocket) -> None:
        held.append(ws)
        await trio.sleep_forever()

    server = await nursery.start(partial(rawws.serve, never_reads, 0, host=LOOPBACK, drain=0))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (deflate.compress(bytes(100 * KIB)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    for frame in (encode_frame(Opcode.BINARY, bomb, rsv=RSV1, mask_key=MASK_KEY), text("a")):
        client = await (await Client.unconnected().connect(server.port)).open("/", COMPRESSION)
        await client.send(frame * 200)
        while not held or not held[-1]._inbox.paused:
            await trio.sleep(0.001)
        await wait_all_tasks_blocked()
        assert len(held[-1]._inbox.items) == 17, "max_queue, and the one by which it is known to be full"
        client.reset()
        held.clear()
    server.stop()


async def test_input_that_takes_long_to_read_does_not_delay_others(running: Running) -> None:
    dear = (masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONTINUATION, b"b")) * 4_000
    crowd = [await running.open(f"/{number}") for number in range(10)]
    bystander = await running.open("/quiet")
    got = 0

    async def read(client: Client) -> None:
        nonlocal got
        while True:
            await client.frame()
            got += 1

    async with trio.open_nursery() as nursery:
        for client in crowd:
            await client.send(dear)
        for client in crowd:
            nursery.start_soon(read, client)
        await bystander.send(ping(b"?"))
        assert await bystander.frame() == Seen(Opcode.PONG, b"?")
        assert got < 30_000, "of 40,000: its turn came before all of theirs were over"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_sends_too_much_is_read_at_the_allowed_rate(
    serve: Serve, mock_clock: trio.testing.MockClock
) -> None:
    running = await serve(limits=Limits(messages_per_s=2, ping_interval_s=0))
    listener, talker = await running.open("/room"), await running.open("/room")
    await talker.send(text("a") * 20 + close())
    got = 0
    for second in range(9):
        await wait_all_tasks_blocked(0.001)
        with contextlib.suppress(BlockingIOError):
            got += len(listener.stdlib_socket.recv(100)) // len(b"\x81\x01a")
        assert 2 * second + 1 <= got <= 2 * second + 4, "two a second, and as many at once after a rest"
        mock_clock.jump(1.0)
    await listener.frames(20 - got)
    await talker.frames(20)
    assert (await talker.frame()).opcode == Opcode.CLOSE, "it was read in its turn"


async def test_watchers_of_a_room_that_all_vanish_at_once_harm_no_other_peer(running: Running) -> None:
    innocent, attacker = await running.open("/room"), await running.open("/room")
    watchers = []
    for _ in range(300):
        watchers.append(await running.open("/room?presence", "Sec-WebSocket-Protocol: rawws.id.v1"))
    await attacker.send((masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONTINUATION, b"b")) * 2_000)
    for client in watchers:
        client.reset()
    for _ in range(2_000):
        assert (await innocent.frame()).payload == b"ab"
    await innocent.send(text("still here"))
    assert await innocent.frame() == seen_text("still here")


async def test_a_steady_flow_of_new_rooms_postpones_no_deadline(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    hub = rawws.Hub(history=10)
    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, ping_interval=5, ping_timeout=5))
    mute = await (await Client.unconnected().connect(server.port)).open("/mute")
    for number in range(40):
        hub.room(f"/{number}").publish("there is a history that has to end in time")
        await wait_all_tasks_blocked()
        mock_clock.jump(0.5)
        await wait_all_tasks_blocked()
    assert await mute.frame() == Seen(Opcode.PING, b"rawws")
    assert (await mute.frame()).payload[2:] == b"no answer to a ping within 5 s"
    mute.hang_up()
    server.stop()


# Clients that never read


@NEEDS_PROC
async def test_pollers_that_never_read_share_their_answers(start_program: StartProgram) -> None:
    # With a history, it makes no difference whether a poll is read before the message or after it.
    program = start_program("--hello", "", "--history", "1")
    clients: list[HangsUp] = []
    speaker = await (await program.connect()).open("/busy")
    at = json.loads((await (await program.connect()).ask(get("/busy?since="))).body)["next"]
    pollers = [await with_small_window(program.port, clients) for _ in range(30)]
    for poller in pollers:
        await poller.send(get(f"/busy?since={at}&wait=50"))
    await assert_serves(program)
    before = resident_bytes(program)
    await speaker.send(text("\x01" * 1_000_000))  # six times as much as JSON
    await speaker.frame()
    await assert_serves(program)
    assert resident_bytes(program) - before < 48 * MIB
    polled = json.loads((await pollers[0].answer()).body)  # a client that reads at last gets everything
    assert polled["messages"][0]["text"] == "\x01" * 1_000_000
    for client in (*pollers, speaker):
        client.reset()
    await assert_serves(program)


@NEEDS_PROC
async def test_a_refused_large_body_is_not_kept_whatever_an_application_would_take(
    start_program: StartProgram,
) -> None:
    program = start_program("--app", "rawws.examples.existing_app:app", "--publish-token", "secret", "--hello", "")
    await assert_serves(program)
    before = resident_bytes(program)
    for lines in (["Content-Length: 100000000"], ["Transfer-Encoding: chunked"]):
        client = await program.connect()
        await client.send(get("/room/x", *lines, method="POST"))
        piece = b"x" * MIB if "chunked" not in lines[0] else b"100000\r\n" + b"x" * MIB + b"\r\n"
        with contextlib.suppress(OSError):  # the server may have closed it
            for _ in range(60):
                await client.send(piece)
        assert resident_bytes(program) - before < 16 * MIB
        client.reset()
    await assert_serves(program)


@NEEDS_PROC
@pytest.mark.parametrize("policy", ["close", "skip", "latest", "wait"])
async def test_peers_that_never_read_delay_no_other_room(start_program: StartProgram, policy: str) -> None:
    flags = ("--latest-key", "k") if policy == "latest" else ()
    program = start_program(*flags, "--hello", "", "--slow", policy, "--max-lag", "256k", "--drain", "0.2")
    clients: list[HangsUp] = []
    mute = [await (await with_small_window(program.port, clients)).open("/busy") for _ in range(5)]
    quick, publisher = [await (await program.connect()).open("/busy") for _ in range(2)]
    await assert_serves(program)
    before = resident_bytes(program)
    message = text('{"k": 1, "pad": "' + "x" * 60_000 + '"}')
    got = 0

    async def publish() -> None:
        nonlocal got
        await publisher.send(message)
        await quick.frame()
        got += 1

    async with trio.open_nursery() as nursery, going_on(publish):
        nursery.start_soon(_read_all, publisher)
        for _ in range(5):
            await assert_serves(program)
        if policy != "wait":  # this policy holds up its room alone
            with trio.fail_after(PATIENCE_S):
                while got < 200:
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert resident_bytes(program) - before < 64 * MIB
    for client in mute:
        client.reset()
    await assert_serves(program)
    await assert_ends_in_order(program)


# Clients that leave in the middle

STEPS = {
    "after nothing": b"",
    "in the request line": b"GET /ho",
    "in the head": upgrade("/hostile")[:60],
    "in a request's body": get("/", "Content-Length: 9", method="POST") + b"a",
    "after a request": get("/"),
    "after the head": upgrade("/hostile"),
    "after a refused head": upgrade("/hostile", "Origin: https://evil.example"),
    "in a frame's first byte": upgrade("/hostile") + text("Hello")[:1],
    "in a frame's length": upgrade("/hostile") + binary(b"x" * 300)[:3],
    "in a frame's key": upgrade("/hostile") + text("Hello")[:4],
    "in a payload": upgrade("/hostile") + text("Hello")[:8],
    "in a large payload": upgrade("/hostile") + binary(b"x" * 200_000)[:100_000],
    "between two fragments": upgrade("/hostile") + masked(Opcode.TEXT, b"a", fin=False),
    "in a compressed message": upgrade("/hostile", COMPRESSION)
    + encode_frame(Opcode.TEXT, _bomb(1)[:9], fin=False, rsv=RSV1, mask_key=MASK_KEY),
    "after a message": upgrade("/hostile") + text("Hello"),
    "after many messages": upgrade("/hostile") + text("x" * 1000) * 300,
    "after a ping": upgrade("/hostile") + ping(b"?"),
    "in its close": upgrade("/hostile") + close()[:5],
    "after its close": upgrade("/hostile") + close(),
    "after an invalid frame": upgrade("/hostile") + b"\x81\x05Hello",
    "after a frame that is too large": upgrade("/hostile") + _header(1 << 62),
}
LEAVES = pytest.mark.parametrize(
    "leave", [Client.reset, Client.hang_up, Client.end_stream], ids=["RST", "close", "FIN alone"]
)


@LEAVES
@pytest.mark.parametrize("sent", STEPS.values(), ids=STEPS.keys())
async def test_a_client_that_leaves_at_any_step_leaves_nothing_behind(
    running: Running, sent: bytes, leave: Callable[[Client], None]
) -> None:
    bystander = await running.open("/bystander")
    for at_once in (True, False):
        client = await running.connect()
        await client.send(sent)
        if not at_once:
            await wait_all_tasks_blocked()  # it has been read
        leave(client)
        if leave is Client.end_stream:
            await client.wait_lost()
            client.hang_up()
    await bystander.send(text("still here"))
    assert await bystander.frame() == seen_text("still here")
    await bystander.send(close())
    await bystander.frames_to_close()
    bystander.hang_up()
    await assert_left_alone(running)
    await assert_serves(running)


@LEAVES
async def test_a_client_that_leaves_during_the_servers_close_leaves_nothing_behind(
    serve: Serve, leave: Callable[[Client], None]
) -> None:
    running = await serve(limits=Limits(drain_s=PATIENCE_S))
    clients = [await running.open("/hostile") for _ in range(10)]
    running.server.stop()
    for client in clients[::2]:
        await client.frames_to_close()
    for client in clients:
        leave(client)
    await assert_left_alone(running)


# Crowds that leave at once


@NEEDS_PROC
@pytest.mark.parametrize("sent", [b"", b"GET /", upgrade("/crowd")], ids=["nothing", "half a line", "a handshake"])
async def test_a_thousand_clients_that_reset_leave_no_descriptor_open(program: Program, sent: bytes) -> None:
    await assert_serves(program)
    before = count_descriptors(program.process.pid)
    for _ in range(1000):
        client = await program.connect()
        await client.send(sent)
        client.reset()
    await assert_serves(program)
    await wait_descriptors(program, before)


@NEEDS_PROC
async def test_rejected_clients_that_stay_cost_few_descriptors(start_program: StartProgram) -> None:
    program = start_program("--max-connections", "5")
    served = [await program.connect() for _ in range(5)]
    for client in served:
        assert (await client.ask(get())).status == 200
    before = count_descriptors(program.process.pid)
    crowd = [await program.connect() for _ in range(300)]
    answers = [await client.answer() for client in crowd[-3:]]
    assert {answer.status for answer in answers} == {503}
    with trio.fail_after(0.9 * LINGER_S):  # before the clients that linger after their answer are dropped
        while count_descriptors(program.process.pid) - before > MAX_LINGERING:
            await trio.sleep(0.01)
    assert (await served[1].ask(get())).status == 200
    for client in (*served, *crowd):
        client.hang_up()


@NEEDS_PROC
async def test_a_room_whose_peers_all_reset_at_once_is_empty_then(program: Program) -> None:
    await assert_serves(program)
    before = count_descriptors(program.process.pid)
    crowd = [await (await program.connect()).open("/crowd") for _ in range(500)]
    await crowd[0].send(text("to all who are about to go") * 10)
    for client in crowd:
        client.reset()
    await assert_serves(program)
    await wait_descriptors(program, before)
    asking = await program.connect()
    assert (await asking.ask(get("/crowd?peers"))).body == b'{"peers":0}\n'
    asking.hang_up()


# Requests that two servers could read differently

HIDDEN = get("/smuggled")


def _post(*lines: str) -> bytes:
    return get("/", *lines, method="POST")


def _with_line(line: bytes) -> bytes:
    return get().removesuffix(b"\r\n") + line + b"\r\n\r\n"


def _chunked(chunks: bytes) -> bytes:
    return _post("Transfer-Encoding: chunked") + chunks


AMBIGUOUS = {
    "a list of two lengths": (_post("Content-Length: 5, 6") + b"hello", 400),
    "a length with a sign": (_post("Content-Length: +5") + b"hello", 400),
    "a negative length": (_post("Content-Length: -5") + b"hello", 400),
    "a length in hex": (_post("Content-Length: 0x5") + b"hello", 400),
    "a length with an underscore": (_post("Content-Length: 1_0") + b"hellohello", 400),
    "an empty length": (_post("Content-Length: ") + b"hello", 400),
    "a length of 5,000 digits": (_post("Content-Length: " + "9" * 5000), 400),
    "chunks before a length": (_post("Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n", 400),
    "chunked twice": (_post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 501),
    "chunked twice in a list": (_post("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", 501),
    "identity": (_post("Transfer-Encoding: identity") + b"0\r\n\r\n", 501),
    "almost chunked": (_post("Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501),
    "chunked after a vertical tab": (_with_line(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n", 400),
    "chunked with a space before the colon": (_with_line(b"Transfer-Encoding : chunked") + b"0\r\n\r\n", 400),
    "a length with a tab before the colon": (_with_line(b"Content-Length\t: 5") + b"hello", 400),
    "chunked in a folded line": (_with_line(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n", 400),
    "chunked in HTTP/1.0": (_chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "a first line that is folded": (get().replace(b"Host", b" A: b\r\nHost"), 400),
    "a bare CR in a value": (_with_line(b"A: b\rContent-Length: 5"), 400),
    "a bare CR before a name": (_with_line(b"A: b\r\n\rContent-Length: 5"), 400),
    "two CRs at an end": (_with_line(b"A: b\r"), 400),
    "bare CRs for all ends": (get().replace(b"\r\n", b"\r"), 400),
    "bare LFs for all ends": (get().replace(b"\r\n", b"\n"), 400),
    "a bare LF for the last end": (get()[:-2] + b"\n", 400),
    "a NUL in a name": (_with_line(b"A\0: b"), 400),
    "an empty name": (_with_line(b": b"), 400),
    "a NUL in the target": (get("/\0"), 400),
    "tabs in the request line": (get().replace(b" / ", b"\t/\t"), 400),
    "two spaces in the request line": (get().replace(b" / ", b"  / "), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/01.1": (get(version="01.1"), 400),
    "a chunk's size in 0x": (_chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk's size with a sign": (_chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "a negative chunk": (_chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk's size after a space": (_chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk without a size": (_chunked(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk's size with an underscore": (_chunked(b"1_0\r\n0123456789012345\r\n0\r\n\r\n"), 400),
    "a chunk's size beyond 64 bits": (_chunked(b"f" * 21 + b"\r\n"), 400),
    "a chunk's size that ends with LF": (_chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "an LF in a chunk's extension": (_chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
    "a bare CR in a chunk's extension": (_chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk's size before a space": (_chunked(b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "a trailer that ends with LF": (_chunked(b"0\r\nA: b\n\r\n"), 400),
    "a chunk that is longer than it says": (_chunked(b"5\r\nhelloXX0\r\n\r\n"), 400),
    "a chunk that ends with LF": (_chunked(b"5\r\nhello\n0\r\n\r\n"), 400),
    "a trailer that is none": (_chunked(b"0\r\nX : y\r\n\r\n"), 400),
    "an upgrade with chunks": (upgrade("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
}
# Requests with one reading only, by which the hidden request is inside a body.
ENCLOSED = {
    "a GET with a body": (get("/", f"Content-Length: {len(HIDDEN)}") + HIDDEN, 200),
    "a POST with a body": (_post(f"Content-Length: {len(HIDDEN)}") + HIDDEN, 405),
    "two equal lengths": (_post(*[f"Content-Length: {len(HIDDEN)}"] * 2) + HIDDEN, 405),
    "a list of two equal lengths": (_post(f"Content-Length: {len(HIDDEN)}, {len(HIDDEN)}") + HIDDEN, 405),
    "a chunk": (_chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)), 405),
    "a body that is waited with": (_post(f"Content-Length: {len(HIDDEN)}", "Expect: 100-continue") + HIDDEN, 405),
    "an upgrade with a body": (upgrade("/", f"Content-Length: {len(HIDDEN)}") + HIDDEN, 400),
    "an upgrade with two lengths": (upgrade("/", *[f"Content-Length: {len(HIDDEN)}"] * 2) + HIDDEN, 400),
    "another protocol's upgrade with a body": (
        get("/", "Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(HIDDEN)}") + HIDDEN,
        200,
    ),
}


@pytest.mark.parametrize(
    ("stream", "status"),
    [*((request + HIDDEN, status) for request, status in AMBIGUOUS.values()), *ENCLOSED.values()],
    ids=[*AMBIGUOUS, *(f"enclosed in {name}" for name in ENCLOSED)],
)
async def test_a_hidden_request_is_never_answered(
    running: Running, caplog: pytest.LogCaptureFixture, stream: bytes, status: int
) -> None:
    client = await running.connect()
    await client.send(stream)
    client.end_stream()
    answer = await client.answer()
    assert answer.status == status
    if status in (400, 501):
        assert answer.headers["connection"] == "close"
    await client.assert_end()
    assert "smuggled" not in caplog.text
    await assert_serves(running)


@pytest.mark.parametrize("cut", range(1, len(AMBIGUOUS["a bare LF for the last end"][0]), 7))
async def test_a_hidden_request_is_not_answered_wherever_the_stream_is_cut(
    running: Running, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    request, status = AMBIGUOUS["a bare LF for the last end"]
    client = await running.connect()
    await client.send_in_pieces(request + HIDDEN, at=[cut])
    assert (await client.answer()).status == status
    await client.assert_end()
    assert "smuggled" not in caplog.text


# Names that are not the server's, and targets that are no paths

STRANGE_HOSTS = ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "0x7f000001"]


def _for_host(request: bytes, host: str) -> bytes:
    return request.replace(b"Host: localhost", b"Host: " + host.encode())


async def test_a_foreign_host_name_is_refused_everywhere_on_loopback(start_program: StartProgram) -> None:
    program = start_program("--hello", "", "--drain", "0.2")
    targets = ["/", "/room?since=0", "/healthz", "/_rawws/", "http://evil.example/"]
    ways = [*map(get, targets), upgrade(), _post("Content-Length: 2") + b"hi", get(method="OPTIONS")]
    for host in STRANGE_HOSTS:
        for request in ways:
            client = await program.connect()
            answer = await client.ask(_for_host(request, host))
            assert (answer.status, answer.headers["connection"]) == (421, "close"), request
            await client.assert_end()
            client.hang_up()
    for host in ("LOCALHOST", "localhost.", "a.localhost:80", "[::1]:80", LOOPBACK):
        client = await program.connect()
        assert (await client.ask(_for_host(get(), host))).status == 200
    await assert_serves(program)
    await assert_ends_in_order(program)


async def test_an_allowed_host_name_is_accepted_and_others_are_refused(start_program: StartProgram) -> None:
    program = start_program("--allow-host", "chat.example", "--drain", "0.2")
    for host, status in (("chat.example", 101), ("CHAT.example.:80", 101), ("evil.chat.example", 421)):
        client = await program.connect()
        assert (await client.ask(_for_host(upgrade(), host))).status == status
        client.reset()
    await assert_ends_in_order(program)


TARGETS = {
    "/room/..%2f": "/room/..%2f",
    "/room/%2e%2e/x": "/room/%2e%2e/x",
    "/room/./x": "/room/./x",
    "/room/../x": "/room/../x",
    "/../../etc/passwd": "/../../etc/passwd",
    "//": "//",
    "//evil.example/x": "//evil.example/x",
    "/a;b": "/a;b",
    r"/a\..\b": r"/a\..\b",
    "/%00": "/%00",
    "/%zz": "/%zz",
    "/%": "/%",
    "/%2": "/%2",
    "/%0d%0aINFO%20forged": "/%0d%0aINFO%20forged",
    "/%1b[31m": "/%1b[31m",
    "/%C5%BE": "/%C5%BE",
    "/x?../../y": "/x",
    "http://localhost/absolute": "/absolute",
    "http://localhost": "/",
    "HTTP://localhost/%2e%2e": "/%2e%2e",
}


def _assert_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    assert caplog.records
    assert [record.getMessage() for record in caplog.records if not record.getMessage().isprintable()] == []


@pytest.mark.parametrize(("target", "room"), TARGETS.items())
async def test_the_name_of_a_room_is_taken_as_it_is(
    running: Running, caplog: pytest.LogCaptureFixture, target: str, room: str
) -> None:
    neighbours = {path: await running.open(path) for path in ("/room/", "/room/x", "/etc/passwd", "/neighbour")}
    client = await running.open(target, then=text("hello"))
    assert await client.frame() == seen_text("hello")
    assert set(running.hub.rooms) == {*neighbours, room}
    for path, neighbour in neighbours.items():
        await neighbour.send(text(path))
        assert await neighbour.frame() == seen_text(path), "it has received nothing from the other room"
    assert (await (await running.connect()).ask(get(target))).body == b"hi there"
    _assert_one_line_each(caplog)


NO_PATHS = [
    "*",
    "evil.example:443",
    "ws://localhost/a",
    "room",
    "?x",
    "http:/x",
    "http:///x",
    "ftp://localhost/a",
    "/a#b",
]
NO_TARGETS = [b"/\x7f", b"/\xff", b"/\xc5\xbe", b"/\x1b[31m", b"/\0", b"/a\tb", b"/a b", b"", b"/a\rb"]


@pytest.mark.parametrize(
    "target", [*(target.encode() for target in NO_PATHS), *NO_TARGETS], ids=lambda target: repr(target)[2:-1]
)
async def test_a_target_that_is_no_path_is_no_room(
    running: Running, caplog: pytest.LogCaptureFixture, target: bytes
) -> None:
    client = await running.connect()
    answer = await client.ask(upgrade("/T").replace(b"/T", target))
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    await client.assert_end()
    assert (await (await running.connect()).ask(get("/T").replace(b"/T", target))).status == 400
    assert not running.hub.rooms
    _assert_one_line_each(caplog)
    await assert_serves(running)


@pytest.mark.parametrize(("method", "target", "status"), [("OPTIONS", "*", 204), ("TRACE", "/", 405)])
async def test_the_response_has_nothing_of_the_request(running: Running, method: str, target: str, status: int) -> None:
    client = await running.connect()
    answer = await client.ask(get(target, "Cookie: secret", method=method))
    assert answer.status == status
    assert "secret" not in str(answer)
    assert (await client.ask(get())).body == b"hi there"


async def test_no_tunnel_is_made(running: Running) -> None:
    client = await running.connect()
    assert (await client.ask(get("evil.example:443", method="CONNECT"))).status == 501
    await client.assert_end()


def _page_cookie(program: Program) -> str:
    """Return the cookie for a program's page under the name localhost, without a port."""
    return f"Cookie: rawws-page={program.page_link().partition('=')[2]}"


@pytest.mark.parametrize("way", ["..%2f..%2f", "../../", "%2e%2e/", "./", "%00", "%5c..%5c", "//", "page/../../"])
async def test_paths_below_the_servers_own_lead_to_no_other_file(program: Program, way: str) -> None:
    with_the_secret = _page_cookie(program)
    for target in (f"/_rawws/{way}pyproject.toml", f"/_rawws/{way}/etc/passwd", f"/_rawws/{way}rawws/server/serve.py"):
        for lines, statuses in (([with_the_secret], (400, 404)), ([], (400, 403))):
            client = await program.connect()
            answer = await client.ask(get(target, *lines))
            assert answer.status in statuses
            assert not re.search(b"build-system|root:|import ", answer.body)
            client.hang_up()
    await assert_serves(program)


# Clients that never stop


FLOODS_OF_HTTP = {
    "requests": (b"", get() * 1000),
    "empty lines": (b"", b"\r\n" * 30_000),
    "chunks": (_chunked(b""), b"1\r\na\r\n" * 10_000),
}


@NEEDS_PROC
@pytest.mark.parametrize(("start", "more"), FLOODS_OF_HTTP.values(), ids=FLOODS_OF_HTTP.keys())
async def test_a_flood_of_http_does_not_starve_other_clients(program: Program, start: bytes, more: bytes) -> None:
    flooders = [await program.connect() for _ in range(3)]
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as floods:
        for client in flooders:
            await client.send(start)
            nursery.start_soon(_read_all, client)
            await floods.enter_async_context(going_on(partial(client.send, more)))
        for _ in range(3):
            await assert_serves(program)
        nursery.cancel_scope.cancel()
    for client in flooders:
        client.reset()


async def test_a_client_that_asks_much_and_reads_no_answer_is_held_back(program: Program) -> None:
    clients: list[HangsUp] = []
    client = await with_small_window(program.port, clients)
    with_the_secret = _page_cookie(program)
    sent = 0

    async def ask() -> None:
        nonlocal sent
        await client.send(get("/_rawws/", with_the_secret) * 50)
        sent += 1

    async with going_on(ask):
        before = -1
        while sent != before:
            before = sent
            await trio.sleep(0.2)
        await assert_serves(program)
    client.reset()
