"""ASGI applications (Starlette, FastAPI and others) and those of WSGI, beside the rooms and handlers of rawws.

They get the requests that don't upgrade, the upgrades at the paths that no room and no route claims, and the lifespan.
Sections are those of the ASGI specification 3.0 with its HTTP and WebSocket part 2.4
(https://asgi.readthedocs.io/en/latest/specs/). The loop in which the application runs is in `rawws.application`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from types import ModuleType
from typing import Any, Literal
from urllib.parse import unquote

import trio

from rawws import logs
from rawws.application.choice import LoopChoice, NoChoice
from rawws.application.loading import check_asgi, check_wsgi
from rawws.application.loop import GRACE_S, ApplicationLoop, TrioLoop
from rawws.application.pace import Pace
from rawws.application.spec import HTTP_VERSIONS, Application
from rawws.application.threads import DEFAULT_THREADS, Threads
from rawws.application.wsgi_call import WsgiApplication
from rawws.errors import RawwsError, Refusal, UsageError
from rawws.limits import NO_LIMIT, Limits
from rawws.server.apps import Acceptance, Exchange, UpgradeExchange
from rawws.server.asgi_conversation import Conversation
from rawws.server.asgi_endpoints import endpoints, websocket_paths
from rawws.server.asgi_lifespan import Lifespan, NeedsOtherLoop, log_fault
from rawws.server.asgi_socket import SocketConversation, Untaken
from rawws.wire.messages import Request
from rawws.wire.trace import STATE

# A second slash would make the next word a host's name where an application redirects to it; to browsers a backslash is
# one.
_ROOT_PATH = re.compile(r"/(?:[^/\\?#\x00-\x20\x7f][^?#\x00-\x20\x7f]*)?")


def asgi(
    app: Application,
    *,
    root_path: str | None = None,
    lifespan: Literal["auto", "on", "off"] = "auto",
    loop: Literal["auto", "asyncio", "uvloop", "trio"] = "trio",
) -> AsgiApp:
    """Return an ASGI application as the ``http`` of `rawws.serve`.

    Beside a hub, it gets the WebSockets outside the rooms too, when their handshake meets each requirement, ``origins``
    included. It accepts them by itself: ``access``, ``authenticate``, ``subprotocols`` and ``process_response`` of
    `rawws.serve` aren't for them, and all limits are.

    ``root_path`` is the prefix that a proxy in front removes from the path, such as ``/api``. The application gets it
    as ASGI's ``root_path``, and the whole path that the client requested as ``path``.
    ``lifespan`` says whether the application gets the events of startup and shutdown: ``on``, ``off``, or ``auto`` if
    it may not support them. An application that fails to start makes `rawws.serve` raise `UsageError`.

    The application finds the server's `Hub`, if there is one, as ``rawws`` in its lifespan's state and in that of each
    request: ``request.state.rawws.room("/room/x").publish("hi")`` in Starlette and FastAPI. Beside a handler it is the
    hub of the rooms in front of the application, or the first one in ``routes``.

    ``loop`` is the event loop in which the application runs:

    - ``trio``: that of the server. The application shares the program's objects, such as its hub.
    - ``asyncio``: one in a thread of its own, which ends with the server. A call that blocks it delays no WebSocket.
    - ``uvloop``: likewise, if that package is installed.
    - ``auto``: ``asyncio``, unless trio is seen in the application's modules, or it can't start on asyncio.
    """
    return make_app(app, root_path, lifespan, loop)


def make_app(
    app: Application, root_path: str | None, lifespan: str, loop: str, modules: Iterable[ModuleType] = ()
) -> AsgiApp:
    """Return the same as `asgi`. ``modules`` are further ones of the application, in which ``auto`` looks for trio."""
    check_asgi("the ASGI application", app)
    if lifespan not in ("auto", "on", "off"):
        raise UsageError(f"there is no lifespan {lifespan!r}; give 'auto', 'on' or 'off'")
    root_path = _check_root_path(root_path)
    return AsgiApp(app, root_path, lifespan, LoopChoice(loop, [app, *endpoints(app), *modules]))


def wsgi(app: WsgiApplication, *, root_path: str | None = None, threads: int = DEFAULT_THREADS) -> AsgiApp:
    """Return a WSGI application (Flask, Django and others; PEP 3333) as the ``http`` of `rawws.serve`.

    Each request has a thread until its response is sent, and at most ``threads`` requests have one at a time; further
    ones wait. Bodies stream both ways; a client that sends less than 500 bytes a second for 20 seconds while the
    application waits for its upload gets 408. ``root_path`` is that of `asgi`, as ``SCRIPT_NAME``. The application
    finds the server's `Hub`, as described there, in ``environ["rawws"]``.
    """
    return make_wsgi_app(app, root_path, threads)


def make_wsgi_app(app: WsgiApplication, root_path: str | None, threads: int) -> AsgiApp:
    """Return the same as `wsgi`."""
    check_wsgi("the WSGI application", app)
    if not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads can't be {threads!r}; give a number from 1 on")
    root_path = _check_root_path(root_path)
    return AsgiApp(app, root_path, "off", NoChoice(lambda: Threads(threads)), Pace, takes_websockets=False)


def _check_root_path(root_path: str | None) -> str:
    if root_path and not _ROOT_PATH.fullmatch(root_path):
        raise UsageError(f"root_path can't be {root_path!r}; give a path that begins with one slash, such as /api")
    return (root_path or "").rstrip("/")


class AsgiApp:
    """An application of ASGI or WSGI as an `HttpApp`; `asgi` and `wsgi` make one."""

    def __init__(
        self,
        app: Any,
        root_path: str,
        lifespan: str,
        choice: LoopChoice | NoChoice,
        make_pace: Callable[[], Pace | None] = lambda: None,
        *,
        takes_websockets: bool = True,
    ) -> None:
        """``make_pace`` limits how long one call waits for its request's body.

        ``takes_websockets`` is false for an interface that has none: each upgrade is refused.
        """
        self.takes_websockets = takes_websockets
        self._app = app
        self._root_path = root_path
        self._lifespan = lifespan
        self._given: dict[str, object] = {}  # in the state of each lifespan, from its beginning
        self._choice = choice
        self._make_pace = make_pace
        self._loop: ApplicationLoop = TrioLoop()  # the one that was chosen, while its lifespan lasts
        self._state: dict[str, Any] = {}
        self._calls: trio.Nursery | None = None  # of the application, while its lifespan lasts
        self._untaken = Untaken()

    def give(self, name: str, value: object) -> None:
        """Have the state of the application's lifespan, and of its requests, begin with a value of the server's."""
        self._given[name] = value

    def websocket_paths(self) -> list[str]:
        """Return the paths of the application's WebSocket endpoints, as far as they can be seen from outside."""
        return websocket_paths(self._app)

    def max_body_bytes(self, limits: Limits) -> int:
        return NO_LIMIT  # the application decides how much it reads

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Have the application answer one request.

        Raises what the application raises, and OSError when the client left before it was answered.
        """
        calls = self._running
        conversation = Conversation(exchange, self._make_pace())
        scope: dict[str, Any] = {"type": "http", "scheme": exchange.scheme, "method": exchange.request.method.upper()}
        with exchange.on_stop(conversation.heed_stop):
            await conversation.answer(self._loop, self._app, scope | self._scope(exchange), calls)

    def answer_now(self, request: Request, *, stopping: bool) -> None:
        """Return None: an application has to be asked."""

    def answer_always(self, request: Request) -> None:
        """Return None: an application may change its mind."""

    async def answer_upgrade(self, exchange: UpgradeExchange) -> Acceptance | Refusal | None:
        """Have the application decide about one request for a WebSocket. `UpgradeApp` describes the result."""
        calls = self._running
        conversation = SocketConversation(exchange, self._untaken)
        scope: dict[str, Any] = {
            "type": "websocket",
            "scheme": "wss" if exchange.scheme == "https" else "ws",
            "subprotocols": list(exchange.subprotocols),
            "extensions": {"websocket.http.response": {}},
        }
        calls.start_soon(conversation.run, self._loop, self._app, scope | self._scope(exchange))
        return await conversation.wait_decided()

    @property
    def _running(self) -> trio.Nursery:
        if self._calls is None:
            raise UsageError("an ASGI application answers only while its lifespan() is entered, as rawws.serve does")
        return self._calls

    def _scope(self, exchange: Exchange) -> dict[str, Any]:
        """Return the part of a scope that HTTP and WebSocket have in common."""
        request = exchange.request
        raw_path = request.path or request.target  # OPTIONS * has no path
        return {
            "asgi": dict(HTTP_VERSIONS),
            "http_version": request.http_version,
            # Bytes that aren't UTF-8 become U+FFFD. The root path is prepended even if the path begins with it: a
            # client that requests /api/api/users from a proxy must not get past the proxy's rules for /api/users.
            "path": (self._root_path if request.path else "") + unquote(raw_path),
            "raw_path": raw_path.encode("ascii"),
            "query_string": request.query.encode("ascii"),
            "root_path": self._root_path,
            "headers": list(request.headers.raw_lower()),
            "client": exchange.client,
            "server": exchange.server,
            "state": self._state.copy(),
        }

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Send the application startup now, and shutdown at the end. Raises `UsageError` if it can't start."""
        if self._calls is not None:
            raise UsageError("rawws.asgi(app) is for one server; make another one of the same application")
        first, *others = self._choice.loops()
        reason = self._choice.reason
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._started(first, is_last=not others))
            except NeedsOtherLoop as error:
                (second,) = others
                summary = str(error).splitlines()[0]
                logs.server_line(logging.WARNING, STATE, f"{summary}; it is started again on {second.name}")
                reason = f"it can't start on {first.name}"
                await stack.enter_async_context(self._started(second, is_last=True))
            because = f" (--app-loop auto: {reason})" if reason else ""
            logs.server_line(logging.INFO, STATE, f"the application runs on {self._loop.describe()}{because}")
            yield

    @contextlib.asynccontextmanager
    async def _started(self, loop: ApplicationLoop, *, is_last: bool) -> AsyncIterator[None]:
        """Have the application start on a loop, and shut down at the end."""
        self._loop, self._state = loop, dict(self._given)
        life = Lifespan(loop, self._app, self._state)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery, loop.running(nursery):
            try:
                if self._lifespan != "off":
                    nursery.start_soon(life.run)
                    await life.start(required=self._lifespan == "on", is_last=is_last)
                async with trio.open_nursery() as calls:
                    self._calls = calls
                    try:
                        yield
                    except Exception as error:
                        failure = error  # raised below: these nurseries would make groups of it
                    # Tasks that run on after a response have some time to end.
                    calls.cancel_scope.deadline = trio.current_time() + GRACE_S
                if calls.cancel_scope.cancelled_caught:
                    log_fault(f"the ASGI application's background tasks took over {GRACE_S:g} s; cancelled")
            except UsageError as error:
                failure = error
            finally:
                self._calls = None
                await life.stop()
        if isinstance(loop.failure, Exception):
            why = f"{type(loop.failure).__name__}: {loop.failure}"
            raise RawwsError(f"the loop in which the application runs has ended: {why}") from loop.failure
        if (raised := loop.failure or failure) is not None:
            raise raised
