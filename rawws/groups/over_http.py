"""The workers of a group that have HTTP alone: a GET for each job, and a POST for each answer.

Such a worker has no connection that tells its end, so it keeps the lease of a job until it answers, or until
the time is over.
"""

from __future__ import annotations

import secrets
import time

import trio

from rawws.access.grant import refuse_by_now
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal
from rawws.groups.group import Worker
from rawws.groups.protocol import AnswerQuery, GroupQuery
from rawws.groups.queue import Queue
from rawws.groups.shelf import StoredMessage
from rawws.groups.websockets import WORKING, worker_name
from rawws.hub.queues import Wait, WorkerClient
from rawws.wire.frames import Opcode
from rawws.wire.messages import NO_STORE, Response

NO_GROUP = Refusal(404, "no_group", "There is no such group: the first worker that asks for a job makes it.")

# A page of another origin may read these, if it may read the answer at all (Fetch).
_EXPOSED = ("Access-Control-Expose-Headers", "Rawws-Id, Rawws-Try, Rawws-Lease")
_TYPES = {Opcode.TEXT: "text/plain; charset=utf-8", Opcode.BINARY: "application/octet-stream"}


class OneJob:
    """The worker of one GET, as a `Client` of its group."""

    is_full = False

    def __init__(self, path: str, user: object) -> None:
        self._path = path
        self.user = user
        self.has_come = trio.Event()
        self.job: tuple[MessageId, int, StoredMessage] | None = None
        self.problem: Refusal | None = None

    def refuse(self) -> Refusal | None:
        return self.problem or refuse_by_now(self.user, self._path, WORKING, time.time())

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        self.job = (job, tried, message)
        self.has_come.set()

    def flush(self) -> None:
        """Do nothing: the job is answered with."""

    def end(self, refusal: Refusal) -> None:
        self.problem = refusal
        self.has_come.set()

    def close(self, code: int, reason: str | None) -> None:
        """Have the request answered with 403 now. The code is for WebSockets."""
        why = f": {reason}." if reason else "."
        self.end(Refusal(403, "disconnected", f"This poll was ended by the server{why}"))


async def answer_get(runner: Queue, query: GroupQuery, client: WorkerClient, wait: Wait) -> Response | Refusal:
    """Return the next job of a group, or 204 if none comes within the time that the query gives."""
    token = secrets.token_hex(8)
    lease = f"{token} {worker_name(client.number, client.address, client.user)}"
    worker = Worker(lease, ack_s=query.ack_s, tries=query.tries, once=True)
    one = OneJob(runner.path, client.user)
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
    return _job_response(token, *one.job)


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
