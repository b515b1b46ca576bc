"""ASGI applications (Starlette, FastAPI and others) as what answers the requests that don't upgrade.

Only the HTTP side of ASGI is here, and its lifespan: rawws takes the upgrades itself, on the same port, so that no
``websocket`` scope ever occurs. Sections are those of the ASGI specification 3.0 with its HTTP part 2.4
(https://asgi.readthedocs.io/en/latest/specs/). The application runs on trio.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Literal
from urllib.parse import unquote

import h11
import trio

from rawws import logs
from rawws.asgi_endpoints import websocket_paths
from rawws.callables import check_async
from rawws.errors import RawwsError, Refusal, UsageError
from rawws.exchange import Exchange
from rawws.failures import call_application, is_failure, log_failure
from rawws.limits import KIB, NO_LIMIT, Limits
from rawws.runtime import explain_asyncio, hint_at_asyncio
from rawws.wire.stream_encodings import EVENTS
from rawws.wire.trace import FAULT, STATE, mask_target

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# From 2.4 on, sending to a client that has gone raises OSError, and frameworks rely on it: Starlette (0.42 on) then
# leaves ``receive`` to the application while it streams, whose upload would else lose pieces to Starlette's watch.
_HTTP_VERSIONS = {"version": "3.0", "spec_version": "2.4"}
_LIFESPAN_VERSIONS = {"version": "3.0", "spec_version": "2.0"}

# What the server hands to a slow client in one go, and has a deadline for.
_PIECE_BYTES = 64 * KIB
# How long an application may take to end once it has said, or was told, that it does; as the server drains (a guess).
_GRACE_S = 5.0

_DISCONNECT = "http.disconnect"

# An application is notified that the server stops: by http.disconnect, and by an OSError from ``send``. A notice to all
# of them at once would cut short responses that end in time by themselves; uvicorn did so in 2026, and reverted it for
# that reason (its pull requests 2829 and 2913). So here the time depends on the response.
#
# An event stream has no end of its own, and its reader reconnects by itself (WHATWG HTML, §9.2). Its application is
# notified at once, and cancelled a second later, or after this share of the drain if that is less (guesses).
_FAREWELL_S = 1.0
_FAREWELL_SHARE = 0.2
# Any other response may be about to end. If its application waits for a disconnect, as a long poll does, it is notified
# when half of the drain is over (a guess: some frameworks wait so in each request, and abandon it then).
_RECEIVING_SHARE = 0.5
# A stream of unknown length may be a download, and a notice would cut it. So it gets most of the drain (a guess).
_SENDING_SHARE = 0.8

# A second slash would make the next word a host's name where an application redirects to it; to browsers a backslash is
# one.
_ROOT_PATH = re.compile(r"/(?:[^/\\?#\x00-\x20\x7f][^?#\x00-\x20\x7f]*)?")

_STOPPING = Refusal(
    503,
    "stopping",
    "The server is shutting down; try again.",
    ((b"Retry-After", b"1"),),
)


def asgi(app: Application, *, root_path: str | None = None, lifespan: Literal["auto", "on", "off"] = "auto") -> AsgiApp:
    """Return an ASGI application as the ``http`` of `rawws.serve`.

    ``root_path`` is the prefix that a proxy in front removes from the path, such as ``/api``. The application gets it
    as ASGI's ``root_path``, and the whole path that the client requested as ``path``.
    ``lifespan`` says whether the application is told of startup and shutdown: ``on``, ``off``, or ``auto`` where it
    may not know them. One that fails to start makes `rawws.serve` raise `UsageError`.
    """
    _check_application("the ASGI application", app)
    if lifespan not in ("auto", "on", "off"):
        raise UsageError(f"there is no lifespan {lifespan!r}; give 'auto', 'on' or 'off'")
    if root_path and not _ROOT_PATH.fullmatch(root_path):
        raise UsageError(f"root_path can't be {root_path!r}; give a path that begins with one slash, such as /api")
    return AsgiApp(app, (root_path or "").rstrip("/"), lifespan)


def _check_application(what: str, app: object, factory: str = "call it, as in asgi(make_app())") -> None:
    if not callable(app) and not inspect.iscoroutine(app):
        raise UsageError(f"{what} is of type {type(app).__name__}; an ASGI application must be callable")
    hints = {
        0: f"; if it makes the application, {factory}",
        1: "; a function of the request is given to rawws.serve as http itself",
        2: "; a WSGI application needs a server of its own",
    }
    check_async(what, app, "scope", "receive", "send", hints=hints)


class AsgiApp:
    """Made by `asgi`."""

    def __init__(self, app: Application, root_path: str, lifespan: str) -> None:
        self._app = app
        self._root_path = root_path
        self._lifespan = lifespan
        self._state: dict[str, Any] = {}
        self._calls: trio.Nursery | None = None  # of the application, while its lifespan lasts

    def websocket_paths(self) -> list[str]:
        """Return the paths of the application's WebSocket endpoints, as far as they can be seen from outside."""
        return websocket_paths(self._app)

    def max_body_bytes(self, limits: Limits) -> int:
        return NO_LIMIT  # how much it reads is for the application to say

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Have the application answer one request.

        Raises what the application raises, and OSError when the client left before it was answered.
        """
        if self._calls is None:
            raise UsageError("an ASGI application answers only while its lifespan() is entered, as rawws.serve does")
        conversation = _Conversation(exchange)
        # In a task of its own, which outlives the response: the next request on this connection doesn't wait for what
        # the application does in the background, nor does it see its context variables.
        self._calls.start_soon(conversation.run, self._app, self._scope(exchange))
        with exchange.heeding_stop(conversation.heed_stop):
            await conversation.wait_answered()

    def _scope(self, exchange: Exchange) -> Scope:
        request = exchange.request
        raw_path = request.path or request.target  # OPTIONS * has no path
        return {
            "type": "http",
            "asgi": dict(_HTTP_VERSIONS),
            "http_version": request.http_version,
            "method": request.method.upper(),
            "scheme": exchange.scheme,
            # Bytes that aren't UTF-8 become U+FFFD. The root path is prepended even if the path begins with it: a
            # client that requests /api/api/users from a proxy must not get past the proxy's rules for /api/users.
            "path": (self._root_path if request.path else "") + unquote(raw_path),
            "raw_path": raw_path.encode("ascii"),
            "query_string": request.query.encode("ascii"),
            "root_path": self._root_path,
            "headers": [(name.lower(), value) for name, value in request.headers.raw()],
            "client": exchange.client,
            "server": exchange.server,
            "state": self._state.copy(),
        }

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Tell the application of startup now, and of shutdown at the end. Raises `UsageError` if it can't start."""
        if self._calls is not None:
            raise UsageError("rawws.asgi(app) is for one server; make another one of the same application")
        self._state = {}
        life = _Lifespan(self._app, self._state)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                if self._lifespan != "off":
                    nursery.start_soon(life.run)
                    await life.start(required=self._lifespan == "on")
                async with trio.open_nursery() as calls:
                    self._calls = calls
                    try:
                        yield
                    except Exception as error:
                        failure = error  # raised below: these nurseries would make groups of it
                    # What goes on in the background, behind a response, may go on for a while.
                    calls.cancel_scope.deadline = trio.current_time() + _GRACE_S
                if calls.cancel_scope.cancelled_caught:
                    _log_fault(f"what the ASGI application did in the background took over {_GRACE_S:g} s; cancelled")
            except UsageError as error:
                failure = error
            finally:
                self._calls = None
                await life.stop()
        if failure is not None:
            raise failure


# One request


class ClientDisconnected(ConnectionError):
    """The client has gone: what an application gets that sends on (HTTP part, "Disconnected Client")."""


class _Conversation:
    """One request and its answer, as the application's ``receive`` and ``send`` see them."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._body_read = False
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None  # while it waits for the body
        self._started = False
        self._is_event_stream = False
        self._has_length = False
        self._is_torn = False  # a piece of the response was sent in part
        self._pieces = 0
        self._complete = False
        self._gone = False  # so the application was told, or found out
        self._stopped = False  # the application was notified that the server stops, or cancelled for that
        self._lost: OSError | None = None  # how the connection was lost
        self._call = trio.CancelScope()
        self._failure: BaseException | None = None  # what the application raised
        self._settled = trio.Event()  # the response is complete, or the application has returned
        self._receiving = trio.Lock()  # only one task at a time may wait for the socket
        self._wait: trio.CancelScope | None = None  # of the task that does
        self._sending = trio.Lock()

    @trio.lowlevel.enable_ki_protection
    async def run(self, app: Application, scope: Scope) -> None:
        """Call the application, and say so when it has returned, however that came."""
        try:
            with self._call:
                await call_application(app, scope, self.receive, self.send)
        except BaseException as error:
            if not is_failure(error):
                raise
            if not ((self._gone or self._stopped) and _is_about_leaving(error)):
                self._failure = error
        finally:
            self._stopped |= self._call.cancelled_caught and self._must_end
            self._settled.set()
        if self._complete and self._failure is not None:
            target = mask_target(self._exchange.request.target)
            message = f"the ASGI application failed at {target} after it had answered"
            log_failure(logs.http, self._exchange.number, message, self._failure)

    async def wait_answered(self) -> None:
        """Wait until the response is complete. Raises what has come in the way of that."""
        try:
            await self._settled.wait()
        finally:
            if not self._complete or self._receiving.locked():
                await self._end_call()
        if self._complete:
            return
        if self._failure is not None or not self._stopped:
            raise self._explain()
        target = mask_target(self._exchange.request.target)
        message = f"the ASGI application's response to {target} is ended, since the server stops"
        logs.line(logs.http, logging.INFO, self._exchange.number, STATE, message)
        if not self._started:
            self._exchange.refusal = _STOPPING
        elif self._is_event_stream and not self._is_torn:
            # Each event is whole. In any other response, the client has to see the cut.
            await self._exchange.end_response()

    async def _end_call(self) -> None:
        """Have the application let go of the exchange, which is over."""
        with trio.CancelScope(shield=True):
            if not self._complete:
                self._call.cancel()
                await self._settled.wait()
            async with self._receiving:
                pass

    def _explain(self) -> BaseException:
        """Return why the application has returned without completing its response."""
        if isinstance(self._failure, OSError):
            # A file or a database of its own: the server would take it for the client's.
            error = RawwsError(f"the ASGI application failed: {type(self._failure).__name__}: {self._failure}")
            error.__cause__ = self._failure
            return error
        if self._failure is not None:
            return self._failure
        if self._gone:
            return self._lost or ConnectionResetError("the client left before it was answered")
        if self._started:
            return RawwsError("the ASGI application returned before its response was complete")
        return RawwsError("the ASGI application returned without a response")

    # When the server stops

    def heed_stop(self) -> None:
        """Set the times at which the application is notified that the server stops, if it does."""
        drain = self._exchange.drain
        if drain is None or self._complete:
            return
        if self._is_event_stream:
            farewell_s = min(_FAREWELL_S, _FAREWELL_SHARE * drain.seconds)
            self._call.deadline = min(self._call.deadline, trio.current_time() + farewell_s)
            if self._wait is not None:
                self._wait.deadline = drain.began
        elif self._wait is not None and self._body_read:
            self._wait.deadline = drain.at(_RECEIVING_SHARE)

    @property
    def _must_end(self) -> bool:
        """Whether an application that asks is notified that the server stops."""
        drain = self._exchange.drain
        if drain is None:
            return False
        return self._is_event_stream or trio.current_time() >= drain.at(_RECEIVING_SHARE)

    def _check_that_more_can_come(self) -> None:
        """Raise `ClientDisconnected` for a stream that the server no longer waits for."""
        drain = self._exchange.drain
        if drain is None:
            return
        too_late = not self._has_length and trio.current_time() >= drain.at(_SENDING_SHARE)
        if self._is_event_stream or self._stopped or too_late:
            self._stopped = True
            raise ClientDisconnected("the server is shutting down")

    # What the application receives

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """Return the next piece of the body; after its end, wait for the client's leaving or the response's end.

        Applications ask whether the client has gone by cancelling this at once. So there is no checkpoint here: an
        exchange looks before it waits.
        """
        await _acquire(self._receiving)
        try:
            if self._complete or self._gone:
                return {"type": _DISCONNECT}
            if self._must_end and (self._body_read or self._is_event_stream):
                self._stopped = True
                return {"type": _DISCONNECT}
            with trio.CancelScope() as self._wait:
                self.heed_stop()
                return await self._receive()
            # The response has been completed meanwhile, or the server stops.
            self._stopped |= not self._complete
            return {"type": _DISCONNECT}
        finally:
            self._wait = None
            self._receiving.release()

    @trio.lowlevel.enable_ki_protection
    async def _receive(self) -> Message:
        if not self._body_read:
            try:
                piece = await self._exchange.receive_body()
            except OSError as error:
                self._lose(error)
                return {"type": _DISCONNECT}
            self._body_read = not piece
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}
        await self._exchange.wait_disconnected()
        # Sending goes on until it fails: a client that has only shut down its own side still reads.
        self._gone = True
        return {"type": _DISCONNECT}

    def _lose(self, error: OSError) -> None:
        self._gone = True
        self._lost = error

    # What it sends

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Message) -> None:
        """Send a part of the response. Raises `UsageError` for what can't come now, and OSError without a client."""
        kind = message.get("type")
        if kind not in ("http.response.start", "http.response.body"):
            raise UsageError(f"an ASGI application can't send {kind!r} in answer to an HTTP request")
        if message.get("more_body"):
            await trio.lowlevel.checkpoint()  # a stream to a fast client mustn't keep others from their turn
        await _acquire(self._sending)
        try:
            await self._send(kind, message)
        except ClientDisconnected:
            raise
        except OSError as error:
            self._lose(error)
            raise ClientDisconnected("the client has gone") from error
        except h11.LocalProtocolError as error:
            raise UsageError(f"the ASGI application's response can't be sent: {error}") from None
        finally:
            self._sending.release()

    async def _send(self, kind: str, message: Message) -> None:
        if self._lost is not None:
            raise ClientDisconnected("the client has gone") from self._lost
        if self._complete:
            # "any further messages on the channel will be ignored"
            target = mask_target(self._exchange.request.target)
            late = f"the ASGI application sent {kind} after the end of its response to {target}"
            logs.line(logs.http, logging.WARNING, self._exchange.number, FAULT, f"{late}; ignored")
        elif kind == "http.response.start":
            await self._start(message)
        else:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _start(self, message: Message) -> None:
        if self._started or self._head is not None:
            raise UsageError("the ASGI application has sent http.response.start twice")
        headers = []
        for name, value in message.get("headers", ()):
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise UsageError(f"the ASGI application's header {name!r}: {value!r} is to be two byte strings")
            if name.lower() != b"transfer-encoding":  # "the server must ignore it"
                headers.append((name, value))
        self._head = message["status"], headers
        self._has_length = any(name.lower() == b"content-length" for name, _ in headers)
        self._is_event_stream = any(_is_event_stream(name, value) for name, value in headers)
        self.heed_stop()
        # A head that gives the length waits for the body, so that there can still be a 500 if none comes. Without a
        # length it is a stream, whose first piece may be long in coming: an EventSource opens with the head.
        if not self._has_length:
            await self._send_head()

    async def _send_head(self) -> None:
        if self._head is not None:
            (status, headers), self._head = self._head, None
            await self._exchange.start_response(status, headers)
            self._started = True

    async def _send_body(self, body: object, *, more: bool) -> None:
        if self._head is None and not self._started:
            raise UsageError("the ASGI application has sent http.response.body before http.response.start")
        if not isinstance(body, bytes | bytearray | memoryview):
            raise UsageError(f"the body of http.response.body is to be bytes, not {type(body).__name__}")
        if more:
            self._check_that_more_can_come()
        await self._send_head()
        if more and self._pieces and self._exchange.request.method == "HEAD":
            # Nothing of it goes out, so nothing would ever stop an endless stream: this is where it ends.
            await self._end()
            self._gone = True
            raise ClientDisconnected("a HEAD is answered without a body; there is nothing to stream to")
        self._pieces += 1
        for start in range(0, len(body), _PIECE_BYTES):
            try:
                await self._exchange.send_body(bytes(body[start : start + _PIECE_BYTES]))
            except trio.Cancelled:
                self._is_torn = True
                raise
        if not more:
            await self._end()

    async def _end(self) -> None:
        await self._exchange.end_response()
        self._complete = True
        self._call.deadline = math.inf  # background tasks have a time limit of their own
        self._settled.set()
        if self._wait is not None:
            self._wait.cancel()


async def _acquire(lock: trio.Lock) -> None:
    """Acquire a lock; without a checkpoint where nobody holds it, as in almost every request."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()


def _is_event_stream(name: bytes, value: bytes) -> bool:
    kind = value.partition(b";")[0].strip().lower()
    return name.lower() == b"content-type" and kind == EVENTS.content_type.encode("ascii")


def _is_about_leaving(failure: BaseException) -> bool:
    """Say whether an application raised this because its client has gone, and for no other reason."""
    if isinstance(failure, BaseExceptionGroup):
        return all(map(_is_about_leaving, failure.exceptions))
    # Starlette makes a ClientDisconnect of ours, and of the message; its name is all that we know of it here.
    return (
        isinstance(failure, ClientDisconnected)
        or isinstance(failure.__cause__, ClientDisconnected)
        or type(failure).__name__ == "ClientDisconnect"
    )


# The lifespan


class _Lifespan:
    """The application's call with the ``lifespan`` scope, which lasts as long as the server."""

    def __init__(self, app: Application, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._tell, self._told = trio.open_memory_channel[Message](2)
        # Shielded: when the server is cancelled, the application still has its time to clean up.
        self._scope = trio.CancelScope(shield=True)
        self._startup_answered = trio.Event()
        self._shutdown_answered = trio.Event()
        self._over = trio.Event()  # nothing more is to be expected of it
        self._is_up = False
        self._startup_failed: str | None = None  # in the application's words
        self._shutdown_failed: str | None = None
        self._error: BaseException | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": dict(_LIFESPAN_VERSIONS), "state": self._state}
        with self._scope:
            try:
                await call_application(self._app, scope, self._receive, self._send)
            except BaseException as error:
                if not is_failure(error):
                    raise
                self._error = error
                if self._is_up:
                    log_failure(logs.server, logs.SERVER, "the ASGI application's lifespan failed", error)
            finally:  # also when Ctrl-C came just there: nobody is to wait for it then
                for event in (self._startup_answered, self._shutdown_answered, self._over):
                    event.set()

    @trio.lowlevel.enable_ki_protection
    async def _receive(self) -> Message:
        with contextlib.suppress(trio.EndOfChannel):
            return await self._told.receive()
        self._over.set()
        return await trio.sleep_forever()

    @trio.lowlevel.enable_ki_protection
    async def _send(self, message: Message) -> None:
        match message.get("type"):
            case "lifespan.startup.complete":
                self._is_up = True
                self._startup_answered.set()
            case "lifespan.startup.failed":
                self._startup_failed = message.get("message") or "it doesn't say why"
                self._startup_answered.set()
            case "lifespan.shutdown.complete":
                self._shutdown_answered.set()
            case "lifespan.shutdown.failed":
                self._shutdown_failed = message.get("message") or "it doesn't say why"
                self._shutdown_answered.set()
            case kind:
                raise UsageError(f"an ASGI application can't send {kind!r} in its lifespan")

    async def start(self, *, required: bool) -> None:
        """Have the application start. Raises `UsageError` if it fails, or knows no lifespan though one is required."""
        self._tell.send_nowait({"type": "lifespan.startup"})
        await self._startup_answered.wait()
        if self._is_up:
            return
        self._tell.close()
        with trio.move_on_after(_GRACE_S):
            await self._over.wait()
        needs_asyncio = "" if self._error is None else explain_asyncio(self._error)
        if (message := self._startup_failed) is not None:
            message = message.rstrip()  # Starlette's is a whole traceback
            space = "\n" if "\n" in message else " "
            message = f" {needs_asyncio}" if needs_asyncio else f"{space}{message}{hint_at_asyncio(message)}"
            raise UsageError(f"the ASGI application can't start:{message}") from self._error
        why = "it returned" if self._error is None else f"{type(self._error).__name__}: {self._error}"
        why = needs_asyncio or why
        if required:
            raise UsageError(
                f"the ASGI application doesn't answer lifespan.startup, which lifespan='on' asks for: {why}"
            ) from self._error
        # "If an exception is raised ... the server must continue but not send any lifespan events."
        message = f"the ASGI application has no lifespan, so it gets no startup and shutdown events: {why}"
        logs.line(logs.server, logging.INFO, logs.SERVER, STATE, message)

    async def stop(self) -> None:
        """Have the application shut down; when we are cancelled, in the time that is left. What fails is logged."""
        try:
            if self._is_up:
                self._tell.send_nowait({"type": "lifespan.shutdown"})
                self._tell.close()
                await self._wait_end()
        finally:
            self._scope.cancel()
        if self._shutdown_failed is not None and self._error is None:  # else it has been logged
            _log_fault(f"the ASGI application failed to shut down: {self._shutdown_failed}")

    async def _wait_end(self) -> None:
        try:
            # "A server must wait for this message before terminating."
            await self._shutdown_answered.wait()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + _GRACE_S, shield=True):
                await self._over.wait()
            if not self._over.is_set():
                _log_fault(f"the ASGI application did not end within {_GRACE_S:g} seconds of shutdown; cancelled")


def _log_fault(text: str) -> None:
    logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, text)


# Where it comes from


def load_app(name: str) -> Application:
    """Return the application that ``module:attribute`` names, or ``module:function()`` makes.

    The module may lie in the current directory. Raises `UsageError` if there is no such application; what the
    module itself raises when it is imported comes as it is.
    """
    module_name, _, attributes = name.partition(":")
    is_factory = attributes.endswith("()")
    path = attributes.removesuffix("()").split(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path)):
        raise UsageError(f"{name!r} doesn't name an application; give module:attribute, such as main:app")
    # As "python -m" does: what lies in the current directory can be imported.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # one that the application wants to import
        raise UsageError(
            f"there is no module {error.name!r}, which {name!r} names, in the current directory or among the "
            "installed packages"
        ) from None
    for part in path:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"the module {module_name!r} has no {'.'.join(path)!r}, which {name!r} names") from None
    if is_factory and callable(found):
        found = found()
    _check_application(repr(name), found, f"give '{name}()'")
    application: Application = found
    return application
