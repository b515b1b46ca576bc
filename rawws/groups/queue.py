"""A group as its workers' doors see it, wherever its leases live: with a store, or in Redis for all nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from rawws.broadcast.message_ids import MessageId
from rawws.errors import RETRY_SOON, Refusal
from rawws.groups.leases import Worker
from rawws.groups.protocol import Answer, GroupQuery
from rawws.groups.shelf import StoredMessage
from rawws.hub.queues import GroupFigures

ENDED = Refusal(410, "group_ended", "This group has been ended; a new request begins it again.")
BEGINS_AGAIN = Refusal(
    503,
    "group_begins_again",
    "The room of this group has begun again, and so does the group; connect again.",
    RETRY_SOON,
)


class Client(Protocol):
    """The other end of a worker."""

    def refuse(self) -> Refusal | None:
        """Return why the worker may not have jobs any more; None if it may."""

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        """Take a job, to be sent at once or by `flush`. A client that can't be sent anything leaves soon."""

    def flush(self) -> None:
        """Send the jobs that `deliver` has taken; the queue's turn is over."""

    def end(self, refusal: Refusal) -> None:
        """End the worker, which has left its group."""


class Answering(Client, Protocol):
    """The other end of a worker that answers for its jobs on the connection on which it gets them."""

    worker: Worker

    def lose(self, job: MessageId) -> None:
        """Say that a job for which the worker has answered isn't leased to it any more."""


class State(NamedTuple):
    """The state of a group, as ``?state`` and ``/metrics`` tell it."""

    room: str
    group: str
    waiting: int  # messages that no worker has
    leased: int
    oldest: str | None  # the id of the oldest unfinished message
    oldest_s: float | None  # its age in seconds
    delivered: int  # since the server began, or since the group began in Redis
    redelivered: int
    done: int
    dead: int  # ever
    workers: int


# The members of a state that are figures of the group.
FIGURES = ("waiting", "leased", "delivered", "redelivered", "done", "dead", "workers")


class Queue(Protocol):
    """One group."""

    @property
    def path(self) -> str:
        """The path of its room."""

    @property
    def problem(self) -> Refusal | None:
        """Why it does nothing any more; None as long as it works."""

    @property
    def clients(self) -> list[Client]:
        """The other ends of all workers of this server."""

    def join(self, worker: Worker, client: Client) -> None:
        """Give jobs to a worker from now on."""

    def leave(self, worker: Worker, why: str = "its worker has gone") -> None:
        """Give no more jobs to a worker, and those that it has to others. Harmless if it has gone."""

    def detach(self, worker: Worker) -> None:
        """Give no more jobs to a worker, which goes and keeps its leases."""

    def pause(self, worker: Worker) -> None:
        """Give no jobs to a worker until `resume`."""

    def resume(self, worker: Worker) -> None:
        """Give jobs to a worker again."""

    def say(self, answer: Answer, client: Answering) -> None:
        """Do what a worker says about a job, or have its client `lose` the job, now or later."""

    def acknowledge(self, epoch: str, numbers: Sequence[int], client: Answering) -> None:
        """Finish jobs of a worker, as `say` does with an ``ack`` for each."""

    async def say_by_token(self, answer: Answer, token: str) -> Refusal | None:
        """Do what a worker without a connection says about a job; return None when that is safe.

        The token is that of its lease, or empty.
        """

    async def settled(self) -> Refusal | None:
        """Wait until all that has happened is safe, and jobs are given to workers; return why that can't be."""


class Home(Protocol):
    """The place where the leases of a hub's groups live."""

    def trouble_of(self, path: str) -> Refusal | None:
        """Return why nothing in a room can be changed at present, so that workers had better wait; None if it can."""

    def known(self, path: str, group: str) -> Queue | None:
        """Return a group that is open here; None if there is none."""

    async def find(self, path: str, group: str) -> Queue | Refusal | None:
        """Return a group that exists, and open it here if need be; None if there is none."""

    async def open(self, path: str, query: GroupQuery) -> Queue | Refusal:
        """Return a group, which is made if there is none of this name yet."""

    async def state(self, path: str, group: str) -> State | Refusal | None:
        """Return the state of a group; None if there is none."""

    def refuse_publishing(self, path: str) -> Refusal | None:
        """Return why a room takes no message at present; None if it does."""

    def keeps_dead(self, path: str) -> bool:
        """Return whether a group has, or had, its dead jobs in a room."""

    async def refresh(self) -> None:
        """Have `figures` be those of now, as far as that is possible."""

    def figures(self) -> Iterable[GroupFigures]:
        """Return the figures of each group."""

    async def end(self, path: str, group: str) -> bool | Refusal:
        """Forget a group and what it has left to do; return False if there is none."""

    def clients(self) -> Iterable[Client]:
        """Return the other ends of all workers of this server."""
