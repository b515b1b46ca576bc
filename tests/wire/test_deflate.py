"""permessage-deflate: offers and answers, deflating once for many, inflating within bounds (RFC 7692)."""

from __future__ import annotations

import itertools
import random
import threading
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import BytesMessage, Ping, Request

from rawws.wire.deflate import (
    MAX_FINAL_BLOCKS,
    MAX_IDLE_STREAMS,
    OFFER,
    STEP_BYTES,
    STREAM_BYTES,
    TAIL,
    Agreement,
    Deflater,
    Inflater,
    StreamDeflater,
    Unread,
    answer_offers,
    check_answer,
    deflate_frames,
    deflate_in_steps,
    deflater_for,
    inflate_whole,
    most_deflated_bytes,
    parse_extensions,
)
from rawws.wire.events import Event, Failed, Message, PingReceived, PongReceived
from rawws.wire.frames import RSV1, Opcode, encode_frame, encode_header, split_frames
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.traced_memory import traced_memory
from tests.wire.helpers import MASK_KEY, assert_failing, both_roles, every_split

MIB = 1 << 20
KEY = bytes.fromhex("37 fa 21 3d")
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# §7.2.3: the examples, each "Hello" compressed into the payload of one frame.
ONE_BLOCK = bytes.fromhex("f2 48 cd c9 c9 07 00")
STORED = bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")
BFINAL = bytes.fromhex("f3 48 cd c9 c9 07 00 00")
TWO_BLOCKS = bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")
AGAIN = bytes.fromhex("f2 00 11 00 00")  # §7.2.3.2: the same once more, as a reference to the message before


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


# Autobahn's cases 13.3 to 13.6 ask for 9 and for 15.
@pytest.mark.parametrize(("asked", "granted"), [(8, 8), *((asked, 9) for asked in range(9, 15)), (15, 15)])
def test_7_1_2_1_of_the_windows_asked_of_the_server_two_are_granted_and_kept_to(asked: int, granted: int) -> None:
    agreement = answer_offers([f"permessage-deflate; server_max_window_bits={asked}"])
    assert agreement is not None
    assert agreement.header == f"{ANSWER}; server_max_window_bits={granted}"
    assert agreement.server_window_bits == granted
    # zlib has no raw stream with a window of 256 bytes: such a peer is sent plain messages, which is legal.
    assert agreement.deflates(Role.SERVER) is (asked > 8)


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


PARAMETERS = [
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
]
VALUES = [None, *map(str, range(7, 17)), "08", "+9", "-9", "9.0", "abc", "true", "1" * 30]
BITS = {str(bits) for bits in range(8, 16)}
LEGAL_IN_AN_ANSWER = {
    ("server_no_context_takeover", None),
    ("client_no_context_takeover", None),
    *(("server_max_window_bits", bits) for bits in BITS),
    *(("client_max_window_bits", bits) for bits in BITS),
}
LEGAL_IN_AN_OFFER = LEGAL_IN_AN_ANSWER | {("client_max_window_bits", None)}


@st.composite
def any_parameters(draw: st.DrawFn) -> list[tuple[str, str | None]]:
    """Parameters as they may come, legal more often than not."""
    legal = st.lists(st.sampled_from(sorted(LEGAL_IN_AN_OFFER, key=str)), max_size=4, unique_by=lambda each: each[0])
    wild = st.lists(
        st.tuples(st.sampled_from([*PARAMETERS, "x", "Server_max_window_bits"]), st.sampled_from(VALUES)), max_size=4
    )
    return draw(st.one_of(legal, wild, st.tuples(legal, wild).map(lambda both: both[0] + both[1])))


@st.composite
def written(draw: st.DrawFn, parameters: list[tuple[str, str | None]]) -> str:
    """The parameters as a header's value, in one of the ways in which RFC 6455 §9.1 lets them be written."""
    parts = ["permessage-deflate"]
    for name, value in parameters:
        space = draw(st.sampled_from(["", " ", "\t "]))
        quotes = draw(st.sampled_from(["", '"'])) if value is not None else ""
        parts.append(
            f"{space}{name}" if value is None else f"{space}{name}{space}={space}{quotes}{value}{quotes}{space}"
        )
    return ";".join(parts)


def are_legal(parameters: list[tuple[str, str | None]], legal: set[tuple[str, str | None]]) -> bool:
    names = [name for name, _ in parameters]
    return len(set(names)) == len(names) and all(parameter in legal for parameter in parameters)


@given(st.data(), any_parameters())
def test_7_1_every_combination_of_parameters_in_an_offer(
    data: st.DataObject, parameters: list[tuple[str, str | None]]
) -> None:
    agreement = answer_offers([data.draw(written(parameters))])
    if not are_legal(parameters, LEGAL_IN_AN_OFFER):
        assert agreement is None
        return
    assert agreement is not None
    asked = dict(parameters).get("server_max_window_bits")
    granted = {None: 15, "8": 8, "15": 15}.get(asked, 9)
    assert agreement.server_window_bits == granted
    assert agreement.header == (ANSWER if asked is None else f"{ANSWER}; server_max_window_bits={granted}")
    assert (agreement.client_window_bits, agreement.server_takeover) == (15, False)


@given(st.data(), any_parameters())
def test_7_1_every_combination_of_parameters_in_an_answer(
    data: st.DataObject, parameters: list[tuple[str, str | None]]
) -> None:
    answer = check_answer([data.draw(written(parameters))])
    if not are_legal(parameters, LEGAL_IN_AN_ANSWER):
        assert isinstance(answer, str)
        assert answer.isprintable()
        return
    assert isinstance(answer, Agreement)
    agreed = dict(parameters)
    assert answer.server_window_bits == int(agreed.get("server_max_window_bits") or 15)
    assert answer.client_window_bits == int(agreed.get("client_max_window_bits") or 15)
    assert answer.server_takeover is ("server_no_context_takeover" not in agreed)
    assert check_answer([answer.header]) == answer


@given(any_parameters())
def test_7_1_our_servers_answers_are_legal_to_our_client(parameters: list[tuple[str, str | None]]) -> None:
    offer = "; ".join(["permessage-deflate", *(n if v is None else f"{n}={v}" for n, v in parameters)])
    for agreement in (answer_offers([OFFER]), answer_offers([offer])):
        if agreement is not None:
            assert check_answer([agreement.header]) == agreement


@pytest.mark.parametrize("values", [[], [""], [" , ,"], ["", ""]])
def test_5_1_an_answer_without_an_extension_declines(values: list[str]) -> None:
    assert check_answer(values) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["permessage-deflate; server_max_window_bits"], "the parameter server_max_window_bits in"),
        (["permessage-deflate; server_max_window_bits=7"], "server_max_window_bits=7"),
        (["permessage-deflate; server_max_window_bits=16"], "server_max_window_bits=16"),
        (["permessage-deflate; server_max_window_bits=08"], "server_max_window_bits=08"),
        (["permessage-deflate; client_max_window_bits"], "the parameter client_max_window_bits in"),
        (["permessage-deflate; client_max_window_bits=0"], "client_max_window_bits=0"),
        (["permessage-deflate; server_no_context_takeover=1"], "server_no_context_takeover=1"),
        (["permessage-deflate; mystery"], "mystery"),
        (["permessage-deflate; client_max_window_bits=9; client_max_window_bits=9"], "twice"),
        (["permessage-deflate", "permessage-deflate"], "twice"),
        (["permessage-deflate, permessage-deflate; server_max_window_bits=9"], "twice"),
        (["permessage-deflate, permessage-bzip2"], "'permessage-bzip2', which was not offered"),
        (["x-webkit-deflate-frame"], "'x-webkit-deflate-frame', which was not offered"),
        (["Permessage-Deflate"], "'Permessage-Deflate', which was not offered"),
        (["__proto__"], "'__proto__', which was not offered"),
        (["permessage-deflate; ="], "grammar"),
        (["permessage-deflate;"], "grammar"),
        (["permessage-deflate; server_max_window_bits="], "grammar"),
        (['permessage-deflate; server_max_window_bits="1 0"'], "grammar"),
        (["permessage-deflate", ";"], "grammar"),
        (["caf\\xe9"], "grammar"),
    ],
)
def test_7_1_an_illegal_answer_is_told_with_what_is_wrong(values: list[str], said: str) -> None:
    answer = check_answer(values)
    assert isinstance(answer, str)
    assert said in answer


def test_7_1_each_side_of_an_agreement_has_its_own_terms() -> None:
    agreement = check_answer(["permessage-deflate; server_max_window_bits=8; client_max_window_bits=9"])
    assert isinstance(agreement, Agreement)
    assert (agreement.window_bits(Role.SERVER), agreement.window_bits(Role.CLIENT)) == (8, 9)
    assert (agreement.deflates(Role.SERVER), agreement.deflates(Role.CLIENT)) == (False, True)
    assert (agreement.keeps_context(Role.SERVER), agreement.keeps_context(Role.CLIENT)) == (True, False)


@given(st.text(st.sampled_from('permsag-dflt; ,="\t\\10x'), max_size=60))
def test_any_header_is_parsed_or_declined(value: str) -> None:
    parse_extensions([value])
    answer_offers([value])
    check_answer([value])


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
def test_6_1_a_frame_that_breaks_the_rules_fails_the_connection(
    frame: bytes, close_code: int, code: str, fast_lane: bool
) -> None:
    session = receiver(fast_lane=fast_lane)
    assert_failing(session, session.receive_data(frame), close_code, code)


@both_roles
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_6_a_compressed_message_that_was_not_agreed_on_fails_the_connection(our_role: Role, fast_lane: bool) -> None:
    session = Session(our_role, max_message_bytes=MIB, deflate=False, fast_lane=fast_lane)
    assert_failing(session, session.receive_data(from_peer(our_role, ONE_BLOCK)), 1002, "reserved_bit")


@both_roles
@pytest.mark.parametrize("rsv", [0b0010_0000, 0b0001_0000, 0b0111_0000], ids=["RSV2", "RSV3", "all"])
def test_6_the_other_reserved_bits_stay_reserved(our_role: Role, rsv: int) -> None:
    mask_key = MASK_KEY if our_role is Role.SERVER else None
    session = Session(our_role, max_message_bytes=MIB, deflate=True)
    frame = encode_frame(Opcode.TEXT, ONE_BLOCK, rsv=rsv, mask_key=mask_key)
    assert_failing(session, session.receive_data(frame), 1002, "reserved_bit")


# §7.1.1, §7.2.3.2: one context for all of a server's messages


def from_peer(our_role: Role, payload: bytes, *, first: bool = True, fin: bool = True, rsv: int = RSV1) -> bytes:
    """Return a compressed frame for us: masked when it comes from a client."""
    mask_key = MASK_KEY if our_role is Role.SERVER else None
    opcode = Opcode.BINARY if first else Opcode.CONTINUATION
    return encode_frame(opcode, payload, fin=fin, rsv=rsv if first else 0, mask_key=mask_key)


def client(*, takeover: bool = True, max_message_bytes: int = MIB, fast_lane: bool = True) -> Session:
    return Session(
        Role.CLIENT, max_message_bytes=max_message_bytes, deflate=True, takeover=takeover, fast_lane=fast_lane
    )


def payloads_of(events: Iterable[Event]) -> list[bytes]:
    """Return the messages; nothing else has come."""
    messages = []
    for event in events:
        assert isinstance(event, Message), event
        messages.append(bytes(event.payload))
    return messages


def receive_all(session: Session, *payloads: bytes) -> list[bytes]:
    """Return the messages in these payloads of compressed frames from a server."""
    return payloads_of(session.receive_data(b"".join(from_peer(Role.CLIENT, payload) for payload in payloads)))


fast_and_plain = pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])


@fast_and_plain
def test_7_2_3_2_a_message_may_refer_to_the_one_before(fast_lane: bool) -> None:
    data = from_peer(Role.CLIENT, ONE_BLOCK) + from_peer(Role.CLIENT, AGAIN) * 2
    for chunks in every_split(data):
        session = client(fast_lane=fast_lane)
        assert payloads_of(event for chunk in chunks for event in session.receive_data(chunk)) == [b"Hello"] * 3


@fast_and_plain
def test_7_1_1_1_without_a_common_context_a_message_stands_by_itself(fast_lane: bool) -> None:
    session = client(takeover=False, fast_lane=fast_lane)
    assert receive_all(session, ONE_BLOCK) == [b"Hello"]
    assert_failing(session, session.receive_data(from_peer(Role.CLIENT, AGAIN)), 1007, "deflate_invalid")


@fast_and_plain
def test_7_1_1_1_each_connection_has_a_context_of_its_own(fast_lane: bool) -> None:
    assert receive_all(client(fast_lane=fast_lane), ONE_BLOCK) == [b"Hello"]
    session = client(fast_lane=fast_lane)
    assert_failing(session, session.receive_data(from_peer(Role.CLIENT, AGAIN)), 1007, "deflate_invalid")


@fast_and_plain
def test_6_1_messages_that_are_not_compressed_and_control_frames_leave_the_context_alone(fast_lane: bool) -> None:
    ping, pong = encode_frame(Opcode.PING, b"?"), encode_frame(Opcode.PONG, b"late")
    plain = from_peer(Role.CLIENT, b"plain", rsv=0)
    halves = from_peer(Role.CLIENT, AGAIN[:2], fin=False), from_peer(Role.CLIENT, AGAIN[2:], first=False)
    data = pong + from_peer(Role.CLIENT, ONE_BLOCK) + pong + plain + halves[0] + ping + pong + halves[1] + pong
    for chunks in every_split(data):
        session = client(fast_lane=fast_lane)
        events = [event for chunk in chunks for event in session.receive_data(chunk)]
        assert [event for event in events if not isinstance(event, PongReceived)] == [
            Message(Opcode.BINARY, b"Hello"),
            Message(Opcode.BINARY, b"plain"),
            PingReceived(b"?"),
            Message(Opcode.BINARY, b"Hello"),
        ]


@fast_and_plain
@given(
    data=st.data(),
    messages=st.lists(
        st.binary(max_size=200) | st.sampled_from([b"Hello", b"ab" * 20_000, b""]), min_size=1, max_size=6
    ),
    window_bits=st.integers(9, 15),
    level=st.integers(0, 9),
)
def test_7_2_2_messages_are_read_whether_or_not_the_server_keeps_its_context(
    fast_lane: bool, data: st.DataObject, messages: list[bytes], window_bits: int, level: int
) -> None:
    """It keeps it, gives it up, finishes its stream, or sends plain, and cuts and mixes its frames as it likes."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    wire = bytearray()
    for message in messages:
        how = data.draw(st.sampled_from(["keep", "keep", "give up", "finish", "finish without the byte", "plain"]))
        if how == "plain":
            payload = message
        elif how.startswith("finish"):
            # §7.2.3.4: with a final block, then a byte for the tail to follow.
            payload = stream.compress(message) + stream.flush(zlib.Z_FINISH) + (b"\0" if how == "finish" else b"")
            stream = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
        else:
            flush = zlib.Z_SYNC_FLUSH if how == "keep" else zlib.Z_FULL_FLUSH
            payload = (stream.compress(message) + stream.flush(flush))[:-4]
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        bounds = [0, *cuts, len(payload)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            fin = number == len(bounds) - 2
            rsv = 0 if how == "plain" else RSV1
            wire += from_peer(Role.CLIENT, payload[start:end], first=number == 0, fin=fin, rsv=rsv)
            wire += data.draw(st.sampled_from([b"", b"", encode_frame(Opcode.PONG, b"late")]))
    session = client(fast_lane=fast_lane)
    size = data.draw(st.integers(1 + len(wire) // 1000, len(wire)))  # byte by byte, but not a hundred thousand times
    events = [event for at in range(0, len(wire), size) for event in session.receive_data(bytes(wire[at : at + size]))]
    assert payloads_of(event for event in events if not isinstance(event, PongReceived)) == messages


# §7.2.3.4: blocks with the "BFINAL" bit, which end a stream for zlib and nothing for the RFC

HEL, LO = b"Hel", b"lo"


def final_block(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush(zlib.Z_FINISH)


@pytest.mark.parametrize("takeover", [True, False], ids=["one context", "a context each"])
@fast_and_plain
def test_7_2_1_blocks_may_follow_a_final_one_in_the_same_message(fast_lane: bool, takeover: bool) -> None:
    refers_back = BFINAL[:-1] + AGAIN
    for payload, message in [
        (final_block(HEL) + final_block(LO) + b"\0", b"Hello"),
        (final_block(HEL) + final_block(LO), b"Hello"),
        (final_block(b"") * 5 + final_block(b"Hello") + b"\0", b"Hello"),
        (final_block(HEL) + STORED[:1] + b"\2\0\xfd\xfflo" + b"\0", b"Hello"),
        (refers_back, b"HelloHello"),
    ]:
        session = client(takeover=takeover, fast_lane=fast_lane)
        assert receive_all(session, payload, payload, ONE_BLOCK) == [message, message, b"Hello"]


@fast_and_plain
def test_7_2_3_4_a_final_block_leaves_the_context_to_the_messages_behind_it(fast_lane: bool) -> None:
    for final in (BFINAL, BFINAL[:-1]):
        session = client(fast_lane=fast_lane)
        assert receive_all(session, final, AGAIN, final, final, AGAIN) == [b"Hello"] * 5


@fast_and_plain
def test_7_2_3_4_the_context_behind_a_final_block_is_the_whole_window(fast_lane: bool) -> None:
    block = random.Random(7692).randbytes(1 << 14)
    stream = zlib.compressobj(wbits=-15, zdict=block + block[:8000])
    far = (stream.compress(block[:300]) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(far) < 100  # it is a reference
    session = client(fast_lane=fast_lane)
    assert receive_all(session, final_block(block) + b"\0", final_block(block[:8000]) + b"\0", far) == [
        block,
        block[:8000],
        block[:300],
    ]


@fast_and_plain
@pytest.mark.parametrize("takeover", [True, False], ids=["one context", "a context each"])
def test_final_blocks_without_end_are_not_followed(fast_lane: bool, takeover: bool) -> None:
    """Each costs a new zlib stream: two bytes of the peer's would cost us microseconds, and a megabyte seconds."""
    just = final_block(b"") * MAX_FINAL_BLOCKS
    session = client(takeover=takeover, fast_lane=fast_lane)
    assert receive_all(session, just + ONE_BLOCK, just + ONE_BLOCK) == [b"Hello"] * 2
    bomb = from_peer(Role.CLIENT, final_block(b"") * (MIB // 2))
    assert_failing(session, session.receive_data(bomb), 1007, "deflate_invalid")


# Limits


@fast_and_plain
def test_the_limit_is_on_each_message_however_long_the_context_has_lived(fast_lane: bool) -> None:
    stream = zlib.compressobj(wbits=-15)
    session = client(max_message_bytes=1000, fast_lane=fast_lane)
    for _ in range(100):
        payload = (stream.compress(b"a" * 1000) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert receive_all(session, payload) == [b"a" * 1000]
    payload = (stream.compress(b"a" * 1001) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert_failing(session, session.receive_data(from_peer(Role.CLIENT, payload)), 1009, "message_too_big")


@fast_and_plain
def test_the_limit_is_on_the_message_and_not_on_what_it_was_deflated_to(fast_lane: bool) -> None:
    noise = random.Random(7).randbytes(5001)
    for level, memory in itertools.product((0, 6), (1, 8)):
        stream = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
        session = receiver(max_message_bytes=5000, fast_lane=fast_lane)
        deflated, too_much = (
            (stream.compress(noise[:size]) + stream.flush(zlib.Z_FULL_FLUSH))[:-4] for size in (5000, 5001)
        )
        assert 5000 < len(deflated) <= most_deflated_bytes(5000)
        events = session.receive_data(compressed(deflated, opcode=Opcode.BINARY))
        assert events == [Message(Opcode.BINARY, noise[:5000])]
        events = session.receive_data(compressed(too_much, opcode=Opcode.BINARY))
        assert_failing(session, events, 1009, "message_too_big")


@fast_and_plain
def test_a_compressed_frame_larger_than_the_deflate_bound_of_the_limit_is_refused_by_its_header(
    fast_lane: bool,
) -> None:
    session = receiver(max_message_bytes=1000, fast_lane=fast_lane)
    header = encode_header(Opcode.BINARY, most_deflated_bytes(1000) + 1, rsv=RSV1, mask_key=b"abcd")
    assert_failing(session, session.receive_data(header), 1009, "message_too_big")


@pytest.mark.parametrize("how", [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH], ids=["flushed", "finished"])
def test_a_bomb_in_a_kept_context_ends_in_1009_with_memory_flat(how: int) -> None:
    limit = 100_000
    stream = zlib.compressobj(wbits=-15)
    frame = from_peer(Role.CLIENT, stream.compress(b"\0" * 50_000_000) + stream.flush(how))
    session = client(max_message_bytes=limit)
    with traced_memory() as count:
        events = session.receive_data(frame)
        _, peak = count()
    assert_failing(session, events, 1009, "message_too_big")
    assert peak < 8 * limit


@pytest.mark.parametrize("pieces", [1, 7], ids=["in one frame", "in fragments"])
@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
def test_a_bomb_ends_in_1009_with_memory_flat(pieces: int, fast_lane: bool) -> None:
    limit = 100_000
    bomb = Deflater(15).deflate(b"\0" * 50_000_000)
    cuts = [len(bomb) * i // pieces for i in range(pieces + 1)]
    frames = b"".join(compressed(bomb[cuts[i] : cuts[i + 1]], first=i == 0, fin=i == pieces - 1) for i in range(pieces))
    session = receiver(max_message_bytes=limit, fast_lane=fast_lane)
    with traced_memory() as count:
        events = session.receive_data(frames)
        _, peak = count()
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


@pytest.mark.parametrize("window_bits", [9, 15])
def test_a_large_message_is_deflated_in_steps_and_others_in_between(window_bits: int) -> None:
    letters = bytes(random.Random(7692).choices(b"ab", k=5 * STEP_BYTES + 1))
    frames = encode_frame(Opcode.TEXT, letters) + encode_frame(Opcode.TEXT, b"small")
    deflater = Deflater(window_bits)
    first, second = deflater.deflate_in_steps(frames), deflater.deflate_in_steps(frames)
    pieces: list[list[bytes]] = [[], []]
    for one, other in zip(first, second, strict=True):
        pieces[0].append(one)
        pieces[1].append(other)
        deflater.deflate(b"another message")
    assert pieces[0] == pieces[1]
    assert len(pieces[0]) == 5 + 1 + 1 + 1, "a step for each piece, for the end of the message, and for what is left"
    assert b"".join(pieces[0]) == deflater.deflate_frames(frames) == b"".join(deflate_in_steps(frames, window_bits))
    (large, payload), (small, _) = split_frames(b"".join(pieces[0]))
    assert (large.rsv1, small.rsv1) == (True, False)
    assert zlib.decompressobj(-window_bits).decompress(bytes(payload) + TAIL) == letters


def test_a_bound_to_what_is_deflated_leaves_the_rest_as_it_is() -> None:
    message = encode_frame(Opcode.TEXT, b"x" * 2000)
    got = [header.rsv1 for header, _ in split_frames(deflate_frames(3 * message, 15, 4500))]
    assert got == [True, True, False]
    assert deflate_frames(message, 15, 1999) == message


def test_no_more_streams_are_kept_than_are_of_use() -> None:
    deflater = Deflater(15)
    frames = encode_frame(Opcode.TEXT, bytes(2 * STEP_BYTES))
    under_way = [deflater.deflate_in_steps(frames) for _ in range(MAX_IDLE_STREAMS + 3)]
    for steps in zip(*under_way, strict=True):
        assert len(set(steps)) == 1
    assert len(deflater._idle) == MAX_IDLE_STREAMS


def test_only_large_messages_that_get_smaller_are_deflated() -> None:
    small, large, noise = b"s" * 1023, b"l" * 1024, random.Random(7692).randbytes(1024)
    frames = b"".join(encode_frame(Opcode.BINARY, payload) for payload in (small, large, noise))
    got = [
        (header.rsv1, inflate_whole(bytes(payload), MIB) if header.rsv1 else bytes(payload))
        for header, payload in split_frames(deflate_frames(frames, 15))
    ]
    assert got == [(False, small), (True, large), (False, noise)]


def kept_context(payloads: Iterable[bytes]) -> list[bytes]:
    """Return the messages as a receiver reads them that keeps one context for all, being strict about their ends."""
    inflate = zlib.decompressobj(-15)
    messages = []
    for payload in payloads:
        messages.append(inflate.decompress(payload + b"\0\0\xff\xff"))
        # Whole blocks, and nothing begun: a final one that is put behind them is read as such.
        probe = inflate.copy()
        assert probe.decompress(b"\x03\x00") == b""
        assert probe.eof
    return messages


@given(st.lists(st.binary(max_size=50) | st.just(b"x" * 5000), min_size=1, max_size=6), st.integers(9, 15))
def test_7_2_1_messages_can_be_read_by_a_receiver_that_keeps_its_context(messages: list[bytes], bits: int) -> None:
    deflater = Deflater(bits)
    payloads = [deflater.deflate(message) for message in messages]
    assert all(payloads)  # §7.2.3.6: an empty message is one byte
    assert kept_context(payloads) == messages


@given(st.lists(st.lists(st.binary(max_size=50), min_size=1, max_size=5), min_size=1, max_size=3), st.integers(9, 15))
def test_7_2_1_a_message_in_pieces_each_of_which_can_be_inflated_at_once(
    messages: list[list[bytes]], bits: int
) -> None:
    payloads = []
    for pieces in messages:
        deflater = StreamDeflater(bits)
        inflate = zlib.decompressobj(-bits)
        payload = b""
        for number, piece in enumerate(pieces, 1):
            deflated = deflater.deflate(piece, final=number == len(pieces))
            assert inflate.decompress(deflated) == piece or number == len(pieces)
            payload += deflated
        payloads.append(payload)
    assert kept_context(payloads) == [b"".join(pieces) for pieces in messages]


@both_roles
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 100_000])
@pytest.mark.parametrize("compress", [None, True, False])
def test_each_side_reads_the_messages_that_the_other_compresses(
    our_role: Role, size: int, compress: bool | None
) -> None:
    sender = Session(our_role, max_message_bytes=MIB, deflate=True, deflater=deflater_for(9))
    reader = Session(our_role.other, max_message_bytes=MIB, deflate=True, takeover=our_role is Role.SERVER)
    frames = [sender.message(Opcode.BINARY, b"x" * size, compress=compress) for _ in range(3)]
    assert [bool(frame[0] & RSV1) for frame in frames] == [compress or (compress is None and size >= 1024)] * 3
    assert payloads_of(reader.receive_data(b"".join(frames))) == [b"x" * size] * 3


def test_a_deflater_may_be_shared_by_threads() -> None:
    deflater = Deflater(15)
    mixed_up = []

    def deflate_many(byte: int) -> None:
        message = bytes([byte]) * 5000
        for _ in range(300):
            if inflate_whole(deflater.deflate(message), MIB) != message:
                mixed_up.append(byte)

    threads = [threading.Thread(target=deflate_many, args=(byte,)) for byte in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed_up == []


def test_the_offer_is_for_the_handshake_to_make_and_not_for_wsproto() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    head = client.send(Request(host="a", target="/", extensions=[Inflater(MIB)]))
    assert b"Sec-WebSocket-Version: 13" in head
    assert b"Sec-WebSocket-Extensions" not in head


def test_7_2_1_a_text_in_two_compressed_fragments_is_one_message() -> None:
    deflater = StreamDeflater(15)
    pieces = [deflater.deflate(b"Hel", final=False), deflater.deflate(b"lo", final=True)]
    assert pieces[0].endswith(b"\x00\x00\xff\xff")
    assert not pieces[1].endswith(b"\x00\x00\xff\xff")
    frames = compressed(pieces[0], fin=False) + compressed(pieces[1], first=False)
    assert receiver().receive_data(frames) == [Message(Opcode.TEXT, b"Hello")]


@fast_and_plain
def test_8_1_a_text_is_utf_8_when_it_has_been_inflated(fast_lane: bool) -> None:
    session = receiver(fast_lane=fast_lane)
    payload = Deflater(15).deflate("é".encode() * 40)
    assert session.receive_data(compressed(payload)) == [Message(Opcode.TEXT, "é".encode() * 40)]
    events = session.receive_data(compressed(Deflater(15).deflate(b"\xff" * 80)))
    assert_failing(session, events, 1007, "text_not_utf8")


def test_an_inflater_takes_memory_from_the_first_message_on_where_all_are_in_one_context() -> None:
    assert Inflater(1000).held_bytes == 0
    session = Session(Role.CLIENT, max_message_bytes=MIB, deflate=True, takeover=True)
    session.receive_data(deflate_frames(encode_frame(Opcode.TEXT, b"x" * 2000), 15))
    assert session._inflater is not None
    assert session._inflater.held_bytes == STREAM_BYTES + 2000


def test_a_context_is_fresh_until_a_compressed_message_comes_that_others_may_refer_to() -> None:
    session = client()
    assert session._inflater is not None
    fresh = []
    for payload, rsv in ((b"plain", 0), (ONE_BLOCK, RSV1), (b"plain", 0)):
        fresh.append(session._inflater.is_fresh)
        session.receive_data(from_peer(Role.CLIENT, payload, rsv=rsv))
    assert [*fresh, session._inflater.is_fresh] == [True, True, False, False]


def test_compressed_messages_pass_unread_as_empty_ones_and_all_else_as_it_is() -> None:
    judge = Connection(ConnectionType.CLIENT, [Unread()])
    invalid = from_peer(Role.CLIENT, b"\xff", fin=False), from_peer(Role.CLIENT, b"\xff", first=False)
    for frame in (invalid[0], encode_frame(Opcode.PING, b"?"), invalid[1], from_peer(Role.CLIENT, b"plain", rsv=0)):
        judge.receive_data(frame)
    events = list(judge.events())
    assert [event.payload for event in events if isinstance(event, Ping)] == [b"?"]
    messages = [event for event in events if isinstance(event, BytesMessage)]
    assert len(messages) == len(events) - 1
    assert [(bytes(message.data), message.message_finished) for message in messages] == [
        (b"", False),
        (b"", True),
        (b"plain", True),
    ]
