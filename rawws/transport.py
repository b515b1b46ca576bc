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
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from rawws.errors import ListenError

# As much as one look at a socket may bring: what the kernel typically has, without a large allocation.
RECEIVE_BYTES = 64 * 1024
# From a peer whose last receive brought all that was asked for.
MORE_RECEIVE_BYTES = 4 * RECEIVE_BYTES

# RFC 8446 §5.1: the most that one record holds.
TLS_RECORD_BYTES = 16 * 1024

# What OpenSSL takes for a connection: 15 KiB, or 31 KiB while a part of a record has come (measured). It can't be asked
# which of the two it is.
TLS_BYTES = 21_000

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
    return f"{why}: this machine had no memory for it" if error.errno in EXHAUSTED else why


class Transport:
    """A connected, non-blocking stream socket, which it owns: closing the transport closes the socket."""

    __slots__ = ("_socket", "_was_waited_for", "receive_now", "send_now")

    # Whether `shake_hands` is to be awaited before the first byte of data.
    has_handshake = False
    # Bytes have been read off the socket that no poller tells of any more.
    has_pending = False
    # How many bytes of the last thing that would not go have to be the first of the next thing.
    committed_bytes = 0
    # How much memory it takes besides the socket.
    held_bytes = 0

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._was_waited_for = False
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
                self._was_waited_for = True
                await trio.lowlevel.wait_writable(self._socket)

    def shutdown_write(self) -> None:
        """Tell the peer that nothing follows (a FIN); it may still send."""
        with contextlib.suppress(OSError):
            # Not an SSLSocket's own, which would read what still comes without TLS.
            socket.socket.shutdown(self._socket, socket.SHUT_WR)

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
        """Return the socket itself, which is the caller's from here on; the transport is done with."""
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


class TlsTransport(Transport):
    """The same through TLS, over a non-blocking ``ssl.SSLSocket``; with a ``server_hostname`` we are the client.

    What is waited for is the plain socket: when TLS has to write in order to read, it tries again the next time
    that something arrives.
    """

    __slots__ = ("_context", "_failure", "_has_ended", "_held", "_server_hostname", "_tls", "committed_bytes")

    has_handshake = True

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        super().__init__(connected)
        self._context = context
        self._server_hostname = server_hostname
        self._tls: ssl.SSLSocket  # from the handshake on: before, the peer may have gone, and this would be no socket
        self.receive_now = self._receive_records
        self.send_now = self._send_records
        self.committed_bytes = 0
        # What the next looks at what has come are to find, in this order:
        self._held = b""
        self._failure: OSError | None = None
        self._has_ended = False

    @property
    def held_bytes(self) -> int:  # type: ignore[override]
        return TLS_BYTES + len(self._held) + (TLS_RECORD_BYTES if self.committed_bytes else 0)

    @property
    def has_pending(self) -> bool:  # type: ignore[override]
        return self._tls.pending() > 0 or bool(self._held) or self._failure is not None or self._has_ended

    async def shake_hands(self) -> None:
        """Complete the TLS handshake. Raises OSError when it fails; ssl.SSLError is one."""
        self._socket.getpeername()  # raises for one that has gone, which is left open where wrapping it fails
        self._socket = self._tls = self._context.wrap_socket(
            self._socket,
            server_side=self._server_hostname is None,
            server_hostname=self._server_hostname,
            do_handshake_on_connect=False,
        )
        self._was_waited_for = True
        while True:
            try:
                return self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._tls)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._tls)

    def _receive_records(self, max_bytes: int) -> bytes:
        if self._held:
            data, self._held = self._held[:max_bytes], self._held[max_bytes:]
            return data
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            return b""
        # OpenSSL returns one record, of 16 KiB at most, at a time.
        pieces: list[bytes] = []
        received = 0
        while received < max_bytes:
            try:
                piece = self._tls.recv(max_bytes - received)
            except ssl.SSLZeroReturnError:
                piece = b""  # the end, when ours came first
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if pieces:
                    break
                raise BlockingIOError from None
            except OSError as error:
                if not pieces:
                    raise
                self._failure = error  # what came before it is whole
                break
            if not piece:
                self._has_ended = True  # which OpenSSL needn't say twice
                break
            pieces.append(piece)
            received += len(piece)
        return b"".join(pieces)

    def try_receive_into(self, buffer: memoryview) -> int | None:
        data = self.try_receive(len(buffer))
        if data is not None:
            buffer[: len(data)] = data
            return len(data)
        return None

    def try_send_pieces(self, pieces: Sequence[bytes | bytearray]) -> int:
        return self.try_send(b"".join(pieces))  # in as few records as may be

    def _send_records(self, data: bytes | bytearray | memoryview) -> int:
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(view):
                # Of more, OpenSSL would send a part and not tell how much, and want to see all of it again.
                sent += self._tls.send(view[sent : sent + TLS_RECORD_BYTES])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            # The record is encrypted already and goes out whatever comes: OpenSSL wants to see its bytes again.
            self.committed_bytes = min(len(view) - sent, TLS_RECORD_BYTES)
        else:
            self.committed_bytes = 0
        return sent

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if decrypted := self._tls.pending():
                self._held += self._tls.recv(decrypted)
            if sys.platform == "linux":
                socket.socket.send(self._tls, self._close_notify())
            else:
                self._tls.unwrap()  # where kqueue would forget the descriptor; what comes now may be lost
        super().shutdown_write()

    def _close_notify(self) -> bytes:
        """Return the record by which TLS says that nothing follows (RFC 8446 §6.1).

        OpenSSL would send it, look for the peer's in the same breath, and fail the connection if it finds data
        instead, such as the answer to our last words; there is no asking it for less. So the descriptor is that of
        another socket meanwhile. Epoll doesn't mind: it knows ours by the open file, which stays open.
        """
        fd = self._tls.fileno()
        inner, outer = socket.socketpair()
        with inner, outer:
            inner.setblocking(False)
            outer.setblocking(False)
            kept = os.dup(fd)
            try:
                os.dup2(inner.fileno(), fd, inheritable=False)
                self._tls.unwrap()
                self._has_ended = True  # the peer's was here already
            except ssl.SSLWantReadError:
                pass
            finally:
                os.dup2(kept, fd, inheritable=False)
                os.close(kept)
            return outer.recv(RECEIVE_BYTES)


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
    """Watches many descriptors, level-triggered, and is itself a descriptor that can be waited for."""

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
        events = 0  # selectors refuses to watch for nothing, and nobody here asks for it
        if interest & READABLE:
            events |= selectors.EVENT_READ
        if interest & WRITABLE:
            events |= selectors.EVENT_WRITE
        self._selector.modify(fd, events)

    def remove(self, fd: int) -> None:
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
    """Return a connected socket. Raises OSError, which says to where there is no connection, and why."""
    try:
        if unix_path is not None:
            stream = await trio.open_unix_socket(unix_path)
        else:
            stream = await trio.open_tcp_stream(host, port)
    except UnicodeError:  # of IDNA, which is asked before any resolver: a label is empty, or has more than 63 letters
        raise OSError(socket.EAI_NONAME, f"can't connect to {host}:{port}: that is not the name of a host") from None
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, ExceptionGroup):
            cause = cause.exceptions[-1]
        told = cause if isinstance(cause, OSError) else error
        why = os.strerror(told.errno) if told.errno and told.errno > 0 else str(told)
        where = unix_path or name_address((host, port))
        raise OSError(told.errno, f"can't connect to {where}: {why}") from None
    # The stream has set the socket up; from here on it is ours to wait for.
    return socket.socket(fileno=stream.socket.detach())


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
