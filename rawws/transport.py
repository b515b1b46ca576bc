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
import os
import select
import selectors
import socket
import sys
from typing import Protocol

import trio

from rawws.errors import ListenError

# As much as one look at a socket may bring: what the kernel typically has, without a large allocation.
RECEIVE_BYTES = 64 * 1024

# accept() fails with these when the process or the machine has run out, not because of this connection.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Transport:
    """A connected, non-blocking stream socket, which it owns: closing the transport closes the socket."""

    __slots__ = ("_socket", "peer_name")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        # Nagle's algorithm would hold small frames back; Unix sockets have none.
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self.peer_name = _name_peer(connected)

    def fileno(self) -> int:
        """Return the descriptor, or -1 once closed."""
        return self._socket.fileno()

    def try_receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes | None:
        """Return bytes that are here now, empty at the end of the stream, or None if there are none yet.

        Raises OSError when the connection is lost.
        """
        try:
            return self._socket.recv(max_bytes)
        except BlockingIOError:
            return None

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Hand the kernel what it takes now and return how many bytes that was, perhaps 0.

        Raises OSError when the connection is lost.
        """
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return the next bytes, empty at the end of the stream. Cancelling loses none."""
        while (data := self.try_receive(max_bytes)) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return data

    async def send_all(self, data: bytes) -> None:
        """Send everything. When cancelled, part of it may have gone out: only closing is left then."""
        rest = memoryview(data)
        while rest:
            if sent := self.try_send(rest):
                rest = rest[sent:]
            else:
                await trio.lowlevel.wait_writable(self._socket)

    def shutdown_write(self) -> None:
        """Tell the peer that nothing follows (a FIN); it may still send."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def linger(self) -> None:
        """Say that nothing follows and wait for the peer to say the same, dropping what it still sends.

        Closing while unread bytes are there makes the kernel send a reset, which can overtake our last
        words on their way (RFC 9112 §9.6). Bound it in time from outside.
        """
        self.shutdown_write()
        with contextlib.suppress(OSError):
            while await self.receive():
                pass

    def close(self) -> None:
        """Close the socket; tasks that wait for it wake with ``trio.ClosedResourceError``. Harmless twice."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _name_peer(connected: socket.socket) -> str:
    try:
        address = connected.getpeername()
    except OSError:
        return "a peer that has gone"
    return name_address(address)


def name_address(address: object) -> str:
    """Return a socket address as ``host:port``, an IPv6 host in brackets."""
    if isinstance(address, tuple):
        host, port, *_ = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "a Unix socket"


# What a poller reports, as bits; the values are epoll's own, so that its answers need no translation.
READABLE = 0x001
WRITABLE = 0x004
LOST = 0x008 | 0x010  # an error, or both directions closed; always reported


class Poller(Protocol):
    """Watches many descriptors, level-triggered, and is itself a descriptor that can be waited for."""

    def fileno(self) -> int: ...
    def add(self, fd: int) -> None: ...
    def watch(self, fd: int, interest: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def poll(self) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class EpollPoller:
    """A `Poller` for Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close
        self.watch = self._epoll.modify
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


async def open_listeners(host: str, port: int, *, backlog: int = 4096) -> list[socket.socket]:
    """Return a listening socket for each address that ``host`` has; the caller owns them.

    An empty host means every interface. Port 0 lets the system choose one, the same for all addresses.
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


def _advise(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "Another program has that port; stop it, or choose another with --port."
        case errno.EACCES:
            return "Ports below 1024 are for privileged programs; choose a higher one with --port."
        case errno.EADDRNOTAVAIL:
            return "This machine has no such address; choose one that it has with --host."
        case _:
            return "Choose another address with --host and --port."
