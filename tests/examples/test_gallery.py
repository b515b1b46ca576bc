"""All examples: their size, their list, and files that are safe to serve."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rawws.examples
from rawws.examples import __main__ as listing
from rawws.examples.common import page
from rawws.wire.messages import Headers, Request
from tests.examples.running import FOLDER
from tests.serving.machine import PATIENCE_S

SHARED = {"__init__", "__main__", "common"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)
FILES = sorted(path for path in (FOLDER / "static").rglob("*") if path.is_file())

WITHOUT_PAGE = {"echo", "sms_workers"}
MAX_PICTURE_BYTES = 80_000

# Ways to make markup of a text.
UNSAFE = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function")


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_short_and_listed(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text("utf-8").splitlines()) < 100
    assert f"``{name}``" in str(rawws.examples.__doc__)


def test_the_list_has_each_example_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    listing.main()
    out = capsys.readouterr().out
    listed = re.findall(r"^(\w+)\n    (\S.*\.)\n\n((?:        .+\n)+)", out, re.MULTILINE)
    assert sorted(name for name, _, _ in listed) == NAMES
    for name, _, commands in listed:
        assert f"python -m rawws.examples.{name}" in commands


def test_a_reader_that_has_seen_enough_of_the_list_causes_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        command = [sys.executable, "-m", "rawws.examples"]
        ran = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_no_page_makes_markup_of_a_text_or_leaves_its_origin(file: Path) -> None:
    source = file.read_text("utf-8")
    assert UNSAFE.search(source) is None
    assert re.search(r"""["'(]\s*(https?:|wss?:|//)""", source) is None
    # An absolute path would lead past the prefix under which a proxy serves the page.
    assert re.search(r"""(src|href)=["']/|from ["']/|(fetch|WebSocket|EventSource|URL)\(["'`]/""", source) is None


def test_the_manual_has_each_example_and_its_picture() -> None:
    manual = FOLDER.parent / "docs" / "examples.md"
    text = manual.read_text("utf-8")
    for name in NAMES:
        assert f"`python -m rawws.examples.{name}`" in text
    targets = [manual.parent / target for target in re.findall(r"\]\((\.\./[^)#]+)\)", text)]
    pictures = [target for target in targets if target.suffix == ".png"]
    assert [target for target in targets if not target.exists()] == []
    assert {picture.stem.removeprefix("example-") for picture in pictures} == {*NAMES} - WITHOUT_PAGE
    assert max(picture.stat().st_size for picture in pictures) <= MAX_PICTURE_BYTES


async def test_a_page_is_its_own_files_and_no_others() -> None:
    answer = page("chat")

    def request(path: str, method: str = "GET") -> Request:
        return Request(method, path, "1.1", Headers())

    home, script = await answer(request("/?room=x")), await answer(request("/chat.js"))
    assert home is not None
    assert home.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in home.headers["Content-Security-Policy"]
    assert script is not None
    assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
    for path in ("/game.js", "/../common.py", "/index.html", "//chat.js"):
        assert await answer(request(path)) is None
    assert await answer(request("/", "POST")) is None
