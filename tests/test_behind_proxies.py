"""Behind real proxies: a stranger looks like a local program where the proxy adds no header; checks; what it adds."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rawws.page import TRACE
from rawws.wire.frames import Opcode
from tests.proxies import NAMES, check_result, proxy
from tests.serving import LOOPBACK, PATIENCE_S, Client, Program, StartProgram, get, text, upgrade

BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"


@pytest.fixture(params=NAMES)
def site(request: pytest.FixtureRequest, start_program: StartProgram, tmp_path: Path) -> Iterator[tuple[Program, int]]:
    """A program with its defaults, and the port of a proxy in front of it."""
    program = start_program("--hello", "")
    with proxy(request.param, program.port, tmp_path) as port:
        yield program, port


@asynccontextmanager
async def visitor(port: int) -> AsyncIterator[Client]:
    with trio.fail_after(PATIENCE_S):
        client = await Client(socket.socket()).connect(port)
        try:
            yield client
        finally:
            client.stdlib_socket.close()


def post(*lines: str) -> bytes:
    body = "hello"
    return get("/room", "Content-Type: text/plain", f"Content-Length: {len(body)}", *lines, method="POST") + b"hello"


async def test_a_stranger_is_shown_nothing_that_others_have_sent(site: tuple[Program, int]) -> None:
    _, port = site
    for target, status in (("/", 200), ("/_rawws/", 403), ("/_rawws/main.js", 403), ("/_rawws/?token=guess", 403)):
        async with visitor(port) as client:
            answer = await client.ask(get(target, BROWSER))
            assert answer.status == status
            assert b"<" not in answer.body
    for lines in ([], ["Origin: http://localhost"], ["Cookie: rawws-page=guess"]):
        async with visitor(port) as client:
            assert (await client.ask(upgrade(TRACE, *lines))).status == 403


async def test_with_the_token_the_page_is_shown_there_too(site: tuple[Program, int]) -> None:
    program, port = site
    token = program.page_link().partition("=")[2]
    async with visitor(port) as client:
        led = await client.ask(get(f"/?token={token}", BROWSER))
        assert led.status == 303
    cookie = f"Cookie: {led.headers['set-cookie'].partition(';')[0]}"
    async with visitor(port) as client:
        assert b"<title>rawws" in (await client.ask(get("/_rawws/", cookie))).body
    async with visitor(port) as watching, visitor(port) as client:
        assert (await watching.ask(upgrade(TRACE, cookie))).status == 101
        await watching.frame()
        await client.open("/room", then=text("hello"))
        told = b""
        while b"'hello'" not in told:
            told += (await watching.frame()).payload


async def test_a_post_may_do_what_a_websocket_from_the_same_place_may_and_pages_of_others_neither(
    site: tuple[Program, int],
) -> None:
    _, port = site
    async with visitor(port) as peer, visitor(port) as client:
        await peer.open("/room", then=text("by WebSocket"))
        assert (await peer.frame()).payload == b"by WebSocket"
        assert (await client.ask(post())).status == 202
        assert await peer.frame() == (Opcode.TEXT, b"hello")
    for lines in (["Origin: https://evil.example"], ["Origin: null"], ["Sec-Fetch-Site: cross-site"]):
        async with visitor(port) as client:
            assert (await client.ask(post(*lines))).status == 403
    async with visitor(port) as client:
        assert (await client.ask(upgrade("/room", "Origin: https://evil.example"))).status == 403


async def test_a_token_for_publishing_is_asked_of_everybody(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program("--publish-token", "secret")
    with proxy("nginx", program.port, tmp_path) as port:
        async with visitor(port) as client:
            assert (await client.ask(post())).status == 401
        async with visitor(port) as client:
            assert (await client.ask(post("Authorization: Bearer secret"))).status == 202


async def test_a_trusted_proxy_has_the_page_and_publishing_off(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program("--trusted-proxy", LOOPBACK)
    with proxy("haproxy", program.port, tmp_path) as port:
        async with visitor(port) as client:
            assert (await client.ask(get("/_rawws/", BROWSER))).body == b"hi there"
        async with visitor(port) as client:
            assert (await client.ask(post())).status == 403


# What proxies ask and send themselves


@pytest.mark.parametrize("check", ["option httpchk", "option httpchk GET /healthz", "option httpchk HEAD /readyz"])
async def test_haproxy_keeps_a_server_whose_check_is_answered(
    start_program: StartProgram, tmp_path: Path, check: str
) -> None:
    program = start_program()
    with proxy("haproxy", program.port, tmp_path, check, options="check inter 100"), trio.fail_after(PATIENCE_S):
        while not (result := check_result(tmp_path)):
            await trio.sleep(0.05)
        assert result == "L7OK"


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_the_proxy_protocol_is_told_to_the_operator_with_what_turns_it_off(
    start_program: StartProgram, tmp_path: Path, option: str
) -> None:
    program = start_program()
    with proxy("haproxy", program.port, tmp_path, options=option) as port:
        async with visitor(port) as client:
            answer = await client.ask(get("/"))
        assert (answer.status, answer.body) == (
            400,
            b"This server does not speak the PROXY protocol, which a proxy in front of it has sent.\n",
        )
    line = program.wait_for_line("(proxy_protocol)")
    assert "WARNING" in line
    assert "turn it off in the proxy (nginx: proxy_protocol; HAProxy: send-proxy, send-proxy-v2)" in line
    (tmp_path / "without").mkdir()
    with proxy("haproxy", program.port, tmp_path / "without") as port:
        async with visitor(port) as client:
            assert (await client.ask(get("/"))).body == b"hi there"
