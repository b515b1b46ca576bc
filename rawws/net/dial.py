"""Connecting to a server, with an error for people when that fails."""

from __future__ import annotations

import errno
import os
import socket

import trio

from rawws.net.addresses import format_address


async def dial(host: str, port: int, unix_path: str | None = None) -> socket.socket:
    """Return a connected socket. Raises OSError, whose sentence has the address, the reason and advice."""
    where = unix_path or format_address((host, port))
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
        raise OSError(first.errno, f"can't connect to {where}: {explain_dial(first)}") from first
    # The stream has set the socket up; from here on it is ours to wait for.
    return socket.socket(fileno=stream.socket.detach())


# The errors of getaddrinfo() for a name that doesn't exist. Some systems lack some of them.
_NO_SUCH_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


def explain_dial(error: OSError) -> str:
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
