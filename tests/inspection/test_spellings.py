"""Text is distinguished from bytes, in any encoding, and the work for a text grows no faster than its length."""

from __future__ import annotations

import contextlib
import time

import pytest

from rawws.errors import UsageError
from rawws.inspection import spellings

HELLO = b"\x81\x05Hello"
DUMP = "00000000: 8105 4865 6c6c 6f                        ..Hello\r\n"


@pytest.mark.parametrize(
    "file",
    [
        DUMP.encode("ascii"),
        DUMP.encode("utf-8-sig"),
        DUMP.encode("utf-16"),  # as PowerShell's > has it
        b"\xfe\xff" + DUMP.encode("utf-16-be"),
        b"\x1b[32m8105\x1b[0m 4865 6c6c 6f",
    ],
    ids=["ASCII", "UTF-8 with its mark", "UTF-16", "UTF-16, the other way", "in colours"],
)
def test_a_text_is_read_in_any_encoding(file: bytes) -> None:
    text = spellings.as_text(file)
    assert isinstance(text, str)
    assert spellings.read(text) == HELLO


@pytest.mark.parametrize(
    "data",
    [HELLO, b"\x01\x05Hello", b"\x41\x02ab", b"\xc2\x85abcdefghi", b"\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\0"],
)
def test_bytes_are_returned_unchanged(data: bytes) -> None:
    assert spellings.as_text(data) == data


LONG = 100_000
HOSTILE = {
    "spaces": " ",
    "brackets": "[",
    "lists": "[1 ",
    "numbers": "0x81 ",
    "strings": '"\\"',
    "apostrophes": "'\\x81",
    "quotes": '"',
    "comments": "/*",
    "hex": "81 ",
    "base64": "gYU3",
    "calls": 'read(1, "',
    "rows": "00000000: 81\n",
    "lines of od": "0000000 81\n",
    "buffers": "<Buffer 81 ",
    "equals": "=",
    "objects": '{"a":',
    "indices": '{"0":1,',
    "angles": "0000 <",
    "escapes": "\\u00",
    "bars": "| ",
    "octal": "201 ",
    "words": "a.",
    "lines": "a\n",
    "line ends": "\r\n",
    "colours": "\x1b[",
    "yaml": "data: !!binary |\n AAAA\n",
    "arrays": "char peer0_0[] = {",
}


@pytest.mark.parametrize("of", HOSTILE)
def test_a_text_is_looked_at_in_time_that_grows_as_it_does(of: str) -> None:
    text = HOSTILE[of] * (LONG // len(HOSTILE[of]))
    began = time.process_time()
    for each in (text, text + "!"):
        with contextlib.suppress(UsageError):
            spellings.read(each)
    assert time.process_time() - began < 10  # 0.1 to 1 s; minutes where a part is looked at again and again
