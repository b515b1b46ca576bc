"""The form of the manual: links that lead somewhere, tables that fit, blocks that tests run, and a short README."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manual import DOCUMENTS, ROOT, blocks, name_of
from tests.manual.registry import RUNNABLE, RUNS, Run

MAX_README_LINES = 200
MAX_CELL_CHARACTERS = 120

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


def prose(document: Path) -> Iterator[str]:
    """Yield the lines of a document that are in no fenced block."""
    fenced = False
    for line in document.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading.

    It is the heading's text in lower case, without anything but letters, digits, ``_``, ``-`` and spaces. Then each
    space is a hyphen.
    """
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(document: Path) -> frozenset[str]:
    """Return a document's anchors. A second heading of the same name has ``-1`` after it."""
    seen: Counter[str] = Counter()
    found = set()
    for line in prose(document):
        if heading := re.match(r"#{1,6} +(.*?) *#*$", line):
            name = slug(heading[1])
            found.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        found.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
    return frozenset(found)


def links(document: Path) -> Iterator[str]:
    """Yield the targets of a document's links and pictures that are not URLs."""
    text = re.sub(r"`[^`\n]+`", "", "\n".join(prose(document)))
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|srcset|href)="([^"\s]+)', text):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("The handshake, annotated", "the-handshake-annotated"),
        ("Test a server with `rawws check`", "test-a-server-with-rawws-check"),
        ("Why Sec-WebSocket-Accept is there", "why-sec-websocket-accept-is-there"),
        ("`--max-lag` and *others*", "--max-lag-and-others"),
        ("[Unreleased]", "unreleased"),
        ("Server → client: §5.1", "server--client-51"),
    ],
)
def test_the_anchor_of_a_heading_is_that_of_github(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            assert linked.suffix == ".md", f"{target}: only Markdown has anchors that can be checked"
            assert anchor in anchors(linked), target


@each_document
def test_tables_fit(document: Path) -> None:
    for line in prose(document):
        if line.lstrip().startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                assert len(cell.strip()) <= MAX_CELL_CHARACTERS, cell


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


def test_the_index_has_every_page() -> None:
    manual = ROOT / "rawws" / "docs"
    listed = {target.partition("#")[0] for target in links(manual / "README.md")}
    pages = {page.relative_to(manual).as_posix() for page in manual.rglob("*.md")} - {"README.md"}
    assert pages <= listed


def followed() -> set[str]:
    """Return the documents that a test follows from the beginning to the end."""
    tests = [file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
    topics = {topic for text in tests for topic in re.findall(r'\bwalk\.follow\("([\w/-]+)"', text)}
    return {f"rawws/docs/{topic}.md" for topic in topics}


FOLLOWED = followed()


def runnable(document: Path) -> dict[str, int]:
    """Return the number of a document's blocks that need a row, by language."""
    found = blocks(document.read_text("utf-8"), *RUNNABLE)
    if name_of(document) in FOLLOWED:
        found = [block for block in found if block.note == "has its own test"]
    counted = Counter(block.language for block in found if not is_of_decode(block.text))
    return {language: counted[language] for language in RUNNABLE}


def is_of_decode(session: str) -> bool:
    commands = re.findall(r"^\$ (.*)$", session, re.MULTILINE)
    return bool(commands) and all(command.startswith("rawws decode ") for command in commands)


@each_document
def test_every_block_is_run_by_a_test(document: Path) -> None:
    run = RUNS.get(name_of(document), Run(()))
    registered = {language: getattr(run, language) for language in RUNNABLE}
    assert runnable(document) == registered, (
        "tests/manual/registry.py has the numbers, and the tests that run the blocks"
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_tests_of_a_document_read_it(name: str) -> None:
    assert ROOT / name in DOCUMENTS
    topic = name.removeprefix("rawws/docs/").removesuffix(".md")
    tests = [(ROOT / "tests" / file).read_text("utf-8") for file in RUNS[name].by]
    assert any(f'"{topic}"' in text or f'"{name}"' in text for text in tests), f"none of these reads {topic}"
