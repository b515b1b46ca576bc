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

from benchmarks import wire
from benchmarks.soak.clients import Cut, Line, Refused, item_of, post_head
from benchmarks.soak.kills import Killable
from benchmarks.soak.ledger import Ledger, Link

GROUP = "g"
POSTERS = 2  # of each room
SOCKET_WORKERS, MOST = 3, 4  # of each room, and the jobs of each at a time
MANY_TRIES, FEW_TRIES = 1000, 5
# The lease of a worker by WebSocket ends with its connection. That of one by HTTP has to end by itself, if it vanishes.
SOCKET_ACK_S, HTTP_ACK_S = 120, 8
LIFE_S = 4.0  # at most, of a worker
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
                            await self._do_all(kind, ledger, link, line)
                        ledger.kill(link)
            except* (Cut, OSError, Refused) as errors:
                if is_open and not ledger.is_cut(link):
                    ledger.tell(f"{name} was cut off: {errors.exceptions[0]}")
            finally:
                ledger.leave(link)
            await trio.sleep(REST_S)

    async def _do_all(self, kind: Kind, ledger: Ledger, link: Link, line: Line) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                head, _, payload, _ = await line.message_with_head()
                if "lost" in head:
                    ledger.note_lost(link, head["lost"])
                    continue
                key, _, number = payload.decode().partition(" ")
                key = key if kind.has_keys else ""
                ledger.get(link, head["id"], head["try"], trio.current_time(), key, int(number))
                nursery.start_soon(self._do, kind, ledger, link, line, head["id"])

    async def _do(self, kind: Kind, ledger: Ledger, link: Link, line: Line, job: str) -> None:
        await trio.sleep(self._chance.uniform(0, 0.01))
        if self._chance.random() < 0.1:
            await self._say(line, more=job)
            await trio.sleep(self._chance.uniform(0, 0.1))
        if kind.is_poison or self._chance.random() < 0.05:
            ledger.give_back(link, job)
            await self._say(line, nak=job, why="poison", **{"in": self._chance.choice([0, 0, 0.05])})
        else:
            ledger.ack(link, job)
            await self._say(line, ack=job)

    @staticmethod
    async def _say(line: Line, **members: Any) -> None:
        await line.send(wire.client_frame(json.dumps(members).encode(), wire.FIN | wire.TEXT))

    async def _work_by_http(self, kind: Kind) -> None:
        """Work with a request for each job and each answer. The lease goes on when the server is killed."""
        ledger = self.ledgers[kind]
        while True:
            link = ledger.open("curl", 1, outlives=True)
            with suppress(Cut, OSError, Refused), await Line.open(self._server.port) as line:
                request = f"GET {kind.target}&ack={HTTP_ACK_S}&wait=1 HTTP/1.1"
                status, fields, payload = await line.exchange(request)
                if status == 200:
                    job, lease = fields["rawws-id"], fields["rawws-lease"]
                    now = trio.current_time()
                    key, _, number = payload.decode().partition(" ")
                    key = key if kind.has_keys else ""
                    ledger.get(link, job, int(fields["rawws-try"]), now, key, int(number))
                    if self._may_vanish and not self._is_over and self._chance.random() < 0.05:
                        self._may_vanish -= 1
                        ledger.kill(link, now + HTTP_ACK_S / 2)  # its time began before the answer came
                    else:
                        await self._answer_by_http(kind, ledger, link, job, lease)
                elif status != 204:
                    ledger.tell(f"a GET for a job was answered with {status}: {payload!r}")
            ledger.leave(link)
            await trio.sleep(REST_S)

    async def _answer_by_http(self, kind: Kind, ledger: Ledger, link: Link, job: str, lease: str) -> None:
        verb = "nak" if kind.is_poison else "ack"
        if kind.is_poison:
            ledger.give_back(link, job)
        else:
            ledger.ack(link, job)
        for tries in itertools.count():
            with suppress(Cut, OSError), await Line.open(self._server.port) as line:
                answer = await line.exchange(f"POST {kind.path}?group={GROUP}&{verb}={job}&lease={lease} HTTP/1.1")
                # The one before may have been taken, though its answer didn't come.
                if answer[0] != 204 and not (tries and answer[0] == 404):
                    ledger.tell(f"the {verb} of {job} was answered with {answer[0]}: {answer[2]!r}")
                return
            await trio.sleep(REST_S)

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
