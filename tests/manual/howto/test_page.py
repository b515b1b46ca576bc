"""The page about the page: its words are those on the screen."""

from __future__ import annotations

import re

from tests.manual import ROOT, page

STATIC = ROOT / "rawws" / "page" / "static"


def test_the_labels_are_those_of_the_page() -> None:
    sources = "".join(
        file.read_text("utf-8") for file in sorted(STATIC.rglob("*.*")) if file.suffix in (".html", ".js")
    )
    for label in set(re.findall(r"\*\*([^*]+)\*\*", page("howto/page"))):
        assert label in sources, label
