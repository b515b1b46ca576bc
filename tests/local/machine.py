"""A sequencer and the hubs of its workers, in one process."""

from __future__ import annotations

import itertools
import socket
from contextlib import AbstractAsyncContextManager

import trio

import rawws
from rawws.local.local_rooms import LocalRooms
from rawws.local.sequencer import Sequencer
from rawws.local.serving import SequencerServer
from rawws.local.sharing import share_with_workers
from tests.room_serving import Rooms


class Machine:
    """The first process of a machine. Call it with a hub to make that the hub of a worker."""

    def __init__(self, nursery: trio.Nursery, max_bytes: float = float("inf")) -> None:
        self.sequencer = Sequencer(max_bytes)
        self._server = SequencerServer(self.sequencer)
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self.links: list[socket.socket] = []  # the sequencer's ends
        self.gone: list[int] = []  # the workers that were told that the sequencer is gone
        nursery.start_soon(self._server.run)

    def __call__(self, hub: rawws.Hub) -> AbstractAsyncContextManager[object]:
        ours, theirs = socket.socketpair()
        number = next(self._numbers)
        self.links.append(ours)
        self._nursery.start_soon(self._server.serve, ours, number)
        return share_with_workers(hub, theirs, lambda: self.gone.append(number))


def local_rooms(node: Rooms) -> LocalRooms:
    """Return the backplane of a worker."""
    assert node.hub.backplane is not None
    found = node.hub.backplane.of("/")
    assert isinstance(found, LocalRooms)
    return found
