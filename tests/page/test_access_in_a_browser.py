"""Access to the page in a real browser: the link, the cookie, and pages of other sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.page.panes import Visit, connect, watch
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


def test_the_link_leads_to_the_page_and_leaves_the_token_nowhere(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program()
    token = program.page_link().partition("=")[2]
    seen: list[tuple[str, str]] = []

    def note(page: Page) -> None:
        page.on("request", lambda request: seen.append((request.url, request.headers.get("referer", ""))))

    page = visit(program, prepare=note)
    assert page.url == f"http://{program.address}/_rawws/"
    assert page.evaluate("document.cookie + document.referrer") == ""
    assert [url for url, _ in seen if token in url] == [program.page_link()]
    assert {referer for _, referer in seen} == {""}
    # Heads of later, watched connections don't have it either.
    page.reload()
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    connect(page)
    expect(page.locator(".head.client")).to_contain_text("GET /room HTTP/1.1")
    assert "rawws-page" not in page.locator(".head.client").inner_text()


def test_a_page_of_another_port_may_not_watch_though_its_cookies_are_the_same(
    start_program: StartProgram, context: BrowserContext
) -> None:
    program, other = start_program(), start_program("--no-page")
    watch(context, program)
    page = context.new_page()
    page.goto(f"http://{other.address}/")
    came = page.evaluate(
        """address => new Promise((resolve) => {
          const socket = new WebSocket(`ws://${address}/_rawws/trace`);
          socket.onopen = () => resolve("open");
          socket.onclose = () => resolve("closed");
        })""",
        program.address,
    )
    assert came == "closed"
    read = page.evaluate(
        """address => fetch(`http://${address}/_rawws/`, { credentials: "include" })
          .then((answer) => answer.text(), () => "kept back")""",
        program.address,
    )
    assert read == "kept back"


@pytest.mark.parametrize("place", ["http://localhost:{port}/", "data:text/html,x"])
def test_a_link_in_a_page_of_another_site_leads_there_too(
    start_program: StartProgram, context: BrowserContext, place: str
) -> None:
    program, other = start_program(), start_program("--no-page")
    page = context.new_page()
    page.goto(place.format(port=other.port))  # to a browser it is another site than 127.0.0.1
    page.evaluate(
        """link => {
          const anchor = document.createElement("a");
          anchor.href = link;
          anchor.textContent = "the link in a terminal";
          document.body.append(anchor);
        }""",
        program.page_link(),
    )
    page.get_by_role("link").click()
    page.locator("#watch[data-state=watching]").wait_for()
