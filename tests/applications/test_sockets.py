"""The WebSocket examples in the documentation of Starlette, FastAPI and Quart, on each loop on which they can run."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.applications.running import FOLDER, dial, need_packages, stop
from tests.browser import browsing
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Program, StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser

THOROUGH = pytest.mark.thorough
# `auto` is asyncio for these. One test of each framework runs on trio in every run.
ASYNCIO = pytest.param("asyncio", marks=THOROUGH)
LOOPS = pytest.mark.parametrize("loop", ["auto", pytest.param("trio", marks=THOROUGH), ASYNCIO])
BOTH_LOOPS = pytest.mark.parametrize("loop", ["auto", "trio", ASYNCIO])

Said = str | bytes | int


def start(start_program: StartProgram, name: str, loop: str) -> Program:
    need_packages(name.partition("_")[0])
    return start_program("--app", f"{name}:app", "--app-loop", loop, directory=FOLDER / "sockets")


def talk(program: Program, path: str, said: Sequence[str | bytes], count: int, **options: Any) -> list[Said]:
    """Return the messages that come back, or in place of one the code with which the WebSocket is closed."""
    with dial(program, path, **options) as websocket:
        for message in said:
            websocket.send(message)
        heard: list[Said] = []
        try:
            while len(heard) < count:
                heard.append(websocket.recv(PATIENCE_S))
        except ConnectionClosed as closed:
            heard.append(0 if closed.rcvd is None else closed.rcvd.code)
        return heard


def refused(program: Program, path: str, **options: Any) -> tuple[int, bytes]:
    """Return the status and the body of the response that is no 101."""
    with pytest.raises(InvalidStatus) as caught:
        dial(program, path, **options)
    return caught.value.response.status_code, bytes(caught.value.response.body or b"")


def get(program: Program, path: str) -> httpx.Response:
    return httpx.get(f"http://localhost:{program.port}{path}", trust_env=False, timeout=PATIENCE_S)


def alarms(program: Program, *expected: str) -> None:
    """Stop the program, whose log has these alarms in this order, and no other."""
    lines = [line for line in stop(program) if "Traceback" not in line]
    assert len(lines) == len(expected), lines
    for line, part in zip(lines, expected, strict=True):
        assert part in line


# Starlette


@BOTH_LOOPS
def test_starlette_s_messages_of_every_kind(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "starlette_sockets", loop)
    said: list[str | bytes] = ["text", b"bytes", '{"é": 1}', b'{"b": 2}', "last"]
    heard = ["text text", b"bytes bytes", '{"json":{"é":1}}', b'{"json":{"b":2}}', "websocket.receive", 1000]
    assert talk(program, "/every-kind", said, 6) == heard
    assert talk(program, "/iterates", ["one", "two"], 2) == ["ONE", "TWO"]
    assert talk(program, "/disconnects", ["one"], 1) == ["one"]
    with dial(program, "/disconnects") as websocket:
        websocket.close(4001, "supper")
    assert get(program, "/left").json() == [[1000, "iterated"], [1000, ""], [4001, "supper"]]
    alarms(program)


@LOOPS
def test_starlette_s_endpoints_that_are_classes(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "starlette_sockets", loop)
    assert talk(program, "/ws", ["hello"], 1) == ["Message text was: hello"]
    assert talk(program, "/json", ['{"a": [1]}'], 1) == ['{"got":{"a":[1]}}']
    assert talk(program, "/bytes", [b"\x00\xff"], 1) == [b"Message: \x00\xff"]
    assert get(program, "/left").json() == [[1000, "bytes"]]
    # Starlette closes the WebSocket, and raises an error.
    assert talk(program, "/json", ["{"], 1) == [1003]
    assert talk(program, "/bytes", ["text"], 1) == [1003]
    failed = "the ASGI application failed at {} after the end of its WebSocket"
    alarms(program, failed.format("/json"), failed.format("/bytes"))


@LOOPS
def test_starlette_s_handshakes(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "starlette_sockets", loop)
    offered = [Subprotocol("chat.v2"), Subprotocol("chat.v1")]
    fields = {"Cookie": "session=yes"}
    with dial(program, "/about/zoe?search=x%20y", subprotocols=offered, additional_headers=fields) as websocket:
        assert (websocket.subprotocol, websocket.response and websocket.response.headers["x-kind"]) == (
            "chat.v2",
            "about",
        )
        assert json.loads(websocket.recv(PATIENCE_S)) == {
            **{"path": "/about/zoe", "scheme": "ws", "version": "13"},
            **{"search": "x y", "username": "zoe", "cookie": "yes"},
        }
        with pytest.raises(ConnectionClosed, match=r"received 4000 \(private use\) that is all"):
            websocket.recv(PATIENCE_S)
    assert refused(program, "/denies") == (402, b'{"why":"no ticket"}')
    assert refused(program, "/closes-first")[0] == 403
    assert refused(program, "/nowhere")[0] == 403
    assert talk(program, "/raises", ["now"], 1) == [1011]
    alarms(program, "the ASGI application failed at /raises; its WebSocket is closed with 1011")


@pytest.mark.parametrize("name", ["app", pytest.param("Socket", marks=THOROUGH)])
@LOOPS
def test_starlette_s_shortest_applications(name: str, loop: str, start_program: StartProgram) -> None:
    need_packages("starlette")
    application = f"starlette_bare:{name}"
    program = start_program("--app", application, "--app-loop", loop, directory=FOLDER / "sockets")
    if name == "Socket":
        assert talk(program, "/any", [b"hello"], 1) == [b"Message: hello"]
    else:
        assert talk(program, "/any", [], 2) == ["Hello, world!", 1000]
    alarms(program)


# FastAPI


@LOOPS
def test_fastapi_s_cookie_or_token(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "fastapi_sockets", loop)
    by_token = ["The cookie or token is t", "The parameter q is 3", "The text is hello, for item foo"]
    assert talk(program, "/items/foo/ws?token=t&q=3", ["hello"], 3) == by_token
    by_cookie = ["The cookie or token is c", "The text is hello, for item bar"]
    assert talk(program, "/items/bar/ws", ["hello"], 2, additional_headers={"Cookie": "session=c"}) == by_cookie
    assert refused(program, "/items/foo/ws")[0] == 403
    assert refused(program, "/items/foo/ws?token=t&q=three")[0] == 403
    alarms(program)


@BOTH_LOOPS
def test_fastapi_s_many_clients(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "fastapi_sockets", loop)
    assert "<h2" in get(program, "/").text
    assert talk(program, "/ws", ["hello"], 1) == ["Message text was: hello"]
    with dial(program, "/ws/1") as first:
        first.send("here")  # the application counts a client among its clients after it has accepted it
        assert [first.recv(PATIENCE_S), first.recv(PATIENCE_S)] == ["You wrote: here", "Client #1 says: here"]
        with dial(program, "/ws/2") as second:
            second.send("here")
            assert [second.recv(PATIENCE_S), second.recv(PATIENCE_S)] == ["You wrote: here", "Client #2 says: here"]
            assert first.recv(PATIENCE_S) == "Client #2 says: here"
            first.send("hello")
            assert [first.recv(PATIENCE_S), first.recv(PATIENCE_S)] == ["You wrote: hello", "Client #1 says: hello"]
            assert second.recv(PATIENCE_S) == "Client #1 says: hello"
        assert first.recv(PATIENCE_S) == "Client #2 left the chat"
        alarms(program)


# Quart


@pytest.mark.parametrize("loop", ["auto", ASYNCIO])
def test_quart_s_guide_to_websockets(loop: str, start_program: StartProgram) -> None:
    program = start(start_program, "quart_sockets", loop)
    assert talk(program, "/echo", ["text", b"bytes"], 2) == ["text", b"bytes"]
    assert talk(program, "/json", ["[1]"], 1) == ['{"got": [1]}']
    assert talk(program, "/both-ways", ["hello"], 4) == ["0", "1", "2", "got hello"]
    assert talk(program, "/notices", [], 0) == []
    assert get(program, "/left").json() == ["left"]
    options = {"subprotocols": [Subprotocol("chat.v1")], "additional_headers": {"Cookie": "session=c"}}
    assert talk(program, "/accepts?q=1", [], 2, **options) == ["/accepts 1 c", 4000]
    assert refused(program, "/asks") == (403, b"The password is wrong.")
    password = b64encode(b"me:secret").decode()
    assert talk(program, "/asks", [], 1, additional_headers={"Authorization": f"Basic {password}"}) == ["welcome"]
    assert refused(program, "/aborts")[0] == 401
    assert refused(program, "/nowhere")[0] == 404
    alarms(program)


def test_quart_s_chat(start_program: StartProgram) -> None:
    program = start(start_program, "quart_sockets", "auto")
    with dial(program, "/chat") as first, dial(program, "/chat") as second:
        subscribed = 0
        while subscribed < 2:  # the handshake is over before the application subscribes
            second.send("hello")
            assert second.recv(PATIENCE_S) == "hello"
            subscribed = httpx.post(f"http://localhost:{program.port}/say", content="news", trust_env=False).json()[
                "told"
            ]
            assert second.recv(PATIENCE_S) == "news"
        while first.recv(PATIENCE_S) != "news":
            pass
        alarms(program)


def test_quart_on_trio_is_told_to_use_asyncio(start_program: StartProgram) -> None:
    program = start(start_program, "quart_sockets", "trio")
    assert refused(program, "/echo")[0] == 500
    assert "have it run there: --app-loop asyncio" in program.wait_for_line("it needs asyncio")
    stop(program)
    assert any("no running event loop; it needs asyncio, but rawws runs it on trio" in line for line in program.lines)


# In a browser


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from browsing()


@THOROUGH
@pytest.mark.parametrize("name", ["starlette_sockets", "fastapi_sockets"])
@pytest.mark.parametrize("loop", ["auto", "trio"])
def test_the_page_of_the_documentation_in_chromium(
    name: str, loop: str, start_program: StartProgram, browser: Browser
) -> None:
    from playwright.sync_api import expect

    program = start(start_program, name, loop)
    pages = [browser.new_page(), browser.new_page()]
    for number, page in enumerate(pages):
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f"http://localhost:{program.port}/?{number}")
        page.wait_for_function("ws.readyState === WebSocket.OPEN")
    pages[0].get_by_label("Message").fill("<b>hello</b>")
    pages[0].get_by_role("button").click()
    messages = [page.locator("#messages li") for page in pages]
    if name == "starlette_sockets":
        expect(messages[0]).to_have_text(["Message text was: <b>hello</b>"])
    else:
        expect(messages[0]).to_have_text(["You wrote: <b>hello</b>", "Client #0 says: <b>hello</b>"])
        expect(messages[1]).to_have_text(["Client #0 says: <b>hello</b>"])
        pages[0].close()
        expect(messages[1].last).to_have_text("Client #0 left the chat")
    alarms(program)
