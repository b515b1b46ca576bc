"""One group of a shared room, as one node serves it: turns in Redis, and the workers of this node."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

import trio

from rawws import logs
from rawws.access.dead_rooms import dead_room
from rawws.backplane.leases import Leases, LeasesAway, TurnReply
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.stream_entries import Retention
from rawws.errors import Refusal
from rawws.groups.leases import Worker
from rawws.groups.mirror import Event, Mirror, Turn
from rawws.groups.protocol import NOT_LEASED, Answer, Verb
from rawws.groups.queue import ENDED, Answering, Client
from rawws.groups.shelf import StoredMessage
from rawws.relay.backplane import AWAY
from rawws.store.stored_rooms import BROKEN
from rawws.wire.trace import FAULT, STATE, shorten

# A client waits for at most this time until a turn has taken place.
PATIENCE_S = 5.0
# Workers that wait look for messages that a program has added without ringing the bell.
POLL_S = 1.0
# Workers that have all that they may are counted anew, and a Redis that has lost their jobs is noticed.
BEAT_S = 5.0
# The rest after a call that has failed.
REST_S = 0.5


class Maker(Protocol):
    """Makes the group again in a Redis that has lost it."""

    async def __call__(self, queue: SharedQueue) -> Refusal | None:
        """Set the group's new incarnation, or return why there can't be one. Raises `LeasesAway`."""


class SharedQueue:
    """A group with its leases in Redis. `run` has to be running."""

    def __init__(self, path: str, name: str, born: str, leases: Leases, kept: Retention, make_again: Maker) -> None:
        """``kept`` is what the dead room keeps."""
        self.path = path
        self.name = name
        self.born = born
        self.problem: Refusal | None = None
        self.mirror = Mirror(leases.node, leases.serials)
        self._leases = leases
        self._dead = dead_room(path, name), kept
        self._make_again = make_again
        self._clients: dict[Worker, Client] = {}
        self._has_work = True
        self._work = trio.lowlevel.ParkingLot()
        self._to_tell: list[_Waiter] = []
        self._next_at = math.inf  # something is due in Redis
        self._turned_at = -math.inf
        self._is_lost = False  # Redis doesn't have it any more
        self._told_workers = 0  # the number of workers that Redis may know of

    def __repr__(self) -> str:
        return f"<SharedQueue {self.name} of {self.path} {self.mirror!r}>"

    @property
    def clients(self) -> list[Client]:
        """The other ends of all workers of this node."""
        return list(self._clients.values())

    def held_bytes(self) -> int:
        """Return the bytes of memory that it takes."""
        return self.mirror.held_bytes

    # Events

    def kick(self) -> None:
        """Have a turn soon."""
        if not self._has_work:
            self._has_work = True
            self._work.unpark_all()

    def join(self, worker: Worker, client: Client) -> None:
        self._clients[worker] = client
        self.mirror.join(worker)
        self.kick()

    def leave(self, worker: Worker, why: str = "its worker has gone") -> None:
        self._clients.pop(worker, None)
        self.mirror.leave(worker, why)
        self.kick()

    def detach(self, worker: Worker) -> None:
        self._clients.pop(worker, None)
        self.mirror.detach(worker)
        self.kick()

    def pause(self, worker: Worker) -> None:
        worker.is_paused = True

    def resume(self, worker: Worker) -> None:
        worker.is_paused = False
        self.kick()

    def say(self, answer: Answer, client: Answering) -> None:
        if self.mirror.say(answer, client.worker):
            self.kick()
        else:
            client.lose(answer.job)

    def acknowledge(self, epoch: str, numbers: Sequence[int], client: Answering) -> None:
        for number in numbers:
            self.say(Answer(Verb.ACK, MessageId(epoch, number)), client)

    async def say_by_token(self, answer: Answer, token: str) -> Refusal | None:
        event = self.mirror.say_by_token(answer, token)
        problem = await self.settled()
        if event.is_own is None:
            self.mirror.withdraw(event)
            return problem or AWAY
        return None if event.is_own else NOT_LEASED

    async def settled(self) -> Refusal | None:
        if self.problem is not None:
            return self.problem
        waiter = _Waiter()
        self._to_tell.append(waiter)
        self.kick()
        with trio.move_on_after(PATIENCE_S):
            await waiter.event.wait()
            return waiter.problem
        return self.problem or AWAY

    async def leave_all(self) -> None:
        """Give back what all workers of this node have: it ends."""
        for worker in list(self._clients):
            self.leave(worker, "its server has ended")
        while (self._told_workers or self.mirror.has_events) and await self.settled() is None:
            pass

    def regrant(self) -> int:
        """End the workers that may not have jobs any more, and return their number."""
        ended = 0
        for worker, client in list(self._clients.items()):
            if (refusal := client.refuse()) is not None:
                self._send_away(worker, client, refusal)
                ended += 1
        return ended

    def _send_away(self, worker: Worker, client: Client, refusal: Refusal) -> None:
        self.leave(worker, "its worker may not work here any more")
        client.end(refusal)

    def stop(self, problem: Refusal) -> None:
        """Do nothing any more, and send all workers away."""
        self.problem = problem
        clients, self._clients = self._clients, {}
        for worker, client in clients.items():
            self.mirror.detach(worker)
            client.end(problem)
        self.mirror.forget()
        self._tell(self._to_tell, problem)
        self._to_tell = []
        self._has_work = True
        self._work.unpark_all()

    @staticmethod
    def _tell(waiters: list[_Waiter], problem: Refusal | None) -> None:
        for waiter in waiters:
            waiter.problem = problem
            waiter.event.set()

    # Its task

    async def run(self) -> None:
        """Serve the group until cancelled, or until it is ended."""
        try:
            while self.problem is None:
                await self._wait()
                if self.problem is None:
                    await self._take_turn()
        except Exception:
            logs.server.exception(
                "#%d ! an error in rawws itself; the group %s has stopped at this node", logs.SERVER, self.name
            )
            self.stop(BROKEN)

    async def _wait(self) -> None:
        if not self._has_work:
            with trio.move_on_at(self._next_turn_at):
                await self._work.park()
        else:
            await trio.lowlevel.checkpoint()
        self._has_work = False

    @property
    def _next_turn_at(self) -> float:
        """The time of the next turn if nothing happens."""
        if self.mirror.is_hungry:
            return min(self._next_at, self._turned_at + POLL_S)
        return min(self.mirror.next_due(), self._turned_at + BEAT_S) if self.mirror.workers else math.inf

    async def _take_turn(self) -> None:
        waiters, self._to_tell = self._to_tell, []
        problem: Refusal | None = AWAY
        try:
            if not self._is_lost or await self._begin_again():
                problem = await self._call()
        except LeasesAway:
            self.kick()
        finally:
            self._tell(waiters, self.problem or problem)
        if problem is not None and self.problem is None:
            await trio.sleep(REST_S)

    async def _call(self) -> Refusal | None:
        """Take a turn in Redis, and return why that can't be."""
        turn = self.mirror.begin(trio.current_time())
        self._told_workers = max(self._told_workers, turn.workers)
        reply = TurnReply("STALE")
        try:
            reply = await self._leases.turn(self.name, self.path, self._dead, turn.request(self.born))
        finally:
            if reply.status == "STALE":
                self.mirror.fail(turn)
            elif reply.status != "OK":
                self.mirror.refuse(turn)
        if self.problem is not None:
            return self.problem
        match reply.status:
            case "OK":
                self._end_turn(turn, reply)
                return None
            case "ENDED":
                self.stop(ENDED)
                return ENDED
            case "GONE":
                self._is_lost = True
                self.kick()
        return AWAY

    async def _begin_again(self) -> bool:
        """Make the group again in a Redis that has lost it, and return whether there is one."""
        if (refusal := await self._make_again(self)) is not None:
            self.stop(refusal)
            return False
        self._is_lost = False
        sentence = f"Redis has lost the group {self.name} of {shorten(self.path)} with its leases; it begins anew"
        logs.server_line(logging.ERROR, FAULT, sentence)
        self._lose(self.mirror.forget())
        return True

    def _end_turn(self, turn: Turn, reply: TurnReply) -> None:
        now = trio.current_time()
        self._lose(self.mirror.end(turn, reply.results, now, is_more=reply.is_more, before=reply.before))
        self._told_workers = turn.workers
        self._next_at = math.inf if reply.next_s is None else now + reply.next_s
        self._turned_at = now
        self._deliver(turn, reply)
        whose = f"{self.name} of {shorten(self.path)}"
        if reply.lost:
            sentence = f"jobs of the group {whose} are lost in Redis: {len(reply.lost)}, from {reply.lost[0]} on"
            logs.server_line(logging.ERROR, FAULT, sentence)
        for dead in reply.dead:
            where = shorten(self._dead[0])
            sentence = f"job {dead.id} of the group {self.name} is dead (tries: {dead.tries}): {dead.reason}"
            logs.server_line(logging.WARNING, STATE, f"{sentence}; it is in {where}")
        if self.mirror.is_behind or self.mirror.has_events:
            self.kick()

    def _deliver(self, turn: Turn, reply: TurnReply) -> None:
        """Send jobs. A job that can't be sent is given back, and the try doesn't count."""
        asked: dict[Worker, Client] = {}  # what a worker may do doesn't change within this turn
        for _, name, tried, message, worker in ((*each, turn.wants[each.want][0]) for each in reply.handed):
            client = asked.get(worker)
            if client is None and (client := self._clients.get(worker)) is not None:
                if (refusal := client.refuse()) is not None:
                    self._send_away(worker, client, refusal)
                    client = None
                else:
                    asked[worker] = client
            # A worker may stop or go while it is sent another job.
            if client is None or worker.is_paused or worker not in self._clients:
                self.mirror.give_back(worker, name)
            elif self.mirror.hold(turn, worker, name, trio.current_time()):
                client.deliver(_id_of(name), tried, StoredMessage(message.opcode, message.payload))
        for client in asked.values():
            client.flush()

    def _lose(self, late: list[Event]) -> None:
        """Tell workers that they have answered for jobs which they no longer have."""
        for event in late:
            client = self._clients.get(event.worker) if event.worker is not None else None
            if client is not None and hasattr(client, "lose"):
                client.lose(_id_of(event.id))


class _Waiter:
    """Somebody who waits for the end of a turn."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.problem: Refusal | None = None


def _id_of(name: str) -> MessageId:
    milliseconds, _, sequence = name.partition("-")
    return MessageId(milliseconds, int(sequence))
