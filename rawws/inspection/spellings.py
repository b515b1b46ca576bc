"""The textual forms of bytes, as one table: a text is offered to each form in turn.

A form returns the bytes that a text spells, or both sides of a connection; None for a text in another form. It raises
`UsageError` for a text in its form from which bytes are missing. If no form matches, and the kind of text is known, the
error names the kind and gives advice (`rawws.inspection.file_kinds`).
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

from rawws.errors import UsageError
from rawws.inspection import hexdump, literals, packets
from rawws.inspection.file_kinds import begins_with_whole, text_kind
from rawws.inspection.packets import Talk

# The first line of raw HTTP; a dump of it would begin with an offset.
_HTTP_LINE = re.compile(rb"(?:HTTP/\d|[A-Za-z]+ \S+ HTTP/)")
# Text has no control characters except white space, and ESC, with which programs colour their output.
_NO_TEXT = re.compile(r"[^\t\n\f\r\x1b -~\x80-\U0010ffff]|[\x80-\x9f]")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class NoForm(UsageError):
    """A text spells no bytes in any known form, and is of no other known kind."""


class Form(Protocol):
    """One textual form of bytes."""

    def read(self, text: str) -> bytes | Talk | None:
        """Return the data of a text in this form; None for any other. Raises `UsageError` if a part of it is
        missing."""


_BASE64 = literals.Base64(begins_with_whole)
# Unmistakable forms come first, and those that any short word may match come last.
FORMS: tuple[Form, ...] = (
    packets.TCPDUMP,
    packets.TSHARK,
    packets.FollowHex(),
    packets.FollowRaw(),
    packets.FollowYaml(),
    packets.FollowArrays(),
    packets.CurlTrace(),
    hexdump.Dump(),
    packets.Strace(),
    literals.NodeBuffer(),
    literals.IndexedNumbers(),
    literals.NumberList(),
    literals.StringLiteral(),
    hexdump.OCTAL_WORDS,
    hexdump.Hex(),
    hexdump.OCTAL_BYTES,
    hexdump.OD_CHARACTERS,
    hexdump.DECIMAL_BYTES,
    literals.BareEscapes(),
    _BASE64,
    literals.Quoted(_BASE64),
)


def as_text(data: bytes) -> bytes | str:
    """Return text for bytes that are text, and the same bytes for those of a connection, HTTP included."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data[len(bom) :].decode(encoding)
            except UnicodeDecodeError:
                return data
    if _HTTP_LINE.match(data):
        return data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    return data if _NO_TEXT.search(text) else _COLOUR.sub("", text)


def read(text: str, name: str = "") -> bytes | Talk:
    """Return the bytes that a text spells, in any known form.

    Raises `UsageError` for a text of another known kind, with advice and the ``name`` of its file; `NoForm` for an
    unknown one.
    """
    for form in FORMS:
        if (found := form.read(text)) is not None:
            return found
    kind = text_kind(text)
    if kind is not None:
        raise UsageError(kind.sentence(name))
    try:
        return hexdump.read_hex(text)
    except UsageError as error:
        advice = "give hex, or the output of xxd, hexdump, od, gdb, tcpdump -X or tshark -x"
        whose = f"{name} has no bytes in a known form: " if name else ""
        raise NoForm(f"{whose}{error}; {advice}") from None
