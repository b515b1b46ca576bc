"""The work of one group: it reads messages, gives them to workers once that is stored, and stores what became of them.

One task serves a group with all its workers. In each turn it stores everything that has happened since the turn before
in one commit, and then sends the deliveries that are in it. So the number of commits doesn't grow with that of jobs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import trio

from rawws import logs
from rawws.access.dead_rooms import dead_room
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal
from rawws.groups.group import Group
from rawws.groups.leases import OF_CONNECTION, Dead, Delivery, Worker
from rawws.groups.protocol import NOT_LEASED, Answer, Obituary, Verb, encode_dead
from rawws.groups.queue import BEGINS_AGAIN, ENDED, Answering, Client, State
from rawws.groups.shelf import Shelf, StoredMessage
from rawws.store.committer import Committer
from rawws.store.engine import StoreBroken, StoreError
from rawws.store.entries import GroupEnd, GroupWrite, Outcome
from rawws.store.stored_rooms import BROKEN, TROUBLE
from rawws.wire.frames import Opcode
from rawws.wire.trace import FAULT, STATE, shorten

# A client waits for at most this time until something is stored.
PATIENCE_S = 5.0
# The most deliveries in one commit.
MOST_AT_ONCE = 1000
# The most records whose times are known. The later ones count as old as the last of these.
MOST_TIMES = 1000
# The rest after a message couldn't be read.
REST_S = 1.0


class Runner:
    """A group with its workers."""

    def __init__(
        self,
        group: Group,
        shelf: Shelf,
        committer: Committer,
        publish_dead: Callable[[str, bytes], None],
        on_turn: Callable[[], None],
    ) -> None:
        """``publish_dead`` puts a frame for a room into the committer at once. ``on_turn`` is called after a turn."""
        self.group = group
        self.newest = group.position  # the last message in the room, as far as it is known
        self._shelf = shelf
        self._committer = committer
        self._publish_dead = publish_dead
        self._on_turn = on_turn
        self._clients: dict[Worker, Client] = {}
        self._has_work = True  # a new group has to be stored
        self._work = trio.lowlevel.ParkingLot()
        self._to_tell: list[trio.Event] = []  # those who wait for the end of a turn
        self._times: deque[tuple[int, float]] = deque()  # the last message of a record, and the record's
        self.problem: Refusal | None = None  # why it does nothing any more
        self.died_before = 0

    def __repr__(self) -> str:
        return f"<Runner of {self.group!r} workers={len(self._clients)}>"

    @property
    def path(self) -> str:
        """The path of its room."""
        return self.group.path

    @property
    def oldest_at(self) -> float | None:
        """The time, since 1970, when the oldest unfinished message was stored; None if there is none."""
        times, oldest = self._times, self.group.oldest
        while times and times[0][0] < oldest:
            times.popleft()
        return times[0][1] if times else None

    @property
    def clients(self) -> list[Client]:
        """The other ends of all workers."""
        return list(self._clients.values())

    @property
    def epoch(self) -> str:
        """The epoch of the room's ids; empty as long as it has no message."""
        return self._shelf.epoch

    def held_bytes(self) -> int:
        """Return the bytes of memory that it takes."""
        return self.group.held_bytes + self._shelf.held_bytes

    def state(self) -> State:
        """Return the state; the age of the oldest message is filled in by those who can read it."""
        group, counts = self.group, self.group.counts
        oldest = group.oldest
        label = f"{self.epoch}-{oldest}" if oldest <= self.newest and self.epoch else None
        waiting = max(0, self.newest - group.position) + group.jobs - group.leased
        dead = self.died_before + counts.dead
        return State(
            *(group.path, group.name, waiting, group.leased, label, None),
            *(counts.delivered, counts.redelivered, counts.done, dead, len(self._clients)),
        )

    # Events

    def kick(self) -> None:
        """Have it look soon at what there is to do."""
        if not self._has_work:
            self._has_work = True
            self._work.unpark_all()

    def note_stored(self, newest: int, at: float) -> None:
        """Note that the room has messages up to a number, the first of which was stored at a time since 1970."""
        if newest > self.newest:
            self.newest = newest
            if len(self._times) >= MOST_TIMES:
                _, at = self._times.pop()
            self._times.append((newest, at))
            if self.group.wants_messages:
                self.kick()

    def join(self, worker: Worker, client: Client) -> None:
        """Give jobs to a worker from now on."""
        self._clients[worker] = client
        self.group.join(worker)
        self.kick()

    def leave(self, worker: Worker, why: str = "its worker has gone") -> None:
        """Give no more jobs to a worker, and those that it has to others. Harmless if it has gone."""
        self._clients.pop(worker, None)
        self.group.leave(worker, trio.current_time(), why)
        self.kick()

    def detach(self, worker: Worker) -> None:
        """Give no more jobs to a worker, which goes and keeps its leases."""
        self._clients.pop(worker, None)
        self.group.detach(worker)

    def pause(self, worker: Worker) -> None:
        """Give no jobs to a worker until `resume`."""
        self.group.pause(worker)

    def resume(self, worker: Worker) -> None:
        """Give jobs to a worker again."""
        self.group.resume(worker)
        self.kick()

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

    def answer(self, answer: Answer, lease: str) -> bool:
        """Do what a worker says about a job; return False if the job isn't leased to it any more."""
        group, number = self.group, answer.job.number
        if answer.job.epoch != self.epoch:
            return False
        match answer.verb:
            case Verb.ACK:
                is_own = group.ack(number, lease)
            case Verb.NAK:
                is_own = group.nak(number, lease, trio.current_time(), answer.in_s, answer.why)
            case Verb.MORE:
                is_own = group.more(number, lease, trio.current_time())
            case Verb.TERM:
                is_own = group.term(number, lease, answer.why)
        if is_own:
            self.kick()
        return is_own

    def lease_of(self, job: MessageId, token: str) -> str:
        """Return the name of a lease of a worker without a connection; empty if it has none. See `Group.lease_of`."""
        return self.group.lease_of(job.number, token) if job.epoch == self.epoch else ""

    def say(self, answer: Answer, client: Answering) -> None:
        """Do what a worker says about a job, or have its client `lose` the job."""
        if not self.answer(answer, client.worker.lease):
            client.lose(answer.job)

    def acknowledge(self, epoch: str, numbers: Sequence[int], client: Answering) -> None:
        """Finish jobs of a worker, or have its client `lose` those that it has no more."""
        lease = client.worker.lease
        done = self.group.ack_many(numbers, lease) if epoch == self.epoch else 0
        if done:
            self.kick()
        for number in numbers[done:]:
            self.say(Answer(Verb.ACK, MessageId(epoch, number)), client)

    async def say_by_token(self, answer: Answer, token: str) -> Refusal | None:
        """Do what a worker without a connection says about a job; return None when that is stored."""
        lease = self.lease_of(answer.job, token)
        return await self.settled() if lease and self.answer(answer, lease) else NOT_LEASED

    async def settled(self) -> Refusal | None:
        """Wait until all that has happened is stored, and jobs are given to workers; return why that can't be.

        After some seconds it is given up, and may still be stored.
        """
        event = trio.Event()
        self._to_tell.append(event)
        self.kick()
        if self.problem is None:
            with trio.move_on_after(PATIENCE_S):
                await event.wait()
        return self.problem or (None if event.is_set() else TROUBLE)

    # Its task

    async def run(self) -> None:
        """Serve the group until cancelled, or until `end`, or until nothing can be stored any more."""
        try:
            while self.problem is None:
                await self._wait()
                await self._turn()
        except StoreBroken:  # the log has said so
            self._stop(BROKEN)
        except Exception:
            logs.server.exception(
                "#%d ! an error in rawws itself; the group %s has stopped", logs.SERVER, self.group.name
            )
            self._stop(BROKEN)

    def end(self) -> None:
        """Forget the group: its position and its jobs. Its workers are sent away."""
        self._stop(ENDED)
        self._committer.put(GroupEnd(self.group.path, self.group.name))

    def begin_again(self) -> None:
        """Forget the group, whose room has begun a new epoch. Its workers are sent away, to come back."""
        self._stop(BEGINS_AGAIN)
        self._committer.put(GroupEnd(self.group.path, self.group.name))

    def _stop(self, problem: Refusal) -> None:
        self.problem = problem
        clients, self._clients = self._clients, {}
        for worker, client in clients.items():
            self.group.leave(worker, trio.current_time())
            client.end(problem)
        for event in self._to_tell:
            event.set()
        self._has_work = True
        self._work.unpark_all()

    async def _wait(self) -> None:
        if not self._has_work:
            with trio.move_on_at(self.group.next_due):
                await self._work.park()
        else:
            await trio.lowlevel.checkpoint()
        self._has_work = False

    async def _turn(self) -> None:
        telling, self._to_tell = self._to_tell, []
        try:
            await self._work_once()
        except StoreBroken:
            raise
        except StoreError as error:  # a message can't be read just now
            path, name = shorten(self.group.path), self.group.name
            logs.server_line(logging.ERROR, FAULT, f"the group {name} of {path} can't go on, and tries again: {error}")
            self.kick()
            await trio.sleep(REST_S)
        finally:
            for event in telling:
                event.set()
        self._on_turn()

    async def _work_once(self) -> None:
        """Do all that there is to do, and store it in one commit."""
        group = self.group
        group.expire(trio.current_time())
        deliveries: list[Delivery] = []
        messages: dict[int, StoredMessage] = {}
        obituaries: list[bytes] = []
        trouble: StoreError | None = None
        try:
            if group.wants_messages and self.newest > group.read_to:
                await self._read_on()
            deliveries = group.assign(trio.current_time(), MOST_AT_ONCE)
            messages = await self._fetch(deliveries)
            obituaries = await self._write_obituaries()
        except StoreError as error:  # what the workers have answered is stored all the same
            for delivery in deliveries:
                group.give_back(delivery, trio.current_time())
            deliveries, trouble = [], error
        if self.problem is not None:
            return
        if obituaries and self._committer.is_broken:
            raise StoreBroken("nothing is stored any more")
        for frame in obituaries:
            self._publish_dead(dead_room(group.path, group.name), frame)
            group.bury()
        if (write := group.take_write(trio.current_time(), time.time())) is not None:
            await self._store(write)
        if self.problem is None:
            self._send(deliveries, messages)
        self._shelf.trim()
        if trouble is not None:
            raise trouble
        if group.has_changes or group.is_behind or (group.wants_messages and self.newest > group.read_to):
            self.kick()

    async def _read_on(self) -> None:
        newest = self.newest
        stretches = await self._shelf.read_on(self.group.read_to)
        if not stretches and self.newest == newest:  # it was cleared meanwhile
            self.newest = self.group.read_to
        for stretch in stretches:
            self.group.offer(stretch.first, stretch.messages, stretch.key, is_lost=stretch.is_lost)

    async def _store(self, write: GroupWrite) -> None:
        """Commit a change. Raises `StoreBroken` when that is impossible: then the store isn't as the group is."""
        done = trio.Event()
        results: list[Outcome | StoreError] = []

        def note(result: Outcome | StoreError) -> None:
            results.append(result)
            done.set()

        self._committer.put(write, note)
        await done.wait()
        if isinstance(results[0], StoreError):
            raise StoreBroken(str(results[0]))

    # Deliveries

    async def _fetch(self, deliveries: list[Delivery]) -> dict[int, StoredMessage]:
        """Return the messages of deliveries. A lost one is no job any more, and the log says so."""
        if not deliveries:
            return {}
        found = await self._shelf.get([delivery.number for delivery in deliveries])
        lost = [each for each in deliveries if found[each.number] is None] if None in found.values() else []
        for delivery in lost:
            self.group.drop_lost(delivery)
        if lost:
            whose, first = f"{self.group.name} of {shorten(self.group.path)}", f"{self.epoch}-{lost[0].number}"
            sentence = f"jobs of the group {whose} are lost in the store: {len(lost)}, from {first} on"
            logs.server_line(logging.ERROR, FAULT, sentence)
            return {number: message for number, message in found.items() if message is not None}
        return found  # type: ignore[return-value]

    def _send(self, deliveries: list[Delivery], messages: dict[int, StoredMessage]) -> None:
        """Send deliveries, whose leases are stored, to all workers that can take them."""
        now, group, clients, epoch = trio.current_time(), self.group, self._clients, self.epoch
        asked: dict[Worker, Client] = {}  # nothing can change what a worker may do within this turn
        for delivery in deliveries:
            worker, number, tried = delivery
            message = messages.get(number)
            if message is None:
                continue
            client = asked.get(worker)
            if client is None and (client := clients.get(worker)) is not None:
                if (refusal := client.refuse()) is not None:
                    self._send_away(worker, client, refusal)
                    continue
                asked[worker] = client
            if client is None or worker.is_paused:  # nothing more can be sent to it just now
                group.give_back(delivery, now)
                self._shelf.put_back(number, message)
            elif group.begin(delivery, now):
                client.deliver(MessageId(epoch, number), tried, message)
        for client in asked.values():
            client.flush()

    # The dead

    async def _write_obituaries(self) -> list[bytes]:
        """Return the frames about all dead jobs."""
        dead = list(self.group.dead)
        if not dead:
            return []
        messages = await self._shelf.get([job.number for job in dead])
        return [self._obituary(job, messages[job.number] or StoredMessage(Opcode.TEXT, b"")) for job in dead]

    def _obituary(self, job: Dead, message: StoredMessage) -> bytes:
        label, name = f"{self.epoch}-{job.number}", self.group.name
        worker = job.worker if job.worker.startswith(OF_CONNECTION) else job.worker.partition(" ")[2]
        about = Obituary(label, name, job.tries, job.reason, worker)
        where = shorten(dead_room(self.group.path, name))
        sentence = f"job {label} of the group {name} is dead (tries: {job.tries}): {job.reason}; it is in {where}"
        logs.server_line(logging.WARNING, STATE, sentence)
        return encode_dead(about, message.opcode, message.payload)
