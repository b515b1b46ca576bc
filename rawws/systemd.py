"""What a program and systemd tell each other: sockets that listen already, and how far it has come.

Both are plain protocols of environment variables, sockets and datagrams (sd_listen_fds(3), sd_notify(3)); nothing of
systemd's is needed for them.
"""

from __future__ import annotations

import contextlib
import os
import socket

from rawws.errors import UsageError
from rawws.listeners import is_listening

FIRST_FD = 3
_ADVICE = "a systemd socket for rawws has ListenStream= and Accept=no"


def inherited_listeners() -> list[socket.socket]:
    """Return the listening sockets that this process was started with, if it was; each time the same descriptors.

    They were made for this very process, so that a child of it doesn't take them for its own. Raises `UsageError` for
    what nobody can be accepted at.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    if not (count.isascii() and count.isdigit()):
        raise UsageError(f"LISTEN_FDS is {count!r}, and has to be the number of sockets that were passed on to us")
    return [listener_of(fd) for fd in range(FIRST_FD, FIRST_FD + int(count))]


def listener_of(fd: int) -> socket.socket:
    """Return a listening socket that this process was started with, and that its children are not to have.

    Raises `UsageError` if it is none.
    """
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"descriptor {fd} was to be a socket that listens: {error.strerror}; {_ADVICE}") from None
    if not is_listening(listener):
        listener.detach()
        raise UsageError(f"descriptor {fd} is not a stream socket that listens; {_ADVICE}")
    listener.setblocking(False)
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def notify(*states: str) -> None:
    """Tell whoever started us, if they want to know: ``READY=1``, ``STOPPING=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # Nobody may be there any more, and that is no reason to stop.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(states).encode(), address)
