"""The examples, as the programs that they are, and their pages in a browser."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
from websockets.sync.client import ClientConnection, connect

import rawws.examples
from tests.serving.machine import LOOPBACK, PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = Path(rawws.examples.__file__).parent

# The output of a server that listens.
LISTENING = re.compile(r"listening on \w+://localhost:(\d+)")

PHONE_PX = 390


class Example:
    """A running example, and its output line by line."""

    def __init__(self, name: str, *arguments: str, cwd: Path) -> None:
        command = [sys.executable, "-u", "-W", "error", "-m", f"rawws.examples.{name}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
        self.lines: list[str] = []
        self.port = 0

    def next_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        assert line, self.process.stderr.read() if self.process.stderr is not None else ""
        self.lines.append(line)
        return line

    def wait_listening(self) -> Example:
        while not (found := LISTENING.match(self.next_line())):
            pass
        self.port = int(found[1])
        return self

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def stop(self) -> None:
        """End it with Ctrl-C, which every example takes without a traceback. Harmless if it has ended."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            _, err = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        assert (self.process.returncode, "Traceback" in err) == (0, False), err


Run = Callable[..., Example]
Visit = Callable[..., "Page"]


def dial(port: int, path: str = "/") -> ClientConnection:
    return connect(f"ws://{LOOPBACK}:{port}{path}", proxy=None)


def ask(port: int, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> httpx.Response:
    with httpx.Client(trust_env=False) as client:
        url = f"http://{LOOPBACK}:{port}{path}"
        return client.get(url) if body is None else client.post(url, content=body, headers=headers)


def check_looks(page: Page, axe: str) -> None:
    """Check a page in both colour schemes, on a phone: axe finds nothing serious, and nothing is wider than it."""
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": PHONE_PX, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_PX
    page.evaluate(axe)
    looks: tuple[tuple[Literal["light", "dark"], str], ...] = (("light", ""), ("dark", ", runOnly: ['color-contrast']"))
    for scheme, rules in looks:
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(f"axe.run(document, {{resultTypes: ['violations']{rules}}})")
        faults = [
            f"{scheme}: {violation['id']}: {node['html'][:200]} {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        assert not faults, "\n".join(faults)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(size)
