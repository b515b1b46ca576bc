"""Requests of workers that have HTTP alone: the right to work in a group, and the wait for a job.

A worker takes messages from others. So even a GET needs what publishing by POST needs, and the right to read besides.
"""

from __future__ import annotations

import trio

from rawws.access.grant import Action, Admitted
from rawws.errors import Refusal
from rawws.groups.websockets import MAY_NOT_WORK, WORKING
from rawws.hub.hub import Hub
from rawws.hub.queues import Happens, Wait, WorkerClient
from rawws.server.apps import Exchange
from rawws.server.room_posts import PublishPolicy
from rawws.wire.messages import Response


async def answer_worker(exchange: Exchange, hub: Hub, policy: PublishPolicy) -> Response | Refusal:
    """Return the answer to a request about a group of a room. Its body has been read."""
    admitted = await _admit(exchange, policy)
    if not isinstance(admitted, Admitted):
        return admitted
    client = WorkerClient(exchange.number, exchange.remote_address, admitted.user)
    return await hub.queues.answer(exchange.request, client, _wait_until(exchange, admitted.ends_at))


async def _admit(exchange: Exchange, policy: PublishPolicy) -> Admitted | Response | Refusal:
    """Return the admission of a worker, or the answer that refuses it."""
    if refused := policy.refuse_writing(exchange.request, has_grants=exchange.has_grants):
        return refused
    admitted = await exchange.authorize(WORKING)
    if isinstance(admitted, Admitted) and Action.WRITE not in admitted.action:
        return MAY_NOT_WORK
    return admitted


def _wait_until(exchange: Exchange, ends_at: float) -> Wait:
    """Return a function that waits for at most some seconds, and not beyond the end of a grant."""

    async def wait(happens: Happens, timeout_s: float) -> None:
        await exchange.wait_for(happens, max(0.0, min(timeout_s, ends_at - trio.current_time())))

    return wait
