"""WebSocket endpoints of FastAPI and Starlette, as their users write them, beside the rooms of a hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
import trio

import rawws
from rawws.wire.frames import Opcode
from tests.asgi_serving import Caller, Site, errors, serving
from tests.browser import browsing
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.wire import Seen, binary, close, masked, seen_close, seen_text, text, upgrade

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Each test needs them, by the fixture.
with contextlib.suppress(ImportError):
    import fastapi
    from starlette.applications import Starlette
    from starlette.endpoints import WebSocketEndpoint
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect


@pytest.fixture(autouse=True)
def frameworks() -> None:
    for name in ("starlette", "fastapi"):
        need(find_spec(name), f"{name} (pip install {name})")


def beside_rooms(app: Any, **options: Any) -> contextlib.AbstractAsyncContextManager[Site]:
    return serving(app, rawws.Hub(), **options)


async def opened(site: Site, path: str, *lines: str) -> Caller:
    caller = await site.connect()
    await caller.open(path, *lines)
    return caller


def talk() -> fastapi.FastAPI:
    """An application that answers each message, and doesn't expect anybody to leave."""
    app = fastapi.FastAPI()

    @app.websocket("/talk/{name}")
    async def endpoint(websocket: fastapi.WebSocket, name: str, times: int = 1) -> None:
        await websocket.accept()
        while True:
            words = await websocket.receive_text()
            for _ in range(times):
                await websocket.send_text(f"{name} hears {words}")

    return app


async def test_a_loop_without_an_exception_handler_answers_and_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with beside_rooms(talk()) as site:
        caller = await opened(site, "/talk/Zo%C3%AB?times=2")
        await caller.send(text("hello"))
        assert await caller.frames(2) == [seen_text("Zoë hears hello")] * 2
        await caller.send(close(1000))
        assert await caller.frame() == seen_close(1000)
        lost = await opened(site, "/talk/you")
        lost.reset()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []


async def test_parameters_that_are_not_valid_refuse_the_handshake(caplog: pytest.LogCaptureFixture) -> None:
    async with beside_rooms(talk()) as site:
        assert (await site.ask(upgrade("/talk/you?times=many")))[0] == 403
        assert (await site.ask(upgrade("/nowhere")))[0] == 403
    assert errors(caplog, "rawws.handshake") == []


async def user(
    session: Annotated[str | None, fastapi.Cookie()] = None, token: Annotated[str | None, fastapi.Query()] = None
) -> str:
    if session is None and token is None:
        raise fastapi.WebSocketException(code=1008)
    return session or token or ""


async def test_a_dependency_decides_who_may_connect() -> None:
    app = fastapi.FastAPI()

    @app.websocket("/items/{item}")
    async def endpoint(websocket: fastapi.WebSocket, item: int, who: Annotated[str, fastapi.Depends(user)]) -> None:
        await websocket.accept()
        await websocket.send_text(f"{who} at {item}")

    async with beside_rooms(app) as site:
        assert (await site.ask(upgrade("/items/1")))[0] == 403
        assert await (await opened(site, "/items/1?token=t")).frame() == seen_text("t at 1")
        assert await (await opened(site, "/items/2", "Cookie: session=s")).frame() == seen_text("s at 2")


async def test_an_http_exception_is_the_response() -> None:
    app = fastapi.FastAPI()

    @app.websocket("/ws")
    async def endpoint(websocket: fastapi.WebSocket) -> None:  # noqa: ARG001
        raise fastapi.HTTPException(401, "log in first", headers={"www-authenticate": "Basic"})

    async with beside_rooms(app) as site:
        answer = await (await site.connect()).ask(upgrade("/ws"))
    assert (answer.status, answer.body) == (401, b'{"detail":"log in first"}')
    assert (answer.headers["www-authenticate"], answer.headers["connection"]) == ("Basic", "close")


async def test_a_chat_tells_everybody_who_has_left() -> None:
    app = fastapi.FastAPI()
    present: dict[int, fastapi.WebSocket] = {}

    async def tell(words: str) -> None:
        for websocket in list(present.values()):
            await websocket.send_text(words)

    @app.websocket("/chat/{number}")
    async def endpoint(websocket: fastapi.WebSocket, number: int) -> None:
        await websocket.accept()
        present[number] = websocket
        try:
            while True:
                await tell(f"{number}: {await websocket.receive_text()}")
        except fastapi.WebSocketDisconnect as left:
            del present[number]
            await tell(f"{number} has left with {left.code} {left.reason}")

    async with beside_rooms(app) as site:
        first, second = await opened(site, "/chat/1"), await opened(site, "/chat/2")
        await trio.testing.wait_all_tasks_blocked()
        await second.send(text("hello"))
        assert [await each.frame() for each in (first, second)] == [seen_text("2: hello")] * 2
        await second.send(close(4000, "supper"))
        assert await first.frame() == seen_text("2 has left with 4000 supper")


async def test_json_in_text_and_in_bytes() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(await websocket.receive_json())
        await websocket.send_json(await websocket.receive_json(mode="binary"), mode="binary")

    async with beside_rooms(Starlette(routes=[WebSocketRoute("/", endpoint)])) as site:
        caller = await opened(site, "/")
        await caller.send(text('{"é": [1]}') + binary(b'{"two": 2}'))
        assert await caller.frames(3) == [
            seen_text('{"é":[1]}'),
            Seen(Opcode.BINARY, b'{"two":2}'),
            seen_close(1000),
        ]


async def test_an_endpoint_that_is_a_class() -> None:
    codes: list[int] = []
    over = trio.Event()

    class Sums(WebSocketEndpoint):
        encoding = "json"

        async def on_connect(self, websocket: WebSocket) -> None:
            await websocket.accept(subprotocol="sums.v1", headers=[(b"x-sums", b"yes")])

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await websocket.send_json(sum(data))

        async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
            codes.append(close_code)
            over.set()

    async with beside_rooms(Starlette(routes=[WebSocketRoute("/", Sums)])) as site:
        caller = await site.connect()
        answer = await caller.ask(upgrade("/", "Sec-WebSocket-Protocol: sums.v2, sums.v1"))
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "sums.v1")
        assert answer.headers["x-sums"] == "yes"
        await caller.send(text("[1, 2, 3]"))
        assert await caller.frame() == seen_text("6")
        await caller.send(close(4001))
        await over.wait()
        other = await opened(site, "/", "Sec-WebSocket-Protocol: sums.v1")
        over = trio.Event()
        await other.send(masked(Opcode.CLOSE))
        await over.wait()
    assert codes == [4001, 1005]


async def test_an_endpoint_in_a_mount_behind_middleware() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        async for words in websocket.iter_text():
            await websocket.send_text(f"{websocket.url.path} {websocket.scope['root_path']} {words}")

    app = Starlette(
        routes=[Mount("/inner", routes=[WebSocketRoute("/ws", endpoint)])],
        middleware=[Middleware(CORSMiddleware, allow_origins=["*"])],
    )
    async with beside_rooms(app) as site:
        caller = await opened(site, "/inner/ws")
        await caller.send(text("hello"))
        assert await caller.frame() == seen_text("/inner/ws /inner hello")


async def test_starlette_s_denial_is_the_response() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.send_denial_response(JSONResponse({"why": "full"}, 503))

    async with beside_rooms(Starlette(routes=[WebSocketRoute("/", endpoint)])) as site:
        assert await site.ask(upgrade("/")) == (503, b'{"why":"full"}')


async def test_sending_to_a_client_that_has_left_is_a_disconnect_to_starlette() -> None:
    left, over = trio.Event(), trio.Event()
    codes: list[int] = []

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await left.wait()
        try:
            while True:
                await websocket.send_bytes(bytes(1 << 20))
        except WebSocketDisconnect as error:
            codes.append(error.code)
        finally:
            over.set()

    async with beside_rooms(Starlette(routes=[WebSocketRoute("/", endpoint)])) as site:
        caller = await opened(site, "/")
        caller.reset()
        left.set()
        await over.wait()
    assert codes == [1006]


# In a browser

PAGE = """
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

app = FastAPI()
everybody = []

HTML = '''<!doctype html><title>Talk</title>
<form><input id="words" aria-label="Words"><button>Send</button></form><ul id="list"></ul>
<script>
  const ws = new WebSocket(`ws://${location.host}/ws/${location.search.slice(1)}`)
  ws.onmessage = ({data}) => {
    const item = document.createElement("li")
    item.append(data)
    document.getElementById("list").append(item)
  }
  document.forms[0].onsubmit = (event) => {
    event.preventDefault()
    ws.send(document.getElementById("words").value)
  }
</script>'''

@app.get("/")
async def page():
    return HTMLResponse(HTML)

async def tell(words):
    for each in everybody:
        await each.send_text(words)

@app.websocket("/ws/{name}")
async def talk(websocket: WebSocket, name: str):
    await websocket.accept()
    everybody.append(websocket)
    await tell(f"{name} is here")
    try:
        while True:
            await tell(f"{name}: {await websocket.receive_text()}")
    except WebSocketDisconnect as left:
        everybody.remove(websocket)
        await tell(f"{name} left with {left.code}")
"""


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from browsing()


@pytest.mark.thorough
def test_a_page_of_fastapi_talks_in_chromium(start_program: StartProgram, tmp_path: Path, browser: Browser) -> None:
    from playwright.sync_api import expect

    (tmp_path / "talk.py").write_text(PAGE)
    program = start_program("--app", "talk:app", directory=tmp_path)
    alice, bob = browser.new_page(), browser.new_page()
    for page, name in ((alice, "alice"), (bob, "bob")):
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f"http://localhost:{program.port}/?{name}")
        expect(page.locator("li").last).to_have_text(f"{name} is here")
    bob.get_by_label("Words").fill("<b>hello</b>")
    bob.get_by_role("button").click()
    expect(alice.locator("li").last).to_have_text("bob: <b>hello</b>")
    bob.close()
    expect(alice.locator("li")).to_have_text(
        ["alice is here", "bob is here", "bob: <b>hello</b>", "bob left with 1001"]
    )
    assert [line for line in program.lines if "ERROR" in line or "WARNING" in line] == []
