"""Helpers of this folder's tests: a peer's frames, ways to cut a stream, a room's log, the ends of a connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from rawws.broadcast.encodings import PLAIN, Encoding
from rawws.broadcast.log import BroadcastLog
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import MASK, Frame, FrameScanner, Opcode, encode_frame, split_frames
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role
from rawws.wire.session import Session, State

MASK_KEY = bytes.fromhex("37 fa 21 3d")  # the one of the examples in RFC 6455 §5.7

both_roles = pytest.mark.parametrize("our_role", [Role.SERVER, Role.CLIENT], ids=["server", "client"])


def from_peer(our_role: Role, header: str, payload: bytes = b"") -> bytes:
    """Return a frame for us: ``header`` in hex is a server's; a client's has the mask bit and a key besides (§5.1)."""
    raw = bytearray.fromhex(header)
    if our_role is Role.CLIENT:
        return bytes(raw) + payload
    raw[1] |= MASK
    return bytes(raw) + MASK_KEY + apply_mask(payload, MASK_KEY)


def frames_in(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and unmasked payload of each frame in data that we have sent."""
    return [
        (header.opcode, bytes(payload) if header.mask_key is None else apply_mask(bytes(payload), header.mask_key))
        for header, payload in split_frames(data)
    ]


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """Yield the ways to cut data: whole, byte by byte, and in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]


@st.composite
def any_chunking(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, cut anywhere any number of times; no chunk is empty."""
    whole = draw(data)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=8)))
    return [chunk for start, end in zip([0, *cuts], [*cuts, None], strict=True) if (chunk := whole[start:end])]


# A room's log


def text_frame(text: str) -> bytes:
    """Return a message as a log has it: an unmasked frame."""
    return encode_frame(Opcode.TEXT, text.encode())


def texts_in(frames: bytes) -> list[str]:
    return [bytes(payload).decode() for _, payload in split_frames(frames)]


def everything_from(log: BroadcastLog, after: int, encoding: Encoding = PLAIN) -> list[str]:
    """Return all that a reader gets who has had the messages up to that number."""
    start = log.replay_start(after, encoding, 0.0)
    segments = [log.segment(number, encoding) for number in range(start.number, log.next)]
    return texts_in(start.rest + b"".join(segments))


# A session and its end

LIMIT = 1 << 20


def receive(our_role: Role, chunks: list[bytes], *, limit: int = LIMIT) -> tuple[Session, list[Event]]:
    session = Session(our_role, max_message_bytes=limit)
    return session, [event for chunk in chunks for event in session.receive_data(chunk)]


def closed_with(code: int, reason: bytes = b"") -> bytes:
    """Return the bytes of a close frame's payload."""
    return code.to_bytes(2, "big") + reason


# §5.2 to §5.5, §7.4, §8.1: what is rejected, with which close, and under which name
REJECTED = [
    *((f"opcode {opcode:#x}", 1002, "invalid_opcode", [(f"8{opcode:x}00", b"")]) for opcode in (3, 7, 0xB, 0xF)),
    ("RSV1 without an extension", 1002, "reserved_bit", [("c105", b"Hello")]),
    ("RSV2", 1002, "reserved_bit", [("a105", b"Hello")]),
    ("RSV3", 1002, "reserved_bit", [("9105", b"Hello")]),
    ("RSV1 on a ping", 1002, "reserved_bit", [("c900", b"")]),
    ("RSV1 on a continuation", 1002, "reserved_bit", [("0101", b"a"), ("c001", b"b")]),
    ("5 in two bytes", 1002, "length_not_minimal", [("817e0005", b"Hello")]),
    ("5 in eight bytes", 1002, "length_not_minimal", [("817f0000000000000005", b"Hello")]),
    ("65,535 in eight bytes", 1002, "length_not_minimal", [("827f000000000000ffff", b"")]),
    ("a length of 2^63", 1002, "length_too_large", [("827f8000000000000000", b"")]),
    ("text inside a message", 1002, "expected_continuation", [("0101", b"a"), ("8101", b"b")]),
    ("binary inside a message", 1002, "expected_continuation", [("0101", b"a"), ("8900", b""), ("8201", b"b")]),
    ("a continuation of nothing", 1002, "unexpected_continuation", [("8001", b"a")]),
    ("a continuation behind a message", 1002, "unexpected_continuation", [("8101", b"a"), ("0001", b"b")]),
    ("a ping in fragments", 1002, "control_fragmented", [("0900", b"")]),
    ("a close in fragments, with RSV1", 1002, "control_fragmented", [("4802", b"\x03\xe8")]),
    ("a ping of 126 bytes", 1002, "control_too_long", [("897e007e", b"")]),
    ("a close of 126 bytes", 1002, "control_too_long", [("887e007e", b"")]),
    ("a close of 1 byte", 1002, "close_payload_short", [("8801", b"\x03")]),
    *(
        (f"close {code}", 1002, "close_code_invalid", [("8802", closed_with(code))])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    ),
    ("a reason that is not UTF-8", 1007, "close_reason_not_utf8", [("8804", closed_with(1000, b"\xc3\x28"))]),
    ("text that is not UTF-8", 1007, "text_not_utf8", [("8102", b"\xc3\x28")]),
    ("text that ends inside a character", 1007, "text_not_utf8", [("0101", b"\xe2"), ("8001", b"\x82")]),
]


def assert_failing(session: Session, events: list[Event], close_code: int, fault_code: str) -> None:
    """§7.1.7: the last event is the fault, one close says why, and nothing more is read or sent."""
    assert events, "nothing happened"
    assert isinstance(events[-1], Failed), events
    fault = events[-1].fault
    assert (fault.close_code, fault.code) == (close_code, fault_code)
    assert session.fault == fault
    assert (session.state, session.close_begun_by, session.close_rcvd) == (State.CLOSED, session.our_role, None)
    assert session.close_sent == CloseFrame(close_code, fault.sentence)
    (opcode, payload) = frames_in(session.data_to_send())[-1]
    assert (opcode, payload[:2]) == (Opcode.CLOSE, closed_with(close_code))
    assert fault.sentence.startswith(payload[2:].decode())
    assert_ignoring(session)


def assert_closing(session: Session, events: list[Event], close: CloseFrame, answer: bytes) -> None:
    """§5.5.1: the peer's close is the last event, one close with that payload answers it, nothing more is read."""
    assert events[-1:] == [CloseReceived(close)]
    assert (session.state, session.close_begun_by, session.fault) == (State.CLOSED, session.our_role.other, None)
    assert (session.close_rcvd, session.close_sent) == (close, close)
    assert frames_in(session.data_to_send())[-1] == (Opcode.CLOSE, answer)
    assert_ignoring(session)


def assert_ignoring(session: Session) -> None:
    assert session.is_closed
    for data in (from_peer(session.our_role, "8105", b"Hello"), from_peer(session.our_role, "8800"), b"\xff\xff"):
        assert session.receive_data(data) == []
    assert session.data_to_send() == b""


def record(chunks: list[bytes]) -> Frame:
    """Return the one frame in some bytes as it is recorded while they pass."""
    scanner, recorder = FrameScanner(), None
    for chunk in chunks:
        position = 0
        if recorder is None:
            position = scanner.scan_header(chunk, 0)
            if scanner.header is None:
                continue
            recorder = FrameRecorder(scanner.header)
        recorder.add(chunk[position:])
    assert recorder is not None
    return recorder.frame()
