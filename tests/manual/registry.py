"""The blocks of the manual, and the tests that run them.

A row for each document that has blocks of Python, JavaScript or commands: the number of blocks in each language, and
the test files that run them. A block without a row, or a row without a block, fails `test_documents.py`. Two kinds of
blocks need no row:

* a block with nothing but ``$ rawws decode``, since `test_quotations.py` runs it wherever it is,
* the blocks of a page that a test follows from the beginning to the end, with ``walk.follow("howto/publish")``, except
  for those after the comment ``<!-- has its own test -->``.
"""

from __future__ import annotations

from typing import NamedTuple

# A block in one of these is for running; terminal is one in which somebody types. Others, such as text, json and ini,
# are outputs and settings, and sh is the set-up, which CI runs.
RUNNABLE = ("python", "js", "console", "terminal")


class Run(NamedTuple):
    """The blocks of a document."""

    by: tuple[str, ...]  # files in tests/
    python: int = 0
    js: int = 0
    console: int = 0
    terminal: int = 0


RUNS = {
    "README.md": Run(("manual/test_front_page.py",), python=2, js=1, console=1),
    "rawws/docs/explanation/fast-lane.md": Run(("manual/test_explanation.py",), python=1),
    "rawws/docs/howto/check.md": Run(("cli/test_check_command.py", "manual/test_quotations.py"), console=1),
    "rawws/docs/howto/rooms.md": Run(("manual/howto/test_rooms.py",), console=1),
    "rawws/docs/howto/tap.md": Run(("manual/test_quotations.py",), console=1),
    "rawws/docs/howto/tokens.md": Run(("manual/howto/test_tokens.py",), python=1),
    "rawws/docs/tutorial/frames.md": Run(("manual/test_tutorial.py",), python=2),
    "rawws/docs/tutorial/handshake.md": Run(("manual/test_tutorial.py",), python=1, console=3),
    "rawws/docs/tutorial/first-server.md": Run(("manual/test_tutorial.py",), python=3, console=3, terminal=3),
}
