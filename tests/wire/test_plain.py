"""The plain lane alone: what wsproto makes of frames, and what is added to it (RFC 6455 §5 to §8)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import pytest

from rawws.wire.deflate import Inflater
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, MessagePart, PingReceived, PongReceived
from rawws.wire.frames import Frame, Opcode, encode_frame, split_frames
from rawws.wire.plain import _FAULTS, _RULES, READER_BYTES, PlainEncoder, PlainReader, _name_fault
from rawws.wire.role import Role
from rawws.wire.trail import describe_trail
from tests.wire.helpers import MASK_KEY, REJECTED, both_roles, closed_with, every_split, frames_in, from_peer

OnFrame = Callable[[Role, Frame], None]


def plain_reader(our_role: Role, *, limit: int = 1000, inflates: bool = False) -> PlainReader:
    return PlainReader(our_role, limit, [Inflater(limit)] if inflates else [])


def read(reader: PlainReader, chunks: Iterable[bytes], on_frame: OnFrame | None = None) -> list[Event]:
    """Return what chunks amount to, up to an end."""
    events: list[Event] = []
    for chunk in chunks:
        if not reader.ended:
            assert reader.read(chunk, 0, events, on_frame, until_idle=False) <= len(chunk)
    return events


def assert_rejected(our_role: Role, data: bytes, close_code: int, code: str, *, inflates: bool = False) -> str:
    """The fault is the last event, in every split and with a frame behind, and is told in one sentence."""
    behind = from_peer(our_role, "8105", b"Hello")
    sentences = set()
    for chunks in (*every_split(data), [data + behind]):
        for on_frame in (None, lambda *_: None):
            reader = plain_reader(our_role, inflates=inflates)
            *_, failed = read(reader, chunks, on_frame)
            assert isinstance(failed, Failed)
            assert (failed.fault.close_code, failed.fault.code) == (close_code, code)
            assert (reader.ended, reader.is_idle, reader.held_bytes) == (True, False, 0)
            sentences.add(failed.fault.sentence)
    (sentence,) = sentences
    return sentence


# Rejected frames, and the codes of the faults


@both_roles
@pytest.mark.parametrize(
    ("close_code", "code", "frames"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED]
)
def test_the_judge_names_the_rule_that_is_broken_and_its_section(
    our_role: Role, close_code: int, code: str, frames: list[tuple[str, bytes]]
) -> None:
    data = b"".join(from_peer(our_role, header, payload) for header, payload in frames)
    assert "(RFC 6455 §" in assert_rejected(our_role, data, close_code, code)


@pytest.mark.parametrize(
    ("our_role", "key", "code"),
    [(Role.SERVER, None, "not_masked"), (Role.CLIENT, MASK_KEY, "masked")],
    ids=["server", "client"],
)
def test_5_1_wrong_masking_is_named_by_who_reads_it(our_role: Role, key: bytes | None, code: str) -> None:
    sentence = assert_rejected(our_role, encode_frame(Opcode.TEXT, b"Hello", mask_key=key), 1002, code)
    assert sentence.startswith(our_role.name.lower())


@both_roles
def test_7692_7_2_2_data_that_can_not_be_inflated_is_named_by_the_rfc_of_its_extension(our_role: Role) -> None:
    sentence = assert_rejected(
        our_role, from_peer(our_role, "c103", b"\xff\xff\xff"), 1007, "deflate_invalid", inflates=True
    )
    assert sentence == "compressed data can't be inflated (RFC 7692 §7.2.2)"


def test_each_way_in_which_wsproto_rejects_a_frame_is_tested_here() -> None:
    tested = {row[2] for row in REJECTED} | {"masked", "not_masked", "deflate_invalid"}
    assert {rule.code for rule in _RULES} | {fault.code for fault in _FAULTS.values()} == tested


def test_a_rejection_that_wsproto_words_in_a_new_way_keeps_its_close_code_and_its_sentence() -> None:
    fault = _name_fault(1002, "some rule of a later version")
    assert (fault.close_code, fault.code, fault.sentence) == (1002, "protocol_error", "some rule of a later version")


# §7.4.1, 1009: the limit on a message


@both_roles
@pytest.mark.parametrize(
    "headers", ["827e03e9", "827f4000000000000000", "0205 8900 807e03e4"], ids=["1001", "2^62", "5 + 996 around a ping"]
)
def test_1009_comes_with_the_header_before_any_of_its_payload(our_role: Role, headers: str) -> None:
    *before, last = headers.split()
    payloads = [bytes(int(header[2:], 16)) for header in before]
    data = b"".join(from_peer(our_role, *frame) for frame in zip(before, payloads, strict=True))
    header = from_peer(our_role, last)
    sentence = assert_rejected(our_role, data + header, 1009, "message_too_big")
    assert f"over the {our_role.name.lower()}'s limit of 1000 (max_size)" in sentence
    reader = plain_reader(our_role)
    assert not any(isinstance(event, Failed) for event in read(reader, [data + header[:-1]])), "not before it is whole"


@both_roles
def test_1009_gives_way_to_a_rule_that_the_same_header_breaks(our_role: Role) -> None:
    assert_rejected(our_role, from_peer(our_role, "927e03e9"), 1002, "reserved_bit")


@both_roles
def test_1009_counts_the_inflated_bytes_of_a_compressed_message(our_role: Role) -> None:
    def compressed(size: int) -> bytes:
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        deflated = (stream.compress(bytes(size)) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return from_peer(our_role, f"c2{len(deflated):02x}", deflated)

    assert read(plain_reader(our_role, inflates=True), [compressed(1000)]) == [Message(Opcode.BINARY, bytes(1000))]
    sentence = assert_rejected(our_role, compressed(1001), 1009, "message_too_big", inflates=True)
    assert sentence.startswith("message of 1001 bytes or more")


# §5.4: messages


MESSAGES = [
    ([("8105", b"Hello")], [Message(Opcode.TEXT, b"Hello")]),
    ([("0103", b"Hel"), ("8002", b"lo")], [Message(Opcode.TEXT, b"Hello")]),
    ([("0200", b""), ("0001", b"\xff"), ("0000", b""), ("8000", b"")], [Message(Opcode.BINARY, b"\xff")]),
    ([("0100", b""), ("8000", b"")], [Message(Opcode.TEXT, b"")]),
    (
        [("0202", b"ab"), ("8901", b"?"), ("8a00", b""), ("8001", b"c"), ("8100", b"")],
        [PingReceived(b"?"), PongReceived(b""), Message(Opcode.BINARY, b"abc"), Message(Opcode.TEXT, b"")],
    ),
]  # fmt: skip


@both_roles
@pytest.mark.parametrize(("frames", "events"), MESSAGES, ids=[" ".join(f[0] for f in row[0]) for row in MESSAGES])
def test_5_4_fragments_are_one_message_with_control_frames_told_before_it(
    our_role: Role, frames: list[tuple[str, bytes]], events: list[Event]
) -> None:
    data = b"".join(from_peer(our_role, *frame) for frame in frames)
    for chunks in every_split(data):
        reader = plain_reader(our_role)
        assert read(reader, chunks) == events
        assert (reader.is_idle, reader.held_bytes) == (True, 0)


@both_roles
def test_an_incomplete_message_is_held_until_it_is_whole(our_role: Role) -> None:
    reader = plain_reader(our_role)
    read(reader, [from_peer(our_role, "0203", b"abc"), from_peer(our_role, "8902", b"??")])
    assert (reader.held_bytes, reader.is_idle) == (3, False)
    read(reader, [from_peer(our_role, "8002", b"de")[:-1]])
    assert (reader.held_bytes, reader.is_idle) == (4, False)
    assert describe_trail(reader.trail) == (
        "BINARY of 3 bytes (not the last fragment), PING of 2 bytes, CONTINUATION of 2 bytes"
    )


@both_roles
def test_another_reader_may_go_on_where_a_frame_ends_outside_of_a_message(our_role: Role) -> None:
    frames = [("0103", b"Hel"), ("8900", b""), ("8002", b"lo"), ("8a00", b""), ("8101", b"!")]
    parts = [from_peer(our_role, *frame) for frame in frames]
    data = b"".join(parts)
    reader = plain_reader(our_role)
    stops, events = [0], list[Event]()
    while stops[-1] < len(data):
        stops.append(reader.read(data, stops[-1], events, None, until_idle=True))
        assert reader.is_idle
    ends = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    assert stops == [0, *ends[2:]], "not between fragments"
    assert events == [PingReceived(b""), Message(Opcode.TEXT, b"Hello"), PongReceived(b""), Message(Opcode.TEXT, b"!")]


# Messages in parts


@both_roles
def test_a_message_that_was_begun_is_told_in_parts_once_that_is_asked_for(our_role: Role) -> None:
    reader = plain_reader(our_role)
    events = read(reader, [from_peer(our_role, "0103", b"Hel")])
    assert events == []
    reader.begin_streaming(events)
    assert events == [MessagePart(Opcode.TEXT, b"Hel", False)]
    assert reader.held_bytes == 0
    reader.streams = False
    rest = [from_peer(our_role, "0000"), from_peer(our_role, "0001", b"l"), from_peer(our_role, "8001", b"o")]
    assert read(reader, rest) == [MessagePart(Opcode.TEXT, b"l", False), MessagePart(Opcode.TEXT, b"o", True)]
    assert read(reader, [from_peer(our_role, "8101", b"!")]) == [Message(Opcode.TEXT, b"!")], "the next one comes whole"


@both_roles
def test_a_part_is_what_has_come_and_the_last_one_is_told_even_if_it_is_empty(our_role: Role) -> None:
    reader = plain_reader(our_role)
    events: list[Event] = []
    reader.begin_streaming(events)
    assert events == [], "there is nothing of a message"
    frames = from_peer(our_role, "0203", b"abc") + from_peer(our_role, "8000") + from_peer(our_role, "8200")
    assert read(reader, [frames[:-1], frames[-1:]]) == [
        MessagePart(Opcode.BINARY, b"abc", False),
        MessagePart(Opcode.BINARY, b"", True),
        MessagePart(Opcode.BINARY, b"", True),
    ]


# §5.5.1, §7.4: closes


@both_roles
@pytest.mark.parametrize(
    ("header", "payload", "close"),
    [
        ("8800", b"", CloseFrame(1005, "")),
        ("8805", closed_with(1001, b"bye"), CloseFrame(1001, "bye")),
        ("8802", closed_with(1014), CloseFrame(1014, "")),
        ("8804", closed_with(1014, "é".encode()), CloseFrame(1014, "é")),
    ],
)
def test_5_5_1_a_close_is_the_last_that_is_read(our_role: Role, header: str, payload: bytes, close: CloseFrame) -> None:
    data = from_peer(our_role, "8901", b"?") + from_peer(our_role, header, payload)
    for chunks in (*every_split(data), [data + from_peer(our_role, "8300")]):
        reader = plain_reader(our_role)
        assert read(reader, chunks) == [PingReceived(b"?"), CloseReceived(close)]
        assert (reader.ended, reader.is_idle) == (True, False)


@both_roles
@pytest.mark.parametrize(
    ("header", "payload", "close_code"),
    [
        ("0802", closed_with(1014), 1002),
        ("c802", closed_with(1014), 1002),
        ("a802", closed_with(1014), 1002),
        ("9802", closed_with(1014), 1002),
        ("887e00c8", closed_with(1014, b"r" * 198), 1002),
        ("8803", closed_with(1014, b"\xff"), 1007),
        ("8802", closed_with(1016), 1002),
    ],
    ids=["FIN=0", "RSV1", "RSV2", "RSV3", "200 bytes", "reason not UTF-8", "1016"],
)
def test_7_4_code_1014_excuses_nothing_else(our_role: Role, header: str, payload: bytes, close_code: int) -> None:
    for chunks in every_split(from_peer(our_role, header, payload)):
        reader = plain_reader(our_role)
        (failed,) = read(reader, chunks)
        assert isinstance(failed, Failed)
        assert failed.fault.close_code == close_code


@both_roles
def test_7_4_code_1014_excuses_no_wrong_mask_and_no_broken_rule_in_front(our_role: Role) -> None:
    wrong = from_peer(our_role.other, "8802", closed_with(1014))
    assert_rejected(our_role, wrong, 1002, "not_masked" if our_role is Role.SERVER else "masked")
    behind = from_peer(our_role, "8300") + from_peer(our_role, "8802", closed_with(1014))
    assert_rejected(our_role, behind, 1002, "invalid_opcode")


# Shown frames


@both_roles
def test_each_frame_is_shown_once_it_is_whole_with_so_much_of_its_payload(our_role: Role) -> None:
    text = bytes(range(32, 127)) * 4
    frames = [("017e012c", text[:300]), ("8900", b""), ("8006", b"world!"), ("8805", closed_with(1000, b"bye"))]
    data = b"".join(from_peer(our_role, *frame) for frame in frames)
    for chunks in every_split(data):
        shown: list[tuple[Role, Frame]] = []
        reader = plain_reader(our_role)
        reader.shown_bytes = 200
        read(reader, chunks, lambda *frame: shown.append(frame))  # noqa: B023
        assert [sender for sender, _ in shown] == [our_role.other] * 4
        kinds = [Opcode.TEXT, Opcode.PING, Opcode.CONTINUATION, Opcode.CLOSE]
        assert [frame.header.opcode for _, frame in shown] == kinds
        assert [frame.payload_head for _, frame in shown] == [payload[:200] for _, payload in frames]
        assert text[:300].endswith(shown[0][1].payload_tail)
        assert [bool(frame.left_out_bytes) for _, frame in shown] == [True, False, False, False]


# Frames to send


@both_roles
@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (Opcode.TEXT, "Grüße".encode()),
        (Opcode.BINARY, b"\xff" * 200),
        (Opcode.PING, b"?"),
        (Opcode.PONG, b"p" * 125),
        (Opcode.CLOSE, b""),
        (Opcode.CLOSE, closed_with(1001, "Tschüß".encode())),
    ],
    ids=["text", "binary", "ping", "pong", "close without a code", "close"],
)
def test_5_2_the_encoder_writes_one_frame_masked_by_a_client_alone(
    our_role: Role, opcode: Opcode, payload: bytes
) -> None:
    frame = PlainEncoder(our_role).encode(opcode, payload)
    assert frames_in(frame) == [(opcode, payload)]
    ((header, _),) = split_frames(frame)
    assert frame == encode_frame(opcode, payload, mask_key=header.mask_key)
    assert (header.mask_key is not None) is (our_role is Role.CLIENT)


@both_roles
def test_7_1_2_messages_may_be_encoded_behind_a_close_that_has_to_wait_for_them(our_role: Role) -> None:
    encoder = PlainEncoder(our_role)
    close = encoder.encode(Opcode.CLOSE, closed_with(1000))
    assert frames_in(encoder.encode(Opcode.TEXT, b"before") + close) == [
        (Opcode.TEXT, b"before"),
        (Opcode.CLOSE, closed_with(1000)),
    ]
    assert frames_in(encoder.encode(Opcode.CLOSE, b"")) == [(Opcode.CLOSE, b"")]


@both_roles
def test_reading_stops_behind_as_many_frames_as_are_wanted(our_role: Role) -> None:
    frames = [
        from_peer(our_role, "0101", b"a"),
        from_peer(our_role, "8900"),
        from_peer(our_role, "8001", b"b"),
        from_peer(our_role, "8101", b"c"),
    ]
    reader, data = plain_reader(our_role), b"".join(frames)
    events: list[Event] = []
    stopped_at = reader.read(data, 0, events, None, until_idle=False, most_frames=2)
    assert (stopped_at, reader.frames, events) == (len(frames[0] + frames[1]), 2, [PingReceived(b"")])
    assert reader.read(data, stopped_at, events, None, until_idle=False) == len(data)
    assert events[1:] == [Message(Opcode.TEXT, b"ab"), Message(Opcode.TEXT, b"c")]


def test_a_reader_takes_memory_itself_and_for_what_it_keeps_to_be_shown() -> None:
    begun = encode_frame(Opcode.BINARY, bytes(100))[:-1]
    unwatched, watched = plain_reader(Role.CLIENT), plain_reader(Role.CLIENT)
    read(unwatched, [begun])
    read(watched, [begun], lambda *_: None)
    assert unwatched.own_bytes == READER_BYTES
    assert watched.own_bytes == READER_BYTES + 99
