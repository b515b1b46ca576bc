"""The part of a shared group that one node knows, sans-IO: its workers, their jobs, and what Redis is to be told.

The leases are in Redis, where each turn of a node changes them in one step (`rawws.backplane.turn_script`). A turn has
everything that has happened at the node since the turn before, and asks for jobs for its free workers.

A lease ends in Redis before it ends here, since the time of a lease begins here when the turn is over. So a worker
whose job has gone to another one is free here soon. It learns that it was late when it answers.

If the answer of a call is lost, it isn't known whether the turn has taken place. The next turn has the same events
again. Its ``again`` tells Redis to take back the jobs of the lost answer, which no worker has got. Redis tells which of
the calls before has taken place: an event without a lease may be one that was done by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rawws.groups.leases import OF_CONNECTION, Worker
from rawws.groups.protocol import Answer, Verb

# The most deliveries of a turn, the most events, and the bytes of payloads, which may be exceeded by a message.
MOST_DELIVERIES, MOST_EVENTS, MOST_BYTES = 500, 1000, 1 << 20
# The memory of a job that a worker here has, with an answer for it, and of a group without any (measured).
HELD_BYTES, MIRROR_BYTES = 450, 3000


@dataclass(eq=False, slots=True)
class Event:
    """Something that has happened to a lease."""

    what: str
    id: str
    lease: str  # or the token of a worker without a connection
    wait_ms: int = 0
    why: str = ""
    is_token: bool = False
    worker: Worker | None = None  # the one who has answered
    is_own: bool | None = None  # the result
    first: int = 0  # the number of the first call with it whose answer was lost

    @property
    def words(self) -> list[Any]:
        """The event as the script reads it."""
        return [self.what, self.id, self.lease, self.wait_ms, self.why, self.is_token]


@dataclass(eq=False, slots=True)
class Held:
    """A job that a worker has."""

    due: float
    is_extended: bool = False  # a `more` is under way


@dataclass(eq=False, slots=True)
class Turn:
    """A turn that is under way."""

    serial: int
    again: int
    began: float
    events: Sequence[Event]
    wants: Sequence[tuple[Worker, int]]
    workers: int
    node: str

    def request(self, born: str) -> dict[str, Any]:
        """Return the turn as the script reads it."""
        wants = [
            [lease_of(worker, self.node), int(worker.ack_s * 1000), worker.tries, count] for worker, count in self.wants
        ]
        return {
            "born": born,
            "serial": self.serial,
            "again": self.again,
            "most": MOST_DELIVERIES,
            "bytes": MOST_BYTES,
            "workers": self.workers,
            "events": [event.words for event in self.events],
            "wants": wants,
        }


def lease_of(worker: Worker, node: str) -> str:
    """Return the name of a worker's leases, which is no other worker's of any node.

    That of a connection begins with `OF_CONNECTION` and the node; another one begins with its token.
    """
    lease = worker.lease.encode(errors="replace").decode()  # a user's name may have what UTF-8 can't encode
    return f"{OF_CONNECTION}{node} {lease}" if lease.startswith(OF_CONNECTION) else lease


class Mirror:
    """The workers of one node for a shared group, and their jobs."""

    def __init__(self, node: str, serials: Iterator[int]) -> None:
        """``serials`` has rising numbers for the calls of the node, by which Redis recognizes one that comes too late.

        The next mirror of a group has to go on with them: Redis remembers the last one after a group has ended.
        """
        self._node = node
        self._serials = serials
        self._workers: dict[Worker, dict[str, Held]] = {}
        self._events: deque[Event] = deque()
        self._again = 0
        self.is_behind = False  # the last turn has left something to do

    def __repr__(self) -> str:
        return f"<Mirror workers={len(self._workers)} events={len(self._events)}>"

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        held = sum(map(len, self._workers.values()))
        return MIRROR_BYTES + (held + len(self._events)) * HELD_BYTES

    @property
    def has_events(self) -> bool:
        """Whether something has happened that Redis doesn't know."""
        return bool(self._events)

    @property
    def is_hungry(self) -> bool:
        """Whether a worker could have another job."""
        return any(self._count_free(worker) for worker in self._workers)

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._workers)

    def next_due(self) -> float:
        """Return the time at which `lapse` has something to do; infinity if there is none."""
        ends = (held.due for jobs in self._workers.values() for held in jobs.values() if not held.is_extended)
        return min(ends, default=float("inf"))

    # Workers

    def join(self, worker: Worker) -> None:
        """Ask for jobs for a worker from now on."""
        self._workers[worker] = {}

    def leave(self, worker: Worker, why: str) -> None:
        """Ask for no more jobs for a worker, and give back those that it has. Harmless if it has gone."""
        lease = lease_of(worker, self._node)
        for each in self._workers.pop(worker, {}):
            self._events.append(Event("gone", each, lease, why=why))

    def detach(self, worker: Worker) -> None:
        """Ask for no more jobs for a worker, which keeps its leases."""
        self._workers.pop(worker, None)

    def _count_free(self, worker: Worker) -> int:
        return 0 if worker.is_paused else max(0, worker.most - len(self._workers[worker]))

    # Answers

    def say(self, answer: Answer, worker: Worker) -> bool:
        """Do what a worker says about its job; return False if it isn't leased to the worker any more."""
        jobs, name = self._workers.get(worker, {}), str(answer.job)
        held = jobs.get(name)
        if held is None:
            return False
        if answer.verb is not Verb.MORE:
            del jobs[name]
        elif held.is_extended:
            return True
        else:
            held.is_extended = True
        self._events.append(_event_of(answer, lease_of(worker, self._node), worker))
        return True

    def say_by_token(self, answer: Answer, token: str) -> Event:
        """Do what a worker without a connection says about a job. The event has the result later."""
        event = _event_of(answer, token, None)
        event.is_token = True
        self._events.append(event)
        return event

    def withdraw(self, event: Event) -> None:
        """Forget what a worker without a connection has said, if it isn't under way: it isn't waited for any more."""
        if event in self._events:
            self._events.remove(event)

    def give_back(self, worker: Worker, name: str) -> None:
        """Give back a job that wasn't sent to its worker. It doesn't count as a try."""
        self._workers.get(worker, {}).pop(name, None)
        self._events.append(Event("back", name, lease_of(worker, self._node)))

    # Turns

    def lapse(self, now: float) -> None:
        """Forget the jobs whose leases have ended."""
        for jobs in self._workers.values():
            for name in [name for name, held in jobs.items() if held.due <= now and not held.is_extended]:
                del jobs[name]

    def begin(self, now: float) -> Turn:
        """Begin a turn. `end`, `fail` or `forget` ends it."""
        self.lapse(now)
        events = [self._events.popleft() for _ in range(min(len(self._events), MOST_EVENTS))]
        wants = [(worker, free) for worker in self._workers if (free := self._count_free(worker))]
        return Turn(next(self._serials), self._again, now, events, wants, len(self._workers), self._node)

    def fail(self, turn: Turn) -> None:
        """End a turn whose answer is lost."""
        self._again = self._again or turn.serial
        for event in turn.events:
            event.first = event.first or turn.serial
        self.refuse(turn)

    def refuse(self, turn: Turn) -> None:
        """End a turn that Redis has refused: it hasn't taken place."""
        self._events.extendleft(event for event in reversed(turn.events) if not event.is_token)

    def end(self, turn: Turn, results: Sequence[int], now: float, *, is_more: bool, before: int) -> list[Event]:
        """End a turn that has taken place. Returns the answers for jobs that aren't leased to their workers.

        ``before`` is the number of the last call that has taken place before it.
        """
        self._again = 0
        self.is_behind = is_more or bool(self._events)
        late: list[Event] = []
        for event, result in zip(turn.events, results, strict=True):
            if result == 2:
                self._events.append(event)
                self.is_behind = True
                continue
            event.is_own = bool(result)
            held = self._workers.get(event.worker, {}).get(event.id) if event.worker else None
            if event.what == "more" and held is not None and event.worker is not None:
                held.is_extended = False
                if result:
                    held.due = now + event.worker.ack_s
                else:
                    del self._workers[event.worker][event.id]
            may_be_done = 0 < event.first <= before
            if not result and event.worker is not None and not may_be_done:
                late.append(event)
        return late

    def hold(self, turn: Turn, worker: Worker, name: str, now: float) -> bool:
        """Note that a worker gets a job; return False if its lease may have ended already.

        A lease can't have begun before the turn, nor have ended before its time after that.
        """
        if now >= turn.began + worker.ack_s:
            return False
        jobs = self._workers[worker] = self._workers.pop(worker)  # the others come first now
        jobs[name] = Held(now + worker.ack_s)
        return True

    def forget(self) -> list[Event]:
        """Forget all jobs, whose group is gone, and return the answers for them. The workers stay."""
        late = [event for event in self._events if event.worker is not None and not event.first]
        for event in self._events:
            event.is_own = False
        self._events.clear()
        self._again = 0
        for jobs in self._workers.values():
            jobs.clear()
        return late


def _event_of(answer: Answer, lease: str, worker: Worker | None) -> Event:
    why = answer.why
    if not why and answer.verb is Verb.NAK:
        why = "its worker has given it back"
    if not why and answer.verb is Verb.TERM:
        why = "its worker has given it up"
    return Event(answer.verb.value, str(answer.job), lease, int(answer.in_s * 1000), why, worker=worker)
