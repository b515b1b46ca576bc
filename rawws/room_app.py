"""Rooms for who has HTTP only: Server-Sent Events, polling, and publishing with a POST.

============================================  =============================================================
``GET /room/x``, accepts text/event-stream    the room's messages as events, from now on, or from ``since``,
                                              ``last`` or ``Last-Event-ID`` on
``GET /room/x?since=ID`` or ``?last=N``       what the history has, as JSON; with ``wait`` after so many
                                              seconds at the latest
``GET /room/x?peers``                         how many are in the room
``POST /room/x``                              the body becomes a message
============================================  =============================================================

It stands in front of what answers all other requests.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from rawws import logs
from rawws.errors import Refusal, UsageError
from rawws.exchange import Exchange
from rawws.hub import Hub
from rawws.limits import MIB
from rawws.peer import Endpoint
from rawws.room import Room, Slow
from rawws.transport import Transport
from rawws.web import HelloApp, HttpApp
from rawws.wire.encodings import as_json
from rawws.wire.event_stream import CONTENT_TYPE
from rawws.wire.frames import Opcode
from rawws.wire.handshake import Origins, is_local_name
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.rate import TokenBucket
from rawws.wire.reading import Reading, read_request

# Of one answer to who polls: more is there for the next question.
MAX_POLLED_MESSAGES = 1000
MAX_POLLED_BYTES = MIB
# For so long a POST waits for a room whose publishers are held back, before it is told to come again.
HELD_S = 5.0
MAX_KEY_CHARACTERS = 255

_METHODS = "GET, HEAD, POST"
_ASKED_BY_POST = "Authorization, Content-Type, Idempotency-Key, Rawws-Key"
_AGAIN = ((b"Retry-After", b"1"),)
# What curl -d says of any text that it is given.
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may read and write over HTTP.

    Publishing needs the ``token``, if there is one. Without one it is open to those who are on this machine, if nobody
    else can reach the server (``is_local``), and to nobody else; and web pages that come from elsewhere are not on this
    machine, whatever they are called (``Origin``, ``Sec-Fetch-Site``, and ``Host`` against DNS rebinding).
    """

    token: str | None = None
    is_local: bool = False
    origins: Origins = field(default_factory=Origins)

    def refuse_writing(self, request: Request) -> Refusal | None:
        """Return why a request may not publish, if it may not."""
        if self.token is not None:
            scheme, _, given = (request.headers.get("Authorization") or "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
                return None
            told = "Publishing needs the token, as 'Authorization: Bearer TOKEN'."
            return Refusal(401, "publish_token", told, ((b"WWW-Authenticate", b'Bearer realm="publish"'),))
        if not self.is_local:
            return Refusal(
                403,
                "publishing_closed",
                "Publishing over HTTP is closed here, since others can reach this server and it has no token for it.",
                hint="to open it, start the server with --publish-token",
            )
        return self._refuse_page(request)

    def _refuse_page(self, request: Request) -> Refusal | None:
        host = request.headers.get("Host") or ""
        origin = request.headers.get("Origin")
        if origin is not None and self.origins.allow(origin, host) and (is_local_name(host) or self.allows(origin)):
            return None
        site = request.headers.get("Sec-Fetch-Site", "none")
        if origin is None and site in ("none", "same-origin") and is_local_name(host):
            return None
        told = f"Pages from {origin or host} may not publish here."
        return Refusal(403, "publish_origin", told, hint="" if origin is None else self.origins.advise(origin))

    def allows(self, origin: str) -> bool:
        """Say whether pages from there are allowed by name."""
        return self.origins.allow(origin, "")

    def fields(self, request: Request) -> list[tuple[str, str]]:
        """Return what lets a page that is allowed by name read the answer (Fetch, CORS)."""
        origin = request.headers.get("Origin")
        if origin is None:
            return []
        if not self.allows(origin):
            return [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]


class RoomApp:
    """Answers what is asked of rooms, and leaves all else to another app."""

    def __init__(
        self,
        hub: Hub,
        elsewhere: HttpApp,
        guard: Guard,
        *,
        prefix: str = "/",
        max_message_bytes: int = MIB,
        rate: float = 0.0,
    ) -> None:
        """Rooms are at the paths that begin with ``prefix``.

        A POST may have ``max_message_bytes``, and come ``rate`` times a second from one client; 0 for any number.
        """
        self._rate = rate
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # by client
        self._hub = hub
        self._elsewhere = elsewhere
        self._guard = guard
        self._prefix = prefix
        theirs = elsewhere.max_body_bytes
        self.max_body_bytes: int | None = max_message_bytes if theirs is None else max(theirs, max_message_bytes)
        self._max_message_bytes = max_message_bytes

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return self._elsewhere.lifespan()

    async def serve_exchange(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path or ""
        if not path.startswith(self._prefix):
            await self._elsewhere.serve_exchange(exchange)
            return
        match request.method:
            case "POST":
                await self._answer(exchange, await self._publish(exchange, path))
            case "OPTIONS" if "Access-Control-Request-Method" in request.headers:
                await exchange.pass_over_body()
                await self._answer(exchange, _preflight())
            case "GET":
                await self._read(exchange, path)
            case _:
                await self._elsewhere.serve_exchange(exchange)

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
        streams = request.accepts(CONTENT_TYPE)
        reading = read_request(request)
        asks = isinstance(reading, Refusal) or reading.polls or reading.wants_peers
        if not streams and not asks:
            await self._elsewhere.serve_exchange(exchange)
            return
        await exchange.pass_over_body()
        if isinstance(reading, Refusal):
            await self._answer(exchange, reading)
        elif refused := await exchange.authorize("read"):
            await self._answer(exchange, refused)
        elif streams:
            await self._stream(exchange, path, reading)
        elif reading.wants_peers:
            room = self._hub.rooms.get(path)
            await self._answer(exchange, _as_json({"peers": 0 if room is None else len(room)}))
        else:
            await self._answer(exchange, await self._poll(exchange, path, reading))

    async def _stream(self, exchange: Exchange, path: str, reading: Reading) -> None:
        if refusal := self._hub.admit(exchange.request):
            await self._answer(exchange, refusal)
            return
        headers = [
            ("Content-Type", CONTENT_TYPE),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),  # nginx would wait for its buffer to be full
            *self._guard.fields(exchange.request),
        ]
        await exchange.hand_over(headers, partial(self._adopt, path, reading))

    def _adopt(self, path: str, reading: Reading, number: int, transport: Transport, endpoint: Endpoint) -> None:
        self._hub.stream_events(number, transport, path, reading, endpoint)

    async def _poll(self, exchange: Exchange, path: str, reading: Reading) -> Response | Refusal:
        if path not in self._hub.rooms and (refusal := self._hub.admit(exchange.request)):
            return refusal
        room = self._hub.room(path)
        place = room.place(reading)
        log = room.log
        with room.poll(place.after) as poller:
            if reading.wait_s and place.gap is None and log.last_message <= place.after:
                with exchange.waiting(reading.wait_s):
                    await poller.wait()
            found = log.messages(place.after, most=MAX_POLLED_MESSAGES, most_bytes=MAX_POLLED_BYTES)
            messages = [as_json(*message) for message in found]
        behind = messages[-1]["id"] if messages else log.label(place.after)
        return _as_json({"messages": messages, "next": behind, "gap": place.gap})

    # Writing

    async def _publish(self, exchange: Exchange, path: str) -> Response | Refusal:
        request = exchange.request
        refusal = self._guard.refuse_writing(request) or _refuse_key(request)
        if refusal is not None:
            await exchange.pass_over_body()
            return refusal
        if refused := await exchange.authorize("write") or self._refuse_rate(exchange):
            await exchange.pass_over_body()
            return refused
        body = await exchange.read_body()
        if len(body) > self._max_message_bytes:
            return Refusal(413, "message_too_large", f"A message is {self._max_message_bytes} bytes at most.")
        opcode = _opcode_of(request, body)
        if isinstance(opcode, Refusal):
            return opcode
        room = self._hub.rooms.get(path)
        if room is None:
            refusal = self._hub.admit(Request("GET", path, "1.1", Headers()))
            if refusal is not None:
                return refusal
            room = self._hub.room(path)
        with trio.move_on_after(HELD_S) as scope:
            await room.ready()
        if scope.cancelled_caught:
            told = "Somebody in this room reads too slowly, and those who publish are held back; try again."
            return Refusal(503, "held_back", told, _AGAIN)
        return self._publish_in(room, exchange, opcode, body)

    def _refuse_rate(self, exchange: Exchange) -> Refusal | None:
        """Return why this client may not publish just now, if it may not."""
        if not self._rate:
            return None
        client = exchange.client[0] if exchange.client is not None else ""
        now = trio.current_time()
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self._rate, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > 1 and next(iter(self._buckets.values())).is_full(now):
            self._buckets.popitem(last=False)
        wait_s = bucket.try_take(now)
        if not wait_s:
            return None
        told = f"There may be {self._rate:g} messages a second from one client."
        return Refusal(429, "rate", told, ((b"Retry-After", str(math.ceil(wait_s)).encode("ascii")),))

    def _publish_in(self, room: Room, exchange: Exchange, opcode: Opcode, body: bytes) -> Response | Refusal:
        request = exchange.request
        key = request.headers.get("Idempotency-Key")
        if key is not None:
            digest = hashlib.sha256(bytes((opcode,)) + body).digest()
            if (repeat := room.repeat_of(key, digest)) is not None:
                if repeat.digest != digest:
                    told = "This Idempotency-Key was used before, for another message."
                    return Refusal(422, "idempotency_key_reused", told)
                return _as_json({"id": room.log.label(repeat.number), "peers": len(room)}, 202)
        peers = len(room)
        named = request.headers.get("Rawws-Key") if room.settings.slow is Slow.LATEST else None
        room.publish(body, text=opcode is Opcode.TEXT, key=named)
        logs.line(logs.hub, 10, exchange.number, "=", f"published {room.last_id} in room {room.path} (peers: {peers})")
        return _as_json({"id": room.last_id, "peers": peers}, 202)


def rooms(
    hub: Hub,
    *,
    elsewhere: HttpApp | None = None,
    prefix: str = "/",
    publish_token: str | None = None,
    is_local: bool = False,
    origins: Origins | Sequence[str] = (),
    max_size: int = MIB,
) -> HttpApp:
    """Return an app, for the ``http`` of `serve`, in which a hub's rooms can be read and written over HTTP.

    ``GET`` with ``Accept: text/event-stream`` is a room's messages as events, ``GET ?since=ID`` polls, and ``POST``
    publishes, at the paths that begin with ``prefix``. Other requests go to ``elsewhere``, such as ``rawws.asgi(app)``.

    Publishing needs the ``publish_token``; without one nobody may, unless the server is one that only this machine can
    reach (``is_local``). Web pages from ``origins`` may read and write; others of another host may not.
    """
    if not prefix.startswith("/"):
        raise UsageError(f"{prefix!r} can't be where rooms are; give the beginning of their paths, such as /room/")
    guard = Guard(publish_token, is_local, origins if isinstance(origins, Origins) else Origins(origins))
    return RoomApp(hub, elsewhere or HelloApp(["POST"]), guard, prefix=prefix, max_message_bytes=max_size)


def _preflight() -> Response:
    """Answer what a browser asks before it lets a page send a POST (Fetch, CORS-preflight)."""
    fields = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _ASKED_BY_POST,
        "Access-Control-Max-Age": "600",
    }
    return Response(204, b"", fields)


def _as_json(told: dict[str, Any], status: int = 200) -> Response:
    body = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return Response(status, body, {"Content-Type": "application/json", "Cache-Control": "no-store"})


def _refuse_key(request: Request) -> Refusal | None:
    keys: Sequence[str] = request.headers.get_all("Idempotency-Key")
    if len(keys) > 1 or any(not 0 < len(key) <= MAX_KEY_CHARACTERS for key in keys):
        told = f"There can be one Idempotency-Key, of 1 to {MAX_KEY_CHARACTERS} characters."
        return Refusal(400, "idempotency_key", told)
    return None


def _opcode_of(request: Request, body: bytes) -> Opcode | Refusal:
    """Return what a body is as a message: texts and JSON are text, anything else is binary."""
    content_type, _, parameters = (request.headers.get("Content-Type") or "").partition(";")
    kind = content_type.strip().lower()
    if not (kind.startswith("text/") or kind in ("application/json", _FORM) or kind.endswith("+json")):
        return Opcode.BINARY
    charset = parameters.lower().partition("charset=")[2].strip().strip('"')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        return Refusal(415, "charset", f"A text has to be in UTF-8, not in {charset[:40]}.")
    try:
        body.decode()
    except UnicodeDecodeError:
        return Refusal(400, "not_utf8", f"This {kind} is not UTF-8; send bytes as application/octet-stream.")
    return Opcode.TEXT
