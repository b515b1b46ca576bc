"""The interface of a hub's groups, whose readers share the messages of a room as jobs.

A hub lies below the groups, and needs only this interface. `rawws.groups.groups` implements it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from rawws.errors import Refusal
from rawws.limits import MIB
from rawws.net.accept import Address
from rawws.websocket.callbacks import Callbacks
from rawws.wire.messages import Request, Response

NO_STORE = Refusal(
    501,
    "no_groups",
    "This server keeps no jobs: a group needs a store, or a backplane.",
    hint="start the server with --store PATH, or with --queue-in-memory if jobs may be lost when it ends",
)

SHARED = Refusal(
    501,
    "no_shared_groups",
    "The rooms of this server were shared after it had begun to serve, and so they have no groups.",
    hint="in the program, begin rawws.share before rawws.serve",
)
# The most that the groups of a room keep.
QUEUE_BYTES = 64 * MIB

# Waits for something to happen, for at most a number of seconds.
Happens = Callable[[], Awaitable[None]]
Wait = Callable[[Happens, float], Awaitable[None]]


_DEAD_ROOM = re.compile(r".*\.[A-Za-z0-9][A-Za-z0-9_-]{0,31}\.dead")


def is_dead_room(path: str) -> bool:
    """Return whether a path is one at which the dead jobs of a group are kept."""
    return path.endswith(".dead") and _DEAD_ROOM.fullmatch(path) is not None


def path_of_dead_room(path: str) -> str:
    """Return the path of the room whose group's dead jobs are at a path."""
    return path.removesuffix(".dead").rpartition(".")[0]


class _NoCallbacks(Callbacks):
    """The callbacks of workers that there can't be."""


_NONE: Callbacks = _NoCallbacks()


class WorkerClient(NamedTuple):
    """The client of a request about a group."""

    number: int  # of its connection
    address: Address
    user: object


class GroupFigures(NamedTuple):
    """The figures of one group, by their name."""

    room: str
    group: str
    values: Mapping[str, float]


class Queues(Protocol):
    """The groups of all rooms of a hub."""

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks of the workers that have a WebSocket."""

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request for a WebSocket can't be that of a worker; None if it can."""

    async def prepare(self, request: Request) -> Refusal | None:
        """Open the group that a request names, if needed; return a refusal if that fails."""

    async def answer(self, request: Request, client: WorkerClient, wait: Wait) -> Response | Refusal:
        """Answer a GET or a POST about a group, whose client may read and write in the room."""

    def refuse_publishing(self, path: str) -> Refusal | None:
        """Return why a room takes no message at present: its groups keep too many; None if it does."""

    async def refresh(self) -> None:
        """Have `figures` be those of now, as far as that is possible."""

    def figures(self) -> Iterable[GroupFigures]:
        """Return the figures of each group."""

    async def end(self, path: str, group: str) -> bool | Refusal:
        """Forget a group and what it has left to do; return False if there is none."""

    def end_workers(self, is_wanted: Callable[[object], bool], code: int, reason: str | None) -> int:
        """End some users' workers, and return their number. The code and the reason are for WebSockets."""


class NoQueues:
    """The groups of a hub that keeps no jobs."""

    callbacks = _NONE

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def refuse(self, request: Request) -> Refusal | None:
        return self.refusal

    async def prepare(self, request: Request) -> Refusal | None:
        return self.refusal

    async def answer(self, request: Request, client: WorkerClient, wait: Wait) -> Response | Refusal:
        return self.refusal

    def refuse_publishing(self, path: str) -> Refusal | None:
        return None

    async def refresh(self) -> None:
        pass

    def figures(self) -> Iterable[GroupFigures]:
        return ()

    async def end(self, path: str, group: str) -> bool:
        return False

    def end_workers(self, is_wanted: Callable[[object], bool], code: int, reason: str | None) -> int:
        return 0


def why_none(queues: Queues) -> Refusal | None:
    """Return why a hub keeps no jobs, with advice for its operator; None if it does."""
    return queues.refusal if isinstance(queues, NoQueues) else None
