"""The page: a server's traffic in a browser, as an alternative to the log.

Browsers get the files in ``static/`` as they are, without a build step. A `Feed` sends the traffic over a WebSocket of
the page's own, from the page's connection on and within a budget. Both need the secret of `Access`, from any address.

The page is put in front of the app that answers a server's other requests::

    page = Page(tracer)
    serve(handler, port, http=page.before(app), routes=page.routes, tracer=tracer)
    print(page.invite("http://localhost:8080"))
"""

from __future__ import annotations

from collections.abc import Mapping

from rawws.errors import Refusal
from rawws.page.access import HOME, Access, lead_home, refusal_of, token_of
from rawws.page.assets import Assets
from rawws.page.case_grant import CaseGrant
from rawws.page.feed import KEPT_CONNECTIONS, Feed
from rawws.page.operators import PageViewers
from rawws.page.questions import About
from rawws.server.apps import Exchange, HttpApp, Middleware
from rawws.server.routes import Route
from rawws.tracing import Tracer
from rawws.websocket import WebSocket
from rawws.wire.allowed_hosts import is_local_name
from rawws.wire.handshake import examine, wants_websocket
from rawws.wire.messages import NO_STORE, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.trace import shorten

__all__ = ["HOME", "TRACE", "About", "Access", "CaseGrant", "Page"]

TRACE = HOME + "trace"
_AT_HOME = frozenset({HOME, HOME.removesuffix("/")})


class Page:
    """Serves the page, and feeds it with the records of a tracer."""

    def __init__(self, tracer: Tracer, about: About, *, any_host: bool = False, access: Access | None = None) -> None:
        """``about`` describes the server to the page; ``access`` has the secret (default: a new one).

        Without ``any_host`` the page is shown only at addresses and ``localhost``, and not through a proxy that adds
        its header fields. Otherwise a page of another site could have its own name point to this machine (DNS
        rebinding), and would have the same origin.
        """
        self._tracer = tracer
        self._about = about
        self._any_host = any_host
        self._access = access or Access(secure=about.uri.startswith("wss:"))
        self._assets = Assets()
        self._at_root = True
        tracer.keep_handshakes(KEPT_CONNECTIONS)

    def before(self, app: HttpApp | None, *, at_root: bool = True) -> HttpApp:
        """Return an app that answers requests for the page, and leaves all others to ``app``; None answers with 404.

        The link to the page is ``/?token=…`` with ``at_root``, otherwise ``/_rawws/?token=…``.
        """
        self._at_root = at_root
        return _PageFirst(self, app)

    def invite(self, origin: str) -> str:
        """Return the log line with the link to the page of a server at ``origin``, such as ``http://127.0.0.1:8080``.

        It contains the token, unless the user has chosen it: such a token is known, and may stay valid for long.
        """
        at = "/" if self._at_root else HOME
        token = "…" if self._access.is_given else self._access.token
        added = ", with the token of --page-token" if self._access.is_given else ""
        return f"open {origin}{at}?token={token} in a browser to see what crosses the wire{added}"

    @property
    def routes(self) -> Mapping[str, Route]:
        """The page's own WebSocket, for the ``routes`` of `serve`."""
        return {TRACE: Route(self._feed, _OwnOrigin(), shows_frames=False, refuse=self.refuse)}

    @property
    def viewers(self) -> PageViewers:
        """The operators of a server that has no token for them, and that only this machine can reach."""
        return PageViewers(self._access)

    async def _feed(self, websocket: WebSocket) -> None:
        await Feed(websocket, self._tracer, self._about).run()

    def concerns(self, request: Request) -> bool:
        """Say whether a request may be for the page: one below its paths, or with a token."""
        path = request.path or ""
        return path.startswith(HOME) or path in _AT_HOME or token_of(request) is not None

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
        """Return the refusal of a request for the page or its feed; None if the request is allowed."""
        if refusal := self._refuse_elsewhere(request):
            return refusal
        return None if self._access.admits(request) else refusal_of(request)

    def _refuse_elsewhere(self, request: Request) -> Refusal | None:
        """Return the refusal of a request because of its ``Host`` or a proxy; None if the request is allowed."""
        if self._any_host:
            return None
        host = request.authority
        if not is_local_name(host):
            message = f"The page is shown at this machine's addresses and at localhost, not at {shorten(host)}."
            return Refusal(403, "page_host", message)
        if request.was_forwarded:
            return Refusal(
                403, "page_forwarded", "The page is for this machine, and this request came through a proxy."
            )
        return None

    def answer(self, request: Request) -> Response | None:
        """Return the answer to a request that is meant for the page; None for any other."""
        path = request.path or ""
        is_at_home = path in _AT_HOME
        is_link = (
            (is_at_home or (path == "/" and self._at_root))
            and request.method in ("GET", "HEAD")
            and token_of(request) is not None
        )
        if not is_link and not is_at_home and not path.startswith(HOME):
            return None
        if refusal := self._refuse_elsewhere(request):
            return Response.from_refusal(refusal)
        if is_link:
            opened = self._access.open(request)
            if opened is not None or self._access.admits(request):
                return opened or lead_home()
            if not is_at_home:
                # The link is of an earlier start: the browser may have this server's cookie. If not, it gets advice.
                return lead_home() if request.accepts("text/html") else None
        # The cookie is only sent below the slash, and the existence of the page is no secret.
        if path.startswith(HOME) and not self._access.admits(request):
            return Response.from_refusal(refusal_of(request))
        return self._assets.answer(request, path)


class _PageFirst(Middleware):
    def __init__(self, page: Page, app: HttpApp | None) -> None:
        self._page = page
        self.elsewhere = app

    def is_own(self, request: Request) -> bool:
        return self._page.is_own(request) or super().is_own(request)

    async def serve_exchange(self, exchange: Exchange) -> None:
        response = self._answer(exchange.request)
        if response is None and self.elsewhere is not None:
            await self.elsewhere.serve_exchange(exchange)
        elif response is not None:
            await exchange.discard_body()
            await exchange.answer(response)

    def concerns(self, request: Request) -> bool:
        return self._page.concerns(request)

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        response = self._answer(request)
        if response is not None or self.elsewhere is None:
            return response
        return self.elsewhere.answer_now(request, stopping=stopping)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request; None for one that the other app has to answer."""
        response = self._page.answer(request)
        if response is None and self.elsewhere is None:
            return Response(404, f"Nothing is here; the page is at {HOME}.\n", [NO_STORE])
        return response


class _OwnOrigin(Origins):
    """The page itself, and no other: --allow-origin is about rooms."""

    def advise(self, origin: str) -> str:
        return ""
