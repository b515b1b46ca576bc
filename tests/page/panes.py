"""The page's panes, as a test uses them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.serving.programs import Program

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

Visit = Callable[..., "Page"]
HELLO = "Hello! Message From Server!!"
NAVIGATION = ("Connections", "Frames", "Details", "Send", "Other ways in", "Break it")


def go(page: Page, pane: str) -> None:
    """Show a pane, or bring the keyboard to it."""
    page.get_by_role("navigation").get_by_role("link", name=pane, exact=True).click()


def dial(page: Page, url: str | None = None) -> None:
    """Press "Connect", with another URL than the one that is offered if it is given."""
    if url is not None:
        page.get_by_role("textbox", name="URL").fill(url)
    page.get_by_role("button", name="Connect", exact=True).click()


def connect(page: Page, peers: int = 1) -> Locator:
    """Connect peers on the page, and wait until the server knows each of them too. Return the rows of open ones."""
    from playwright.sync_api import expect

    for _ in range(peers):
        dial(page)
    rows = page.locator(".connection[data-state=open]", has=page.locator(".badge"))
    expect(rows).to_have_count(peers)
    expect(rows.locator(".number")).to_have_count(peers)
    return rows


def peer(page: Page, name: str) -> Locator:
    """Return the row of a peer of the page."""
    return page.locator(".connection", has=page.locator(".badge", has_text=re.compile(f"^{name}$")))


def connection(page: Page, text: str) -> Locator:
    """Return the row of a connection, by a text in it."""
    return page.locator(".connection", has_text=text)


def send(page: Page, text: str, kind: str = "text", sender: str = "") -> None:
    page.get_by_role("radio", name=kind, exact=True).check()
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("combobox", name="From").select_option(sender)
    page.get_by_role("button", name="Send", exact=True).click()


def frame_rows(page: Page) -> Locator:
    return page.locator("#table .rows .row")


def cuts(page: Page) -> Locator:
    return page.locator("#table .row.cut")


def filter_by(page: Page, line: str) -> None:
    page.get_by_role("searchbox", name="Filter").fill(line)


def details(page: Page) -> Locator:
    return page.locator("#details")


def received(page: Page) -> Locator:
    """Return the messages that the peer in the details has received."""
    return details(page).locator("li.received")


def watch(context: BrowserContext, program: Program) -> Page:
    """Show the page of a program in a tab."""
    page = context.new_page()
    page.goto(program.page_link())
    page.locator("#watch[data-state=watching]").wait_for()
    return page
