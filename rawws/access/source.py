"""Sources: where grants come from. A server may have several, and asks them in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rawws.access.credentials import find_tokens
from rawws.access.grant import NOBODY, UNKNOWN, Action, Grant
from rawws.errors import Refusal
from rawws.wire.messages import Request


class Source(Protocol):
    """Something that knows users."""

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        """Return the grant of a request's sender, why it gets none, or None for a sender that the source doesn't know.

        ``room`` is the room's path, and ``action`` what the door needs at most: a WebSocket in a room that relays is
        asked about as ``read write``, and joins as a reader if the grant has no more. Whether the grant is enough is
        not the source's to decide: `rawws.access.grant.refuse` does that.

        A credential that is of the source's kind, but wrong, is a refusal. None lets the next source decide.
        """


class Sources:
    """Several sources as one: the first that knows the sender decides. A sender that none knows is refused."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal:
        for source in self._sources:
            answer = await source.grant(request, room, action)
            if answer is not None:
                return answer
        return UNKNOWN if find_tokens(request) else NOBODY
