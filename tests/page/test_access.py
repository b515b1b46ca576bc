"""Access to the page, and the right to watch."""

from __future__ import annotations

import pytest

from rawws.page import TRACE, About, Page
from rawws.tracing import Tracer
from rawws.wire.messages import Headers, Request
from tests.page.asking import BROWSER, ask
from tests.serving.programs import StartProgram
from tests.serving.wire import get, upgrade

NEEDED = (
    b"The page needs this server's token: open the link with ?token=\xe2\x80\xa6 that the server logged at its start.\n"
)

# Access to the page


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
    head = await ask(program, "/_rawws/styles/base.css", shown, method="HEAD")
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
