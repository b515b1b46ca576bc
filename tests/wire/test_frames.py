"""Frame headers by their bytes (RFC 6455 §5.2, §5.7)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, Message, Ping, Pong, TextMessage

from rawws.wire.frames import (
    FIN,
    RSV1,
    RSV2,
    RSV3,
    Frame,
    FrameHeader,
    FrameScanner,
    Opcode,
    SeenMessage,
    count_frames,
    encode_frame,
    encode_header,
    encode_message,
    frame_ends,
    parse_header,
    skip_frames,
    split_frames,
    whole_messages,
)
from rawws.wire.masking import apply_mask
from tests.wire.helpers import MASK_KEY, any_chunking, every_split

mask_keys = st.binary(min_size=4, max_size=4)
any_header = st.builds(
    encode_header,
    opcode=st.integers(0, 15),
    payload_bytes=st.one_of(st.integers(0, 200), st.integers(65_000, 66_000), st.integers(0, 2**64 - 1)),
    fin=st.booleans(),
    rsv=st.sampled_from([0, RSV1, RSV2, RSV3, RSV1 | RSV3]),
    mask_key=st.none() | mask_keys,
)
any_frame = st.builds(
    encode_frame,
    opcode=st.integers(0, 15),
    payload=st.binary(max_size=200),
    fin=st.booleans(),
    mask_key=st.none() | mask_keys,
)


# §5.2 Base framing protocol


@pytest.mark.parametrize(
    ("raw", "fin", "rsv", "opcode", "mask_key", "payload_bytes"),
    [
        ("8100", True, "000", 0x1, None, 0),
        ("0200", False, "000", 0x2, None, 0),
        ("c100", True, "100", 0x1, None, 0),
        ("a100", True, "010", 0x1, None, 0),
        ("9100", True, "001", 0x1, None, 0),
        ("827d", True, "000", 0x2, None, 125),
        ("827e007e", True, "000", 0x2, None, 126),
        ("827effff", True, "000", 0x2, None, 65_535),
        ("827f0000000000010000", True, "000", 0x2, None, 65_536),
        ("827f7fffffffffffffff", True, "000", 0x2, None, 2**63 - 1),
        ("828037fa213d", True, "000", 0x2, "37fa213d", 0),
        ("82fe010037fa213d", True, "000", 0x2, "37fa213d", 256),
        ("82ff000000000001000037fa213d", True, "000", 0x2, "37fa213d", 65_536),
        ("ff80ffffffff", True, "111", 0xF, "ffffffff", 0),
    ],
)
def test_5_2_a_header_is_taken_apart_and_put_together_again(
    raw: str, fin: bool, rsv: str, opcode: int, mask_key: str | None, payload_bytes: int
) -> None:
    data = bytes.fromhex(raw)
    assert [parse_header(data[:end]) for end in range(len(data))] == [None] * len(data), "all of it is needed"
    header = parse_header(data)
    assert header is not None
    assert (header.fin, header.opcode, header.payload_bytes) == (fin, opcode, payload_bytes)
    assert f"{header.rsv1:d}{header.rsv2:d}{header.rsv3:d}" == rsv
    assert header.mask_key == (bytes.fromhex(mask_key) if mask_key else None)
    bits = int(rsv, 2) << 4
    assert encode_header(opcode, payload_bytes, fin=fin, rsv=bits, mask_key=header.mask_key).hex() == raw


@given(any_header, st.binary(max_size=20), st.binary(max_size=20))
def test_5_2_any_header_survives_the_round_trip_and_needs_all_of_its_bytes(
    raw: bytes, before: bytes, behind: bytes
) -> None:
    header = parse_header(raw)
    assert header is not None
    rsv = RSV1 * header.rsv1 | RSV2 * header.rsv2 | RSV3 * header.rsv3
    again = encode_header(header.opcode, header.payload_bytes, fin=header.fin, rsv=rsv, mask_key=header.mask_key)
    assert again == header.raw == raw
    for end in range(len(raw)):
        assert parse_header(before + raw[:end], len(before)) is None
    for data in (before + raw + behind, bytearray(before + raw + behind), memoryview(before + raw + behind)):
        assert parse_header(data, len(before)) == header


@pytest.mark.parametrize("raw", ["817e0005", "817f0000000000000005"], ids=["in 2 bytes", "in 8 bytes"])
def test_5_2_a_length_that_is_not_the_shortest_is_read_as_it_stands(raw: str) -> None:
    header = parse_header(bytes.fromhex(raw))
    assert header is not None
    assert (header.payload_bytes, header.raw.hex()) == (5, raw)


def test_5_2_opcodes_have_their_names_and_the_reserved_ones_a_number() -> None:
    headers = [parse_header(bytes((FIN | opcode, 0))) for opcode in range(16)]
    assert [header.opcode_name for header in headers if header] == [
        *("CONTINUATION", "TEXT", "BINARY"),
        *(f"RESERVED-0x{opcode:x}" for opcode in range(3, 8)),
        *("CLOSE", "PING", "PONG"),
        *(f"RESERVED-0x{opcode:x}" for opcode in range(11, 16)),
    ]
    assert [header.opcode for header in headers if header and header.is_control] == list(range(8, 16))


# §5.7 Examples

EXAMPLES = {
    "a single-frame unmasked text message": ("81 05 48 65 6c 6c 6f", [(Opcode.TEXT, True, None, b"Hello")]),
    "a single-frame masked text message": (
        "81 85 37 fa 21 3d 7f 9f 4d 51 58",
        [(Opcode.TEXT, True, MASK_KEY, b"Hello")],
    ),
    "a fragmented unmasked text message": (
        "01 03 48 65 6c 80 02 6c 6f",
        [(Opcode.TEXT, False, None, b"Hel"), (Opcode.CONTINUATION, True, None, b"lo")],
    ),
    "unmasked ping request and masked ping response": (
        "89 05 48 65 6c 6c 6f 8a 85 37 fa 21 3d 7f 9f 4d 51 58",
        [(Opcode.PING, True, None, b"Hello"), (Opcode.PONG, True, MASK_KEY, b"Hello")],
    ),
    "256 bytes binary message in a single unmasked frame": (
        "82 7e 01 00" + "5a" * 256,
        [(Opcode.BINARY, True, None, b"\x5a" * 256)],
    ),
    "64KiB binary message in a single unmasked frame": (
        "82 7f 00 00 00 00 00 01 00 00" + "5a" * 65_536,
        [(Opcode.BINARY, True, None, b"\x5a" * 65_536)],
    ),
}


@pytest.mark.parametrize(("raw", "frames"), EXAMPLES.values(), ids=EXAMPLES)
def test_5_7_each_example_is_parsed_and_written_back(
    raw: str, frames: list[tuple[Opcode, bool, bytes | None, bytes]]
) -> None:
    data = bytes.fromhex(raw)
    parsed = [
        (header.opcode, header.fin, header.mask_key, apply_mask(bytes(payload), header.mask_key or bytes(4)))
        for header, payload in split_frames(data)
    ]
    assert parsed == frames
    assert b"".join(encode_frame(op, payload, fin=fin, mask_key=key) for op, fin, key, payload in frames) == data


def test_the_ends_of_frames_are_found_without_their_headers() -> None:
    frames = [encode_frame(Opcode.BINARY, bytes(size)) for size in (0, 1, 125, 126, 65_535, 65_536)]
    data = b"".join(frames)
    ends = list(itertools.accumulate(map(len, frames)))
    assert list(frame_ends(data)) == list(frame_ends(memoryview(data))) == ends
    assert [skip_frames(data, count) for count in range(len(frames) + 1)] == [0, *ends]


def test_whole_messages_are_split() -> None:
    sent = [
        (opcode, b"x" * size) for size in (0, 1, 125, 126, 65_535, 65_536) for opcode in (Opcode.TEXT, Opcode.BINARY)
    ]
    assert list(whole_messages(b"".join(encode_frame(*each) for each in sent))) == sent
    assert list(whole_messages(b"")) == []


# Our encoder and wsproto's

SENT = [
    TextMessage(data="Hello"),
    TextMessage(data=""),
    TextMessage(data="Grüße, 世界 🌍"),
    BytesMessage(data=bytes(range(125))),
    BytesMessage(data=bytes(126)),
    BytesMessage(data=bytes(65_535)),
    BytesMessage(data=bytes(65_536)),
    TextMessage(data="Hel", message_finished=False),
    Ping(payload=b"Hello"),
    Pong(payload=bytes(125)),
]


@pytest.mark.parametrize("sender", ConnectionType, ids=lambda sender: sender.name.lower())
@pytest.mark.parametrize("event", SENT, ids=lambda event: type(event).__name__)
def test_a_frame_is_encoded_as_wsproto_does_it(sender: ConnectionType, event: Event) -> None:
    theirs = bytes(Connection(sender).send(event))
    header = parse_header(theirs)
    assert header is not None
    fin = event.message_finished if isinstance(event, Message) else True
    data = event.data if isinstance(event, Message) else event.payload  # type: ignore[attr-defined]
    payload = data.encode() if isinstance(data, str) else bytes(data)
    assert encode_frame(header.opcode, payload, fin=fin, mask_key=header.mask_key) == theirs


# A server's messages


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4096, 4097, 65_535, 65_536])
def test_5_1_a_servers_message_is_one_frame_without_a_mask_and_only_a_large_payload_is_not_copied(
    opcode: Opcode, size: int
) -> None:
    payload = b"x" * size
    pieces: list[bytes | bytearray] = []
    encode_message(opcode, payload, pieces)
    assert b"".join(pieces) == encode_frame(opcode, payload)
    if size > 4096:
        assert pieces[1] is payload
    else:
        assert len(pieces) == 1


def test_as_many_frames_are_counted_in_pieces_as_there_are_messages() -> None:
    # 2 and 8 bytes make frames that are as long as the header of a large one alone.
    for sizes in ([], [0], [2, 8, 125], [4096, 126], [5000], [2, 5000, 8, 70_000, 0], [70_000, 70_000]):
        pieces: list[bytes | bytearray] = []
        for size in sizes:
            encode_message(Opcode.BINARY, b"\xff" * size, pieces)
        assert count_frames(pieces, max(map(len, pieces), default=0)) == len(sizes), sizes


def test_a_frame_to_be_shown_knows_how_much_of_its_payload_is_left_out() -> None:
    header = parse_header(bytes.fromhex("82 7e 01 00"))
    assert header is not None
    assert Frame(header, bytes(256)).left_out_bytes == 0
    assert Frame(header, b"head", b"tail!").left_out_bytes == 256 - 9


def test_a_message_is_whole_if_all_of_it_is_known_and_kept() -> None:
    assert SeenMessage(Opcode.TEXT, 5, b"Hello").is_whole
    assert not SeenMessage(Opcode.TEXT, 5, b"Hell").is_whole
    assert not SeenMessage(Opcode.TEXT, 5, b"Hello", is_all_known=False).is_whole


# Following the boundaries through a stream


def scan(chunks: list[bytes]) -> tuple[list[FrameHeader], FrameScanner]:
    scanner = FrameScanner()
    headers = []
    for chunk in chunks:
        position = 0
        while position < len(chunk):
            if not scanner.payload_left:
                position = scanner.scan_header(chunk, position)
                if scanner.header is None:
                    break
                headers.append(scanner.header)
            position = scanner.scan_payload(chunk, position)
    return headers, scanner


@given(any_chunking(st.lists(any_frame, max_size=6).map(b"".join)))
def test_the_scanner_finds_the_same_headers_in_any_chunking(chunks: list[bytes]) -> None:
    headers, scanner = scan(chunks)
    assert headers == [header for header, _ in split_frames(b"".join(chunks))]
    assert scanner.at_boundary


def test_the_scanner_stands_at_a_boundary_only_between_frames() -> None:
    data = bytes.fromhex("01 03 48 65 6c  80 02 6c 6f  89 00")
    ends = {0, 5, 9, 11}
    for chunks in every_split(data):
        if len(chunks) == 2:
            assert scan(chunks[:1])[1].at_boundary == (len(chunks[0]) in ends)
        assert [header.raw.hex() for header in scan(chunks)[0]] == ["0103", "8002", "8900"]
