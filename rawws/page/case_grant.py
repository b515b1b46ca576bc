"""The grant for the connections that the page breaks: the server opens them to itself, as a client like any other."""

from __future__ import annotations

import secrets

from rawws.access.credentials import find_tokens
from rawws.access.grant import Action, Grant
from rawws.wire.messages import Request

_TOKEN_BYTES = 24


class CaseGrant:
    """A source that knows one client, the page's, by a token that is new at each start and leaves no process."""

    def __init__(self, path: str) -> None:
        """``path`` is the only room that the grant is for."""
        self.path = path
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._grant = Grant("the page", frozenset({path}), frozenset({path}))

    def __repr__(self) -> str:
        return f"<CaseGrant {self.path}>"

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the page's requests."""
        return {"Authorization": f"Bearer {self._token}"}

    async def grant(self, request: Request, room: str, action: Action) -> Grant | None:
        return self._grant if room == self.path and find_tokens(request) == [self._token] else None
