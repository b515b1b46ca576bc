"""The page's server side: who gets it, who may watch, what it is told, and what watching may cost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.limits import MIB
from rawws.page import TRACE, About, Page, feed
from rawws.server import Server
from rawws.tracing import Tracer
from rawws.web import HelloApp
from rawws.wire.frames import Frame, encode_frame, parse_header
from tests.serving import LOOPBACK, PATIENCE_S, Client, StartProgram, get, text, upgrade

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


# Who gets it


async def test_a_browser_gets_the_page_and_others_their_greeting(start_program: StartProgram) -> None:
    program = start_program("--allow-host", "evil.example")
    client = await program.connect()
    local = f"Host: {program.address}"

    async def ask(target: str, *lines: str, method: str = "GET") -> Any:
        request = get(target, *lines, method=method).replace(b"Host: localhost\r\n", b"")
        return await client.ask(request)

    for accept in ("Accept: */*", "Accept: text/plain", "X: y"):
        assert (await ask("/", local, accept)).body == b"hi there"
    assert (await ask("/room", local, BROWSER)).body == b"hi there"
    for target, *lines in (("/", BROWSER), ("/_rawws/", "Accept: */*")):
        answer = await ask(target, local, *lines)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert b"<title>rawws" in answer.body
    fresh = await ask("/_rawws/", local, f"If-None-Match: {answer.headers['etag']}")
    assert (fresh.status, fresh.body) == (304, b"")
    head = await ask("/_rawws/style.css", local, method="HEAD")
    assert (head.status, head.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert (await ask("/_rawws/main.js", local)).headers["content-type"] == "text/javascript; charset=utf-8"
    moved = await ask("/_rawws", local)
    assert (moved.status, moved.headers["location"]) == (308, "/_rawws/")
    assert (await ask("/_rawws/feed.py", local)).status == 404
    assert (await ask("/_rawws/../feed.py", local)).status == 404
    refused = await ask("/_rawws/", local, method="DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    # A name that somebody else could have lead here (DNS rebinding).
    foreign = await ask("/_rawws/", "Host: evil.example")
    assert foreign.status == 403
    assert foreign.body == b"The page is shown at this machine's addresses and at localhost, not at evil.example.\n"


@pytest.mark.parametrize(
    ("arguments", "is_shown"),
    [
        ([], True),
        (["--host", "localhost"], True),
        (["--no-page"], False),
        (["--host", "0.0.0.0"], False),
        (["--host", ""], False),
        (["--host", "0.0.0.0", "--page"], True),
        (["--trusted-proxy", "127.0.0.1"], False),
        (["--trusted-proxy", "127.0.0.1", "--page"], True),
    ],
)
async def test_it_is_on_where_only_this_machine_can_see_it(
    start_program: StartProgram, arguments: list[str], is_shown: bool
) -> None:
    program = start_program(*arguments)
    client = await program.connect()
    answer = await client.ask(get("/", f"Origin: http://{program.address}", BROWSER))
    assert (b"<title>" in answer.body) is is_shown
    await client.send(upgrade(TRACE).replace(b"Host: localhost", f"Host: {program.address}".encode()))
    assert (await client.answer()).status == 101
    hello = await client.frame()
    assert hello.payload.startswith(b'{"about":{"version":') is is_shown  # else it is a room like any other
    assert ("open / in a browser to see the wire" in "".join(program.lines)) is is_shown
    if "--page" in arguments:
        assert "WARNING" in program.lines[0]
        assert "whoever can reach it sees what crosses the wire of everybody here" in program.lines[0]


async def test_beside_an_application_it_has_a_place_of_its_own(start_program: StartProgram) -> None:
    program = start_program("--app", "rawws.examples.existing_app:app")
    client = await program.connect()
    local = f"Host: {program.address}"
    at_root, below = [
        await client.ask(get(target, BROWSER).replace(b"Host: localhost", local.encode()))
        for target in ("/", "/_rawws/")
    ]
    assert b"<title>rawws: what crosses the wire" not in at_root.body
    assert b"<title>rawws: what crosses the wire" in below.body
    assert "open /_rawws/ in a browser to see the wire" in "".join(program.lines)


# Who may watch


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:1", "http://localhost:1", 101),
        ("127.0.0.1:1", "http://127.0.0.1:1", 101),
        ("127.0.0.1:1", None, 101),
        ("127.0.0.1:1", "http://localhost:1", 403),
        ("127.0.0.1:1", "https://hoppscotch.io", 403),
        ("127.0.0.1:1", "null", 403),
        ("evil.example", "http://evil.example", 403),
    ],
)
async def test_only_the_page_itself_may_watch(
    start_program: StartProgram, host: str, origin: str | None, status: int
) -> None:
    program = start_program("--allow-origin", "*", "--allow-host", "*")  # which are about rooms
    client = await program.connect()
    lines = [] if origin is None else [f"Origin: {origin}"]
    await client.send(upgrade(TRACE, *lines).replace(b"Host: localhost", f"Host: {host}".encode()))
    assert (await client.answer()).status == status


@pytest.mark.parametrize("line", ["X-Forwarded-For: 203.0.113.5", "Forwarded: for=203.0.113.5", "Via: 1.1 proxy"])
async def test_who_comes_through_a_proxy_may_be_anybody_and_sees_nothing(
    start_program: StartProgram, line: str
) -> None:
    program = start_program()
    client = await program.connect()
    answer = await client.ask(get("/", BROWSER, line))
    assert (answer.status, answer.body) == (
        403,
        b"The page is for this machine, and this request came through a proxy.\n",
    )
    assert (await client.ask(upgrade(TRACE, line))).status == 403
    other = await program.connect()
    assert (await other.ask(get("/", line))).body == b"hi there"
    assert (await other.ask(upgrade("/room", line))).status == 101


# What it is told


@asynccontextmanager
async def watched(nursery: trio.Nursery) -> AsyncIterator[tuple[Server, rawws.WebSocket, Tracer]]:
    """A hub with its page, and the page's WebSocket."""
    tracer = Tracer()
    page = Page(tracer, About(""))
    start = partial(
        rawws.serve, rawws.Hub(), 0, host=LOOPBACK, http=page.before(HelloApp()), routes=page.routes, tracer=tracer
    )
    server: Server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}{TRACE}", max_size=None) as trace:
            assert "about" in json.loads(await trace.recv())
            yield server, trace, tracer
    server.stop()


async def records_until(trace: rawws.WebSocket, kind: str) -> list[dict[str, Any]]:
    """Return what the page is told, up to and with the first record of a kind."""
    records: list[dict[str, Any]] = []
    while not any(record["kind"] == kind for record in records):
        records += json.loads(await trace.recv())["records"]
    return records


async def test_the_story_of_a_connection(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, _):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room") as ws:
            await ws.send("hello", compress=True)
            await ws.recv()
        records = await records_until(trace, "end")
        assert [record["kind"] for record in records] == [
            *("open", "head", "checks", "head", "checks", "switch", "frame", "frame", "frame", "frame", "end"),
        ]
        request, response = (record for record in records if record["kind"] == "checks")
        assert all(check["holds"] for check in request["checks"] + response["checks"])
        assert request["accept"]["value"] in records[3]["head"]
        sent, back = records[6:8]
        assert (sent["opcode"], sent["rsv"], sent["message_size"], sent["preview"]) == ("TEXT", "100", 5, "'hello'")
        assert (back["opcode"], back["rsv"], back["size"], back["preview"]) == ("TEXT", "000", 5, "'hello'")
        asked = {key: sent[key] for key in ("sender", "header", "payload")}
        await trace.send(json.dumps({"ask": 7, "for": "frame", "frame": asked}))
        answer = json.loads(await trace.recv())
        assert answer["answer"] == 7
        assert answer["text"] == "hello"
        assert [field["name"] for field in answer["fields"]][-1] == "masking key"


@pytest.mark.parametrize(
    "question", ["{", "[]", "1", '{"ask": 1}', '{"ask": 1, "for": "frame"}', '{"ask": 1, "for": "case", "name": "x"}',
                 '{"ask": 1, "for": "frame", "frame": {"header": "81", "payload": ""}}',
                 '{"ask": 1, "for": "case", "name": "handshake", "path": "/a b"}',
                 '{"ask": [1], "for": "case", "name": "x"}', "[" * 50_000, '"' + "x" * 100_000 + '"'],
)  # fmt: skip
async def test_a_question_without_an_answer(nursery: trio.Nursery, question: str) -> None:
    async with watched(nursery) as (_, trace, _):
        await trace.send(question)
        assert json.loads(await trace.recv())["error"].startswith("this can't be answered: ")
        await trace.send('{"ask": 2, "for": "cases"}')
        assert json.loads(await trace.recv())["answer"] == 2


async def test_who_asks_and_does_not_read_is_held_back(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, _, _):
        asker = await Client.unconnected().connect(server.port)
        await asker.open(TRACE)
        question = text('{"ask": 1, "for": "cases"}')
        await asker.send(question)
        while b'"cases"' not in await asker.take_some():
            pass
        sent = 0
        # No more is taken than the buffers on the way hold.
        while (took := asker.try_send(question * 1000)) and sent < 32 * MIB:
            sent += took
            await wait_all_tasks_blocked()
        assert sent < 16 * MIB
        asker.reset()


async def test_a_case_is_tried_without_a_proxy(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    tried = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    page = Page(Tracer(), About(f"ws://{LOOPBACK}:{tried.port}"))
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, routes=page.routes))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}{TRACE}", proxy=None) as trace:
            await trace.recv()
            await trace.send('{"ask": 1, "for": "case", "name": "handshake"}')
            assert json.loads(await trace.recv())["verdict"] == "good"
    server.stop()
    tried.stop()


async def test_the_feed_itself_is_not_shown(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, tracer):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}{TRACE}") as other:
            await other.recv()
            await other.send('{"ask": 2, "for": "cases"}')
            await other.recv()
        kinds = [record["kind"] for record in await records_until(trace, "end")]
        assert "frame" not in kinds
        assert tracer.is_watched
    while tracer.is_watched:
        await trio.sleep(0.01)


# What watching may cost


async def test_too_much_is_dropped_and_told(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_RECORDS", 100)
    async with watched(nursery) as (server, trace, tracer):
        room = f"ws://{LOOPBACK}:{server.port}/room"
        async with rawws.connect(room, compression=None) as ws:
            for number in range(500):
                await ws.send(str(number))
            for number in range(500):
                assert await ws.recv() == str(number)
            assert tracer.is_watched
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            records = await records_until(trace, "lost")
            (lost,) = [record["records"] for record in records if record["kind"] == "lost"]
            told = len(records) - 1
            assert told == 100
            assert told + lost >= 1000
            # It goes on, when there is less.
            await ws.send("and now?")
            await ws.recv()
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            assert "'and now?'" in [record.get("preview") for record in await records_until(trace, "frame")]


async def test_which_connections_end_is_told_later_where_it_is_too_much_at_once(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_RECORDS", 100)
    async with watched(nursery) as (_, trace, tracer):
        for number in range(1, 51):
            tracer.opened(number, "somewhere")
        for number in range(1, 1001):
            tracer.ended(number, "gone")
        records: list[dict[str, Any]] = []
        while sum(record["kind"] == "end" for record in records) < 50 + feed.KEPT_CONNECTIONS:
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            records += json.loads(await trace.recv())["records"]
        ended = [record["connection"] for record in records if record["kind"] == "end"]
        assert ended == [*range(1, 51), *range(1001 - feed.KEPT_CONNECTIONS, 1001)]
        (lost,) = [record["records"] for record in records if record["kind"] == "lost"]
        assert lost == 1000 - len(ended)


async def test_a_page_that_does_not_read_costs_no_more_than_its_budget(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_BYTES", 100_000)
    seen: list[feed.Feed] = []
    add = Tracer.add

    def note(tracer: Tracer, sink: feed.Feed) -> None:
        seen.append(sink)
        add(tracer, sink)

    monkeypatch.setattr(Tracer, "add", note)
    async with watched(nursery) as (server, _, _):  # nobody reads what the page is told
        has_rested = False
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room", compression=None) as ws:
            for _ in range(2000):
                await ws.send("x" * 4000)
                await ws.recv()
                (sink,) = seen
                has_rested = has_rested or not sink.wants_frames
                assert sum(map(len, sink._waiting)) < 120_000
        assert has_rested


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 4100, 4200, 65536, 65540, 100_000])
def test_a_frame_is_shortened_to_its_ends(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    raw = encode_frame(2, payload)
    header = parse_header(raw)
    assert header is not None
    kept = 65536
    frame = Frame(header, payload[:kept], payload[kept:][-64:])
    short = feed.shortened(frame)
    assert short.payload_head == payload[:4096]
    assert short.payload_tail == (payload[4096:][-64:] if not frame.payload_tail else frame.payload_tail)
    assert short.left_out_bytes == size - len(short.payload_head) - len(short.payload_tail) >= 0


# Routes


async def test_a_path_with_a_handler_of_its_own(nursery: trio.Nursery) -> None:
    async def shout(ws: rawws.WebSocket) -> None:
        async for message in ws:
            await ws.send(str(message).upper())

    start = partial(rawws.serve, rawws.Hub(hello="hi"), 0, host=LOOPBACK, routes={"/shout": shout})
    server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/shout?really") as ws:
            await ws.send("hello")
            assert await ws.recv() == "HELLO"
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/elsewhere") as ws:
            assert await ws.recv() == "hi"
    server.stop()


async def test_a_route_needs_a_path() -> None:
    with pytest.raises(rawws.UsageError, match=r"^'shout' can't be the path of a route"):
        await rawws.serve(rawws.Hub(), 0, host=LOOPBACK, routes={"shout": rawws.Hub()})
