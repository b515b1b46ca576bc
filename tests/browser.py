"""A headless Chromium, for the tests that need a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.serving.machine import PATIENCE_S, need

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def need_chromium() -> str:
    """Return the path of the browser; skip or fail the test if it or its driver is missing."""
    need(importlib.util.find_spec("playwright"), "playwright (pip install playwright)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    need(chromium, "chromium")
    assert chromium is not None
    return chromium


def launch(playwright: Playwright) -> Browser:
    """Start the browser. It ends when playwright is stopped."""
    return playwright.chromium.launch(executable_path=need_chromium(), args=FLAGS)


def browsing() -> Iterator[Browser]:
    """Start the browser for a fixture, whose scope says for how many tests, and end it after them."""
    need_chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        yield launch(playwright)


def need_node_module(name: str) -> Path:
    """Return the folder of an npm package."""
    given = os.environ.get("RAWWS_NODE_MODULES", "node_modules")
    folder = Path(given) / name
    need(folder.is_dir(), f"npm's {name} (npm install --no-save {name}, or RAWWS_NODE_MODULES=…/node_modules)")
    return folder
