"""The README's table of flags: ``python -m tests.flag_table`` writes it anew from the flags of ``rawws serve``."""

from __future__ import annotations

import re
from pathlib import Path

from rawws.cli.serve_flags import FLAGS

README = Path(__file__).resolve().parent.parent / "README.md"
HEAD = "| flag | default | |\n|---|---|---|\n"
LAST_ROW = "| `--version`, `--help` | | |\n"


def table() -> str:
    return HEAD + FLAGS.markdown() + LAST_ROW


def main() -> None:
    text = README.read_text("utf-8")
    pattern = re.escape(HEAD) + r"(?:\|.*\n)*?" + re.escape(LAST_ROW)
    assert len(re.findall(pattern, text)) == 1, "the README has one such table"
    README.write_text(re.sub(pattern, lambda _: table(), text), "utf-8")


if __name__ == "__main__":
    main()
