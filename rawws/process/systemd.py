"""The protocol between a program and systemd: sockets that listen already, and notifications of the program's state.

Both directions are plain environment variables, sockets and datagrams (sd_listen_fds(3), sd_notify(3)), and need no
library of systemd's.
"""

from __future__ import annotations

import contextlib
import os
import socket

from rawws.errors import UsageError
from rawws.net.listeners import is_listening, send_small_frames_at_once

FIRST_FD = 3
_ADVICE = "a systemd socket for rawws has ListenStream= and Accept=no"


def inherited_listeners() -> list[socket.socket]:
    """Return the listening sockets that this process was started with, if any; each call returns the same descriptors.

    They are for this process only, so its children ignore them. Raises `UsageError` for a descriptor that can't accept
    connections.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    if not (count.isascii() and count.isdigit()):
        raise UsageError(f"LISTEN_FDS is {count!r}; it must be the number of sockets that were passed to this process")
    return [listener_of(fd) for fd in range(FIRST_FD, FIRST_FD + int(count))]


def listener_of(fd: int) -> socket.socket:
    """Return a listening socket that this process was started with. Its children don't inherit it.

    Raises `UsageError` if the descriptor isn't one.
    """
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"file descriptor {fd} is not a listening socket: {error.strerror}; {_ADVICE}") from None
    if not is_listening(listener):
        listener.detach()
        raise UsageError(f"file descriptor {fd} is not a listening stream socket; {_ADVICE}")
    listener.setblocking(False)
    send_small_frames_at_once(listener)
    return listener


def notify(*states: str) -> None:
    """Notify the service manager, if there is one: ``READY=1``, ``STOPPING=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # The service manager may be gone, which is no reason to stop.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(states).encode(), address)
