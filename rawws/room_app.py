"""Rooms for who has HTTP only: Server-Sent Events, polling, and publishing with a POST.

============================================  =============================================================
``GET /room/x``, accepts text/event-stream    the room's messages as events, from now on, or from ``since``,
                                              ``last`` or ``Last-Event-ID`` on; with ``json`` each as it is in the
                                              JSON of polling
``GET /room/x?since=ID`` or ``?last=N``       what the history has, as JSON; with ``wait`` after so many
                                              seconds at the latest
``GET /room/x?peers``                         how many are in the room
``POST /room/x``                              the body becomes a message
============================================  =============================================================

It stands in front of what answers all other requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from rawws.apps import Exchange, HttpApp, Middleware, answer_json, answer_options
from rawws.doors import Door
from rawws.errors import Refusal
from rawws.hub import Hub
from rawws.limits import Limits
from rawws.peer import Endpoint, Peer
from rawws.room_posts import Guard, Posts
from rawws.transport import Transport
from rawws.web import HelloApp, find_application
from rawws.wire.event_stream import CONTENT_TYPE
from rawws.wire.messages import NO_STORE, Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.reading import RoomQuery, read_request

_METHODS = ("GET", "HEAD", "POST")
_ASKED_BY_POST = "Authorization, Content-Type, Idempotency-Key, Rawws-Key"


class RoomApp(Middleware):
    """Answers what is asked of rooms, and leaves all else to another app."""

    def __init__(
        self,
        hub: Hub,
        elsewhere: HttpApp,
        guard: Guard,
        *,
        max_message_bytes: int | None = None,
        rate: float = 0.0,
    ) -> None:
        """``elsewhere`` answers at all paths that are not rooms.

        A POST may have ``max_message_bytes``, or as many as a message by WebSocket, and come ``rate`` times a second
        from one client; 0 for any number.
        """
        self._hub = hub
        self._posts = Posts(hub, guard, max_message_bytes, rate)
        self.elsewhere: HttpApp = elsewhere
        self._guard = guard
        self._paths = hub.paths(beside_application=find_application(elsewhere) is not None)

    def max_body_bytes(self, limits: Limits) -> int:
        return max(self.elsewhere.max_body_bytes(limits), self._posts.max_message_bytes(limits))

    def needs_token(self, hub: object) -> bool:
        """Say whether a POST to this hub's rooms needs a token."""
        return self._hub is hub and self._guard.token is not None

    async def serve_exchange(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path or ""
        if path not in self._paths:
            await self.elsewhere.serve_exchange(exchange)
            return
        match request.method:
            case "POST":
                await self._answer(exchange, await self._posts.publish(exchange, path))
            case "OPTIONS":
                await exchange.discard_body()
                await self._answer(exchange, _answer_options(request))
            case "GET" | "HEAD":
                await self._read(exchange, path)
            case _:
                await self.elsewhere.serve_exchange(exchange)

    async def _answer(self, exchange: Exchange, answer: Response | Refusal) -> None:
        """Answer, in a way that a page may read which is allowed to."""
        added = self._guard.fields(exchange.request)
        if isinstance(answer, Refusal):
            raw = tuple((name.encode("ascii"), value.encode("ascii")) for name, value in added)
            await exchange.answer(
                Refusal(answer.status, answer.code, answer.sentence, answer.headers + raw, answer.hint)
            )
        else:
            await exchange.answer(Response(answer.status, answer.body, Headers([*answer.headers, *added])))

    # Reading

    async def _read(self, exchange: Exchange, path: str) -> None:
        request = exchange.request
        reading = read_request(request)
        asks = isinstance(reading, Refusal) or reading.polls or reading.wants_peers
        streams = request.accepts(CONTENT_TYPE, rather_than="application/json" if asks else None)
        if not streams and not asks:
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.discard_body()
        if isinstance(reading, Refusal):
            await self._answer(exchange, reading)
            return
        user = await exchange.authorize(self._hub.access(_door_of(reading, streams=streams), path))
        if isinstance(user, Response):
            await self._answer(exchange, user)
        elif streams:
            await self._stream(exchange, path, reading, user)
        elif reading.wants_peers:
            room = self._hub.rooms.get(path)
            await self._answer(exchange, answer_json({"peers": 0 if room is None else len(room)}))
        else:
            await self._poll(exchange, path, reading)

    async def _stream(self, exchange: Exchange, path: str, reading: RoomQuery, user: object) -> None:
        request = exchange.request
        refused = self._hub.admit(request) or await self._hub.prepare(path, reading.since) or self._hub.admit(request)
        if refused is not None:
            await self._answer(exchange, refused)
            return
        headers = [
            ("Content-Type", CONTENT_TYPE),
            NO_STORE,
            ("X-Accel-Buffering", "no"),  # nginx would wait for its buffer to be full
            *self._guard.fields(exchange.request),
        ]
        if request.method == "HEAD":  # RFC 9110 §9.3.2: what GET is answered with, without the events
            await exchange.start_response(200, Headers(headers).raw())
            await exchange.end_response()
            return
        address = exchange.remote_address

        def adopt(number: int, transport: Transport, endpoint: Endpoint) -> Peer | None:
            return self._hub.stream_events(
                number, transport, path, reading, endpoint, remote_address=address, user=user
            )

        await exchange.hand_over(headers, adopt)

    async def _poll(self, exchange: Exchange, path: str, reading: RoomQuery) -> None:
        refused: Refusal | None = None
        if path not in self._hub.rooms:
            refused = self._hub.admit(exchange.request)
        if refused := refused or await self._hub.prepare(path, reading.since):
            await self._answer(exchange, refused)
            return
        room = self._hub.room(path)
        place = room.place(reading)
        with room.poll(place.after) as poller:
            waits = reading.wait_s and exchange.request.method == "GET"
            if waits and place.gap is None and room.log.last_message <= place.after:
                await exchange.wait_for(poller.wait, reading.wait_s)
            polled = room.polled(place.after, place.gap or poller.gap)
        if polled.whole is not None:
            await self._answer(exchange, answer_json(polled.whole))
            return
        fields = [*answer_json(b"").headers, *self._guard.fields(exchange.request)]
        await exchange.answer_in_pieces(Headers(fields).raw(), polled, held=lambda: polled.objects(room.log.keeps))


def rooms(
    hub: Hub,
    *,
    elsewhere: HttpApp | None = None,
    publish_token: str | None = None,
    is_local: bool = False,
    origins: Origins | Iterable[str] | None = (),
    max_size: int | None = None,
) -> HttpApp:
    """Return an app, for the ``http`` of `serve`, in which a hub's rooms can be read and written over HTTP.

    ``GET`` with ``Accept: text/event-stream`` is a room's messages as events, ``GET ?since=ID`` polls, and ``POST``
    publishes, at the paths that are rooms (see ``rooms_at`` of `Hub`). Other requests go to ``elsewhere``, such as
    ``rawws.asgi(app)``.

    Publishing needs the ``publish_token``; without one nobody may, unless the server is one that only this machine can
    reach (``is_local``). Web pages of other hosts may read and write if their origin is in ``origins``, or ``origins``
    is None. A message may have ``max_size`` bytes; by default the limit of `serve` applies.
    """
    guard = Guard(publish_token, is_local, Origins.of(origins))
    return RoomApp(hub, elsewhere or HelloApp(["POST"]), guard, max_message_bytes=max_size)


def _door_of(reading: RoomQuery, *, streams: bool) -> Door:
    if streams:
        return Door.EVENTS
    return Door.PEERS if reading.wants_peers else Door.POLL


def _answer_options(request: Request) -> Response:
    """Answer with the methods of a room, also to a browser's CORS-preflight request (Fetch)."""
    fields = {
        "Access-Control-Allow-Methods": ", ".join(_METHODS),
        "Access-Control-Allow-Headers": _ASKED_BY_POST,
        "Access-Control-Max-Age": "600",
    }
    return answer_options(_METHODS, fields if "Access-Control-Request-Method" in request.headers else None)
