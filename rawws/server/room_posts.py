"""Publishing with a POST: the right to do so, the message that a body becomes, and safe retries."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from rawws import logs
from rawws.access.grant import Action, Admitted, Grant, refuse_by_now
from rawws.access.shared_token import SharedToken
from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.token_bucket import TokenBucket
from rawws.errors import RETRY_SOON, Refusal
from rawws.hub.doors import Door
from rawws.hub.hub import Hub
from rawws.hub.moderator import Moderator
from rawws.hub.room import Room, state_of
from rawws.hub.sender import Sender
from rawws.limits import Limits
from rawws.net.client_address import client_of
from rawws.relay.backplane import AWAY, Backplane
from rawws.relay.room_state import RoomState
from rawws.server.apps import Exchange, answer_json
from rawws.wire.allowed_hosts import is_local_name
from rawws.wire.events import Message
from rawws.wire.frames import Opcode
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins, name_origin
from rawws.wire.publishing import MAX_KEY_CHARACTERS, UNSURE
from rawws.wire.trace import STATE, shorten

# A POST waits for at most this time for a room whose publishers are held back. Then the client has to try again.
HELD_S = 5.0

# The Content-Type of ``curl -d``, whatever the text is.
_FORM = "application/x-www-form-urlencoded"
_HOW_TO_OPEN = "to open it, start the server with --publish-token"
_NOT_TAKEN = Refusal(502, "backplane", "The backplane can't take this message; the server's log says why.")
_REUSED = Refusal(422, "idempotency_key_reused", "This Idempotency-Key was used before, for another message.")


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """The policy for reading and writing over HTTP.

    Publishing needs the ``token``, if there is one. Without a token, publishing is open to clients on this machine if
    no other machine can reach the server (``is_local``), and closed otherwise. A client that comes through a proxy may
    be anywhere, so it doesn't count. Web pages from elsewhere don't count either, whatever their name (``Origin``,
    ``Sec-Fetch-Site``, and ``Host`` against DNS rebinding).

    If the server has a source of grants, that decides, and the token is one of an operator who may publish anywhere.
    """

    token: SharedToken | None = None
    is_local: bool = False
    origins: Origins = field(default_factory=Origins)

    def is_operator(self, request: Request) -> bool:
        """Return whether a request has the token."""
        return self.token is not None and self.token.is_in(request)

    def refuse_writing(self, request: Request, *, has_grants: bool = False) -> Refusal | None:
        """Return why a request may not publish, whoever sends it; None if it may.

        With ``has_grants``, its sender needs a grant too, unless it is an operator.
        """
        if self.is_operator(request):
            return None
        if has_grants:
            return self._refuse_foreign_page(request)
        if self.token is not None:
            sentence = "Publishing needs the token, as 'Authorization: Bearer TOKEN'."
            return Refusal(401, "publish_token", sentence, ((b"WWW-Authenticate", b'Bearer realm="publish"'),))
        if self.is_local and not request.was_forwarded:
            return self._refuse_elsewhere(request)
        why = "this request came through a proxy" if self.is_local else "others can reach this server"
        sentence = f"Publishing over HTTP is closed here, since {why} and there is no token for it."
        return Refusal(403, "publishing_closed", sentence, hint=_HOW_TO_OPEN)

    def _refuse_foreign_page(self, request: Request) -> Refusal | None:
        """Return why a request isn't from a page that may publish: a browser sends cookies with those of any site."""
        origin = request.headers.get("Origin")
        if origin is None or self.origins.allow(origin, request.authority):
            return None
        reason = f"Pages from {name_origin(origin)} may not publish here."
        return Refusal(403, "publish_origin", reason, hint=self.origins.advise(origin))

    def _refuse_elsewhere(self, request: Request) -> Refusal | None:
        """Return why a request isn't from this machine: a page sent it, or its Host may be forged; None if it is."""
        host = request.authority
        origin = request.headers.get("Origin")
        if origin is not None:
            if self.origins.allow(origin, host) and (is_local_name(host) or self.allows(origin)):
                return None
            reason = f"Pages from {name_origin(origin)} may not publish here."
            return Refusal(403, "publish_origin", reason, hint=self.origins.advise(origin))
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return Refusal(403, "publish_origin", "Pages of other sites may not publish here.")
        if is_local_name(host):
            return None
        called = f"is for {shorten(host)}" if host else "has no Host"
        sentence = f"Without a token, only a request for localhost or an address may publish here; this one {called}."
        return Refusal(403, "publish_host", sentence, hint=_HOW_TO_OPEN)

    def allows(self, origin: str) -> bool:
        """Return whether pages from an origin are allowed by name."""
        return self.origins.allow(origin, "")

    def fields(self, request: Request) -> list[tuple[str, str]]:
        """Return the header fields that let a page which is allowed by name read the answer (Fetch, CORS)."""
        origin = request.headers.get("Origin")
        if origin is None:
            return []
        if not self.allows(origin):
            return [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]


class _Post(NamedTuple):
    """A request to publish, whose sender is admitted, and its message."""

    exchange: Exchange
    path: str
    admitted: Admitted
    opcode: Opcode
    body: bytes
    is_operator: bool

    @property
    def once(self) -> IdempotencyKey | None:
        """Its Idempotency-Key, which belongs to the sender."""
        text = self.exchange.request.headers.get("Idempotency-Key")
        if text is None:
            return None
        return IdempotencyKey(text, "operator" if self.is_operator else _owner(self.admitted.user))

    @property
    def digest(self) -> str:
        """A digest of the message as it was sent, by which another one with the same Idempotency-Key is recognized."""
        return hashlib.sha256(bytes((self.opcode,)) + self.body).hexdigest()

    def moderated(self, moderator: Moderator | None) -> Message | Refusal:
        """Return the message that is published, or why it isn't: the program is asked, if it moderates."""
        message = Message(self.opcode, self.body)
        if moderator is None:
            return message
        exchange = self.exchange
        sender = Sender(self.path, self.admitted.user, exchange.remote_address, exchange.request, None)
        return moderator.judge_post(exchange.number, sender, message)

    def accept(self, given: str | None, peers: int) -> Response:
        """Return the answer with the message's id. Only a reader of the room learns how many peers are there."""
        sentence = f"published {given or 'a message'} in room {self.path} (peers: {peers})"
        logs.line(logs.hub, logging.DEBUG, self.exchange.number, STATE, sentence)
        return self.answer(given, peers)

    def answer(self, given: str | None, peers: int) -> Response:
        answered: dict[str, object] = {"id": given}
        return answer_json(answered | {"peers": peers} if self.admitted.may_read else answered, 202)


class HttpPublisher:
    """Publishes the bodies of POST requests in a hub's rooms."""

    def __init__(self, hub: Hub, policy: PublishPolicy, max_message_bytes: int | None, rate: float) -> None:
        """One client may send ``rate`` messages a second; 0 and infinity are no limit."""
        self._hub = hub
        self._policy = policy
        self._max_message_bytes = max_message_bytes
        self._rate = rate or math.inf
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # by client

    def max_message_bytes(self, limits: Limits) -> int:
        """Return the largest size of a message: the limit for POSTs, or else the server's."""
        return limits.max_message_bytes if self._max_message_bytes is None else self._max_message_bytes

    async def publish(self, exchange: Exchange, path: str) -> Response | Refusal:
        """Publish the body of a request in the room of its path, and return the answer."""
        is_operator = self._policy.is_operator(exchange.request)  # the token may be replaced while the body comes
        admitted = await self._admit(exchange, path, is_operator=is_operator)
        if not isinstance(admitted, Admitted):
            await exchange.discard_body()
            return admitted
        if refused := self._hub.queues.refuse_publishing(path):
            await exchange.discard_body()
            return refused
        most = self.max_message_bytes(exchange.limits)
        sentence = f"A message is over the server's limit of {most} bytes (--max-size)."
        body = await exchange.read_body(most, Refusal(413, "message_too_large", sentence))
        # Its sender's grant may have been withdrawn while the body came.
        if refused := refuse_by_now(admitted.user, path, Action.WRITE, time.time()):
            return refused
        opcode = _opcode_of(exchange.request, body)
        if isinstance(opcode, Refusal):
            return opcode
        post = _Post(exchange, path, admitted, opcode, body, is_operator)
        if (backplane := self._hub.registry.backplane_of(path)) is not None:
            return await self._publish_through(backplane, post)
        if refusal := self._hub.refuse_room(path):
            return refusal
        room = self._hub.room(path)
        with trio.move_on_after(HELD_S) as scope:
            await room.ready()
        if scope.cancelled_caught:
            message = (
                "Publishers in this room are held back: a peer reads too slowly, or much is left to encode. Try again."
            )
            return Refusal(503, "held_back", message, RETRY_SOON)
        # Or while publishers were held back.
        return refuse_by_now(admitted.user, path, Action.WRITE, time.time()) or self._publish_in(room, post)

    async def _admit(self, exchange: Exchange, path: str, *, is_operator: bool) -> Admitted | Response | Refusal:
        """Return the admission of a request's sender, or the answer that refuses it."""
        request = exchange.request
        if refusal := self._policy.refuse_writing(request, has_grants=exchange.has_grants) or _refuse_key(request):
            return refusal
        admitted = await exchange.authorize(self._hub.action(Door.POST, path), is_operator=is_operator)
        if isinstance(admitted, Admitted) and (refusal := self._refuse_rate(exchange)):
            return refusal
        return admitted

    async def _publish_through(self, backplane: Backplane[RoomState], post: _Post) -> Response | Refusal:
        """Publish on all nodes, or into the store, and return the answer when the message is there."""
        refuse = self._hub.refuse_settings if self._hub.stored is None else self._hub.refuse_room
        if refusal := backplane.refusal or refuse(post.path):
            return refusal
        moderated = post.moderated(self._hub.moderator)
        if isinstance(moderated, Refusal):
            return moderated
        headers = post.exchange.request.headers
        once = post.once
        done = trio.Event()
        shared = self._hub.registry.get(post.path)
        message = Outgoing(
            shared.path,  # one object for all waiting messages
            moderated.opcode,
            bytes(moderated.payload),
            shared.settings.history,
            key=headers.get("Rawws-Key"),
            once=once,
            digest=post.digest if once else "",
            on_done=done.set,
        )
        backplane.publish(message)
        with trio.move_on_after(HELD_S):
            await done.wait()
        if message.problem:
            return message.refusal or backplane.refusal or _NOT_TAKEN
        if not message.is_done:
            if backplane.withdraw(message):
                return backplane.refusal or AWAY
            sentence = f"{UNSURE} A retry is safe if both have the same Idempotency-Key."
            return Refusal(503, "backplane_unsure", sentence, RETRY_SOON)
        if message.is_reused:
            return _REUSED
        room = self._hub.registry.in_use.get(post.path)
        return post.accept(message.label, 0 if room is None else len(room))

    def _refuse_rate(self, exchange: Exchange) -> Refusal | None:
        """Return why this client may not publish just now; None if it may."""
        if self._rate == math.inf:
            return None
        client = client_of(exchange.client[0]) if exchange.client is not None else ""
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
        sentence = f"One client may send {self._rate:g} messages a second (--rate)."
        return Refusal(429, "rate", sentence, ((b"Retry-After", str(math.ceil(wait_s)).encode("ascii")),))

    def _publish_in(self, room: Room, post: _Post) -> Response | Refusal:
        headers = post.exchange.request.headers
        key = post.once
        digest = "" if key is None else post.digest
        state = state_of(room)
        if key is not None and (repeat := state.find_idempotent(key)) is not None:
            if repeat.digest != digest:
                return _REUSED
            return post.answer(state.log.label(repeat.number), len(room))
        moderated = post.moderated(self._hub.moderator)
        if isinstance(moderated, Refusal):
            return moderated
        peers = len(room)
        named = headers.get("Rawws-Key") if state.policy.uses_keys else None
        room.publish(moderated.payload, text=moderated.opcode is Opcode.TEXT, key=named)
        if key is not None:
            state.remember_idempotency_key(key, digest)
        return post.accept(room.last_id, peers)


def _owner(user: object) -> str:
    """Return the name by which a user owns its Idempotency-Keys; empty for one whose name isn't known."""
    name = user.user if isinstance(user, Grant) else user if isinstance(user, str | int) else None
    return "" if name is None else f"user {name}"


def _refuse_key(request: Request) -> Refusal | None:
    keys: Sequence[str] = request.headers.get_all("Idempotency-Key")
    if len(keys) > 1 or any(not 0 < len(key) <= MAX_KEY_CHARACTERS for key in keys):
        sentence = f"There can be one Idempotency-Key, of 1 to {MAX_KEY_CHARACTERS} characters."
        return Refusal(400, "idempotency_key", sentence)
    return None


def _opcode_of(request: Request, body: bytes) -> Opcode | Refusal:
    """Return the kind of message that a body becomes: texts and JSON are text, anything else is binary."""
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
