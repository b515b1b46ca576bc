"""A message in fragments: the opcode first, FIN last, and a piece more than is sent (RFC 6455 §5.4)."""

from __future__ import annotations

import zlib

import pytest

from rawws.wire.deflate import TAIL, StreamDeflater
from rawws.wire.events import Data
from rawws.wire.fragmenting import Fragments
from rawws.wire.frames import FrameHeader, Opcode, split_frames
from rawws.wire.role import Role
from rawws.wire.session import Session


def fragments(*, deflater: StreamDeflater | None = None, text: bool | None = None) -> Fragments:
    return Fragments(Session(Role.SERVER, max_message_bytes=1000), deflater, text)


def frames_of(message: Fragments, *pieces: Data) -> list[tuple[FrameHeader, bytes]]:
    made: list[bytes] = []
    for piece in pieces:
        message.add(piece)
        while message.has_frame:
            made.append(message.next_frame())
    message.end()
    while message.has_frame:
        made.append(message.next_frame())
    return [(header, bytes(payload)) for header, payload in split_frames(b"".join(made))]


@pytest.mark.parametrize(
    ("pieces", "opcode"), [(["a", "b", "c"], Opcode.TEXT), ([b"a", bytearray(b"b"), memoryview(b"c")], Opcode.BINARY)]
)
def test_the_first_frame_has_the_opcode_and_the_last_has_fin(pieces: list[Data], opcode: Opcode) -> None:
    found = frames_of(fragments(), *pieces)
    assert [header.opcode for header, _ in found] == [opcode, Opcode.CONTINUATION, Opcode.CONTINUATION]
    assert [header.fin for header, _ in found] == [False, False, True]
    assert [payload for _, payload in found] == [b"a", b"b", b"c"]


def test_a_piece_waits_until_another_follows_or_the_message_ends() -> None:
    message = fragments()
    message.add("a")
    assert not message.has_frame
    message.add("b")
    assert message.has_frame
    assert not message.is_started
    message.next_frame()
    assert message.is_started
    assert not message.has_frame
    message.end()
    assert message.has_frame


@pytest.mark.parametrize(("text", "opcode"), [(True, Opcode.TEXT), (False, Opcode.BINARY), (None, Opcode.BINARY)])
def test_a_message_without_pieces_is_empty(text: bool | None, opcode: Opcode) -> None:
    ((header, payload),) = frames_of(fragments(text=text))
    assert (header.opcode, header.fin, payload) == (opcode, True, b"")


def test_text_says_what_bytes_are() -> None:
    ((header, _),) = frames_of(fragments(text=True), b"a")
    assert header.opcode == Opcode.TEXT


def test_text_and_bytes_are_not_mixed() -> None:
    message = fragments()
    message.add("a")
    with pytest.raises(TypeError, match="all str or all bytes"):
        message.add(b"b")


def test_a_compressed_message_has_rsv1_on_its_first_frame_only() -> None:
    """RFC 7692 §6.1."""
    found = frames_of(fragments(deflater=StreamDeflater(15)), "Hello, ", "world")
    assert [header.rsv1 for header, _ in found] == [True, False]
    compressed = b"".join(payload for _, payload in found) + TAIL
    assert zlib.decompressobj(-15).decompress(compressed) == b"Hello, world"
