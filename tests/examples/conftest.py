"""Fixtures for the tests of the examples: the running programs, and one browser for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import browsing, need_node_module
from tests.examples.running import Example, Run, Visit
from tests.serving.machine import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run examples, and end those that the test has left running with Ctrl-C."""
    started: list[Example] = []

    def start(name: str, *arguments: str) -> Example:
        started.append(Example(name, *arguments, cwd=tmp_path))
        return started[-1]

    yield start
    try:
        for example in started:
            example.stop()
    finally:
        for example in started:
            example.process.kill()
            example.process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    yield from browsing()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a page in a browser of its own. No test may leave an error in the console."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def visit(url: str, *, may_lose_server: bool = False, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1120, "height": 760}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not may_lose_server:
            page.on(
                "console",
                lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
            )
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which finds what people with a disability can't use."""
    return (need_node_module("axe-core") / "axe.min.js").read_text("utf-8")
