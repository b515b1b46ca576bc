"""The manual's table of flags: ``python -m tests.flag_table`` writes it anew from the flags of ``rawws serve``."""

from __future__ import annotations

import re
from pathlib import Path

from rawws.cli.serve_flags import FLAGS

PAGE = Path(__file__).resolve().parent.parent / "rawws" / "docs" / "reference" / "flags.md"
HEAD = "| flag | default | |\n|---|---|---|\n"
LAST_ROW = "| `--version`, `--help` | | |\n"


def table() -> str:
    return HEAD + FLAGS.markdown() + LAST_ROW


def main() -> None:
    text = PAGE.read_text("utf-8")
    pattern = re.escape(HEAD) + r"(?:\|.*\n)*?" + re.escape(LAST_ROW)
    assert len(re.findall(pattern, text)) == 1, "the page has one such table"
    PAGE.write_text(re.sub(pattern, lambda _: table(), text), "utf-8")


if __name__ == "__main__":
    main()
