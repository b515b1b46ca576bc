"""ASGI applications (Starlette, FastAPI, Quart and others) as what answers the requests that don't upgrade.

Only the HTTP side of ASGI is here, and its lifespan: rawws takes the upgrades itself, on the same port. The names
are those of the ASGI specification 3.0 (https://asgi.readthedocs.io/en/latest/specs/www.html).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

import trio

from rawws import logs
from rawws.errors import UsageError
from rawws.exchange import Exchange
from rawws.wire.trace import STATE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# From 2.4 on, sending to a client that has gone raises OSError, so that an application need not watch for it.
_VERSIONS = {"version": "3.0", "spec_version": "2.4"}


def asgi(app: Application, *, root_path: str = "", lifespan: str = "auto") -> AsgiApp:
    """Return an ASGI application as the ``http`` of `rawws.serve`.

    ``root_path`` is where it is mounted, if a proxy has taken that off. ``lifespan`` says whether it is told of
    startup and shutdown: ``on``, ``off``, or ``auto`` for a try that may fail. The application runs on trio.
    """
    if lifespan not in ("auto", "on", "off"):
        raise UsageError(f"there is no lifespan {lifespan!r}; give 'auto', 'on' or 'off'")
    if not callable(app):
        raise UsageError(f"an ASGI application is a callable, not {type(app).__name__}")
    return AsgiApp(app, root_path, lifespan)


class AsgiApp:
    """Made by `asgi`."""

    streams_bodies = True  # how much it reads is for the application to say

    def __init__(self, app: Application, root_path: str, lifespan: str) -> None:
        self._app = app
        self._root_path = root_path
        self._lifespan = lifespan
        self._state: dict[str, Any] = {}

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Have the application answer one request.

        What it raises is logged by the server, which answers 500 if the application has not begun to.
        """
        conversation = _Conversation(exchange)
        await self._app(self._scope(exchange), conversation.receive, conversation.send)
        await conversation.finish()

    def _scope(self, exchange: Exchange) -> Scope:
        request = exchange.request
        raw_path = (request.path or request.target).encode("ascii")
        return {
            "type": "http",
            "asgi": dict(_VERSIONS),
            "http_version": request.http_version,
            "method": request.method,
            "scheme": exchange.scheme,
            "path": unquote_to_bytes(raw_path).decode(errors="replace"),
            "raw_path": raw_path,
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
        if self._lifespan == "off":
            yield
            return
        life = _Life()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live, life)
            await life.send_event("lifespan.startup")
            await life.wait_answer()
            if life.failure is not None and (life.answered or self._lifespan == "on"):
                nursery.cancel_scope.cancel()
                raise UsageError(f"the ASGI application can't start: {life.failure}")
            supported = life.failure is None
            yield
            if supported:
                await life.send_event("lifespan.shutdown")
                await life.wait_answer()
                if life.failure is not None:
                    logs.http.error("the ASGI application failed to shut down: %s", life.failure)
            nursery.cancel_scope.cancel()

    async def _live(self, life: _Life) -> None:
        scope = {"type": "lifespan", "asgi": dict(_VERSIONS), "state": self._state}
        try:
            await self._app(scope, life.receive, life.send)
        except Exception as error:
            # How an application says that it knows no lifespan (the specification has it so).
            life.fail(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            level = logging.DEBUG if self._lifespan == "auto" else logging.ERROR
            logs.line(logs.http, level, logs.SERVER, STATE, f"no lifespan: {life.failure}")
        else:
            life.end()


class _Life:
    """The lifespan's side of the conversation with an application."""

    def __init__(self) -> None:
        self._to_app, self._from_us = trio.open_memory_channel[Message](2)
        self._answer = trio.Event()
        self._ended = False
        self.answered = False  # in the application's own words
        self.failure: str | None = None

    async def send_event(self, kind: str) -> None:
        self.answered = False
        if self._ended:
            return
        self._answer = trio.Event()
        with contextlib.suppress(trio.BrokenResourceError):
            await self._to_app.send({"type": kind})

    async def wait_answer(self) -> None:
        await self._answer.wait()

    async def receive(self) -> Message:
        return await self._from_us.receive()

    async def send(self, message: Message) -> None:
        if message["type"].endswith(".failed"):
            self.failure = message.get("message") or "it said no more"
        self.answered = True
        self._answer.set()

    def fail(self, failure: str) -> None:
        if self.failure is None:
            self.failure = failure
        self.end()

    def end(self) -> None:
        """The application's lifespan is over: nothing more will be answered."""
        self._ended = True
        self._answer.set()


class _Conversation:
    """One request's ``receive`` and ``send``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._body_read = False
        self._started: Message | None = None
        self._head_sent = False
        self._ended = False

    async def receive(self) -> Message:
        if not self._body_read:
            try:
                body = await self._exchange.receive_body()
            except OSError:
                self._body_read = True
                return {"type": "http.disconnect"}
            self._body_read = not body
            return {"type": "http.request", "body": body, "more_body": bool(body)}
        if not self._ended:
            await self._exchange.wait_disconnected()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if self._started is None:
                self._started = message
            case "http.response.body" if self._started is not None and not self._ended:
                await self._send_body(message.get("body", b""), more=message.get("more_body", False))
            case kind:
                raise RuntimeError(f"the ASGI application sent {kind!r} where it can't be")

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        assert self._started is not None
        if not self._head_sent:
            # Held back until here, as the specification wants: an application that fails in between is answered for.
            self._head_sent = True
            headers = [(bytes(name), bytes(value)) for name, value in self._started.get("headers", ())]
            if not more and not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers):
                headers.append((b"Content-Length", str(len(body)).encode()))
            await self._exchange.start_response(self._started["status"], headers)
        await self._exchange.send_body(bytes(body))
        if not more:
            self._ended = True
            await self._exchange.end_response()

    async def finish(self) -> None:
        """The application has returned. An answer that it has begun and not ended can't be made whole by us."""
        if self._started is None:
            raise RuntimeError("the ASGI application returned without a response")
        if not self._ended:
            raise RuntimeError("the ASGI application returned before its response was complete")


def load_app(name: str) -> Application:
    """Return the application that ``module:attribute`` names. Raises `UsageError` if there is none."""
    module_name, colon, attributes = name.partition(":")
    if not colon or not module_name or not attributes:
        raise UsageError(f"{name!r} doesn't name an application; give module:attribute, such as main:app")
    # As "python -m" does: what lies in the current directory can be imported.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module {module_name!r} here, which {name!r} names") from None
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise UsageError(f"the module {module_name!r} has no {attributes!r}, which {name!r} names") from None
    if not callable(found):
        raise UsageError(f"{name!r} is not an ASGI application: it can't be called")
    application: Application = found
    return application
