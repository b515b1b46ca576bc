"""Starlette and FastAPI on trio, as their users write them, with httpx and curl for clients."""

# ruff: noqa: ARG001 (an application takes what ASGI gives it)

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import ssl
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.errors import UsageError
from rawws.server.asgi import AsgiApp, asgi
from tests.asgi_serving import MIB, App, chunk, echo, errors, only_http, serving, the_error
from tests.serving.machine import LOOPBACK, need
from tests.serving.wire import get, seen_text, text

# Each test that needs one of these says so.
with contextlib.suppress(ImportError):
    import anyio
    import anyio.to_thread
with contextlib.suppress(ImportError):
    import httpx
with contextlib.suppress(ImportError):
    import trustme
with contextlib.suppress(ImportError):
    import fastapi
with contextlib.suppress(ImportError):
    import starlette.background
    import starlette.middleware.base
    import starlette.requests
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route


@pytest.fixture
def frameworks() -> None:
    for name in ("starlette", "fastapi", "httpx"):
        need(find_spec(name), f"{name} (pip install {name})")


WITH_FRAMEWORKS = pytest.mark.usefixtures("frameworks")


@contextlib.asynccontextmanager
async def browsing(app: App | AsgiApp, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application, and yield an httpx client for it."""
    async with serving(app, **options) as site, httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        yield client


def site_of(*routes: tuple[str, Any], **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in routes], **options)


@WITH_FRAMEWORKS
async def test_starlette_answers_ordinary_requests() -> None:
    async def hello(request: starlette.requests.Request) -> Response:
        return JSONResponse({"query": request.query_params.getlist("q"), "name": request.path_params["name"]})

    async def add(request: starlette.requests.Request) -> Response:
        return JSONResponse({"sum": sum((await request.json())["terms"])})

    async with browsing(site_of(("/hello/{name}", hello), ("/add", add))) as client:
        answered = await client.get("/hello/Zoë", params={"q": ["a", "é"]})
        assert answered.json() == {"query": ["a", "é"], "name": "Zoë"}
        assert (await client.post("/add", json={"terms": [1, 2, 3]})).json() == {"sum": 6}
        assert (await client.head("/hello/you")).status_code == 200
        missing = await client.get("/missing")
        assert (missing.status_code, missing.text) == (404, "Not Found")
        assert (await client.put("/add")).status_code == 405


@WITH_FRAMEWORKS
@pytest.mark.parametrize("layers", [0, 2])
async def test_starlette_streams_an_upload_back(layers: int) -> None:
    """Each piece comes back before the next one is sent, also with middleware, which has task groups."""

    class PassesOn(starlette.middleware.base.BaseHTTPMiddleware):
        async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-layer"] = "yes"
            return response

    async def echo_back(request: starlette.requests.Request) -> Response:
        return StreamingResponse(request.stream())

    app = site_of(("/", echo_back))
    for _ in range(layers):
        app.add_middleware(PassesOn)
    async with serving(app) as site:
        client = await site.connect()
        await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await client.send(chunk(b"first"))
        assert (b"x-layer" in await client.until(b"first\r\n")) is bool(layers)
        for number in range(100):
            await client.send(chunk(b"%03d" % number * 1000))
            await client.until(b"%03d\r\n" % number)
        await client.send(chunk(b""))
        await client.until(b"0\r\n\r\n")


@WITH_FRAMEWORKS
async def test_httpx_uploads_and_downloads_megabytes_in_pieces() -> None:
    """One after the other: httpx doesn't read before it has written everything."""
    uploaded = b""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65536

    async def keep(request: starlette.requests.Request) -> Response:
        nonlocal uploaded
        if request.method == "GET":
            return StreamingResponse(pieces())
        uploaded = b"".join([piece async for piece in request.stream()])
        return Response(status_code=204)

    expected = b"".join([piece async for piece in pieces()])
    async with browsing(site_of(("/", keep))) as client:
        assert (await client.post("/", content=pieces())).status_code == 204
        assert uploaded == expected
        assert (await client.get("/")).content == expected


@WITH_FRAMEWORKS
async def test_a_stream_stops_when_its_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    stopped = trio.Event()

    class Ticks:  # no generator: Starlette leaves those to the garbage collector, of which trio warns
        def __aiter__(self) -> Ticks:
            return self

        async def __anext__(self) -> bytes:
            await trio.sleep(0.001)
            return b"tick"

    async def stream(request: starlette.requests.Request) -> Response:
        return StreamingResponse(Ticks())

    app = site_of(("/", stream))

    @only_http
    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            stopped.set()

    async with serving(watched) as site:
        client = await site.connect()
        await client.send(get())
        await client.until(b"tick")
        client.hang_up()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert errors(caplog) == []


@WITH_FRAMEWORKS
@pytest.mark.parametrize("rest_s", [0.25, math.inf], ids=["ticks", "silent"])
@pytest.mark.parametrize("layers", [0, 2])
async def test_an_open_event_stream_does_not_hold_up_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, rest_s: float, layers: int
) -> None:
    autojump_clock.autojump_threshold = 0.05  # the sockets have to have had their turn before the clock jumps

    class Ticks:
        ticks = 0

        def __aiter__(self) -> Ticks:
            return self

        async def __anext__(self) -> bytes:
            if self.ticks:
                await trio.sleep(rest_s)
            self.ticks += 1
            return b"data: tick\n\n"

    async def stream(request: starlette.requests.Request) -> Response:
        return StreamingResponse(Ticks(), media_type="text/event-stream")

    async def long_poll(request: starlette.requests.Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return JSONResponse([])

    class Passes(starlette.middleware.base.BaseHTTPMiddleware):
        async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
            answer: Response = await call_next(request)
            return answer

    app = site_of(("/stream", stream), ("/poll", long_poll))
    for _ in range(layers):
        app.add_middleware(Passes)
    async with serving(app, drain=10) as site:
        clients = [await site.connect(), await site.connect()]
        await clients[0].send(get("/stream"))
        await clients[0].until(b"tick")
        await clients[1].send(get("/poll"))
        await wait_all_tasks_blocked(0.02)
        began = trio.current_time()
        site.server.stop()
        assert (await clients[0].to_end()).endswith(b"\n\n\r\n0\r\n\r\n")
        assert trio.current_time() - began <= 1
        # Starlette's middleware drops everything that is sent after a disconnect.
        assert (await clients[1].answer()).status == (503 if layers else 200)
        assert trio.current_time() - began == 5
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_is_disconnected_works(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool] = []
    stopped = trio.Event()

    async def watch(request: starlette.requests.Request) -> Response:
        await request.body()
        while not answers or not answers[-1]:
            answers.append(await request.is_disconnected())
            await trio.sleep(0.001)
        stopped.set()
        return PlainTextResponse("too late")

    async with serving(site_of(("/", watch))) as site:
        client = await site.connect()
        await client.send(get())
        await wait_all_tasks_blocked()
        client.hang_up()
        await stopped.wait()
    assert answers[0] is False
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_a_client_that_leaves_inside_its_upload_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    stopped = trio.Event()

    async def read(request: starlette.requests.Request) -> Response:
        try:
            return Response(await request.body())
        finally:
            stopped.set()

    async with serving(site_of(("/", read))) as site:
        client = await site.connect()
        await client.send(get("/", "Content-Length: 10", method="POST") + b"half")
        await wait_all_tasks_blocked()
        client.hang_up()
        await stopped.wait()
        await wait_all_tasks_blocked()
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_an_endpoint_that_raises_is_500_with_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: starlette.requests.Request) -> Response:
        raise KeyError("mine")

    async with browsing(site_of(("/", broken))) as client:
        answered = await client.get("/")
        assert (answered.status_code, answered.text) == (500, "Internal Server Error")
    assert isinstance(the_error(caplog), KeyError)


@WITH_FRAMEWORKS
async def test_a_stream_that_raises_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise KeyError("mine")

    async def stream(request: starlette.requests.Request) -> Response:
        return StreamingResponse(pieces())

    async with browsing(site_of(("/", stream))) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await client.get("/")
    assert isinstance(the_error(caplog), KeyError)


@WITH_FRAMEWORKS
async def test_background_tasks_run_after_the_response() -> None:
    release = trio.Event()
    done = trio.Event()

    async def later() -> None:
        await release.wait()
        done.set()

    async def respond(request: starlette.requests.Request) -> Response:
        return PlainTextResponse("ok", background=starlette.background.BackgroundTask(later))

    async with browsing(site_of(("/", respond))) as client:
        assert (await client.get("/")).text == "ok"
        assert (await client.get("/missing")).status_code == 404
        assert not done.is_set()
        release.set()
        await done.wait()


@WITH_FRAMEWORKS
async def test_the_state_of_starlettes_lifespan_reaches_its_requests() -> None:
    events = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with trio.open_nursery() as nursery:  # as an application does that has tasks of its own
            nursery.start_soon(trio.sleep_forever)
            events.append("up")
            yield {"greeting": "hello"}
            await trio.lowlevel.checkpoint()
            events.append("down")
            nursery.cancel_scope.cancel()

    async def greet(request: starlette.requests.Request) -> Response:
        return PlainTextResponse(request.state.greeting)

    async with browsing(site_of(("/", greet), lifespan=lifespan)) as client:
        assert (await client.get("/")).text == "hello"
        assert events == ["up"]
    assert events == ["up", "down"]


@WITH_FRAMEWORKS
async def test_a_starlette_that_fails_to_start_says_why(bounded: None) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(UsageError, match="RuntimeError: no database") as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(site_of(lifespan=lifespan)))
    assert isinstance(caught.value.__cause__, RuntimeError)


@WITH_FRAMEWORKS
async def test_fastapi_answers_alongside_a_websocket_on_the_same_port() -> None:
    app = fastapi.FastAPI()
    seen: list[str] = []

    async def who(x_user: str = fastapi.Header()) -> str:
        return x_user

    @app.get("/items/{item}")
    async def item(item: int, user: str = fastapi.Depends(who)) -> dict[str, Any]:
        return {"item": item, "user": user}

    @app.post("/add")
    async def add(terms: list[int], background: fastapi.BackgroundTasks) -> int:
        background.add_task(seen.append, "added")
        return sum(terms)

    @app.get("/thread")
    def thread() -> bool:  # a plain function runs in a thread
        return threading.current_thread() is threading.main_thread()

    @app.get("/sync-stream")
    def sync_stream() -> StreamingResponse:
        return StreamingResponse(b"%d" % number for number in range(10))

    async with serving(app) as site, httpx.AsyncClient(base_url=site.url, trust_env=False) as client:
        websocket = await (await site.connect()).open("/items/1")
        answered = await client.get("/items/7", headers={"X-User": "me"})
        assert answered.json() == {"item": 7, "user": "me"}
        assert (await client.get("/items/seven", headers={"X-User": "me"})).status_code == 422
        assert (await client.post("/add", json=[1, 2, 3])).json() == 6
        assert (await client.post("/add", content=b"{")).status_code == 422
        assert (await client.get("/thread")).json() is False
        assert (await client.get("/sync-stream")).text == "0123456789"
        assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.")
        await websocket.send(text("hello"))
        assert await websocket.frame() == seen_text("hello")
    assert seen == ["added"]


@WITH_FRAMEWORKS
async def test_fastapi_mounted_under_a_path_names_it_in_its_links() -> None:
    app = fastapi.FastAPI()

    @app.get("/here")
    async def here(request: fastapi.Request) -> str:
        return str(request.url_for("here"))

    async with browsing(asgi(app, root_path="/api")) as client:
        assert (await client.get("/here")).json() == f"{str(client.base_url).rstrip('/')}/api/here"


@WITH_FRAMEWORKS
async def test_uploads_and_streamed_responses_go_through_tls(tmp_path: Path) -> None:
    need(find_spec("trustme"), "trustme (pip install trustme)")
    authority = trustme.CA()
    server, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(LOOPBACK).configure_cert(server)
    authority.configure_trust(client_side)
    answers: list[bool] = []

    async def keep(request: starlette.requests.Request) -> Response:
        received = b"".join([piece async for piece in request.stream()])
        answers.append(await request.is_disconnected())
        return StreamingResponse(iter([request.url.scheme.encode(), received]))

    async with (
        serving(site_of(("/", keep)), ssl=server) as site,
        httpx.AsyncClient(base_url=site.url.replace("http", "https"), trust_env=False, verify=client_side) as client,
    ):
        for _ in range(2):
            assert (await client.post("/", content=bytes(MIB))).content == b"https" + bytes(MIB)
    assert answers == [False, False]


@WITH_FRAMEWORKS
async def test_curl_gets_back_what_it_uploads() -> None:
    """Both directions are used at once."""
    curl = shutil.which("curl")
    need(curl, "curl")

    async def echo_back(request: starlette.requests.Request) -> Response:
        return StreamingResponse(request.stream())

    uploaded = bytes(range(256)) * 8192
    async with serving(site_of(("/", echo_back))) as site:
        command = [str(curl), "-q", "-sS", "--noproxy", "*", "-i", "-X", "POST", "-T", "-", site.url]
        ran = await trio.run_process(command, stdin=uploaded, capture_stdout=True)
    head, _, echoed = ran.stdout.rpartition(b"\r\n\r\n")
    assert echoed == uploaded
    assert b"HTTP/1.1 200 OK" in head


@WITH_FRAMEWORKS
async def test_many_requests_at_once() -> None:
    app = fastapi.FastAPI()

    @app.get("/{number}")
    def number(number: int) -> int:
        return number

    numbers: list[int] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        numbers.append((await client.get(f"/{number}")).json())

    async with browsing(app) as client, trio.open_nursery() as nursery:
        for sent in range(50):
            nursery.start_soon(ask, client, sent)
    assert sorted(numbers) == list(range(50))


# An application that needs asyncio


async def _sleep() -> None:
    await asyncio.sleep(1)


async def _yield() -> None:
    await asyncio.sleep(0)


async def _queue() -> None:
    await asyncio.Queue[int]().get()


async def _thread() -> None:
    await asyncio.to_thread(print)


async def _timeout() -> None:
    async with asyncio.timeout(1):
        pass


async def _future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def _group() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_sleep)


async def _cause() -> None:
    try:
        await asyncio.sleep(1)
    except RuntimeError as error:
        raise ValueError("the database is away") from error


async def _loop() -> None:
    # asyncio.get_event_loop does so from Python 3.12 on; these tests make errors of warnings.
    warnings.warn("There is no current event loop", DeprecationWarning, stacklevel=2)


NEED_ASYNCIO = [_sleep, _yield, _queue, _thread, _timeout, _future, _group, _cause, _loop]
REMEDY = "have it run there: --app-loop asyncio, or rawws.asgi(app, loop='asyncio')"


def the_line(caplog: pytest.LogCaptureFixture) -> str:
    """Return the one error in the log, which has no traceback."""
    (record,) = errors(caplog)
    assert record.exc_info is None
    line = record.getMessage()
    assert line.endswith(REMEDY)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("needy", NEED_ASYNCIO)
async def test_a_request_that_needs_asyncio_is_500_with_one_line(
    caplog: pytest.LogCaptureFixture, needy: Callable[[], Awaitable[None]]
) -> None:
    @only_http
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await needy()

    async with serving(app) as site:
        assert await site.ask(get("/x")) == (500, b"The server failed to answer this request.\n")
    line = the_line(caplog)
    where = "server/test_asgi_frameworks.py"
    assert line.startswith(f"#1 ! the http handler failed at /x: it needs asyncio at {where}:")
    assert "but rawws runs it on trio" in line


@WITH_FRAMEWORKS
@pytest.mark.parametrize("needy", NEED_ASYNCIO)
async def test_an_endpoint_that_needs_asyncio_is_logged_in_one_line(
    caplog: pytest.LogCaptureFixture, needy: Callable[[], Awaitable[None]]
) -> None:
    async def endpoint(request: starlette.requests.Request) -> Response:
        await needy()
        return PlainTextResponse("never")

    async with browsing(site_of(("/", endpoint))) as browser:
        assert (await browser.get("/")).status_code == 500
    assert "it needs asyncio at server/test_asgi_frameworks.py:" in the_line(caplog)


@WITH_FRAMEWORKS
async def test_a_stream_that_needs_asyncio_is_cut_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(1)

    async def endpoint(request: starlette.requests.Request) -> Response:
        return StreamingResponse(pieces())

    async with browsing(site_of(("/", endpoint))) as browser:
        with pytest.raises(httpx.RemoteProtocolError):
            await browser.get("/")
    assert "it needs asyncio at server/test_asgi_frameworks.py:" in the_line(caplog)


@WITH_FRAMEWORKS
async def test_a_background_task_that_needs_asyncio_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def endpoint(request: starlette.requests.Request) -> Response:
        return PlainTextResponse("ok", background=starlette.background.BackgroundTask(asyncio.sleep, 1))

    async with browsing(site_of(("/", endpoint))) as browser:
        assert (await browser.get("/")).text == "ok"
    line = the_line(caplog)
    assert "after it had answered: it needs asyncio at starlette/background.py:" in line


@WITH_FRAMEWORKS
async def test_the_advice_for_asyncio_works() -> None:
    async def endpoint(request: starlette.requests.Request) -> Response:
        await asyncio.sleep(0)
        return PlainTextResponse("done by asyncio")

    advised = eval(REMEDY.rpartition(" or ")[2], {"rawws": rawws, "app": site_of(("/", endpoint))})
    async with browsing(advised) as browser:
        assert (await browser.get("/")).text == "done by asyncio"


@pytest.mark.parametrize("module", ["asgiref.sync", "django.dispatch.dispatcher", "a2wsgi.wsgi", "quart.asgi"])
async def test_advice_for_a_library_needs_no_change_of_its_source(
    caplog: pytest.LogCaptureFixture, module: str
) -> None:
    library: dict[str, Any] = {"__name__": module}
    exec("import asyncio\nasync def app(scope, receive, send): await asyncio.to_thread(print)", library)

    async with serving(only_http(library["app"])) as site:
        assert (await site.ask(get("/")))[0] == 500
    the_line(caplog)


@WITH_FRAMEWORKS
@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
async def test_the_advice_for_wsgi_works() -> None:
    from starlette.middleware.wsgi import WSGIMiddleware

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"by WSGI at ", environ["PATH_INFO"].encode()]

    async with serving(only_http(WSGIMiddleware(application))) as site:
        assert await site.ask(get("/x")) == (200, b"by WSGI at /x")


@WITH_FRAMEWORKS
async def test_asyncio_that_runs_in_a_thread_may_fail_in_its_own_way(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        no_socket: Any = 3
        await asyncio.start_server(print, sock=no_socket)

    async def endpoint(request: starlette.requests.Request) -> Response:
        await anyio.to_thread.run_sync(asyncio.run, fails())
        return PlainTextResponse("never")

    async with browsing(site_of(("/", endpoint))) as browser:
        assert (await browser.get("/")).status_code == 500
    assert str(the_error(caplog)) == "'int' object has no attribute 'type'"


@WITH_FRAMEWORKS
async def test_a_sync_endpoint_publishes(caplog: pytest.LogCaptureFixture) -> None:
    hub = rawws.Hub()

    def endpoint(request: starlette.requests.Request) -> Response:  # which Starlette runs in a thread
        return PlainTextResponse(repr(hub.room("/x").publish("hi")))

    async with browsing(site_of(("/", endpoint))) as browser:
        assert (await browser.get("/")).text == "Delivery(sent=0, queued=0, closed=0)"
    assert errors(caplog) == []


@WITH_FRAMEWORKS
async def test_a_lifespan_that_needs_asyncio_says_so_in_one_line(bounded: None) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.sleep(1)
        yield

    with pytest.raises(UsageError, match=r"^the ASGI application can't start: it needs asyncio at server/") as caught:
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(Starlette(lifespan=lifespan)))
    assert "\n" not in str(caught.value)


async def test_a_handler_and_hooks_that_need_asyncio_are_logged_in_one_line(
    caplog: pytest.LogCaptureFixture, nursery: trio.Nursery, bounded: None
) -> None:
    async def handler(_: rawws.WebSocket) -> None:
        await asyncio.sleep(1)

    async def authenticate(request: rawws.Request) -> None:
        if request.path == "/asks":
            await asyncio.sleep(1)

    start = partial(rawws.serve, handler, 0, host=LOOPBACK, authenticate=authenticate)
    server = await nursery.start(start)
    async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
        with pytest.raises(rawws.ConnectionClosedError):
            await ws.recv()
    with pytest.raises(rawws.InvalidStatus):
        await rawws.connect(f"ws://{LOOPBACK}:{server.port}/asks").open()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [line.partition(" at ")[0].partition(" ! ")[2] for line in lines] == [
        "the handler failed; its connection is closed with 1011: it needs asyncio",
        "authenticate failed: it needs asyncio",
    ]
    remedy = "run a coroutine of asyncio in a thread: await anyio.to_thread.run_sync(asyncio.run, coroutine)"
    assert all(line.endswith(remedy) for line in lines)


async def test_the_advice_for_hooks_works() -> None:
    coroutine = asyncio.sleep(0, "done")
    assert await eval("anyio.to_thread.run_sync(asyncio.run, coroutine)", globals(), {"coroutine": coroutine}) == "done"


@WITH_FRAMEWORKS
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, TypeError])
async def test_a_peers_words_about_asyncio_hide_no_traceback(
    caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    words = "bad input: no running event loop, trio.run received unrecognized yield message"

    async def endpoint(request: starlette.requests.Request) -> Response:
        raise kind(words)

    async with browsing(site_of(("/", endpoint))) as browser:
        assert (await browser.get("/")).status_code == 500
    assert str(the_error(caplog)) == words


async def test_a_lifespan_that_reports_asyncio_itself_gets_the_advice(bounded: None) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(1)
        except RuntimeError:
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})

    with pytest.raises(UsageError, match=r"\nIt needs asyncio, but rawws runs it on trio; have it run there"):
        await rawws.serve(echo, 0, host=LOOPBACK, http=asgi(app))
