"""The workers of a group that have HTTP alone: a GET for each job, and a POST for each answer.

Such a worker has no connection that tells its end, so it keeps the lease of a job until it answers, or until
the time is over. If the job can't have reached it, the lease ends at once.
"""

from __future__ import annotations

import secrets
import time

import trio

from rawws.access.grant import refuse_by_now
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal
from rawws.groups.leases import Worker
from rawws.groups.protocol import Answer, AnswerQuery, GroupQuery, Verb
from rawws.groups.queue import Queue
from rawws.groups.shelf import StoredMessage
from rawws.groups.websockets import WORKING, worker_name
from rawws.hub.queues import Handed, Wait, WorkerClient
from rawws.wire.frames import Opcode
from rawws.wire.messages import NO_STORE, Response

NO_GROUP = Refusal(404, "no_group", "There is no such group: the first worker that asks for a job makes it.")

# A page of another origin may read these, if it may read the answer at all (Fetch).
_EXPOSED = ("Access-Control-Expose-Headers", "Rawws-Id, Rawws-Try, Rawws-Lease")
_TYPES = {Opcode.TEXT: "text/plain; charset=utf-8", Opcode.BINARY: "application/octet-stream"}


GONE = Refusal(403, "disconnected", "This worker has gone.")


class OneJob:
    """The worker of one GET, as a `Client` of its group."""

    def __init__(self, path: str, group: str, worker: Worker, client: WorkerClient) -> None:
        self.worker = worker
        self.room, self.group = path, group
        self.number, self.remote_address, self.user = client.number, client.address, client.user
        self.since = int(time.time())
        self._has_gone = client.has_gone
        self.has_come = trio.Event()
        self.job: tuple[MessageId, int, StoredMessage] | None = None
        self.problem: Refusal | None = None

    def refuse(self) -> Refusal | None:
        if self._has_gone():
            return GONE
        return self.problem or refuse_by_now(self.user, self.room, WORKING, time.time())

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        self.job = (job, tried, message)
        self.has_come.set()

    def flush(self) -> None:
        """Do nothing: the job is answered with."""

    def end(self, refusal: Refusal) -> None:
        if refusal is not GONE:  # nobody reads why there is no job
            self.problem = refusal
        self.has_come.set()

    def lose(self, job: MessageId) -> None:
        """Do nothing: the job was to be taken back, and another worker has it already."""

    # For operators, see `rawws.hub.queues.GroupWorker`

    @property
    def jobs(self) -> int:
        return len(self.worker.jobs)

    @property
    def is_here(self) -> bool:
        return self.problem is None

    def close(self, code: int, reason: str | None) -> None:
        why = f": {reason}." if reason else "."
        self.end(Refusal(403, "disconnected", f"This poll was ended by the server{why}"))


async def answer_get(runner: Queue, query: GroupQuery, client: WorkerClient, wait: Wait) -> Response | Refusal | Handed:
    """Return the next job of a group, or 204 if none comes within the time that the query gives."""
    token = secrets.token_hex(8)
    lease = f"{token} {worker_name(client.number, client.address, client.user)}"
    worker = Worker(lease, ack_s=query.ack_s, tries=query.tries, once=True)
    one = OneJob(runner.path, query.group, worker, client)
    runner.join(worker, one)
    problem: Refusal | None = None
    try:
        if query.wait_s:
            await wait(one.has_come.wait, query.wait_s)
        else:
            problem = await runner.settled()
    finally:
        if one.job is None:
            runner.leave(worker)
        else:
            runner.detach(worker)
    if one.job is None:
        return one.problem or problem or Response(204, b"", [NO_STORE])
    job, tried, message = one.job

    def take_back() -> None:
        runner.say(Answer(Verb.NAK, job, why="its worker had gone before it had the job"), one)

    return Handed(_job_response(token, job, tried, message), take_back)


def _job_response(token: str, job: MessageId, tried: int, message: StoredMessage) -> Response:
    fields = [
        ("Content-Type", _TYPES[message.opcode]),
        NO_STORE,
        ("Rawws-Id", str(job)),
        ("Rawws-Try", str(tried)),
        ("Rawws-Lease", token),
        _EXPOSED,
    ]
    return Response(200, message.payload, fields)


async def answer_post(runner: Queue | None, query: AnswerQuery) -> Response | Refusal:
    """Do what a worker says about its job, and return 204 when that is stored."""
    if runner is None:
        return NO_GROUP
    return await runner.say_by_token(query.answer, query.lease) or Response(204, b"", [NO_STORE])
