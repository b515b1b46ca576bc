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
from rawws.net.transport import Transport
from rawws.options import CONNECTION, ConnectionOptions
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.runtime import check_runs_on_trio
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
        self,
        path: str,
        headers: FieldsLike | None,
        subprotocols: Sequence[str] | None,
        options: ConnectionOptions,
    ) -> None:
        if not isinstance(path, str):
            raise UsageError(f"path can't be {path!r}; give a text that begins with a slash, such as /room")
        self._options = options
        self._limits = options.to_limits()
        compresses = options.compression is not None
        headers, subprotocols = headers or (), subprotocols or ()
        uri = parse_uri(f"ws://server.test{path}")
        client = ClientHandshake(uri, headers=headers, subprotocols=subprotocols, compression=compresses)
        server = examine(client.request, Origins(["*"]), compression=compresses)
        assert server.accept is not None, server.refusal
        self.request = client.request
        self.response = server.response
        self.agreement = {Role.CLIENT: client.examine(server.response).deflate, Role.SERVER: server.deflate}
        self.subprotocol = next(iter(subprotocols), None)

    def open(self, connected: socket.socket, role: Role) -> WebSocket:
        return WebSocket(
            Transport(connected),
            role,
            number=next(current_loop().numbers),
            endpoint=PeerGroup(self._limits),
            request=self.request,
            response=self.response,
            subprotocol=self.subprotocol,
            agreement=self.agreement[role],
            remote_address=f"the {role.other.label} of a pair",
            fast_lane=self._options.fast_lane,
        )


@contextlib.asynccontextmanager
async def open_pair(
    path: str = "/",
    *,
    headers: FieldsLike | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: str | None = CONNECTION.compression,
    ping_interval: float | None = None,
    ping_timeout: float | None = CONNECTION.ping_timeout,
    close_timeout: float | None = CONNECTION.close_timeout,
    max_size: int | None = CONNECTION.max_size,
    max_queue: int | None = CONNECTION.max_queue,
    fast_lane: bool = CONNECTION.fast_lane,
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Open both ends of one connection: ``async with open_pair() as (client, server):``. Both are closed at the end.

    Arguments are those of `rawws.connect`; pings are off unless asked for.
    """
    check_runs_on_trio("open_pair")
    options = ConnectionOptions(
        compression=compression,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
        max_size=max_size,
        max_queue=max_queue,
        fast_lane=fast_lane,
    )
    handshake = _Handshake(path, headers, subprotocols, options)
    theirs, ours = socket.socketpair()
    client = handshake.open(theirs, Role.CLIENT)
    server = handshake.open(ours, Role.SERVER)
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
    compression: str | None = CONNECTION.compression,
    ping_interval: float | None = None,
    ping_timeout: float | None = CONNECTION.ping_timeout,
    close_timeout: float | None = CONNECTION.close_timeout,
    max_size: int | None = CONNECTION.max_size,
    max_queue: int | None = CONNECTION.max_queue,
    fast_lane: bool = CONNECTION.fast_lane,
    send_buffer: int | None = None,
) -> AsyncIterator[tuple[RawPeer, WebSocket]]:
    """Open a connection between a raw peer and a WebSocket: ``async with open_raw() as (peer, ws):``.

    ``role`` is the raw peer's; ``ws`` has the other one. ``send_buffer`` is about the number of bytes that ``ws`` can
    send before the peer reads.
    """
    check_runs_on_trio("open_raw")
    if not isinstance(role, Role):
        raise UsageError(f"role can't be {role!r}; give Role.CLIENT or Role.SERVER")
    options = ConnectionOptions(
        compression=compression,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
        max_size=max_size,
        max_queue=max_queue,
        fast_lane=fast_lane,
    )
    handshake = _Handshake(path, headers, subprotocols, options)
    theirs, ours = socket.socketpair()
    if send_buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    websocket = handshake.open(ours, role.other)
    peer = RawPeer(theirs, role)
    try:
        yield peer, websocket
    finally:
        peer.hang_up()
        await websocket.aclose()


@dataclass(frozen=True)
class ReceivedFrame:
    """A received frame, with its payload unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


class RawPeer:
    """One end of a connection that sends any bytes, and returns the received frames."""

    def __init__(self, connected: socket.socket, role: Role = Role.CLIENT) -> None:
        """The peer owns the socket from now on. The handshake is done, or the caller sends it."""
        connected.setblocking(False)
        self.role = role
        self._socket = trio.socket.from_stdlib_socket(connected)
        self._unread = bytearray()

    # Sending

    async def send_bytes(self, data: bytes) -> None:
        """Send any bytes."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._socket.send(rest) :]

    async def send_frame(
        self, opcode: int, payload: Data = b"", *, fin: bool = True, rsv: int = 0, masked: bool | None = None
    ) -> None:
        """Send a frame, legal or not. It is masked if the role is the client's, unless ``masked`` says otherwise."""
        if masked is None:
            masked = self.role is Role.CLIENT
        key = os.urandom(4) if masked else None
        await self.send_bytes(encode_frame(opcode, bytes(as_message(payload)[1]), fin=fin, rsv=rsv, mask_key=key))

    async def send_close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close with any code, legal or not."""
        await self.send_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def end_stream(self) -> None:
        """End this side of the stream; reading is still possible."""
        self._socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Close the socket at once. A second call does nothing."""
        self._socket.close()

    # Receiving

    async def receive_bytes(self, size: int) -> bytes:
        """Return ``size`` bytes. Raises AssertionError if the stream ends before."""
        while len(self._unread) < size:
            data = await self._socket.recv(1 << 16)
            assert data, f"the stream ended, with {len(self._unread)} of {size} bytes"
            self._unread += data
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    async def receive_frame(self) -> ReceivedFrame:
        """Return the next frame. Raises AssertionError if the stream ends before."""
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
        """Receive the next frame, which must be this one: whole, and masked if the other role is the client's."""
        got = await self.receive_frame()
        expected = ReceivedFrame(opcode, bytes(as_message(payload)[1]), masked=self.role is Role.SERVER)
        assert got == expected, f"got {got}, not {expected}"

    async def expect_close(self, code: int, reason: str | None = None) -> None:
        """Receive the next frame, which must be a close with this code, and with this reason unless that is None."""
        got = await self.receive_frame()
        assert got.opcode == Opcode.CLOSE, f"got {got}, not a close with {code}"
        found = int.from_bytes(got.payload[:2], "big") if got.payload else 1005
        assert found == code, f"got a close with {found} {got.payload[2:]!r}, not {code}"
        assert reason is None or got.payload[2:].decode() == reason, f"got the reason {got.payload[2:]!r}"

    async def expect_end(self) -> None:
        """Wait for the end of the stream, which must come next."""
        rest = bytes(self._unread) + await self._socket.recv(1 << 16)
        assert not rest, f"got {rest!r}, not the end of the stream"
