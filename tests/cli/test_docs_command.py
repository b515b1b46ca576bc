"""``rawws docs``: the manual in a terminal, and the end of every ``--help``."""

from __future__ import annotations

import functools
import os
import pty
import re
import shlex
import signal
from pathlib import Path

import pytest

import rawws.cli
from rawws.cli.commands import COMMANDS, DEFAULT, Command, Parsers
from rawws.cli.docs import read_manual
from rawws.cli.manual import Manual, Page, Section
from rawws.cli.rendering import COLOURED, render
from tests.test_layers import NAMES, imported_modules

PAGES = {
    "howto/rooms": "# Rooms\n\nA room is a log.\n\n## `--slow`\n\nwhat a [flag](../reference/flags.md#x) does\n",
    "reference/flags": "# Flags\n\n## serve\n\n### `--slow`\n\none\n\n### `-H`, `--header`\n\ntwo\n\n## connect\n\n"
    "### `--slow`\n\n```text\n# no heading\n```\n\n#### Part\n\n### Next\n",
    "reference/codes": "# Codes\n\n## 1013 (try again later)\n\n## `slow peer` (`Cause.SLOW_PEER`)\n\n## `rawws.Hub`\n",
    "reference/README": "# Contents\n",
    "explanation/log": "# Why a log\n",
    "reference/log": "# Log lines\n",
    "changelog": "# Changelog\n",
}
MANUAL = Manual(PAGES)


def found(wanted: str) -> list[str]:
    return [each.topic if isinstance(each, Page) else f"{each.place}: {each.heading}" for each in MANUAL.find(wanted)]


# The structure


def test_pages_are_in_groups_without_those_that_only_link_to_others() -> None:
    assert [(group, [page.title for page in pages]) for group, pages in MANUAL.contents()] == [
        ("howto", ["Rooms"]),
        ("explanation", ["Why a log"]),
        ("reference", ["Codes", "Flags", "Log lines"]),
        ("", ["Changelog"]),
    ]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("rooms", ["howto/rooms"]),
        ("howto/rooms", ["howto/rooms"]),
        ("Rooms", ["howto/rooms"]),
        ("log", ["explanation/log", "reference/log"]),
        (
            "--slow",
            ["howto/rooms: `--slow`", "reference/flags, serve: `--slow`", "reference/flags, connect: `--slow`"],
        ),
        ("-H", ["reference/flags, serve: `-H`, `--header`"]),
        ("--header", ["reference/flags, serve: `-H`, `--header`"]),
        ("1013", ["reference/codes: 1013 (try again later)"]),
        ("slow peer", ["reference/codes: `slow peer` (`Cause.SLOW_PEER`)"]),
        ("cause.slow_peer", ["reference/codes: `slow peer` (`Cause.SLOW_PEER`)"]),
        ("rawws.Hub", ["reference/codes: `rawws.Hub`"]),
        ("Hub", ["reference/codes: `rawws.Hub`"]),
        ("is a log", ["howto/rooms: Rooms"]),
        ("no heading", ["reference/flags, connect: `--slow`"]),
        ("heading", []),
        ("codez", []),
    ],
)
def test_a_topic_is_a_page_or_a_section_or_words_of_one(wanted: str, expected: list[str]) -> None:
    assert found(wanted) == expected


def test_a_word_finds_the_only_heading_that_has_it() -> None:
    (section,) = MANUAL.find_in_heading("AGAIN")
    assert section.text == "## 1013 (try again later)\n"
    assert MANUAL.find_in_heading("part")
    assert MANUAL.find_in_heading("--slow") == []  # three have it


def test_a_section_ends_at_the_next_heading_of_its_level() -> None:
    *_, section = MANUAL.find("--slow")
    assert isinstance(section, Section)
    assert section.text == "### `--slow`\n\n```text\n# no heading\n```\n\n#### Part\n"


def test_the_nearest_names_are_suggested() -> None:
    assert MANUAL.suggest("--slwo")[0] == "--slow"
    assert MANUAL.suggest("changelogs") == ["changelog"]
    assert MANUAL.suggest("zzz") == []


# The text


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("# A *title*\n", "A *title*\n=========\n"),
        ("## Two `code`", "Two code\n--------\n"),
        ("### Three", "Three\n"),
        ("one **two** three four\nfive six seven", "one two three four\nfive six seven\n"),
        ("* one two three four five\n* six", "* one two three four\n  five\n* six\n"),
        ("1. one\n\n2. two", "1. one\n\n2. two\n"),
        ("> one two three\n> four five", "> one two three four\n> five\n"),
        ("```sh\n$ a b\n\n  c\n```", "    $ a b\n\n      c\n"),
        ("a `b c` d", "a `b c` d\n"),
        ("see [this](x.md) and [that](#part)", "see this (<x.md>)\nand that\n"),
        ("![a picture](x.png)", "[picture: a picture]\n"),
        ("<picture>\n<source>\n</picture>\n\n<!-- no\n-->\ntext", "text\n"),
        ("| a | b |\n|---|---|\n| `x|y` | z\\|z |", "a      b\n-----  ---\n`x|y`  z|z\n"),
        ("| | |\n|---|---|\n| a | one two three four |", "a  one two three\n   four\n"),
    ],
)
def test_markdown_becomes_plain_text(markdown: str, expected: str) -> None:
    shown = render(markdown, 20, refer=lambda _, target: "" if target.startswith("#") else f"<{target}>")
    assert shown == expected


def test_colours_take_no_room_and_end_with_each_line() -> None:
    shown = render("**one two three** `four five`", 9, COLOURED)
    assert re.sub(r"\x1b\[\d*m", "", shown) == "one two\nthree\nfour five\n"
    assert shown.splitlines()[:2] == ["\x1b[1mone two\x1b[0m", "\x1b[1mthree\x1b[0m"]


# The command


read_once = functools.cache(read_manual)


@pytest.fixture(autouse=True)
def _one_manual_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests in this process the reading of fifty pages for each command."""
    monkeypatch.setattr("rawws.cli.docs.read_manual", read_once)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = rawws.cli.main(["docs", *arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_without_a_topic_it_lists_every_page_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown, _ = run(capsys)
    assert status == 0
    folder = Path(rawws.cli.__file__).parent.parent / "docs"
    pages = {path.stem for path in folder.rglob("*.md") if path.stem != "README"}
    topics = re.findall(r"^  (\S+)", shown, re.MULTILINE)
    assert pages == {topic.rpartition("/")[2] for topic in topics}
    assert [[page.topic] for page in read_manual().pages] == [
        [found.topic for found in read_manual().find(topic)] for topic in topics
    ]


def test_a_name_of_several_pages_is_answered_with_their_topics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rawws.cli.docs.read_manual", lambda: MANUAL)
    message = "rawws: the manual has several pages called 'log': explanation/log and reference/log; give one of these\n"
    assert run(capsys, "log") == (2, "", message)
    assert run(capsys, "reference/log")[1] == "Log lines\n=========\n"
    assert "  explanation/log  Why a log\n" in run(capsys)[1]


@pytest.mark.thorough
def test_every_page_can_be_shown_within_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    for page in read_manual().pages:
        status, shown, _ = run(capsys, page.topic)
        assert status == 0
        prose = [line for line in shown.splitlines() if not line.startswith("    ") and not re.search("://|::", line)]
        assert max(map(len, prose)) <= 110, page.topic
        assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("topic", "part"),
    [
        (["origin"], "Pages from https://other.example may not connect to this server."),
        (["1013"], "reference/close-codes, Codes:\n\n1013 (try again later)"),
        (["slow", "peer"], "The peer read too slowly for its room."),
        (["--max-lag"], "Value: `BYTES`. Default: `16M`."),
        (["-vv"], "reference/flags, rawws tap"),
        (["rawws.Hub"], "All rooms of an application, by path."),
        (["room_full"], "Retry-After"),
        (["426"], "A server without an application for HTTP answers so"),
        (["sec-websocket-accept"], "It proves that the server speaks WebSocket"),
        (["too_many_rooms"], "\n> later.\n\nA room exists"),
        (["1009"], "or raise `--max-size` (`max_size`)."),
        (["Link", "to", "the", "page"], "Open the link to see the page."),
        (["WebSocket.recv"], "await WebSocket.recv() -> str | bytes"),
        (["event", "loop", "was", "blocked"], "Event loop blocked"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_name_shows_its_section(capsys: pytest.CaptureFixture[str], topic: list[str], part: str) -> None:
    status, shown, _ = run(capsys, *topic)
    assert status == 0
    assert part in shown


def test_an_unknown_topic_is_answered_with_the_nearest_names(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown, complaint = run(capsys, "--max-lagg")
    assert (status, shown) == (2, "")
    assert complaint.startswith("rawws: the manual has no topic '--max-lagg'; did you mean --max-lag")
    assert run(capsys, "zzzzzz")[2] == "rawws: the manual has no topic 'zzzzzz'; rawws docs lists the pages\n"


def in_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Return what ``rawws docs origin`` writes to a terminal."""
    for name in ("PAGER", "LESS", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, os.fdopen(ours, "rb") as reader:
        monkeypatch.setattr("sys.stdout", terminal)
        assert rawws.cli.main(["docs", "origin"]) == 0
        terminal.flush()
        return os.read(reader.fileno(), 1 << 16).decode()


def test_a_terminal_gets_colours_unless_the_user_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[36m" in in_terminal(monkeypatch, TERM="xterm")
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = in_terminal(monkeypatch, **wish)
        assert "\x1b" not in shown
        assert "Pages from https://other.example" in shown


def test_a_terminal_shows_it_through_the_pager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paged = tmp_path / "paged"
    pager = tmp_path / "pager"
    pager.write_text(f'#!/bin/sh\n{{ echo "LESS=$LESS $*"; cat; }} > {shlex.quote(str(paged))}\n')
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb"):
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setenv("PAGER", f"{pager} -x")
        monkeypatch.delenv("LESS", raising=False)
        assert rawws.cli.main(["docs", "origin"]) == 0
        text = paged.read_text("utf-8")
        assert text.startswith("LESS=FRX -x\n")
        assert "Pages from https://other.example" in text


def test_ctrl_c_is_left_to_the_pager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The terminal sends SIGINT to both. The pager goes on, and has to put the terminal in order at its end."""
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    paged = tmp_path / "paged"
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\nkill -INT $PPID\ncat > {shlex.quote(str(paged))}\n")
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb"):
            monkeypatch.setattr("sys.stdout", terminal)
            monkeypatch.setenv("PAGER", str(pager))
            assert rawws.cli.main(["docs", "origin"]) == 0
        assert "Pages from https://other.example" in paged.read_text("utf-8")
        assert not interrupted
        signal.raise_signal(signal.SIGINT)
        assert interrupted  # our own handler is in place again
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("pager", "reason"), [("/nowhere/pager", "No such file or directory"), ('less "', "No closing quotation")]
)
def test_a_pager_that_cannot_be_started_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pager: str, reason: str
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb"):
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setenv("PAGER", pager)
        assert rawws.cli.main(["docs", "origin"]) == 2
    assert capsys.readouterr().err == (
        f"rawws: the pager {pager!r} can't be started: {reason}; change or unset PAGER\n"
    )


# The end of --help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_ends_with_two_examples_and_a_page(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rawws.cli.main([command.name, "--help"])
    shown = capsys.readouterr().out
    examples = shown.partition("\nexamples:\n")[2]
    assert re.findall(r"^  (rawws(?: (?! )\S+)*)", examples, re.MULTILINE) == [each.line for each in command.examples]
    last = shown.splitlines()[-1]
    assert last == f"More: rawws docs {command.topic}".rstrip()
    assert max(map(len, examples.splitlines())) <= 80
    if command.topic:
        assert [type(each) for each in read_manual().find(command.topic)] == [Page]


@pytest.mark.parametrize(
    "line", [each.line for examples in (rawws.cli.EXAMPLES, *(each.examples for each in COMMANDS)) for each in examples]
)
def test_an_example_is_a_valid_command_line(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "rawws"
    parsers = Parsers()
    name = arguments.pop(0) if arguments else DEFAULT
    assert callable(parsers[name].parse(arguments, parsers).run)


def test_a_command_imports_only_its_own_module() -> None:
    """``rawws docs`` needs none of the other commands, which import a third of the package."""
    needed: set[str] = set()
    missing = {"rawws.cli", "rawws.cli.docs"}
    while missing:
        needed |= missing
        found = {name for each in missing for name in imported_modules(NAMES[each])}
        missing = {name for name in found if name.startswith("rawws.cli.")} - needed
    assert needed >= {"rawws.cli.commands", "rawws.cli.manual", "rawws.cli.rendering"}
    assert needed.isdisjoint(f"rawws.cli.{command.name}" for command in COMMANDS if command.name != "docs")
