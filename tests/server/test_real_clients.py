"""Third-party clients: Python's websockets, npm's ws, and Chromium.

Each is driven through the same few calls, so that a test can put any of them into a room. If the machine lacks a
program that a test needs, the test is skipped with the reason; with RAWWS_REQUIRE_ALL=1 it fails.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import pytest

from tests.browser import launch, need_chromium
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import Lines, Program, StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from websockets.asyncio.client import ClientConnection

T = TypeVar("T")

HELLO = "Hello! Message From Server!!"
HERE = Path(__file__).parents[1]


class Closed(NamedTuple):
    """The end of a connection, as its client saw it."""

    code: int
    reason: str


class RealClient(Protocol):
    """One connection of some client. Every call blocks, within bounds."""

    def send(self, *messages: str | bytes) -> None: ...
    def receive(self) -> str | bytes | Closed: ...
    def receive_many(self, count: int) -> list[str | bytes | Closed]: ...
    def close(self, code: int, reason: str) -> None: ...
    def end(self) -> None: ...


def encode(message: str | bytes) -> dict[str, str]:
    """Return the command by which a JavaScript client sends a message."""
    return {"text": message} if isinstance(message, str) else {"binary": message.hex()}


def decode(event: dict[str, Any]) -> str | bytes | Closed:
    """Return the event that a JavaScript client reported as JSON."""
    if "text" in event:
        return str(event["text"])
    if "binary" in event:
        return bytes.fromhex(event["binary"])
    assert "closed" in event, event
    return Closed(event["closed"], event["reason"])


class WebsocketsClient:
    """Python's websockets, on an asyncio loop in a thread of its own."""

    def __init__(self, url: str) -> None:
        need(importlib.util.find_spec("websockets"), "websockets (pip install websockets)")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.connection: ClientConnection = self.wait_for(self._connect(url))
        except BaseException:
            self._stop()
            raise

    @staticmethod
    async def _connect(url: str) -> ClientConnection:
        from websockets.asyncio.client import connect

        return await connect(url)

    def wait_for(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE_S)

    def send(self, *messages: str | bytes | list[str]) -> None:
        for message in messages:
            self.wait_for(self.connection.send(message))

    def receive(self) -> str | bytes | Closed:
        from websockets.exceptions import ConnectionClosed

        try:
            return self.wait_for(self.connection.recv())
        except ConnectionClosed as end:
            return Closed(end.rcvd.code, end.rcvd.reason) if end.rcvd is not None else Closed(1006, "")

    def receive_many(self, count: int) -> list[str | bytes | Closed]:
        return [self.receive() for _ in range(count)]

    async def ping(self, payload: bytes) -> None:
        await (await self.connection.ping(payload))

    def close(self, code: int, reason: str) -> None:
        self.wait_for(self.connection.close(code, reason))

    def end(self) -> None:
        self.wait_for(self.connection.close())
        self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


def find_node_modules() -> dict[str, str]:
    """Return the environment in which node finds npm's ws, or skip."""
    need(shutil.which("node"), "node")
    given = os.environ.get("RAWWS_NODE_MODULES")
    places = [given, str(HERE.parent / "node_modules"), os.environ.get("NODE_PATH")]
    path = os.pathsep.join(place for place in places if place)
    need(finds_ws(path), "npm's ws (npm install --no-save ws, or RAWWS_NODE_MODULES=…/node_modules)")
    return {**os.environ, "NODE_PATH": path}


@functools.cache
def finds_ws(path: str) -> bool:
    found = subprocess.run(
        ["node", "-e", "require('ws')"],
        env={**os.environ, "NODE_PATH": path},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return found.returncode == 0


class WsClient:
    """npm's ws, in a node process that reads and writes lines of JSON."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            ["node", str(HERE / "ws_client.js"), url],
            env=find_node_modules(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._lines = Lines(self._process.stdout)
        first = self.next_event()
        if "open" not in first:
            self.end()
            raise ConnectionError(str(first))

    def next_event(self) -> dict[str, Any]:
        line = self._lines.next()
        assert line is not None, "node has ended"
        event: dict[str, Any] = json.loads(line)
        return event

    def tell(self, **command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def send(self, *messages: str | bytes) -> None:
        for message in messages:
            self.tell(**encode(message))

    def receive(self) -> str | bytes | Closed:
        return decode(self.next_event())

    def receive_many(self, count: int) -> list[str | bytes | Closed]:
        return [self.receive() for _ in range(count)]

    def close(self, code: int, reason: str) -> None:
        self.tell(close=code, reason=reason)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._lines.close()


# Runs in a page. Messages wait in an inbox until they are asked for.
OPEN_IN_PAGE = """
url => new Promise(resolve => {
  const socket = new WebSocket(url), inbox = [], waiting = [];
  const deliver = event => waiting.length ? waiting.shift()(event) : inbox.push(event);
  const hex = buffer => Array.from(new Uint8Array(buffer), byte => byte.toString(16).padStart(2, "0")).join("");
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({data}) => deliver(typeof data === "string" ? {text: data} : {binary: hex(data)});
  socket.onopen = () => resolve(true);
  socket.onclose = ({code, reason}) => { deliver({closed: code, reason}); resolve(false); };
  window.peer = {
    socket,
    receive: () => inbox.length ? inbox.shift() : new Promise((resolve, reject) => {
      waiting.push(resolve);
      setTimeout(() => reject(new Error("nothing has arrived")), 10_000);
    }),
  };
})
"""
SEND_FROM_PAGE = """
messages => messages.forEach(message => peer.socket.send(
  "text" in message ? message.text : Uint8Array.from(message.binary.match(/../g) ?? [], byte => parseInt(byte, 16))
))
"""
RECEIVE_IN_PAGE = """
async count => {
  const received = [];
  while (received.length < count) received.push(await peer.receive());
  return received;
}
"""


class Chromium:
    """A headless Chromium. playwright's calls all have to come from one thread, which isn't one that runs trio."""

    def __init__(self) -> None:
        need_chromium()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._stop: Callable[[], None] = lambda: None
        try:
            self._browser: Browser = self.wait_for(self._launch)
        except BaseException:
            self.end()
            raise

    def _launch(self) -> Browser:
        from playwright.sync_api import sync_playwright

        playwright = sync_playwright().start()
        self._stop = playwright.stop
        return launch(playwright)

    def wait_for(self, call: Callable[[], T]) -> T:
        return self._thread.submit(call).result(2 * PATIENCE_S)

    def visit(self, url: str) -> Page:
        """Return a new page that shows a URL."""

        def visit() -> Page:
            page = self._browser.new_page()
            page.set_default_timeout(PATIENCE_S * 1000)
            page.goto(url)
            return page

        return self.wait_for(visit)

    def end(self) -> None:
        self._thread.submit(self._stop).result(PATIENCE_S)
        self._thread.shutdown()


class PageClient:
    """A WebSocket of a page in Chromium. A call of the page costs 10 ms, so that many messages share one."""

    def __init__(self, chromium: Chromium, page: Page, url: str) -> None:
        self._chromium = chromium
        self._page = page
        if not self.evaluate(OPEN_IN_PAGE, url):
            raise ConnectionError(self.receive())

    def evaluate(self, script: str, argument: object = None) -> Any:
        return self._chromium.wait_for(lambda: self._page.evaluate(script, argument))

    def send(self, *messages: str | bytes) -> None:
        self.evaluate(SEND_FROM_PAGE, [encode(message) for message in messages])

    def receive(self) -> str | bytes | Closed:
        (received,) = self.receive_many(1)
        return received

    def receive_many(self, count: int) -> list[str | bytes | Closed]:
        return [decode(event) for event in self.evaluate(RECEIVE_IN_PAGE, count)]

    def close(self, code: int, reason: str) -> None:
        self.evaluate("([code, reason]) => peer.socket.close(code, reason)", [code, reason])

    def end(self) -> None:
        self._chromium.wait_for(self._page.close)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    browser = Chromium()
    yield browser
    browser.end()


Connect = Callable[[str, Program, str], RealClient]
QUICK = ("websockets", "ws")
KINDS = (*QUICK, "chromium")
EACH_KIND = pytest.mark.parametrize("kind", [*QUICK, pytest.param("chromium", marks=pytest.mark.thorough)])


@pytest.fixture
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Connects a client of some kind to a room of a program: ``connect("ws", program, "/room")``."""
    monkeypatch.setenv("no_proxy", "*")
    clients: list[RealClient] = []

    def connect(kind: str, program: Program, room: str) -> RealClient:
        url = f"ws://{program.address}{room}"
        client: RealClient
        match kind:
            case "websockets":
                client = WebsocketsClient(url)
            case "ws":
                client = WsClient(url)
            case _:
                browser: Chromium = request.getfixturevalue("chromium")
                client = PageClient(browser, browser.visit(f"http://{program.address}/"), url)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.end()


# One room


@pytest.mark.parametrize("flags", [[], ["-vv"]], ids=["by default", "with all that can be logged"])
@pytest.mark.parametrize(
    "kinds", [(*QUICK, "ws"), pytest.param(KINDS, marks=pytest.mark.thorough)], ids=["without a browser", "all kinds"]
)
def test_three_clients_in_one_room_see_the_greeting_and_each_others_text_and_binary(
    start_program: StartProgram, connect: Connect, flags: list[str], kinds: tuple[str, ...]
) -> None:
    program = start_program(*flags)
    clients = [connect(kind, program, "/room") for kind in kinds]
    for client in clients:
        assert client.receive() == HELLO
    messages: list[str | bytes] = [
        "Hello",
        bytes(range(256)),
        "",
        b"",
        "Příliš žluťoučký 🐴",
        "a" * 300,
        b"\xff" * 70_000,
    ]
    for sender in clients:
        sender.send(*messages)
        for client in clients:
            received = client.receive_many(len(messages))
            assert [type(message) for message in received] == [type(message) for message in messages]
            assert received == messages
    program.signal(signal.SIGINT)
    for client in clients:
        assert client.receive() == Closed(1001, "the server is shutting down")
    assert program.wait() == 0
    assert [line for line in program.lines if "Traceback" in line or " ERROR " in line] == []
    if flags:
        _assert_each_has_its_story(program.lines)


def _assert_each_has_its_story(lines: list[str]) -> None:
    numbers = {line.split("#")[1].split()[0] for line in lines if "joined room /room" in line}
    assert len(numbers) == 3
    for number in numbers:
        story = [line.partition(f"#{number} ")[2] for line in lines if f" #{number} " in line]
        for part in (
            "= accepted from 127.0.0.1:",
            "< GET /room HTTP/1.1",
            "= RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? yes",
            "= SHA-1 of that  ",
            "> HTTP/1.1 101 Switching Protocols",
            "> Sec-WebSocket-Accept: ",
            "= HTTP ends, WebSocket begins: ",
            f"> TEXT fin=1 rsv=000 mask=none len=28 '{HELLO}'",
            "< TEXT fin=1 rsv=",  # 000 or, from a client that compresses, 100
            "< BINARY fin=1 rsv=",
            "> CLOSE fin=1 rsv=000 mask=none len=29 1001 'the server is shutting down'",
            "= closed by us with 1001 (going away) 'the server is shutting down', answered with 1001 (going away)",
        ):
            assert any(line.startswith(part) for line in story), f"#{number} lacks {part!r}"


# Each by itself


@EACH_KIND
def test_a_client_that_closes_gets_its_code_and_reason_back(
    start_program: StartProgram, connect: Connect, kind: str
) -> None:
    program = start_program("--hello", "")
    client = connect(kind, program, "/")
    client.close(4321, "well then")
    assert client.receive() == Closed(4321, "well then")
    program.wait_for_line("closed by the client with 4321 'well then'")


@EACH_KIND
def test_a_message_over_the_limit_is_seen_as_1009(start_program: StartProgram, connect: Connect, kind: str) -> None:
    program = start_program("--hello", "", "--max-size", "1k")
    client = connect(kind, program, "/")
    client.send("a" * 1024)
    assert client.receive() == "a" * 1024
    client.send("a" * 1025)
    assert client.receive() == Closed(
        1009, "message of 1025 bytes or more is over the server's limit of 1024 (max_size)"
    )


@EACH_KIND
def test_every_client_answers_our_pings(start_program: StartProgram, connect: Connect, kind: str) -> None:
    program = start_program("--hello", "", "--ping-interval", "0.1", "--ping-timeout", "5", "-v")
    client = connect(kind, program, "/")
    for _ in range(2):
        program.wait_for_line("> PING")
        program.wait_for_line("< PONG")
    client.send("still here")
    assert client.receive() == "still here"


@EACH_KIND
def test_a_client_that_sends_faster_than_it_reads_gets_everything_in_order(
    start_program: StartProgram, connect: Connect, kind: str
) -> None:
    program = start_program("--hello", "")
    client = connect(kind, program, "/")
    messages = [f"{number} {'.' * (number % 300)}" for number in range(100)]
    client.send(*messages)
    assert client.receive_many(len(messages)) == messages


def test_websockets_pings_and_fragments(start_program: StartProgram, connect: Connect) -> None:
    program = start_program("--hello", "")
    client = connect("websockets", program, "/")
    assert isinstance(client, WebsocketsClient)
    client.wait_for(client.ping(b"hi"))
    client.send(["one ", "message ", "in fragments"])
    assert client.receive() == "one message in fragments"


def test_ws_pings(start_program: StartProgram, connect: Connect) -> None:
    program = start_program("--hello", "")
    client = connect("ws", program, "/")
    assert isinstance(client, WsClient)
    client.tell(ping=b"hi".hex())
    assert client.next_event() == {"pong": b"hi".hex()}


def test_pythons_http_client_keeps_its_connection(start_program: StartProgram) -> None:
    program = start_program()
    connection = http.client.HTTPConnection(LOOPBACK, program.port, timeout=PATIENCE_S)
    for path in ("/anything", "/else"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"hi there")
        assert not answer.will_close
    connection.request("PUT", "/", body=b"some")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD, OPTIONS, POST")
    connection.close()


# Pages


@pytest.mark.thorough
def test_a_page_of_ours_says_hi_there_and_may_connect_by_any_name_of_the_host(
    start_program: StartProgram, chromium: Chromium
) -> None:
    program = start_program()
    page = chromium.visit(f"http://localhost:{program.port}/page")
    assert chromium.wait_for(lambda: page.inner_text("body")) == "hi there"
    client = PageClient(chromium, page, f"ws://localhost:{program.port}/")
    assert client.receive() == HELLO
    client.end()


@pytest.mark.thorough
def test_a_page_from_another_origin_is_refused_until_the_flag_that_the_log_names_is_given(
    start_program: StartProgram, chromium: Chromium
) -> None:
    elsewhere, program = start_program(), start_program()
    page = chromium.visit(f"http://{elsewhere.address}/")
    with pytest.raises(ConnectionError):
        PageClient(chromium, page, f"ws://{program.address}/")
    refused = program.wait_for_line("refused with 403 (origin)")
    flag, origin = refused.split()[-2:]
    assert (flag, origin) == ("--allow-origin", f"http://{elsewhere.address}")

    allowing = start_program(flag, origin)
    client = PageClient(chromium, page, f"ws://{allowing.address}/")
    assert client.receive() == HELLO
    client.send("from elsewhere")
    assert client.receive() == "from elsewhere"
    client.end()
