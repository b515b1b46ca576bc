"""A server of the user's own as a source of grants (``--auth-url``): it is asked once for each connection and room."""

from __future__ import annotations

import ssl as ssl_module
import time

import trio

from rawws.access.auth_backend import (
    LOOP,
    MAX_BODY_BYTES,
    RememberedGrants,
    is_question,
    question_about,
    read_answer,
    unavailable,
)
from rawws.access.grant import Action, Grant
from rawws.errors import RawwsError, Refusal, sentence_of
from rawws.net.client_address import client_of
from rawws.net.http_get import HttpServer
from rawws.server.fair_turns import FairTurns
from rawws.wire.http_url import parse_http_url
from rawws.wire.messages import Request

# Questions under way at a time. Others wait for their turn, within the same time limit: a backend that is as slow as
# the limit answers so many a second, and one that hangs costs no more connections than these (a guess). One client's
# questions are at most half of them.
MAX_UNDER_WAY = 100


class AuthBackend:
    """The server at ``--auth-url``. Call `close` at the end."""

    def __init__(
        self, url: str, *, timeout_s: float = 1.0, cache_s: float = 0.0, ssl: ssl_module.SSLContext | None = None
    ) -> None:
        """Raises `UsageError` for an address that can't be asked."""
        self._server = HttpServer(parse_http_url(url), max_body_bytes=MAX_BODY_BYTES, ssl=ssl)
        self._timeout_s = timeout_s
        self._remembered = RememberedGrants(cache_s)
        self._turns = FairTurns(MAX_UNDER_WAY)

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal:
        """Return the server's decision, or a 503 if there is none within the timeout."""
        if is_question(request):
            return LOOP
        question = question_about(request, room, action)
        if remembered := self._remembered.find(question, time.time()):
            return remembered
        stage = "too many other questions were under way"
        with trio.move_on_after(self._timeout_s or float("inf")):
            try:
                async with self._turns.turn(client_of(request.client or "")):
                    stage = "no whole answer came"
                    response = await self._server.get(question)
            except (RawwsError, OSError) as error:
                return unavailable(sentence_of(error))
            answer = read_answer(response, request, room, action)
            if isinstance(answer, Grant):
                self._remembered.add(question, answer, time.time())
            return answer
        return unavailable(f"{stage} within {self._timeout_s:g} s (--auth-timeout)")

    def close(self) -> None:
        """Close the connections to the server."""
        self._server.close()
