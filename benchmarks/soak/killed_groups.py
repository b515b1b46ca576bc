"""Kill the workers of groups and their server again and again, and account for every job.

There are three groups, each of a room of its own. The jobs of *plain* are done, given back and tried again; those of
*keyed* have a key each, and are done one after the other; and all of *poison* are given back until they are dead.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from benchmarks.soak.clients import Cut, Line, Refused, item_of, post_head
from benchmarks.soak.kills import Killable
from benchmarks.soak.ledger import Ledger, Link
from benchmarks.soak.working import GIVEN_BACK, answer, take, work

GROUP = "g"
POSTERS = 2  # of each room
SOCKET_WORKERS, MOST = 3, 4  # of each room, and the jobs of each at a time
MANY_TRIES, FEW_TRIES = 1000, 5
# The lease of a worker by WebSocket ends with its connection. That of one by HTTP has to end by itself, if it vanishes.
SOCKET_ACK_S, HTTP_ACK_S = 120, 8
LIFE_S = 4.0  # at most, of a worker
VANISHING = 0.05  # the share of the jobs with which a worker by HTTP vanishes, at first
REST_S = 0.02
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Kind:
    """A room with its group."""

    name: str
    tries: int = MANY_TRIES
    has_keys: bool = False
    is_poison: bool = False

    @property
    def path(self) -> str:
        return f"/groups/{self.name}"

    @property
    def target(self) -> str:
        return f"{self.path}?group={GROUP}&tries={self.tries}"

    @property
    def given_back(self) -> float:
        return 1.0 if self.is_poison else GIVEN_BACK

    def about(self, _: str, payload: bytes, __: bool) -> tuple[str, int]:
        """Return the key of a message and its number, which are what it says."""
        key, _, number = payload.decode().partition(" ")
        return (key, int(number)) if self.has_keys else ("", 0)


KINDS = (Kind("plain"), Kind("keyed", has_keys=True), Kind("poison", FEW_TRIES, is_poison=True))


class KilledGroups:
    """A run: ``rounds`` kills of the server, with all publishers and workers at work."""

    def __init__(self, server: Killable, rounds: int, seed: str, most_s: float = 0.4) -> None:
        """A server lives for at most ``most_s`` after it is ready."""
        self.ledgers = {kind: Ledger(kind.name) for kind in KINDS}
        self.left_over: list[str] = []
        self._server = server
        self._rounds, self._most_s = rounds, most_s
        self._chance = random.Random(seed)
        self._may_vanish = rounds // 2  # workers with HTTP, whose leases have to end by themselves
        self._accepted: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
        self._is_over = False

    @property
    def counts(self) -> Counter[str]:
        """The counts of all groups together."""
        counts: Counter[str] = Counter()
        for ledger in self.ledgers.values():
            counts += ledger.counts
        counts["kills"] = self.ledgers[KINDS[0]].server_kills
        counts["jobs"] = sum(map(len, self._accepted.values()))
        return counts

    async def run(self) -> list[str]:
        """Return the faults."""
        await self._server.start()
        for kind in KINDS:
            with await Line.open(self._server.port) as line:
                await line.exchange(f"GET {kind.target} HTTP/1.1")  # makes the group
        async with trio.open_nursery() as workers:
            for kind, number in itertools.product(KINDS, range(SOCKET_WORKERS)):
                workers.start_soon(self._work_by_websocket, kind, f"w{number}")
            for kind in KINDS:
                workers.start_soon(self._work_by_http, kind)
            async with trio.open_nursery() as publishers:
                for kind, number in itertools.product(KINDS, range(POSTERS)):
                    publishers.start_soon(self._post, kind, f"p{number}")
                for _ in range(self._rounds):
                    await trio.sleep(self._chance.uniform(0, self._most_s))
                    self._server.kill()
                    for ledger in self.ledgers.values():
                        ledger.kill_server()
                    await self._server.start()
                self._is_over = True
            with trio.move_on_after(PATIENCE_S):
                while any([await self._has_left(kind) for kind in KINDS]):
                    await trio.sleep(REST_S)
            workers.cancel_scope.cancel()
        for kind, ledger in self.ledgers.items():
            await self._check(kind, ledger)
        return [*self.left_over, *(fault for ledger in self.ledgers.values() for fault in ledger.faults)]

    async def _post(self, kind: Kind, name: str) -> None:
        """Publish, each message until it has an id. Those of one publisher have one key, if there are keys."""
        for number in itertools.count(1):
            if self._is_over:
                return
            payload = f"{name} {number}".encode()
            key = name if kind.has_keys else ""
            head = post_head(kind.path, len(payload), is_text=True, once=f"{name}:{number}", key=key)
            job = ""
            while not job:
                with suppress(Cut, OSError, Refused), await Line.open(self._server.port) as line:
                    job = (await line.ask(head, payload))["id"]
                await trio.sleep(REST_S)
            self._accepted[kind].add(job)

    # Workers

    async def _work_by_websocket(self, kind: Kind, name: str) -> None:
        """Work, and be killed now and then."""
        ledger = self.ledgers[kind]
        target = f"{kind.target}&max={MOST}&ack={SOCKET_ACK_S}"
        while True:
            link = ledger.open(name, MOST)
            is_open = False
            try:
                with await Line.open(self._server.port) as line:
                    await line.upgrade(self._server.port, target)
                    is_open = not ledger.is_cut(link)  # otherwise it may be a connection to the next server
                    if is_open:
                        with trio.move_on_after(self._chance.uniform(0, LIFE_S)):
                            await work(line, ledger, link, self._chance, kind.about, kind.given_back)
                        ledger.kill(link)
            except* (Cut, OSError, Refused) as errors:
                if is_open and not ledger.is_cut(link):
                    ledger.tell(f"{name} was cut off: {errors.exceptions[0]}")
            finally:
                ledger.leave(link)
            await trio.sleep(REST_S)

    async def _work_by_http(self, kind: Kind) -> None:
        """Work with a request for each job and each answer. The lease goes on when the server is killed."""
        ledger = self.ledgers[kind]
        while True:
            link = ledger.open("curl", 1, outlives=True)
            taken = None
            with suppress(Cut, OSError, Refused), await Line.open(self._server.port) as line:
                target = f"{kind.target}&ack={HTTP_ACK_S}&wait=1"
                taken = await take(line, target, ledger, link, kind.about)
            if taken is not None:
                await self._answer_or_vanish(kind, ledger, link, *taken)
            ledger.leave(link)
            await trio.sleep(REST_S)

    async def _answer_or_vanish(self, kind: Kind, ledger: Ledger, link: Link, job: str, lease: str) -> None:
        if self._may_vanish and not self._is_over and self._chance.random() < VANISHING:
            self._may_vanish -= 1
            ledger.kill(link, trio.current_time() + HTTP_ACK_S / 2)  # its time began before the answer came
        else:
            target = f"{kind.path}?group={GROUP}&lease={lease}"
            await answer(self._open, target, ledger, link, job, gives_back=kind.is_poison)

    async def _open(self) -> Line:
        return await Line.open(self._server.port)

    # The end

    async def _has_left(self, kind: Kind) -> bool:
        state = await self._state(kind)
        return bool(state["waiting"] or state["leased"])

    async def _state(self, kind: Kind) -> dict[str, Any]:
        with await Line.open(self._server.port) as line:
            state: dict[str, Any] = await line.ask(f"GET {kind.path}?group={GROUP}&state HTTP/1.1")
            return state

    async def _check(self, kind: Kind, ledger: Ledger) -> None:
        state = await self._state(kind)
        figures = {name: state[name] for name in ("waiting", "leased")}
        if any(figures.values()):
            self.left_over.append(f"{kind.name}: the group has left {figures}")
        messages = {item_of(each).message_id for each in await self._read(kind.path)}
        if lost := self._accepted[kind] - messages:
            ledger.tell(f"{len(lost)} messages are lost that were answered with 202: {sorted(lost)[:5]}")
        dead = [json.loads(each["text"].partition("\n")[0]) for each in await self._read(f"{kind.path}.{GROUP}.dead")]
        if kind.is_poison:
            ledger.check_dead(messages, dead, kind.tries)
        else:
            ledger.check_done(messages)
            for each in dead:
                ledger.tell(f"{each} is dead")

    async def _read(self, path: str) -> Sequence[dict[str, str]]:
        """Return all messages of a room, as a poll has them."""
        found: list[dict[str, str]] = []
        since = "0-0"
        with await Line.open(self._server.port) as line:
            while True:
                answer = await line.ask(f"GET {path}?since={since} HTTP/1.1")
                if not answer["messages"]:
                    return found
                found += answer["messages"]
                since = answer["next"]
