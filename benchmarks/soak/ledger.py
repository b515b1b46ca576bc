"""The leases of one group, as its workers see them, and the faults in that. This module uses no network.

A worker that is killed may have done its jobs just before, and so may all workers when the server is killed: as many
jobs may be done twice, and as many deliveries may have been seen by nobody. Anything else is a fault.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Link:
    """A worker's connection, or a request of one that has HTTP alone, whose lease outlives it and the server."""

    worker: str
    most: int  # jobs at a time
    server: int  # the number of kills of the server before it
    outlives: bool = False
    jobs: set[str] = field(default_factory=set)


class Ledger:
    """All deliveries and answers of a group."""

    def __init__(self, name: str) -> None:
        """The ``name`` is that of the group, in faults."""
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()  # acknowledgements that were sent, by job
        self.counts: Counter[str] = Counter()
        self.server_kills = 0
        self.excused = 0  # jobs that kills may have doubled, and deliveries that nobody saw because of them
        self._name = name
        self._links: set[Link] = set()
        self._tries: defaultdict[str, set[int]] = defaultdict(set)
        self._holders: dict[str, Link] = {}
        self._kept_until: dict[str, float] = {}  # by job: the time before which no other worker may have it
        self._of_key: defaultdict[str, dict[int, str]] = defaultdict(dict)  # jobs by their number

    def tell(self, fault: str) -> None:
        self.faults.append(f"{self._name}: {fault}")

    # The life of workers and of the server

    def open(self, worker: str, most: int, *, outlives: bool = False) -> Link:
        """Return a new connection, which isn't open yet. If the server is killed before that, it is no use."""
        link = Link(worker, most, self.server_kills, outlives)
        self._links.add(link)
        return link

    def leave(self, link: Link) -> None:
        """A connection has ended, or a request has been answered. Harmless twice."""
        self._links.discard(link)
        for job in link.jobs:
            if self._holders.get(job) is link:
                del self._holders[job]
        link.jobs.clear()

    def kill(self, link: Link, kept_until: float = -math.inf) -> None:
        """A worker ends in the middle of its work. Its lease may be kept until some time."""
        self.counts["workers killed"] += 1
        self.excused += link.most
        for job in link.jobs:
            self._kept_until[job] = kept_until
        self.leave(link)

    def kill_server(self) -> None:
        self.server_kills += 1
        self.excused += sum(link.most for link in self._links)

    def is_cut(self, link: Link) -> bool:
        """Return whether a connection has ended with the server, though there may be more to read from it."""
        return link.server < self.server_kills and not link.outlives

    # Jobs

    def get(self, link: Link, job: str, tried: int, now: float, key: str = "", number: int = 0) -> None:
        """A worker has got a job. Those with a key are numbered from 1 on."""
        self.counts["deliveries"] += 1
        if tried in self._tries[job]:
            self.tell(f"try {tried} of {job} has been delivered twice")
        self._tries[job].add(tried)
        if self.is_cut(link):
            return
        holder = self._holders.get(job)
        if holder is not None and not self.is_cut(holder):
            self.tell(f"{link.worker} has got {job}, which {holder.worker} has")
        if now < self._kept_until.pop(job, -math.inf):
            self.tell(f"{link.worker} has got {job} before the end of the lease of a worker that had vanished")
        if key:
            self._check_key(job, key, number)
        self._holders[job] = link
        link.jobs.add(job)

    def _check_key(self, job: str, key: str, number: int) -> None:
        numbers = self._of_key[key]
        if numbers and number < max(numbers):
            self.tell(f"message {number} of the key {key} came after {max(numbers)}")
        if number > 1 and not self.done[numbers.get(number - 1, "")]:
            self.tell(f"message {number} of the key {key} came before {number - 1} was done")
        numbers[number] = job

    def ack(self, link: Link, job: str) -> None:
        """A worker is about to acknowledge a job."""
        self.done[job] += 1
        self.give_back(link, job)

    def give_back(self, link: Link, job: str) -> None:
        """A worker is about to say that it hasn't done a job."""
        link.jobs.discard(job)
        if self._holders.get(job) is link:
            del self._holders[job]

    def note_lost(self, link: Link, job: str) -> None:
        """The server has said that a job isn't this worker's any more."""
        if not self.is_cut(link):
            self.tell(f"{link.worker} has lost {job} while it had it")

    # The end

    @property
    def doubles(self) -> int:
        return self.done.total() - len(self.done)

    def check_done(self, jobs: Iterable[str]) -> None:
        """Check that exactly these jobs have been done."""
        expected = set(jobs)
        faults = [f"{job} was never done" for job in sorted(expected - self.done.keys())]
        faults += [f"{job} was done, and is no message" for job in sorted(self.done.keys() - expected)]
        for fault in faults:
            self.tell(fault)
        self._check_kills()

    def check_dead(self, jobs: Iterable[str], dead: Iterable[Mapping[str, Any]], tries: int) -> None:
        """Check that exactly these jobs are dead, each once and after exactly so many tries."""
        found = list(dead)
        times = Counter(each["id"] for each in found)
        for job in sorted(times.keys() ^ set(jobs)):
            self.tell(f"{job} is {'dead, and is no message' if job in times else 'not dead'}")
        for job, count in times.items():
            if count > 1:
                self.tell(f"{job} is dead {count} times")
        for each in found:
            if each["tries"] != tries:
                self.tell(f"{each['id']} is dead after {each['tries']} tries: {each['reason']}")
        for job, seen in self._tries.items():
            if max(seen) > tries:
                self.tell(f"{job} was delivered {max(seen)} times")
        if self.done:
            self.tell(f"{len(self.done)} jobs were done")
        self._check_kills()

    def _check_kills(self) -> None:
        self.counts["jobs done twice"] = self.doubles
        if self.doubles > self.excused:
            self.tell(f"{self.doubles} jobs were done twice; kills explain {self.excused}")
        unseen = sum(max(seen) - len(seen) for seen in self._tries.values())
        if unseen > self.excused:
            self.tell(f"{unseen} deliveries were seen by nobody; kills explain {self.excused}")
