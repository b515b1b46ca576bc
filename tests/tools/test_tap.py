"""A tap changes nothing and shows everything."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

import rawws
from rawws.cli.tap import parse_listen, parse_target
from rawws.errors import ListenError, UsageError
from rawws.net.dial import dial
from rawws.net.listeners import open_listeners
from rawws.net.tls import insecure_context
from rawws.net.transport import RECEIVE_BYTES, Transport
from rawws.tools import tap
from rawws.tools.tap import Target, leads_back, run_tap
from rawws.tracing import Tracer
from rawws.wire.frames import Opcode, encode_frame
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import ACCEPT, get, upgrade
from tests.test_tracing import Memory


async def start_tap(
    nursery: trio.Nursery, port: int, tracer: Tracer | None = None, tls: ssl.SSLContext | None = None
) -> int:
    """Return the port of a tap in front of a port."""
    target = Target(LOOPBACK, port, tls)
    (name,) = await nursery.start(run_tap, await open_listeners(LOOPBACK, 0), target, tracer or Tracer())
    return int(name.rpartition(":")[2])


async def start_raw(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[object]]) -> int:
    (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host=LOOPBACK))
    port: int = listener.socket.getsockname()[1]
    return port


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("begins", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"])
async def test_every_byte_passes_unchanged_in_both_directions(nursery: trio.Nursery, begins: bytes) -> None:
    chance = random.Random(6455)
    question, answer = (begins + chance.randbytes(300_000) for _ in range(2))
    heard = []

    async def serve(stream: trio.SocketStream) -> None:
        heard.append(await read_all(stream))  # up to the client's end of the stream
        await stream.send_all(answer)
        await stream.aclose()

    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, await start_raw(nursery, serve))
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            await stream.send_all(question)
            await stream.send_eof()
            assert await read_all(stream) == answer
        assert heard == [question]
    nursery.cancel_scope.cancel()


async def test_a_websocket_is_traced_from_open_to_end(nursery: trio.Nursery) -> None:
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    port = await start_tap(nursery, server.port, tracer)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{port}/room") as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        while memory.kinds()[-1:] != ["end"]:
            await trio.sleep(0.01)
    assert memory.kinds() == [
        *("open", "head client", "checks client", "head server", "checks server", "switch"),
        *("frame client", "frame server", "frame client", "frame server", "end"),
    ]
    assert memory.taken[-1][1]["told"] == "ended by both sides"
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


def answer_of(raw: bytes) -> tuple[bytes, bytes]:
    """Return the status line and the body of the one answer in a stream; the body has the declared length."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    assert not body or b"Content-Length: %d" % len(body) in fields
    assert b"Connection: close" in fields
    return status, body


async def ask_tap(port: int, request: bytes) -> tuple[bytes, bytes]:
    async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
        await stream.send_all(request)
        return answer_of(await read_all(stream))


BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway"
NO_SERVER = b"The tap has no connection to the server behind it: "


async def test_an_unreachable_server_is_502_and_reported(nursery: trio.Nursery) -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000)
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        tracer, memory = Tracer(), Memory()
        tracer.add(memory)
        dead = nobody.getsockname()[1]
        port = await start_tap(nursery, dead, tracer)
        with trio.fail_after(PATIENCE_S):
            for request in (get(), upgrade(), post, b"GET / HTTP/1.1\r\n"):
                status, body = await ask_tap(port, request)
                assert status == BAD_GATEWAY
                assert body.startswith(NO_SERVER)
                assert b"Connection refused" in body
            assert await ask_tap(port, get(method="HEAD")) == (BAD_GATEWAY, b"")
            while memory.kinds().count("end") < 5:
                await trio.sleep(0.01)
    assert memory.kinds()[:3] == ["open", "head client", "end"]
    assert "Connection refused" in memory.taken[2][1]["told"]
    assert memory.taken[2][1]["told"].endswith("; the client was answered with 502")
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01" + bytes(100)])
async def test_a_client_without_http_is_closed_if_the_server_is_unreachable(nursery: trio.Nursery, said: bytes) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))
        port = await start_tap(nursery, nobody.getsockname()[1])
        with trio.fail_after(PATIENCE_S):
            async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
                await stream.send_all(said)
                await stream.send_eof()
                assert await read_all(stream) == b""
    nursery.cancel_scope.cancel()


async def test_a_certificate_that_is_not_trusted_is_502_with_the_reason(nursery: trio.Nursery) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(LOOPBACK).configure_cert(tls)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, ssl=tls))
    port = await start_tap(nursery, server.port, tls=ssl.create_default_context())
    with trio.fail_after(PATIENCE_S):
        status, body = await ask_tap(port, upgrade())
    assert (status, body.startswith(NO_SERVER), b"certificate" in body) == (BAD_GATEWAY, True, True)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("listen", "target", "loops"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "192.0.2.1", False),  # RFC 5737: for documentation
        ("127.0.0.1", "nowhere.invalid", False),  # RFC 6761
    ],
)
async def test_a_target_that_is_the_tap_itself_is_recognized(listen: str, target: str, loops: bool) -> None:
    (listener,) = await open_listeners(listen, 0)
    with listener:
        port = listener.getsockname()[1]
        assert await leads_back(Target(target, port), [listener]) is loops
        assert not await leads_back(Target(target, port - 1), [listener])


async def test_the_address_of_this_machine_leads_back_to_a_tap_on_every_interface() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        try:
            routed.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no route to elsewhere")
        address = routed.getsockname()[0]
    (listener,) = await open_listeners("0.0.0.0", 0)
    with listener:
        assert await leads_back(Target(address, listener.getsockname()[1]), [listener])


def test_a_tap_of_itself_does_not_start(start_program: StartProgram) -> None:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    ran = start_program.run("tap", str(port), f"localhost:{port}")
    message = f"localhost:{port} is where the tap itself listens; give the port of the server"
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (2, f"rawws: {message}")


async def test_taps_that_lead_to_each_other_end_in_502(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "MOST_UNANSWERED", 5)
    monkeypatch.setattr(tap, "UNANSWERED_S", 0.1)
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    listeners = [await open_listeners(LOOPBACK, 0) for _ in range(2)]
    ports = [opened[0].getsockname()[1] for opened in listeners]
    for opened, port in zip(listeners, reversed(ports), strict=True):
        await nursery.start(run_tap, opened, Target(LOOPBACK, port), tracer)
    with trio.fail_after(PATIENCE_S):
        for _ in range(2):  # everything has ended, so it can begin again
            status, body = await ask_tap(ports[0], upgrade())
            assert status == BAD_GATEWAY
            assert body.startswith(NO_SERVER + b"5 connections wait for the first byte from 127.0.0.1:")
            while memory.kinds().count("end") < memory.kinds().count("open"):
                await trio.sleep(0.01)
    assert memory.kinds().count("open") <= 2 * (2 * 5 + 2)
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


async def test_connections_that_were_answered_do_not_count_towards_a_loop(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "MOST_UNANSWERED", 2)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    port = await start_tap(nursery, server.port)
    with trio.fail_after(PATIENCE_S):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(rawws.connect(f"ws://{LOOPBACK}:{port}/room"))
    nursery.cancel_scope.cancel()


async def test_a_silent_client_blocks_no_other_client(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "MOST_UNANSWERED", 3)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    port = await start_tap(nursery, server.port)
    with trio.fail_after(PATIENCE_S):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                mute = await trio.open_tcp_stream(LOOPBACK, port, local_address="127.0.0.2")
                await stack.enter_async_context(mute)
            for _ in range(5):
                await stack.enter_async_context(rawws.connect(f"ws://{LOOPBACK}:{port}/room"))
    nursery.cancel_scope.cancel()


async def test_a_silent_server_in_the_tls_handshake_times_out(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)

    async def hear(stream: trio.SocketStream) -> None:
        await read_all(stream)

    with trio.fail_after(3 * tap.DIAL_TIMEOUT_S):
        mute = await start_raw(nursery, hear)
        port = await start_tap(nursery, mute, tracer, insecure_context())
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            while memory.kinds()[-1:] != ["end"]:
                await wait_all_tasks_blocked()
                mock_clock.jump(1)
            assert await read_all(stream) == b""
    assert memory.taken[-1][1]["told"] == f"the TLS handshake with 127.0.0.1:{mute} took longer than 10 s"
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


async def test_another_protocol_after_an_upgrade_is_passed_on_unread(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rawws.handshake")
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\x81\x02hi"

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, await start_raw(nursery, serve), tracer)
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            assert await read_all(stream) == answer
        while memory.kinds()[-1:] != ["end"]:
            await trio.sleep(0.01)
    assert memory.kinds() == ["open", "head client", "head server", "end"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("= HTTP ends, h2c begins: what follows is not read")
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


async def switch_and_send(stream: trio.SocketStream, frames: bytes) -> None:
    await stream.receive_some()
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    await stream.send_all(head + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n" + frames)
    await stream.aclose()


async def test_other_tasks_run_while_tiny_frames_are_shown(nursery: trio.Nursery) -> None:
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    shown = []  # number of frames at each turn of another task

    async def take_turns() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            shown.append(len(memory.taken))

    server = await start_raw(nursery, partial(switch_and_send, frames=b"\x82\x00" * 20_000))
    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, server, tracer)
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            await stream.send_all(upgrade())
            nursery.start_soon(take_turns)
            assert len(await read_all(stream)) > 40_000
    assert memory.kinds().count("frame server") == 20_000
    assert max(now - before for before, now in pairwise(shown)) <= 4 * tap.SHOWN_AT_ONCE
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


async def test_a_payload_that_is_too_large_is_recorded_with_its_two_ends(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "MAX_SHOWN_BYTES", 1000)
    tracer, memory = Tracer(), Memory(shown_bytes=1 << 40)
    tracer.add(memory)
    server = await start_raw(nursery, partial(switch_and_send, frames=encode_frame(Opcode.BINARY, bytes(100_000))))
    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, server, tracer)
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            await stream.send_all(upgrade())
            await read_all(stream)
    (frame,) = (record for _, record in memory.taken if record["kind"] == "frame")
    assert (len(frame["payload"]) // 2, frame["left_out"], len(frame["tail"]) // 2) == (1000, 98_936, 64)
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


async def test_a_lost_client_is_also_lost_for_the_server(nursery: trio.Nursery) -> None:
    heard = trio.Event()
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        heard.set()
        with pytest.raises(trio.BrokenResourceError):  # as without the tap
            await stream.receive_some()
        ended.set()

    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, await start_raw(nursery, serve))
        stream = await trio.open_tcp_stream(LOOPBACK, port)
        await stream.send_all(b"GET")
        await heard.wait()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()  # with a reset
        await ended.wait()
    nursery.cancel_scope.cancel()


async def test_a_truncated_answer_does_not_look_complete(nursery: trio.Nursery) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of")
        await stream.receive_some(1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()  # with a reset

    with trio.fail_after(PATIENCE_S):
        port = await start_tap(nursery, await start_raw(nursery, serve))
        async with await trio.open_tcp_stream(LOOPBACK, port) as stream:
            await stream.receive_some()
            await stream.send_all(b"?")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    nursery.cancel_scope.cancel()


class FindsTheResetFirst(Transport):
    """A server's end that receives nothing until a send has failed, as if its last bytes were still passed on."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self._failed = trio.Event()

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        await self._failed.wait()
        await trio.sleep(0.01)
        return await super().receive(max_bytes)

    async def send_all(self, data: bytes | memoryview) -> None:
        try:
            while True:
                await super().send_all(data)
                await trio.lowlevel.checkpoint()
        finally:
            self._failed.set()


class TargetThatResets(Target):
    async def dial(self) -> Transport:
        return FindsTheResetFirst(await dial(self.host, self.port))


async def test_messages_that_a_server_sent_before_its_reset_are_passed_on(nursery: trio.Nursery) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(b"why")
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()  # with a reset

    with trio.fail_after(PATIENCE_S):
        target = TargetThatResets(LOOPBACK, await start_raw(nursery, serve))
        listeners = await open_listeners(LOOPBACK, 0)
        (name,) = await nursery.start(run_tap, listeners, target, Tracer())
        async with await trio.open_tcp_stream(LOOPBACK, int(name.rpartition(":")[2])) as stream:
            await stream.send_all(b"?")
            assert await stream.receive_some() == b"why"
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    nursery.cancel_scope.cancel()


def test_the_program_in_front_of_another_websocket_application(start_program: StartProgram, tmp_path: Path) -> None:
    server = start_program("--hello", "", "--mode", "echo")
    tap = start_program.tap(server.address, "--record", str(tmp_path / "record.jsonl"))
    with connect(f"ws://{tap.address}/a?b=c", open_timeout=PATIENCE_S) as ws:
        ws.send("hello")
        assert ws.recv(PATIENCE_S) == "hello"
        ws.send(b"\x00\xff")
        assert ws.recv(PATIENCE_S) == b"\x00\xff"
        ws.send(["a", "b"])  # in fragments
        assert ws.recv(PATIENCE_S) == "ab"
        ws.close(4000, "enough")
    assert ws.close_code == 4000
    tap.wait_for_line("ended by both sides")
    story = "\n".join(tap.lines)
    assert "rawws.server    #0 = marks of this log: sender → receiver, " in story
    assert "rawws.http      #1 client → server GET /a?b=c HTTP/1.1" in story
    assert "rawws.handshake #1 = RFC 6455 §4.1 item 4: Sec-WebSocket-Accept belongs to the client's key? yes: " in story
    assert "rawws.frames    #1 server → client TEXT fin=1 rsv=000 mask=none len=5 'hello'" in story
    assert "rawws.frames    #1 = the message: TEXT, 2 bytes: 'ab'" in story
    assert "rawws.frames    #1 server → client CLOSE fin=1 rsv=000 mask=none len=8 4000 'enough'" in story
    tap.signal(signal.SIGINT)
    assert tap.wait() == 0
    assert start_program.run("decode", "--brief", str(tmp_path / "record.jsonl")).returncode == 0


def test_the_text_of_compressed_messages_is_shown_with_context_takeover(
    start_program: StartProgram,
) -> None:
    def echo(ws: ServerConnection) -> None:
        for message in ws:
            ws.send(message)

    said = [f'{{"price": {number}, "currency": "EUR"}}' for number in range(3)]
    with serve(echo, LOOPBACK, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tap = start_program.tap(f"{LOOPBACK}:{server.socket.getsockname()[1]}")
            with connect(f"ws://{tap.address}/", open_timeout=PATIENCE_S) as ws:
                for message in said:
                    ws.send(message)
                    assert ws.recv(PATIENCE_S) == message
            tap.wait_for_line("ended by both sides")
        finally:
            server.shutdown()
            thread.join()
    shown = [line.partition("rawws.frames    #1 ")[2].rstrip() for line in tap.lines if " rawws.frames " in line]
    data = [line for line in shown if "CLOSE" not in line]
    assert [line.partition(" TEXT fin=1 rsv=100 ")[0] for line in data[::2]] == [
        "client → server", "server → client",
    ] * 3  # fmt: skip
    expected = [f"= the message: TEXT, {len(message)} bytes: '{message}'" for message in said]
    assert data[1::2] == [line for line in expected for _ in range(2)]


def test_a_violation_is_reported_with_its_rule(start_program: StartProgram) -> None:
    server = start_program("--hello", "")
    tap = start_program.tap(server.address)
    with connect(f"ws://{tap.address}/", open_timeout=PATIENCE_S) as ws:
        ws.socket.sendall(bytes.fromhex("8105") + b"hello")
        with pytest.raises(ConnectionClosedError):
            ws.recv(PATIENCE_S)
    line = tap.wait_for_line("broke a rule")
    assert "WARNING rawws.frames    #1 ! the client broke a rule: server received unexpected unmasked frame" in line
    assert line.rstrip().endswith("(RFC 6455 §5.1); the receiver is to fail with 1002")


def test_a_violation_by_an_incomplete_frame_is_reported_before_the_close(start_program: StartProgram) -> None:
    server = start_program("--hello", "")
    tap = start_program.tap(server.address)
    with connect(f"ws://{tap.address}/", open_timeout=PATIENCE_S) as ws:
        ws.socket.sendall(bytes.fromhex("82ff 8000000000000000 37fa213d"))
        with pytest.raises(ConnectionClosedError):
            ws.recv(PATIENCE_S)
    close = tap.wait_for_line("server → client CLOSE")
    before = tap.lines[: tap.lines.index(close)]
    assert any("#1 ! the client broke a rule: 8-byte payload length with non-zero MSB" in line for line in before)


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:80", "::1", 80),
        ("localhost:0", "localhost", 0),
    ],
)
def test_an_address_to_listen_on_is_parsed(given: str, host: str, port: int) -> None:
    assert parse_listen(given) == (host, port)


@pytest.mark.parametrize(
    ("given", "host", "port", "tls"),
    [
        ("localhost:3000", "localhost", 3000, False),
        ("ws://example.org", "example.org", 80, False),
        ("http://example.org:81/", "example.org", 81, False),
        ("wss://example.org", "example.org", 443, True),
        ("[::1]:3000", "::1", 3000, False),
    ],
)
def test_a_target_is_parsed(given: str, host: str, port: int, tls: bool) -> None:
    target = parse_target(given)
    assert (target.host, target.port, target.tls is not None) == (host, port, tls)


@pytest.mark.parametrize("given", ["", "nowhere", "ws://host/path", "host:99999", "ftp://host", "8080"])
def test_an_invalid_server_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not a server"):
        parse_target(given)


@pytest.mark.parametrize("given", ["", "host", "host:x", "1:2:99999"])
def test_an_invalid_address_to_listen_on_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not where to listen"):
        parse_listen(given)


async def test_a_failure_to_listen_names_no_flags_of_another_command() -> None:
    with pytest.raises(ListenError, match=r"This machine has no such address; choose one that it has\.$"):
        await open_listeners("192.0.2.1", 0)
