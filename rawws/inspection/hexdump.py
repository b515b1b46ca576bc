"""Bytes as tools print them, with the offset of each line: xxd, hexdump, od, tcpdump, gdb, lldb; and hex alone.

`Dump` and `Column` are two of the forms in `rawws.inspection.spellings`. A dump has the offset of each line. The number
of bytes that a form reads from a line has to lead to the next line's offset, so a wrong form is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rawws.errors import UsageError

_HEX_BYTES = re.compile(r"(?:[0-9a-fA-F]{2})+")
# A line's offset: "0x0010:", "00000010:", "00000010  ", "0000010 ", "0x7ffe8 <name+8>:", "| 00010  ".
_PLACE = re.compile(
    r"[\s|]*(?:0x)?([0-9a-fA-F]{4,16})(?:(?P<colon>(?:\s<[^\n]*>)?:)(?=\s|$)|(?=\s\s)|\s*$)"
    r"|\s*([0-9a-fA-F]{6,8})(?=\s)"
)
_PROMPT = re.compile(r"\(gdb\)|\(lldb\)|[\w@:~/.()\[\]-]*[$#%] ")
_SEPARATORS = re.compile(r"[\s,;:|_-]+")
_C_PREFIX = re.compile(r"0x|\\x", re.IGNORECASE)
_BASES = (16, 8, 10)  # of offsets without a colon: od prints octal, and with -Ad decimal
_EIGHT_BITS = re.compile(r"[01]{8}")
_FILLED_UP = re.compile(r"((?:[0-9a-fA-F]{2})+) {2,}(.*)")
_GAP = re.compile(r"(\s*)(\S+)")


class Row(NamedTuple):
    """A line of a dump: the digits of its offset, whether a colon follows them, and the rest of the line."""

    number: int
    place: str
    colon: bool
    rest: str

    @property
    def is_marked(self) -> bool:
        """Whether the offset can't be confused with bytes in hex."""
        return self.colon or len(self.place) % 2 == 1


class Cells(Protocol):
    """A format for the bytes of a line. A cell holds ``size`` of them; the last one may be padded with zeros."""

    @property
    def size(self) -> int: ...

    def read(self, row: str) -> bytes | None:
        """Return the bytes of one line; None if it isn't in this format."""


@dataclass(frozen=True)
class Numbers:
    """Each cell is a little-endian number of ``size`` bytes."""

    pattern: re.Pattern[str]
    base: int
    size: int = 1

    def read(self, row: str) -> bytes | None:
        data = bytearray()
        for cell in _without_characters(row).split():
            if not self.pattern.fullmatch(cell):
                return None
            number = int(cell, self.base)
            if not -(1 << (8 * self.size - 1)) <= number < 1 << (8 * self.size):
                return None
            data += (number & ((1 << (8 * self.size)) - 1)).to_bytes(self.size, "little")
        return bytes(data)


@dataclass(frozen=True)
class HexInOrder:
    """Each cell is a run of bytes in order; after two spaces, or between bars, come the same bytes as characters.

    Two spaces after ``middle`` cells are a gap between cells.
    """

    digits: re.Pattern[str]
    middle: int = 0
    size: int = 1

    def read(self, row: str) -> bytes | None:
        cells, _ = _split(row, self.digits, self.middle)
        return None if cells is None else bytes.fromhex("".join(cells))


@dataclass(frozen=True)
class HexAsItsCharacters:
    """Cells of hex, each put in order by ``turn``, followed by the same bytes as characters.

    The characters distinguish xxd -e, which prints little-endian numbers, from xxd -g4.
    """

    turn: Callable[[bytes], bytes]
    size: int = 1

    def read(self, row: str) -> bytes | None:
        cells, characters = _split(row, _HEX_BYTES)
        if not cells:
            return None if row.strip() else b""
        if filled_up := _FILLED_UP.match(characters):  # xxd -e right-aligns the last number
            cells, characters = [*cells, filled_up[1]], filled_up[2]
        data = b"".join(self.turn(bytes.fromhex(cell)) for cell in cells)
        return data if characters.strip() == _as_characters(data).strip() else None


@dataclass(frozen=True)
class Bits:
    """Each cell is a byte in binary; the characters follow."""

    size: int = 1

    def read(self, row: str) -> bytes | None:
        cells, _ = _split(row, _EIGHT_BITS)
        return None if cells is None else bytes(int(cell, 2) for cell in cells)


@dataclass(frozen=True)
class Matches:
    """Each cell is a match of ``pattern``, which ``byte`` turns into a byte; only spaces may be between cells."""

    pattern: re.Pattern[str]
    byte: Callable[[str], int]
    size: int = 1

    def read(self, row: str) -> bytes | None:
        found = bytearray()
        at = 0
        while at < len(row) and (match := self.pattern.match(row, at)):
            found.append(self.byte(match[1]) & 0xFF)
            at = match.end()
        return None if row[at:].strip() else bytes(found)


ESCAPES = {"0": 0, "a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "e": 27}


def _character(cell: str) -> int:
    """Return the byte for which od -c prints these three: a character, an escape such as ``\\n``, or octal digits."""
    if cell[0] != " ":
        return int(cell, 8)
    return ESCAPES[cell[2]] if cell[1] == "\\" else ord(cell[2])


_GDB_CHARACTERS = Matches(re.compile(r"\s*(-?\d{1,3}) '(?:\\?[^\n])[^'\n]{0,3}'"), int)
# hexdump -c pads its last line with spaces to the width of sixteen bytes.
_OD_CHARACTERS = Matches(re.compile(r" ([ ]{2}[ -~]|[ ]\\[0abtnvfr]|[0-3][0-7]{2})"), _character, size=16)
_OCTAL_WORDS = Numbers(re.compile(r"[01][0-7]{5}"), 8, 2)
_OCTAL_BYTES = Numbers(re.compile(r"[0-3][0-7]{2}"), 8)
_DECIMAL_BYTES = Numbers(re.compile(r"-?\d{1,3}"), 10)

# After an offset with a colon: xxd, tcpdump, gdb, lldb.
_MARKED: tuple[Cells, ...] = (
    Bits(),
    HexAsItsCharacters(lambda cell: cell),
    HexAsItsCharacters(lambda cell: cell[::-1]),
    HexInOrder(_HEX_BYTES),
    *(Numbers(re.compile(rf"0x[0-9a-fA-F]{{{2 * size}}}"), 16, size) for size in (1, 2, 4, 8)),
    Numbers(re.compile(r"0[0-7]{0,3}"), 8),
    _DECIMAL_BYTES,
    _GDB_CHARACTERS,
)
# After an offset without a colon: hexdump, od.
_UNMARKED: tuple[Cells, ...] = (
    HexInOrder(re.compile(r"[0-9a-fA-F]{2}"), middle=8),
    *(Numbers(re.compile(rf"[0-9a-fA-F]{{{2 * size}}}"), 16, size) for size in (2, 4, 8)),
    _OCTAL_WORDS,
    _OCTAL_BYTES,
    _OD_CHARACTERS,
    _DECIMAL_BYTES,
    Numbers(re.compile(r"\d{5}"), 10, 2),
)


def _split(row: str, digits: re.Pattern[str], middle: int = 0) -> tuple[list[str] | None, str]:
    """Return the cells at a line's beginning, and the characters after them; None for the cells if there are others."""
    cells: list[str] = []
    for piece in _GAP.finditer(_without_characters(row)):
        gap = len(piece[1])
        is_cell = digits.fullmatch(piece[2]) is not None
        if cells and gap >= 2 and not (is_cell and gap == 2 and len(cells) == middle):
            return cells, row[piece.start(2) :]
        if not is_cell:
            return None, ""
        cells.append(piece[2])
    return cells, ""


def _without_characters(row: str) -> str:
    """Return a line without the characters that od -z and hexdump -C add to it in ``><`` or ``||``."""
    row = row.rstrip()
    for begin, end in ("><", "||"):
        at = row.find(begin)
        if row.endswith(end) and 0 <= at < len(row) - 1:
            return row[:at].rstrip()
    return row


def _as_characters(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


class Dump:
    """Lines that each begin with their offset."""

    def read(self, text: str) -> bytes | None:
        """Return the bytes; None if the text is no dump. Raises `UsageError` if a part of the dump is missing."""
        rows: list[Row] = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or _PROMPT.match(line):
                continue
            if line.strip() == "*" and rows:
                raise UsageError(
                    f"line {number} is a *: lines that repeat were left out of the dump; make it with hexdump -v, "
                    "od -v, or xxd without -a"
                )
            match = _PLACE.match(line)
            if match is None:
                return None
            place = match[1] or match[3]
            rows.append(Row(number, place, match["colon"] is not None, line[match.end() :]))
        return _read_rows(rows) if rows else None


def _read_rows(rows: list[Row]) -> bytes | None:
    is_marked = all(row.is_marked for row in rows)
    gap = None
    for cells in _MARKED if rows[0].colon else _UNMARKED:
        read = [cells.read(row.rest) for row in rows]
        parts = [data for data in read if data is not None]
        if len(parts) < len(rows) or not any(parts) or not all(parts[:-1]):
            continue
        data = b"".join(parts)
        for base in _BASES[:1] if rows[0].colon else _BASES:
            places = list(_places(rows, base))
            if len(places) < len(rows) or (places[0] and not is_marked and len(rows) == 1):
                continue
            if (wrong := _first_gap(places, parts, cells.size)) is None:
                return data if parts[-1] else data[: places[-1] - places[0]]
            gap = gap or (rows[wrong], places[wrong] - places[0])
    if gap is None or not is_marked:
        return None
    row, place = gap
    if place <= 0:
        raise UsageError(f"another dump begins in line {row.number}: give one of them")
    raise UsageError(
        f"line {row.number} of the dump begins {place:,} bytes after its first line, and the lines "
        "between have fewer or more: give one dump without a gap"
    )


def _places(rows: list[Row], base: int) -> Iterator[int]:
    for row in rows:
        try:
            yield int(row.place, base)
        except ValueError:
            return


def _first_gap(places: list[int], parts: list[bytes], size: int) -> int | None:
    """Return the index of the first line that doesn't begin at the end of the one before it; None if all do."""
    known = places[0]
    for number, (place, part) in enumerate(zip(places, parts, strict=True)):
        # Only the final offset shows how many bytes of the last number there are.
        filled_up = not part and number == len(parts) - 1 and known - size < place <= known
        if place != known and not filled_up:
            return number
        known += len(part)
    return None


class Column:
    """Cells of od without offsets. They contain a match of ``sign``, which hex never does."""

    def __init__(self, cells: Cells, sign: str) -> None:
        self._cells = cells
        self._sign = re.compile(sign)

    def read(self, text: str) -> bytes | None:
        if self._sign.search(text) is None:
            return None
        parts = [self._cells.read(line) for line in text.splitlines()]
        return None if None in parts else b"".join(filter(None, parts))


class Hex:
    """Hex alone, with any usual separators."""

    def read(self, text: str) -> bytes | None:
        try:
            return read_hex(text)
        except UsageError:
            return None


OCTAL_WORDS = Column(_OCTAL_WORDS, r"[01][0-7]{5}[ \n]+[01][0-7]{5}")
OCTAL_BYTES = Column(_OCTAL_BYTES, r"\d{3}")
OD_CHARACTERS = Column(_OD_CHARACTERS, r"\d{3}")
DECIMAL_BYTES = Column(_DECIMAL_BYTES, r"\d{3}")


def read_hex(text: str) -> bytes:
    """Return the bytes that a text spells in hex.

    Raises `UsageError`, which names the line, for any other text.
    """
    return b"".join(_read_hex_line(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _read_hex_line(line: str, number: int) -> bytes:
    cells = [cell for cell in _SEPARATORS.split(_C_PREFIX.sub(" ", line)) if cell]
    for cell in cells:
        if not _HEX_BYTES.fullmatch(cell):
            odd = re.sub(r"[0-9a-fA-F]", "", cell)
            what = f"has {odd[0]!r} in it" if odd else f"has an odd number of digits in {cell[:20]!r}"
            raise UsageError(f"line {number} {what}, which is not bytes in hex: {line.strip()[:60]!r}")
    return bytes.fromhex("".join(cells))
