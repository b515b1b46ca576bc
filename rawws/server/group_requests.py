"""Requests of workers that have HTTP alone: the right to work in a group, the wait for a job, and the answer.

A worker takes messages from others. So even a GET needs what publishing by POST needs, and the right to read besides.
"""

from __future__ import annotations

import trio

from rawws.access.grant import Action, Admitted
from rawws.errors import Refusal
from rawws.groups.websockets import MAY_NOT_WORK, WORKING
from rawws.hub.hub import Hub
from rawws.hub.queues import Handed, Happens, Wait, WorkerClient
from rawws.server.apps import Exchange
from rawws.server.room_posts import PublishPolicy
from rawws.server.room_readers import answer_page
from rawws.wire.messages import NO_STORE, Response

# A page's <img> or <script> can send a GET to any server, with the user's cookies or to the user's own machine.
UNKNOWN_PAGE = Refusal(
    403,
    "worker_page",
    "A browser has sent this for a page that may be another site's, and such a page takes no jobs.",
    hint="take jobs with a WebSocket, or have the page use fetch(), and name itself in the Referer or the Origin",
)


async def answer_worker(exchange: Exchange, hub: Hub, policy: PublishPolicy) -> None:
    """Answer a request about a group of a room. Its body has been read."""
    answer = await _find_answer(exchange, hub, policy)
    if isinstance(answer, Handed):
        await _hand_over(exchange, policy, answer)
    else:
        await answer_page(exchange, policy, answer)


async def _hand_over(exchange: Exchange, policy: PublishPolicy, handed: Handed) -> None:
    """Send a job to its worker. If it is known that it doesn't arrive, another worker gets it at once."""
    if exchange.has_gone():
        handed.take_back()
        await answer_page(exchange, policy, Response(204, b"", [NO_STORE]))
        return
    try:
        await answer_page(exchange, policy, handed.response)
    except BaseException:
        handed.take_back()
        raise
    if exchange.has_refused():
        handed.take_back()


async def _find_answer(exchange: Exchange, hub: Hub, policy: PublishPolicy) -> Response | Refusal | Handed:
    admitted = await _admit(exchange, policy)
    if not isinstance(admitted, Admitted):
        return admitted
    client = WorkerClient(exchange.number, exchange.remote_address, admitted.user, exchange.has_gone)
    return await hub.queues.answer(exchange.request, client, _wait_until(exchange, admitted.ends_at))


async def _admit(exchange: Exchange, policy: PublishPolicy) -> Admitted | Response | Refusal:
    """Return the admission of a worker, or the answer that refuses it."""
    request = exchange.request
    if refused := policy.refuse_writing(request, has_grants=exchange.has_grants):
        return refused
    if request.method != "POST" and not policy.is_operator(request) and request.may_be_embedded:
        return UNKNOWN_PAGE
    admitted = await exchange.authorize(WORKING)
    if isinstance(admitted, Admitted) and Action.WRITE not in admitted.action:
        return MAY_NOT_WORK
    return admitted


def _wait_until(exchange: Exchange, ends_at: float) -> Wait:
    """Return a function that waits for at most some seconds, and not beyond the end of a grant."""

    async def wait(happens: Happens, timeout_s: float) -> None:
        await exchange.wait_for(happens, max(0.0, min(timeout_s, ends_at - trio.current_time())))

    return wait
