"""Listening sockets: opening them, and the facts that a server needs to know about them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import trio

from rawws.errors import ListenError, sentence_of
from rawws.net.addresses import parse_ip, plain_address


def is_listening(listener: socket.socket) -> bool:
    """Say whether stream connections can be accepted at a socket."""
    if listener.type != socket.SOCK_STREAM:
        return False
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    except OSError:  # macOS has no such option, so the socket is taken for a listening one
        return True


def is_loopback(listener: socket.socket) -> bool:
    """Say whether only this machine can reach a listener.

    A Unix socket is not counted as such: it is mostly for a proxy, which others can reach.
    """
    address = listener.getsockname()
    return isinstance(address, tuple) and parse_ip(address[0]).is_loopback


def send_small_frames_at_once(listener: socket.socket) -> None:
    """Switch Nagle's algorithm off for a listener's connections, which inherit that. Only TCP has it.

    It would hold a small frame back until the one before it is acknowledged, which takes some 40 ms.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connectable_address(listener: socket.socket) -> tuple[str, int]:
    """Return the address at which this machine can connect to a TCP listener: loopback for one on every interface."""
    host, port = plain_address(listener.getsockname())
    address = parse_ip(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return host, port


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
            f"can't listen on {where}: {host!r} is not a name or address of this machine: {sentence_of(error)}"
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
            send_small_frames_at_once(listener)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = listeners[0].getsockname()[1] if len(listeners) > 1 else port
            listener.bind((address[0], chosen, *address[2:]))
            # The kernel cuts this to its own maximum (net.core.somaxconn). trio.open_tcp_listeners asks for as much as
            # it can too, so that clients that all reconnect at once wait instead of being refused.
            listener.listen(backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(f"can't listen on {where}: {os.strerror(error.errno or 0)}. {_advise(error)}") from None
    return listeners


class _UnixListener(socket.socket):
    """A socket that removes its path when it is closed.

    A path that another program has bound is not removed: systemd goes on listening there after our end.
    """

    def close(self) -> None:
        if self.fileno() >= 0 and (path := self.getsockname()):
            # The path goes first: after the close, another program may have put a socket of its own there.
            with contextlib.suppress(OSError):
                os.unlink(path)
        super().close()


def open_unix_listener(path: str, *, backlog: int = 4096) -> socket.socket:
    """Return a socket that listens at a path; the caller owns it. A socket there that nobody listens at is replaced.

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
        advice = "Another program listens there." if error.errno == errno.EADDRINUSE else "Choose another path."
        raise ListenError(f"can't listen at {path}: {error.strerror or error}. {advice}") from None
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
