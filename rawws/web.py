"""Plain HTTP answers, for requests that don't upgrade: the program's own, and those of an application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rawws.callables import check_function
from rawws.errors import Refusal, UsageError
from rawws.failures import call_application
from rawws.limits import Limits
from rawws.room_paths import is_own
from rawws.wire.json_messages import as_compact_json
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import mask_target

if TYPE_CHECKING:
    from rawws.exchange import Exchange

GREETING = "hi there"
ALLOWED_METHODS = ("GET", "HEAD")
# Without this field, a cache may store even a 404 (RFC 9111 §4.2.2), and some store each 200. Responses that depend on
# the moment, or on the client's Accept header, have it.
NO_STORE = ("Cache-Control", "no-store")

# What a program may give for requests that don't upgrade.
Answer = Callable[[Request], Awaitable[Response | str | None]]


@runtime_checkable
class HttpApp(Protocol):
    """Answers requests that don't upgrade, each as an exchange, whose bodies may stream both ways."""

    def max_body_bytes(self, limits: Limits) -> int:
        """Return how large a body it takes, by its own limit or the server's."""

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Answer one request. An exception is logged, and told to the client as 500 if nothing was told yet."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Bracket all exchanges: entered before the server listens, left when all is over."""


class InFront:
    """The base of apps that answer some requests themselves, and pass all others on to another app."""

    elsewhere: HttpApp | None

    def is_own(self, request: Request) -> bool:
        """Say whether a request is rawws's own, such as its page's, and so isn't logged."""
        return isinstance(self.elsewhere, InFront) and self.elsewhere.is_own(request)


def find_application(http: object) -> object | None:
    """Return the innermost of apps that wrap one another; None if it has no paths of its own."""
    *_, innermost = apps_of(http)
    return None if isinstance(innermost, HelloApp) else innermost


def apps_of(http: object) -> Iterator[object]:
    """Yield apps that wrap one another, the outermost first."""
    yield http
    while isinstance(http, InFront):
        http = http.elsewhere
        yield http


def answer_json(told: dict[str, Any] | bytes, status: int = 200) -> Response:
    """Return an answer that is JSON, encoded or to be encoded, and that nobody may keep."""
    body = told if isinstance(told, bytes) else as_compact_json(told) + b"\n"
    return Response(status, body, [("Content-Type", "application/json"), NO_STORE])


class HelloApp:
    """Answers ``hi there`` at any path but two, and OPTIONS with the methods that are allowed there.

    ``/healthz`` says ``ok`` as long as the process answers at all; ``/readyz`` says ``ready`` until it is about to end,
    or as long as there is no obstacle.
    """

    def __init__(self, methods: Sequence[str] = (), obstacle: Callable[[], str] = str) -> None:
        """``methods`` are further methods, which are allowed since another app in front of it answers them in rooms.

        ``obstacle`` returns why nobody should be sent here just now, or an empty string.
        """
        self._obstacle = obstacle
        self._allowed = (*ALLOWED_METHODS, *methods)

    def answer(self, request: Request, *, stopping: bool = False) -> Response | Refusal:
        allowed = ALLOWED_METHODS if is_own(request.path or "") else self._allowed
        if request.method == "OPTIONS":
            return answer_options(allowed)
        if request.method not in ALLOWED_METHODS:
            return Refusal(
                405,
                "method_not_allowed",
                f"The method {request.method} is not allowed here; use {' or '.join(allowed)}.",
                ((b"Allow", _name_methods(allowed).encode("ascii")),),
            )
        match request.path:
            case "/healthz":
                return Response(200, "ok", [NO_STORE])
            case "/readyz":
                obstacle = "stopping" if stopping else self._obstacle()
                return Response(503, obstacle, [NO_STORE]) if obstacle else Response(200, "ready", [NO_STORE])
            case _:
                return Response(200, GREETING, [NO_STORE])

    def max_body_bytes(self, limits: Limits) -> int:
        return limits.max_body_bytes

    async def serve_exchange(self, exchange: Exchange) -> None:
        await exchange.pass_over_body()
        await exchange.answer(self.answer(exchange.request, stopping=exchange.stopping))

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class UpgradeOnlyApp:
    """Answers requests without an upgrade with 426, for a server that has only WebSockets.

    OPTIONS is answered: HAProxy's health checks send it by default.
    """

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.pass_over_body()
        if exchange.request.method == "OPTIONS":
            await exchange.answer(answer_options(["GET"]))
            return
        headers = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
        told = "This server speaks WebSocket only; connect with a WebSocket client."
        await exchange.answer(Refusal(426, "upgrade_required", told, headers))


# Advice for an application that is no function of a request, by the number of its arguments.
_APPLICATIONS = {
    3: "; an ASGI application is given as rawws.asgi(app)",
    2: "; a WSGI application needs a server of its own",
}


class CallableApp:
    """An ``async (Request) -> Response | str | None`` as an application: it gets the body whole; None is 404."""

    def __init__(self, answer: Answer) -> None:
        """Raises `UsageError` unless ``answer`` can be called with a request."""
        if not callable(answer) and not inspect.iscoroutine(answer):
            raise UsageError(f"http is an async function or rawws.asgi(app), not {type(answer).__name__}")
        check_function("http", answer, "request", hints=_APPLICATIONS)
        if isinstance(answer, type):
            raise UsageError(f"http can't be the class {answer.__name__}; give an async function, or rawws.asgi(app)")
        self._answer = answer

    async def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.has_body:
            request = replace(request, body=await exchange.read_body())
        answer = await call_application(self._answer, request)
        if answer is None:
            answer = Response(404, "Not Found\n", [NO_STORE])
        elif isinstance(answer, str):
            answer = Response(200, answer)
        elif not isinstance(answer, Response):
            target = mask_target(request.target)
            raise UsageError(
                f"the http handler returned {type(answer).__name__} for {request.method} {target}; it is to "
                "return a Response, a str, or None"
            )
        await exchange.answer(answer)


def refuse(refusal: Refusal) -> Response:
    """Return the response that tells a client why it is refused, in one sentence."""
    headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in refusal.headers]
    if not any(name == NO_STORE[0] for name, _ in headers):
        headers.append(NO_STORE)
    return Response(refusal.status, refusal.sentence + "\n", Headers(headers))


def answer_options(methods: Sequence[str], fields: Mapping[str, str] | None = None) -> Response:
    """Return the response to OPTIONS. ``methods`` are those allowed besides OPTIONS itself (RFC 9110 §9.3.7)."""
    return Response(204, b"", {"Allow": _name_methods(methods), **(fields or {})})


def _name_methods(methods: Sequence[str]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS"}))
