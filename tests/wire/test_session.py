"""Frames, messages and their limits, bytes in and events out (RFC 6455 §5, §8). ``test_session_close.py`` has §7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, PingReceived, PongReceived
from rawws.wire.frames import RSV1, RSV2, RSV3, Frame, Opcode, SeenMessage, encode_frame
from rawws.wire.message_view import VIEW_BYTES
from rawws.wire.role import Role
from rawws.wire.session import Session, State
from rawws.wire.trace import frame_line, message_line
from tests.traced_memory import traced_memory
from tests.wire.helpers import (
    LIMIT,
    MASK_KEY,
    REJECTED,
    any_chunking,
    assert_failing,
    both_roles,
    closed_with,
    every_split,
    frames_in,
    from_peer,
    receive,
)

# §5.1 Overview, §5.7 Examples

EXAMPLES = [
    ("8105", [b"Hello"], [Message(Opcode.TEXT, b"Hello")]),
    ("0103 8002", [b"Hel", b"lo"], [Message(Opcode.TEXT, b"Hello")]),
    ("8905", [b"Hello"], [PingReceived(b"Hello")]),
    ("8a05", [b"Hello"], [PongReceived(b"Hello")]),
    ("827e0100", [b"Z" * 256], [Message(Opcode.BINARY, b"Z" * 256)]),
]


@both_roles
@pytest.mark.parametrize(("headers", "payloads", "events"), EXAMPLES, ids=[headers for headers, _, _ in EXAMPLES])
def test_5_7_each_example_is_understood_in_every_split(
    our_role: Role, headers: str, payloads: list[bytes], events: list[Event]
) -> None:
    data = b"".join(from_peer(our_role, *part) for part in zip(headers.split(), payloads, strict=True))
    for chunks in every_split(data):
        session, received = receive(our_role, chunks)
        assert received == events
        assert session.state is State.OPEN
        assert frames_in(session.data_to_send()) == ([(Opcode.PONG, b"Hello")] if headers == "8905" else [])


@pytest.mark.parametrize(("size", "length"), [(0, "00"), (1, "01"), (125, "7d"), (126, "7e007e"), (127, "7e007f")])
def test_5_2_a_message_of_a_server_has_the_shortest_length(size: int, length: str) -> None:
    session = Session(Role.SERVER, max_message_bytes=LIMIT)
    for opcode, first in ((Opcode.TEXT, "81"), (Opcode.BINARY, "82")):
        assert session.message(opcode, b"Z" * size) == bytes.fromhex(first + length) + b"Z" * size


@both_roles
def test_5_7_64_kib_in_a_single_frame(our_role: Role) -> None:
    data = from_peer(our_role, "827f0000000000010000", b"Z" * 65_536)
    for chunks in ([data], [data[:9], data[9:40_000], data[40_000:]]):
        assert receive(our_role, chunks)[1] == [Message(Opcode.BINARY, b"Z" * 65_536)]


def test_5_1_a_server_takes_only_masked_frames_and_a_client_only_unmasked_ones() -> None:
    masked, unmasked = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58"), bytes.fromhex("81 05 48 65 6c 6c 6f")
    assert receive(Role.SERVER, [masked])[1] == receive(Role.CLIENT, [unmasked])[1] == [Message(Opcode.TEXT, b"Hello")]
    for our_role, data, code in ((Role.SERVER, unmasked, "not_masked"), (Role.CLIENT, masked, "masked")):
        for chunks in every_split(data):
            assert_failing(*receive(our_role, chunks), 1002, code)


# §5.2 to §5.5, §7.4, §8.1: what is rejected, and under which name


@both_roles
@pytest.mark.parametrize(
    ("close_code", "fault_code", "frames"), [row[1:] for row in REJECTED], ids=[r[0] for r in REJECTED]
)
def test_a_broken_rule_fails_the_connection_under_its_own_name(
    our_role: Role, close_code: int, fault_code: str, frames: list[tuple[str, bytes]]
) -> None:
    data = b"".join(from_peer(our_role, header, payload) for header, payload in frames)
    behind = from_peer(our_role, "8105", b"Hello") + from_peer(our_role, "8802", closed_with(1000))
    for chunks in (*every_split(data), [data + behind], [data, behind]):
        session, events = receive(our_role, chunks)
        assert_failing(session, events, close_code, fault_code)
        assert "(RFC 6455 §" in events[-1].fault.sentence  # type: ignore[union-attr]


# §5.4 Fragmentation


@both_roles
def test_5_4_control_frames_come_between_fragments_and_are_seen_in_their_order(our_role: Role) -> None:
    data = b"".join(
        from_peer(our_role, *part)
        for part in [("0203", b"abc"), ("8904", b"ping"), ("0000", b""), ("8a00", b""), ("8002", b"de"), ("8101", b"f")]
    )
    expected = [
        PingReceived(b"ping"),
        PongReceived(b""),
        Message(Opcode.BINARY, b"abcde"),
        Message(Opcode.TEXT, b"f"),
    ]
    for chunks in every_split(data):
        session, events = receive(our_role, chunks)
        assert events == expected
        assert frames_in(session.data_to_send()) == [(Opcode.PONG, b"ping")]


@both_roles
@pytest.mark.parametrize("headers", ["8100", "0100 8000", "0200 0000 0000 8000"])
def test_5_4_an_empty_message_is_a_message(our_role: Role, headers: str) -> None:
    data = b"".join(from_peer(our_role, header) for header in headers.split())
    opcode = Opcode(data[0] & 0x0F)
    for chunks in every_split(data):
        assert receive(our_role, chunks)[1] == [Message(opcode, b"")]


@both_roles
@pytest.mark.parametrize("count", [8192, pytest.param(65_536, marks=pytest.mark.thorough)])
def test_5_4_a_message_may_come_in_many_fragments(our_role: Role, count: int) -> None:
    session = Session(our_role, max_message_bytes=count * 64)
    data = from_peer(our_role, "0240", b"x" * 64) + from_peer(our_role, "0040", b"x" * 64) * (count - 2)
    for start in range(0, len(data), 65_536):
        assert session.receive_data(data[start : start + 65_536]) == []
    assert session.receive_data(from_peer(our_role, "8040", b"y" * 64)) == [
        Message(Opcode.BINARY, b"x" * (count - 1) * 64 + b"y" * 64)
    ]


def kept_bytes(session: Session, data: bytes, times: int) -> int:
    """Return the memory that is still in use when data, which ends no message, has been taken in so often."""
    with traced_memory() as count:
        for _ in range(times):
            assert session.receive_data(data) == []
        return count()[0]


@both_roles
def test_5_4_fragments_cost_no_more_than_their_bytes_and_empty_ones_nothing(our_role: Role) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.receive_data(from_peer(our_role, "0240", b"x" * 64))
    size = 1024 * 64
    # A bytearray grows by an eighth ahead of need.
    assert kept_bytes(session, from_peer(our_role, "0040", b"x" * 64) * 128, 8) < size * 1.25 + 4096
    assert kept_bytes(session, from_peer(our_role, "0000") * 128, 8) < 4096
    (message,) = session.receive_data(from_peer(our_role, "8000"))
    assert message == Message(Opcode.BINARY, b"x" * (size + 64))


# §5.5 Control frames


@both_roles
def test_5_5_2_each_ping_is_answered_with_its_payload(our_role: Role) -> None:
    session, events = receive(our_role, [from_peer(our_role, "8901", b"1") + from_peer(our_role, "897d", b"p" * 125)])
    assert events == [PingReceived(b"1"), PingReceived(b"p" * 125)]
    assert frames_in(session.data_to_send()) == [(Opcode.PONG, b"1"), (Opcode.PONG, b"p" * 125)]
    assert session.data_to_send() == b""


@pytest.mark.parametrize("relays", [False, True], ids=["told", "relayed"])
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_5_5_2_a_flood_of_pings_and_pongs_is_answered_ping_by_ping_up_to_the_close(
    fast_lane: bool, relays: bool
) -> None:
    session = Session(Role.SERVER, max_message_bytes=1000, fast_lane=fast_lane, relays=relays)
    pings = [str(number).encode() for number in range(500)]
    flood = b"".join(
        encode_frame(Opcode.PING, ping, mask_key=MASK_KEY) + encode_frame(Opcode.PONG, ping, mask_key=MASK_KEY)
        for ping in pings
    )
    returned = session.relay_data(flood) if relays else session.receive_data(flood)
    assert returned == ([] if relays else [kind(ping) for ping in pings for kind in (PingReceived, PongReceived)])
    assert frames_in(session.data_to_send()) == [(Opcode.PONG, ping) for ping in pings]
    session.close()
    session.data_to_send()
    session.receive_data(flood)
    assert session.data_to_send() == b"", "nothing follows our close (§5.5.1)"


@both_roles
def test_5_5_2_a_ping_of_ours_is_one_frame(our_role: Role) -> None:
    session = Session(our_role, max_message_bytes=LIMIT)
    session.ping()
    session.ping(b"42")
    assert frames_in(session.data_to_send()) == [(Opcode.PING, b""), (Opcode.PING, b"42")]


# §7.4.1, 1009: the limit on a message


@both_roles
@pytest.mark.parametrize(
    ("headers", "sizes"),
    [
        ("827e03e9", []),
        ("827f4000000000000000", []),
        ("827f7fffffffffffffff", []),
        ("027e0258 807e0191", [600]),
        ("017e03e8 8905 0000 8001", [1000, 5, 0]),
        ("027e03e8 007f4000000000000000", [1000]),
    ],
    ids=["1001", "2^62", "2^63 - 1", "600 + 401", "1000 + 1 around a ping", "1000 + 2^62"],
)
def test_1009_comes_with_the_header_that_crosses_the_limit(our_role: Role, headers: str, sizes: list[int]) -> None:
    *names, last = headers.split()
    before = [from_peer(our_role, name, b"x" * size) for name, size in zip(names, sizes, strict=True)]
    header = from_peer(our_role, last)
    for chunks in ([b"".join(before) + header], [*before, *(header[i : i + 1] for i in range(len(header)))]):
        assert_failing(*receive(our_role, chunks, limit=1000), 1009, "message_too_big")
    session, _ = receive(our_role, [b"".join(before) + header[:-1]], limit=1000)
    assert session.state is State.OPEN, "a header is judged when it is whole"


@both_roles
def test_1009_is_for_more_than_the_limit_and_each_message_counts_anew(our_role: Role) -> None:
    whole = from_peer(our_role, "827e03e8", b"x" * 1000)
    halves = from_peer(our_role, "027e01f4", b"x" * 500) + from_peer(our_role, "807e01f4", b"x" * 500)
    session, events = receive(our_role, [whole + halves + whole], limit=1000)
    assert events == [Message(Opcode.BINARY, b"x" * 1000)] * 3
    assert session.state is State.OPEN


@both_roles
def test_1009_is_about_bytes_and_not_characters(our_role: Role) -> None:
    session, events = receive(our_role, [from_peer(our_role, "810c", "🌍🌍🌍".encode())], limit=11)
    assert_failing(session, events, 1009, "message_too_big")


@both_roles
def test_1009_is_never_for_control_frames(our_role: Role) -> None:
    ping = from_peer(our_role, "897d", b"p" * 125)
    fragments = [from_peer(our_role, "010a", b"x" * 10), from_peer(our_role, "8000")]
    _, events = receive(our_role, [fragments[0] + ping * 20 + fragments[1]], limit=10)
    assert events == [PingReceived(b"p" * 125)] * 20 + [Message(Opcode.TEXT, b"x" * 10)]
    _, events = receive(our_role, [from_peer(our_role, "8805", closed_with(1000, b"bye"))], limit=0)
    assert events == [CloseReceived(CloseFrame(1000, "bye"))]


@both_roles
def test_1009_gives_way_to_a_rule_that_the_same_header_breaks(our_role: Role) -> None:
    assert_failing(*receive(our_role, [from_peer(our_role, "d27e03e9")], limit=1000), 1002, "reserved_bit")


@both_roles
def test_1009_gives_way_to_a_close_in_front(our_role: Role) -> None:
    data = from_peer(our_role, "8800") + from_peer(our_role, "827f4000000000000000")
    assert receive(our_role, [data])[1] == [CloseReceived(CloseFrame(1005, ""))]


# §8.1 Handling of errors in UTF-8-encoded data


@both_roles
def test_8_1_characters_may_be_split_over_fragments_and_reads(our_role: Role) -> None:
    text = "κό🌍".encode()
    for cut in range(len(text) + 1):
        parts = (f"01{cut:02x}", text[:cut]), (f"80{len(text) - cut:02x}", text[cut:])
        data = b"".join(from_peer(our_role, *part) for part in parts)
        for chunks in every_split(data):
            assert receive(our_role, chunks)[1] == [Message(Opcode.TEXT, text)]


@both_roles
@pytest.mark.parametrize(
    "wrong",
    # CPython's decoder waits for the third byte of a surrogate, which is one more than it needs.
    ["61 ff", "c0", "c3 28", "ed a0 80", "e0 80", "f4 90", "f8", "61 80", "f0 9f 8c 61"],
    ids=["ff", "overlong", "no continuation", "surrogate", "overlong 3", "past U+10FFFF", "f8", "stray", "cut short"],
)
def test_8_1_text_fails_at_its_first_wrong_byte(our_role: Role, wrong: str) -> None:
    raw = bytes.fromhex(wrong)
    data = from_peer(our_role, "817e03e8", raw + bytes(1000 - len(raw)))
    end = len(data) - 1000 + len(raw)
    session, events = receive(our_role, [data[: end - 1]])
    assert events == []
    assert_failing(session, session.receive_data(data[end - 1 : end]), 1007, "text_not_utf8")


@both_roles
def test_8_1_binary_may_be_anything(our_role: Role) -> None:
    assert receive(our_role, [from_peer(our_role, "8202", b"\xff\x80")])[1] == [Message(Opcode.BINARY, b"\xff\x80")]


@both_roles
def test_8_1_the_sentence_does_not_depend_on_how_the_bytes_arrived(our_role: Role) -> None:
    data = from_peer(our_role, "8105", b"Hell\xff")
    sentences = {receive(our_role, chunks)[0].fault.sentence for chunks in every_split(data)}  # type: ignore[union-attr]
    assert len(sentences) == 1, sentences


# Shown frames


@both_roles
def test_each_frame_is_shown_once_however_it_arrives(our_role: Role) -> None:
    mask = "37fa213d" if our_role is Role.SERVER else "none"
    data = b"".join(
        from_peer(our_role, *part)
        for part in [
            ("0103", b"Hel"),
            ("8901", b"?"),
            ("8002", b"lo"),
            ("8100", b""),
            ("8805", closed_with(1001, b"bye")),
        ]
    )
    behind = from_peer(our_role, "8101", b"x")
    for chunks in (*every_split(data), [data + behind], [data, behind]):
        shown: list[tuple[Role, Frame]] = []
        session = Session(our_role, max_message_bytes=LIMIT, on_frame=lambda *frame: shown.append(frame))  # noqa: B023
        for chunk in chunks:
            session.receive_data(chunk)
        assert [frame_line(frame) for _, frame in shown] == [
            f"TEXT fin=0 rsv=000 mask={mask} len=3 'Hel'",
            f"PING fin=1 rsv=000 mask={mask} len=1 3f",
            f"CONTINUATION fin=1 rsv=000 mask={mask} len=2 6c 6f",
            f"TEXT fin=1 rsv=000 mask={mask} len=0",
            f"CLOSE fin=1 rsv=000 mask={mask} len=5 1001 'bye'",
        ]
        assert {sender for sender, _ in shown} == {our_role.other}


@both_roles
def test_sent_frames_are_shown_when_they_are_sent(our_role: Role) -> None:
    shown: list[tuple[Role, Frame]] = []
    session = Session(our_role, max_message_bytes=LIMIT)
    session.ping(b"?")
    session.close(1001)
    data = session.data_to_send()
    session.show_sent(data)
    session.on_frame = lambda *frame: shown.append(frame)
    session.show_sent(data)
    assert [(sender, frame.header.opcode, frame.payload_head) for sender, frame in shown] == [
        (our_role, Opcode.PING, b"?"),
        (our_role, Opcode.CLOSE, closed_with(1001)),
    ]


def test_7692_7_1_1_a_late_viewer_is_shown_no_message_that_refers_to_earlier_ones() -> None:
    # RFC 7692 §7.2.3.2: the second "Hello" refers to the first.
    first, second = bytes.fromhex("c107f248cdc9c90700"), bytes.fromhex("c105f200110000")
    for watched_from in (0, 1):
        shown: list[str] = []
        session = Session(Role.CLIENT, max_message_bytes=LIMIT, deflate=True, takeover=True)
        for number, frame in enumerate((first, second, second)):
            if number == watched_from:
                session.watch(lambda _, frame: shown.append(message_line(frame)))  # noqa: B023
            assert session.receive_data(frame) == [Message(Opcode.TEXT, b"Hello")]
        hello = "the message: TEXT, 5 bytes: 'Hello'"
        lost = "the message: TEXT, not shown: it refers to earlier ones that were not inflated"
        assert shown == ([hello] * 3 if watched_from == 0 else [lost, ""])


def test_7692_7_1_1_a_viewer_takes_over_what_the_one_before_knew_unless_nobody_looked_meanwhile() -> None:
    # RFC 7692 §7.2.3.2: the second "Hello" refers to the first.
    first, second = bytes.fromhex("c107f248cdc9c90700"), bytes.fromhex("c105f200110000")
    session = Session(Role.CLIENT, max_message_bytes=LIMIT, deflate=True, takeover=True)
    shown: list[str] = []

    def watch(viewer: str) -> None:
        session.watch(lambda _, frame: shown.append(f"{viewer}: {message_line(frame)}"))

    watch("first")
    session.receive_data(first)
    watch("second")
    session.receive_data(second)
    session.watch(None)
    session.receive_data(second)
    watch("third")
    session.receive_data(second)
    assert shown == [
        "first: the message: TEXT, 5 bytes: 'Hello'",
        "second: the message: TEXT, 5 bytes: 'Hello'",
        "third: the message: TEXT, not shown: it refers to earlier ones that were not inflated",
    ]


@both_roles
def test_a_viewer_who_comes_within_a_message_is_shown_its_last_frame_and_the_next_message(our_role: Role) -> None:
    shown: list[tuple[bytes, SeenMessage | None]] = []
    session = Session(our_role, max_message_bytes=LIMIT)
    session.receive_data(from_peer(our_role, "0103", b"Hel"))
    session.watch(lambda _, frame: shown.append((frame.payload_head, frame.message)))
    rest = from_peer(our_role, "8002", b"lo") + from_peer(our_role, "8102", b"hi")
    assert session.receive_data(rest) == [Message(Opcode.TEXT, b"Hello"), Message(Opcode.TEXT, b"hi")]
    assert shown == [(b"lo", None), (b"hi", SeenMessage(Opcode.TEXT, 2, b"hi"))]


# Any bytes, in any chunking


def outcome(our_role: Role, chunks: list[bytes]) -> tuple[object, ...]:
    """Return all that can be told from outside, but for how a fault is worded."""
    session, events = receive(our_role, chunks, limit=300)
    sent = [(op, payload[:2] if op == Opcode.CLOSE else payload) for op, payload in frames_in(session.data_to_send())]
    seen = [event.fault.code if isinstance(event, Failed) else event for event in events]
    return seen, sent, session.state, session.close_begun_by, session.close_rcvd, session.fault and session.fault.code


def frames_of_a_peer(our_role: Role) -> st.SearchStrategy[bytes]:
    right_key = MASK_KEY if our_role is Role.SERVER else None
    return st.builds(
        encode_frame,
        opcode=st.sampled_from([0, 1, 2, 1, 2, 8, 9, 10, 3]),
        payload=st.one_of(
            st.binary(max_size=130),
            st.text(max_size=40).map(str.encode),
            st.sampled_from([1000, 1001, 1005, 1014, 4000]).map(closed_with),
            st.just(b"x" * 200),
        ),
        fin=st.sampled_from([True, True, False]),
        rsv=st.sampled_from([0] * 9 + [RSV1, RSV2, RSV3]),
        mask_key=st.sampled_from([right_key] * 9 + [None, MASK_KEY]),
    )


def streams(our_role: Role) -> st.SearchStrategy[bytes]:
    part = st.one_of(frames_of_a_peer(our_role), frames_of_a_peer(our_role), st.binary(max_size=16))
    return st.lists(part, max_size=8).map(b"".join)


@both_roles
@given(data=st.data())
def test_the_same_bytes_have_the_same_outcome_in_any_chunking(our_role: Role, data: st.DataObject) -> None:
    chunks = data.draw(any_chunking(streams(our_role)))
    whole = b"".join(chunks)
    assert outcome(our_role, chunks) == outcome(our_role, [whole])
    assert outcome(our_role, [whole[i : i + 1] for i in range(len(whole))]) == outcome(our_role, [whole])


@both_roles
@given(chunks=st.lists(st.binary(max_size=64), max_size=8))
def test_no_bytes_make_it_raise(our_role: Role, chunks: list[bytes]) -> None:
    session = Session(our_role, max_message_bytes=100, on_frame=lambda *_: None)
    for chunk in chunks:
        session.receive_data(chunk)
        session.show_sent(session.data_to_send())
    assert session.describe_end()


def test_5_5_2_where_messages_are_echoed_a_pong_stands_where_its_ping_stood_among_them() -> None:
    session = Session(Role.SERVER, max_message_bytes=100, relays=True, echoes=True)
    ping = encode_frame(Opcode.PING, b"?", mask_key=bytes(4))
    said = [encode_frame(Opcode.TEXT, message, mask_key=bytes(4)) for message in (b"a", b"b")]
    assert session.relay_data(said[0] + ping + said[1]) == [b"\x81\x01a", b"\x8a\x01?", b"\x81\x01b"]
    assert session.data_to_send() == b""


# A session's memory; ``test_memory_figures.py`` has the sums


def test_a_session_counts_what_waits_and_what_reads_the_message_that_has_begun() -> None:
    def session(*, deflate: bool = False) -> Session:
        return Session(Role.CLIENT, max_message_bytes=1000, deflate=deflate)

    idle = session()
    idle.receive_data(from_peer(Role.CLIENT, "8900", b""))
    assert idle.memory_bytes == len(idle.outgoing)
    begun = session()
    begun.receive_data(from_peer(Role.CLIENT, "8264", bytes(100))[:-1])
    assert begun.memory_bytes > begun.held_bytes >= 99
    fragmented = session()
    fragmented.receive_data(from_peer(Role.CLIENT, "0203", b"abc"))
    assert fragmented.memory_bytes > fragmented.held_bytes == 3
    compressed = session(deflate=True)
    assert compressed.memory_bytes == 0


@both_roles
def test_a_session_whose_frames_are_shown_counts_a_view_of_each_side(our_role: Role) -> None:
    session = Session(our_role, max_message_bytes=1000, on_frame=lambda *_: None)
    assert session.memory_bytes == 2 * VIEW_BYTES
    session.watch(None)
    assert session.memory_bytes == 0


@pytest.mark.parametrize("fast_lane", [True, False])
def test_messages_may_be_plain_tuples_among_events_as_always(fast_lane: bool) -> None:
    session = Session(Role.SERVER, max_message_bytes=1000, fast_lane=fast_lane)
    frames = [(Opcode.TEXT, b"one"), (Opcode.PING, b"?"), (Opcode.BINARY, b"two")]
    data = b"".join(encode_frame(opcode, payload, mask_key=b"mask") for opcode, payload in frames)
    events = session.receive_plain(data)
    assert events == [(Opcode.TEXT, b"one"), PingReceived(b"?"), (Opcode.BINARY, b"two")]
    assert [type(event) for event in events] == [tuple, PingReceived, tuple]
    named = session.receive_data(data)
    assert [type(event) for event in named] == [Message, PingReceived, Message]
