"""Jobs for a program without any client: each is a POST to a URL, and the status of the answer is the worker's word.

2xx acknowledges a job. After 408, 425, 429, 5xx, a lost connection and a time-out it is tried again, after growing
waits, or as the ``Retry-After`` says. Another status is no use trying again: the job is dead. Each request blocks a
thread, so their number is bounded.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from rawws import logs
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal, UsageError
from rawws.groups.group import OF_CONNECTION, Worker
from rawws.groups.protocol import Answer, GroupQuery, Verb, check_name
from rawws.groups.queue import Queue
from rawws.groups.shelf import StoredMessage
from rawws.wire.frames import Opcode
from rawws.wire.trace import FAULT, STATE, shorten

AT_ONCE = 8
TRIES = 20  # with the waits below, about a day and a half
TIMEOUT_S = 30.0
LONGEST_S = 2 * TIMEOUT_S  # before the end of its lease, so that no job is under way twice
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 14_400.0
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
            return Answer(Verb.NAK, job, max(growing_s, min(self.retry_after_s, MAX_WAIT_S)), why)
        return Answer(Verb.TERM, job, 0.0, why)


class Pusher:
    """The worker that sends the jobs of one group to a URL, as a `Client` of the group."""

    is_full = False

    def __init__(self, target: PushTarget, nursery: trio.Nursery) -> None:
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

    def join(self, runner: Queue) -> None:
        """Begin to take jobs."""
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
        sentence = f"no more jobs are pushed to {shorten(self._target.url)}: {refusal.sentence}"
        logs.server_line(logging.WARNING, FAULT, sentence)

    def lose(self, job: MessageId) -> None:
        """Do nothing: the URL has had its say, and another worker has the job or has done it."""

    async def _push(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        outcome = Outcome(0, f"no answer within {LONGEST_S:g} s")  # each byte of it may take up to TIMEOUT_S
        with trio.move_on_after(LONGEST_S):
            outcome = await trio.to_thread.run_sync(
                _post, self._target.url, self._ssl, job, tried, message, limiter=self._limiter, abandon_on_cancel=True
            )
        answer = outcome.answer(job, tried)
        self._tell(answer)
        assert self._runner is not None
        self._runner.say(answer, self)

    def _tell(self, answer: Answer) -> None:
        fails = answer.verb is not Verb.ACK
        if fails and not self._fails:
            sentence = f"a push to {shorten(self._target.url)} has failed: {answer.why}"
            logs.server_line(logging.WARNING, FAULT, sentence)
        elif self._fails and not fails:
            logs.server_line(logging.INFO, STATE, f"pushes to {shorten(self._target.url)} succeed again")
        self._fails = fails


def _post(url: str, context: ssl.SSLContext | None, job: MessageId, tried: int, message: StoredMessage) -> Outcome:
    """Send one job, and return the outcome. This blocks."""
    where = urlsplit(url)
    assert where.hostname is not None
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=TIMEOUT_S)
    else:
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=TIMEOUT_S, context=context)
    fields = {
        "Content-Type": _TYPES[message.opcode],
        "Idempotency-Key": str(job),
        "Rawws-Id": str(job),
        "Rawws-Try": str(tried),
    }
    target = (where.path or "/") + (f"?{where.query}" if where.query else "")
    try:
        with closing(connection):
            connection.request("POST", target, message.payload, fields)
            response = connection.getresponse()
            return Outcome(response.status, "", _seconds(response.getheader("Retry-After")))
    except TimeoutError:
        return Outcome(0, f"no answer within {TIMEOUT_S:g} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Outcome(0, f"{type(error).__name__}: {error}"[:200])


def _seconds(field: str | None) -> float:
    """Return the seconds of a Retry-After (RFC 9110 §10.2.3); a date counts as none."""
    return float(field) if field and field.isascii() and field.isdigit() and len(field) < 10 else 0.0
