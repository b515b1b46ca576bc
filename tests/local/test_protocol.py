"""The messages between the sequencer and its workers."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws import UsageError
from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History as Limits
from rawws.broadcast.message_ids import MessageId
from rawws.local import protocol
from rawws.local.protocol import (
    TO_SEQUENCER,
    TO_WORKER,
    Batch,
    Decoder,
    History,
    Kind,
    Note,
    Past,
    ProtocolError,
    Publish,
    place_of,
)

LIMITS = Limits(100, 1 << 20, 3600.0)
PUBLISH = Publish(7, "/room/\u00fc", b"\x81\x01a\x81\x01b", 2, 42, LIMITS)
POST = Publish(8, "/x", b"\x81\x01a", 1, 0, LIMITS, "key \ud800", IdempotencyKey("once", "alice"), "digest", True)
BATCH = Batch("/room/x", "9f2c41d7", 41, 2, 1.5e9, 3, 42, None, b"\x81\x01a\x81\x01b")
HISTORY = History(
    "/room/x",
    "9f2c41d7",
    44,
    False,
    (Past(41, 2, 1.5, None, b"\x81\x01a\x81\x01b"), Past(43, 1, 2.5, "k", b"\x82\x00")),
)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("!IB", 1 + len(body), kind) + body


@pytest.mark.parametrize(
    ("kinds", "message", "encoded"),
    [
        (TO_SEQUENCER, PUBLISH, protocol.publish(PUBLISH)),
        (TO_SEQUENCER, POST, protocol.publish(POST)),
        (TO_SEQUENCER, PUBLISH._replace(history=Limits(math.inf, math.inf, math.inf)), None),  # type: ignore[arg-type]
        (TO_WORKER, BATCH, protocol.batch(BATCH)),
        (TO_WORKER, BATCH._replace(key="\u00fc"), protocol.batch(BATCH._replace(key="\u00fc"))),
        (TO_WORKER, HISTORY, protocol.history(HISTORY)),
        (TO_WORKER, History("/", "e", 0, True, ()), protocol.history(History("/", "e", 0, True, ()))),
        (TO_WORKER, Note(Kind.LOST, ()), protocol.note(Kind.LOST)),
        (TO_SEQUENCER, Note(Kind.FOLLOW, ("/x\ud800", 1, 2, math.inf, None, 0)), None),
        (TO_SEQUENCER, Note(Kind.TELL, ("a/1", {"b": [1]}, 3)), protocol.note(Kind.TELL, "a/1", {"b": [1]}, 3)),
    ],
    ids=lambda value: "" if isinstance(value, bytes | range) else type(value).__name__,
)
def test_a_message_is_read_as_it_was_written(kinds: range, message: object, encoded: bytes | None) -> None:
    if encoded is None:
        written = protocol.publish(message) if isinstance(message, Publish) else None
        encoded = written or protocol.note(message.kind, *message.fields)  # type: ignore[attr-defined]
    decoder = Decoder(kinds)
    assert list(decoder.feed(encoded + encoded)) == [message, message]
    assert decoder.held_bytes == 0


@given(st.lists(st.integers(0, 60), max_size=10))
def test_messages_are_cut_wherever_their_bytes_are(cuts: list[int]) -> None:
    data = protocol.publish(PUBLISH) + protocol.note(Kind.SYNC, 5) + protocol.publish(POST)
    decoder, got, begin = Decoder(TO_SEQUENCER), list[object](), 0
    for end in sorted({*cuts, len(data)}):
        got += decoder.feed(data[begin:end])
        begin = end
    assert got == [PUBLISH, Note(Kind.SYNC, (5,)), POST]


def test_the_beginning_of_a_message_is_kept() -> None:
    decoder = Decoder(TO_SEQUENCER)
    assert list(decoder.feed(protocol.note(Kind.SYNC, 5)[:-1])) == []
    assert decoder.held_bytes == len(protocol.note(Kind.SYNC, 5)) - 1


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!IB", 0, Kind.SYNC),
        struct.pack("!IB", (1 << 30) + 1, Kind.SYNC),
        frame(Kind.LOST, b"[]"),  # the other way
        frame(99, b"[]"),
        frame(Kind.SYNC, b"[]"),
        frame(Kind.SYNC, b"{}"),
        frame(Kind.SYNC, b'["5"]'),
        frame(Kind.SYNC, b"[true]"),
        frame(Kind.SYNC, b"[5"),
        frame(Kind.SYNC, b"[" * 100_000),
        frame(Kind.SYNC, b"\xff"),
        frame(Kind.PUBLISH, b"short"),
        protocol.publish(PUBLISH)[:50] + b"\xff\xff\xff\xff" + protocol.publish(PUBLISH)[54:],
        protocol.publish(PUBLISH).replace("\u00fc".encode(), b"\xff\xff"),
    ],
    ids=range(14),
)
def test_bytes_that_no_end_writes_are_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="can't be"):
        list(Decoder(TO_SEQUENCER).feed(data))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack("!I", 100) + b"[]",
        struct.pack("!I", 2) + b"[]",
        struct.pack("!I", 14) + b'["/","e",0,1 ]',
        struct.pack("!I", 16) + b'["/","e",0,true]' + b"rest",
    ],
)
def test_a_history_that_no_sequencer_writes_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder(TO_WORKER).feed(frame(Kind.HISTORY, body)))


def test_a_message_that_is_too_large_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_BYTES", 100)
    with pytest.raises(UsageError, match="at most 100 bytes, and this one has"):
        protocol.batch(BATCH._replace(frames=bytes(100)))


def test_every_note_has_a_shape() -> None:
    packed = {Kind.PUBLISH, Kind.BATCH, Kind.HISTORY}
    assert set(protocol.SHAPES) == set(Kind) - packed
    assert {*TO_SEQUENCER} & {*TO_WORKER} == set()
    assert all(kind in TO_SEQUENCER or kind in TO_WORKER for kind in Kind)


def test_messages_after_a_number() -> None:
    past = Past(41, 3, 1.0, "k", b"\x81\x01a\x81\x02bc\x81\x00")
    assert past.last == 43
    assert past.after(40) is past
    assert past.after(42) == Past(43, 1, 1.0, "k", b"\x81\x00")


def test_the_place_of_a_follower() -> None:
    assert place_of(None, 0) is None
    assert place_of("e", 5) == MessageId("e", 5)
    assert json.loads(protocol.note(Kind.FOLLOW, "/", 1, 1, 1.0, *MessageId("e", 5))[5:])[4:] == ["e", 5]
