"""Watching many sockets at once.

A `Poller` is a second epoll or kqueue inside trio's. The broadcast loop waits for *its* file descriptor to become
readable, which costs one trip through trio for all the sockets that are ready, instead of one task for each.
"""

from __future__ import annotations

import select
import selectors
import sys
from functools import partial
from typing import Protocol

# The bits that a poller reports. The values are epoll's own, so that its answers need no translation.
READABLE = 0x001
WRITABLE = 0x004
LOST = 0x008 | 0x010  # an error, or both directions closed; always reported


class Poller(Protocol):
    """Watches many descriptors, level-triggered, and is itself a descriptor that can be waited for.

    For a descriptor without an interest, epoll reports only the loss of its connection, and the others report nothing.
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
        # The kernel forgets a closed descriptor by itself, but not while a forked process has a copy of it.
        self.remove = self._epoll.unregister
        self.poll = partial(self._epoll.poll, 0)

    def add(self, fd: int) -> None:
        self._epoll.register(fd, READABLE)


class SelectorPoller:
    """A `Poller` over the standard library's selectors, for systems with kqueue in place of epoll."""

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
