"""Bytes as programs spell and print them: lists of numbers, strings with escapes, Node's buffers, base64.

Each class is one of the forms in `rawws.inspection.spellings`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from rawws.errors import UsageError
from rawws.inspection.hexdump import ESCAPES, Hex

_NUMBER = r"(?:\(byte\)\s*)?-?(?:0[xX][0-9a-fA-F]+|\d+)(?:u8|i8|[uU])?"
_NUMBERS = re.compile(
    rf"(?<!\w)\[\s*({_NUMBER}(?:[\s,]+{_NUMBER})*)[\s,]*\](?!\w)|\{{\s*({_NUMBER}(?:[\s,]+{_NUMBER})*)[\s,]*\}}"
)
_LONE_NUMBERS = re.compile(r"\s*0x[0-9a-fA-F]{1,2}(?:[\s,]+0x[0-9a-fA-F]{1,2})*[\s,]*")
_COMMENT = re.compile(r"/\*[^*]*\*/|//[^\n]*")
# The most code around the bytes of a program; prose and logs have more.
_CODE = re.compile(r"[\w\s*&:.=()\[\]{}<>,;!'\"$\\+-]{0,400}")
_LIST_BEGINS = re.compile(rf"[\[{{]\s*{_NUMBER}[,\s]")
_LEFT_OUT_OF_LIST = re.compile(r"\.\.\. \d+ more items?|<repeats \d+ times>|\d\.\.\.\}")  # Node, gdb, gdb
_LEFT_OUT_OF_STRING = re.compile(r"\.\.\.|<repeats \d+ times>")
_INDEXED = re.compile(r'\s*\{\s*"0"\s*:\s*\d')
# An unclosed one matches too, so that no part of the text is scanned twice.
_LITERAL = re.compile(r"""(\b[bB]|\$)?("(?:[^"\\\n]|\\(?s:.))*+"?|'(?:[^'\\\n]|\\(?s:.))*+'?)""")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|u\{?([0-9a-fA-F]{4})\}?|U([0-9a-fA-F]{8})|(\r?\n)|(?s:(.)))")
_HAS_NUMBERED_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|[0-7]{1,3}|u00)")
_BUFFER = re.compile(r"<(?:Buffer )?((?:[0-9a-fA-F]{2} )*[0-9a-fA-F]{2})( \.\.\. \d+ more bytes?)?>")
_IN_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=?|[A-Za-z0-9+/]{2}(?:==)?)")
_DATA_URL = re.compile(r"data:[^,\s]*;base64,")
_SPACE = re.compile(r"\s+")
_QUOTED = re.compile(r"""[\w.]*\(?\s*(["'])([^"'\\]+)\1(?:\s*,\s*(["'])(?:hex|base64)\3)?\s*\)?;?""")
_LEAST_BYTES = 2  # the shortest frame
_MOST_DIGITS = 64  # of a byte, with leading zeros; Python refuses to read thousands of them, and takes its time before


class NumberList:
    """``{0x81, 0x05}`` of C, ``[129, 5]`` of Python, Rust and JSON, ``[129 5]`` of Go, ``Uint8Array(2) [ 129, 5 ]``."""

    def read(self, text: str) -> bytes | None:
        """Return the bytes. Raises `UsageError` for a list that was abbreviated where it was printed."""
        code = _COMMENT.sub(" ", text)
        if _LONE_NUMBERS.fullmatch(code):
            return _numbers(code)
        if _LEFT_OUT_OF_LIST.search(code) and _LIST_BEGINS.search(code, 0, 1000):
            raise _left_out()
        around = _NUMBERS.sub("", code, count=1)
        match = _NUMBERS.search(code)
        if match is None or not _CODE.fullmatch(around) or _NUMBERS.search(around):
            return None
        if '"' in around and '"Buffer"' not in around:  # other JSON that contains numbers
            return None
        return _numbers(match[1] or match[2])


def read_elements(text: str) -> bytes | None:
    """Return the bytes between the braces of an array of C, of which there may be one."""
    return _numbers(_COMMENT.sub(" ", text), least=1)


def _left_out() -> UsageError:
    return UsageError(
        "a part of these bytes was left out where they were printed: print all of them, in Node with "
        "buffer.toString('hex'), in gdb after 'set print elements 0' and 'set print repeats 0'"
    )


def _numbers(text: str, least: int = _LEAST_BYTES) -> bytes | None:
    data = bytearray()
    for number in re.findall(r"(-?)(0[xX][0-9a-fA-F]+|\d+)", text.replace("u8", "").replace("i8", "")):
        digits = number[1]
        is_octal = len(digits) > 1 and digits[0] == "0" and digits.isdecimal()
        if is_octal and ("," not in text or digits.strip("01234567")):
            return None  # more likely hex
        if len(digits) > _MOST_DIGITS:
            return None
        value = int(digits, 8 if is_octal else 0 if digits[:2] in ("0x", "0X") else 10)
        if value > 255 or (number[0] and value > 128):
            return None
        data.append(-value & 0xFF if number[0] else value)
    return bytes(data) if len(data) >= least else None


class IndexedNumbers:
    """``{"0":129,"1":5}``: JSON of a typed array."""

    def read(self, text: str) -> bytes | None:
        if not _INDEXED.match(text):
            return None
        pairs = re.findall(r'"(\d{1,9})"\s*:\s*(\d{1,3})\s*[,}]', text)
        values = [int(value) for _, value in pairs]
        if [int(index) for index, _ in pairs] != list(range(len(pairs))) or max(values, default=256) > 255:
            return None
        return bytes(values)


class NodeBuffer:
    """``<Buffer 81 05>``, and the contents of an ArrayBuffer, as Node prints them."""

    def read(self, text: str) -> bytes | None:
        """Return the bytes. Raises `UsageError` if Node printed only the first of them, or there are several
        buffers."""
        if "<Buffer " not in text and "[Uint8Contents]" not in text:
            return None
        found = list(_BUFFER.finditer(text))
        if len(found) > 1:
            raise UsageError(f"there are {len(found)} buffers in this text: give one of them")
        if not found:
            return None
        if found[0][2]:
            raise _left_out()
        return bytes.fromhex(found[0][1])


class StringLiteral:
    r"""``b'\x81\x05Hello'`` of Python, ``"\201\005Hello"`` of C, Go, Ruby, JavaScript and gdb, ``$'\201'`` of bash."""

    def read(self, text: str) -> bytes | None:
        """Return the bytes. Raises `UsageError` for a string that was abbreviated, or decoded as text before."""
        literals = list(_LITERAL.finditer(text))
        if text.lstrip()[:1] in ("{", "[") or any(
            len(match[2]) < 2 or match[2][0] != match[2][-1] for match in literals
        ):
            return None
        if not any(match[1] or _HAS_NUMBERED_ESCAPE.search(match[2]) for match in literals):
            return None
        around = _LITERAL.sub("", text)
        if _LEFT_OUT_OF_STRING.search(around):
            raise _left_out()
        if not _CODE.fullmatch(around):
            return None
        return b"".join(unescape(match[2][1:-1]) for match in literals)


class BareEscapes:
    r"""``\x81\x05Hello`` without quotes, as an argument of printf."""

    def read(self, text: str) -> bytes | None:
        text = text.strip()
        return unescape(text) if _HAS_NUMBERED_ESCAPE.match(text) else None


def unescape(text: str) -> bytes:
    """Return the bytes of a string literal. Raises `UsageError` for a character in it that is no byte."""
    out = bytearray()
    at = 0
    for match in _ESCAPE.finditer(text):
        out += text[at : match.start()].encode("utf-8", "surrogatepass")
        at = match.end()
        digits = (match[1], 16), (match[2], 8), (match[3] or match[4], 16)
        number = next((int(value, base) for value, base in digits if value), None)
        if number is not None and number > 255:
            what = "U+FFFD, which stands for bytes that are lost: " if number == 0xFFFD else ""
            raise UsageError(
                f"{match[0]} in this string is {what or 'a character, not a byte: '}print the bytes themselves, as hex"
            )
        if number is not None:
            out.append(number)
        elif match[6]:
            escaped = ESCAPES.get(match[6])
            out += match[6].encode("utf-8", "surrogatepass") if escaped is None else bytes((escaped,))
    return bytes(out + text[at:].encode("utf-8", "surrogatepass"))


class Base64:
    """Base64 of bytes that begin with a whole frame or an HTTP head; otherwise, any word might be base64."""

    def __init__(self, is_plausible: Callable[[bytes], bool]) -> None:
        self._is_plausible = is_plausible

    def read(self, text: str) -> bytes | None:
        """Return the bytes. Raises `UsageError` for a text that can only be base64, but spells no frames."""
        url = _DATA_URL.match(text.lstrip())
        packed = _SPACE.sub("", text.lstrip()[url.end() :] if url else text)
        if "-" in packed or "_" in packed:
            packed = packed.replace("-", "+").replace("_", "/")
        if not _IN_BASE64.fullmatch(packed):
            return None
        data = base64.b64decode(packed + "=" * (-len(packed) % 4))
        if url or self._is_plausible(data):
            return data
        if len(packed) >= 20 and (
            packed.endswith("=") or all(re.search(kind, packed) for kind in ("[a-z]", "[A-Z]", "[0-9+/]"))
        ):
            raise UsageError(
                "this looks like base64, but the bytes in it don't begin with a whole frame or an HTTP head: "
                "base64 -d FILE | rawws decode explains them all the same"
            )
        return None


class Quoted:
    """``"8105"``, ``Buffer.from("gQ…", "base64")``: a string without escapes that contains hex or base64."""

    def __init__(self, base64_: Base64) -> None:
        self._inner = (Hex(), base64_)

    def read(self, text: str) -> bytes | None:
        match = _QUOTED.fullmatch(text.strip())
        if match is None:
            return None
        return next((data for form in self._inner if (data := form.read(match[2]))), None)
