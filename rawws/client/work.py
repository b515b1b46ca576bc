"""`work`: the jobs of a group of a room, one after the other, for a worker in a program.

A worker's connection is a WebSocket with ``rawws.id.v1``. When it ends, the server gives the worker's jobs to others,
so an answer that comes later has no effect.
"""

from __future__ import annotations

import json
import logging
import ssl as ssl_module
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import trio

from rawws import logs
from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import parse_id
from rawws.client.connect import ClientConnector, connect
from rawws.client.reconnect import Reconnecting
from rawws.errors import ConnectionClosed, InvalidResponse, UsageError
from rawws.groups.protocol import GROUP_ENDED, GroupQuery, read_group_query
from rawws.hooks import log_failure
from rawws.limits import check_number
from rawws.websocket import WebSocket
from rawws.wire.messages import FieldsLike
from rawws.wire.session import State
from rawws.wire.trace import FAULT
from rawws.wire.uri import parse_uri

# A job that has failed is tried again after this time, which doubles with each try.
FIRST_RETRY_S, MAX_RETRY_S = 1.0, 300.0
# The server is told this many times within the time of a lease that the worker is still at its job.
MORE_PER_LEASE = 3
LONGEST_S = 3600.0


class Job:
    """A message that this worker has to do, and nobody else has at present.

    ``async with job:`` acknowledges it at the end of the block. An exception in the block is logged, and the job is
    given back, to be tried again after some seconds: the block ends, and the program goes on. While the block runs, the
    server is told now and then that the worker is still at it. Without a block, call `ack`, `nak`, `more` or `term`.

    The server may give a job to another worker if the connection is lost, so do the work in a way that a second time
    does no harm: `id` is the same then.
    """

    __slots__ = ("_begun_at", "_is_answered", "_under_way", "_ws", "data", "id", "is_lost", "tried")

    def __init__(self, under_way: _UnderWay, ws: WebSocket, job_id: str, tried: int, data: str | bytes) -> None:
        """For `rawws.work`."""
        self._under_way = under_way  # and not the `Work`: that ends with its loop, and a job may be kept
        self._ws = ws
        self._is_answered = False
        self._begun_at = trio.current_time()
        self.id = job_id  # of the message, the same in each try
        self.tried = tried  # the number of this try, from 1 on
        self.data = data  # the message: ``str`` for text, ``bytes`` for binary
        self.is_lost = False  # the server has said that it isn't this worker's any more

    def __repr__(self) -> str:
        return f"<Job {self.id} try={self.tried}>"

    async def ack(self) -> bool:
        """Say that the job is done. Returns False if that came too late, so that another worker may do it too."""
        return await self._answer({"ack": self.id})

    async def nak(self, in_s: float = 0.0, why: str = "") -> bool:
        """Give the job back, to be delivered again after at least some seconds. Returns as `ack`."""
        check_number("in_s", in_s, whole=False)
        if not isinstance(why, str):
            raise UsageError(f"why can't be {why!r}; give a text")
        return await self._answer({"nak": self.id, "in": in_s, **({"why": why} if why else {})})

    async def term(self, why: str) -> bool:
        """Give the job up: another try is no use. It goes to the group's dead room. Returns as `ack`."""
        return await self._answer({"term": self.id, "why": why})

    async def more(self) -> bool:
        """Say that the worker is still at it, so that the time of its lease begins again. Returns as `ack`."""
        return await self._send({"more": self.id})

    async def _answer(self, members: dict[str, Any]) -> bool:
        self._is_answered = True
        return await self._send(members)

    async def _send(self, members: dict[str, Any]) -> bool:
        try:
            await self._ws.send(json.dumps(members))
        except ConnectionClosed:
            self.is_lost = True
        return not self.is_lost

    async def __aenter__(self) -> Job:
        self._under_way.begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._under_way.end(self)
        if self._is_answered:
            return False
        if error is None:
            if not await self.ack():
                sentence = f"job {self.id} is done, but the connection was lost: another worker may do it again"
                logs.line(logs.hub, logging.WARNING, self._ws.id, FAULT, sentence)
            return False
        if not isinstance(error, Exception):  # the program ends, or gives up
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self.nak()
            return False
        wait_s = min(FIRST_RETRY_S * 2.0 ** min(self.tried - 1, 30), MAX_RETRY_S)
        log_failure(logs.hub, self._ws.id, f"job {self.id} has failed, and is tried again in {wait_s:g} s", error)
        await self.nak(wait_s, f"{type(error).__name__}: {error}"[:200])
        return True


class Work(AsyncIterator[Job]):
    """The jobs of a group, each as it comes. It connects by itself, and again when the connection is lost."""

    def __init__(self, connector: ClientConnector, query: GroupQuery, longest_s: float) -> None:
        """For `rawws.work`."""
        self._connections = Reconnecting(connector.open)
        self._query = query
        self._ws: WebSocket | None = None
        self._under_way = _UnderWay(query.ack_s / MORE_PER_LEASE, longest_s)

    def __repr__(self) -> str:
        return f"<Work of {self._query.group} under way={len(self._under_way.jobs)}>"

    def __aiter__(self) -> Work:
        return self

    async def __anext__(self) -> Job:
        while True:
            if self._ws is None:
                self._ws = await anext(self._connections)
                if self._ws.subprotocol != SUBPROTOCOL:
                    raise InvalidResponse(f"the server does not speak {SUBPROTOCOL}, which a worker needs")
            try:
                message = await self._ws.recv()
            except ConnectionClosed as error:
                self._ws = None
                if error.code == GROUP_ENDED:
                    raise
                continue
            if self._ws.state is not State.OPEN:
                continue  # the server has given this job to another worker
            if (job := self._read(self._ws, message)) is not None:
                return job

    def _read(self, ws: WebSocket, message: str | bytes) -> Job | None:
        """Return the job in a message; None if it is about another one."""
        line, data = _divide(message)
        try:
            head = json.loads(line)
            if "lost" in head:
                self._note_lost(ws, str(parse_id(head["lost"])))
                return None
            job_id, tried = str(parse_id(head["id"])), head["try"]
            if type(tried) is not int or tried < 1:
                raise UsageError("a try is a number from 1 on")
        except (ValueError, RecursionError, TypeError, LookupError, UsageError):
            raise InvalidResponse(f"the server's message doesn't begin as a job does: {line[:60]!r}") from None
        return Job(self._under_way, ws, job_id, tried, data)

    def _note_lost(self, ws: WebSocket, job_id: str) -> None:
        self._under_way.note_lost(ws, job_id)
        sentence = f"job {job_id} took too long: another worker may have it, or has done it"
        logs.line(logs.hub, logging.WARNING, ws.id, FAULT, sentence)


class _UnderWay:
    """The jobs of a worker that are in their block. As long as there are some, the server is told of them."""

    def __init__(self, every_s: float, longest_s: float) -> None:
        self._every_s = every_s
        self._longest_s = longest_s
        self.jobs: dict[Job, None] = {}  # two may have the same id: one is that of a connection that was lost
        self._keeper: trio.CancelScope | None = None

    def begin(self, job: Job) -> None:
        self.jobs[job] = None
        if self._keeper is None:
            self._keeper = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._keep, self._keeper, name="rawws.work")

    def end(self, job: Job) -> None:
        self.jobs.pop(job, None)
        if not self.jobs and self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    def note_lost(self, ws: WebSocket, job_id: str) -> None:
        for job in self.jobs:
            if job.id == job_id and job._ws is ws:
                job.is_lost = True

    async def _keep(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(self._every_s)
                now = trio.current_time()
                for job in list(self.jobs):
                    if not job.is_lost and now - job._begun_at < self._longest_s:
                        await job.more()


def _divide(message: str | bytes) -> tuple[str, str | bytes]:
    """Return the first line of a message, and the rest."""
    if isinstance(message, str):
        line, _, text = message.partition("\n")
        return line, text
    raw, _, payload = message.partition(b"\n")
    return raw.decode(errors="replace"), payload


def work(
    uri: str,
    *,
    group: str,
    max_jobs: int = 1,
    ack: int = 30,
    tries: int = 5,
    longest: float = LONGEST_S,
    headers: FieldsLike | None = None,
    ssl: ssl_module.SSLContext | None = None,
) -> AsyncIterator[Job]:
    """Take jobs of a group of a room: ``async for job in rawws.work("ws://host/room/pay", group="sms"):``.

    Each message of the room is a job for one of the group's workers, and is delivered again until one of them
    acknowledges it. In the loop, ``async with job:`` around the work does so; see `Job`. The order is that of the room
    as long as the group has one worker, with ``max_jobs`` 1. Messages with the same ``Rawws-Key`` are always done one
    after the other.

    - ``max_jobs``: the most jobs that the worker has at a time, from 1 to 1000. To do several at once, start a task for
      each. The time of each runs from its delivery on, so take them out of the loop at once: a job that waits there
      for longer than ``ack`` goes to another worker, too.
    - ``ack``: the seconds after which a job without an answer goes to another worker.
    - ``tries``: the deliveries after which a job goes to the room ``PATH.GROUP.dead``, with the reason.
    - ``longest``: the seconds for which the server is told that a job in its block is still worked on.
    - ``headers``, ``ssl``: as for `connect`.

    It connects by itself, and again after growing waits when the connection is lost; then the server gives the
    worker's jobs to others. Leaving the loop closes the connection, which gives back the jobs that are under way.

    Raises `UsageError` for arguments that can't be used, and as ``async for ws in rawws.connect(uri)`` when another try
    would fail too: for a server that keeps no jobs, and for a user that may not work there. Raises `ConnectionClosed`
    with 4410 when an operator has ended the group, since another connection would make it anew.
    """
    for name, value in {"max_jobs": max_jobs, "ack": ack, "tries": tries}.items():
        check_number(name, value, least=1)
    check_number("longest", longest, whole=False)
    parse_uri(uri)  # raises InvalidURI for what can't be one
    wishes = urlencode({"group": group, "max": max_jobs, "ack": ack, "tries": tries})
    query = read_group_query(wishes)
    address = f"{uri}{'&' if '?' in uri else '?'}{wishes}"
    connector = connect(address, headers=headers, ssl=ssl, subprotocols=[SUBPROTOCOL])
    return Work(connector, query, longest)
