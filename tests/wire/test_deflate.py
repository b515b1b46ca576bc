"""permessage-deflate: offers and answers, deflating once for many, inflating within bounds (RFC 7692)."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.deflate import Deflater, answer_offers, deflate_frames, inflate_whole, parse_extensions
from rawws.wire.events import Failed, Message, PingReceived
from rawws.wire.frames import RSV1, Opcode, encode_frame, split_frames
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.wire.helpers import assert_failing

MIB = 1 << 20
KEY = bytes.fromhex("37 fa 21 3d")
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# §7.2.3: the examples, each "Hello" compressed into the payload of one frame.
ONE_BLOCK = bytes.fromhex("f2 48 cd c9 c9 07 00")
STORED = bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")
BFINAL = bytes.fromhex("f3 48 cd c9 c9 07 00 00")
TWO_BLOCKS = bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")


def receiver(*, max_message_bytes: int = MIB, fast_lane: bool = True) -> Session:
    return Session(Role.SERVER, max_message_bytes=max_message_bytes, deflate=True, fast_lane=fast_lane)


def compressed(payload: bytes, *, first: bool = True, fin: bool = True, opcode: int = Opcode.TEXT) -> bytes:
    return encode_frame(opcode if first else 0, payload, fin=fin, rsv=RSV1 if first else 0, mask_key=KEY)


# §7.1: offers and answers


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10",
        'permessage-deflate; client_max_window_bits="10"',
        "permessage-deflate;server_no_context_takeover ; client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate",
        "permessage-deflate; server_max_window_bits=7, permessage-deflate",
        ", permessage-deflate ,",
    ],
)
def test_7_1_a_legal_offer_is_answered_without_context_takeover_on_either_side(offer: str) -> None:
    agreement = answer_offers([offer])
    assert agreement is not None
    assert (agreement.header, agreement.server_window_bits, agreement.deflates(Role.SERVER)) == (ANSWER, 15, True)


@pytest.mark.parametrize("window_bits", range(8, 16))
def test_7_1_2_1_a_window_asked_of_the_server_is_granted_and_kept_to(window_bits: int) -> None:
    agreement = answer_offers([f"permessage-deflate; server_max_window_bits={window_bits}"])
    assert agreement is not None
    assert agreement.header == f"{ANSWER}; server_max_window_bits={window_bits}"
    assert agreement.server_window_bits == window_bits
    # zlib has no raw stream with a window of 256 bytes: such a peer is sent plain messages, which is legal.
    assert agreement.deflates(Role.SERVER) is (window_bits > 8)


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=abc",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; client_max_window_bits=1000000000000000000000",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits=9; client_max_window_bits=9",
        "permessage-deflate; unknown",
        "permessage-deflate; Client_max_window_bits",
        "Permessage-deflate",
        "permessage-deflate-not",
        "permessage-deflate; client_max_window_bits=\"1 0\"",
        "permessage-deflate; \"client_max_window_bits\"",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate; =",
        ";",
        "",
        "__proto__, constructor; toString",
    ],
)  # fmt: skip
def test_7_1_an_illegal_or_unknown_offer_is_declined_and_no_error(offer: str) -> None:
    assert answer_offers([offer]) is None


def test_7_1_the_first_legal_offer_wins_over_all_header_lines() -> None:
    agreement = answer_offers(["foo", "permessage-deflate; server_max_window_bits=9", "permessage-deflate"])
    assert agreement is not None
    assert agreement.server_window_bits == 9


@given(st.text(st.sampled_from('permsag-dflt; ,="\t\\10x'), max_size=60))
def test_any_header_is_parsed_or_declined(value: str) -> None:
    parse_extensions([value])
    answer_offers([value])


# §6.2, §7.2.2: inflating


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("payload", [ONE_BLOCK, STORED, BFINAL, TWO_BLOCKS], ids=["one", "stored", "bfinal", "two"])
def test_7_2_3_the_examples_of_the_rfc_inflate(payload: bytes, fast_lane: bool) -> None:
    frame = compressed(payload)
    for size in range(1, len(frame) + 1):
        session = receiver(fast_lane=fast_lane)
        events = [event for at in range(0, len(frame), size) for event in session.receive_data(frame[at : at + size])]
        assert events == [Message(Opcode.TEXT, b"Hello")]


def test_7_2_3_1_a_compressed_message_in_fragments_with_a_ping_between_them() -> None:
    ping = encode_frame(Opcode.PING, b"", mask_key=KEY)
    data = compressed(ONE_BLOCK[:3], fin=False) + ping + compressed(ONE_BLOCK[3:], first=False)
    assert receiver().receive_data(data) == [PingReceived(b""), Message(Opcode.TEXT, b"Hello")]


def test_a_pong_before_compressed_data_does_not_confuse_the_inflater() -> None:
    pong = encode_frame(Opcode.PONG, b"late", mask_key=KEY)
    events = receiver(fast_lane=False).receive_data(pong + compressed(ONE_BLOCK) + pong + compressed(ONE_BLOCK))
    assert [event for event in events if isinstance(event, Message)] == [Message(Opcode.TEXT, b"Hello")] * 2


def test_6_an_uncompressed_message_may_come_although_compression_was_agreed_on() -> None:
    plain = encode_frame(Opcode.TEXT, b"Hello", mask_key=KEY)
    assert receiver().receive_data(plain + compressed(ONE_BLOCK)) == [Message(Opcode.TEXT, b"Hello")] * 2


@pytest.mark.parametrize(
    ("frame", "close_code", "code"),
    [
        (encode_frame(Opcode.PING, b"", rsv=RSV1, mask_key=KEY), 1002, "reserved_bit"),
        (compressed(ONE_BLOCK[:3], fin=False) + encode_frame(0, b"", rsv=RSV1, mask_key=KEY), 1002, "reserved_bit"),
        (compressed(b"\xff\xff\xff\xff"), 1007, "deflate_invalid"),
        (compressed(zlib.compress(b"\xff\xfe", wbits=-15)[:-1] + b"\0\0"), 1007, "text_not_utf8"),
    ],
    ids=["RSV1 on a ping", "RSV1 on a continuation", "not deflate", "not UTF-8"],
)  # fmt: skip
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_6_1_what_breaks_the_rules_fails_the_connection(
    frame: bytes, close_code: int, code: str, fast_lane: bool
) -> None:
    session = receiver(fast_lane=fast_lane)
    assert_failing(session, session.receive_data(frame), close_code, code)


@pytest.mark.parametrize("pieces", [1, 7], ids=["in one frame", "in fragments"])
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_a_bomb_ends_in_1009_with_memory_flat(pieces: int, fast_lane: bool) -> None:
    limit = 100_000
    bomb = Deflater(15).deflate(b"\0" * 50_000_000)
    cuts = [len(bomb) * i // pieces for i in range(pieces + 1)]
    frames = b"".join(compressed(bomb[cuts[i] : cuts[i + 1]], first=i == 0, fin=i == pieces - 1) for i in range(pieces))
    session = receiver(max_message_bytes=limit, fast_lane=fast_lane)
    tracemalloc.start()
    events = session.receive_data(frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_failing(session, events, 1009, "message_too_big")
    assert peak < 8 * limit


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_the_limit_is_on_the_message_as_it_was_before_it_was_compressed(fast_lane: bool) -> None:
    frame = compressed(Deflater(15).deflate(b"a" * 100))
    for limit, outcome in ((100, Message), (99, Failed)):
        (event,) = receiver(max_message_bytes=limit, fast_lane=fast_lane).receive_data(frame)
        assert isinstance(event, outcome)


# §7.2.1: deflating


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(9, 15))
def test_7_2_1_messages_deflated_one_after_another_inflate_each_by_itself(
    messages: list[bytes], window_bits: int
) -> None:
    deflater = Deflater(window_bits)
    deflated = [deflater.deflate(message) for message in messages]
    # Backwards, so that none can lean on one before it; and with no larger window than was promised.
    for message, payload in zip(reversed(messages), reversed(deflated), strict=True):
        inflate = zlib.decompressobj(-window_bits)
        assert inflate.decompress(payload + b"\0\0\xff\xff") == message
        assert inflate_whole(payload, MIB) == message


def test_only_large_messages_that_get_smaller_are_deflated() -> None:
    small, large, noise = b"s" * 1023, b"l" * 1024, random.Random(7692).randbytes(1024)
    frames = b"".join(encode_frame(Opcode.BINARY, payload) for payload in (small, large, noise))
    got = [
        (header.rsv1, inflate_whole(bytes(payload), MIB) if header.rsv1 else bytes(payload))
        for header, payload in split_frames(deflate_frames(frames, 15))
    ]
    assert got == [(False, small), (True, large), (False, noise)]
