"""Rooms for clients that have HTTP only: Server-Sent Events, polling, and publishing with a POST.

============================================  =============================================================
``GET /room/x``, accepts text/event-stream    the room's messages as events, from now on, or from ``since``,
                                              ``last`` or ``Last-Event-ID`` on; with ``json`` as the JSON objects of
                                              polling
``GET /room/x?since=ID`` or ``?last=N``       the messages in the history, as JSON; with ``wait`` after at most
                                              that number of seconds
``GET /room/x?peers``                         the number of peers in the room
``POST /room/x``                              the body becomes a message
``GET /room/x?group=NAME``                    the next job of a group, or with ``state`` the group's state
``POST /room/x?group=NAME&ack=ID``            a worker's answer about a job
============================================  =============================================================

All other requests are passed to another app.
"""

from __future__ import annotations

from collections.abc import Iterable

from rawws.access.shared_token import SharedToken
from rawws.broadcast.query import RoomQuery, read_request
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS
from rawws.errors import Refusal
from rawws.groups.protocol import names_group
from rawws.hub.hub import Hub
from rawws.limits import Limits
from rawws.server.administration import AdminApp, ReservedApp
from rawws.server.apps import Exchange, HttpApp, Middleware, answer_options
from rawws.server.group_requests import answer_worker
from rawws.server.operators import TokenHolders, check_admin_token
from rawws.server.plain_apps import HelloApp, find_application
from rawws.server.room_posts import HttpPublisher, PublishPolicy
from rawws.server.room_readers import PeerCount, Poll, RoomReader, Stream, answer_page
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins

# The ways to read a room over HTTP. The first one that suits a request answers it; otherwise the other app does.
READERS: list[RoomReader] = [Stream(JSON_EVENTS), Stream(EVENTS), PeerCount(), Poll()]

_METHODS = ("GET", "HEAD", "POST")
_ASKED_BY_POST = "Authorization, Content-Type, Idempotency-Key, Rawws-Key"


class RoomApp(Middleware):
    """Answers requests for rooms, and passes all others to another app."""

    def __init__(
        self,
        hub: Hub,
        elsewhere: HttpApp,
        policy: PublishPolicy,
        *,
        max_message_bytes: int | None = None,
        rate: float = 0.0,
    ) -> None:
        """``elsewhere`` answers at all paths that are not rooms.

        A POST may have ``max_message_bytes``; by default as many as a WebSocket message. One client may send ``rate``
        POSTs a second; 0 is no limit.
        """
        self.hub = hub
        self._publisher = HttpPublisher(hub, policy, max_message_bytes, rate)
        self.elsewhere: HttpApp = elsewhere
        self._policy = policy
        self._paths = hub.paths(beside_application=find_application(elsewhere) is not None)

    def max_body_bytes(self, limits: Limits) -> int:
        return max(self.elsewhere.max_body_bytes(limits), self._publisher.max_message_bytes(limits))

    def needs_token(self, hub: object) -> bool:
        """Say whether a POST to this hub's rooms needs a token."""
        return self.hub is hub and self._policy.token is not None

    async def serve_exchange(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path or ""
        if path not in self._paths:
            await self.elsewhere.serve_exchange(exchange)
            return
        match request.method:
            case "GET" | "HEAD" | "POST" if names_group(request.query):
                await exchange.discard_body()
                await answer_worker(exchange, self.hub, self._policy)
            case "POST":
                await answer_page(exchange, self._policy, await self._publisher.publish(exchange, path))
            case "OPTIONS":
                await exchange.discard_body()
                await answer_page(exchange, self._policy, _answer_options(request))
            case "GET" | "HEAD":
                await self._read(exchange, path)
            case _:
                await self.elsewhere.serve_exchange(exchange)

    def concerns(self, request: Request) -> bool:
        """Say whether a GET or HEAD is about a room. To ask about grants, to load a room, and to wait may take time."""
        is_about_room = names_group(request.query) or _find_reader(request, read_request(request)) is not None
        return is_about_room and (request.path or "") in self._paths

    async def _read(self, exchange: Exchange, path: str) -> None:
        request = exchange.request
        reading = read_request(request)
        reader = _find_reader(request, reading)
        if reader is None:
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.discard_body()
        if isinstance(reading, Refusal):
            await answer_page(exchange, self._policy, reading)
            return
        admitted = await exchange.authorize(self.hub.action(reader.door, path))
        if isinstance(admitted, Response | Refusal):
            await answer_page(exchange, self._policy, admitted)
        else:
            await reader.answer(exchange, self.hub, path, reading, policy=self._policy, admitted=admitted)


def rooms(
    hub: Hub,
    *,
    elsewhere: HttpApp | None = None,
    publish_token: str | None = None,
    admin_token: str | None = None,
    is_local: bool = False,
    origins: Origins | Iterable[str] | None = (),
    max_size: int | None = None,
) -> HttpApp:
    """Return an app, for the ``http`` of `serve`, in which a hub's rooms can be read and written over HTTP.

    ``GET`` with ``Accept: text/event-stream`` is a room's messages as events, ``GET ?since=ID`` polls, and ``POST``
    publishes, at the paths that are rooms (see ``rooms_at`` of `Hub`). Other requests go to ``elsewhere``, such as
    ``rawws.asgi(app)``.

    Publishing needs the ``publish_token``. Without a token it is closed, unless only this machine can reach the server
    (``is_local``). Web pages of other hosts may read and write if their origin is in ``origins``, or ``origins``
    is None. A message may have ``max_size`` bytes; by default the limit of `serve` applies.

    With an ``admin_token``, requests that have it may list the rooms and connections below ``/_rawws/``, end
    connections, and clear histories. It has 16 characters or more.

    Raises `UsageError` for a token that can't be sent, or is too short.
    """
    token = None if publish_token is None else SharedToken(publish_token)
    policy = PublishPolicy(token, is_local, Origins.of(origins))
    app = RoomApp(hub, elsewhere or HelloApp(["POST"]), policy, max_message_bytes=max_size)
    if admin_token is None:
        return app
    return AdminApp(hub, ReservedApp(app), TokenHolders(SharedToken(check_admin_token(admin_token))))


def _find_reader(request: Request, reading: RoomQuery | Refusal) -> RoomReader | None:
    """Return the way to read a room that a request asks for, if it does; ``reading`` is what its query says."""
    # A query that can't be read is answered, whatever it asks for.
    asked = RoomQuery(polls=True) if isinstance(reading, Refusal) else reading
    return next((reader for reader in READERS if reader.suits(request, asked)), None)


def _answer_options(request: Request) -> Response:
    """Answer with the methods of a room, also to a browser's CORS-preflight request (Fetch)."""
    fields = {
        "Access-Control-Allow-Methods": ", ".join(_METHODS),
        "Access-Control-Allow-Headers": _ASKED_BY_POST,
        "Access-Control-Max-Age": "600",
    }
    return answer_options(_METHODS, fields if "Access-Control-Request-Method" in request.headers else None)
