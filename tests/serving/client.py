"""A raw client: it sends any bytes, right or wrong, and owns its socket."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio
import trio.testing

from rawws.wire.frames import Opcode, parse_header
from tests.serving.machine import LOOPBACK
from tests.serving.wire import ACCEPT, Seen, upgrade


@dataclass(frozen=True)
class Answer:
    """An HTTP response. ``headers`` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Sends any bytes, right or wrong, and returns the received ones. It owns its socket."""

    def __init__(self, stdlib_socket: socket.socket) -> None:
        stdlib_socket.setblocking(False)
        self.stdlib_socket = stdlib_socket
        self._socket = trio.socket.from_stdlib_socket(stdlib_socket)
        self._unread = bytearray()

    @classmethod
    def unconnected(cls) -> Client:
        return cls(socket.socket())

    async def connect(self, port: int) -> Client:
        await self._socket.connect((LOOPBACK, port))
        return self

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[await self._socket.send(rest) :]

    async def send_in_pieces(self, data: bytes, *, at: Sequence[int]) -> None:
        """Send data cut at these positions, so that the server most likely gets each piece in a read of its own."""
        for start, end in zip([0, *at], [*at, len(data)], strict=True):
            await self.send(data[start:end])
            await trio.testing.wait_all_tasks_blocked()

    async def _receive_more(self) -> bool:
        data = await self._socket.recv(1 << 16)
        self._unread += data
        return bool(data)

    async def take_some(self) -> bytes:
        """Return the bytes that are there, or come next; empty at the end."""
        if not self._unread:
            await self._receive_more()
        return self._take(len(self._unread))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    async def answer(self, *, body: bool = True) -> Answer:
        """Return the next response; ``body=False`` for an answer to HEAD, which declares a length but has no body."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            assert await self._receive_more(), f"the stream ends inside a response: {bytes(self._unread)!r}"
        status_line, *lines = self._take(end + 4)[:-4].decode("ascii").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        if body and headers.get("transfer-encoding") == "chunked":
            return Answer(int(status), headers, await self._chunks())
        return Answer(int(status), headers, await self._exactly(int(headers.get("content-length", 0)) if body else 0))

    async def _exactly(self, length: int) -> bytes:
        while len(self._unread) < length:
            assert await self._receive_more(), "the stream ends inside a body"
        return self._take(length)

    async def _chunks(self) -> bytes:
        """Return a chunked body (RFC 9112 §7.1)."""
        pieces: list[bytes] = []
        while not pieces or pieces[-1]:
            while (end := self._unread.find(b"\r\n")) < 0:
                assert await self._receive_more(), "the stream ends inside a body"
            size = int(self._take(end + 2), 16)
            pieces.append((await self._exactly(size + 2))[:-2])
        return b"".join(pieces)

    async def ask(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.answer(body=not request.startswith(b"HEAD "))

    async def open(self, path: str = "/", *lines: str, then: bytes = b"") -> Client:
        """Become a WebSocket; ``then`` is sent in one segment with the handshake."""
        await self.send(upgrade(path, *lines) + then)
        answer = await self.answer()
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-accept"] == ACCEPT.decode()
        return self

    async def frame(self) -> Seen:
        """Return the next frame. Fail the test if there is none, or if a server may not send it."""
        while (header := parse_header(self._unread)) is None:
            assert await self._receive_more(), f"the stream ends where a frame was due: {bytes(self._unread)!r}"
        size = len(header.raw) + header.payload_bytes
        while len(self._unread) < size:
            assert await self._receive_more(), "the stream ends inside a frame"
        assert (header.fin, header.rsv1, header.rsv2, header.rsv3) == (True, False, False, False)
        assert header.mask_key is None, "§5.1: a server must not mask"
        return Seen(Opcode(header.opcode), self._take(size)[len(header.raw) :])

    async def frames(self, count: int) -> list[Seen]:
        return [await self.frame() for _ in range(count)]

    async def frames_to_close(self) -> list[Seen]:
        """Return every frame up to the server's close, including it."""
        frames = [await self.frame()]
        while frames[-1].opcode is not Opcode.CLOSE:
            frames.append(await self.frame())
        return frames

    async def assert_end(self) -> None:
        """Assert that the server has ended the stream in order, and that everything has been read."""
        rest = bytes(self._unread) + await self._socket.recv(1 << 16)
        assert rest == b""

    async def wait_lost(self) -> None:
        """Wait until the connection has ended in any way."""
        with contextlib.suppress(ConnectionError):
            while await self._receive_more():
                pass

    def try_send(self, data: bytes | memoryview) -> int:
        """Send as much as the kernel takes now, possibly nothing."""
        try:
            return self.stdlib_socket.send(data)
        except BlockingIOError:
            return 0

    def end_stream(self) -> None:
        """Send a FIN, and still be able to read."""
        self._socket.shutdown(trio.socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with a reset (RST) instead of a FIN."""
        self._socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def hang_up(self) -> None:
        self._socket.close()


class HangsUp(Protocol):
    def hang_up(self) -> None: ...
