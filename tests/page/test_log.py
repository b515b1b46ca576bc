"""The page in the log: its own requests aren't there, and its token is nowhere but in the line with the link."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import trio

from rawws.page import TRACE
from tests.page.asking import BROWSER, ask
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import close, get, upgrade


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
        await client.frames_to_close()
        client.hang_up()  # otherwise the server waits for its part of the end
        if way == "the page":
            while "the HTTP connection" not in shown or "closed by the client" not in shown:
                shown += (await watching.frame()).payload.decode()
            assert shown.count("GET /room?a=b&token=(masked) HTTP/1.1") == 1
            assert f"Referer: {link.partition('=')[0]}=(masked)" in shown
        watching.hang_up()
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    shown += record.read_text() if way == "--record" else ""
    shown += "\n".join(line for line in program.lines if " open http" not in line)
    assert token not in shown
    assert "/room?a=b&token=(masked)" in shown


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
        client.hang_up()
    host = f"Host: {program.address}".encode()
    client = await program.connect()
    foreign = upgrade(TRACE, cookie, "Origin: http://evil.example").replace(b"Host: localhost", host)
    assert (await client.ask(foreign)).status == 403
    client.hang_up()
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
