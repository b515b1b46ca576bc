"""Moving bytes: one non-blocking socket, many of them under one poller, and listening ones.

This is the only module that names socket options. trio's own ``SocketStream`` isn't used, because the broadcast
loop needs to send to a thousand sockets in one go without a checkpoint for each; what it does for its users is
done here by hand: TCP_NODELAY is set, and waiters are told before a socket is closed.

`Poller` is a second epoll or kqueue inside trio's: the broadcast loop waits for *its* file descriptor to become
readable, which costs one trip through trio for all the sockets that are ready, instead of a task for each.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from rawws.errors import ListenError
from rawws.wire.first_bytes import may_begin_tls
from rawws.wire.tls_records import MAX_PLAINTEXT_BYTES, MAX_RECORD_BYTES, find_records

# As much as one look at a socket may bring: what the kernel typically has, without a large allocation.
RECEIVE_BYTES = 64 * 1024
# From a peer whose last receive brought all that was asked for.
MORE_RECEIVE_BYTES = 4 * RECEIVE_BYTES

# The most that one record holds: encrypted, and decrypted, at a time.
TLS_RECORD_BYTES = MAX_PLAINTEXT_BYTES
# TLS adds at most this much to one receive, in full records.
TLS_OVERHEAD_BYTES = 1024
# A look at a socket through TLS ends after this time or this number of records, whatever they hold. The cost of one
# record lies between 2 µs (a byte of data) and about 15 ms (a guess: a thousand of a server's tickets in one record).
LOOK_S = 0.002
LOOK_RECORDS = 512
# The clock is looked at after this number of records.
STEP_RECORDS = 16
# The most records in a row without a byte of data, within a minute. BoringSSL allows 32 key updates and 32 empty
# records, Go's crypto/tls 16 of any kind. An honest peer may change its keys by the clock and have nothing to say.
MAX_DATALESS_RECORDS = 32
DATALESS_S = 60.0
# Besides the rest of one record, only answers to key updates wait for a peer, 27 bytes each.
MAX_UNSENT_BYTES = 2 * MAX_RECORD_BYTES
# OpenSSL takes 128 KiB for a ClientHello and 100 KiB for a chain of certificates, one of which a peer has to send.
MAX_HANDSHAKE_BYTES = 256 * 1024
# While nothing can be sent before more has come, the socket is looked at this often.
READ_FIRST_S = 0.01
# Bytes of a handshake taken before others have their turn: as records of one byte each they take a third of a ms.
HANDSHAKE_STEP_BYTES = 4 * 1024

# OpenSSL's memory for a connection, which holds no buffers of its own between two looks (measured).
TLS_BYTES = 14_300

# POSIX guarantees 16 (IOV_MAX); Linux and macOS take 1,024 in one call.
MAX_PIECES = 1024

# accept() fails with these when the process or the machine has run out, not because of this connection.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def describe_loss(error: OSError) -> str:
    """Return why a connection is lost, and on whose side where that is ours.

    One whose send() fails with ENOBUFS is not tried again: its socket stays writable for whoever waits, so that would
    be a busy loop. It is rare, too: Linux has a TCP socket rather wait.
    """
    why = error.strerror or str(error)
    if isinstance(error, ssl.SSLError) and not isinstance(error, TlsFlood):
        why = f"TLS failed ({getattr(error, 'reason', None) or why})"  # without the line of Python's C source
    return f"{why}: this machine had no memory for it" if error.errno in EXHAUSTED else why


class Transport:
    """A connected, non-blocking stream socket, which it owns: closing the transport closes the socket."""

    __slots__ = ("_socket", "_was_waited_for", "needs_flush", "receive_now", "send_now")

    # Whether `shake_hands` is to be awaited before the first byte of data.
    has_handshake = False
    # Bytes have been read off the socket that no poller tells of any more.
    has_pending = False
    # How many bytes of the last thing that would not go have to be the first of the next thing.
    committed_bytes = 0
    # TLS has something to send that the kernel has not taken yet; see `try_flush`.
    has_unsent = False
    # Nothing can be sent before something has come, however writable the socket is.
    reads_first = False
    # The bytes of memory it takes besides the socket: TLS itself, what was received and not taken, and what has to be
    # sent.
    held_bytes = 0

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._was_waited_for = False
        # A receive has changed what can be sent: TLS has answered by itself, or got what it was waiting for.
        self.needs_flush = False
        # The socket's own methods, for who calls them a hundred thousand times a second: they raise
        # BlockingIOError where the try_ methods return that nothing was done.
        self.receive_now: Callable[[int], bytes] = connected.recv
        self.send_now: Callable[[bytes | bytearray | memoryview], int] = connected.send

    @property
    def peer_name(self) -> str:
        try:
            return name_address(self._socket.getpeername())
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
        """Hand the kernel what it takes now of several pieces, one behind the other, without joining them."""
        try:
            return self._socket.sendmsg(pieces[:MAX_PIECES])
        except BlockingIOError:
            return 0

    async def shake_hands(self) -> None:
        """Complete what comes before the first byte of data. Cancelled, only closing is left."""

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next bytes, empty at the end of the stream. Cancelling loses none.

        Others have their turn in any case, or else who never stops sending would never let them.
        """
        if (data := self.try_receive(max_bytes)) is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return data
        while (data := self.try_receive(max_bytes)) is None:
            if self.has_pending:
                await trio.lowlevel.checkpoint()
            else:
                self._was_waited_for = True
                await trio.lowlevel.wait_readable(self._socket)
        return data

    async def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. When cancelled, part of it may have gone out: only closing is left then."""
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
        """Say that nothing follows and wait for the peer to say the same, dropping what it still sends.

        Closing while unread bytes are there makes the kernel send a reset, which can overtake our last
        words on their way (RFC 9112 §9.6). Bound it in time from outside.
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
        """Close the socket so that the peer takes the connection for lost (RST); what it has not got yet is dropped."""
        with contextlib.suppress(OSError):  # of one that has gone
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket; tasks that wait for it wake with ``trio.ClosedResourceError``. Harmless twice."""
        if self._socket.fileno() >= 0:
            if self._was_waited_for:  # else trio has never heard of it, and asking costs 5 µs
                trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TlsFlood(ssl.SSLError):
    """A peer keeps TLS busy as no honest one does; the message says how."""

    def __init__(self, sentence: str) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, sentence)
        self.reason = sentence


class NotTls(ssl.SSLError):
    """A peer does not speak TLS; ``first_bytes`` are its first bytes, at least one."""

    def __init__(self, first_bytes: bytes) -> None:
        self.reason = "the peer does not speak TLS"
        super().__init__(ssl.SSL_ERROR_SSL, self.reason)
        self.first_bytes = first_bytes


class _Buffers:
    """The BIOs that OpenSSL reads from and writes to, shared by all connections of a thread.

    A memory BIO keeps the memory that it has once grown to. One record of 16 KiB each way would cost each connection
    40 KiB for ever, and what TLS needs besides is 14 KiB. So the BIOs are shared: they are empty between two calls into
    OpenSSL, and what a connection has to keep is kept by its transport, where it is counted.

    ``in_use`` detects a finalizer or an OpenSSL callback that uses another connection within such a call. A
    KeyboardInterrupt waits for the end of the call.
    """

    __slots__ = ("in_use", "incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.in_use = False

    def __enter__(self) -> None:
        self.in_use = True
        # A call that failed, for lack of memory for example, may have left bytes of another connection.
        if self.incoming.pending:
            self.incoming.read()
        if self.outgoing.pending:
            self.outgoing.read()

    def __exit__(self, *_: object) -> None:
        self.in_use = False


class _ThreadBuffers(threading.local):
    def __init__(self) -> None:
        self.buffers = _Buffers()


_of_this_thread = _ThreadBuffers()


class TlsTransport(Transport):
    """A transport through TLS (RFC 8446, RFC 5246); with a ``server_hostname`` we are the client.

    OpenSSL never sees the socket. If it read the socket itself, it would not return while records without data keep
    coming: key updates, tickets, empty ones. So a *look* at the socket is one ``recv()`` of bounded size. Its records
    are given to OpenSSL a few at a time until there is as much data as was asked for, or enough time has passed. The
    rest waits for the next look (``has_pending``). Too many records in a row without any data end the connection.

    Data is encrypted one record at a time as it is sent. The rest of a record that the kernel did not take is kept, and
    goes out before anything else; meanwhile the bytes in it are not reported as sent (``committed_bytes``).
    """

    __slots__ = (
        "_buffers",
        "_ciphertext",
        "_context",
        "_dataless",
        "_dataless_since",
        "_decrypted",
        "_end_is_due",
        "_failure",
        "_has_ended",
        "_has_record",
        "_is_ending",
        "_server_hostname",
        "_tls",
        "_unsent",
        "committed_bytes",
        "has_pending",
        "reads_first",
    )

    has_handshake = True

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        super().__init__(connected)
        self._context = context
        self._server_hostname = server_hostname
        self._tls: ssl.SSLObject  # from the handshake on
        self._buffers = _of_this_thread.buffers
        self.receive_now = self._receive_records
        self.send_now = self._send_records
        self.committed_bytes = 0
        self.reads_first = False
        # Ciphertext that is not decrypted yet, and plaintext that is not taken yet.
        self._ciphertext = b""
        self._has_record = False  # the ciphertext contains a whole one
        self._decrypted = b""
        # The stream ends after these.
        self._failure: OSError | None = None
        self._has_ended = False
        self.has_pending = False
        # Records without data since the last byte of data, and when the first of them came, by time.perf_counter().
        self._dataless = 0
        self._dataless_since = 0.0
        # Ciphertext that the kernel has not taken, and whether TLS's end, and the FIN, are to follow it.
        self._unsent = b""
        self._end_is_due = False
        self._is_ending = False

    @property
    def has_unsent(self) -> bool:  # type: ignore[override]
        return self._end_is_due or bool(self._unsent)

    @property
    def held_bytes(self) -> int:  # type: ignore[override]
        return TLS_BYTES + len(self._ciphertext) + len(self._decrypted) + len(self._unsent)

    # The handshake

    async def shake_hands(self) -> None:
        """Complete the TLS handshake. Raises OSError when it fails; ssl.SSLError is one, and `NotTls`."""
        self._socket.getpeername()  # raises if the peer has gone
        self._tls = self._context.wrap_bio(
            self._buffers.incoming,
            self._buffers.outgoing,
            server_side=self._server_hostname is None,
            server_hostname=self._server_hostname,
        )
        self._was_waited_for = True
        received = 0
        while True:
            is_done = self._step_handshake()
            while not self.try_flush():
                await self._wait_to_send()
            if is_done:
                return
            if self._ciphertext:
                await trio.lowlevel.checkpoint()
                continue
            await trio.lowlevel.wait_readable(self._socket)
            try:
                self._ciphertext = self._socket.recv(TLS_RECORD_BYTES)
            except BlockingIOError:
                continue
            if not self._ciphertext:
                error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer ended the stream within the TLS handshake")
                error.reason = str(error)
                raise error
            if not received and not may_begin_tls(self._ciphertext):
                raise NotTls(self._ciphertext)
            received += len(self._ciphertext)
            if received > MAX_HANDSHAKE_BYTES:
                raise TlsFlood(f"over {MAX_HANDSHAKE_BYTES:,} bytes came, and the TLS handshake is not complete")

    @trio.lowlevel.enable_ki_protection
    def _step_handshake(self) -> bool:
        """Give OpenSSL some of the received bytes, and return whether the handshake is complete."""
        given, self._ciphertext = self._ciphertext[:HANDSHAKE_STEP_BYTES], self._ciphertext[HANDSHAKE_STEP_BYTES:]
        with self._buffers:
            self._buffers.incoming.write(given)
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
            except OSError:
                self._say_what_is_wrong()
                raise
            else:
                is_done = True
            self._ciphertext = self._buffers.incoming.read() + self._ciphertext  # data may follow it at once
            self._keep_outgoing()
        self.has_pending = self._has_record = find_records(self._ciphertext, 0, 0, 1)[1] > 0
        return is_done

    def _keep_outgoing(self) -> None:
        """Collect what OpenSSL sends by itself: parts of the handshake, answers to key updates, alerts."""
        if self._buffers.outgoing.pending:
            self._unsent += self._buffers.outgoing.read()

    def _say_what_is_wrong(self) -> None:
        """Send the alert that OpenSSL has for the peer (RFC 8446 §6.2), if the kernel takes it."""
        self._keep_outgoing()
        with contextlib.suppress(OSError):
            self.try_flush()

    # Receiving

    def _receive_records(self, max_bytes: int) -> bytes:
        if not self._decrypted and self._failure is None and not self._has_ended:
            self._look(max_bytes)
        data = self._decrypted
        if len(data) > max_bytes:
            self._decrypted, data = data[max_bytes:], data[:max_bytes]
        else:
            self._decrypted = b""
        self._note_pending()
        if data:
            return data
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            return b""
        raise BlockingIOError

    def _note_pending(self) -> None:
        self.has_pending = self._has_record or self._has_ended or self._failure is not None or len(self._decrypted) > 0

    @trio.lowlevel.enable_ki_protection
    def _look(self, max_bytes: int) -> None:
        """Receive once, unless a record is here already, and decrypt. Raises BlockingIOError if nothing has come."""
        if self._unsent:
            with contextlib.suppress(OSError):  # what has come is there nevertheless
                self.try_flush()
        if self._buffers.in_use:
            raise BlockingIOError
        if not self._has_record:
            received = self._socket.recv(max(max_bytes, TLS_RECORD_BYTES) + TLS_OVERHEAD_BYTES)
            if not received:
                self._has_ended = True
                return
            self._ciphertext = self._ciphertext + received if self._ciphertext else received
        with self._buffers:
            data = self._decrypt(max_bytes)
            self._answer()
        self._decrypted = self._decrypted + data if self._decrypted else data
        if self._has_ended or self._failure is not None:
            self._ciphertext = b""
        self._has_record = self._ciphertext != b"" and find_records(self._ciphertext, 0, 0, 1)[1] > 0
        if self.reads_first:
            self.reads_first = False
            self.needs_flush = True

    def _decrypt(self, max_bytes: int) -> bytes:
        """Return the data of the next records: at most a record more than asked for, and within a look's time."""
        ciphertext, incoming, read = self._ciphertext, self._buffers.incoming, self._tls.read
        pieces: list[bytes] = []
        at = size = looked_at = 0
        until = time.perf_counter() + LOOK_S
        while at < len(ciphertext) and size < max_bytes and looked_at < LOOK_RECORDS:
            end, records = find_records(ciphertext, at, min(max_bytes - size, TLS_RECORD_BYTES), STEP_RECORDS)
            if not records:
                break
            incoming.write(ciphertext if end - at == len(ciphertext) else memoryview(ciphertext)[at:end])
            at = end
            looked_at += records
            before = size
            try:
                # Each record is read completely, so that OpenSSL keeps nothing.
                while incoming.pending:
                    if not (piece := read(TLS_RECORD_BYTES)):
                        self._has_ended = True
                        break
                    pieces.append(piece)
                    size += len(piece)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._has_ended = True  # when ours came first
            except OSError as error:
                self._failure = error  # what came before it is whole
                self._say_what_is_wrong()
            if self._has_ended or self._failure is not None:
                break
            if size > before:
                self._dataless = 0
            else:
                self._count_dataless(records)
            if self._failure is not None or time.perf_counter() > until:
                break
        self._ciphertext = ciphertext[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _count_dataless(self, records: int) -> None:
        now = time.perf_counter()
        if not self._dataless or now - self._dataless_since > DATALESS_S:
            self._dataless = 0
            self._dataless_since = now
        self._dataless += records
        if self._dataless > MAX_DATALESS_RECORDS:
            reason = f"over {MAX_DATALESS_RECORDS} TLS records in a row came without a byte of data"
            self._failure = TlsFlood(f"{reason} (key updates, tickets, or empty ones)")

    def _answer(self) -> None:
        """Send the answers that OpenSSL makes by itself, above all to key updates."""
        if not self._buffers.outgoing.pending:
            return
        self._keep_outgoing()
        with contextlib.suppress(OSError):  # what has come is there nevertheless
            self.try_flush()
        if self._unsent:
            self.needs_flush = True
        if len(self._unsent) > MAX_UNSENT_BYTES and self._failure is None:
            self._failure = TlsFlood(f"over {MAX_UNSENT_BYTES:,} bytes of TLS wait for the peer, which does not read")

    def try_receive_into(self, buffer: memoryview) -> int | None:
        data = self.try_receive(len(buffer))
        if data is not None:
            buffer[: len(data)] = data
            return len(data)
        return None

    # Sending

    @trio.lowlevel.enable_ki_protection
    def _send_records(self, data: bytes | bytearray | memoryview) -> int:
        if self._buffers.in_use or (self._unsent and not self.try_flush()):
            raise BlockingIOError
        sent, self.committed_bytes = self.committed_bytes, 0
        size = len(data)
        with self._buffers:
            while sent < size:
                is_small = size <= TLS_RECORD_BYTES and not sent
                piece = data if is_small else memoryview(data)[sent : sent + TLS_RECORD_BYTES]
                try:
                    self._tls.write(piece)
                except ssl.SSLWantReadError:
                    self._wait_to_read()
                    break
                ciphertext = self._buffers.outgoing.read()
                try:
                    gone = self._socket.send(ciphertext)
                except BlockingIOError:
                    gone = 0
                if gone < len(ciphertext):
                    self._unsent = ciphertext[gone:]
                    self.committed_bytes = len(piece)
                    break
                sent += len(piece)
        return sent

    def _wait_to_read(self) -> None:
        """Note that OpenSSL has received part of a message, and encrypts nothing before the rest."""
        self._keep_outgoing()
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            raise BrokenPipeError(errno.EPIPE, "the peer ended the stream within a message of TLS")
        self.reads_first = True

    def try_send_pieces(self, pieces: Sequence[bytes | bytearray]) -> int:
        return self.try_send(b"".join(pieces))  # in as few records as possible

    def try_flush(self) -> bool:
        if self._end_is_due:
            if self._buffers.in_use:
                return False
            self._say_end()
        if self._unsent:
            try:
                gone = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[gone:]
        if self._unsent:
            return False
        if self._is_ending:
            super().shutdown_write()
        return True

    async def _wait_to_send(self) -> None:
        if not self.reads_first:
            await super()._wait_to_send()
            return
        # This is rare, and another task may be waiting for the socket to become readable, as trio lets only one do.
        await trio.sleep(READ_FIRST_S)
        if self.reads_first:
            with contextlib.suppress(BlockingIOError):
                self._look(RECEIVE_BYTES)
            self._note_pending()

    # The end

    def shutdown_write(self) -> None:
        """End our side of the stream: TLS's own end (RFC 8446 §6.1), then a FIN. See `send_eof`.

        Both wait for data that the kernel has not taken yet, which `try_flush` sends.
        """
        if self._is_ending:
            return
        self._is_ending = self._end_is_due = True
        with contextlib.suppress(OSError):
            self.try_flush()

    @trio.lowlevel.enable_ki_protection
    def _say_end(self) -> None:
        self._end_is_due = False
        with self._buffers:
            with contextlib.suppress(OSError, ValueError):  # it also looks for the peer's, and there is nothing to read
                self._tls.unwrap()
            self._keep_outgoing()

    async def send_eof(self) -> None:
        self.shutdown_write()
        while not self.try_flush():
            await super()._wait_to_send()

    async def linger(self) -> None:
        with contextlib.suppress(OSError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end)
                await super().linger()
                nursery.cancel_scope.cancel()

    async def _end(self) -> None:
        with contextlib.suppress(OSError):
            await self.send_eof()


def parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address without its zone, and as IPv4 where a socket for both versions has said it in IPv6
    (RFC 4291 §2.5.5.2). Raises ValueError for what is none."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def plain_address(address: tuple[Any, ...]) -> tuple[str, int]:
    """Return host and port of a socket address, IPv4 as such."""
    host, port, *_ = address
    return (str(parse_ip(host)) if host.startswith("::ffff:") else host), port


def listens(listener: socket.socket) -> bool:
    """Say whether stream connections can be accepted at a socket."""
    if listener.type != socket.SOCK_STREAM:
        return False
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    except OSError:  # macOS doesn't tell, so whoever gave it is believed
        return True


def is_loopback(listener: socket.socket) -> bool:
    """Say whether only this machine can reach a listener. A Unix socket is for a proxy mostly, and who reaches that?"""
    address = listener.getsockname()
    return isinstance(address, tuple) and parse_ip(address[0]).is_loopback


def dialled_address(listener: socket.socket) -> tuple[str, int]:
    """Return where a TCP listener can be dialled from this machine, which for one on every interface is loopback."""
    host, port = plain_address(listener.getsockname())
    address = parse_ip(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return host, port


def name_address(address: object) -> str:
    """Return a socket address as ``host:port``, an IPv6 host in brackets, or as a Unix socket's path."""
    if isinstance(address, tuple):
        host, port = plain_address(address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):  # of Linux's abstract namespace, written as ss and systemd do
        return "@" + address.removeprefix(b"\0").decode(errors="backslashreplace")
    return address if isinstance(address, str) and address else "a Unix socket"


# What a poller reports, as bits; the values are epoll's own, so that its answers need no translation.
READABLE = 0x001
WRITABLE = 0x004
LOST = 0x008 | 0x010  # an error, or both directions closed; always reported


class Poller(Protocol):
    """Watches many descriptors, level-triggered, and is itself a descriptor that can be waited for.

    Without an interest nothing is reported of a descriptor, but that the connection is lost, where epoll is.
    """

    def fileno(self) -> int: ...
    def add(self, fd: int) -> None: ...
    def watch(self, fd: int, interest: int) -> None: ...
    def remove(self, fd: int) -> None:
        """Stop watching; to be called just before the descriptor is closed."""

    def poll(self) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class EpollPoller:
    """A `Poller` for Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close
        self.watch = self._epoll.modify
        # The kernel forgets a descriptor that is closed by itself, but not while a process that was forked has a copy.
        self.remove = self._epoll.unregister

    def add(self, fd: int) -> None:
        self._epoll.register(fd, READABLE)

    def poll(self) -> list[tuple[int, int]]:
        return self._epoll.poll(0)


class SelectorPoller:
    """A `Poller` where there is kqueue instead of epoll, over the standard library's selectors."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close

    def fileno(self) -> int:
        return int(self._selector.fileno())

    def add(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ)

    def watch(self, fd: int, interest: int) -> None:
        self.remove(fd)  # selectors refuses to watch for nothing
        events = selectors.EVENT_READ if interest & READABLE else 0
        events |= selectors.EVENT_WRITE if interest & WRITABLE else 0
        if events:
            self._selector.register(fd, events)

    def remove(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def poll(self) -> list[tuple[int, int]]:
        ready = []
        for key, events in self._selector.select(0):
            bits = READABLE if events & selectors.EVENT_READ else 0
            bits |= WRITABLE if events & selectors.EVENT_WRITE else 0
            ready.append((key.fd, bits))
        return ready


def make_poller() -> Poller:
    return EpollPoller() if sys.platform == "linux" else SelectorPoller()


async def dial(host: str, port: int, unix_path: str | None = None) -> socket.socket:
    """Return a connected socket. Raises OSError, whose sentence has the address, the reason and advice."""
    where = unix_path or name_address((host, port))
    try:
        if unix_path is not None:
            stream = await trio.open_unix_socket(unix_path)
        else:
            stream = await trio.open_tcp_stream(host, port)
    except UnicodeError as error:  # from IDNA: a label is empty, or too long
        sentence = f"can't connect to {where}: that is not the name of a host"
        raise OSError(socket.EAI_NONAME, sentence) from error
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, ExceptionGroup):
            cause = cause.exceptions[-1]
        first = cause if isinstance(cause, OSError) else error
        raise OSError(first.errno, f"can't connect to {where}: {_explain_dial(first)}") from first
    # The stream has set the socket up; from here on it is ours to wait for.
    return socket.socket(fileno=stream.socket.detach())


# The errors of getaddrinfo() for a name that doesn't exist. Some systems lack some of them.
_NO_SUCH_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


def _explain_dial(error: OSError) -> str:
    """Return the reason why there is no connection, and advice."""
    number = error.errno or 0
    if isinstance(error, socket.gaierror):
        why = error.strerror or "its name can't be looked up"
        if number in _NO_SUCH_NAME:
            return f"{why}; check how the host is spelt"
        return f"{why}; check this machine's network and its name servers"
    why = os.strerror(number) if number > 0 else error.strerror or str(error)
    match number:
        case errno.ECONNREFUSED:
            return f"{why}; no program listens there: start it, or check host and port"
        case errno.ENOENT:
            return f"{why}; start the server, or check the path of its socket"
        case errno.ENETUNREACH | errno.EHOSTUNREACH | errno.ENETDOWN | errno.EHOSTDOWN:
            return f"{why}; check this machine's network, or the firewalls on the way"
        case errno.ETIMEDOUT:
            return f"{why}; the host is down, or a firewall drops packets to it"
    return why


async def open_listeners(host: str, port: int, *, backlog: int = 4096, reuse_port: bool = False) -> list[socket.socket]:
    """Return a listening socket for each address that ``host`` has; the caller owns them.

    An empty host means every interface. Port 0 lets the system choose one, the same for all addresses. With
    ``reuse_port`` there may be others on the port that are opened so, and the system spreads connections over them.
    Raises `ListenError`.
    """
    where = f"{host or '*'}:{port}"
    try:
        found = await trio.socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(
            f"can't listen on {where}: {host!r} is not a name or address of this machine: {error}"
        ) from None
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Nagle's algorithm would hold small frames back. Connections inherit this from their listener.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = listeners[0].getsockname()[1] if len(listeners) > 1 else port
            listener.bind((address[0], chosen, *address[2:]))
            # The kernel cuts this to its own maximum (net.core.somaxconn); trio.open_tcp_listeners asks for as
            # much as it can too, so that a crowd that reconnects at once waits instead of being refused.
            listener.listen(backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(f"can't listen on {where}: {os.strerror(error.errno or 0)}. {_advise(error)}") from None
    return listeners


class _UnixListener(socket.socket):
    """A socket that takes the path which it has made away with it when it is closed.

    A path that somebody else has bound stays theirs: systemd goes on listening there when we have ended.
    """

    def close(self) -> None:
        if self.fileno() >= 0 and (path := self.getsockname()):
            # First of all: behind the close, somebody else may have put a socket of their own there.
            with contextlib.suppress(OSError):
                os.unlink(path)
        super().close()


def open_unix_listener(path: str, *, backlog: int = 4096) -> socket.socket:
    """Return a socket that listens at a path; the caller owns it. One that nobody listens at any more is replaced.

    Closing it removes the path. Raises `ListenError`.
    """
    listener = _UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(path):
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        told = "Another program listens there." if error.errno == errno.EADDRINUSE else "Choose another path."
        raise ListenError(f"can't listen at {path}: {error.strerror or error}. {told}") from None
    return listener


def _is_abandoned(path: str) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def _advise(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "Another program has that port; stop it, or choose another."
        case errno.EACCES:
            return "Ports below 1024 are for privileged programs; choose a higher one."
        case errno.EADDRNOTAVAIL:
            return "This machine has no such address; choose one that it has."
        case errno.EMFILE | errno.ENFILE:
            return "Allow more of them (ulimit -n, LimitNOFILE), or have fewer --workers."
        case _:
            return "Choose another address or port."
