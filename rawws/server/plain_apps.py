"""The applications for HTTP that need no framework: a greeting, a plain 426, and a function of the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from rawws.callables import check_function
from rawws.errors import Refusal, UsageError
from rawws.hooks import call_application
from rawws.hub.paths import is_own
from rawws.limits import Limits
from rawws.server.apps import Exchange, answer_options, apps_of, name_methods
from rawws.wire.messages import NO_STORE, Request, Response
from rawws.wire.trace import mask_target

GREETING = "hi there"
ALLOWED_METHODS = ("GET", "HEAD")

# A program's function that answers requests.
Answer = Callable[[Request], Awaitable[Response | str | None]]


def find_application(http: object) -> object | None:
    """Return the innermost of apps that wrap one another; None if it has no paths of its own."""
    *_, innermost = apps_of(http)
    return None if isinstance(innermost, HelloApp) else innermost


_GREETS = Response(200, GREETING, [NO_STORE])
_IS_HEALTHY = Response(200, "ok", [NO_STORE])


class HelloApp:
    """Answers ``hi there`` at any path but two, and OPTIONS with the methods that are allowed there.

    ``/healthz`` says ``ok`` as long as the process answers at all; ``/readyz`` says ``ready`` until it is about to end,
    or as long as there is no obstacle.
    """

    def __init__(self, methods: Sequence[str] = (), obstacle: Callable[[], str] = str) -> None:
        """``methods`` are further allowed methods, which another app in front answers in rooms.

        ``obstacle`` returns the reason why the server isn't ready for new clients, or an empty string.
        """
        self._obstacle = obstacle
        self._allowed = (*ALLOWED_METHODS, *methods)

    def answer_now(self, request: Request, *, stopping: bool = False) -> Response | Refusal:
        allowed = ALLOWED_METHODS if is_own(request.path or "") else self._allowed
        if request.method == "OPTIONS":
            return answer_options(allowed)
        if request.method not in ALLOWED_METHODS:
            return Refusal(
                405,
                "method_not_allowed",
                f"The method {request.method} is not allowed here; use {' or '.join(allowed)}.",
                ((b"Allow", name_methods(allowed).encode("ascii")),),
            )
        match request.path:
            case "/healthz":
                return _IS_HEALTHY
            case "/readyz":
                obstacle = "stopping" if stopping else self._obstacle()
                return Response(503, obstacle, [NO_STORE]) if obstacle else Response(200, "ready", [NO_STORE])
            case _:
                return _GREETS

    def answer_always(self, request: Request) -> Response | None:
        answer = None if request.path == "/readyz" else self.answer_now(request)
        return answer if isinstance(answer, Response) and answer.status == 200 else None

    def max_body_bytes(self, limits: Limits) -> int:
        return limits.max_body_bytes

    async def serve_exchange(self, exchange: Exchange) -> None:
        await exchange.discard_body()
        await exchange.answer(self.answer_now(exchange.request, stopping=exchange.stopping))

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class UpgradeOnlyApp:
    """Answers requests without an upgrade with 426, for a server that has only WebSockets.

    OPTIONS is answered: HAProxy's health checks send it by default.
    """

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.discard_body()
        if exchange.request.method == "OPTIONS":
            await exchange.answer(answer_options(["GET"]))
            return
        headers = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
        sentence = "This server speaks WebSocket only; connect with a WebSocket client."
        await exchange.answer(Refusal(426, "upgrade_required", sentence, headers))


# Advice for an application that is no function of a request, by the number of its arguments.
_APPLICATIONS = {
    3: "; an ASGI application is given as rawws.asgi(app)",
    2: "; a WSGI application is given as rawws.wsgi(app)",
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
