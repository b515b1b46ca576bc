"""The interface of a hub's groups, whose readers share the messages of a room as jobs.

A hub lies below the groups, and needs only this interface. `rawws.groups.groups` implements it.
"""

from __future__ import annotations

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


DEAD_ROOM = Refusal(403, "dead_room", "This room has the dead jobs of a group; only the server publishes here.")


class _NoCallbacks(Callbacks):
    """The callbacks of workers that there can't be."""


_NONE: Callbacks = _NoCallbacks()


class WorkerClient(NamedTuple):
    """The client of a request about a group."""

    number: int  # of its connection
    address: Address
    user: object
    has_gone: Callable[[], bool]  # as far as that is known now


class Handed(NamedTuple):
    """The answer with a job for a worker that has HTTP alone. ``take_back`` is for an answer that hasn't arrived."""

    response: Response
    take_back: Callable[[], None]


class GroupFigures(NamedTuple):
    """The figures of one group, by their name."""

    room: str
    group: str
    values: Mapping[str, float]


class GroupWorker(Protocol):
    """A worker with a connection, as an operator sees it."""

    @property
    def number(self) -> int:
        """The number of its connection."""

    @property
    def room(self) -> str:
        """The path of the room whose messages are its jobs."""

    @property
    def group(self) -> str:
        """The name of its group."""

    @property
    def jobs(self) -> int:
        """The number of jobs that it has at present."""

    @property
    def user(self) -> object:
        """Its user, as that of a `rawws.Member`."""

    @property
    def remote_address(self) -> Address:
        """The address of its client."""

    @property
    def since(self) -> int:
        """The time at which its connection was accepted, or its request began, in Unix seconds."""

    @property
    def is_here(self) -> bool:
        """Whether it takes jobs still."""

    def close(self, code: int, reason: str | None) -> None:
        """End it, and so give its jobs back. The code is for a WebSocket; a request is answered with 403."""


class Queues(Protocol):
    """The groups of all rooms of a hub."""

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks of the workers that have a WebSocket."""

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request for a WebSocket can't be that of a worker; None if it can."""

    async def prepare(self, request: Request) -> Refusal | None:
        """Open the group that a request names, if needed; return a refusal if that fails."""

    async def answer(self, request: Request, client: WorkerClient, wait: Wait) -> Response | Refusal | Handed:
        """Answer a GET or a POST about a group, whose client may read and write in the room."""

    def refuse_publishing(self, path: str) -> Refusal | None:
        """Return why a room takes no message at present: its groups keep too many; None if it does."""

    def keeps_dead(self, path: str) -> bool:
        """Return whether a room is one in which a group has its dead jobs, so that no client publishes there."""

    async def refresh(self) -> None:
        """Have `figures` be those of now, as far as that is possible."""

    def figures(self) -> Iterable[GroupFigures]:
        """Return the figures of each group."""

    async def end(self, path: str, group: str) -> bool | Refusal:
        """Forget a group and what it has left to do; return False if there is none."""

    def workers(self) -> Iterable[GroupWorker]:
        """Return the workers of all groups that have a connection."""


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

    def keeps_dead(self, path: str) -> bool:
        return False

    async def refresh(self) -> None:
        pass

    def figures(self) -> Iterable[GroupFigures]:
        return ()

    async def end(self, path: str, group: str) -> bool:
        return False

    def workers(self) -> Iterable[GroupWorker]:
        return ()


def why_none(queues: Queues) -> Refusal | None:
    """Return why a hub keeps no jobs, with advice for its operator; None if it does."""
    return queues.refusal if isinstance(queues, NoQueues) else None
