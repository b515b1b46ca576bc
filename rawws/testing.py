"""Helpers for tests of programs that use rawws: a connected pair, and a peer that sends any bytes.

Both ends are real: real handshakes, real frames, on a pair of sockets inside the process. Nothing here needs a
port, and all of it works with trio's mock clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import trio

from rawws.errors import UsageError
from rawws.limits import MIB, NO_LIMIT, Limits
from rawws.loop import current_loop
from rawws.peer import Endpoint
from rawws.runtime import check_runs_on_trio
from rawws.transport import Transport
from rawws.websocket import WebSocket
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.events import Data, as_message
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.handshake import examine
from rawws.wire.masking import apply_mask
from rawws.wire.messages import FieldsLike
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.uri import parse_uri

__all__ = ["Opcode", "RawPeer", "ReceivedFrame", "Role", "open_pair", "open_raw"]


class _Handshake:
    """Both sides of a handshake, without a connection."""

    def __init__(
        self, path: str, headers: FieldsLike | None, subprotocols: Sequence[str] | None, compression: str | None
    ) -> None:
        if not isinstance(path, str):
            raise UsageError(f"path can't be {path!r}; give a text that begins with a slash, such as /room")
        compresses = compression is not None
        headers, subprotocols = headers or (), subprotocols or ()
        uri = parse_uri(f"ws://server.test{path}")
        client = ClientHandshake(uri, headers=headers, subprotocols=subprotocols, compression=compresses)
        server = examine(client.request, Origins(["*"]), compression=compresses)
        assert server.accept is not None, server.refusal
        self.request = client.request
        self.response = server.response
        self.agreement = {Role.CLIENT: client.examine(server.response).deflate, Role.SERVER: server.deflate}
        self.subprotocol = next(iter(subprotocols), None)

    def open(self, connected: socket.socket, role: Role, limits: Limits, *, fast_lane: bool) -> WebSocket:
        return WebSocket(
            Transport(connected),
            role,
            number=next(current_loop().numbers),
            endpoint=Endpoint(limits),
            request=self.request,
            response=self.response,
            subprotocol=self.subprotocol,
            agreement=self.agreement[role],
            remote_address=f"the {role.other.label} of a pair",
            fast_lane=fast_lane,
        )


def _limits(
    ping_interval: float | None,
    ping_timeout: float | None,
    close_timeout: float | None,
    max_size: int | None,
    max_queue: int | None,
) -> Limits:
    return Limits(
        max_message_bytes=NO_LIMIT if max_size is None else max_size,
        max_queue=NO_LIMIT if max_queue is None else max_queue,
        ping_interval_s=ping_interval or 0.0,
        ping_timeout_s=ping_timeout or 0.0,
        close_timeout_s=close_timeout or 0.0,
    )


@contextlib.asynccontextmanager
async def open_pair(
    path: str = "/",
    *,
    headers: FieldsLike | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: str | None = "deflate",
    ping_interval: float | None = None,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: int | None = MIB,
    max_queue: int | None = 16,
    fast_lane: bool = True,
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Open two ends of one connection: ``async with open_pair() as (client, server):``, both closed at the end.

    Arguments are those of `rawws.connect`; pings are off unless asked for.
    """
    check_runs_on_trio("open_pair")
    limits = _limits(ping_interval, ping_timeout, close_timeout, max_size, max_queue)
    handshake = _Handshake(path, headers, subprotocols, compression)
    theirs, ours = socket.socketpair()
    client = handshake.open(theirs, Role.CLIENT, limits, fast_lane=fast_lane)
    server = handshake.open(ours, Role.SERVER, limits, fast_lane=fast_lane)
    try:
        yield client, server
    finally:
        server.begin_close()
        await client.aclose()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def open_raw(
    role: Role = Role.CLIENT,
    path: str = "/",
    *,
    headers: FieldsLike | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: str | None = "deflate",
    ping_interval: float | None = None,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: int | None = MIB,
    max_queue: int | None = 16,
    fast_lane: bool = True,
    send_buffer: int | None = None,
) -> AsyncIterator[tuple[RawPeer, WebSocket]]:
    """Open a connection of which one end is in your hand: ``async with open_raw() as (peer, ws):``.

    ``role`` is the raw peer's; ``ws`` has the other. ``send_buffer`` bounds, roughly, how many bytes ``ws`` can send
    before the peer reads.
    """
    check_runs_on_trio("open_raw")
    if not isinstance(role, Role):
        raise UsageError(f"role can't be {role!r}; give Role.CLIENT or Role.SERVER")
    limits = _limits(ping_interval, ping_timeout, close_timeout, max_size, max_queue)
    handshake = _Handshake(path, headers, subprotocols, compression)
    theirs, ours = socket.socketpair()
    if send_buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    websocket = handshake.open(ours, role.other, limits, fast_lane=fast_lane)
    peer = RawPeer(theirs, role)
    try:
        yield peer, websocket
    finally:
        peer.hang_up()
        await websocket.aclose()


@dataclass(frozen=True)
class ReceivedFrame:
    """A frame as it came, its payload with the mask taken off."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


class RawPeer:
    """One end of a connection that sends whatever it is told to, and shows what came back."""

    def __init__(self, connected: socket.socket, role: Role = Role.CLIENT) -> None:
        """The socket is ours from here on; the handshake is done, or is yours to send."""
        connected.setblocking(False)
        self.role = role
        self._socket = trio.socket.from_stdlib_socket(connected)
        self._unread = bytearray()

    # What it sends

    async def send_bytes(self, data: bytes) -> None:
        """Send any bytes."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._socket.send(rest) :]

    async def send_frame(
        self, opcode: int, payload: Data = b"", *, fin: bool = True, rsv: int = 0, masked: bool | None = None
    ) -> None:
        """Send a frame, legal or not; it is masked as the role has it, unless ``masked`` says otherwise."""
        if masked is None:
            masked = self.role is Role.CLIENT
        key = os.urandom(4) if masked else None
        await self.send_bytes(encode_frame(opcode, bytes(as_message(payload)[1]), fin=fin, rsv=rsv, mask_key=key))

    async def send_close(self, code: int = 1000, reason: str = "") -> None:
        await self.send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def end_stream(self) -> None:
        """End our side of the stream, and still be able to read."""
        self._socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Close the socket at once. Harmless twice."""
        self._socket.close()

    # What it gets

    async def receive_bytes(self, size: int) -> bytes:
        """Return so many bytes. Raises AssertionError when the stream ends before."""
        while len(self._unread) < size:
            data = await self._socket.recv(1 << 16)
            assert data, f"the stream ended, with {len(self._unread)} of {size} bytes"
            self._unread += data
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    async def receive_frame(self) -> ReceivedFrame:
        """Return the next frame. Raises AssertionError when the stream ends before it does."""
        while (header := parse_header(self._unread)) is None:
            data = await self._socket.recv(1 << 16)
            assert data, f"the stream ended where a frame was due: {bytes(self._unread)!r}"
            self._unread += data
        raw = await self.receive_bytes(len(header.raw) + header.payload_bytes)
        payload = raw[len(header.raw) :]
        if header.mask_key is not None:
            payload = apply_mask(payload, header.mask_key)
        rsv = header.raw[0] & 0b0111_0000
        return ReceivedFrame(header.opcode, payload, header.fin, rsv, header.mask_key is not None)

    async def expect_frame(self, opcode: int, payload: Data = b"") -> None:
        """Take the next frame, which has to be this one, whole and masked as the other role has it."""
        got = await self.receive_frame()
        expected = ReceivedFrame(opcode, bytes(as_message(payload)[1]), masked=self.role is Role.SERVER)
        assert got == expected, f"got {got}, not {expected}"

    async def expect_close(self, code: int, reason: str | None = None) -> None:
        """Take the next frame, which has to be a close with this code, and this reason unless that is None."""
        got = await self.receive_frame()
        assert got.opcode == Opcode.CLOSE, f"got {got}, not a close with {code}"
        found = int.from_bytes(got.payload[:2], "big") if got.payload else 1005
        assert found == code, f"got a close with {found} {got.payload[2:]!r}, not {code}"
        assert reason is None or got.payload[2:].decode() == reason, f"got the reason {got.payload[2:]!r}"

    async def expect_end(self) -> None:
        """Wait for the end of the stream, which has to come next."""
        rest = bytes(self._unread) + await self._socket.recv(1 << 16)
        assert not rest, f"got {rest!r}, not the end of the stream"
