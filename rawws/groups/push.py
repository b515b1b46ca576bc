"""Jobs for a program without any client: each is a POST to a URL, and the status of the answer is the worker's word.

2xx acknowledges a job. After 408, 425, 429, 5xx, a lost connection and a time-out it is tried again, after growing
waits, or as the ``Retry-After`` says. Another status is no use trying again: the job is dead. Each request blocks a
thread, so their number is bounded, and so is the time of each, whatever the other side sends.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from rawws import logs
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal, UsageError
from rawws.groups.leases import OF_CONNECTION, Worker
from rawws.groups.protocol import Answer, GroupQuery, Verb, check_name
from rawws.groups.queue import BEGINS_AGAIN, Queue
from rawws.groups.shelf import StoredMessage
from rawws.wire.frames import Opcode
from rawws.wire.trace import FAULT, STATE, shorten

AT_ONCE = 8
TRIES = 20  # with the waits below, about a day and a half
TIMEOUT_S = 30.0
LONGEST_S = 2 * TIMEOUT_S  # before the end of its lease, so that no job is under way twice
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 14_400.0
AGAIN_S = 60.0  # between two tries to open a group that begins again
MAX_DATE_CHARACTERS = 64
RETRIED = frozenset({408, 425, 429})
_RULE = "give it as 'ROOM GROUP URL', such as '/room/pay sms https://sms.internal/hook'"
_TYPES = {Opcode.TEXT: "text/plain; charset=utf-8", Opcode.BINARY: "application/octet-stream"}


class PushTarget(NamedTuple):
    """The room and the group whose jobs are sent to a URL."""

    path: str
    group: str
    url: str


def read_push(text: str) -> PushTarget:
    """Read what ``--push`` has. Raises `UsageError`."""
    parts = text.split() if isinstance(text, str) else []
    if len(parts) != 3 or not parts[0].startswith("/"):
        raise UsageError(f"push can't be {text!r}; {_RULE}")
    path, group, url = parts
    try:
        where = urlsplit(url)
        is_url = where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
        (where.hostname or "").encode("idna")
    except ValueError:  # of which a host that no name server is asked for is one
        is_url = False
    if not is_url or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise UsageError(f"push can't go to {url!r}; {_RULE}")
    return PushTarget(path, check_name(group), url)


class Outcome(NamedTuple):
    """The result of one request: the status, or the reason why there is none."""

    status: int
    why: str = ""
    retry_after_s: float = 0.0

    def answer(self, job: MessageId, tried: int) -> Answer:
        """Return the word of the worker."""
        if 200 <= self.status < 300:
            return Answer(Verb.ACK, job)
        why = self.why or f"the answer was {self.status}"
        if not self.status or self.status >= 500 or self.status in RETRIED:
            growing_s = min(FIRST_WAIT_S * 2.0 ** min(tried - 1, 30), MAX_WAIT_S)
            return Answer(Verb.NAK, job, max(growing_s, self.retry_after_s), why)
        return Answer(Verb.TERM, job, 0.0, why)


class Pusher:
    """The worker that sends the jobs of one group to a URL, as a `Client` of the group."""

    def __init__(
        self,
        target: PushTarget,
        nursery: trio.Nursery,
        open_group: Callable[[str, GroupQuery], Awaitable[Queue | Refusal]],
    ) -> None:
        """``open_group`` opens a group of a room, or makes it."""
        self._open_group = open_group
        self._target = target
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._runner: Queue | None = None
        self._ssl = ssl.create_default_context() if target.url.startswith("https:") else None
        self._fails = False  # the last request had no success, and the log says so
        self.worker = Worker(f"{OF_CONNECTION}push to {target.url}", most=AT_ONCE, ack_s=3 * TIMEOUT_S, tries=TRIES)

    @property
    def query(self) -> GroupQuery:
        """The query that a worker of this kind would have."""
        return GroupQuery(self._target.group, AT_ONCE, 3 * TIMEOUT_S, TRIES)

    async def begin(self) -> Refusal | None:
        """Open the group and begin to take its jobs; return why that can't be."""
        found = await self._open_group(self._target.path, self.query)
        if isinstance(found, Refusal):
            return found
        self._join(found)
        return None

    def _join(self, runner: Queue) -> None:
        self._runner = runner
        runner.join(self.worker, self)
        target = self._target
        sentence = f"jobs of the group {target.group} of {shorten(target.path)} are pushed to {shorten(target.url)}"
        logs.server_line(logging.INFO, STATE, sentence)

    def refuse(self) -> Refusal | None:
        return None

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        self._nursery.start_soon(self._push, job, tried, message)

    def flush(self) -> None:
        """Do nothing: each job is under way by itself."""

    def end(self, refusal: Refusal) -> None:
        if refusal is BEGINS_AGAIN:
            self._nursery.start_soon(self._begin_again)
            return
        sentence = f"no more jobs are pushed to {shorten(self._target.url)}: {refusal.sentence}"
        logs.server_line(logging.WARNING, FAULT, sentence)

    def lose(self, job: MessageId) -> None:
        """Do nothing: the URL has had its say, and another worker has the job or has done it."""

    async def _begin_again(self) -> None:
        """Take the jobs of the group that has begun again, as a worker does that connects again."""
        while (refusal := await self.begin()) is not None:
            sentence = f"jobs can't be pushed to {shorten(self._target.url)}, which is tried again: {refusal.sentence}"
            logs.server_line(logging.WARNING, FAULT, sentence)
            await trio.sleep(AGAIN_S)

    async def _push(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        """Send a job, and answer for it. An error in rawws itself costs this try alone."""
        assert self._runner is not None
        try:
            outcome = await self._send(job, tried, message)
        except Exception as error:
            where = shorten(self._target.url)
            logs.server.exception("#%d ! an error in rawws itself; the push to %s is tried again", logs.SERVER, where)
            outcome = Outcome(0, f"an error in rawws itself: {type(error).__name__}")
        answer = outcome.answer(job, tried)
        self._tell(answer)
        self._runner.say(answer, self)

    async def _send(self, job: MessageId, tried: int, message: StoredMessage) -> Outcome:
        request = PushRequest(self._target.url, self._ssl, job, tried, message)
        try:
            with trio.move_on_after(LONGEST_S):
                return await trio.to_thread.run_sync(request.send, limiter=self._limiter, abandon_on_cancel=True)
            return Outcome(0, f"no answer within {LONGEST_S:g} s")  # though it may have sent a byte now and then
        finally:
            request.abort()

    def _tell(self, answer: Answer) -> None:
        fails = answer.verb is not Verb.ACK
        if fails and not self._fails:
            sentence = f"a push to {shorten(self._target.url)} has failed: {answer.why}"
            logs.server_line(logging.WARNING, FAULT, sentence)
        elif self._fails and not fails:
            logs.server_line(logging.INFO, STATE, f"pushes to {shorten(self._target.url)} succeed again")
        self._fails = fails


class PushRequest:
    """One POST with a job. `send` blocks, and so is called in a thread; `abort` ends it from another one."""

    def __init__(
        self, url: str, context: ssl.SSLContext | None, job: MessageId, tried: int, message: StoredMessage
    ) -> None:
        """``context`` is that of an ``https`` URL."""
        where = urlsplit(url)
        assert where.hostname is not None
        self._connection = (
            http.client.HTTPConnection(where.hostname, where.port, timeout=TIMEOUT_S)
            if context is None
            else http.client.HTTPSConnection(where.hostname, where.port, timeout=TIMEOUT_S, context=context)
        )
        self._context = context
        self._target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        self._message = message
        self._fields = {
            "Content-Type": _TYPES[message.opcode],
            "Idempotency-Key": str(job),
            "Rawws-Id": str(job),
            "Rawws-Try": str(tried),
        }
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None  # another object for the connection's, which TLS doesn't replace
        self._is_aborted = False

    def send(self) -> Outcome:
        """Send the job, and return the outcome. The body of the answer isn't read."""
        connection = self._connection
        try:
            with closing(connection):
                connection.sock = self._connect()
                connection.request("POST", self._target, self._message.payload, self._fields)
                response = connection.getresponse()
                return Outcome(response.status, "", retry_after(response.getheader("Retry-After"), time.time()))
        except TimeoutError:
            return Outcome(0, f"no answer within {TIMEOUT_S:g} s")
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Outcome(0, f"{type(error).__name__}: {error}"[:200])
        finally:
            with self._lock:
                if self._socket is not None:
                    self._socket.close()

    def _connect(self) -> socket.socket:
        host = self._connection.host
        connected = socket.create_connection((host, self._connection.port), TIMEOUT_S)
        try:
            with self._lock:
                if self._is_aborted:
                    raise ConnectionAbortedError("given up")
                self._socket = connected.dup()
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected if self._context is None else self._context.wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise

    def abort(self) -> None:
        """End the request if it is still under way, so that its thread is free. Harmless when it is over."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                with suppress(OSError):  # it has ended
                    self._socket.shutdown(socket.SHUT_RDWR)


def retry_after(field: str | None, now: float) -> float:
    """Return the seconds of a Retry-After (RFC 9110 §10.2.3) from a time on, at most `MAX_WAIT_S`.

    It is 0 for a date that is over, and for a field that can't be read.
    """
    field = (field or "").strip()
    if field.isascii() and field.isdigit():
        return MAX_WAIT_S if len(field) > len(str(MAX_WAIT_S)) else min(float(field), MAX_WAIT_S)
    if len(field) > MAX_DATE_CHARACTERS:
        return 0.0
    try:
        until = parsedate_to_datetime(field)
        seconds = until.replace(tzinfo=until.tzinfo or UTC).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return max(0.0, min(seconds, MAX_WAIT_S))
