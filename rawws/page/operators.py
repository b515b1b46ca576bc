"""The operators of a server that only its own machine can reach, and that has no token for them: those of its page."""

from __future__ import annotations

from rawws.access.shared_token import SharedToken
from rawws.errors import Refusal
from rawws.page.access import Access
from rawws.server.operators import HOW_TO_OPEN, needs
from rawws.wire.allowed_hosts import is_local_name
from rawws.wire.messages import Request
from rawws.wire.trace import shorten


class PageViewers:
    """The requests that have the page's secret: its cookie, or its token as ``Authorization: Bearer TOKEN``.

    They have to come from this machine, as far as that can be seen: not through a proxy, and not for the name of
    another site, which may have been made to point here (DNS rebinding).
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def refuse(self, request: Request) -> Refusal | None:
        if request.was_forwarded:
            return _closed("this request came through a proxy")
        host = request.authority
        if not is_local_name(host):
            return _closed(f"this request is for {shorten(host)}" if host else "this request has no Host")
        if self._access.admits(request) or SharedToken(self._access.token).is_in(request):
            return None
        return needs("the token of this server's page")


def _closed(why: str) -> Refusal:
    sentence = f"Administration is closed here, since {why} and there is no token for it."
    return Refusal(403, "administration_closed", sentence, hint=HOW_TO_OPEN)
