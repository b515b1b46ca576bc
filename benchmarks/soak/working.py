"""A worker of a group at its work, by WebSocket or by HTTP alone. It tells a ledger all that it gets and says."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio

from benchmarks import wire
from benchmarks.soak.clients import Cut, Line
from benchmarks.soak.ledger import Ledger, Link

# The shares of the jobs that take long, and that are given back at first.
SLOW, GIVEN_BACK = 0.1, 0.05
REST_S = 0.02

# Returns the key of a message and its number among those with this key, from its id, payload and kind.
About = Callable[[str, bytes, bool], tuple[str, int]]


async def work(
    line: Line, ledger: Ledger, link: Link, chance: random.Random, about: About, given_back: float = GIVEN_BACK
) -> None:
    """Do all jobs that come over an open WebSocket, several at a time. Ends with `Cut` alone."""

    async def do(job: str) -> None:
        await trio.sleep(chance.uniform(0, 0.01))
        if chance.random() < SLOW:
            await _say(line, more=job)
            await trio.sleep(chance.uniform(0, 0.1))
        if chance.random() < given_back:
            ledger.give_back(link, job)
            await _say(line, nak=job, why="poison", **{"in": chance.choice([0, 0, 0.05])})
        else:
            ledger.ack(link, job)
            await _say(line, ack=job)

    async with trio.open_nursery() as nursery:
        while True:
            head, _, payload, is_text = await line.message_with_head()
            if "lost" in head:
                ledger.note_lost(link, head["lost"])
                continue
            job = head["id"]
            ledger.get(link, job, head["try"], trio.current_time(), *about(job, payload, is_text))
            nursery.start_soon(do, job)


async def _say(line: Line, **members: Any) -> None:
    await line.send(wire.client_frame(json.dumps(members).encode(), wire.FIN | wire.TEXT))


async def take(line: Line, target: str, ledger: Ledger, link: Link, about: About) -> tuple[str, str] | None:
    """Ask for a job with GET. Return its id and the token of its lease; None if there is none in time."""
    status, fields, payload = await line.exchange(f"GET {target} HTTP/1.1")
    line.hang_up()  # with RST, the server could take the job back, as one that hasn't arrived
    if status == 204:
        return None
    if status != 200:
        ledger.tell(f"a GET for a job was answered with {status}: {payload!r}")
        return None
    job = fields["rawws-id"]
    is_text = fields["content-type"].startswith("text/")
    ledger.get(link, job, int(fields["rawws-try"]), trio.current_time(), *about(job, payload, is_text))
    return job, fields["rawws-lease"]


async def answer(
    open_line: Callable[[], Awaitable[Line]], target: str, ledger: Ledger, link: Link, job: str, *, gives_back: bool
) -> None:
    """Say by POST that a job is done, or give it back, until the server has heard it. The target has the lease."""
    if gives_back:
        ledger.give_back(link, job)
    else:
        ledger.ack(link, job)
    verb = "nak" if gives_back else "ack"
    for tries in itertools.count():
        with suppress(Cut, OSError), await open_line() as line:
            status, _, body = await line.exchange(f"POST {target}&{verb}={job} HTTP/1.1")
            # The one before may have been taken, though its answer didn't come.
            if status != 204 and not (tries and status == 404):
                ledger.tell(f"the {verb} of {job} was answered with {status}: {body!r}")
            return
        await trio.sleep(REST_S)
