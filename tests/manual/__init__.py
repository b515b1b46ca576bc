"""The manual's documents, which tests hold to what the program does."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "rawws").rglob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "tests")),
    *sorted((ROOT / ".github").glob("*.md")),
]
MANUAL = "".join(document.read_text("utf-8") for document in DOCUMENTS)


def page(topic: str) -> str:
    """Return the text of a page of the manual, such as ``howto/rooms``."""
    return (ROOT / "rawws" / "docs" / f"{topic}.md").read_text("utf-8")
