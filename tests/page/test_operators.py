"""The page's secret as that of an operator, on a server that only its own machine can reach."""

from __future__ import annotations

import json

import pytest

from rawws.page import Access
from rawws.page.operators import PageViewers
from rawws.wire.messages import Headers, Request
from tests.page.asking import ask
from tests.serving.programs import StartProgram

TOKEN = "page-token-1"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Host", "localhost:80"), ("Cookie", f"rawws-page-80={TOKEN}")], None),
        ([("Host", "127.0.0.1"), ("Authorization", f"Bearer {TOKEN}")], None),
        ([("Host", "localhost")], 401),
        ([("Host", "localhost"), ("Authorization", "Bearer page-token-2")], 401),
        ([("Host", "localhost:80"), ("Cookie", f"rawws-page-81={TOKEN}")], 401),
        ([("Host", "localhost"), ("Via", "1.1 x"), ("Authorization", f"Bearer {TOKEN}")], 403),
        ([("Host", "rebound.example:80"), ("Cookie", f"rawws-page-80={TOKEN}")], 403),
        ([("Authorization", f"Bearer {TOKEN}")], 403),
    ],
)
def test_a_viewer_of_the_page_on_this_machine_is_an_operator(fields: list[tuple[str, str]], status: int | None) -> None:
    refusal = PageViewers(Access(TOKEN)).refuse(Request("GET", "/_rawws/rooms", "1.1", Headers(fields)))
    assert (None if refusal is None else refusal.status) == status
    assert refusal is None or TOKEN not in refusal.advice


async def test_the_token_of_the_link_and_the_cookie_open_administration(start_program: StartProgram) -> None:
    program = start_program()
    token = program.page_link().partition("=")[2]
    for line in (program.page_cookie(), f"Authorization: Bearer {token}"):
        answer = await ask(program, "/_rawws/peers", line)
        assert (answer.status, json.loads(answer.body)) == (200, {"peers": [], "next": None})
    for lines in ([], ["Authorization: Bearer wrong"]):
        answer = await ask(program, "/_rawws/peers", *lines)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="administration"'
        assert b"the token of this server's page" in answer.body
    # A page on another port of this machine is of the same site, so the browser sends it the cookie.
    for line in ("Origin: http://127.0.0.1:1", "Origin: null", "Sec-Fetch-Site: same-site"):
        foreign = await ask(program, "/_rawws/peers?user=x", program.page_cookie(), line, method="DELETE")
        assert (foreign.status, b"Pages of other sites" in foreign.body) == (403, True)
        assert "access-control-allow-origin" not in foreign.headers
    link = await ask(program, f"/_rawws/peers?token={token}")
    assert link.status == 401, "a link opens the page alone"


async def test_the_page_of_a_server_behind_a_proxy_opens_no_administration(start_program: StartProgram) -> None:
    program = start_program("--page-token", TOKEN, "--page", "--trusted-proxy", "10.0.0.1")
    answer = await ask(program, "/_rawws/rooms", f"Authorization: Bearer {TOKEN}")
    assert (answer.status, b"closed here" in answer.body) == (403, True), "a proxy may bring strangers here"
