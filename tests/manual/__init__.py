"""The manual's documents, which tests hold to what the program does.

Every block of Python, JavaScript and commands in a document is run by a test. `registry.py` says by which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "rawws").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "tests")),
    *sorted((ROOT / ".github").glob("*.md")),
]
MANUAL = "".join(document.read_text("utf-8") for document in DOCUMENTS)

_FENCE = re.compile(r"(?:^<!-- ([\w ]+) -->\n)?^ *```(\w*)$\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    text: str
    note: str  # the comment before it


def page(topic: str) -> str:
    """Return the text of a page of the manual, such as ``howto/rooms``."""
    return (ROOT / "rawws" / "docs" / f"{topic}.md").read_text("utf-8")


def blocks(text: str, *languages: str) -> list[Block]:
    """Return a document's fenced blocks in these languages, or in any."""
    found = [Block(language, content, note) for note, language, content in _FENCE.findall(text)]
    return [block for block in found if block.language in languages or not languages]


def block(text: str, language: str, part: str) -> str:
    """Return the one block of a document in a language that contains this part."""
    (found,) = [block.text for block in blocks(text, language) if part in block.text]
    return found


def commands(session: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console session, without its ``$``, and its output."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def name_of(document: Path) -> str:
    """Return a document's path in the repository."""
    return document.relative_to(ROOT).as_posix()
