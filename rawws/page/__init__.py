"""The page: what crosses the wire of a server, for those who would rather look than read a log.

Files of ``static/`` are given to browsers as they are, with no build step between. What the page shows comes over a
WebSocket of its own, from a `Feed`; nothing is told before a page asks, and then within a budget.

It is put in front of whatever else answers a server's requests::

    page = Page(tracer)
    serve(handler, port, http=page.before(app), routes=page.routes, tracer=tracer)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from rawws import web
from rawws.errors import Refusal
from rawws.exchange import Exchange
from rawws.limits import Limits
from rawws.page.assets import HOME, Assets
from rawws.page.feed import About, Feed
from rawws.server import Route
from rawws.tracing import Tracer
from rawws.websocket import WebSocket
from rawws.wire.handshake import Origins
from rawws.wire.hosts import is_local_name
from rawws.wire.messages import Request, Response
from rawws.wire.trace import shorten

__all__ = ["HOME", "TRACE", "About", "Page"]

TRACE = HOME + "trace"


class Page:
    """Serves the page, and feeds it with what a tracer tells."""

    def __init__(self, tracer: Tracer, about: About, *, any_host: bool = False) -> None:
        """``about`` tells the page where it is.

        Without ``any_host`` it is shown under addresses and ``localhost`` only, and not through a proxy, behind which
        anybody may be. A page from elsewhere can have a name of its own lead to this machine (DNS rebinding), and would
        be of the same origin then.
        """
        self._tracer = tracer
        self._about = about
        self._any_host = any_host
        self._assets = Assets()

    def before(self, app: web.HttpApp | None, *, at_root: bool = True) -> web.HttpApp:
        """Return an app that answers what is asked for the page, and leaves all else to another; None for 404.

        With ``at_root`` a browser gets the page at ``/`` too; who doesn't ask for HTML gets what he would have.
        """
        return _PageFirst(self, app, at_root)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The page's own WebSocket, for the ``routes`` of `serve`."""
        return {TRACE: Route(self._feed, _OwnOrigin(), shows_frames=False, refuse=self.refuse)}

    async def _feed(self, websocket: WebSocket) -> None:
        await Feed(websocket, self._tracer, self._about).run()

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request isn't shown the page, nor told what crosses the wire, if it isn't."""
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

    def answer(self, request: Request, *, at_root: bool) -> Response | None:
        """Return the answer to a request that is meant for the page; None for any other."""
        path = request.path or ""
        if path == "/" and at_root and request.method in ("GET", "HEAD") and request.accepts("text/html"):
            path = HOME
        if not path.startswith(HOME) and path != HOME.removesuffix("/"):
            return None
        refusal = self.refuse(request)
        return self._assets.answer(request, path) if refusal is None else web.refuse(refusal)


class _PageFirst(web.InFront):
    def __init__(self, page: Page, app: web.HttpApp | None, at_root: bool) -> None:
        self._page = page
        self.elsewhere = app
        self._at_root = at_root

    def max_body_bytes(self, limits: Limits) -> int:
        return limits.max_body_bytes if self.elsewhere is None else self.elsewhere.max_body_bytes(limits)

    async def serve_exchange(self, exchange: Exchange) -> None:
        response = self._page.answer(exchange.request, at_root=self._at_root)
        if response is None and self.elsewhere is not None:
            await self.elsewhere.serve_exchange(exchange)
        else:
            await exchange.pass_over_body()
            await exchange.answer(response or Response(404, f"Here is nothing; the page is at {HOME}.\n"))

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self.elsewhere is None else self.elsewhere.lifespan()


class _OwnOrigin(Origins):
    """The page itself, and no other: --allow-origin is about rooms."""

    def advise(self, origin: str) -> str:
        return ""
