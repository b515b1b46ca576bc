"""A room as a Redis Stream: entries as messages, and what may have been missed of one."""

from __future__ import annotations

import pytest

from rawws.wire.broadcast_log import History
from rawws.wire.frames import MAX_HEADER_BYTES, Opcode
from rawws.wire.stream_entries import (
    BEGINNING,
    LEAST_BYTES,
    LEAST_ENTRIES,
    LEAST_EXPIRY_S,
    MOST_EXPIRY_S,
    MOST_KEPT,
    MOST_NODES,
    Author,
    Keeping,
    Missed,
    Repeated,
    StreamMessage,
    StreamPlace,
    StreamState,
    StreamTail,
    fields_of,
    format_stream_id,
    just_before,
    just_behind,
    key_of,
    parse_stream_id,
    path_of,
    read_entry,
)

HOUR_MS = 3_600_000
NOW = 10 * HOUR_MS
NODE = Author("node", 7, 1)


@pytest.mark.parametrize(
    ("fields", "opcode", "payload"),
    [
        ({b"data": b"hello"}, Opcode.TEXT, b"hello"),
        ({b"data": "grüß dich".encode(), b"op": b"t"}, Opcode.TEXT, "grüß dich".encode()),
        ({b"data": b"hello", b"op": b"b"}, Opcode.BINARY, b"hello"),
        ({b"data": b"\xff"}, Opcode.BINARY, b"\xff"),
        ({b"data": b"\xff", b"op": b"t"}, Opcode.BINARY, b"\xff"),
        ({b"data": b"x", b"op": b"?"}, Opcode.TEXT, b"x"),
        ({}, Opcode.TEXT, b""),
    ],
)
def test_an_entry_is_a_message_whoever_wrote_it(fields: dict[bytes, bytes], opcode: Opcode, payload: bytes) -> None:
    message = read_entry(b"5-1", fields)
    assert message == ((5, 1), opcode, payload, b"", None)


@pytest.mark.parametrize("key", [None, "acme"])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_what_is_written_is_read(opcode: Opcode, key: str | None) -> None:
    flat = [each.encode() if isinstance(each, str) else each for each in fields_of(opcode, b"p", NODE, key)]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert read_entry(b"9-0", fields) == ((9, 0), opcode, b"p", b"node.7.1", key)


def test_who_wrote_an_entry() -> None:
    assert Author.parse(b"node.7.1") == NODE
    assert str(NODE) == "node.7.1"
    for other in (b"", b"node", b"node.7", b"node.7.x", b"node.-1.1", b".7.1", b"a.b.7.1", b"node.7." + b"9" * 5000):
        assert Author.parse(other) is None


def test_what_a_node_has_published_again_is_known() -> None:
    repeated = Repeated()
    seen = [NODE._replace(serial=serial) for serial in (1, 2, 5, 4, 5, 6)]
    assert [repeated.has(each) for each in seen] == [False, False, False, True, True, False]
    assert not repeated.has(Author("other", 7, 1))
    assert not repeated.has(None)
    assert not repeated.has(None)
    for number in range(MOST_NODES - 1):
        assert not repeated.has(Author(f"n{number}", 1, 1))
    assert repeated.has(Author("other", 7, 1)), "of so many nodes it is known"
    assert not repeated.has(Author("one more", 1, 1))
    assert not repeated.has(NODE), "who was silent for longest is forgotten"


@pytest.mark.parametrize(
    ("history", "keeping"),
    [
        (History(), Keeping(LEAST_ENTRIES, LEAST_BYTES, 3600)),
        (History(30_000, 100 << 20, 86_400.5), Keeping(30_000, 100 << 20, 86_400)),
        (History(10**30, 10**30, float("inf")), Keeping(MOST_KEPT, MOST_KEPT, MOST_EXPIRY_S)),
        (History(0, 0, 0), Keeping(LEAST_ENTRIES, LEAST_BYTES, LEAST_EXPIRY_S)),
    ],
)
def test_a_stream_is_kept_as_its_room_s_history_takes_it(history: History, keeping: Keeping) -> None:
    assert Keeping.of(history) == keeping


def test_keys_and_ids() -> None:
    assert (key_of("/room/x"), path_of("rawws:/room/x")) == ("rawws:/room/x", "/room/x")
    assert format_stream_id(parse_stream_id(b"1690000000000-12")) == "1690000000000-12"
    assert just_before((7, 3)) == (7, 2)
    assert (6, 10**15) < just_before((7, 0)) < (7, 0)
    assert just_before(BEGINNING) < (0, 2**63)


def test_nothing_is_between_an_id_and_the_one_just_behind_it() -> None:
    largest = (1 << 64) - 1  # of either half, in Redis
    assert just_behind(BEGINNING) == (0, 1)
    assert just_behind((7, 3)) == (7, 4)
    assert just_behind((7, largest - 1)) == (7, largest)
    assert just_behind((7, largest)) == (8, 0)


# A reader stands at (8 h, 0), the 50th entry; what has become of the stream meanwhile?
LAST = (8 * HOUR_MS + HOUR_MS, 0)
LATER, EARLIER = (LAST[0] + 10, 0), (LAST[0] - 10, 0)
LONG_AGO = (HOUR_MS, 0)


@pytest.mark.parametrize(
    ("state", "missed"),
    [
        pytest.param(StreamState(50, 50, EARLIER, LAST), None, id="nothing new"),
        pytest.param(StreamState(60, 60, EARLIER, LATER), None, id="more, and ours is still there"),
        pytest.param(StreamState(10, 60, LATER, LATER), None, id="trimmed up to ours, and no further"),
        pytest.param(StreamState(9, 60, LATER, LATER), Missed.TRIMMED, id="trimmed further"),
        pytest.param(StreamState(0, 60, BEGINNING, LATER), Missed.TRIMMED, id="all trimmed"),
        pytest.param(StreamState(0, 50, BEGINNING, LAST), None, id="all trimmed that we had"),
        pytest.param(StreamState(), Missed.LOST, id="not there any more"),
        pytest.param(StreamState(40, 40, EARLIER, EARLIER), Missed.LOST, id="a replica that lagged"),
        pytest.param(StreamState(2, 2, LATER, LATER), Missed.LOST, id="began anew, and is ahead of us"),
    ],
)
def test_what_may_have_been_missed(state: StreamState, missed: Missed | None) -> None:
    place = StreamPlace(LAST, 50)
    assert place.compare(state, LAST[0] + 1000, HOUR_MS) is missed
    assert place.compare(state, LAST[0] + 1000, HOUR_MS) is None or missed is Missed.TRIMMED


@pytest.mark.parametrize(
    ("state", "missed"),
    [
        pytest.param(StreamState(), None, id="it has expired"),
        pytest.param(StreamState(2, 2, LATER, LATER), None, id="it has expired, and there is a new one"),
        pytest.param(StreamState(2, 9, LATER, LATER), Missed.TRIMMED, id="of the new one too much is gone"),
    ],
)
def test_a_stream_that_expired_is_nothing_lost(state: StreamState, missed: Missed | None) -> None:
    place = StreamPlace(LONG_AGO, 50)
    assert place.compare(state, NOW, HOUR_MS) is missed


def test_who_has_seen_nothing_yet() -> None:
    place = StreamPlace()
    assert place.compare(StreamState(), NOW, HOUR_MS) is None
    assert place.compare(StreamState(3, 3, LATER, LATER), NOW, HOUR_MS) is None
    place.pass_over(LATER)
    assert (place.last, place.count) == (LATER, 1)
    assert StreamPlace().compare(StreamState(3, 9, LATER, LATER), NOW, HOUR_MS) is Missed.TRIMMED


# What a reader begins with


def messages(*numbers: int, size: int = 10) -> list[StreamMessage]:
    return [StreamMessage((NOW - 1000, number), Opcode.TEXT, bytes(size), b"", None) for number in numbers]


def state(*, added: int, length: int) -> StreamState:
    oldest = added - length + 1
    return StreamState(length, added, (NOW - 1000, oldest), (NOW - 1000, added))


def numbers_of(tail: StreamTail) -> list[int]:
    return [message.id[1] for message in tail.messages]


def test_a_tail_is_read_in_pages_until_the_stream_is_over() -> None:
    tail = StreamTail(History(100))
    assert (tail.before, tail.wanted) == (None, 101)
    tail.add(state(added=5, length=5), messages(5, 4, 3), NOW, is_last=False)
    assert (tail.is_whole, tail.before, tail.wanted) == (False, (NOW - 1000, 3), 98)
    tail.add(state(added=9, length=9), messages(2, 1), NOW, is_last=True)
    assert (tail.is_whole, numbers_of(tail), tail.floor) == (True, [5, 4, 3, 2, 1], BEGINNING)
    assert tail.end == state(added=5, length=5), "what came meanwhile is to be read behind it"


@pytest.mark.parametrize(
    ("history", "kept"),
    [
        (History(3), 3),
        (History(100, max_bytes=4 * (10 + MAX_HEADER_BYTES)), 4),
        (History(100, max_bytes=5), 0),
        (History(100, max_age_s=0.5), 0),
    ],
    ids=["messages", "bytes", "a message over the bytes", "age"],
)
def test_a_tail_is_what_the_history_keeps(history: History, kept: int) -> None:
    tail = StreamTail(history)
    tail.add(state(added=6, length=6), messages(6, 5, 4, 3, 2, 1), NOW, is_last=True)
    assert (tail.is_whole, numbers_of(tail)) == (True, [6, 5, 4, 3, 2, 1][:kept])
    assert tail.floor == (NOW - 1000, 6 - kept), "the place behind the first that is left out"


def test_a_tail_of_no_history_is_the_place_behind_everything() -> None:
    tail = StreamTail(History(0))
    assert tail.wanted == 0
    tail.add(state(added=6, length=6), [], NOW, is_last=False)
    assert (tail.is_whole, tail.messages, tail.floor) == (True, [], (NOW - 1000, 6))


def test_a_tail_of_what_was_trimmed_begins_before_the_oldest_that_there_is() -> None:
    tail = StreamTail(History(100))
    tail.add(state(added=9, length=2), messages(9, 8), NOW, is_last=True)
    assert tail.floor == (NOW - 1000, 7)
    emptied = StreamTail(History(100))
    emptied.add(StreamState(0, 9, BEGINNING, (NOW - 1000, 9)), [], NOW, is_last=True)
    assert emptied.floor == (NOW - 1000, 9)


def test_a_tail_that_is_trimmed_while_it_is_read_keeps_what_it_has() -> None:
    tail = StreamTail(History(100))
    tail.add(state(added=9, length=9), messages(9, 8), NOW, is_last=False)
    tail.add(StreamState(1, 30, (NOW - 1000, 30), (NOW - 1000, 30)), [], NOW, is_last=True)
    assert (numbers_of(tail), tail.floor) == ([9, 8], (NOW - 1000, 7))
