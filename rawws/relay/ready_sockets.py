"""The sockets that need a turn: the poller reports some, and others have data that the poller can't see.

A poller knows only what the kernel holds. Bytes that TLS, a session or the handshake has received already are in our
own memory, and their sockets may never become readable again.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from rawws.net.poller import READABLE, make_poller

# A descriptor, and its events: READABLE, WRITABLE and LOST.
Ready = tuple[int, int]


class ReadySockets:
    """The poller of a loop, and the sockets that no turn has looked at yet."""

    def __init__(self) -> None:
        self._poller = make_poller()
        self._ready: list[Ready] = []
        self._unread: dict[int, int] = {}  # descriptors whose data we have received already, with READABLE

    def add(self, fd: int) -> None:
        """Watch a socket for data. Raises OSError when that is impossible."""
        self._poller.add(fd)

    def watch(self, fd: int, interest: int) -> None:
        """Change the events for which a socket is watched."""
        self._poller.watch(fd, interest)

    def remove(self, fd: int) -> None:
        """Stop watching a socket that is about to be closed, or that would be reported as lost for ever."""
        self._poller.remove(fd)

    def close(self) -> None:
        """Close the poller. `wait` raises `trio.ClosedResourceError` from then on."""
        trio.lowlevel.notify_closing(self._poller.fileno())
        self._poller.close()

    async def wait(self) -> None:
        """Wait until the poller has something to report."""
        await trio.lowlevel.wait_readable(self._poller.fileno())

    @property
    def has_waiting(self) -> bool:
        """Whether a socket waits for a turn, so that the poller need not be asked."""
        return bool(self._ready or self._unread)

    def add_unread(self, fd: int) -> None:
        """Have a socket read in the next turn, though the poller may not report it."""
        self._unread[fd] = READABLE

    def put_back(self, ready: Iterable[Ready]) -> None:
        """Take back the sockets that a turn has not looked at. They come first in the next turn."""
        self._ready = [*ready, *self._ready]

    def take(self) -> list[Ready]:
        """Remove the waiting sockets, and return them in order, for a turn. Ask the poller if no socket waits."""
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        ready = self._poller.poll()
        return self._with_unread(ready) if self._unread else ready

    def _with_unread(self, ready: list[Ready]) -> list[Ready]:
        """Add descriptors whose data is here already, once each, after the ones that have not been served yet."""
        unread, self._unread = self._unread, {}
        others = []
        for fd, events in ready:
            if fd in unread:
                unread[fd] |= events
            else:
                others.append((fd, events))
        return [*others, *unread.items()]
