"""The ways in which workers come to the groups of a hub, wherever these live: requests for WebSockets, GET and POST."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.json_messages import as_compact_json
from rawws.errors import Refusal, UsageError
from rawws.groups.over_http import NO_GROUP, OneJob, answer_get, answer_post
from rawws.groups.protocol import GroupQuery, read_answer_query, read_group_query
from rawws.groups.queue import ENDED, Home, Queue
from rawws.groups.websockets import NEEDS_IDS, SocketWorker, WorkerCallbacks
from rawws.hub.queues import GroupFigures, GroupWorker, Handed, Wait, WorkerClient
from rawws.websocket.callbacks import CallbackWebSocket
from rawws.wire.messages import NO_STORE, Request, Response

Read = TypeVar("Read")

_ALLOW = ((b"Allow", b"GET, POST"),)


class Doors:
    """The groups of a hub, as its servers need them (`rawws.hub.queues.Queues`)."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.callbacks = WorkerCallbacks(self._find)

    def __repr__(self) -> str:
        return f"<Doors of {self._home!r}>"

    def refuse(self, request: Request) -> Refusal | None:
        lines = request.headers.get_all("Sec-WebSocket-Protocol")
        offered = [name.strip() for line in lines for name in line.split(",")]
        query = _read(read_group_query, request)
        if isinstance(query, Refusal):
            return query
        return None if SUBPROTOCOL in offered else NEEDS_IDS

    async def prepare(self, request: Request) -> Refusal | None:
        query = _read(read_group_query, request)
        if isinstance(query, Refusal):
            return query
        found = await self._home.open(request.path or "", query)
        return found if isinstance(found, Refusal) else None

    async def answer(self, request: Request, client: WorkerClient, wait: Wait) -> Response | Refusal | Handed:
        path = request.path or ""
        if request.method == "POST":
            answer = _read(read_answer_query, request)
            if isinstance(answer, Refusal):
                return answer
            if (trouble := self._home.trouble_of(path)) is not None:
                return trouble
            found = await self._home.find(path, answer.group)
            return found if isinstance(found, Refusal) else await answer_post(found, answer)
        query = _read(read_group_query, request)
        if isinstance(query, Refusal):
            return query
        if query.wants_state:
            return await self._answer_state(path, query.group)
        if request.method == "HEAD":
            return Refusal(405, "group_head", "A job is taken with GET; ?state tells about a group.", _ALLOW)
        opened = await self._home.open(path, query)
        return opened if isinstance(opened, Refusal) else await answer_get(opened, query, client, wait)

    async def _answer_state(self, path: str, group: str) -> Response | Refusal:
        state = await self._home.state(path, group)
        if state is None:
            return NO_GROUP
        if isinstance(state, Refusal):
            return state
        return Response(200, as_compact_json(state._asdict()) + b"\n", [("Content-Type", "application/json"), NO_STORE])

    def _find(self, ws: CallbackWebSocket) -> tuple[Queue, GroupQuery] | Refusal:
        """Return the group of a new worker. It is open, unless it has been ended meanwhile."""
        query = _read(read_group_query, ws.request)
        if isinstance(query, Refusal):
            return query
        found = self._home.known(ws.path, query.group)
        if found is None:
            return ENDED
        return (found, query) if found.problem is None else found.problem

    def workers(self) -> Iterable[GroupWorker]:
        return [each for each in self._home.clients() if isinstance(each, SocketWorker | OneJob)]

    def refuse_publishing(self, path: str) -> Refusal | None:
        return self._home.refuse_publishing(path)

    def keeps_dead(self, path: str) -> bool:
        return self._home.keeps_dead(path)

    async def refresh(self) -> None:
        await self._home.refresh()

    def figures(self) -> Iterable[GroupFigures]:
        return self._home.figures()

    async def end(self, path: str, group: str) -> bool | Refusal:
        return await self._home.end(path, group)


def _read(read: Callable[[str], Read], request: Request) -> Read | Refusal:
    """Read the query of a request."""
    try:
        return read(request.query)
    except UsageError as error:
        return Refusal(400, "group_query", f"This can't be done for a group: {error}.")
