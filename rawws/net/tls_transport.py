"""A socket through TLS, whose work at each look is bounded whatever the peer sends."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Sequence

import trio

from rawws.net.connection_errors import NotTls, TlsFlood
from rawws.net.transport import RECEIVE_BYTES, Transport
from rawws.wire.first_bytes import may_begin_tls
from rawws.wire.tls_records import MAX_PLAINTEXT_BYTES, MAX_RECORD_BYTES, find_records

# The most plaintext that one record holds; as much is encrypted, or decrypted, at a time.
TLS_RECORD_BYTES = MAX_PLAINTEXT_BYTES
# TLS adds at most this much to one receive, in full records.
TLS_OVERHEAD_BYTES = 1024
# A look at a socket through TLS ends after this time or this number of records. The cost of one record is between 2 µs
# (a byte of data) and about 15 ms (a guess: a thousand of a server's tickets in one record).
LOOK_S = 0.002
LOOK_RECORDS = 512
# The clock is read after this number of records.
STEP_RECORDS = 16
# The most records in a row without a byte of data, within a minute. BoringSSL allows 32 key updates and 32 empty
# records, Go's crypto/tls 16 of any kind. An honest peer may change its keys by the clock while it has no data to send.
MAX_DATALESS_RECORDS = 32
DATALESS_S = 60.0
# Besides the rest of one record, only answers to key updates wait for a peer, 27 bytes each.
MAX_UNSENT_BYTES = 2 * MAX_RECORD_BYTES
# OpenSSL takes 128 KiB for a ClientHello and 100 KiB for a chain of certificates, one of which a peer has to send.
MAX_HANDSHAKE_BYTES = 256 * 1024
# The interval between two looks at the socket while nothing can be sent before more bytes have come.
READ_FIRST_S = 0.01
# The bytes of a handshake that are read before other tasks run: as records of one byte each they take a third of a ms.
HANDSHAKE_STEP_BYTES = 4 * 1024

# OpenSSL's memory for a connection, which holds no buffers of its own between two looks (measured).
TLS_BYTES = 14_300


class _Buffers:
    """The BIOs that OpenSSL reads from and writes to, shared by all connections of a thread.

    A memory BIO keeps the memory that it has once grown to. One record of 16 KiB each way would cost each connection
    40 KiB for ever, besides the 14 KiB of TLS itself. So the BIOs are shared: they are empty between two calls into
    OpenSSL, and bytes that a connection has to keep are kept by its transport, where they are counted.

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
        # The records without data since the last byte of data, and the time of the first one by time.perf_counter().
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

    async def do_handshake(self) -> None:
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
                self._send_alert()
                raise
            else:
                is_done = True
            self._ciphertext = self._buffers.incoming.read() + self._ciphertext  # data may follow the handshake at once
            self._keep_outgoing()
        self.has_pending = self._has_record = find_records(self._ciphertext, 0, 0, 1)[1] > 0
        return is_done

    def _keep_outgoing(self) -> None:
        """Collect what OpenSSL sends by itself: parts of the handshake, answers to key updates, alerts."""
        if self._buffers.outgoing.pending:
            self._unsent += self._buffers.outgoing.read()

    def _send_alert(self) -> None:
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
        self._update_pending()
        if data:
            return data
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            return b""
        raise BlockingIOError

    def _update_pending(self) -> None:
        self.has_pending = self._has_record or self._has_ended or self._failure is not None or len(self._decrypted) > 0

    @trio.lowlevel.enable_ki_protection
    def _look(self, max_bytes: int) -> None:
        """Receive once, unless a record is here already, and decrypt. Raises BlockingIOError if nothing has come."""
        if self._unsent:
            with contextlib.suppress(OSError):  # received bytes can be read nevertheless
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
                self._failure = error  # the data before it is complete
                self._send_alert()
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
        with contextlib.suppress(OSError):  # received bytes can be read nevertheless
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
        """Record that OpenSSL has received part of a message, and encrypts nothing before the rest has come."""
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
            self._send_close_notify()
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
            self._update_pending()

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
    def _send_close_notify(self) -> None:
        self._end_is_due = False
        with self._buffers:
            with contextlib.suppress(OSError, ValueError):  # it also looks for the peer's, and nothing is there
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
