"""The two sides of a lease, sans-IO: the jobs of a group that are not finished, and the workers that get them.

They are plain records, and `rawws.groups.group.Group` alone changes them: a job that is leased refers to its worker,
and the worker to all jobs that it has. A `Delivery` and a `Dead` job are what a group hands out.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from rawws.store.entries import Job

DEFAULT_ACK_S = 30.0
# The leases of workers whose connection has ended with the server begin with this.
OF_CONNECTION = "#"


class Worker:
    """A worker of a group: what it may have at a time, and what it has."""

    __slots__ = ("ack_s", "is_paused", "is_queued", "jobs", "lease", "most", "once", "tries")

    def __init__(self, lease: str, *, most: int = 1, ack_s: float = 30.0, tries: int = 5, once: bool = False) -> None:
        """``lease`` is the name of its leases, and no other worker's.

        ``once`` is a worker that gets a single job, and keeps the lease of it when it has gone.
        """
        self.lease = lease
        self.most = most
        self.ack_s = ack_s
        self.tries = tries
        self.once = once
        self.jobs: dict[int, OpenJob] = {}
        self.is_paused = False  # it takes nothing at present
        self.is_queued = False  # it is among the free ones

    def __repr__(self) -> str:
        return f"<Worker {self.lease} jobs={len(self.jobs)}/{self.most}>"


class Delivery(NamedTuple):
    """A job for a worker. It goes out when its lease is stored."""

    worker: Worker
    number: int
    tried: int  # the number of this delivery, from 1 on


class Dead(NamedTuple):
    """A job that no worker gets any more, with the reason."""

    number: int
    tries: int
    reason: str
    worker: str  # the name of the last lease; empty if that isn't known


class Stage(enum.Enum):
    """The places where a job waits for its next step."""

    READY = enum.auto()
    DELAYED = enum.auto()  # until a time
    PARKED = enum.auto()  # until an earlier job with its key is finished
    LEASED = enum.auto()
    DEAD = enum.auto()


READY, DELAYED, PARKED, LEASED, DEAD = Stage


class OpenJob:
    """A job that is not finished."""

    __slots__ = ("ack_s", "at", "due", "is_sent", "key", "lease", "most_tries", "number", "reason", "tries", "worker")

    def __init__(self, number: int, key: str | None, at: Stage) -> None:
        self.number = number
        self.key = key
        self.at = at
        self.tries = 0
        self.due = 0.0  # the end of its lease, or the time of its next try
        self.lease = ""  # of its present or its last worker
        self.worker: Worker | None = None  # its present one, if that is here
        self.is_sent = False
        self.ack_s = DEFAULT_ACK_S
        self.most_tries = math.inf  # as its last worker says
        self.reason = ""  # why its last try has failed

    def stored(self, shift: float) -> Job:
        """Return it as it is stored; ``shift`` is what its times are less than those of the day."""
        if self.at is LEASED:
            return Job(self.number, self.tries, self.due + shift, self.lease)
        return Job(self.number, self.tries, self.due + shift if self.at is DELAYED else 0.0, "")
