"""One Chromium for all tests of a process; each test has a browser context, and so cookies and storage, of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import browsing
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

# The browser's own complaint about a WebSocket that doesn't open, which some tests are about.
REFUSED = "WebSocket connection to "


@pytest.fixture(scope="package")  # a process can run one Playwright at a time, and other packages have their own
def browser() -> Iterator[Browser]:
    yield from browsing()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Shows the page of a program. No test may leave an error in the browser's console, except those it ``allows``."""
    complaints: list[str] = []
    contexts = []

    def visit(
        server: Program,
        prepare: Callable[[Page], object] | None = None,
        *,
        at: str = "",
        allows: str | None = None,
        **settings: Any,
    ) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))

        def listen(kind: str, text: str) -> None:
            if kind in ("error", "warning") and (allows is None or not text.startswith(allows)):
                complaints.append(text)

        page.on("console", lambda message: listen(message.type, message.text))
        if prepare is not None:
            prepare(page)
        page.goto(server.page_link() + at)
        page.locator("#watch[data-state=watching]").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A separate window, whose console may complain that no server answers."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context
    context.close()
