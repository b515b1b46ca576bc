"""The page: what crosses the wire of a server, for those who would rather look than read a log.

Files of ``static/`` are given to browsers as they are, with no build step between. What the page shows comes over a
WebSocket of its own, from a `Feed`; nothing is sent before a page asks, and then within a budget. Both are only
for clients that have the secret of `Access`, whatever their address.

It is put in front of whatever else answers a server's requests::

    page = Page(tracer)
    serve(handler, port, http=page.before(app), routes=page.routes, tracer=tracer)
    print(page.invite("http://localhost:8080"))
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from rawws import web
from rawws.errors import Refusal
from rawws.exchange import Exchange
from rawws.limits import Limits
from rawws.page.access import HOME, Access, lead_home, refusal_of, token_of
from rawws.page.assets import Assets
from rawws.page.feed import About, Feed
from rawws.server import Route
from rawws.tracing import Tracer
from rawws.websocket import WebSocket
from rawws.wire.allowed_hosts import is_local_name
from rawws.wire.handshake import examine, wants_websocket
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins
from rawws.wire.trace import shorten

__all__ = ["HOME", "TRACE", "About", "Access", "Page"]

TRACE = HOME + "trace"


class Page:
    """Serves the page, and feeds it with what a tracer tells."""

    def __init__(self, tracer: Tracer, about: About, *, any_host: bool = False, access: Access | None = None) -> None:
        """``about`` describes the server to the page; ``access`` has the secret (default: a new one).

        Without ``any_host`` the page is shown only under addresses and ``localhost``, and not through a proxy that says
        so. A page from elsewhere can have a name of its own lead to this machine (DNS rebinding), and would be of
        the same origin then.
        """
        self._tracer = tracer
        self._about = about
        self._any_host = any_host
        self._access = access or Access(secure=about.uri.startswith("wss:"))
        self._assets = Assets()
        self._at_root = True

    def before(self, app: web.HttpApp | None, *, at_root: bool = True) -> web.HttpApp:
        """Return an app that answers what is asked for the page, and leaves all else to another; None for 404.

        The link to the page is ``/?token=…`` with ``at_root``, otherwise ``/_rawws/?token=…``.
        """
        self._at_root = at_root
        return _PageFirst(self, app)

    def invite(self, origin: str) -> str:
        """Return the log line that invites to the page of a server at ``origin``, such as ``http://127.0.0.1:8080``.

        It contains the token, unless the user has chosen that: the user knows it, and it may stay valid for long.
        """
        at = "/" if self._at_root else HOME
        token = "…" if self._access.is_given else self._access.token
        added = ", with the token of --page-token" if self._access.is_given else ""
        return f"open {origin}{at}?token={token} in a browser to see what crosses the wire{added}"

    @property
    def routes(self) -> Mapping[str, Route]:
        """The page's own WebSocket, for the ``routes`` of `serve`."""
        return {TRACE: Route(self._feed, _OwnOrigin(), shows_frames=False, refuse=self.refuse)}

    async def _feed(self, websocket: WebSocket) -> None:
        await Feed(websocket, self._tracer, self._about).run()

    def is_own(self, request: Request) -> bool:
        """Say whether a request is the page's own, and will be granted; all other requests have to be logged."""
        path = request.path or ""
        if path == TRACE and wants_websocket(request):
            return self.refuse(request) is None and examine(request, _OwnOrigin()).refusal is None
        is_link = token_of(request) is not None and self._access.open(request) is not None
        if not is_link and not (path.startswith(HOME) and self._access.admits(request)):
            return False
        response = self.answer(request)
        return response is not None and response.status < 400

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request isn't shown the page, nor told what crosses the wire, if it isn't."""
        if refusal := self._refuse_elsewhere(request):
            return refusal
        return None if self._access.admits(request) else refusal_of(request)

    def _refuse_elsewhere(self, request: Request) -> Refusal | None:
        """Return why a request gets no page because of its ``Host`` or a proxy; None if it may get one."""
        if self._any_host:
            return None
        host = request.authority
        if not is_local_name(host):
            told = f"The page is shown at this machine's addresses and at localhost, not at {shorten(host)}."
            return Refusal(403, "page_host", told)
        if request.was_forwarded:
            return Refusal(
                403, "page_forwarded", "The page is for this machine, and this request came through a proxy."
            )
        return None

    def answer(self, request: Request) -> Response | None:
        """Return the answer to a request that is meant for the page; None for any other."""
        path = request.path or ""
        is_at_home = path in (HOME, HOME.removesuffix("/"))
        is_link = (
            request.method in ("GET", "HEAD")
            and token_of(request) is not None
            and (is_at_home or (path == "/" and self._at_root))
        )
        if not is_link and not is_at_home and not path.startswith(HOME):
            return None
        if refusal := self._refuse_elsewhere(request):
            return web.refuse(refusal)
        if is_link:
            opened = self._access.open(request)
            if opened is not None or self._access.admits(request):
                return opened or lead_home()
            if not is_at_home:
                # A link of an earlier start: the browser may have this server's cookie. If not, it gets advice.
                return lead_home() if request.accepts("text/html") else None
        # The cookie is only sent below the slash, and the existence of the page is no secret.
        if path.startswith(HOME) and not self._access.admits(request):
            return web.refuse(refusal_of(request))
        return self._assets.answer(request, path)


class _PageFirst(web.InFront):
    def __init__(self, page: Page, app: web.HttpApp | None) -> None:
        self._page = page
        self.elsewhere = app

    def is_own(self, request: Request) -> bool:
        return self._page.is_own(request) or super().is_own(request)

    def max_body_bytes(self, limits: Limits) -> int:
        return limits.max_body_bytes if self.elsewhere is None else self.elsewhere.max_body_bytes(limits)

    async def serve_exchange(self, exchange: Exchange) -> None:
        response = self._page.answer(exchange.request)
        if response is None and self.elsewhere is not None:
            await self.elsewhere.serve_exchange(exchange)
        else:
            await exchange.pass_over_body()
            await exchange.answer(
                response or Response(404, f"Nothing is here; the page is at {HOME}.\n", [web.NO_STORE])
            )

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self.elsewhere is None else self.elsewhere.lifespan()


class _OwnOrigin(Origins):
    """The page itself, and no other: --allow-origin is about rooms."""

    def advise(self, origin: str) -> str:
        return ""
