"""A group under random steps, against a naive model of it: plain dicts that are scanned whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rawws.groups.group import Group
from rawws.groups.leases import Delivery, Worker
from rawws.store.entries import GroupState, Job
from tests.effort import examples

KEYS = (None, None, "a", "b")
WALL = 1_700_000_000.0


@dataclass
class Out:
    """A job that a worker has, as the model sees it."""

    worker: Worker
    until: float


@dataclass
class Task:
    """A message as the model sees it."""

    key: str | None
    sent: int = 0  # deliveries
    not_before: float = 0.0
    out: Out | None = None


@dataclass
class Model:
    """The unfinished messages, in their order, and what became of the others."""

    tasks: dict[int, Task] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    dead: dict[int, int] = field(default_factory=dict)

    def fail(self, number: int, limit: int, not_before: float) -> None:
        task = self.tasks[number]
        task.out, task.not_before = None, not_before
        if task.sent >= limit:
            self.dead[number] = task.sent

    def may_go_out(self, number: int, now: float) -> bool:
        task = self.tasks[number]
        if task.out is not None or number in self.dead or task.not_before > now:
            return False
        return task.key is None or all(
            other.key != task.key for earlier, other in self.tasks.items() if earlier < number
        )


class GroupMachine(RuleBasedStateMachine):
    """Messages, workers, answers, time, and restarts from what was stored."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.newest = 0
        self.group = Group("/room", "g", 0)
        self.model = Model()
        self.workers: list[Worker] = []
        self.made = 0
        self.stored: dict[int, Job] = {}
        self.position = 0
        self.unsent: list[Delivery] = []

    # The store

    def store(self) -> None:
        """Store all changes, the dead ones among them."""
        for dead in list(self.group.dead):
            assert self.model.dead[dead.number] == dead.tries
            self.group.bury()
            del self.model.tasks[dead.number]
            self.model.done.add(dead.number)
        write = self.group.take_write(self.now, self.now + WALL)
        if write is None:
            return
        assert write.position >= self.position
        self.position = write.position
        for job in write.jobs:
            assert job.number <= write.position
            self.stored[job.number] = job
        for number in write.done:
            self.stored.pop(number, None)

    # Messages and workers

    @rule(count=st.integers(1, 5), key=st.sampled_from(KEYS), is_lost=st.integers(0, 9))
    def publish(self, count: int, key: str | None, is_lost: int) -> None:
        first = self.newest + 1
        self.newest += count
        self.group.offer(first, count, key, is_lost=not is_lost)
        for number in range(first, first + count):
            if is_lost:
                self.model.tasks[number] = Task(key)

    @rule(most=st.integers(1, 3), ack_s=st.integers(1, 20), tries=st.integers(1, 4), once=st.booleans())
    def join(self, most: int, ack_s: int, tries: int, once: bool) -> None:
        self.made += 1
        lease = f"t{self.made} http" if once else f"#{self.made}"
        worker = Worker(lease, most=1 if once else most, ack_s=ack_s, tries=tries, once=once)
        self.workers.append(worker)
        self.group.join(worker)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        self.workers.remove(worker)
        self.group.leave(worker, self.now)
        for number, task in self.model.tasks.items():
            if task.out is not None and task.out.worker is worker:
                self.model.fail(number, worker.tries, self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), pauses=st.booleans())
    def pause(self, data: st.DataObject, pauses: bool) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        (self.group.pause if pauses else self.group.resume)(worker)

    # Deliveries

    @rule(most=st.integers(1, 5))
    def assign(self, most: int) -> None:
        """Assign and store; each delivery is one that the model allows, and the first of those that it allows."""
        deliveries = self.group.assign(self.now, most)
        for number, tries in [(dead.number, dead.tries) for dead in self.group.dead]:
            self.model.dead.setdefault(number, tries)
        self.store()
        self.unsent += deliveries

    @precondition(lambda self: self.unsent)
    @rule(gives_back=st.integers(0, 5))
    def send(self, gives_back: int) -> None:
        delivery = self.unsent.pop(0)
        if not gives_back:
            self.group.give_back(delivery, self.now)
            assert not self.group.begin(delivery, self.now)
            return
        if not self.group.begin(delivery, self.now):
            assert delivery.worker not in self.workers  # it has left
            return
        task = self.model.tasks[delivery.number]
        assert self.model.may_go_out(delivery.number, self.now), "two leases, or a key out of order"
        assert len([1 for other in self.model.tasks.values() if other.out and other.out.worker is delivery.worker]) < (
            delivery.worker.most
        )
        task.sent += 1
        assert task.sent == delivery.tried
        task.out = Out(delivery.worker, self.now + delivery.worker.ack_s)
        if delivery.worker.once:
            self.group.detach(delivery.worker)

    # Answers

    @precondition(lambda self: self.model.tasks and self.made)
    @rule(data=st.data(), verb=st.sampled_from(["ack", "nak", "more", "term"]), in_s=st.sampled_from([0.0, 5.0]))
    def answer(self, data: st.DataObject, verb: str, in_s: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.tasks)))
        task = self.model.tasks[number]
        own = task.out is not None and bool(data.draw(st.integers(0, 4)))
        lease = task.out.worker.lease if own and task.out else f"#{self.made + 1}"
        match verb:
            case "ack":
                taken = self.group.ack(number, lease)
            case "nak":
                taken = self.group.nak(number, lease, self.now, in_s)
            case "more":
                taken = self.group.more(number, lease, self.now)
            case _:
                taken = self.group.term(number, lease, "no use")
        assert taken == own
        if not own:
            return
        assert task.out is not None
        worker = task.out.worker
        if verb == "ack":
            del self.model.tasks[number]
            self.model.done.add(number)
        elif verb == "nak":
            self.model.fail(number, worker.tries, self.now + in_s)
        elif verb == "more":
            task.out.until = self.now + worker.ack_s
        else:
            task.out = None
            self.model.dead[number] = task.sent

    # Time

    @rule(by=st.sampled_from([0.5, 1.0, 7.0]))
    def wait(self, by: float) -> None:
        self.now += by
        assert self.group.next_due <= min(
            (task.out.until for task in self.model.tasks.values() if task.out), default=math.inf
        )
        self.group.expire(self.now)
        for number, task in self.model.tasks.items():
            if task.out is not None and task.out.until <= self.now:
                self.model.fail(number, task.out.worker.tries, self.now)

    @rule()
    def restart(self) -> None:
        """Start again with what was stored: workers with a connection are gone, and leases of others live on."""
        self.store()
        jobs = tuple(self.stored.values())
        state = GroupState("/room", "g", self.position, jobs)
        keys = {number: task.key for number, task in self.model.tasks.items() if task.key}
        self.group = Group.restored(state, keys, self.now, self.now + WALL)
        self.workers.clear()
        self.unsent.clear()
        for number, task in self.model.tasks.items():
            if number > self.position:
                self.group.offer(number, 1, task.key)
            stored = self.stored.get(number)
            if stored is not None and not stored.lease.startswith("#"):
                task.sent = stored.tries  # one that was stored and not sent is a try
                task.out = None
                if stored.lease and stored.due - WALL > self.now:
                    self.made += 1
                    worker = Worker(stored.lease, tries=10**6, ack_s=30, once=True)
                    task.out = Out(worker, self.now + stored.due - self.now - WALL)
            elif stored is not None:
                task.sent, task.out = stored.tries, None

    @invariant()
    def nothing_is_lost(self) -> None:
        self.store()
        for number in self.model.tasks:
            assert number in self.stored or number > self.position
        assert set(self.stored) == {number for number in self.model.tasks if number <= self.position}
        assert self.group.oldest == min((*self.stored, self.position + 1))
        assert self.group.jobs == len(self.stored)
        assert not set(self.model.dead) & set(self.model.tasks)

    def teardown(self) -> None:
        """In the end one good worker gets all that is left, each job within some tries."""
        for worker in list(self.workers):
            self.group.leave(worker, self.now)
        dead = {job.number for job in self.group.dead} | set(self.model.dead)  # some by their worker's leaving just now
        self.model.tasks = {number: task for number, task in self.model.tasks.items() if number not in dead}
        while self.group.dead:
            self.group.bury()
        self.now += 10_000
        self.group.expire(self.now)
        good = Worker("#good", most=2, tries=10**9)
        self.group.join(good)
        finished = set()
        while deliveries := self.group.assign(self.now):
            for delivery in deliveries:
                assert self.group.begin(delivery, self.now)
                assert self.group.ack(delivery.number, good.lease)
                finished.add(delivery.number)
        assert finished >= set(self.model.tasks)
        assert not self.group.jobs
        assert not self.group.leased


def test_a_group_behaves_as_the_naive_model() -> None:
    run_state_machine_as_test(GroupMachine, settings=settings(max_examples=examples(200), stateful_step_count=40))
