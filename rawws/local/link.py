"""The bytes of a link, at both ends: read and written in batches, one system call for all that is there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import trio

from rawws.limits import KIB

# One call reads or writes about this much. The kernel takes more at a time than its usual 208 KiB.
CHUNK_BYTES = 256 * KIB
BUFFER_BYTES = 1024 * KIB
# A reader on another core may take a long history as quickly as it is made. After this much, others have their turn.
MOST_AT_ONCE_BYTES = 1024 * KIB


class Pipe:
    """A socket that doesn't block, whose other end may end at any time. Errors of the socket are its end."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._rest = memoryview(b"")
        self._something_to_send = trio.Event()
        self._is_full = False  # the kernel's buffer is
        self.is_shut = False

    @property
    def held_bytes(self) -> int:
        """The bytes that were taken and are not sent yet."""
        return len(self._rest)

    async def receive(self) -> bytes:
        """Wait for some bytes, and return them; none at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def send_now(self, take: Callable[[int], list[bytes]]) -> int:
        """Send what there is, as long as the kernel takes it and nobody waits for long; return the bytes sent.

        ``take`` returns the next pieces, about as many bytes as it is asked for. `send_rest` sends what is left.
        """
        sent = 0
        while sent < MOST_AT_ONCE_BYTES:
            if not self._rest:
                self._rest = memoryview(b"".join(take(CHUNK_BYTES)))
                if not self._rest:
                    return sent
            try:
                count = self._socket.send(self._rest)
            except BlockingIOError:
                self._is_full = True
                self._something_to_send.set()
                return sent
            except OSError:  # at its end, which the reader notices
                return sent
            self._rest = self._rest[count:]
            sent += count
        self._something_to_send.set()
        return sent

    def wake(self) -> None:
        """Have `send_rest` send soon."""
        self._something_to_send.set()

    async def send_rest(self, take: Callable[[int], list[bytes]], on_sent: Callable[[int], None]) -> None:
        """Send what the kernel didn't take at once, and what comes, until cancelled."""
        while True:
            await self._something_to_send.wait()
            self._something_to_send = trio.Event()
            if self._is_full:
                await trio.lowlevel.wait_writable(self._socket)
                self._is_full = False
            if sent := self.send_now(take):
                on_sent(sent)

    def shut(self) -> None:
        """End the connection at both ends. `receive` returns the rest, and then its end."""
        self.is_shut = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
