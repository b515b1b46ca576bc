"""Connections to a node, byte by byte: HTTP, events, and WebSockets with ids. Their content is not checked.

They are written by hand, as ``benchmarks.wire`` is: a fault of rawws's own client can't hide a fault of the server.
They can also be cut at any place, which a well-made client does not allow.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
from types import TracebackType
from typing import Any, NamedTuple

import trio

from benchmarks import wire
from benchmarks.servers import HOST

SUBPROTOCOL = "rawws.id.v1"
RECEIVE_BYTES = 64 * 1024
DRAIN_BUFFER_BYTES = 4 * 2**20
_NO_LINGER = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The server has ended the connection; ``code`` is that of its close frame, if there was one."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Refused(Exception):
    """A refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class Item(NamedTuple):
    """A message as it arrived."""

    message_id: str
    payload: bytes
    is_text: bool


class Line:
    """A TCP connection to a node."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._buffer = bytearray()
        self._at = 0  # bytes before this position in the buffer have been read
        self._as_json = False  # events, in the form of ?json
        self.received_bytes = 0
        self.received_at = trio.current_time()

    @classmethod
    async def open(cls, port: int, receive_buffer: int = 0) -> Line:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await sock.connect((HOST, port))
        except BaseException:
            sock.close()
            raise
        return cls(trio.SocketStream(sock))

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.reset()

    def hang_up(self) -> None:
        """Close with FIN, possibly in the middle of a message."""
        self._stream.socket.close()

    def reset(self) -> None:
        """Close with RST, if it isn't closed: data under way in either direction is lost."""
        if self._stream.socket.fileno() >= 0:
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._stream.socket.close()

    async def send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise Cut(f"the connection broke: {error.__cause__}") from None

    async def receive(self) -> None:
        """Wait for more in the buffer. Raises `Cut` at the end of the connection."""
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError as error:
            raise Cut(f"the connection broke: {error.__cause__}") from None
        if not data:
            raise Cut("the connection ended")
        self.received_bytes += len(data)
        self.received_at = trio.current_time()
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    async def up_to(self, end: bytes) -> bytes:
        """Return the bytes before the next ``end``."""
        searched = 0
        while (found := self._buffer.find(end, self._at + searched)) < 0:
            searched = max(0, len(self._buffer) - self._at - len(end) + 1)
            await self.receive()
        data = bytes(self._buffer[self._at : found])
        self._at = found + len(end)
        return data

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) - self._at < count:
            await self.receive()
        data = bytes(self._buffer[self._at : self._at + count])
        self._at += count
        return data

    async def drain(self) -> None:
        """Read to the end and drop the data, in larger reads than before."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DRAIN_BUFFER_BYTES)
        with contextlib.suppress(Cut):
            while True:
                self._at = len(self._buffer)
                await self.receive()

    # HTTP

    async def ask(self, head: str, body: bytes = b"") -> Any:
        """Send a request and return its answer's JSON, or text. Raises `Refused` for any but 200 and 202."""
        status, fields, raw = await self.exchange(head, body)
        answer = raw.decode()
        if status not in (200, 202):
            raise Refused(status, answer.strip())
        return json.loads(answer) if fields["content-type"].startswith("application/json") else answer

    async def exchange(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send a request and return its answer: the status, the fields by their name in lower case, and the body."""
        await self.send(f"{head}\r\nHost: {HOST}\r\n\r\n".encode() + body)
        status, fields = await self.head()
        return status, fields, await self.exactly(int(fields.get("content-length", 0)))

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.up_to(wire.END_OF_HEADERS)).decode().split("\r\n")
        fields = (line.partition(":") for line in lines[1:])
        return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}

    async def _refuse(self, status: int, fields: dict[str, str]) -> None:
        raise Refused(status, (await self.exactly(int(fields.get("content-length", 0)))).decode().strip())

    # Server-Sent Events

    async def listen(self, path: str, since: str, *, as_json: bool = False) -> None:
        """Ask for a room's messages as events, whose data may be JSON."""
        self._as_json = as_json
        path += "?json" * as_json
        last = f"Last-Event-ID: {since}\r\n" if since else ""
        await self.send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n{last}\r\n".encode())
        status, fields = await self.head()
        if status != 200:
            await self._refuse(status, fields)

    async def event(self) -> Item:
        """Return the next event; a control has an empty id, and the payload that a WebSocket gets for it."""
        while True:
            kind, message_id, data = "message", "", list[bytes]()
            for line in (await self.up_to(b"\n\n")).split(b"\n"):
                name, _, value = line.partition(b": ")
                if name == b"id":
                    message_id = value.decode()
                elif name == b"event":
                    kind = value.decode()
                elif name == b"data":
                    data.append(value)
            payload = b"\n".join(data)
            if kind == "binary":
                return Item(message_id, base64.b64decode(payload), False)
            if kind != "message":
                return Item("", json.dumps({kind: json.loads(payload)}).encode(), True)
            if data and self._as_json:
                members = json.loads(payload)
                is_text = "text" in members
                return Item(
                    members["id"], members["text"].encode() if is_text else base64.b64decode(members["base64"]), is_text
                )
            if data:
                return Item(message_id, payload, True)
            if message_id:
                return Item("", json.dumps({"at": message_id}).encode(), True)

    # WebSocket

    async def upgrade(self, port: int, path: str) -> None:
        key = wire.new_key()
        await self.send(wire.upgrade_request(port, key, path=path, subprotocol=SUBPROTOCOL))
        status, fields = await self.head()
        if status != 101:
            await self._refuse(status, fields)
        if fields["sec-websocket-accept"].encode() != wire.accept_value(key):
            raise Refused(status, "another accept value")

    async def message(self) -> Item:
        """Return the next message; a control has an empty id. Raises `Cut` at a close."""
        head, line, rest, is_text = await self.message_with_head()
        message_id = head.get("id", "")
        return Item(message_id, rest if message_id else line, is_text)

    async def message_with_head(self) -> tuple[dict[str, Any], bytes, bytes, bool]:
        """Return the next message: its first line, as an object and in bytes, the rest, and whether it is text."""
        while True:
            opcode, payload = await self._frame()
            if opcode == wire.PING:
                await self.send(wire.client_frame(payload, wire.FIN | wire.PONG))
            elif opcode == wire.CLOSE:
                raise Cut(f"closed with {payload[2:].decode()!r}", int.from_bytes(payload[:2], "big"))
            else:
                line, _, rest = payload.partition(b"\n")
                return json.loads(line), line, rest, opcode == wire.TEXT

    async def _frame(self) -> tuple[int, bytes]:
        while (bounds := wire.frame_end(self._buffer, self._at, len(self._buffer))) is None:
            await self.receive()
        opcode = self._buffer[self._at] & wire.OPCODE
        self._at = bounds[1]
        return opcode, bytes(self._buffer[bounds[0] : bounds[1]])


def post_head(path: str, size: int, *, is_text: bool, once: str, key: str = "") -> str:
    kind = "text/plain" if is_text else "application/octet-stream"
    fields = f"Content-Type: {kind}\r\nContent-Length: {size}\r\nIdempotency-Key: {once}"
    fields += f"\r\nRawws-Key: {key}" * bool(key)
    return f"POST {path} HTTP/1.1\r\n{fields}"


def item_of(members: dict[str, str]) -> Item:
    """Return a message from its entry in the answer to a poll."""
    if "base64" in members:
        return Item(members["id"], base64.b64decode(members["base64"]), False)
    return Item(members["id"], members["text"].encode(), True)
