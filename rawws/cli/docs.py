"""``rawws docs``: shows the manual, a page of it, or the section about a name."""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from rawws.cli.manual import GROUPS, Manual, Page, plain
from rawws.cli.parsing import Parser
from rawws.cli.rendering import COLOURED, PLAIN, Style, render
from rawws.cli.streams import need_output, writing_output
from rawws.errors import UsageError, sentence_of
from rawws.wire.trace import printable

_MOST_COLUMNS = 100  # longer lines are hard to read
_END = ".md"


def add_arguments(parser: Parser) -> None:
    parser.takes_dashes = True
    parser.description = (
        "Shows the manual. Without a topic it lists the pages. A topic is a page, such as rooms; or a name that the "
        "manual has a section about: a flag, a close code, the status or code of a refusal (403, or the word in "
        "brackets in the log, such as origin), or a name of the library. In a terminal the text goes through $PAGER, "
        "if that is set."
    )
    parser.add_argument("topic", nargs="*", metavar="TOPIC", help="a page, or a name such as 1013 or rawws.Hub")


def run(options: argparse.Namespace) -> int:
    """Show a topic."""
    need_output()
    manual = read_manual()
    style = COLOURED if _wants_colour() else PLAIN
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    wanted = " ".join(options.topic).strip()
    _show(_page_of(manual, wanted, width, style) if wanted else _contents(manual))
    return 0


def read_manual() -> Manual:
    """Return the manual that comes with the package."""
    texts: dict[str, str] = {}
    _read(files("rawws") / "docs", "", texts)
    return Manual(texts)


def _read(folder: Traversable, prefix: str, texts: dict[str, str]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            _read(entry, f"{prefix}{entry.name}/", texts)
        elif entry.name.endswith(_END):
            texts[prefix + entry.name.removesuffix(_END)] = entry.read_text("utf-8")


def _contents(manual: Manual) -> str:
    """Return the list of pages by group."""
    width = max((len(manual.name_of(page)) for page in manual.pages), default=0)
    lines = []
    for group, pages in manual.contents():
        lines.append(f"{group}: {GROUPS[group]}" if GROUPS.get(group) and group else group or "besides")
        lines += [f"  {manual.name_of(page):<{width}}  {page.title}" for page in pages]
        lines.append("")
    lines.append("rawws docs TOPIC shows one; a flag, a close code or a name of the library is a topic too")
    return "\n".join(lines) + "\n"


def _page_of(manual: Manual, wanted: str, width: int, style: Style) -> str:
    """Return what the manual says about a topic. Raises `UsageError` if it says nothing."""
    found = manual.find(wanted) or manual.find_in_heading(wanted)
    if not found:
        names = manual.suggest(wanted)
        hint = f"did you mean {_in_words(names)}?" if names else "rawws docs lists the pages"
        raise UsageError(f"the manual has no topic {printable(wanted)[:60]!r}; {hint}")
    if len(pages := [each for each in found if isinstance(each, Page)]) > 1:
        topics = " and ".join(page.topic for page in pages)
        raise UsageError(f"the manual has several pages called {pages[0].name!r}: {topics}; give one of these")
    texts = []
    for each in found:
        if not isinstance(each, Page):
            texts.append(f"{each.place}:\n")
        texts.append(render(each.text, width, style, partial(_refer, manual, each.topic)))
    return "\n".join(texts)


def _refer(manual: Manual, topic: str, words: str, target: str) -> str:
    """Return how a reader in a terminal comes to the target of a link on a page; empty if its words are a topic."""
    if re.match(r"\w+:", target):
        return target
    path, _, _ = target.partition("#")
    named = manual.find(plain(words))
    if not path or (named and (len(named) == 1 or not isinstance(named[0], Page))):
        return ""
    at = posixpath.normpath(posixpath.join(posixpath.dirname(topic), path))
    found = [page for page in manual.pages if f"{page.topic}{_END}" == at]
    return f"rawws docs {manual.name_of(found[0])}" if found else ""


def _in_words(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _show(text: str) -> None:
    """Write the text, through the reader's pager if standard output is a terminal."""
    pager = os.environ.get("PAGER", "").strip() if sys.stdout.isatty() else ""
    if pager:
        _page(pager, text)
        return
    with writing_output():
        sys.stdout.write(text)


def _page(pager: str, text: str) -> None:
    """Show the text in a pager, and wait until the reader leaves it. Raises `UsageError` if it can't be started."""
    # As git does it: less ends by itself where the text fits on the screen, and shows colours.
    environment = {"LESS": "FRX"} | os.environ
    # Ctrl-C is for the pager, which has the terminal in a mode of its own. The function isn't inherited, as SIG_IGN is.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        subprocess.run(shlex.split(pager), input=text.encode(errors="replace"), env=environment, check=False)
    except (OSError, ValueError) as error:
        reason = sentence_of(error)  # of a ValueError: quotation marks that don't match
        raise UsageError(f"the pager {pager!r} can't be started: {reason}; change or unset PAGER") from None
    finally:
        signal.signal(signal.SIGINT, before)
