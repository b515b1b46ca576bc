"""Accepting connections, for as long as there are descriptors for them."""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable, Iterator

import trio

from rawws import logs
from rawws.net.addresses import plain_address
from rawws.net.connection_errors import EXHAUSTED
from rawws.wire.trace import FAULT, STATE

_log = logs.server_line

Address = tuple[str, int] | str

# The most connections that one wake of a listener accepts before other tasks run (a guess).
ACCEPT_BATCH = 64
# The pause after descriptors or buffers have run out, in which other connections may end.
EXHAUSTED_PAUSE_S = 0.5

# accept() also reports network errors of the new connection, or a firewall's refusal, see accept(2). They end this
# connection alone.
_LOST_ON_THE_WAY = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        getattr(errno, "ENONET", errno.EPROTO),  # of Linux only
    }
)
# Recovery is logged after this time without a failure. Otherwise both would be logged twice a second while one
# connection ends and two wait.
RECOVERED_S = 1.0


@trio.lowlevel.enable_ki_protection
async def accept_connections(listener: socket.socket, take: Callable[[socket.socket, Address], None]) -> None:
    """Pass each connection to ``take``, which owns it then, until cancelled."""
    failed_at = math.inf
    while True:
        with trio.move_on_at(failed_at + RECOVERED_S):
            await trio.lowlevel.wait_readable(listener)
        try:
            for connected, address in _accept_batch(listener):
                take(connected, address)
        except OSError as error:
            if error.errno in _LOST_ON_THE_WAY:
                continue
            if failed_at == math.inf:
                _log(logging.ERROR, FAULT, _describe(error))
            failed_at = trio.current_time()
            await trio.sleep(EXHAUSTED_PAUSE_S)
        else:
            if trio.current_time() >= failed_at + RECOVERED_S:
                failed_at = math.inf
                _log(logging.INFO, STATE, "accepting again")


def _accept_batch(listener: socket.socket) -> Iterator[tuple[socket.socket, Address]]:
    for _ in range(ACCEPT_BATCH):
        try:
            connected, address = listener.accept()
        except BlockingIOError:
            return
        yield connected, plain_address(address) if isinstance(address, tuple) else ""


def _describe(error: OSError) -> str:
    failure = f"can't accept connections: {error.strerror}"
    if error.errno not in EXHAUSTED:  # such as EINVAL, when another process has shut down a socket that it shares
        return f"{failure}; the listening socket may be of no use any more"
    remedy = ", or more are allowed (ulimit -n, LimitNOFILE)" if error.errno == errno.EMFILE else ""
    return f"{failure}; accepting rests until some are closed{remedy}"
