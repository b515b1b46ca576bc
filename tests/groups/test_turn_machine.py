"""The turns of two nodes in a real Redis, whose clock is set, under random steps, against a naive model.

The model knows what may be: which jobs may go out, and to whom answers are late. The script decides which of them go.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rawws.backplane.lease_scripts import OPEN, STATES
from rawws.backplane.publisher import PUBLISH
from rawws.backplane.turn_script import TURN
from rawws.broadcast.message_ids import MessageId
from rawws.groups.leases import Worker
from rawws.groups.mirror import Mirror, Turn
from rawws.groups.protocol import Answer, Verb
from tests.effort import examples
from tests.redis_server import free_port
from tests.serving.machine import LOOPBACK, need

KEYS = (None, None, "a", "b")
LIMIT, ACK_S = 3, 10
CLOCK = "{redis.call('GET', 'clock'), 0}"


class Redis:
    """A blocking client of a server of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port))
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *words: str | bytes | int) -> Any:
        raw = [b"*%d\r\n" % len(words)]
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            raw.append(b"$%d\r\n%b\r\n" % (len(data), data))
        self._socket.sendall(b"".join(raw))
        return self._read()

    def run(self, script: str, keys: list[str], *arguments: str | int) -> Any:
        """Run a script by the clock that is set."""
        return self.ask("EVAL", script.replace("redis.call('TIME')", CLOCK), len(keys), *keys, *arguments)

    def _read(self) -> Any:
        line = self._file.readline()[:-2]
        kind, rest = line[:1], line[1:]
        assert kind != b"-", rest
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest


@contextmanager
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", LOOPBACK, "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(1000):
                try:
                    client = Redis(port)
                    break
                except OSError:
                    time.sleep(0.01)
            yield client
            client.close()
        finally:
            process.kill()
            process.wait()


@dataclass
class Task:
    """A message as the model sees it."""

    key: str | None
    sent: int = 0
    not_before: float = 0.0
    worker: Worker | None = None
    until: float = 0.0


@dataclass
class Model:
    """The unfinished messages, in their order, and those that are finished."""

    tasks: dict[str, Task] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)

    def fail(self, name: str, not_before: float) -> None:
        task = self.tasks[name]
        task.worker, task.not_before = None, not_before
        if task.sent >= LIMIT:
            self.dead.add(name)
            del self.tasks[name]

    def may_go_out(self, name: str, now: float) -> bool:
        task = self.tasks[name]
        if task.worker is not None or task.not_before > now:
            return False
        before = list(self.tasks)[: list(self.tasks).index(name)]
        return task.key is None or all(self.tasks[other].key != task.key for other in before)


class TurnMachine(RuleBasedStateMachine):
    redis: Redis

    def __init__(self) -> None:
        super().__init__()
        self.redis.ask("FLUSHALL")
        self.now = 1_700_000_000.0
        self.redis.ask("SET", "clock", int(self.now))
        self.nodes = [Mirror("n1", itertools.count(1)), Mirror("n2", itertools.count(1))]
        self.workers: list[tuple[Mirror, Worker]] = []
        self.model = Model()
        self.published = 0
        self.names = 0
        (self.born, _) = self.redis.run(OPEN, ["rawws:/pay"], "sms", "/pay", "born", "last", 10, 10**9, 100, 10, 10**6)

    # Events

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 3))
    def publish(self, key: str | None, count: int) -> None:
        for _ in range(count):
            self.published += 1
            fields = ["data", f"m{self.published}", *(["key", key] if key else [])]
            marker = f"1:{self.published - 1}" if self.published > 1 else ""
            arguments: list[str | int] = [
                marker,
                1,
                self.published,
                99,
                0,
                1,
                1,
                10**6,
                999,
                2,
                0,
                "",
                len(fields),
                *fields,
            ]
            (given,) = self.redis.run(PUBLISH, ["rawws:node:x", "rawws:/pay"], *arguments)
            self.model.tasks[given.decode()] = Task(key)

    @rule(node=st.integers(0, 1), most=st.integers(1, 3))
    def join(self, node: int, most: int) -> None:
        if len(self.workers) < 4:
            self.names += 1
            worker = Worker(f"#{self.names} w", most=most, ack_s=ACK_S, tries=LIMIT)
            self.nodes[node].join(worker)
            self.workers.append((self.nodes[node], worker))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        node, worker = self.workers.pop(data.draw(st.integers(0, len(self.workers) - 1)))
        node.leave(worker, "it has gone")
        self.expire()
        for name, task in list(self.model.tasks.items()):
            if task.worker is worker:
                self.model.fail(name, 0)
        self.turn(node)

    @precondition(lambda self: any(task.worker for task in self.model.tasks.values()))
    @rule(data=st.data(), verb=st.sampled_from(list(Verb)), wait=st.sampled_from([0, 0, 5, 30]))
    def answer(self, data: st.DataObject, verb: Verb, wait: int) -> None:
        name = data.draw(st.sampled_from([name for name, task in self.model.tasks.items() if task.worker]))
        task = self.model.tasks[name]
        node, worker = next(each for each in self.workers if each[1] is task.worker)
        assert node.say(_answer(verb, name, wait), worker)
        if verb is Verb.ACK:
            self.model.done.add(name)
            del self.model.tasks[name]
        elif verb is Verb.NAK:
            self.model.fail(name, self.now + wait)
        elif verb is Verb.TERM:
            self.model.dead.add(name)
            del self.model.tasks[name]
        else:
            task.until = self.now + ACK_S
        self.turn(node)

    @rule(seconds=st.sampled_from([1, 4, 11, 40]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.redis.ask("SET", "clock", int(self.now))

    @rule(node=st.integers(0, 1))
    def take_turn(self, node: int) -> None:
        self.turn(self.nodes[node])

    @rule(node=st.integers(0, 1), arrives=st.booleans())
    def lose_a_turn(self, node: int, arrives: bool) -> None:
        """The answer of a turn is lost, or already the call."""
        mirror = self.nodes[node]
        turn = mirror.begin(self.now)
        if arrives:
            self.expire()
            self.call(turn)
        mirror.fail(turn)
        self.turn(mirror)

    # Turns

    def expire(self) -> None:
        for name, task in list(self.model.tasks.items()):
            if task.worker is not None and task.until <= self.now:
                self.model.fail(name, 0)

    def call(self, turn: Turn) -> Any:
        request = json.dumps({"node": turn.node, **turn.request(self.born.decode())})
        return self.redis.run(TURN, ["rawws:/pay", "rawws:/pay.sms.dead"], "sms", "/pay", request, 1000, 10**6, 999)

    def turn(self, mirror: Mirror) -> None:
        self.expire()
        turn = mirror.begin(self.now)
        status, results, handed, _, lost, next_ms, is_more, before = self.call(turn)
        assert (status, lost) == (b"OK", [])
        assert not mirror.end(turn, results, self.now, is_more=bool(is_more), before=before)
        free = sum(count for _, count in turn.wants)
        for place, given, tried, fields in handed:
            name, worker = given.decode(), turn.wants[place - 1][0]
            assert self.model.may_go_out(name, self.now)
            task = self.model.tasks[name]
            task.sent += 1
            task.worker, task.until = worker, self.now + ACK_S
            assert tried == task.sent <= LIMIT
            assert fields[:2] == [b"data", b"m%d" % (self.number_of(name))]
            assert mirror.hold(turn, worker, name, self.now)
        assert not is_more
        if len(handed) < free:  # then there is nothing else that could go out
            assert not any(self.model.may_go_out(name, self.now) for name in self.model.tasks)
        if next_ms >= 0:
            assert next_ms > 0

    def number_of(self, name: str) -> int:
        return 1 + sorted({*self.model.tasks, *self.model.done, *self.model.dead}, key=_pair).index(name)

    @invariant()
    def workers_have_what_they_may(self) -> None:
        for _, worker in self.workers:
            assert sum(task.worker is worker for task in self.model.tasks.values()) <= worker.most

    def teardown(self) -> None:
        """In the end every job is done or dead, and Redis has nothing left of them."""
        for node, worker in self.workers:
            node.leave(worker, "it has gone")
        self.now += 10_000
        self.redis.ask("SET", "clock", int(self.now))
        self.expire()
        self.workers = [(self.nodes[0], Worker("#0 good", most=5, ack_s=ACK_S, tries=LIMIT))]
        self.nodes[0].join(self.workers[0][1])
        self.turn(self.nodes[1])
        while self.model.tasks:
            self.turn(self.nodes[0])
            for name in [name for name, task in self.model.tasks.items() if task.worker]:
                assert self.nodes[0].say(_answer(Verb.ACK, name), self.workers[0][1])
                self.model.done.add(name)
                del self.model.tasks[name]
        self.turn(self.nodes[0])
        assert len(self.model.done) + len(self.model.dead) == self.published
        (state,) = self.redis.run(STATES, ["x"], "sms", "/pay")
        waiting, leased, oldest, _, delivered, redelivered, done, dead, workers = state
        assert (waiting, leased, oldest, workers) == (0, 0, b"", 1)
        assert (done, dead) == (len(self.model.done), len(self.model.dead))
        assert delivered - redelivered <= self.published
        assert self.redis.ask("XLEN", "rawws:/pay.sms.dead") == dead
        left = {key.decode().split(":")[2] for key in self.redis.ask("KEYS", "rawws:group:*")}
        assert {each.partition("/")[0] for each in left} <= {"sms"}
        for what in ("jobs", "due", "ready", "parked", "busy"):
            assert not self.redis.ask("EXISTS", f"rawws:group:sms:{what}/pay"), what


def _answer(verb: Verb, name: str, wait: float = 0) -> Answer:
    milliseconds, _, sequence = name.partition("-")
    return Answer(verb, MessageId(milliseconds, int(sequence)), wait if verb is Verb.NAK else 0.0)


def _pair(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("-")))


def test_turns_in_redis_behave_as_the_naive_model() -> None:
    need(shutil.which("redis-server"), "redis-server")
    with redis() as client:
        machine = type("Machine", (TurnMachine,), {"redis": client})
        run_state_machine_as_test(machine, settings=settings(max_examples=examples(60), stateful_step_count=30))
