"""A server behind real proxies: local and remote clients, health checks, and forwarded header fields."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from rawws.page import TRACE
from rawws.wire.frames import Opcode
from tests.proxies import NAMES, check_result, proxy
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get, text, upgrade

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


async def test_the_page_is_shown_behind_a_proxy_with_the_token(site: tuple[Program, int]) -> None:
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
        received = b""
        while b"hello".hex().encode() not in received:
            received += (await watching.frame()).payload


async def test_a_post_may_do_as_much_as_a_websocket_and_foreign_pages_may_do_neither(
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


async def test_a_token_for_publishing_is_required_behind_a_proxy_too(
    start_program: StartProgram, tmp_path: Path
) -> None:
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
            assert (await client.ask(get("/_rawws/", BROWSER))).status == 404
        async with visitor(port) as client:
            assert (await client.ask(post())).status == 403


# Health checks and headers of proxies


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
async def test_the_log_names_the_setting_that_turns_the_proxy_protocol_off(
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


# The address of an application, as proxies report it

APP = """
from fastapi import FastAPI, Request

app = FastAPI({})

@app.get("/users/")
async def users(request: Request):
    return dict(url=str(request.url), link=str(request.url_for("users")), client=request.client.host)
"""
TO_BE_ADDED = {
    "nginx": [
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto https;",  # as $scheme is on a port with TLS
    ],
    "haproxy": ["option forwardfor", "http-request set-header X-Forwarded-Proto https"],
}
# HAProxy writes Forwarded by itself from version 2.8 on.
FORWARDED = [
    "http-request del-header X-Forwarded-For",
    "http-request del-header X-Forwarded-Proto",
    "http-request set-header Forwarded for=%[src];proto=https",
]


@asynccontextmanager
async def behind_tls(port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Act as the clients of a site whose proxy reports that it terminates TLS."""
    async with httpx.AsyncClient(
        base_url=f"http://{LOOPBACK}:{port}", headers={"Host": "site.example"}, trust_env=False, timeout=PATIENCE_S
    ) as client:
        yield client


def start_app(start_program: StartProgram, folder: Path, *flags: str, own_root_path: str = "") -> Program:
    pytest.importorskip("fastapi")
    (folder / "its_app.py").write_text(APP.format(f"root_path={own_root_path!r}" if own_root_path else ""))
    return start_program("--app", "its_app:app", "--allow-host", "site.example", *flags, directory=folder)


@pytest.mark.parametrize(
    ("name", "adding"),
    [("nginx", TO_BE_ADDED["nginx"]), ("haproxy", TO_BE_ADDED["haproxy"]), ("haproxy", FORWARDED)],
    ids=["nginx", "haproxy", "forwarded"],
)
async def test_an_application_behind_a_proxy_that_ends_tls_knows_its_scheme(
    start_program: StartProgram, tmp_path: Path, name: str, adding: list[str]
) -> None:
    program = start_app(start_program, tmp_path, "--trusted-proxy", LOOPBACK)
    with proxy(name, program.port, tmp_path, *adding) as port:
        async with behind_tls(port) as client:
            led = await client.get("/users")
            assert (led.status_code, led.headers["location"]) == (307, "https://site.example/users/")
            # LOOPBACK is a proxy's address, and the nearest one that isn't would be the client's.
            answer = {"url": "https://site.example/users/", "link": "https://site.example/users/", "client": LOOPBACK}
            assert (await client.get("/users/")).json() == answer
            spoofed = {"X-Forwarded-Proto": "http", "Forwarded": "for=203.0.113.5;proto=http"}
            assert (await client.get("/users/", headers=spoofed)).json() == answer
        async with behind_tls(program.port) as local:  # from a trusted address too, and without a proxy in between
            assert (await local.get("/users")).headers["location"] == "http://site.example/users/"


async def test_a_client_can_not_choose_the_scheme_where_no_proxy_is_trusted(
    start_program: StartProgram, tmp_path: Path
) -> None:
    program = start_app(start_program, tmp_path)
    with proxy("nginx", program.port, tmp_path, *TO_BE_ADDED["nginx"]) as port:
        async with behind_tls(port) as client:
            assert (await client.get("/users")).headers["location"] == "http://site.example/users/"


@pytest.mark.parametrize("is_taken_off", [True, False])
async def test_an_application_below_a_path_of_the_site_has_it_in_its_links(
    start_program: StartProgram, tmp_path: Path, is_taken_off: bool
) -> None:
    trusted = ("--trusted-proxy", LOOPBACK)
    if is_taken_off:
        program = start_app(start_program, tmp_path, *trusted, "--root-path", "/api")
    else:  # the application finds it in the path, once that knows of it
        program = start_app(start_program, tmp_path, *trusted, own_root_path="/api")
    path = "/" if is_taken_off else ""
    with proxy("nginx", program.port, tmp_path, *TO_BE_ADDED["nginx"], location="/api/", path=path) as port:
        async with behind_tls(port) as client:
            url = "https://site.example/api/users/"
            assert (await client.get("/api/users")).headers["location"] == url
            answer = (await client.get("/api/users/")).json()
            assert (answer["url"], answer["link"]) == (url, url)
            page = await client.get("/api/docs")
            assert "url: '/api/openapi.json'" in page.text
            schema = (await client.get("/api/openapi.json")).json()
            assert schema["servers"] == [{"url": "/api"}]
            assert list(schema["paths"]) == ["/users/"]


async def test_a_page_of_the_site_may_connect_through_its_proxy(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program("--trusted-proxy", LOOPBACK, "--allow-host", "site.example", "--hello", "")
    with proxy("nginx", program.port, tmp_path, *TO_BE_ADDED["nginx"]) as port:
        for origin, status in (("https://site.example", 101), ("https://evil.example", 403)):
            async with visitor(port) as client:
                request = upgrade("/room", f"Origin: {origin}", "X-Forwarded-Host: evil.example")
                answer = await client.ask(request.replace(b"Host: localhost", b"Host: site.example"))
                assert answer.status == status
