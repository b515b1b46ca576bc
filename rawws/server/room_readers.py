"""The ways to read a room over HTTP, each an object: a stream of messages, a poll, the number of peers.

`rawws.server.room_app` has the table of the ways that a server offers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

import trio

from rawws.access.grant import EXPIRED, Action, Admitted, refuse_by_now
from rawws.broadcast.query import RoomQuery
from rawws.broadcast.stream_encodings import StreamEncoding
from rawws.errors import Refusal
from rawws.hub.doors import Door
from rawws.hub.hub import Hub
from rawws.hub.waiting_polls import WaitingPoll
from rawws.net.transport import Transport
from rawws.relay.peer import Peer, PeerGroup
from rawws.relay.polling import Poller
from rawws.server.apps import Exchange, answer_json
from rawws.server.room_posts import PublishPolicy
from rawws.wire.messages import NO_STORE, Headers, Request, Response

# Polls whose clients' grants end together are answered over this time.
SPREAD_S = 1.0
SPREAD_STEPS = 100


class RoomReader(Protocol):
    """A way to read a room with a GET request."""

    door: Door  # decides what a client has to be admitted to

    def suits(self, request: Request, reading: RoomQuery) -> bool:
        """Return whether a request asks for this; ``reading`` is what its query asks for."""

    async def answer(
        self, exchange: Exchange, hub: Hub, path: str, reading: RoomQuery, *, policy: PublishPolicy, admitted: Admitted
    ) -> None:
        """Answer a request. Its body has been read, and its client is admitted."""


class Stream:
    """A response that never ends: the room's messages in an encoding, for a request that accepts its media type."""

    door = Door.EVENTS

    def __init__(self, encoding: StreamEncoding) -> None:
        self._encoding = encoding

    def suits(self, request: Request, reading: RoomQuery) -> bool:
        if not self._encoding.suits(reading):
            return False
        polls = reading.polls or reading.wants_peers
        return request.accepts(self._encoding.content_type, rather_than="application/json" if polls else None)

    async def answer(
        self, exchange: Exchange, hub: Hub, path: str, reading: RoomQuery, *, policy: PublishPolicy, admitted: Admitted
    ) -> None:
        request = exchange.request
        refused = hub.admit(request) or await hub.prepare(path, reading.since) or hub.admit(request)
        if refused is not None:
            await answer_page(exchange, policy, refused)
            return
        headers = [
            ("Content-Type", self._encoding.content_type),
            NO_STORE,
            ("X-Accel-Buffering", "no"),  # nginx would wait for its buffer to be full
            *policy.fields(request),
        ]
        if request.method == "HEAD":  # RFC 9110 §9.3.2: the answer to GET, without the messages
            await exchange.start_response(200, Headers(headers).raw())
            await exchange.end_response()
            return
        address = exchange.remote_address

        def adopt(number: int, transport: Transport, endpoint: PeerGroup) -> Peer | None:
            return hub.stream_events(
                number,
                transport,
                path,
                reading,
                endpoint,
                encoding=self._encoding,
                remote_address=address,
                admitted=admitted,
            )

        await exchange.hand_over(headers, adopt)


class PeerCount:
    """The number of peers in the room, as JSON: ``?peers``."""

    door = Door.PEERS

    def suits(self, request: Request, reading: RoomQuery) -> bool:
        return reading.wants_peers

    async def answer(
        self, exchange: Exchange, hub: Hub, path: str, reading: RoomQuery, *, policy: PublishPolicy, admitted: Admitted
    ) -> None:
        room = hub.registry.in_use.get(path)
        await answer_page(exchange, policy, answer_json({"peers": 0 if room is None else len(room)}))


class Poll:
    """The messages in the history, as JSON: ``?since``, ``?last``, ``?wait``."""

    door = Door.POLL

    def suits(self, request: Request, reading: RoomQuery) -> bool:
        return reading.polls

    async def answer(
        self, exchange: Exchange, hub: Hub, path: str, reading: RoomQuery, *, policy: PublishPolicy, admitted: Admitted
    ) -> None:
        refused: Refusal | None = None
        if path not in hub.registry.in_use:
            refused = hub.admit(exchange.request)
        refused = refused or await hub.prepare(path, reading.since)
        # The grant may have been withdrawn while the room was loaded.
        if refused := refused or refuse_by_now(admitted.user, path, Action.READ, time.time()):
            await answer_page(exchange, policy, refused)
            return
        room = hub.registry.get(path)
        place = room.resolve(reading)
        with room.poll(place.after) as poller:
            may_wait = reading.wait_s and exchange.request.method == "GET"
            if may_wait and place.gap is None and room.log.last_message <= place.after:
                refused = await _wait(exchange, hub, path, poller, wait_s=reading.wait_s, admitted=admitted)
            if refused is not None:
                await answer_page(exchange, policy, refused)
                return
            polled = room.poll_response(place.after, place.gap or poller.gap)
        if polled.whole is not None:
            await answer_page(exchange, policy, answer_json(polled.whole))
            return
        fields = [*answer_json(b"").headers, *policy.fields(exchange.request)]
        await exchange.answer_in_pieces(Headers(fields).raw(), polled, held=lambda: polled.objects(room.log.keeps))


async def _wait(
    exchange: Exchange, hub: Hub, path: str, poller: Poller, *, wait_s: float, admitted: Admitted
) -> Refusal | None:
    """Wait for a message. Return why the poll may not have it, or may not wait any longer; None if it may."""
    ends_at = admitted.ends_at + _spread_s(exchange.number)
    left_s = max(0.0, ends_at - trio.current_time())  # the grant may have ended while the room was loaded
    poll = WaitingPoll(exchange.number, path, admitted.user, exchange.remote_address, int(time.time()), poller)
    with hub.polls.waiting(poll):
        await exchange.wait_for(poller.wait, min(wait_s, left_s))
    if poll.refusal is not None:
        return poll.refusal
    # A message may have ended the wait after the grant had ended, or was withdrawn.
    is_over = trio.current_time() >= admitted.ends_at
    return EXPIRED if is_over else refuse_by_now(admitted.user, path, Action.READ, time.time())


def _spread_s(number: int) -> float:
    """Return a time by which a poll ends later, so that those which end together don't end at once."""
    return number % SPREAD_STEPS * SPREAD_S / SPREAD_STEPS


async def answer_page(exchange: Exchange, policy: PublishPolicy, answer: Response | Refusal) -> None:
    """Send an answer. A web page can read it if its origin is allowed."""
    added = policy.fields(exchange.request)
    if isinstance(answer, Refusal):
        raw = tuple((name.encode("ascii"), value.encode("ascii")) for name, value in added)
        await exchange.answer(replace(answer, headers=answer.headers + raw))
    else:
        await exchange.answer(Response(answer.status, answer.body, Headers([*answer.headers, *added])))
