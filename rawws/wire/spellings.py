"""The forms in which people have bytes at hand, as one table: each form is asked in turn whether a text is its own.

A form returns the bytes which a text spells, or what two sides said to each other; None for a text in another form;
and it raises `UsageError` where the text is its own and bytes are missing from it. A text in no form is named, if its
kind is known, with what to do about it (`rawws.wire.file_kinds`).
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

from rawws.errors import UsageError
from rawws.wire import dumps, literals, packets
from rawws.wire.file_kinds import begins_with_whole, text_kind
from rawws.wire.packets import Talk

# The first line of a file that is HTTP itself; a dump of it begins with its place.
_HTTP_LINE = re.compile(rb"(?:HTTP/\d|[A-Za-z]+ \S+ HTTP/)")
# No text has a control character in it but for white space, and ESC, with which programs colour their output.
_NO_TEXT = re.compile(r"[^\t\n\f\r\x1b -~\x80-\U0010ffff]|[\x80-\x9f]")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class NoForm(UsageError):
    """A text spells no bytes in any form that is known, and isn't anything else that is."""


class Form(Protocol):
    """One form in which bytes come."""

    def read(self, text: str) -> bytes | Talk | None:
        """Return what a text in this form says; None for any other. Raises `UsageError` if a part of it is missing."""


_BASE64 = literals.Base64(begins_with_whole)
# Forms that leave no doubt come first, and those that any short word may be in come last.
FORMS: tuple[Form, ...] = (
    packets.TCPDUMP,
    packets.TSHARK,
    packets.FollowHex(),
    packets.FollowRaw(),
    packets.FollowYaml(),
    packets.FollowArrays(),
    packets.CurlTrace(),
    dumps.Dump(),
    packets.Strace(),
    literals.NodeBuffer(),
    literals.IndexedNumbers(),
    literals.NumberList(),
    literals.StringLiteral(),
    dumps.OCTAL_WORDS,
    dumps.Hex(),
    dumps.OCTAL_BYTES,
    dumps.OD_CHARACTERS,
    dumps.DECIMAL_BYTES,
    literals.BareEscapes(),
    _BASE64,
    literals.Quoted(_BASE64),
)


def as_text(data: bytes) -> bytes | str:
    """Tell text from the bytes of a connection: those are returned as they are, HTTP among them."""
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
    """Return the bytes that a text spells, in whichever form.

    Raises `UsageError` for a text that is something else, which says what it is and what would do, with its file's
    ``name``; `NoForm` for one that is nothing known.
    """
    for form in FORMS:
        if (found := form.read(text)) is not None:
            return found
    kind = text_kind(text)
    if kind is not None:
        raise UsageError(kind.sentence(name))
    try:
        return dumps.read_hex(text)
    except UsageError as error:
        told = "give hex, or what xxd, hexdump, od, gdb, tcpdump -X or tshark -x prints"
        whose = f"{name} spells no bytes in a form that is known: " if name else ""
        raise NoForm(f"{whose}{error}; {told}") from None
