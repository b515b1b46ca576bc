"""Moving bytes: one non-blocking socket.

trio's own ``SocketStream`` isn't used, because the broadcast loop needs to send to a thousand sockets in one go
without a checkpoint for each. A transport does by hand what a ``SocketStream`` does for its users: it tells waiters
before it closes the socket. TCP_NODELAY is set on listeners, for their connections, and where a client connects.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence

import trio

from rawws.net.addresses import format_address, plain_address

# The most bytes of one receive: what the kernel typically has, without a large allocation.
RECEIVE_BYTES = 64 * 1024
# The same for a peer whose last receive was full.
MORE_RECEIVE_BYTES = 4 * RECEIVE_BYTES

# POSIX guarantees 16 (IOV_MAX); Linux and macOS take 1,024 in one call.
MAX_PIECES = 1024


_second = 0


def _present_second() -> int:
    """Return the Unix time in whole seconds. All connections of one second share the object, to save memory."""
    global _second
    now = int(time.time())
    if now != _second:
        _second = now
    return _second


class Transport:
    """A connected, non-blocking stream socket, which it owns: closing the transport closes the socket."""

    __slots__ = ("_socket", "_was_waited_for", "connected_at", "needs_flush", "receive_now", "send_now")

    # Whether `do_handshake` is to be awaited before the first byte of data.
    has_handshake = False
    # Bytes have been read off the socket, and no poller reports them any more.
    has_pending = False
    # How many bytes of the data that could not be sent have to be the first bytes of the next send.
    committed_bytes = 0
    # TLS has bytes to send that the kernel has not taken yet; see `try_flush`.
    has_unsent = False
    # Nothing can be sent before more bytes have come, even if the socket is writable.
    reads_first = False
    # The bytes of memory that the transport takes besides the socket: TLS itself, received data that nobody has taken,
    # and bytes that have to be sent.
    held_bytes = 0

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.connected_at = _present_second()  # Unix time
        self._was_waited_for = False
        # A receive has changed what can be sent: TLS has answered by itself, or got the bytes that it was waiting for.
        self.needs_flush = False
        # The socket's own methods, for callers with a hundred thousand calls a second. They raise BlockingIOError
        # where the try_ methods return that nothing was done.
        self.receive_now: Callable[[int], bytes] = connected.recv
        self.send_now: Callable[[bytes | bytearray | memoryview], int] = connected.send

    @property
    def peer_name(self) -> str:
        try:
            return format_address(self._socket.getpeername())
        except OSError:
            return "a peer that has gone"

    @property
    def remote_address(self) -> tuple[str, int] | None:
        """The other end's host and port; None on a Unix socket, or when it has gone."""
        try:
            address = self._socket.getpeername()
        except OSError:
            return None
        return plain_address(address) if isinstance(address, tuple) else None

    @property
    def local_address(self) -> tuple[str, int | None] | None:
        """Our end: host and port, or a Unix socket's path and None."""
        try:
            address = self._socket.getsockname()
        except OSError:
            return None
        return (address, None) if isinstance(address, str) else plain_address(address)

    def fileno(self) -> int:
        """Return the descriptor, or -1 once closed."""
        return self._socket.fileno()

    def try_receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes | None:
        """Return bytes that are here now, empty at the end of the stream, or None if there are none yet.

        Raises OSError when the connection is lost.
        """
        try:
            return self.receive_now(max_bytes)
        except BlockingIOError:
            return None

    def has_ended(self) -> bool:
        """Say whether the other end has closed its side or the connection is lost, if nothing is to be read before.

        Nothing is read. Through TLS, an end is seen when the bytes before it have been read.
        """
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def is_reset(self) -> bool:
        """Say whether the other end has reset the connection since this was asked: it had closed it before it read all.

        Where the other end had closed its side before, receiving doesn't tell.
        """
        return bool(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def try_receive_into(self, buffer: memoryview) -> int | None:
        """The same into a buffer; returns how many bytes there were."""
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Hand the kernel what it takes now and return how many bytes that was, perhaps 0.

        Raises OSError when the connection is lost.
        """
        try:
            return self.send_now(data)
        except BlockingIOError:
            return 0

    def try_send_pieces(self, pieces: Sequence[bytes | bytearray]) -> int:
        """Hand the kernel what it takes now of several pieces, one after the other, without joining them."""
        try:
            return self._socket.sendmsg(pieces[:MAX_PIECES])
        except BlockingIOError:
            return 0

    async def do_handshake(self) -> None:
        """Complete what comes before the first byte of data. After a cancellation, only closing is left."""

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next bytes, empty at the end of the stream. Cancelling loses none.

        Other tasks run in any case; otherwise a peer that never stops sending would never let them.
        """
        if (data := self.try_receive(max_bytes)) is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        while data is None:
            if self.has_pending:
                await trio.lowlevel.checkpoint()
            else:
                self._was_waited_for = True
                await trio.lowlevel.wait_readable(self._socket)
            data = self.try_receive(max_bytes)
        return data

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. After a cancellation, part of it may have gone out, and only closing is left."""
        rest = memoryview(data)
        while rest:
            if sent := self.try_send(rest):
                rest = rest[sent:]
            else:
                await self._wait_to_send()

    async def _wait_to_send(self) -> None:
        self._was_waited_for = True
        await trio.lowlevel.wait_writable(self._socket)

    def try_flush(self) -> bool:
        """Send what TLS has for the peer, and return whether all of it was sent.

        Raises OSError when the connection is lost.
        """
        return True

    def shutdown_write(self) -> None:
        """Tell the peer that nothing follows (a FIN); it may still send."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def send_eof(self) -> None:
        """Tell the peer that nothing follows, and wait until that has gone out.

        Raises OSError when the connection is lost.
        """
        self.shutdown_write()

    async def linger(self) -> None:
        """End our side of the stream and wait for the peer to end its own; the data that it still sends is dropped.

        Closing while unread bytes are there makes the kernel send a reset, which can overtake our last bytes on their
        way (RFC 9112 §9.6). The caller limits the time.
        """
        self.shutdown_write()
        with contextlib.suppress(OSError):
            while await self.receive():
                await trio.lowlevel.checkpoint_if_cancelled()

    def detach(self) -> socket.socket:
        """Return the socket itself, which the caller owns from now on; the transport can't be used any more.

        With TLS, data that was received and not taken is lost, and so is data that was not sent yet.
        """
        if self._was_waited_for:
            trio.lowlevel.notify_closing(self._socket)
        return socket.socket(fileno=self._socket.detach())

    def reset(self) -> None:
        """Close the socket with a reset (RST), which the peer takes for a lost connection; unsent data is dropped."""
        with contextlib.suppress(OSError):  # of one that has gone
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket; tasks that wait for it wake with ``trio.ClosedResourceError``. Harmless twice."""
        if self._socket.fileno() >= 0:
            if self._was_waited_for:  # otherwise trio doesn't know the socket, and the call costs 5 µs
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
