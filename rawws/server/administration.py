"""Administration over HTTP: the rooms and connections of a hub as an operator sees them, and the means to end them.

============================================  =============================================================
``GET /_rawws/rooms``                         the rooms, or with ``room`` one of them
``GET /_rawws/peers``                         the connections, or with ``user``, ``number`` or ``room`` some of them
``DELETE /_rawws/peers?user=NAME``            ends the connections of a user; with ``number`` one connection
``DELETE /_rawws/history?room=PATH``          clears the history of a room
``GET /_rawws/groups``                        the groups of all rooms, with what they have left to do
``DELETE /_rawws/groups?room=PATH&group=NAME``  ends a group, and forgets what it has left to do
============================================  =============================================================

Lists are answered in pieces of ``limit`` entries. ``next`` of a piece is the ``after`` of the following one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

import trio

from rawws import logs
from rawws.broadcast.json_messages import as_compact_json
from rawws.errors import BackplaneAway, Refusal, UsageError
from rawws.hub.administration import Entry, HubNode, Nodes, Page, disconnect, gather_peers, gather_rooms
from rawws.hub.hub import Hub
from rawws.hub.other_nodes import OtherNodes
from rawws.hub.paths import OWN_PATHS
from rawws.limits import MIB
from rawws.net.addresses import name_this_process
from rawws.relay.backplane import AWAY
from rawws.server.administration_query import (
    read_disconnect,
    read_group,
    read_history,
    read_nothing,
    read_peers,
    read_rooms,
)
from rawws.server.apps import Exchange, HttpApp, Middleware, answer_json, answer_options, name_methods
from rawws.server.operators import Operators
from rawws.wire.messages import NO_STORE, Request, Response
from rawws.wire.trace import STATE, shorten

ROOMS, PEERS, HISTORY, GROUPS = (OWN_PATHS + name for name in ("rooms", "peers", "history", "groups"))
METHODS = {
    ROOMS: ("GET", "HEAD"),
    PEERS: ("GET", "HEAD", "DELETE"),
    HISTORY: ("DELETE",),
    GROUPS: ("GET", "HEAD", "DELETE"),
}

# The most bytes of one piece of a list, unless a single entry has more.
MAX_LIST_BYTES = MIB
# At most this many requests are answered at a time, and the others wait: each may look at a hundred thousand
# connections.
AT_ONCE = 4
# The entries that are encoded in a row, which takes less than a millisecond.
ENCODED_IN_A_ROW = 100

FOREIGN_PAGE = Refusal(403, "administration_origin", "Pages of other sites may not administer this server.")


class AdminApp(Middleware):
    """Answers requests for administration, and passes all others to another app."""

    def __init__(
        self,
        hub: Hub,
        elsewhere: HttpApp,
        operators: Operators,
    ) -> None:
        own = HubNode(hub, name_this_process())
        self._hub = hub
        self._operators = operators
        self._nodes: tuple[Nodes, ...] = (own, OtherNodes(hub, own))
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self.elsewhere: HttpApp = elsewhere

    def is_own(self, request: Request) -> bool:
        return not self.concerns(request) and super().is_own(request)

    async def serve_exchange(self, exchange: Exchange) -> None:
        path = exchange.request.path or ""
        if path not in METHODS:
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.discard_body()
        await exchange.answer(await self._answer(exchange, path))

    def concerns(self, request: Request) -> bool:
        return request.path in METHODS

    async def _answer(self, exchange: Exchange, path: str) -> Response | Refusal:
        request = exchange.request
        if request.method == "OPTIONS":
            return answer_options(METHODS[path])  # without fields of CORS, so that no other page may do anything here
        if refused := self._refuse(request, METHODS[path]):
            return refused
        async with self._at_once:
            try:
                return await self._act(exchange, request.method, path)
            except BackplaneAway:
                return AWAY
            except UsageError as error:
                return Refusal(400, "administration_query", f"This query can't be answered: {error}.")

    def _refuse(self, request: Request, methods: Sequence[str]) -> Refusal | None:
        if request.is_cross_origin:
            return FOREIGN_PAGE
        if refused := self._operators.refuse(request):
            return refused
        if request.method not in methods:
            sentence = f"The method {request.method} is not allowed here; use {' or '.join(methods)}."
            allowed = name_methods(methods).encode("ascii")
            return Refusal(405, "method_not_allowed", sentence, ((b"Allow", allowed),))
        return None

    async def _act(self, exchange: Exchange, method: str, path: str) -> Response | Refusal:
        query = exchange.request.query
        if path == HISTORY:
            return await self._clear_history(exchange, read_history(query))
        if path == GROUPS:
            return await self._list_groups(query) if method != "DELETE" else await self._end_group(exchange, query)
        if method == "DELETE":
            return await self._disconnect(exchange, query)
        if path == PEERS:
            return await _answer_list("peers", await gather_peers(self._nodes, read_peers(query)))
        wanted = read_rooms(query)
        rooms = await gather_rooms(self._nodes, wanted)
        if wanted.room is not None and not rooms.entries:
            return _no_room(wanted.room)
        return await _answer_list("rooms", rooms)

    async def _disconnect(self, exchange: Exchange, query: str) -> Response | Refusal:
        wanted, close = read_disconnect(query)
        if wanted.number is not None and wanted.node is None and self._hub.backplane is not None:
            raise UsageError("each node has connection numbers of its own; say which node, with node=")
        ended = await disconnect(self._nodes, wanted, close)
        total = sum(ended.values())
        if wanted.number is not None and not total:
            return Refusal(404, "no_such_connection", f"No connection #{wanted.number} is in a room now.")
        whose = (
            f"connection #{wanted.number}" if wanted.user is None else f"connections of user {shorten(wanted.user)!r}"
        )
        message = f"administration: ended {whose} with {close.code} (connections: {total})"
        logs.line(logs.hub, logging.INFO, exchange.number, STATE, message)
        return answer_json({"ended": total, "nodes": ended})

    async def _clear_history(self, exchange: Exchange, path: str) -> Response | Refusal:
        if self._hub.stored is not None and (refused := await self._hub.prepare(path)):
            return refused
        room = self._hub.registry.find(path)
        if room is None and self._hub.backplane is not None:
            room = self._hub.registry.get(path)
        if room is None or not (self._hub.backplane or room.history_messages or path in self._hub.registry.in_use):
            return _no_room(path)
        if room.shared is not None and (refused := await room.shared.clear(room)):
            return refused
        messages = room.clear_history()
        sentence = f"administration: cleared the history of room {path} (messages: {messages})"
        logs.line(logs.hub, logging.INFO, exchange.number, STATE, sentence)
        return answer_json({"room": path, "messages": messages, "last_id": room.last_id})

    async def _list_groups(self, query: str) -> Response:
        """Return all groups, whose number is bounded."""
        read_nothing(query)
        await self._hub.queues.refresh()
        groups = [{"room": each.room, "group": each.group, **each.values} for each in self._hub.queues.figures()]
        return answer_json({"groups": groups})

    async def _end_group(self, exchange: Exchange, query: str) -> Response | Refusal:
        path, group = read_group(query)
        ended = await self._hub.queues.end(path, group)
        if isinstance(ended, Refusal):
            return ended
        if not ended:
            return Refusal(404, "no_such_group", f"The room {shorten(path)} has no group {shorten(group)}.")
        sentence = f"administration: ended the group {group} of room {path}"
        logs.line(logs.hub, logging.INFO, exchange.number, STATE, sentence)
        return answer_json({"room": path, "group": group})


class ReservedApp(Middleware):
    """Answers 404 at the paths that are reserved for rawws itself, so that no application is called there."""

    def __init__(self, elsewhere: HttpApp) -> None:
        self.elsewhere: HttpApp = elsewhere

    async def serve_exchange(self, exchange: Exchange) -> None:
        if self.concerns(exchange.request):
            await exchange.discard_body()
            await exchange.answer(_NOTHING_HERE)
        else:
            await self.elsewhere.serve_exchange(exchange)

    def concerns(self, request: Request) -> bool:
        return f"{request.path}/".startswith(OWN_PATHS)

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        return _NOTHING_HERE if self.concerns(request) else super().answer_now(request, stopping=stopping)

    def answer_always(self, request: Request) -> Response | None:
        return _NOTHING_HERE if self.concerns(request) else super().answer_always(request)


_NOTHING_HERE = Response(404, "Nothing is here: this path is reserved.\n", [NO_STORE])


def _no_room(path: str) -> Refusal:
    return Refusal(404, "no_such_room", f"There is no room {shorten(path)} now: nobody is in it, and it keeps nothing.")


async def _answer_list(name: str, page: Page[Entry]) -> Response:
    """Return a piece of a list as JSON, with as many of its entries as are within the limit on bytes."""
    pieces: list[bytes] = []
    size, place = 0, page.next
    for number, entry in enumerate(page.entries):
        piece = as_compact_json(asdict(entry))
        size += len(piece)
        if pieces and size > MAX_LIST_BYTES:
            place = page.entries[number - 1].place
            break
        pieces.append(piece)
        if number % ENCODED_IN_A_ROW == 0:
            await trio.lowlevel.checkpoint()
    following = as_compact_json(None if place is None else str(place))
    silent = b',"silent":%b' % as_compact_json(page.silent) if page.silent else b""
    return answer_json(b'{"%b":[%b],"next":%b%b}\n' % (name.encode("ascii"), b",".join(pieces), following, silent))
