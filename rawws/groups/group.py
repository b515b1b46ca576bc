"""The leases of a group, sans-IO: the messages of a room as jobs, each of which one worker has at a time.

A group takes the messages of its room in their order. A message becomes a *job* when the group takes it; its
*position* is the last message that it has taken. A job is ready for a worker, or it waits (for a time, or for an
earlier job with its key), or a worker holds its *lease*. It is finished when a worker acknowledges it, or when it is
dead: it has been delivered as often as its worker allows, or a worker has said that another try is no use.

Jobs with a key go out one after the other: the next one when the one before it is finished.

Nothing is stored and nothing is sent from here. `take_write` returns all that has changed and has to be stored before
the deliveries of `assign` go out, so that a try is counted even if the worker or the server dies over it. Times are the
caller's, in seconds of a clock that never jumps; ``wall`` is the time of day, which is stored.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rawws.groups.leases import DEAD, DELAYED, LEASED, OF_CONNECTION, PARKED, READY, Dead, Delivery, OpenJob, Worker
from rawws.groups.timers import Timers
from rawws.store.entries import GroupState, GroupWrite, Job

# The most jobs that a group has at once, such as those that wait for their next try. Then it takes no more messages.
MAX_JOBS = 100_000
# The most jobs that wait for an earlier one with their key. Messages after them could overtake them, but need memory.
MAX_PARKED = 1000
# The memory of a job (measured), and of a group without jobs.
JOB_BYTES = 420
GROUP_BYTES = 2600

# A lease begins when its delivery is sent. If that is later than this after it was stored, it is stored again.
LATE_S = 0.25
# Timers that mean nothing any more are left out when there are more than twice as many as jobs, and this many besides.
SPARE_TIMERS = 1000


class Counts(NamedTuple):
    """The counts of a group since the server began."""

    delivered: int
    redelivered: int  # deliveries of jobs that had been delivered before
    done: int
    dead: int


class _Run:
    """Messages that have been read, and not been taken yet."""

    __slots__ = ("is_lost", "key", "last", "next")

    def __init__(self, first: int, count: int, key: str | None, *, is_lost: bool) -> None:
        self.next = first
        self.last = first + count - 1
        self.key = key
        self.is_lost = is_lost


class Group:
    """The jobs of a group, and its workers."""

    def __init__(self, path: str, name: str, position: int) -> None:
        """``position`` is the message after which the group begins."""
        self.path = path
        self.name = name
        self.position = position
        self._jobs: dict[int, OpenJob] = {}
        self._runs: deque[_Run] = deque()
        self._read_to = position
        self._ready: list[int] = []  # a heap; each is READY, or not among the jobs any more
        self._timers = Timers()  # what has changed meanwhile is passed over
        self._by_key: dict[str, deque[int]] = {}  # the jobs of a key, of which the first may be out
        self._free: deque[Worker] = deque()
        # Jobs that no worker gets any more. Each has to be stored elsewhere, and `bury` forgets it in the same commit.
        self.dead: deque[Dead] = deque()
        self._changed: dict[int, None] = {}
        self._done: list[int] = []
        self._stored_position = -1  # a new group is stored before anything
        self._parked = 0
        self.workers: dict[Worker, None] = {}
        self.leased = 0
        self._delivered = self._redelivered = self._finished = self._died = 0

    @classmethod
    def restored(cls, state: GroupState, keys: Mapping[int, str], now: float, wall: float) -> Group:
        """Return a group as it was stored; ``keys`` are those of its jobs.

        The leases of workers that had a connection have ended with it. Those of other workers go on.
        """
        group = cls(state.path, state.group, state.position)
        group._stored_position = state.position
        for stored in sorted(state.jobs):
            group._restore(stored, keys.get(stored.number), now, wall)
        return group

    def _restore(self, stored: Job, key: str | None, now: float, wall: float) -> None:
        job = OpenJob(stored.number, key, READY)
        self._jobs[job.number] = job
        job.tries, job.lease, job.due = stored.tries, stored.lease, now + stored.due - wall
        is_first = key is None or self._queue_key(key, job.number)
        ended = not job.lease or job.lease.startswith(OF_CONNECTION)
        if not ended and job.due > now:
            job.at, job.is_sent = LEASED, True
            self.leased += 1
            self._timers.set(job.due, job.number)
            return
        if job.lease:
            job.reason = "the server ended while the worker had it" if ended else "no answer in time"
        if job.lease or job.due <= now:
            job.due = now
        self._place(job, now, is_first=is_first)

    def __repr__(self) -> str:
        return f"<Group {self.name} of {self.path} position={self.position} jobs={len(self._jobs)}>"

    # Its state

    @property
    def jobs(self) -> int:
        """The number of jobs that are not finished."""
        return len(self._jobs)

    @property
    def counts(self) -> Counts:
        """Its counts since the server began."""
        return Counts(self._delivered, self._redelivered, self._finished, self._died)

    @property
    def oldest(self) -> int:
        """The number of the oldest message that isn't finished; that may not have been published yet."""
        return next(iter(self._jobs), self.position + 1)  # they were made in their order

    @property
    def read_to(self) -> int:
        """The last message that `offer` has given it."""
        return self._read_to

    @property
    def wants_messages(self) -> bool:
        """Whether it could give out more messages than it has been offered."""
        return bool(self._free) and not self._runs and not self._ready and self._may_take

    @property
    def is_behind(self) -> bool:
        """Whether `assign` has left out jobs that a worker could have."""
        return bool(self._free) and (bool(self._ready) or (bool(self._runs) and self._may_take))

    @property
    def _may_take(self) -> bool:
        return len(self._jobs) < MAX_JOBS and self._parked < MAX_PARKED

    @property
    def next_due(self) -> float:
        """The time at which `expire` has something to do; infinity if there is none."""
        return self._timers.next_due

    @property
    def has_changes(self) -> bool:
        """Whether there is something to store."""
        return bool(self._changed or self._done) or self._stored_position < self.position

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, without messages."""
        return GROUP_BYTES + len(self._jobs) * JOB_BYTES

    # Messages

    def offer(self, first: int, count: int, key: str | None = None, *, is_lost: bool = False) -> None:
        """Give it the messages of the room that follow those before. Lost ones are passed over."""
        last = first + count - 1
        first = max(first, self._read_to + 1)
        if first > last:
            return
        self._runs.append(_Run(first, last - first + 1, key, is_lost=is_lost))
        self._read_to = last

    def _take(self) -> OpenJob | None:
        """Make a job of the next message that a worker may have; return None if there is none."""
        runs, jobs = self._runs, self._jobs
        while runs and len(jobs) < MAX_JOBS and self._parked < MAX_PARKED:
            run = runs[0]
            if run.is_lost:
                self.position = run.last
                runs.popleft()
                continue
            self.position = number = run.next
            run.next += 1
            if number == run.last:
                runs.popleft()
            job = jobs[number] = OpenJob(number, run.key, READY)
            if run.key is None or self._queue_key(run.key, number):
                return job
            self._park(job)
        return None

    def _queue_key(self, key: str, number: int) -> bool:
        """Put a job behind those with its key, and return whether it is the first of them."""
        queue = self._by_key.get(key)
        if queue is None:
            self._by_key[key] = deque((number,))
            return True
        queue.append(number)
        return False

    def _park(self, job: OpenJob) -> None:
        job.at = PARKED
        self._parked += 1
        self._changed[job.number] = None

    # Workers

    def join(self, worker: Worker) -> None:
        """Give jobs to a worker from now on."""
        self.workers[worker] = None
        self._queue(worker)

    def leave(self, worker: Worker, now: float, why: str = "its worker has gone") -> None:
        """Give no more jobs to a worker, and give those that it has to others. Harmless if it has gone."""
        self.workers.pop(worker, None)
        if worker.is_queued:
            self._free.remove(worker)
            worker.is_queued = False
        for job in list(worker.jobs.values()):
            self._end_try(job, now, why)

    def detach(self, worker: Worker) -> None:
        """Give no more jobs to a worker, which goes and keeps its leases."""
        self.workers.pop(worker, None)

    def pause(self, worker: Worker) -> None:
        """Give no jobs to a worker until `resume`."""
        worker.is_paused = True

    def resume(self, worker: Worker) -> None:
        """Give jobs to a worker again."""
        worker.is_paused = False
        self._queue(worker)

    def _queue(self, worker: Worker) -> None:
        """Put a worker among the free ones if it is one."""
        if worker.is_queued or worker.is_paused or len(worker.jobs) >= worker.most or worker not in self.workers:
            return
        worker.is_queued = True
        self._free.append(worker)

    # Deliveries

    def assign(self, now: float, most: int = 1000) -> list[Delivery]:
        """Give the next jobs to free workers, in turns. They are sent after all that `take_write` returns is stored.

        After ``most`` deliveries and dead jobs together, it leaves the others for later (`is_behind`).
        """
        deliveries: list[Delivery] = []
        free, dead, ready, jobs, changed = self._free, self.dead, self._ready, self._jobs, self._changed
        while free and len(deliveries) + len(dead) < most:
            worker = free[0]
            if worker.is_paused:
                free.popleft().is_queued = False
                continue
            job = jobs[heapq.heappop(ready)] if ready else self._take()
            if job is None:
                break
            if job.tries >= worker.tries:
                self._die(job, job.reason or "it was delivered as often as that before")
                continue
            number = job.number
            job.at, job.is_sent, job.worker = LEASED, False, worker
            job.tries = tried = job.tries + 1
            job.lease, job.ack_s, job.most_tries = worker.lease, worker.ack_s, worker.tries
            job.due = now + job.ack_s
            worker.jobs[number] = job
            changed[number] = None
            deliveries.append(Delivery(worker, number, tried))
            if worker.once or len(worker.jobs) >= worker.most:
                free.popleft().is_queued = False
            elif len(free) > 1:
                free.rotate(-1)
        self.leased += len(deliveries)
        return deliveries

    def begin(self, delivery: Delivery, now: float) -> bool:
        """Begin the lease of a delivery, whose lease is stored; return False if it must not be sent any more."""
        job = self._jobs.get(delivery.number)
        if job is None or job.worker is not delivery.worker or job.tries != delivery.tried or job.is_sent:
            return False
        due = now + job.ack_s
        if due > job.due + LATE_S:
            self._changed[job.number] = None
        job.due = due
        job.is_sent = True
        self._delivered += 1
        if delivery.tried > 1:
            self._redelivered += 1
        self._timers.set(due, job.number)
        return True

    def give_back(self, delivery: Delivery, now: float) -> None:
        """Undo a delivery that hasn't been sent. It doesn't count as a try."""
        job = self._jobs.get(delivery.number)
        if job is not None and job.worker is delivery.worker and not job.is_sent:
            self._end_try(job, now, "")

    def drop_lost(self, delivery: Delivery) -> None:
        """Forget a job that hasn't been sent, since its message is lost. Another one may go to its worker."""
        job = self._jobs.get(delivery.number)
        if job is not None and job.worker is delivery.worker and not job.is_sent:
            self._release(job)
            self._finish(job)

    # Answers of workers

    def lease_of(self, number: int, token: str = "") -> str:
        """Return the name of the lease that a worker without a connection has of a job; empty if it has none.

        The token is the beginning of the name, up to a space. A job that was delivered once can only be its worker's
        own, so that no token is needed.
        """
        job = self._jobs.get(number)
        if job is None or job.at is not LEASED or job.lease.startswith(OF_CONNECTION):
            return ""
        is_own = job.lease.partition(" ")[0] == token if token else job.tries == 1
        return job.lease if is_own else ""

    def ack(self, number: int, lease: str) -> bool:
        """Finish a job; return False if it isn't leased to this worker any more."""
        return self.ack_many((number,), lease) == 1

    def ack_many(self, numbers: Iterable[int], lease: str) -> int:
        """Finish jobs of a worker; return how many, up to the first that isn't leased to it any more."""
        jobs, changed, done = self._jobs, self._changed, self._done
        before = len(done)
        for number in numbers:
            job = jobs.get(number)
            if job is None or job.at is not LEASED or job.lease != lease or not job.is_sent:
                break
            worker = job.worker
            if worker is not None:
                del worker.jobs[number]
                if not worker.is_queued and not worker.once:
                    self._queue(worker)
            del jobs[number]
            changed.pop(number, None)
            done.append(number)
            if job.key is not None:
                self._finish_key(job.key)
        count = len(done) - before
        self.leased -= count
        self._finished += count
        return count

    def nak(self, number: int, lease: str, now: float, in_s: float = 0.0, why: str = "") -> bool:
        """Have a job delivered again, after some seconds; return False as `ack` does."""
        job = self._leased_to(number, lease)
        if job is None:
            return False
        self._end_try(job, now, why or "its worker has given it back", in_s)
        return True

    def more(self, number: int, lease: str, now: float) -> bool:
        """Give a worker as much time for a job as at first; return False as `ack` does."""
        job = self._leased_to(number, lease)
        if job is None:
            return False
        job.due = now + job.ack_s
        self._timers.set(job.due, job.number)
        if not lease.startswith(OF_CONNECTION):
            self._changed[number] = None
        return True

    def term(self, number: int, lease: str, why: str) -> bool:
        """Give up a job, which is no use trying again; return False as `ack` does."""
        job = self._leased_to(number, lease)
        if job is None:
            return False
        self._release(job)
        self._die(job, why or "its worker has given it up")
        return True

    def _leased_to(self, number: int, lease: str) -> OpenJob | None:
        job = self._jobs.get(number)
        return job if job is not None and job.at is LEASED and job.is_sent and job.lease == lease else None

    # Time

    def expire(self, now: float) -> int:
        """End the leases whose time is over, and the waits; return the number of those leases."""
        self._forget_timers()
        ended = 0
        for due, number in self._timers.take(now):
            job = self._jobs.get(number)
            if job is None or job.due != due:
                continue
            if job.at is LEASED:
                ended += 1
                self._end_try(job, now, f"no answer within {job.ack_s:g} s")
            elif job.at is DELAYED:
                job.at = READY
                heapq.heappush(self._ready, number)
        return ended

    def _forget_timers(self) -> None:
        """Leave out the timers that mean nothing any more, if there are many."""
        if self._timers.count > 2 * len(self._jobs) + SPARE_TIMERS:
            timed = (each for each in self._jobs.values() if each.at is DELAYED or (each.at is LEASED and each.is_sent))
            self._timers.replace((each.due, each.number) for each in timed)

    # The ends of leases and jobs

    def _release(self, job: OpenJob) -> None:
        """Take a job from its worker, which may get another one."""
        self.leased -= 1
        worker, job.worker = job.worker, None
        if worker is not None:
            del worker.jobs[job.number]
            if not worker.once or not job.is_sent:
                self._queue(worker)

    def _end_try(self, job: OpenJob, now: float, why: str, in_s: float = 0.0) -> None:
        """End a lease without success."""
        self._release(job)
        self._changed[job.number] = None
        if not job.is_sent:
            job.tries -= 1
        elif job.tries >= job.most_tries:
            self._die(job, why)
            return
        else:
            job.reason = why
        job.due = now + in_s
        self._place(job, now, is_first=True)

    def _place(self, job: OpenJob, now: float, *, is_first: bool) -> None:
        """Put a job where it waits."""
        if not is_first:
            self._park(job)
        elif job.due > now:
            job.at = DELAYED
            self._timers.set(job.due, job.number)
        else:
            job.at = READY
            heapq.heappush(self._ready, job.number)

    def _die(self, job: OpenJob, reason: str) -> None:
        job.at = DEAD
        self.dead.append(Dead(job.number, job.tries, reason, job.lease))

    def bury(self) -> None:
        """Finish the first dead job."""
        self._finish(self._jobs[self.dead.popleft().number])
        self._died += 1

    def _finish(self, job: OpenJob) -> None:
        number = job.number
        del self._jobs[number]
        self._changed.pop(number, None)
        self._done.append(number)
        if job.key is not None:
            self._finish_key(job.key)

    def _finish_key(self, key: str) -> None:
        """Have the next job with a key go out."""
        queue = self._by_key[key]
        queue.popleft()
        if not queue:
            del self._by_key[key]
            return
        self._parked -= 1
        following = self._jobs[queue[0]]
        following.at = READY
        heapq.heappush(self._ready, following.number)

    # Changes to be stored

    def take_write(self, now: float, wall: float) -> GroupWrite | None:
        """Return all that has changed since the last time, to be stored; None if nothing has."""
        if not self.has_changes:
            return None
        shift = wall - now
        jobs = tuple(self._jobs[number].stored(shift) for number in self._changed)
        write = GroupWrite(self.path, self.name, self.position, jobs, tuple(self._done))
        self._changed.clear()
        self._done.clear()
        self._stored_position = self.position
        return write
