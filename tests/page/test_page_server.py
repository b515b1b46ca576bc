"""The page's server side: access, the right to watch, the records that the page gets, and the cost of watching."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.limits import MIB
from rawws.page import TRACE, About, Access, Page, feed
from rawws.server.plain_apps import HelloApp
from rawws.server.server import Server
from rawws.tracing import Tracer
from rawws.wire.deflate import Deflater
from rawws.wire.frames import RSV1, Frame, Opcode, encode_frame, parse_header
from rawws.wire.messages import Headers, Request
from rawws.wire.trace import DIRECTIONS, IN, OUT
from tests.serving.client import Answer, Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import close, get, text, upgrade

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


NEEDED = (
    b"The page needs this server's token: open the link with ?token=\xe2\x80\xa6 that the server logged at its start.\n"
)


# Access to the page


async def ask(program: Program, target: str, *lines: str, method: str = "GET") -> Answer:
    """Return the answer to a request under the program's own address, on a connection of its own."""
    client = await program.connect()
    request = get(target, f"Host: {program.address}", *lines, method=method)
    return await client.ask(request.replace(b"Host: localhost\r\n", b""))


async def test_the_link_in_the_log_gives_a_cookie_which_shows_the_page(start_program: StartProgram) -> None:
    program = start_program("--allow-host", "evil.example")
    link = program.page_link()
    assert link.startswith(f"http://{program.address}/?token=")
    token = link.partition("=")[2]
    assert len(token) >= 32
    for target in (f"/?token={token}", f"/?x=y&token={token}", f"/_rawws/?token={token}", f"/_rawws?token={token}"):
        led = await ask(program, target)
        assert (led.status, led.headers["location"], led.body) == (303, "/_rawws/", b"")
        assert led.headers["referrer-policy"] == "no-referrer"
        assert led.headers["cache-control"] == "no-store"
        cookie, *attributes = led.headers["set-cookie"].split("; ")
        assert set(attributes) == {"Path=/_rawws/", "HttpOnly", "SameSite=Strict"}  # and ends with the session
    # All ports of a host share their cookies, so the name includes the port.
    assert cookie.startswith(f"rawws-page-{program.port}=")
    shown = f"Cookie: theme=dark; {cookie}"
    for accept in ("Accept: */*", BROWSER):
        answer = await ask(program, "/_rawws/", shown, accept)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert b"<title>rawws" in answer.body
    fresh = await ask(program, "/_rawws/", shown, f"If-None-Match: {answer.headers['etag']}")
    assert (fresh.status, fresh.body) == (304, b"")
    head = await ask(program, "/_rawws/style.css", shown, method="HEAD")
    assert (head.status, head.headers["content-type"]) == (200, "text/css; charset=utf-8")
    script = await ask(program, "/_rawws/main.js", shown)
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    moved = await ask(program, "/_rawws")  # the cookie isn't sent to this path
    assert (moved.status, moved.headers["location"]) == (308, "/_rawws/")
    assert (await ask(program, "/_rawws/feed.py", shown)).status == 404
    assert (await ask(program, "/_rawws/../feed.py", shown)).status == 404
    refused = await ask(program, "/_rawws/", shown, method="DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Cookie: rawws-page-{port}=wrong"],
        ["Cookie: rawws-page-{port}="],
        ["Cookie: rawws-page-{port}"],
        ["Cookie: rawws-page-1={token}"],
        ["Cookie: =; ;;="],
        ["Authorization: Bearer {token}x"],
    ],
)
async def test_the_page_is_refused_without_the_secret(start_program: StartProgram, lines: list[str]) -> None:
    program = start_program()
    token = program.page_link().partition("=")[2]
    filled = [line.format(port=program.port, token=token) for line in lines]
    for accept in ("Accept: */*", BROWSER):
        for target in ("/", "/room", "/?tokens=x"):
            assert (await ask(program, target, accept, *filled)).body == b"hi there"
        for target in ("/_rawws/", "/_rawws/main.js", "/_rawws/x", "/_rawws/trace", "/_rawws/?token=wrong"):
            answer = await ask(program, target, accept, *filled)
            assert (answer.status, answer.body) == (403, NEEDED)
            assert answer.headers["cache-control"] == "no-store"
            assert "set-cookie" not in answer.headers
    # A browser may come with the link of an earlier start; other programs get the usual answer.
    led = await ask(program, "/?token=wrong", BROWSER, *filled)
    assert (led.status, led.headers["location"], "set-cookie" in led.headers) == (303, "/_rawws/", False)
    assert (await ask(program, "/?token=wrong", *filled)).body == b"hi there"
    posted = await ask(program, f"/?token={token}", method="POST")
    assert "set-cookie" not in posted.headers


async def test_one_cookie_of_several_may_be_the_right_one(start_program: StartProgram) -> None:
    program = start_program()
    name, _, token = program.page_cookie().removeprefix("Cookie: ").partition("=")
    for cookie in (f"{name}=x; {name}={token}; {name}=y", f"a=b;{name}={token}"):
        assert (await ask(program, "/_rawws/", f"Cookie: {cookie}")).status == 200
    assert (await ask(program, "/_rawws/", f"Cookie: {name}=x", f"Cookie: {name}={token}")).status == 200


async def test_each_start_has_its_own_token_unless_one_is_given(start_program: StartProgram) -> None:
    first, second = start_program(), start_program()
    assert first.page_link().partition("=")[2] != second.page_link().partition("=")[2]
    fixed = start_program("--page-token", "for-the.class_of~2026", "-vv")
    line = fixed.wait_for_line(" open ")
    assert line.endswith("/?token=… in a browser to see what crosses the wire, with the token of --page-token")
    led = await ask(fixed, "/?token=for-the.class_of~2026")
    assert led.status == 303
    cookie = led.headers["set-cookie"].partition(";")[0]
    assert (await ask(fixed, "/_rawws/", f"Cookie: {cookie}")).status == 200
    fixed.end()
    assert "class_of" not in "".join(fixed.lines)


@pytest.mark.parametrize("given", ["", "a b", "a;b", "a&b", "a%20b", "grün", "a/b"])
def test_a_token_that_can_not_stand_in_a_link(given: str, start_program: StartProgram) -> None:
    ended = start_program.run("--page-token", given)
    assert ended.returncode == 2
    assert "the page's token is " in ended.stderr
    assert "openssl rand -hex 16" in ended.stderr
    assert not given or given not in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--page-token", "x", "--no-page"], "--page-token has no effect with --no-page"),
        (
            ["--page-token", "x", "--workers", "2", "--backplane", "redis://localhost"],
            "--page-token has no effect with --workers",
        ),
        (
            ["tap", "0", "localhost:1", "--page-token", "x"],
            "--page-token is for the page of a tap; give --page PORT too",
        ),
    ],
)
def test_a_token_without_a_page(start_program: StartProgram, arguments: list[str], error: str) -> None:
    ended = start_program.run(*arguments)
    assert (ended.returncode, error in ended.stderr) == (2, True)


async def test_a_foreign_name_that_resolves_to_this_machine_gets_no_page(start_program: StartProgram) -> None:
    program = start_program("--allow-host", "evil.example")
    token = program.page_link().partition("=")[2]
    client = await program.connect()
    for target in ("/_rawws/", f"/?token={token}"):
        request = get(target, f"Cookie: rawws-page={token}").replace(b"Host: localhost", b"Host: evil.example")
        foreign = await client.ask(request)
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
async def test_the_page_is_on_where_only_this_machine_can_reach_it_and_needs_the_token(
    start_program: StartProgram, arguments: list[str], is_shown: bool
) -> None:
    program = start_program(*arguments)
    cookie = program.page_cookie() if is_shown else "Cookie: x=y"
    answer = await ask(program, "/_rawws/", cookie)
    assert (b"<title>" in answer.body) is is_shown
    handshake = upgrade(TRACE).replace(b"Host: localhost", f"Host: {program.address}".encode())
    stranger = await program.connect()
    await stranger.send(handshake)
    assert (await stranger.answer()).status == (403 if is_shown else 404)  # the path is never a room
    client = await program.connect()
    await client.send(handshake[:-2] + f"{cookie}\r\n\r\n".encode())
    assert (await client.answer()).status == (101 if is_shown else 404)
    if is_shown:
        assert (await client.frame()).payload.startswith(b'{"about":{"version":')
    if "--page" in arguments:
        assert "WARNING" in program.lines[0]
        assert "everybody who can reach it and has its token sees all that crosses the wire" in program.lines[0]
    program.end()
    assert any("?token=" in line for line in program.lines) is is_shown


async def test_a_token_for_a_page_that_is_off_is_answered_with_advice(start_program: StartProgram) -> None:
    program = start_program("--host", "0.0.0.0", "--page-token", "x")
    assert "WARNING" in program.lines[0]
    assert program.lines[0].endswith(
        "the page is off, since others can reach this server; to use --page-token, give --page too"
    )


async def test_the_page_has_its_own_path_alongside_an_application(start_program: StartProgram) -> None:
    program = start_program("--app", "rawws.examples.existing_app:app")
    link = program.page_link()
    assert link.startswith(f"http://{program.address}/_rawws/?token=")
    at_root = await ask(program, "/?token=" + link.partition("=")[2], BROWSER)
    assert at_root.status == 200  # the application's own page
    assert "set-cookie" not in at_root.headers
    assert b"<title>rawws: what crosses the wire" not in at_root.body
    below = await ask(program, "/_rawws/", program.page_cookie())
    assert b"<title>rawws: what crosses the wire" in below.body


async def test_the_cookie_is_secure_over_tls() -> None:
    page = Page(Tracer(), About("wss://127.0.0.1:1"))
    token = page.invite("https://127.0.0.1:1").partition("token=")[2].split()[0]
    led = page.answer(Request("GET", f"/?token={token}", "1.1", Headers([("Host", "127.0.0.1:1")])))
    assert led is not None
    assert led.headers["Set-Cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")


# The right to watch


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
    program = start_program("--allow-origin", "*", "--allow-host", "*")  # these flags concern rooms only
    token = program.page_link().partition("=")[2]
    client = await program.connect()
    lines = [] if origin is None else [f"Origin: {origin}"]
    for cookies, expected in (([f"Cookie: rawws-page-1={token}; rawws-page={token}"], status), ([], 403)):
        client = await program.connect()
        await client.send(upgrade(TRACE, *lines, *cookies).replace(b"Host: localhost", f"Host: {host}".encode()))
        assert (await client.answer()).status == expected


@pytest.mark.parametrize("line", ["X-Forwarded-For: 203.0.113.5", "Forwarded: for=203.0.113.5", "Via: 1.1 proxy"])
async def test_a_client_behind_a_proxy_is_refused_the_page(start_program: StartProgram, line: str) -> None:
    program = start_program()
    cookie = program.page_cookie()
    token = cookie.partition("=")[2]
    for target in ("/_rawws/", f"/?token={token}"):
        answer = await ask(program, target, BROWSER, line, cookie)
        assert (answer.status, answer.body) == (
            403,
            b"The page is for this machine, and this request came through a proxy.\n",
        )
    client = await program.connect()
    assert (await client.ask(upgrade(TRACE, line, cookie))).status == 403
    other = await program.connect()
    assert (await other.ask(get("/", line))).body == b"hi there"
    assert (await other.ask(upgrade("/room", line))).status == 101


@pytest.mark.parametrize("way", ["--record", "-v", "the page"])
async def test_the_token_is_written_only_in_the_line_with_the_link(
    start_program: StartProgram, tmp_path: Path, way: str
) -> None:
    record = tmp_path / "record.jsonl"
    program = start_program(
        *(["--record", str(record)] if way == "--record" else []), *(["-vv"] if way == "-v" else [])
    )
    link, cookie = program.page_link(), program.page_cookie()
    token = link.partition("=")[2]
    shown = ""
    with trio.fail_after(PATIENCE_S):
        watching = await program.connect()
        await watching.send(upgrade(TRACE, cookie).replace(b"Host: localhost", f"Host: {program.address}".encode()))
        assert (await watching.answer()).status == 101
        await watching.frame()
        for target in (f"/?token={token}", f"/room?a=b&token={token}", f"/_rawws/trace?token={token}#x"):
            await ask(program, target, f"Referer: {link}", cookie, "Authorization: Bearer " + token)
        client = await program.connect()
        await client.ask(upgrade(f"/room?token={token}", cookie, f"Referer: {link}"))
        await client.send(close())
        if way == "the page":
            while "the HTTP connection" not in shown or "closed by the client" not in shown:
                shown += (await watching.frame()).payload.decode()
            assert shown.count("GET /room?a=b&token=(masked) HTTP/1.1") == 1
            assert f"Referer: {link.partition('=')[0]}=(masked)" in shown
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    shown += record.read_text() if way == "--record" else ""
    shown += "\n".join(line for line in program.lines if " open http" not in line)
    assert token not in shown
    assert "/room?a=b&token=(masked)" in shown


# The page in the log


def stories(program: Program) -> dict[int, list[str]]:
    """Return the log's lines by the number of their connection."""
    by_connection: dict[int, list[str]] = {}
    for line in program.lines:
        number, _, text = line.partition(" #")[2].partition(" ")
        by_connection.setdefault(int(number), []).append(text.rstrip())
    return by_connection


async def test_requests_of_the_page_itself_are_not_logged_and_take_no_numbers(start_program: StartProgram) -> None:
    program = start_program("-v")
    token, cookie = program.page_link().partition("=")[2], program.page_cookie()
    host = f"Host: {program.address}".encode()
    with trio.fail_after(PATIENCE_S):
        browser = await program.connect()
        for target in (f"/?token={token}", "/_rawws/", "/_rawws/main.js", "/_rawws/icon.svg"):
            await browser.ask(get(target, cookie).replace(b"Host: localhost", host))
        watching = await program.connect()
        await watching.send(upgrade(TRACE, cookie).replace(b"Host: localhost", host))
        assert (await watching.answer()).status == 101
        await watching.frame()
        peer = await (await program.connect()).open("/room", then=close())
        await peer.frames_to_close()
        peer.hang_up()
        await browser.ask(get("/other"))  # on the connection that was the page's
        await browser.ask(get("/_rawws/main.js", cookie).replace(b"Host: localhost", host))
        browser.hang_up()
        watching.hang_up()
        await trio.to_thread.run_sync(program.wait_for_line, "#0 ! the page: ")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    by_connection = stories(program)
    assert sorted(by_connection) == [0, 1, 2]
    assert "= a page watches the traffic" in by_connection[0]
    assert by_connection[1][1] == "< GET /room HTTP/1.1"
    assert by_connection[2][1] == "< GET /other HTTP/1.1"
    assert not [line for line in program.lines if "/_rawws/" in line or "GET /?token=" in line]


async def test_refused_requests_for_the_page_are_logged(start_program: StartProgram) -> None:
    program = start_program("-v")
    cookie = program.page_cookie()
    asked = [
        ("GET", "/_rawws/", "Accept: */*"),
        ("GET", "/_rawws/main.js", "Cookie: rawws-page=guessed"),
        ("GET", "/_rawws/?token=guessed", "Accept: */*"),
        ("GET", "/?token=guessed", BROWSER),
        ("DELETE", "/_rawws/", cookie),
        ("GET", "/_rawws/../etc/passwd", cookie),
        ("GET", "/_rawws/", f"{cookie}\r\nX-Forwarded-For: 192.0.2.1"),
    ]
    for method, target, line in asked:
        await ask(program, target, *line.split("\r\n"), method=method)
    for line in (cookie, f"{cookie}\r\nOrigin: http://evil.example"):
        client = await program.connect()
        request = upgrade(TRACE, *line.split("\r\n")).replace(b"Host: localhost", b"Host: evil.example")
        assert (await client.ask(request)).status in (403, 421)
    host = f"Host: {program.address}".encode()
    client = await program.connect()
    foreign = upgrade(TRACE, cookie, "Origin: http://evil.example").replace(b"Host: localhost", host)
    assert (await client.ask(foreign)).status == 403
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    by_connection = stories(program)
    assert sorted(by_connection) == list(range(11))
    for number, (method, target, _) in enumerate(asked, 1):
        shown = target.replace("guessed", "(masked)")
        assert f"< {method} {shown} HTTP/1.1" in by_connection[number]
    assert all(any("> HTTP/1.1 " in line for line in by_connection[number]) for number in range(1, 11))
    assert any("refused with 403 (origin)" in line for line in by_connection[10])


async def test_guessed_tokens_are_logged_without_v_too(start_program: StartProgram) -> None:
    program = start_program()
    targets = ("/_rawws/", "/_rawws/?token=guessed", "/_rawws/trace", "/?token=guessed")
    for target in targets:
        await ask(program, target)
    await ask(program, "/_rawws/", program.page_cookie())
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    by_connection = stories(program)
    del by_connection[0]
    written = {number: [re.sub(r" in .*", "", line) for line in lines] for number, lines in by_connection.items()}
    assert written == {
        1: ["= GET /_rawws/: 403"],
        2: ["= GET /_rawws/?token=(masked): 403"],
        3: ["= GET /_rawws/trace: 403"],
        4: ["= GET /?token=(masked): 200"],
    }


async def test_connections_of_the_page_count_until_they_end(start_program: StartProgram) -> None:
    program = start_program("--max-connections", "2")
    cookie, host = program.page_cookie(), f"Host: {program.address}".encode()

    async def ask_until_there_is_room(request: bytes) -> tuple[Client, int]:
        while True:
            client = await program.connect()
            if (status := (await client.ask(request.replace(b"Host: localhost", host))).status) != 503:
                return client, status
            client.hang_up()

    with trio.fail_after(PATIENCE_S):
        for number in range(4):
            watching, status = await ask_until_there_is_room(upgrade(TRACE, cookie))
            assert status == 101
            browser, status = await ask_until_there_is_room(get("/_rawws/", cookie))
            assert status == 200
            if number % 2:
                assert (await browser.ask(get("/other"))).status == 200
            assert (await (await program.connect()).answer()).status == 503
            watching.hang_up()
            browser.hang_up()


# Records that the page gets


TOKEN = "secret"


def trace_of(server: Server) -> str:
    return f"ws://{LOOPBACK}:{server.port}{TRACE}"


def cookie_of(server: Server) -> dict[str, str]:
    return {"Cookie": f"rawws-page-{server.port}={TOKEN}"}


@asynccontextmanager
async def watched(nursery: trio.Nursery) -> AsyncIterator[tuple[Server, rawws.WebSocket, Tracer]]:
    """A hub with its page, and the page's WebSocket."""
    tracer = Tracer()
    page = Page(tracer, About(""), access=Access(TOKEN))
    start = partial(
        rawws.serve, rawws.Hub(), 0, host=LOOPBACK, http=page.before(HelloApp()), routes=page.routes, tracer=tracer
    )
    server: Server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(trace_of(server), max_size=None, headers=cookie_of(server)) as trace:
            assert "about" in json.loads(await trace.recv())
            yield server, trace, tracer
    server.stop()


async def records_until(trace: rawws.WebSocket, kind: str) -> list[dict[str, Any]]:
    """Return the records that the page gets, up to and with the first of a kind."""
    records: list[dict[str, Any]] = []
    while not any(record["kind"] == kind for record in records):
        records += json.loads(await trace.recv()).get("records", [])
    return records


async def test_a_page_gets_a_list_of_the_connections_that_are_open_already(nursery: trio.Nursery) -> None:
    tracer = Tracer()
    page = Page(tracer, About(""), access=Access(TOKEN))

    async def handler(ws: rawws.WebSocket) -> None:
        async for _ in ws:
            pass

    hub = rawws.Hub()
    routes: dict[str, Any] = {**page.routes, "/shout": handler}
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=rawws.rooms(hub), routes=routes, tracer=tracer)
    server: Server = await nursery.start(start)

    async def hello() -> dict[str, Any]:
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as trace:
            greeting: dict[str, Any] = json.loads(await trace.recv())
            return greeting

    with trio.fail_after(PATIENCE_S):
        at = f"ws://{LOOPBACK}:{server.port}"
        async with rawws.connect(f"{at}/room?a=b"), rawws.connect(f"{at}/shout"):
            reader = await Client.unconnected().connect(server.port)
            await reader.send(get("/room", "Accept: text/event-stream"))
            while server.peer_count < 3:
                await trio.sleep(0.01)
            greeting = await hello()
            assert [(each["path"], each["websocket"]) for each in greeting["open"]] == [
                *(("/room", True), ("/shout", True), ("/room", False)),
            ]
            numbers = [each["connection"] for each in greeting["open"]]
            assert numbers == sorted(numbers)
            assert greeting["open"][2]["from"] == "{}:{}".format(*reader.stdlib_socket.getsockname())
            assert greeting["unlisted"] == 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(feed, "KEPT_CONNECTIONS", 1)
                greeting = await hello()
            assert [each["connection"] for each in greeting["open"]] == numbers[-1:]
            assert greeting["unlisted"] == 2
            reader.reset()
        while greeting["open"]:
            greeting = await hello()
        assert greeting["unlisted"] == 0
    server.stop()


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
        assert (sent["text"], answer["text"]) == ("hello", None)  # its bytes alone might refer to earlier messages
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


async def test_a_page_that_asks_and_does_not_read_is_held_back(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, _, _):
        asker = await Client.unconnected().connect(server.port)
        await asker.open(TRACE, f"Cookie: rawws-page={TOKEN}")
        question = text('{"ask": 1, "for": "cases"}')
        await asker.send(question)
        while b'"cases"' not in await asker.take_some():
            pass
        sent = 0
        # The server accepts no more than the buffers on the way hold.
        while (took := asker.try_send(question * 1000)) and sent < 32 * MIB:
            sent += took
            await wait_all_tasks_blocked()
        assert sent < 16 * MIB
        asker.reset()


async def test_a_case_is_tried_without_a_proxy(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    tried = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    page = Page(Tracer(), About(f"ws://{LOOPBACK}:{tried.port}"), access=Access(TOKEN))
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, routes=page.routes))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(trace_of(server), proxy=None, headers=cookie_of(server)) as trace:
            await trace.recv()
            await trace.send('{"ask": 1, "for": "case", "name": "handshake"}')
            assert json.loads(await trace.recv())["verdict"] == "good"
    server.stop()
    tried.stop()


async def test_the_feed_itself_is_not_shown(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, tracer):
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as other:
            await other.recv()
            await other.send('{"ask": 2, "for": "cases"}')
            await other.recv()
        kinds = [record["kind"] for record in await records_until(trace, "end")]
        assert "frame" not in kinds
        assert tracer.is_watched
    while tracer.is_watched:
        await trio.sleep(0.01)


async def test_the_first_record_is_sent_at_once_and_the_next_ones_together(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async with watched(nursery) as (_, trace, tracer):
        await wait_all_tasks_blocked()
        mock_clock.jump(feed.GATHER_S)  # since the hello
        await wait_all_tasks_blocked()
        for number in (1, 2, 3):
            tracer.opened(number, "somewhere")
            await wait_all_tasks_blocked()
        batches = [json.loads(await trace.recv())["records"]]
        mock_clock.jump(feed.GATHER_S)
        batches.append(json.loads(await trace.recv())["records"])
        assert [[record["connection"] for record in records] for records in batches] == [[1], [2, 3]]


# The cost of watching


async def test_excess_records_are_dropped_and_counted(
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
            sent = len(records) - 1
            assert sent == 100
            assert sent + lost >= 1000
            # The dropped records may have announced connections that began or ended.
            listed = json.loads(await trace.recv())
            assert ([each["path"] for each in listed["open"]], listed["unlisted"]) == (["/room"], 0)
            # Records are sent again when there are fewer.
            await ws.send("and now?")
            await ws.recv()
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            assert "'and now?'" in [record.get("preview") for record in await records_until(trace, "frame")]


async def test_ends_of_connections_are_sent_later_if_there_are_too_many_at_once(
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
            records += json.loads(await trace.recv()).get("records", [])
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
    async with watched(nursery) as (server, _, _):  # the page's records are not read
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


def test_the_page_names_directions_as_the_log_does() -> None:
    marks = files("rawws.page").joinpath("static", "marks.js").read_text("utf-8")
    directions = {role.name.lower(): words for role, words in DIRECTIONS.items()}
    for name, expected in (("DIRECTIONS", directions), ("MARKS", {"received": IN, "sent": OUT})):
        (pairs,) = re.findall(rf"export const {name} = {{ (.*) }};", marks)
        assert dict(re.findall(r'(\w+): "([^"]*)"', pairs)) == expected


async def test_a_record_of_a_frame_has_the_message_that_ends_with_it(nursery: trio.Nursery) -> None:
    deflated = Deflater(15).deflate(b"hello " * 1000)
    said = [
        encode_frame(Opcode.TEXT, deflated[:5], fin=False, rsv=RSV1, mask_key=bytes(4)),
        encode_frame(Opcode.CONTINUATION, deflated[5:], mask_key=bytes(4)),
        encode_frame(Opcode.TEXT, b"as it is", mask_key=bytes(4)),
        encode_frame(Opcode.CLOSE, b"", mask_key=bytes(4)),
    ]
    async with watched(nursery) as (server, trace, _):
        client = await Client(socket.socket()).connect(server.port)
        await client.open("/room", "Sec-WebSocket-Extensions: permessage-deflate", then=b"".join(said))
        records = await records_until(trace, "end")
        client.hang_up()
    begun, ended, plain, _ = (each for each in records if each["kind"] == "frame" and each["sender"] == "client")
    assert "text" not in begun
    assert ended["text"] == "hello " * 682 + "hell"
    assert ended["preview"] == f"'{'hello ' * 12}hel…'"
    assert "message_size" not in ended
    assert ("text" in plain, plain["preview"]) == (False, "'as it is'")


# Routes


async def test_a_path_can_have_its_own_handler(nursery: trio.Nursery) -> None:
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
