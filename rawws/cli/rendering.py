"""Markdown as text for a terminal, sans-IO: paragraphs are filled, tables aligned, and code stays as it is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"(#{1,6}) +(.*?) *#*$")
_ITEM = re.compile(r"( *)([*+-]|\d+[.)]) +(.*)$")
_SEPARATOR = re.compile(r"\|?[ :|-]+\|?$")
_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*|(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)]*)\)"
)
_SGR = re.compile(r"\x1b\[[0-9;]*m")
_UNDERLINES = {1: "=", 2: "-"}
_CODE_INDENT = "    "
_LEAST_CELL = 12
_QUOTE = ">"
_SHORT_CODE = 24  # is not broken
_HARD_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Style:
    """The escape sequences around marked text; without any, code keeps its backticks."""

    heading: str = ""
    strong: str = ""
    code: str = ""

    def mark(self, kind: str, text: str) -> str:
        sequence = {"heading": self.heading, "strong": self.strong, "code": self.code}[kind]
        if not sequence:
            return f"`{text}`" if kind == "code" else text
        return f"\x1b[{sequence}m{text}\x1b[0m"


PLAIN = Style()
COLOURED = Style(heading="1", strong="1", code="36")


# Turns the words and the target of a link into what follows the words, in brackets unless it is empty.
Refer = Callable[[str, str], str]


def show_target(_: str, target: str) -> str:
    return target


def render(markdown: str, width: int, style: Style = PLAIN, refer: Refer = show_target) -> str:
    """Return Markdown as text of at most ``width`` columns, except for code and what can't be broken."""
    return _Renderer(width, style, refer).render(markdown)


@dataclass
class _Renderer:
    width: int
    style: Style
    refer: Refer
    out: list[str] = field(default_factory=list)

    def render(self, markdown: str) -> str:
        for block, follows in _blocks(markdown.splitlines()):
            first = block[0]
            if follows and _ITEM.match(first) and self.out:
                self.out.pop()  # the items of a list stay together where the source has no line between them
            if _FENCE.match(first):
                self._code(block)
            elif heading := _HEADING.match(first):
                self._heading(len(heading[1]), heading[2])
            elif first.lstrip().startswith("|") and len(block) > 1 and _SEPARATOR.match(block[1].strip()):
                self._table(block)
            elif not first.lstrip().startswith("<"):  # HTML, such as a picture for light and dark
                self._text(block)
        return "\n".join(self.out).replace(_HARD_SPACE, " ").strip("\n") + "\n"

    def _heading(self, level: int, text: str) -> None:
        words = self._inline(text.replace("`", ""))
        self.out.append(self.style.mark("heading", words))
        if level in _UNDERLINES:
            self.out.append(_UNDERLINES[level] * len(words))
        self.out.append("")

    def _code(self, block: list[str]) -> None:
        body = textwrap.dedent("\n".join(block[1:-1])).splitlines()
        self.out += [f"{_CODE_INDENT}{line}".rstrip() for line in body]
        self.out.append("")

    def _text(self, block: list[str]) -> None:
        """Show a paragraph, a quotation, or one item of a list."""
        if block[0].startswith(_QUOTE):
            words = " ".join(line.removeprefix(_QUOTE).strip() for line in block)
            self.out += [f"{_QUOTE} {line}" for line in self._wrap(self._inline(words), self.width - len(_QUOTE) - 1)]
            self.out.append("")
            return
        item = _ITEM.match(block[0])
        indent, mark = (item[1], f"{item[2]} ") if item else (re.match(" *", block[0])[0], "")  # type: ignore[index]
        words = " ".join([item[3] if item else block[0].strip(), *(line.strip() for line in block[1:])])
        wrapped = self._wrap(self._inline(words), self.width - len(indent) - len(mark))
        for number, line in enumerate(wrapped):
            self.out.append(f"{indent}{' ' * len(mark) if number else mark}{line}")
        self.out.append("")

    def _table(self, block: list[str]) -> None:
        rows = [_cells(line) for line in block]
        del rows[1]
        columns = max(map(len, rows))
        marked = [[self._inline(cell) for cell in row + [""] * (columns - len(row))] for row in rows]
        widths = self._fit([max(_length(row[column]) for row in marked) for column in range(columns)])
        for number, row in enumerate(marked):
            if not number and not any(row):
                continue
            wrapped = [self._wrap(cell, widths[column]) for column, cell in enumerate(row)]
            for line in range(max(map(len, wrapped))):
                parts = [cell[line] if line < len(cell) else "" for cell in wrapped]
                padded = [part + " " * (widths[column] - _length(part)) for column, part in enumerate(parts)]
                self.out.append("  ".join(padded).rstrip())
            if not number:
                self.out.append("  ".join("-" * width for width in widths))
        self.out.append("")

    def _fit(self, wanted: list[int]) -> list[int]:
        """Return widths of columns that fit, made by narrowing the widest column first."""
        widths = [max(width, 1) for width in wanted]
        while sum(widths) + 2 * (len(widths) - 1) > self.width and max(widths) > _LEAST_CELL:
            widths[widths.index(max(widths))] -= 1
        return widths

    def _inline(self, text: str) -> str:
        def mark(found: re.Match[str]) -> str:
            if (code := found["code"]) is not None:
                short = len(code) <= _SHORT_CODE
                return self.style.mark("code", code.replace(" ", _HARD_SPACE) if short else code)
            if (strong := found["strong"]) is not None:
                return self.style.mark("strong", _INLINE.sub(mark, strong))
            words = _INLINE.sub(mark, found["text"])
            if found["picture"]:
                return f"[picture: {words}]"
            about = self.refer(found["text"], found["target"])
            return f"{words} ({about})" if about and about != words else words

        return _INLINE.sub(mark, text.replace("\\|", "|"))

    def _wrap(self, text: str, width: int) -> list[str]:
        """Break a text into lines. Escape sequences take no room, and a line that ends within one ends it."""
        lines, length, active = [""], 0, ""
        for word in text.split():
            size = _length(word)
            if length and length + 1 + size > width:
                lines[-1] += "\x1b[0m" if active else ""
                lines.append(active)
                length = 0
            lines[-1] += f" {word}" if length else word
            length += size + (1 if length else 0)
            for sequence in _SGR.findall(word):
                active = "" if sequence == "\x1b[0m" else sequence
        return lines


class _Block(NamedTuple):
    """The lines of a block, and whether it follows the one before without an empty line."""

    lines: list[str]
    follows: bool


def _blocks(lines: list[str]) -> Iterator[_Block]:
    """Yield the blocks of a page: a heading, a block of code, a table, an item of a list, or a paragraph."""
    block: list[str] = []
    fence = ""
    is_comment = follows = False
    for line in lines:
        if fence:
            block.append(line)
            if (mark := _FENCE.match(line)) and mark[1].startswith(fence):
                yield _Block(block, follows)
                block, fence, follows = [], "", True
            continue
        if is_comment or line.lstrip().startswith("<!--"):
            is_comment = "-->" not in line
            continue
        if block and (not line.strip() or _FENCE.match(line) or _HEADING.match(line) or _ITEM.match(line)):
            yield _Block(block, follows)
            block, follows = [], True
        if not line.strip():
            follows = False
            continue
        block.append(line)
        if mark := _FENCE.match(line):
            fence = mark[1]
        elif _HEADING.match(line):
            yield _Block(block, follows)
            block, follows = [], True
    if block:
        yield _Block(block, follows)


def _cells(line: str) -> list[str]:
    """Return the cells of a row; a bar in code or after a backslash separates none."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    found = re.findall(r"((?:\\.|`[^`]*`|[^|`\\]|`)*)(?:\||$)", inner)
    return [cell.strip() for cell in found[:-1]] or [""]  # the last match is empty, at the end


def _length(text: str) -> int:
    return len(_SGR.sub("", text))
