#!/usr/bin/env python3
"""Finds English that has to be read twice, in comments, docstrings, messages, test names and Markdown.

A sentence begins with its subject: "A client that …", never "Who …" or "What …". The rules are in
.github/CONTRIBUTING.md. ``.ci/prose.py`` reads the whole project, ``.ci/prose.py PATH …`` only those files and folders.
Each finding is one line, with what to write instead; the exit status is then 1. It needs the standard library only.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ("rawws", "tests", "benchmarks", ".ci", ".github", "README.md")

# This test quotes the patterns.
QUOTES = "tests/test_prose.py"


class Rule(NamedTuple):
    pattern: re.Pattern[str]
    instead: str


class Finding(NamedTuple):
    path: str
    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}: {self.instead}"


# A sentence starts where the text starts, and after the end of another one; a list item or table cell is a text.
START = r"(?:^|(?<=[.!?:;] )|(?<=[.!?][\"')] ))"


def _start(words: str, instead: str) -> Rule:
    """Make a rule about the first words of a sentence. A question may begin with them."""
    return Rule(re.compile(rf"{START}(?:{words}) (?![^.!?]*\?)\S+"), instead)


RULES = (
    _start("Who|Whoever|Whom|Whose", "name the subject: 'A client that …', 'A peer whose …'"),
    _start("What|Whatever", "name the subject: 'Bytes that …', 'The message that …'"),
    _start("Those (?:who|that|which|whose)", "name the subject: 'Peers that …'"),
    _start("So (?:many|long|much|often)", "put the number before the unit: 'at most N …', 'for N seconds'"),
    _start("Of (?:an?|what|which|those|each|one|two|all)", "begin with the subject, not with 'Of …'"),
    Rule(re.compile(r"^(?:who|whoever|so (?:many|long|much)) \w+ \w+"), "name the subject; number before the unit"),
    Rule(re.compile(r"; and\sso\b"), "begin a new sentence"),
)
TEST_NAME = Rule(
    re.compile(r"^test_(?:\d+(?:_\d+)*_)?(?:who|whoever|what|whatever|those|so_(?:many|long|much)|of_an?)_"),
    "begin the name with the subject: test_a_peer_that_…",
)
IDENTIFIER = Rule(re.compile(r"^_?told$"), "say what it is: message, reason, body, notice")

# Most texts hold none of these words, and are passed over for it.
SUSPECT = re.compile(r"\b(?:Wh[oa]|Those|So|Of|who|so)")

CODE_SPAN = re.compile(r"(`+)(.+?)\1")
LINK_TARGET = re.compile(r"(?<=\])\([^)]*\)")


def _blank(match: re.Match[str]) -> str:
    """Replace code by one word of the same length, so that positions stay and a sentence keeps its subject."""
    return "x" * len(match.group())


def findings_in_text(text: str, path: str, line: int) -> Iterator[Finding]:
    """Yield what is found in one paragraph, comment or string. ``line`` is where it starts."""
    if not SUSPECT.search(text):
        return
    # Emphasis and list marks are not part of a sentence; code is not English.
    plain = LINK_TARGET.sub(_blank, CODE_SPAN.sub(_blank, text)).replace("*", "")
    joined = " ".join(plain.split())
    for rule in RULES:
        for match in rule.pattern.finditer(joined):
            # Count the words before the match, to find its line in the text as it was.
            words = len(joined[: match.start()].split())
            yield Finding(path, line + _line_of_word(plain, words), match.group(), rule.instead)


def _line_of_word(text: str, number: int) -> int:
    """Return in which line of a text, from 0, its word of that number is."""
    for line, content in enumerate(text.split("\n")):
        number -= len(content.split())
        if number < 0:
            return line
    return 0


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield each run of comment lines, as one text, with the line where it starts."""
    if not any("#" in line and SUSPECT.search(line) for line in source.splitlines()):
        return  # tokenizing is slow
    first, last, column, lines = 0, 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, at = token.start
        if lines and (row, at) == (last + 1, column):
            lines.append(token.string.lstrip("#! "))
        else:
            if lines:
                yield first, "\n".join(lines)
            first, column, lines = row, at, [token.string.lstrip("#! ")]
        last = row
    if lines:
        yield first, "\n".join(lines)


def _strings(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield each string of a module, split into paragraphs, with its line. An f-string is one text."""
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            text = "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            text = node.value
        else:
            continue
        # A string of one source line may hold several lines of text: then all are reported at that line.
        spread = (node.end_lineno or node.lineno) > node.lineno
        line = 0
        for paragraph in text.split("\n\n"):
            for item, at in _items(paragraph):
                yield node.lineno + (line + at if spread else 0), item
            line += paragraph.count("\n") + 2


def _items(paragraph: str) -> Iterator[tuple[str, int]]:
    """Split a paragraph into list items and table cells, each with its line from 0."""
    item, started = list[str](), 0
    for number, content in enumerate(paragraph.split("\n")):
        begins = re.match(r"\s*(?:[-*+]|\d+\.|>|\||#+) ", content)
        if begins and item:
            yield "\n".join(item), started
            item = []
        if not item:
            started = number
        if content.lstrip().startswith("|"):
            yield from ((cell.strip(), number) for cell in content.split("|"))
            continue
        item.append(content[begins.end() :] if begins else content)
    if item:
        yield "\n".join(item), started


def _names(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield the variables, parameters and attributes that a module sets, with their lines."""
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name


def findings_in_python(source: str, path: str) -> Iterator[Finding]:
    """Yield what is found in a module: comments, strings, names of variables and of tests."""
    nodes = list(ast.walk(ast.parse(source)))
    for line, text in (*_comments(source), *_strings(nodes)):
        yield from findings_in_text(text, path, line)
    for line, name in _names(nodes):
        if IDENTIFIER.pattern.search(name):
            yield Finding(path, line, name, IDENTIFIER.instead)
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and TEST_NAME.pattern.search(node.name):
            yield Finding(path, node.lineno, node.name, TEST_NAME.instead)


def findings_in_markdown(source: str, path: str) -> Iterator[Finding]:
    """Yield what is found in the paragraphs of a document, without its code blocks and headings."""
    paragraph, started, fenced = list[str](), 0, False
    for number, line in enumerate([*source.split("\n"), ""], start=1):
        is_fence = line.lstrip().startswith("```")
        if is_fence:
            fenced = not fenced
        if is_fence or fenced or not line.strip() or line.startswith("#"):
            for item, at in _items("\n".join(paragraph)):
                yield from findings_in_text(item, path, started + at)
            paragraph = []
            continue
        if not paragraph:
            started = number
        paragraph.append(line)


def findings_in_file(file: Path) -> list[Finding]:
    """Return what is found in a file, in the order of its lines."""
    path = str(file.relative_to(ROOT))
    reader = findings_in_markdown if file.suffix == ".md" else findings_in_python
    return sorted(reader(file.read_text("utf-8"), path), key=lambda finding: finding.line)


def files_in(paths: Sequence[str]) -> list[Path]:
    """Return the Python and Markdown files at these paths, relative to the project."""
    files = list[Path]()
    for path in (ROOT / each for each in paths):
        files += [path] if path.is_file() else sorted({*path.rglob("*.py"), *path.rglob("*.md")})
    return [file for file in files if file != ROOT / QUOTES]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=".ci/prose.py", description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the whole project)")
    parser.add_argument(
        "--counts", action="store_true", help="print the number of findings per file, all files included"
    )
    options = parser.parse_args(arguments)
    found = list[Finding]()
    for file in files_in(options.paths or CHECKED):
        found += findings_in_file(file)
    if options.counts:
        for path in sorted({each.path for each in found}):
            print(f"{sum(each.path == path for each in found):4} {path}")
    else:
        print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(found)} findings", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
