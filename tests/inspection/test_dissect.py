"""A frame as a ruler: every bit of §5.2 in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.inspection import dissect
from rawws.wire.frames import Frame, Opcode, encode_frame, parse_header


def frame_of(raw: bytes, payload: bytes) -> Frame:
    header = parse_header(raw)
    assert header is not None
    return Frame(header, payload)


def test_the_masked_hello_of_section_5_7() -> None:
    lines = dissect.lines(frame_of(bytes.fromhex("818537fa213d7f9f4d5158"), b"Hello"))
    assert [line.split()[:3] for line in lines[:7]] == [
        ["81", "1.......", "FIN"],
        [".0......", "RSV1", "not"],
        ["..0.....", "RSV2", "not"],
        ["...0....", "RSV3", "not"],
        ["....0001", "opcode", "TEXT:"],
        ["85", "1.......", "MASK"],
        [".0000101", "length", "5"],
    ]
    assert lines[7].startswith("37 fa 21 3d ")
    assert lines[8].startswith("7f 9f 4d 51 58 ")
    assert lines[9].startswith("48 65 6c 6c 6f ")
    assert lines[9].endswith("with the mask taken off: 'Hello'")


@given(
    opcode=st.integers(0, 15),
    size=st.integers(0, 70_000),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0x40, 0x20, 0x10, 0x70]),
    key=st.none() | st.binary(min_size=4, max_size=4),
)
def test_the_fields_cover_the_header_bit_by_bit(opcode: int, size: int, fin: bool, rsv: int, key: bytes | None) -> None:
    header = parse_header(encode_frame(opcode, bytes(size), fin=fin, rsv=rsv, mask_key=key))
    assert header is not None
    at = 0
    bits = ""
    for field in dissect.fields_of(header):
        assert field.at == at
        assert field.section.startswith("RFC ")
        at += field.bits
        digits = field.digits
        bits += digits if field.bits < 8 else f"{int(digits.replace(' ', ''), 16):0{field.bits}b}"
    assert at == len(header.raw) * 8
    assert int(bits, 2) == int.from_bytes(header.raw, "big")


@pytest.mark.parametrize(
    ("raw", "name", "meaning"),
    [
        ("0100", "FIN", "more frames of this message follow"),
        ("0900", "FIN", "not the last: but control frames have no parts"),
        ("8000", "opcode", "CONTINUATION: goes on with a message that an earlier frame began"),
        ("8b00", "opcode", "reserved for control frames to come"),
        ("8300", "opcode", "reserved for data frames to come"),
        ("c000", "RSV1", "out of place: only a message's first frame can say that it is compressed"),
        ("c100", "RSV1", "the message is compressed with permessage-deflate"),
        ("a100", "RSV2", "for an extension that nobody has defined"),
        ("817e0005", "extended length", "5 bytes of payload, in more bytes than that needs"),
        ("827f0000000000010000", "extended length", "65,536 bytes of payload"),
        ("827f8000000000000000", "extended length", f"{1 << 63:,} bytes of payload: the first bit has to be 0"),
        ("8101", "length", "1 byte of payload"),
    ],
)  # fmt: skip
def test_each_field_has_a_meaning(raw: str, name: str, meaning: str) -> None:
    header = parse_header(bytes.fromhex(raw))
    assert header is not None
    assert {field.name: field.meaning for field in dissect.fields_of(header)}[name] == meaning


@pytest.mark.parametrize(
    ("payload", "description"),
    [
        (b"\x03\xe8", "1000 (normal closure), no reason"),
        (b"\x03\xe9bye", "1001 (going away), reason 'bye'"),
        (b"\x0f\xa1", "4001 (a code of libraries and applications), no reason"),
        (b"\x00\x01", "1 (not a registered code), no reason"),
        (b"", ""),
        (b"\x03", "03"),
    ],
)
def test_a_closes_payload_is_described(payload: bytes, description: str) -> None:
    assert dissect.describe_payload(frame_of(encode_frame(Opcode.CLOSE, payload), payload)) == description


def name_of(row: str) -> str:
    """Return the text after the columns of the bytes and of the bits."""
    return row[37:52].strip()


def test_5_5_a_control_frame_is_whole_and_without_a_payload_it_has_no_row_for_one() -> None:
    rows = dissect.lines(frame_of(bytes.fromhex("8900"), b""))
    assert rows[0].split()[:4] == ["89", "1.......", "FIN", "whole,"]
    assert [name_of(row) for row in rows] == ["FIN", "RSV1", "RSV2", "RSV3", "opcode", "MASK", "length"]


def test_5_1_a_payload_that_is_not_masked_is_shown_once() -> None:
    rows = dissect.lines(frame_of(bytes.fromhex("8105"), b"Hello"))
    (payload,) = [row for row in rows if name_of(row) == "payload"]
    assert payload.startswith("48 65 6c 6c 6f ")
    assert payload.endswith("'Hello'")
    assert "mask" not in payload


def test_a_row_shows_the_beginning_of_a_long_payload() -> None:
    rows = dissect.lines(frame_of(encode_frame(Opcode.BINARY, bytes(9)), bytes(9)))
    assert rows[-1].startswith("00 00 00 00 00 00 00 00 … ")
