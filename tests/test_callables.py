"""A function that can't work is refused when a program gives it, and not when it is first called."""

# ruff: noqa: ARG001, ARG005 (a function takes what it is called with)

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
import trio

import rawws
from rawws import UsageError
from rawws.application.loading import load_app
from rawws.application.spec import Receive, Scope, Send
from tests.serving.machine import LOOPBACK, PATIENCE_S


async def handle(ws: rawws.WebSocket) -> None:
    pass


async def with_path(ws: rawws.WebSocket, path: str) -> None:
    pass


def plain(ws: rawws.WebSocket) -> None:
    ws.begin_close()


def plain_with_a_return(ws: rawws.WebSocket) -> None:
    if not ws.path:
        return
    ws.begin_close()


def passes_on(ws: rawws.WebSocket) -> Awaitable[None]:
    return handle(ws)


async def yields(ws: rawws.WebSocket) -> AsyncIterator[None]:
    yield


def yields_plainly(ws: rawws.WebSocket) -> Iterator[None]:
    yield


def injects(function: Callable[..., Awaitable[None]]) -> Callable[[rawws.WebSocket], Awaitable[None]]:
    @functools.wraps(function)
    async def called(ws: rawws.WebSocket) -> None:
        await function(ws, "/")

    return called


class Site:
    async def __call__(self, ws: rawws.WebSocket) -> None:
        pass

    async def method(self, ws: rawws.WebSocket) -> None:
        pass

    def plain(self, ws: rawws.WebSocket) -> None:
        pass


class PlainSite:
    def __call__(self, ws: rawws.WebSocket) -> None:
        pass


class PeerGroup:
    """An object that serves the connection when awaited, like an endpoint of Starlette."""

    def __init__(self, ws: rawws.WebSocket) -> None:
        pass

    def __await__(self) -> Generator[Any, Any, None]:
        return trio.lowlevel.checkpoint().__await__()


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"from WSGI"]


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def serve(handler: Any = handle, **options: Any) -> None:
    """Call serve and expect it to raise at once."""
    with trio.fail_after(PATIENCE_S):
        await rawws.serve(handler, 0, host=LOOPBACK, **options)


async def start(handler: Any = handle, **options: Any) -> None:
    """Start a server, and stop it as soon as it listens."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(functools.partial(rawws.serve, handler, 0, host=LOOPBACK, **options))
            server.stop()


NOT_ASYNC = "is a plain function; define it with async def"
BAD_HANDLERS: dict[str, tuple[Any, str]] = {
    "plain": (plain, f"must be async, and plain {NOT_ASYNC}"),
    "plain with a return": (plain_with_a_return, f"must be async, and plain_with_a_return {NOT_ASYNC}"),
    "lambda": (lambda ws: None, f"must be async, and <lambda> {NOT_ASYNC}"),
    "partial": (functools.partial(plain), f"must be async, and plain {NOT_ASYNC}"),
    "plain method": (Site().plain, f"must be async, and Site.plain {NOT_ASYNC}"),
    "plain object": (PlainSite(), f"must be async, and an object of PlainSite {NOT_ASYNC}"),
    "a path too": (with_path, "is called with one argument (ws), which with_path(ws, path) doesn't take; the path of "
                              "the request is ws.path"),
    "no argument": (lambda: handle, "is called with one argument (ws), which <lambda>() doesn't take"),
    "async generator": (yields, "can't be yields, which has a yield in it and so is a generator; give a function of "
                                "one argument (ws)"),
    "generator": (yields_plainly, "can't be yields_plainly, which has a yield in it and so is a generator; give a "
                                  "function of one argument (ws)"),
    "class": (Site, "can't be the class Site itself; give one of its objects, or a function"),
    "hub class": (rawws.Hub, "is the class Hub itself; give a hub, such as Hub()"),
    "None": (None, "can't be None; give a function of one argument (ws)"),
}  # fmt: skip


@pytest.mark.parametrize(("handler", "sentence"), BAD_HANDLERS.values(), ids=BAD_HANDLERS)
async def test_a_handler_that_can_not_work_is_refused_at_the_start(bounded: None, handler: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^the handler {re.escape(sentence)}$"):
        await serve(handler)
    if not isinstance(handler, type):
        with pytest.raises(UsageError, match=f"^the handler at /a {re.escape(sentence)}$"):
            await serve(routes={"/a": handler})


async def test_a_handler_that_has_been_called_already_is_refused_without_a_warning(bounded: None) -> None:
    coroutine = handle(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        await serve(coroutine)
    assert str(caught.value) == (
        "the handler must be a function, and handle has been called already; give handle without parentheses"
    )


GOOD_HANDLERS: dict[str, Any] = {
    "async": handle,
    "returns an awaitable": passes_on,
    "lambda": lambda ws: handle(ws),
    "partial": functools.partial(with_path, path="/"),
    "object": Site(),
    "method": Site().method,
    "decorated": injects(with_path),
    "awaitable class": PeerGroup,
    "hub": rawws.Hub(),
}


@pytest.mark.parametrize("handler", GOOD_HANDLERS.values(), ids=GOOD_HANDLERS)
async def test_a_handler_that_can_work_is_taken(bounded: None, handler: Any) -> None:
    await start(handler)


async def test_a_plain_handler_is_recognized_by_the_value_that_it_returns(
    nursery: trio.Nursery, bounded: None, caplog: pytest.LogCaptureFixture
) -> None:
    plain_handler: Any = lambda ws: f"hello {ws.path}"  # noqa: E731
    server = await nursery.start(functools.partial(rawws.serve, plain_handler, 0, host=LOOPBACK))
    async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
        await ws.wait_closed()
    assert ws.close_code == 1011
    assert "<lambda> is a plain function that returned 'hello /'; make it async" in caplog.text


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "http: ASGI": ({"http": asgi_app}, "an ASGI application is given as rawws.asgi(app)"),
    "http: WSGI": ({"http": wsgi}, "a WSGI application is given as rawws.wsgi(app)"),
    "http: no argument": ({"http": lambda: "hi"}, "http is called with one argument (request), which <lambda>()"),
    "http: class": ({"http": PlainSite}, "http is called with one argument (request), which PlainSite()"),
    "http: generator": ({"http": yields}, "http can't be yields, which has a yield in it"),
    **{
        f"{name}: {kind}": ({name: given}, f"{name} {sentence}")
        for name in ("authenticate", "process_request", "process_response", "select_subprotocol")
        for kind, given, sentence in (
            ("no argument", lambda: None, "is called with "),
            ("a text", "x", "can't be 'x'; give a function of "),
            ("a generator", yields, "can't be yields, which has a yield in it"),
        )
    },
}


@pytest.mark.parametrize(("options", "sentence"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
async def test_other_uncallable_objects_are_refused_at_the_start(
    bounded: None, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        await serve(**options)


async def test_hooks_may_be_plain_or_async_functions_and_classes(bounded: None) -> None:
    class User:
        def __init__(self, request: rawws.Request) -> None:
            pass

    async def choose(request: rawws.Request, offered: Any) -> None:
        pass

    await start(authenticate=User, http=lambda request: "hi", select_subprotocol=choose)
    await start(process_request=lambda request: None, process_response=lambda request, response: None)


async def test_attach_checks_its_hooks_too(bounded: None) -> None:
    ours, theirs = trio.socket.socketpair()
    request: Any = rawws.Request("GET", "/", "1.1", rawws.Headers())
    no_hook: Any = lambda: None  # noqa: E731
    with theirs, pytest.raises(UsageError, match="authenticate is called with one argument"):
        async with rawws.attach(trio.SocketStream(ours), request, authenticate=no_hook):
            pass


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (handle, "settings can't be async, and handle is; define it with def"),
        (lambda: None, "settings is called with one argument (path), which <lambda>() doesn't take"),
        (3, "settings can't be 3; give a function of one argument (path)"),
    ],
    ids=["async", "no argument", "a number"],
)
def test_settings_of_a_hub_that_can_not_work_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        rawws.Hub(settings=settings)


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        (wsgi, "or with --app-interface wsgi"),
        (lambda: asgi_app, "if it makes the application, call it, as in asgi(make_app())"),
        (handle, "a function of the request is given to rawws.serve as http itself"),
        (Site, "the ASGI application can't be the class Site itself; give one of its objects, or a function"),
        (lambda scope, receive, send: None, f"the ASGI application must be async, and <lambda> {NOT_ASYNC}"),
    ],
    ids=["WSGI", "a factory", "a function of a request", "a class", "plain"],
)
def test_an_object_that_is_no_asgi_application_is_refused(app: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(sentence)}$"):
        rawws.asgi(app)


def test_a_factory_on_the_command_line_is_reported_with_its_correct_form(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def make():\n    return app\nasync def app(scope, receive, send):\n    pass\n"
    (tmp_path / "made_here.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"doesn't take; if it makes the application, give 'made_here:make\(\)'$"):
        load_app("made_here:make")
    assert load_app("made_here:make()").__name__ == "app"
