"""A message as an object of JSON, whole and in steps."""

from __future__ import annotations

import base64
import json

import pytest

from rawws.broadcast.json_messages import SLICE_BYTES, as_compact_json, as_json, as_json_in_steps, slices
from rawws.wire.frames import Opcode

FIRST = b"9f2c41d7-41"


def test_json_has_text_as_text_and_binary_in_base64() -> None:
    assert as_json(FIRST, Opcode.TEXT, 'ü "'.encode()) == '{"id":"9f2c41d7-41","text":"ü \\""}'.encode()
    assert as_json(FIRST, Opcode.BINARY, b"\x00") == b'{"id":"9f2c41d7-41","base64":"AA=="}'


def test_compact_json_has_no_spaces_and_keeps_every_character() -> None:
    assert as_compact_json({"a": [1, "ü b"], "c": None}) == '{"a":[1,"ü b"],"c":null}'.encode()


@pytest.mark.parametrize("character", ["x", "\x01", "ü", "€", "🦊", 'x€\\"🦊ü\n'])
@pytest.mark.parametrize("slice_bytes", [3, 9, 300])
@pytest.mark.parametrize("of", [bytes, memoryview])
def test_a_text_in_steps_is_the_same_and_never_cut_within_a_character(
    character: str, slice_bytes: int, of: type[bytes] | type[memoryview]
) -> None:
    payload = ("." + character * 200).encode()
    pieces = list(as_json_in_steps(b"e-1", Opcode.TEXT, of(payload), slice_bytes=slice_bytes))
    assert b"".join(pieces) == as_json(b"e-1", Opcode.TEXT, payload)
    assert max(map(len, pieces)) <= 6 * (slice_bytes + 3), "a character of two bytes or more may begin in another slice"
    for piece in pieces:
        piece.decode()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 8, 9, 10])
def test_a_binary_message_in_steps_is_whole_in_base64(size: int) -> None:
    payload = bytes(range(size))
    pieces = list(as_json_in_steps(b"e-1", Opcode.BINARY, memoryview(payload), slice_bytes=3))
    assert json.loads(b"".join(pieces)) == {"id": "e-1", "base64": base64.b64encode(payload).decode()}


def test_a_slice_is_whole_groups_of_base64() -> None:
    assert SLICE_BYTES % 3 == 0
    assert list(map(len, slices(bytes(2 * SLICE_BYTES + 5)))) == [SLICE_BYTES, SLICE_BYTES, 5]
    assert list(slices(b"")) == []
