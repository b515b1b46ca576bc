"""The page for web pages: its lines run in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser import launch, need_chromium
from tests.manual.howto.walk import Walk
from tests.serving.machine import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Page


class Console:
    """A browser's console, into which a reader pastes the lines of the page."""

    def __init__(self, tab: Page) -> None:
        self.tab = tab
        self.logged: list[str] = []
        tab.on("console", lambda message: self.logged.append(message.text))
        tab.on("pageerror", lambda error: self.logged.append(str(error)))

    def paste(self, script: str) -> None:
        self.tab.evaluate(f"() => {{ {script} }}")

    def wait_for(self, *lines: str) -> None:
        """Wait until these lines are logged, in any order and among others."""
        for _ in range(int(PATIENCE_S * 100)):
            if all(line in self.logged for line in lines):
                return
            self.tab.wait_for_timeout(10)
        pytest.fail(f"the console has {self.logged}, and not all of {lines}")

    def wait_for_beginning(self, beginning: str) -> None:
        """Wait until a line that begins so is logged."""
        for _ in range(int(PATIENCE_S * 100)):
            if any(line.startswith(beginning) for line in self.logged):
                return
            self.tab.wait_for_timeout(10)
        pytest.fail(f"the console has {self.logged}, and none that begins with {beginning}")

    def wait_for_all(self, *lines: str) -> None:
        """Wait until exactly these lines are logged."""
        self.wait_for(lines[-1])
        assert self.logged == [*lines]


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    need_chromium()
    from playwright.sync_api import sync_playwright

    scripts: list[str] = []
    walk.follow("howto/browser", js=scripts.append)
    socket, resuming, events, post = scripts
    room = f"http://localhost:{walk.port('8080')}"
    with sync_playwright() as playwright:
        browser = launch(playwright)
        console = Console(browser.new_page())
        console.tab.goto(room)
        console.paste(socket)
        console.wait_for("socket: hello")
        console.paste(events)
        console.tab.wait_for_function("events.readyState === EventSource.OPEN")
        console.paste(post)
        console.wait_for("socket: posted", "event: posted")
        console.wait_for_beginning("id: ")
        _check_resuming(Console(browser.new_page()), resuming, room)


def _check_resuming(console: Console, script: str, server: str) -> None:
    assert len(script.splitlines()) <= 15
    console.tab.goto(server)
    # The test ends the connection from outside, and says when the script may connect again.
    console.paste(
        "window.WebSocket = class extends WebSocket { constructor(...a) { super(...a); window.last = this } };"
        "const real = window.setTimeout;"
        "window.setTimeout = (call, ms) => ms === 1000 ? (window.again = call) : real(call, ms)"
    )
    console.paste(script)
    console.tab.wait_for_function("last.readyState === 1")
    publish = _publisher(f"{server}/room/x")
    publish("one")
    console.wait_for_all("one")
    console.paste("last.close()")
    console.tab.wait_for_function("!!window.again")
    publish("two\nlines")
    publish("a binary message", "application/octet-stream")
    publish("three")
    console.paste("again()")
    console.wait_for_all("one", "two\nlines", "three")


def _publisher(url: str) -> Callable[..., None]:
    def publish(message: str, kind: str = "text/plain") -> None:
        httpx.post(url, content=message, headers={"Content-Type": kind}, trust_env=False).raise_for_status()

    return publish
