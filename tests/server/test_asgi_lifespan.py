"""How ASGI applications are found, start and end."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.application.loading import load_app
from rawws.application.spec import Receive, Scope, Send
from rawws.errors import ListenError, UsageError
from rawws.net.listeners import open_listeners
from rawws.server.asgi import asgi
from tests.asgi_serving import App, answer, echo, errors, says_ok, serving
from tests.serving.machine import LOOPBACK
from tests.serving.wire import get, seen_text, text

# The lifespan


class Life:
    """An application with a lifespan, which records its events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.state: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.events.append("request")
            self.state.append(dict(scope["state"]))
            scope["state"]["mine"] = True
            scope["state"]["shared"].append(scope["path"])
            await answer(send)
            return
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        scope["state"]["shared"] = []
        await self.start(receive, send)
        await self.stop(receive, send)

    async def start(self, receive: Receive, send: Send) -> None:
        self.events.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})

    async def stop(self, receive: Receive, send: Send) -> None:
        self.events.append((await receive())["type"])
        await trio.lowlevel.checkpoint()
        self.events.append("cleaned up")
        await send({"type": "lifespan.shutdown.complete"})
        await trio.lowlevel.checkpoint()
        self.events.append("returned")


async def test_the_lifespan_brackets_the_requests_and_each_has_its_copy_of_the_state() -> None:
    app = Life()
    async with serving(app) as site:
        client = await site.connect()
        await client.ask(get("/1"))
        await client.ask(get("/2"))
    ended = ["lifespan.shutdown", "cleaned up", "returned"]
    assert app.events == ["lifespan.startup", "request", "request", *ended]
    assert app.state == [{"shared": ["/1", "/2"]}] * 2  # shallow copies


async def test_the_server_listens_when_the_application_has_started(bounded: None) -> None:
    go_on = trio.Event()

    class Slow(Life):
        async def start(self, receive: Receive, send: Send) -> None:
            await receive()
            await go_on.wait()
            await send({"type": "lifespan.startup.complete"})

    listeners = await open_listeners(LOOPBACK, 0)
    port = listeners[0].getsockname()[1]
    for listener in listeners:
        listener.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(rawws.serve, echo, port, host=LOOPBACK, http=asgi(Slow())))
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(LOOPBACK, port)
        go_on.set()
        await wait_all_tasks_blocked()
        async with await trio.open_tcp_stream(LOOPBACK, port):
            pass
        nursery.cancel_scope.cancel()


async def serve_once(app: App, lifespan: Any = "auto") -> tuple[int, bytes]:
    async with serving(asgi(app, lifespan=lifespan)) as site:
        return await site.ask(get())


class FailsToStart(Life):
    def __init__(self, message: str, *, raises: bool) -> None:
        super().__init__()
        self.message = message
        self.raises = raises

    async def start(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": self.message})
        if self.raises:
            raise KeyError("its reason")
        await receive()  # as one that goes round in a loop


@pytest.mark.parametrize("lifespan", ["auto", "on"])
@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("no database", "the ASGI application can't start: no database"),
        ("Traceback:\nno database\n", "the ASGI application can't start:\nTraceback:\nno database"),
        ("", "the ASGI application can't start: it doesn't say why"),
    ],
    ids=["message", "traceback", "nothing"],
)
async def test_an_application_that_fails_to_start_makes_serve_raise_its_message(
    message: str, sentence: str, raises: bool, lifespan: Any, bounded: None
) -> None:
    app = FailsToStart(message, raises=raises)
    with pytest.raises(UsageError) as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan=lifespan))
    assert str(caught.value) == sentence
    assert isinstance(caught.value.__cause__, KeyError) is raises
    assert app.events == []


async def knows_no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError("only HTTP here")
    await answer(send)


async def passes_over_the_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await answer(send)


async def refuses_it_after_listening(scope: Scope, receive: Receive, send: Send) -> None:
    if (await receive())["type"] != "http.request":
        raise ValueError("only HTTP here")
    await answer(send)


NO_LIFESPAN = pytest.mark.parametrize(
    ("app", "why"),
    [
        (knows_no_lifespan, "ValueError: only HTTP here"),
        (passes_over_the_lifespan, "it returned"),
        (refuses_it_after_listening, "ValueError: only HTTP here"),
    ],
)


@NO_LIFESPAN
async def test_auto_serves_an_application_that_knows_no_lifespan_and_says_so(
    app: App, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await serve_once(app) == (200, b"ok")
    notice = f"the ASGI application has no lifespan, so it gets no startup and shutdown events: {why}"
    assert any(notice in record.getMessage() for record in caplog.records)
    assert errors(caplog) == errors(caplog, "rawws.server") == []


@NO_LIFESPAN
async def test_lifespan_on_requires_a_lifespan(app: App, why: str, bounded: None) -> None:
    with pytest.raises(UsageError) as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan="on"))
    assert str(caught.value) == (
        f"the ASGI application doesn't answer lifespan.startup, which lifespan='on' asks for: {why}"
    )


async def test_lifespan_off_does_not_call_the_application_for_one() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await answer(send)

    assert await serve_once(app, "off") == (200, b"ok")
    assert seen == ["http"]


async def test_an_application_that_needs_asyncio_is_recognized(bounded: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)

    with pytest.raises(
        UsageError, match=r"it needs asyncio at server/test_asgi_lifespan.py:\d+, but rawws runs it on trio"
    ):
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app, lifespan="on"))


class FailsToStop(Life):
    def __init__(self, *, message: str | None, raises: bool) -> None:
        super().__init__()
        self.message = message
        self.raises = raises

    async def stop(self, receive: Receive, send: Send) -> None:
        await receive()
        if self.message is not None:
            await send({"type": "lifespan.shutdown.failed", "message": self.message})
        if self.raises:
            raise KeyError("its reason")


@pytest.mark.parametrize(
    ("message", "raises", "logged"),
    [
        ("still busy", False, "the ASGI application failed to shut down: still busy"),
        (
            "no running event loop",
            False,
            "the ASGI application failed to shut down: no running event loop; it needs asyncio, but rawws "
            "runs it on trio; have it run there: --app-loop asyncio, or rawws.asgi(app, loop='asyncio')",
        ),
        ("still busy", True, "the ASGI application's lifespan failed"),
        (None, True, "the ASGI application's lifespan failed"),
    ],
)
async def test_an_application_that_fails_to_stop_is_logged_once(
    message: str | None, raises: bool, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(FailsToStop(message=message, raises=raises)) as site:
        await site.ask(get())
    (record,) = errors(caplog, "rawws.server")
    assert record.getMessage() == f"#0 ! {logged}"
    assert bool(record.exc_info) is raises


async def test_a_lifespan_that_fails_while_serving_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail = trio.Event()

    class FailsOnTheWay(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await fail.wait()
            raise KeyError("its task")

    async with serving(FailsOnTheWay()) as site:
        fail.set()
        await wait_all_tasks_blocked()
        assert [record.getMessage() for record in errors(caplog, "rawws.server")] == [
            "#0 ! the ASGI application's lifespan failed"
        ]
        assert await site.ask(get()) == (200, b"ok")


async def test_an_application_cleans_up_also_when_its_server_is_cancelled(bounded: None) -> None:
    app = Life()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=asgi(app)))
        nursery.cancel_scope.cancel()
    assert app.events == ["lifespan.startup", "lifespan.shutdown", "cleaned up", "returned"]


async def test_an_application_that_does_not_end_is_cancelled_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, bounded: None
) -> None:
    monkeypatch.setattr("rawws.server.asgi_lifespan.GRACE_S", 0.05)

    class NeverEnds(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await receive()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, http=asgi(NeverEnds())))
        nursery.cancel_scope.cancel()
    (record,) = errors(caplog, "rawws.server")
    assert "did not end within 0.05 seconds of shutdown; cancelled" in record.getMessage()


async def test_cancelling_while_an_application_starts_does_not_wait_for_it(bounded: None) -> None:
    class NeverStarts(Life):
        async def start(self, receive: Receive, send: Send) -> None:
            await trio.sleep_forever()

    with trio.move_on_after(0.05) as scope:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(NeverStarts()))
    assert scope.cancelled_caught


async def test_other_errors_of_serve_are_raised_unchanged_and_the_application_is_shut_down(bounded: None) -> None:
    app = Life()
    (taken,) = await open_listeners(LOOPBACK, 0)
    with taken, pytest.raises(ListenError):
        await rawws.serve(echo, taken.getsockname()[1], host=LOOPBACK, http=asgi(app))
    assert app.events[-1] == "returned"


async def test_a_strange_lifespan_message_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Strange(Life):
        async def stop(self, receive: Receive, send: Send) -> None:
            await receive()
            with pytest.raises(UsageError, match=r"can't send 'lifespan\.pause' in its lifespan"):
                await send({"type": "lifespan.pause"})

    async with serving(Strange()):
        pass
    assert errors(caplog, "rawws.server") == []


# Making one


async def test_an_invalid_application_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="is of type str; an ASGI application must be callable"):
        asgi("main:app")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no lifespan 'maybe'; give 'auto', 'on' or 'off'"):
        asgi(says_ok, lifespan="maybe")  # type: ignore[arg-type]
    for path in ("api", "//evil.example", "/\\evil.example", "/api?x", "/api#x", "/a b", "/a\n"):
        with pytest.raises(UsageError, match=r"root_path can't be '.*'; give a path that begins with one slash"):
            asgi(says_ok, root_path=path)


async def test_an_asgi_object_is_for_one_server() -> None:
    http = asgi(says_ok)
    async with serving(http):
        with pytest.raises(UsageError, match="is for one server"):
            await rawws.serve(echo, 0, host=LOOPBACK, http=http)
    async with serving(http) as site:  # one after the other is fine
        assert await site.ask(get()) == (200, b"ok")


async def test_an_application_answers_only_within_its_lifespan() -> None:
    nobody: Any = None
    with pytest.raises(UsageError, match=r"only while its lifespan\(\) is entered"):
        await asgi(says_ok).serve_exchange(nobody)


async def test_a_websocket_is_served_alongside_the_application_on_the_same_port() -> None:
    async with serving(says_ok) as site:
        websocket = await (await site.connect()).open("/room")
        assert await site.ask(get("/room")) == (200, b"ok")
        await websocket.send(text("hello"))
        assert await websocket.frame() == seen_text("hello")


# load_app


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the module ``its_app`` into the current directory, which isn't on the path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "its_app", raising=False)

    def write(source: str) -> None:
        (tmp_path / "its_app.py").write_text(source)

    return write


APP_SOURCE = """
async def app(scope, receive, send): ...
def create(): return app
def broken(): return None
class Site: app = app
version = "1"
"""


@pytest.mark.parametrize("name", ["its_app:app", "its_app:Site.app", "its_app:create()"])
async def test_an_application_is_loaded_from_the_current_directory(name: str, module: Callable[[str], None]) -> None:
    module(APP_SOURCE)
    for _ in range(2):
        assert getattr(load_app(name), "__name__", "") == "app"
    assert sys.path.count(os.getcwd()) == 1


NOT_A_NAME = (
    "doesn't name an application; give module:attribute, such as main:app, or module:function() if a function makes it"
)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("its_app", f"'its_app' {NOT_A_NAME}"),
        ("", f"'' {NOT_A_NAME}"),
        (":app", f"':app' {NOT_A_NAME}"),
        ("its_app:", f"'its_app:' {NOT_A_NAME}"),
        (".its_app:app", f"'.its_app:app' {NOT_A_NAME}"),
        ("./its_app.py:app", f"'./its_app.py:app' {NOT_A_NAME}"),
        ("its_app:app,x", f"'its_app:app,x' {NOT_A_NAME}"),
        ("its_app:create(1)", f"'its_app:create(1)' {NOT_A_NAME}"),
        (
            "no_such:app",
            "there is no module 'no_such', which 'no_such:app' names, in the current directory or among the "
            "installed packages",
        ),
        ("its_app:none", "the module 'its_app' has no 'none', which 'its_app:none' names"),
        ("its_app:Site.none", "the module 'its_app' has no 'Site.none', which 'its_app:Site.none' names"),
        ("its_app:version", "'its_app:version' is of type str; an ASGI application must be callable"),
        (
            "its_app:app()",
            "'its_app:app()' is a call without arguments, which app doesn't take; if it is the application itself, "
            "give 'its_app:app'",
        ),
        ("its_app:broken()", "'its_app:broken()' is of type NoneType; an ASGI application must be callable"),
    ],
)
async def test_an_application_that_can_not_be_loaded_is_one_sentence(
    name: str, sentence: str, module: Callable[[str], None]
) -> None:
    module(APP_SOURCE)
    with pytest.raises(UsageError) as caught:
        load_app(name)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("source", "error"),
    [("import no_such_thing", ModuleNotFoundError), ("1 / 0", ZeroDivisionError), ("app = (", SyntaxError)],
)
async def test_an_error_of_the_module_is_raised_unchanged(
    source: str, error: type[Exception], module: Callable[[str], None]
) -> None:
    module(source)
    with pytest.raises(error):
        load_app("its_app:app")
