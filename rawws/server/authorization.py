"""The one decision about a request for a room: what its client may do there, and until when.

Every door asks here, for WebSockets (``upgrade.py``) and for HTTP (``exchange.py``). The server's source of grants is
asked first, and then the application's ``authenticate``, about no more than the source has allowed.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import trio

from rawws.access.grant import NO_READER, Action, Admitted, Grant, decide, let_in
from rawws.errors import Refusal
from rawws.server.connection import HttpConnection
from rawws.wire.messages import Request, Response


async def authorize(
    connection: HttpConnection, request: Request, asked: Action, *, is_operator: bool = False
) -> Admitted | Refusal | Response:
    """Return what a request may do in the room of its path, or why it may not.

    ``asked`` is what its door is for. It is empty where there is no room: a handler of the program's own. The source is
    for rooms alone, and an operator, who has a token of its own, needs no grant.
    """
    config = connection.config
    source = config.access if asked and not is_operator else None
    # The token of an operator is for publishing alone.
    admitted = NO_READER if is_operator and config.access is not None else let_in(asked)
    if source is None and config.authenticate is None:
        return admitted
    if source is not None:
        sender = connection.address
        known = replace(request, client=sender[0]) if isinstance(sender, tuple) else request
        granted = await connection.call_hook(source.grant, known, request.path or "", asked)
        if isinstance(granted, Response | Refusal):  # a Response says that the source has failed
            return granted
        decided = _apply(granted, request, admitted)
        if isinstance(decided, Refusal):
            return decided
        admitted = decided
    if config.authenticate is None:
        return admitted
    user = await connection.call_hook(config.authenticate, replace(request, action=admitted.action.words))
    if isinstance(user, Response):
        return user
    if isinstance(user, Grant):
        return _apply(user, request, admitted)
    return admitted if user is None else replace(admitted, user=user)


def _apply(grant: Grant, request: Request, admitted: Admitted) -> Admitted | Refusal:
    """Return what is left of what a request may do, when a grant is applied too; or why that isn't enough."""
    now = time.time()
    decided = decide(grant, request.path or "", admitted.action, now)
    if isinstance(decided, Refusal):
        return decided
    ends_at = math.inf if grant.expires_at is None else trio.current_time() + grant.expires_at - now
    may_read = admitted.may_read and Action.READ in grant.allowed(request.path or "")
    return Admitted(decided, grant, min(ends_at, admitted.ends_at), may_read)
