"""`rawws.attach`: WebSockets inside a server that reads its requests with h11 by itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import h11
import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair

import rawws
from rawws import Request, Response
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import close, get, seen_close, seen_text, text, upgrade


async def read_request(stream: trio.abc.ReceiveStream, connection: h11.Connection) -> h11.Request:
    """Read a request as such servers do."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some()))
    assert isinstance(event, h11.Request)
    return event


class OwnServer:
    """A third-party server on h11, which answers ordinary requests, and attaches rawws to the others."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.refusals: list[rawws.HandshakeRefused] = []

    async def serve_client(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            request = await read_request(stream, connection)
            if any(name == b"upgrade" for name, _ in request.headers):
                break
            while not isinstance(connection.next_event(), h11.EndOfMessage):
                pass
            head = h11.Response(status_code=200, headers=[("Content-Length", "4")])
            for event in (head, h11.Data(data=b"mine"), h11.EndOfMessage()):
                await stream.send_all(connection.send(event) or b"")
            connection.start_next_cycle()
        try:
            async with rawws.attach(stream, request, connection=connection, **self.options) as ws:
                async for message in ws:
                    await ws.send(message)
        except rawws.HandshakeRefused as error:
            self.refusals.append(error)


@pytest.fixture
async def start(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Awaitable[tuple[OwnServer, Client]]]]:
    clients: list[Client] = []

    async def start_own(**options: Any) -> tuple[OwnServer, Client]:
        server = OwnServer(**options)
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve_client, 0, host=LOOPBACK))
        clients.append(await Client(socket.socket()).connect(listener.socket.getsockname()[1]))
        return server, clients[-1]

    yield start_own
    for client in clients:
        client.hang_up()


async def test_attach_continues_from_the_upgrade_with_the_frames_after_it(start: Any) -> None:
    _, client = await start()
    assert (await client.ask(get("/"))).body == b"mine"
    await client.open("/room", then=text("early"))
    await client.send(text("later"))
    assert await client.frames(2) == [seen_text("early"), seen_text("later")]


REFUSALS: dict[str, tuple[dict[str, Any], list[str], int]] = {
    "a foreign page": ({}, ["Origin: https://evil.example"], 403),
    "the application's no": ({"authenticate": lambda _: Response(401, "who?\n")}, [], 401),
    "the application's own answer": ({"process_request": lambda _: Response(503, "later\n")}, [], 503),
    "an answer that isn't text": ({"process_request": lambda _: Response(503, b"\x1f\x8b\xff")}, [], 503),
}


@pytest.mark.parametrize(("options", "lines", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_reaches_both_sides(start: Any, options: dict[str, Any], lines: list[str], status: int) -> None:
    server, client = await start(**options)
    answer = await client.ask(upgrade("/", *lines))
    assert answer.status == status
    await client.assert_end()
    client.hang_up()
    while not server.refusals:
        await trio.lowlevel.checkpoint()
    assert server.refusals[0].response.status == status
    assert str(server.refusals[0]).startswith(f"the handshake was refused with {status}: ")


async def test_a_bad_handshake_is_refused_by_name(start: Any) -> None:
    server, client = await start()
    answer = await client.ask(upgrade("/").replace(b"Version: 13", b"Version: 8"))
    assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")
    await client.assert_end()
    client.hang_up()
    while not server.refusals:
        await trio.lowlevel.checkpoint()


async def test_subprotocols_and_compression_are_agreed_on(start: Any) -> None:
    _, client = await start(subprotocols=["a"])
    lines = ("Sec-WebSocket-Protocol: b, a", "Sec-WebSocket-Extensions: permessage-deflate")
    answer = await client.ask(upgrade("/", *lines))
    assert answer.headers["sec-websocket-protocol"] == "a"
    assert answer.headers["sec-websocket-extensions"].startswith("permessage-deflate")


# Other streams, and requests that something else has parsed


def parsed(lines: bytes = upgrade("/room?x=1")) -> Request:
    first, *rest = lines.decode().strip().split("\r\n")
    method, target, _ = first.split()
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in rest)]
    return Request(method, target, "1.1", rawws.Headers(fields))


async def echo(stream: Any, trailing_data: bytes = b"") -> None:
    async with rawws.attach(stream, parsed(), trailing_data=trailing_data) as ws:
        assert (ws.path, ws.request.query) == ("/room", "x=1")
        async for message in ws:
            await ws.send(message)


@pytest.mark.parametrize("blocking", [True, False])
async def test_attach_takes_a_raw_socket_and_a_parsed_request(nursery: trio.Nursery, blocking: bool) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(blocking)
    nursery.start_soon(echo, ours, text("early"))
    client = Client(theirs)
    assert (await client.answer()).status == 101
    assert await client.frame() == seen_text("early")
    await client.send(text("later"))
    assert await client.frame() == seen_text("later")
    client.hang_up()


async def test_attach_takes_a_stream_that_has_no_socket(nursery: trio.Nursery) -> None:
    ours, theirs = memory_stream_pair()
    nursery.start_soon(echo, ours)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await theirs.receive_some()
    assert head.startswith(b"HTTP/1.1 101 ")
    await theirs.send_all(text("hello"))
    assert await theirs.receive_some() == b"\x81\x05hello"
    await theirs.send_all(b"\x88\x80\x00\x00\x00\x00")
    received = b""
    while data := await theirs.receive_some():
        received += data
    assert received == b"\x88\x00"


async def test_an_error_of_any_stream_is_raised_unchanged(autojump_clock: MockClock) -> None:  # noqa: ARG001
    ours, theirs = memory_stream_pair()
    with pytest.raises(rawws.HandshakeRefused, match="403"):
        async with rawws.attach(ours, parsed(upgrade("/", "Origin: https://evil.example"))):
            pass
    assert (await theirs.receive_some()).startswith(b"HTTP/1.1 403 ")
    ours, theirs = memory_stream_pair()
    with pytest.raises(ZeroDivisionError):
        async with rawws.attach(ours, parsed(), close_timeout=0.01):
            raise ZeroDivisionError


class BreaksWhenSending(trio.abc.Stream):
    """A stream that accepts no more than the 101, and has received a close."""

    def __init__(self) -> None:
        self._incoming = [close(1009, "too big")]
        self._failed = trio.Event()
        self._closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not bytes(data).endswith(b"\r\n\r\n"):
            self._failed.set()
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._failed.wait()
        await trio.sleep(0.01)
        if self._closed.is_set():
            raise trio.ClosedResourceError
        return self._incoming.pop() if self._incoming else b""

    async def aclose(self) -> None:
        self._closed.set()
        await trio.lowlevel.checkpoint()


async def test_a_close_that_came_before_a_stream_broke_is_found() -> None:
    with trio.fail_after(PATIENCE_S):
        async with rawws.attach(BreaksWhenSending(), parsed()) as ws:
            await ws.send("too large")
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1009, "too big")


async def test_attach_takes_a_tls_stream(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    serving, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(trusting)
    server = OwnServer()
    (listener,) = await nursery.start(
        partial(trio.serve_ssl_over_tcp, server.serve_client, 0, serving, host=LOOPBACK, https_compatible=True)
    )
    port = listener.transport_listener.socket.getsockname()[1]
    async with rawws.connect(f"wss://localhost:{port}/", ssl=trusting, proxy=None) as ws:
        for message in ("hello", b"x" * 300_000):
            await ws.send(message)
            assert await ws.recv() == message
    assert ws.close_code == 1000


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [(None, 1000, rawws.Cause.OUR_CLOSE), (ZeroDivisionError, 1011, rawws.Cause.ERROR)],
)
async def test_leaving_the_block_closes_the_connection_and_the_stream(
    nursery: trio.Nursery, error: type[Exception] | None, code: int, cause: rawws.Cause
) -> None:
    ours, theirs = socket.socketpair()
    attached: list[rawws.WebSocket] = []

    async def leave() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with rawws.attach(ours, parsed()) as ws:
                attached.append(ws)
                if error is not None:
                    raise error

    nursery.start_soon(leave)
    client = Client(theirs)
    assert (await client.answer()).status == 101
    assert await client.frame() == seen_close(code)
    await client.send(close(code))
    await client.assert_end()
    client.hang_up()
    assert attached[0].closed is not None
    assert attached[0].closed.cause is cause


async def test_bytes_beyond_ascii_in_a_header_are_no_fault(nursery: trio.Nursery) -> None:
    ours, theirs = socket.socketpair()
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(upgrade("/room?x=1").replace(b"\r\n\r\n", b"\r\nX: caf\xe9\r\n\r\n"))
    request = connection.next_event()
    assert isinstance(request, h11.Request)

    async def serve_client() -> None:
        async with rawws.attach(ours, request) as ws:
            await ws.send(ws.request.headers["X"])

    nursery.start_soon(serve_client)
    client = Client(theirs)
    assert (await client.answer()).status == 101
    assert await client.frame() == seen_text("café")
    await client.send(close(1000))
    client.hang_up()


@pytest.mark.parametrize("value", ["\u2603", "a\nb"])
async def test_a_head_that_no_client_can_send_is_a_usage_error_and_the_socket_is_closed(value: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(rawws.UsageError, match="can't have been read from a client"):
            async with rawws.attach(ours, Request("GET", "/", "1.1", rawws.Headers([("Host", "h"), ("X", value)]))):
                pass
        assert ours.fileno() == -1


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "trailing data twice": ({"connection": h11.Connection(h11.SERVER), "trailing_data": b"x"}, "leave trailing_data"),
    "compression": ({"compression": "zstd"}, "there is no compression 'zstd'"),
    "a limit": ({"max_size": -1}, "max_size can't be -1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
@pytest.mark.parametrize("kind", ["socket", "socket stream", "stream"])
async def test_invalid_arguments_are_one_sentence_and_the_stream_is_closed(
    kind: str, arguments: dict[str, Any], message: str
) -> None:
    stream: trio.abc.Stream | socket.socket
    other: trio.abc.Stream
    if kind == "stream":
        stream, other = memory_stream_pair()
    else:
        ours, theirs = trio.socket.socketpair()
        stream, other = trio.SocketStream(ours), trio.SocketStream(theirs)
        if kind == "socket":
            stream = socket.socket(fileno=ours.detach())
    async with other:
        with pytest.raises(rawws.UsageError, match=message):
            async with rawws.attach(stream, parsed(), **arguments):
                pass
        with trio.fail_after(PATIENCE_S):
            assert await other.receive_some() == b"", "the end, and nothing before it"
