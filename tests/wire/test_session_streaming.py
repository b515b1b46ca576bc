"""A session that tells messages in parts, and the sending half of a session."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawws.wire.deflate import deflater_for
from rawws.wire.events import Event, Failed, Message, MessagePart, PingReceived, PongReceived
from rawws.wire.frames import RSV1, Opcode, encode_frame, encode_header, split_frames
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.effort import examples
from tests.wire.test_fast_reader import streams

BOTH_LANES = pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
LIMIT = 2000
KEY = b"\x01\x02\x03\x04"


def whole(events: list[Event]) -> list[object]:
    """Return events with the parts of each message put together; an unfinished one is left out."""
    collected: list[object] = []
    parts: list[MessagePart] = []
    for event in events:
        if not isinstance(event, MessagePart):
            collected.append(event)
            continue
        parts.append(event)
        if event.final:
            collected.append(Message(event.opcode, b"".join(part.payload for part in parts)))
            parts = []
    return collected


@BOTH_LANES
@given(data=st.data())
@settings(max_examples=examples(150))
def test_the_parts_of_any_stream_amount_to_its_messages_wherever_streaming_begins_and_ends(
    fast_lane: bool, data: st.DataObject
) -> None:
    stream = data.draw(streams(Role.SERVER))
    cuts = sorted(data.draw(st.lists(st.integers(0, max(len(stream), 1)), max_size=8)))
    toggles = data.draw(st.sets(st.integers(0, len(cuts))))
    plain = Session(Role.SERVER, max_message_bytes=LIMIT, deflate=True, fast_lane=False)
    expected: list[Event] = []
    session = Session(Role.SERVER, max_message_bytes=LIMIT, deflate=True, fast_lane=fast_lane)
    events: list[Event] = []
    streaming = False
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(stream)], strict=True)):
        if number in toggles:
            streaming = not streaming
            if streaming:
                events += session.begin_streaming()
            else:
                session.end_streaming()
        expected += plain.receive_data(stream[start:end])
        events += session.receive_data(stream[start:end])
    assert whole(events) == expected
    assert session.fault == plain.fault


@BOTH_LANES
def test_the_received_part_of_a_message_is_returned_when_streaming_begins(fast_lane: bool) -> None:
    header = encode_header(Opcode.BINARY, 10, mask_key=bytes(4))
    session = Session(Role.SERVER, max_message_bytes=100, fast_lane=fast_lane)
    assert session.receive_data(header + b"0123") == []
    assert b"".join(part.payload for part in session.begin_streaming() if isinstance(part, MessagePart)) == b"0123"
    assert session.receive_data(b"45") == [MessagePart(Opcode.BINARY, b"45", False)]
    session.end_streaming()
    # It is ended as it was begun; the next one comes whole again.
    assert session.receive_data(b"6789") == [MessagePart(Opcode.BINARY, b"6789", True)]
    assert session.receive_data(header + b"0123456789") == [Message(Opcode.BINARY, b"0123456789")]


def test_the_parts_of_a_text_end_between_two_characters() -> None:
    frame = encode_frame(Opcode.TEXT, "a€😀b".encode(), mask_key=bytes(4))
    session = Session(Role.SERVER, max_message_bytes=100)
    session.begin_streaming()
    parts = [part for byte in frame for part in session.receive_data(bytes([byte]))]
    assert [part.payload.decode() for part in parts if isinstance(part, MessagePart)] == list("a€😀b")


def test_8_1_text_in_parts_fails_at_its_first_bad_byte() -> None:
    session = Session(Role.SERVER, max_message_bytes=100)
    session.begin_streaming()
    header = encode_header(Opcode.TEXT, 50, mask_key=bytes(4))
    *parts, failed = session.receive_data(header + b"good \xff")
    assert isinstance(failed, Failed)
    assert failed.fault.close_code == 1007
    assert all(isinstance(part, MessagePart) for part in parts)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
@given(payload=st.binary(max_size=3000), compress=st.sampled_from([None, True, False]), deflates=st.booleans())
@settings(max_examples=examples(60))
def test_each_session_receives_what_another_sends(
    role: Role, payload: bytes, compress: bool | None, deflates: bool
) -> None:
    deflater = deflater_for(15) if deflates else None
    sender = Session(role, max_message_bytes=LIMIT, deflater=deflater)
    receiver = Session(role.other, max_message_bytes=3000, deflate=deflates)
    frame = sender.message(Opcode.BINARY, payload, compress=compress)
    assert receiver.receive_data(frame) == [Message(Opcode.BINARY, payload)]
    pieces = [payload[:10], payload[10:20], payload[20:]]
    kinds = [Opcode.BINARY, Opcode.CONTINUATION, Opcode.CONTINUATION]
    frames = [
        sender.fragment(kind, piece, final=number == 2)
        for number, (kind, piece) in enumerate(zip(kinds, pieces, strict=True))
    ]
    assert receiver.receive_data(b"".join(frames)) == [Message(Opcode.BINARY, payload)]


def test_whether_to_compress_is_a_matter_of_size_unless_it_is_said() -> None:
    session = Session(Role.SERVER, max_message_bytes=LIMIT, deflater=deflater_for(15))

    def is_compressed(size: int, compress: bool | None) -> bool:
        ((header, _),) = split_frames(session.message(Opcode.TEXT, b"x" * size, compress=compress))
        return bool(header.raw[0] & RSV1)

    assert [is_compressed(1023, None), is_compressed(1024, None)] == [False, True]
    assert [is_compressed(10, True), is_compressed(2000, False)] == [True, False]


BOTH_ROLES = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())


@BOTH_ROLES
def test_a_message_that_compression_does_not_shrink_is_sent_plain_unless_requested(role: Role) -> None:
    noise = random.Random(7692).randbytes(5000)
    sender = Session(role, max_message_bytes=LIMIT, deflater=deflater_for(15))
    receiver = Session(role.other, max_message_bytes=6000, deflate=True)
    for compress, is_compressed in ((None, False), (True, True)):
        frame = sender.message(Opcode.BINARY, noise, compress=compress)
        assert bool(frame[0] & RSV1) is is_compressed
        assert receiver.receive_data(frame) == [Message(Opcode.BINARY, noise)]


@BOTH_ROLES
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [0, 125, 126, 65_536])
def test_a_message_written_by_the_plain_lane_is_read_as_it_was_and_masked_by_a_client_alone(
    role: Role, opcode: Opcode, size: int
) -> None:
    sender = Session(role, max_message_bytes=LIMIT, fast_lane=False)
    frame = sender.message(opcode, b"x" * size)
    ((header, _),) = split_frames(frame)
    assert (header.mask_key is not None) is (role is Role.CLIENT)
    receiver = Session(role.other, max_message_bytes=65_536)
    assert receiver.receive_data(frame) == [Message(opcode, b"x" * size)]


@BOTH_ROLES
@BOTH_LANES
def test_5_5_3_a_pong_that_nobody_asked_for_is_sent_and_not_answered(role: Role, fast_lane: bool) -> None:
    sender = Session(role, max_message_bytes=LIMIT, fast_lane=fast_lane)
    receiver = Session(role.other, max_message_bytes=LIMIT)
    sender.pong(b"still here")
    sender.pong()
    events = receiver.receive_data(sender.data_to_send())
    assert events == [PongReceived(b"still here"), PongReceived(b"")]
    assert receiver.data_to_send() == b""


@BOTH_ROLES
@BOTH_LANES
def test_5_5_2_a_ping_is_sent_and_answered_in_either_lane(role: Role, fast_lane: bool) -> None:
    sender = Session(role, max_message_bytes=LIMIT, fast_lane=fast_lane)
    receiver = Session(role.other, max_message_bytes=LIMIT, fast_lane=fast_lane)
    sender.ping(b"?" * 125)
    assert receiver.receive_data(sender.data_to_send()) == [PingReceived(b"?" * 125)]
    assert sender.receive_data(receiver.data_to_send()) == [PongReceived(b"?" * 125)]


@BOTH_ROLES
def test_5_4_a_message_may_go_out_in_fragments_the_first_with_its_opcode(role: Role) -> None:
    sender = Session(role, max_message_bytes=LIMIT)
    first = sender.fragment(Opcode.TEXT, b"Hel", final=False)
    last = sender.fragment(Opcode.CONTINUATION, b"lo", final=True)
    assert (first[0], last[0]) == (0x01, 0x80)
    receiver = Session(role.other, max_message_bytes=LIMIT)
    assert receiver.receive_data(first) == []
    assert receiver.receive_data(last) == [Message(Opcode.TEXT, b"Hello")]


@BOTH_LANES
def test_messages_come_whole_again_when_streaming_ends_between_two(fast_lane: bool) -> None:
    frame = encode_frame(Opcode.BINARY, b"0123", mask_key=KEY)
    session = Session(Role.SERVER, max_message_bytes=LIMIT, fast_lane=fast_lane)
    assert session.receive_data(frame) == [Message(Opcode.BINARY, b"0123")]
    assert session.begin_streaming() == [], "there is nothing of a message"
    assert session.receive_data(frame) == [MessagePart(Opcode.BINARY, b"0123", True)]
    session.end_streaming()
    assert session.receive_data(frame) == [Message(Opcode.BINARY, b"0123")]
