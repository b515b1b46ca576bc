"""A room as a Redis Stream: entries as messages, and gaps in one."""

from __future__ import annotations

import pytest

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.stream_entries import (
    BEGINNING,
    HIGHEST,
    LEAST_BYTES,
    LEAST_ENTRIES,
    LEAST_EXPIRY_S,
    MESSAGE_BYTES,
    MOST_EXPIRY_S,
    MOST_KEPT,
    MOST_NODES,
    NODE_BYTES,
    Author,
    Break,
    DuplicateFilter,
    Missed,
    Retention,
    StreamId,
    StreamMessage,
    StreamPlace,
    StreamState,
    StreamTail,
    fields_of,
    format_stream_id,
    just_before,
    key_of,
    once_key_of,
    parse_stream_id,
    path_of,
    read_entry,
)
from rawws.wire.frames import MAX_HEADER_BYTES, Opcode

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
    assert message == StreamMessage((5, 1), opcode, payload, None, None)


@pytest.mark.parametrize("key", [None, "acme"])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_an_entry_that_was_written_is_read_back(opcode: Opcode, key: str | None) -> None:
    flat = [each.encode() if isinstance(each, str) else each for each in fields_of(opcode, b"p", NODE, key)]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert read_entry(b"9-0", fields) == StreamMessage((9, 0), opcode, b"p", NODE, key)


def test_an_entrys_author_is_read() -> None:
    assert Author.parse(b"node.7.1") == NODE
    assert str(NODE) == "node.7.1"


@pytest.mark.parametrize(
    "by",
    [
        *(b"", b"node", b"node.7", b"node.7.x", b"node.-1.1", b".7.1", b"a.b.7.1", b"node.7.1\n", b"\xff\xfe.7.1"),
        *("\u00e9.1.1".encode(), "node.\u0663.1".encode(), b"node.7." + b"9" * 5000, b"x" * 65 + b".7.1"),
    ],
)
def test_a_by_field_that_no_node_writes_is_ignored(by: bytes) -> None:
    assert Author.parse(by) is None
    assert read_entry(b"5-1", {b"data": b"x", b"by": by}) == StreamMessage((5, 1), Opcode.TEXT, b"x", None, None)


@pytest.mark.parametrize(
    "text", [b"", b"5", b"-", b"5-", b"5-x", b"5-1 ", b"+5-1", b"1_0-1", b"5-1-1", b"1-%d" % 2**64]
)
def test_bytes_that_are_not_the_id_of_an_entry(text: bytes) -> None:
    with pytest.raises(ValueError, match="is not the id of an entry"):
        parse_stream_id(text)


def test_a_key_that_can_not_be_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        fields_of(Opcode.TEXT, b"x", NODE, "\ud800")


def test_a_nodes_repeated_entries_are_recognized() -> None:
    duplicates = DuplicateFilter()
    seen = [NODE._replace(serial=serial) for serial in (1, 2, 5, 4, 5, 6)]
    assert not duplicates.knows(NODE)
    assert [duplicates.has(each) for each in seen] == [False, False, False, True, True, False]
    assert [duplicates.knows(NODE._replace(serial=serial)) for serial in (4, 6, 7)] == [True, True, False]
    assert not duplicates.has(Author("other", 7, 1))
    assert not duplicates.has(None)
    assert not duplicates.has(None)
    for number in range(MOST_NODES - 1):
        assert not duplicates.has(Author(f"n{number}", 1, 1))
    assert duplicates.has(Author("other", 7, 1)), "the entries of this number of nodes are known"
    assert not duplicates.has(Author("one more", 1, 1))
    assert not duplicates.has(NODE), "the node that was silent for longest is forgotten"


def test_an_entry_with_the_lowest_serial_repeats_nothing() -> None:
    duplicates = DuplicateFilter()
    lowest = Author("another-program", 0, 0)
    assert not duplicates.knows(lowest)
    assert not duplicates.has(lowest)
    assert duplicates.knows(lowest)
    assert duplicates.has(lowest)


@pytest.mark.parametrize(
    ("history", "retention"),
    [
        (History(), Retention(LEAST_ENTRIES, LEAST_BYTES, 3600)),
        (History(30_000, 100 << 20, 86_400.5), Retention(30_000, 100 << 20, 86_400)),
        (History(10**30, 10**30, float("inf")), Retention(MOST_KEPT, MOST_KEPT, MOST_EXPIRY_S)),
        (History(0, 0, 0), Retention(LEAST_ENTRIES, LEAST_BYTES, LEAST_EXPIRY_S)),
    ],
)
def test_a_stream_is_kept_as_its_room_s_history_takes_it(history: History, retention: Retention) -> None:
    assert Retention.of(history) == retention


def test_keys_and_ids() -> None:
    assert (key_of("/room/x"), path_of("rawws:/room/x")) == ("rawws:/room/x", "/room/x")
    assert format_stream_id(parse_stream_id(b"1690000000000-12")) == "1690000000000-12"
    assert parse_stream_id(format_stream_id(HIGHEST).encode()) == HIGHEST
    assert just_before((7, 3)) == (7, 2)
    assert (6, 10**15) < just_before((7, 0)) < (7, 0)
    assert just_before(BEGINNING) < (0, 2**63)


# A reader stands at (9 h, 0), the 50th entry, and had checked the stream just then. Each case is a later state of the
# stream.
LAST = (9 * HOUR_MS, 0)
LATER, EARLIER = (LAST[0] + 10, 0), (LAST[0] - 10, 0)
LONG_AGO = (HOUR_MS, 0)
FIRST = (LAST[0] - 100, 0)


def place_at(last: StreamId, count: int = 50, *, removed: int = 0, early: StreamId = FIRST) -> StreamPlace:
    """Return the place of a reader that has read all entries of a stream, as of its last check."""
    place = StreamPlace(last, count)
    place.note_look(StreamState(count - removed, count, early, last), is_last=True)
    assert place.landmarks == (early, last)
    return place


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(StreamState(50, 50, FIRST, LAST, has_landmark=True), id="nothing new"),
        pytest.param(StreamState(60, 60, FIRST, LATER, has_landmark=True), id="more, and ours is still there"),
        pytest.param(StreamState(10, 60, LATER, LATER), id="trimmed up to ours, and no further"),
        pytest.param(StreamState(0, 50, BEGINNING, LAST), id="all trimmed that we had"),
        pytest.param(StreamState(49, 50, EARLIER, LAST, LAST), id="ours was deleted"),
        pytest.param(StreamState(0, 50, BEGINNING, LAST, LAST), id="all were deleted"),
        pytest.param(
            StreamState(51, 52, EARLIER, LATER, LAST), id="ours and the first were deleted, and there is more"
        ),
    ],
)
def test_nothing_was_missed(state: StreamState) -> None:
    place = place_at(LAST)
    assert place.compare(state, LAST[0] + 1000, HOUR_MS) is None
    assert place.last == LAST


@pytest.mark.parametrize(
    ("state", "missed", "last"),
    [
        pytest.param(
            StreamState(9, 60, LATER, LATER), Break(Missed.TRIMMED, just_before(LATER)), LAST, id="trimmed further"
        ),
        pytest.param(StreamState(0, 60, BEGINNING, LATER), Break(Missed.TRIMMED, LATER), LAST, id="all trimmed"),
        pytest.param(StreamState(), Break(Missed.ANEW, BEGINNING), BEGINNING, id="not there any more"),
        pytest.param(
            StreamState(40, 40, FIRST, EARLIER, has_landmark=True),
            Break(Missed.LOST, EARLIER),
            EARLIER,
            id="a replica that lagged",
        ),
        pytest.param(
            StreamState(39, 40, (FIRST[0] + 1, 0), EARLIER, EARLIER)._replace(deleted=LAST),
            Break(Missed.LOST, EARLIER),
            EARLIER,
            id="a replica that lagged, in which ours was deleted",
        ),
        pytest.param(StreamState(2, 2, LATER, LATER), Break(Missed.ANEW, BEGINNING), LAST, id="anew, and ahead of us"),
        pytest.param(
            StreamState(70, 70, LATER, LATER), Break(Missed.ANEW, BEGINNING), LAST, id="anew, with more entries"
        ),
        pytest.param(StreamState(3, 3, EARLIER, EARLIER), Break(Missed.ANEW, BEGINNING), BEGINNING, id="anew, lower"),
        pytest.param(
            StreamState(3, 3, LONG_AGO, LONG_AGO), Break(Missed.ANEW, BEGINNING), BEGINNING, id="anew, by hours"
        ),
        pytest.param(
            StreamState(3, 9, EARLIER, EARLIER),
            Break(Missed.ANEW, just_before(EARLIER)),
            just_before(EARLIER),
            id="anew, lower, and trimmed",
        ),
        pytest.param(
            StreamState(0, 9, BEGINNING, EARLIER), Break(Missed.ANEW, EARLIER), EARLIER, id="anew, and emptied"
        ),
        pytest.param(
            StreamState(3, 3, EARLIER, LATER), Break(Missed.ANEW, LAST), LAST, id="anew, before us and after us"
        ),
        pytest.param(
            StreamState(70, 70, EARLIER, LATER), Break(Missed.ANEW, LAST), LAST, id="the same, with more entries"
        ),
        pytest.param(StreamState(3, 3, EARLIER, LAST), Break(Missed.ANEW, LAST), LAST, id="anew, up to the same id"),
    ],
)
def test_a_gap_is_found_by_comparing_place_and_state(state: StreamState, missed: Break, last: StreamId) -> None:
    place = place_at(LAST)
    assert place.compare(state, LAST[0] + 1000, HOUR_MS) == missed
    assert place.last == last
    for entry in (state.oldest, state.newest):  # the stream's entries are read
        if place.last < entry:
            place.pass_over(entry)
            place.note_look(state, is_last=False)
    place.note_look(state, is_last=True)
    seen = state._replace(has_landmark=bool(state.length))
    assert place.compare(seen, LAST[0] + 1000, HOUR_MS) is None, "it is reported once"


def test_no_message_of_an_older_stream_is_delivered_again() -> None:
    state = StreamState(3, 3, EARLIER, EARLIER)
    assert place_at(LAST, early=LAST).compare(state, NOW, 10 * HOUR_MS) == (Missed.ANEW, BEGINNING)
    place = place_at(LAST, early=LAST, removed=49)
    assert place.compare(state, NOW, 10 * HOUR_MS) == (Missed.LOST, EARLIER)
    assert place.last == EARLIER


def test_a_later_entry_becomes_the_landmark_if_there_was_none() -> None:
    place = StreamPlace()
    place.note_look(StreamState(), is_last=True)
    assert place.landmarks == (BEGINNING, BEGINNING)
    place.pass_over(EARLIER)
    place.pass_over(LAST)
    assert place.landmarks == (EARLIER, BEGINNING)
    lagged = StreamState(1, 1, EARLIER, EARLIER, has_landmark=True)
    assert place.compare(lagged, NOW, HOUR_MS) == (Missed.LOST, EARLIER)


def test_another_stream_is_recognized_even_if_it_passed_us_between_two_looks() -> None:
    place = place_at(LAST, 2)
    place.pass_over(LATER)  # of the new stream, which has two entries that are lower than our last one
    assert place.count == 3
    assert place.compare(StreamState(3, 3, EARLIER, LATER), NOW, HOUR_MS) == (Missed.ANEW, LATER)


@pytest.mark.parametrize(
    ("state", "missed"),
    [
        pytest.param(StreamState(), None, id="it has expired"),
        pytest.param(StreamState(2, 2, LATER, LATER), None, id="it has expired, and there is a new one"),
        pytest.param(
            StreamState(2, 9, LATER, LATER),
            Break(Missed.TRIMMED, just_before(LATER)),
            id="of the new one too much is gone",
        ),
        pytest.param(
            StreamState(2, 2, (1, 0), (2, 0)),
            Break(Missed.ANEW, BEGINNING),
            id="the new one has lower ids, as nobody had",
        ),
    ],
)
def test_nothing_is_lost_with_a_stream_that_expired(state: StreamState, missed: Break | None) -> None:
    place = place_at(LONG_AGO, early=LONG_AGO)
    assert place.compare(state, NOW, HOUR_MS) == missed


@pytest.mark.parametrize(
    ("entries", "missed"),
    [
        pytest.param([], None, id="nothing was added"),
        pytest.param([False], None, id="what was added renewed nothing"),
        pytest.param([False, True], Break(Missed.ANEW, BEGINNING), id="what was added renewed it"),
    ],
)
def test_a_stream_may_expire_earlier_than_our_own_age_says(entries: list[bool], missed: Break | None) -> None:
    expires_ms = LAST[0] + 5000
    place = place_at(LAST)
    place.note_look(StreamState(50, 50, FIRST, LAST, expires_ms=expires_ms), is_last=True)
    for sequence, renews in enumerate(entries, 1):
        place.pass_over((LAST[0], sequence), renews=renews)
    assert place.compare(StreamState(), expires_ms, HOUR_MS) == missed


def test_a_stream_that_is_gone_before_it_expires_is_a_gap() -> None:
    place = place_at(LAST)
    place.note_look(StreamState(50, 50, FIRST, LAST, expires_ms=LAST[0] + 5000), is_last=True)
    assert place.compare(StreamState(), LAST[0] + 4999, HOUR_MS) == (Missed.ANEW, BEGINNING)


def test_nothing_is_lost_when_entries_are_read_live_after_an_early_expiry() -> None:
    place = place_at(LAST)
    place.note_look(StreamState(50, 50, FIRST, LAST, expires_ms=LAST[0] + 5000), is_last=True)
    new = (LAST[0] + 5000, 0)
    place.pass_over(new)
    state = StreamState(1, 1, new, new)
    assert place.compare(state, new[0], HOUR_MS) is None
    assert place.compare(state._replace(oldest=(new[0] - 1, 0)), new[0], HOUR_MS) == (Missed.ANEW, new)


@pytest.mark.parametrize("count", [1, 50], ids=["fewer entries than before", "as many entries as before"])
@pytest.mark.parametrize("was_looked_at", [True, False])
def test_entries_read_live_after_an_expired_stream_are_no_gap(count: int, was_looked_at: bool) -> None:
    place = place_at(LONG_AGO, early=LONG_AGO, count=count)
    if not was_looked_at:
        place = StreamPlace()
        place.pass_over(LONG_AGO)
        place.count = count
    place.pass_over((LONG_AGO[0] + HOUR_MS, 0))  # before the end of the old stream was noticed
    place.pass_over((LONG_AGO[0] + HOUR_MS, 1))
    state = StreamState(2, 2, (LONG_AGO[0] + HOUR_MS, 0), (LONG_AGO[0] + HOUR_MS, 1))
    assert place.compare(state, NOW, HOUR_MS) is None
    place.note_look(state, is_last=True)
    assert (place.count, place.landmarks) == (2, (state.oldest, state.newest))
    assert place.compare(state._replace(has_landmark=True), NOW, HOUR_MS) is None


@pytest.mark.parametrize(
    ("read", "state"),
    [
        pytest.param(
            [LONG_AGO[0] + HOUR_MS - 1], StreamState(1, 1, (LONG_AGO[0] + HOUR_MS - 1, 0)), id="it had not expired"
        ),
        pytest.param(
            [LONG_AGO[0] + HOUR_MS], StreamState(2, 2, (LONG_AGO[0] + HOUR_MS - 9, 0)), id="its first was not read"
        ),
        pytest.param(
            [LONG_AGO[0] + HOUR_MS], StreamState(1, 2, (LONG_AGO[0] + HOUR_MS, 0)), id="its first was trimmed"
        ),
        pytest.param(
            [LONG_AGO[0] + HOUR_MS, LONG_AGO[0] + HOUR_MS + 9],
            StreamState(1, 1, (LONG_AGO[0] + HOUR_MS + 9, 0)),
            id="it was deleted after that",
        ),
    ],
)
def test_entries_read_live_of_another_stream_may_be_incomplete(read: list[int], state: StreamState) -> None:
    place = place_at(LONG_AGO, early=LONG_AGO)
    for milliseconds in read:
        place.pass_over((milliseconds, 0))
    assert place.compare(state._replace(newest=place.last), NOW, HOUR_MS) == (Missed.ANEW, place.last)


def test_entries_after_a_stream_that_expired_are_read_whatever_their_ids() -> None:
    place = place_at(LONG_AGO, early=LONG_AGO)
    assert place.compare(StreamState(), NOW, HOUR_MS) is None
    assert (place.last, place.count, place.is_gone) == (BEGINNING, 0, True)
    assert place.compare(StreamState(1, 1, (5, 0), (5, 0)), NOW, HOUR_MS) is None
    assert (place.last, place.is_gone) == (BEGINNING, False)


@pytest.mark.parametrize(
    ("state", "missed", "last"),
    [
        pytest.param(StreamState(), None, BEGINNING, id="it stays away"),
        pytest.param(StreamState(2, 2, EARLIER, LATER), None, BEGINNING, id="another comes"),
        pytest.param(
            StreamState(2, 3, LATER, LATER),
            Break(Missed.TRIMMED, just_before(LATER)),
            just_before(LATER),
            id="another comes, and was trimmed",
        ),
        pytest.param(StreamState(51, 51, FIRST, LATER, has_landmark=True), None, LAST, id="the same comes back"),
        pytest.param(
            StreamState(9, 9, FIRST, EARLIER, has_landmark=True),
            Break(Missed.LOST, EARLIER),
            EARLIER,
            id="the same comes back, without its end",
        ),
    ],
)
def test_a_stream_that_is_gone(state: StreamState, missed: Break | None, last: StreamId) -> None:
    place = place_at(LAST)
    assert place.compare(StreamState(), LAST[0] + 1000, HOUR_MS) == (Missed.ANEW, BEGINNING)
    place.note_look(StreamState(), is_last=True)
    assert place.compare(StreamState(), LAST[0] + 1000, HOUR_MS) is None
    assert place.landmarks == (FIRST, LAST)
    assert place.compare(state, LAST[0] + 1000, HOUR_MS) == missed
    assert (place.last, place.is_gone) == (last, not state.added)


def test_a_new_reader_misses_trimmed_messages_only() -> None:
    place = StreamPlace()
    assert place.compare(StreamState(), NOW, HOUR_MS) is None
    assert place.compare(StreamState(3, 3, LATER, LATER), NOW, HOUR_MS) is None
    place.pass_over(LATER)
    assert (place.last, place.count) == (LATER, 1)
    assert StreamPlace().compare(StreamState(3, 9, LATER, LATER), NOW, HOUR_MS) == (
        Missed.TRIMMED,
        just_before(LATER),
    )


# The beginning of a reader


def messages(*numbers: int, size: int = 10) -> list[StreamMessage]:
    return [StreamMessage((NOW - 1000, number), Opcode.TEXT, bytes(size), None, None) for number in numbers]


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
    assert tail.end == state(added=5, length=5), "later entries are to be read after it"


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
def test_a_tail_has_the_entries_that_the_history_keeps(history: History, kept: int) -> None:
    tail = StreamTail(history)
    tail.add(state(added=6, length=6), messages(6, 5, 4, 3, 2, 1), NOW, is_last=True)
    assert (tail.is_whole, numbers_of(tail)) == (True, [6, 5, 4, 3, 2, 1][:kept])
    assert tail.floor == (NOW - 1000, 6 - kept), "the position after the first entry that is left out"


def test_a_tail_of_no_history_is_the_position_after_all_entries() -> None:
    tail = StreamTail(History(0))
    assert tail.wanted == 0
    tail.add(state(added=6, length=6), [], NOW, is_last=False)
    assert (tail.is_whole, tail.messages, tail.floor) == (True, [], (NOW - 1000, 6))


def test_a_tail_of_trimmed_entries_begins_before_the_oldest_that_is_left() -> None:
    tail = StreamTail(History(100))
    tail.add(state(added=9, length=2), messages(9, 8), NOW, is_last=True)
    assert tail.floor == (NOW - 1000, 7)
    emptied = StreamTail(History(100))
    emptied.add(StreamState(0, 9, BEGINNING, (NOW - 1000, 9)), [], NOW, is_last=True)
    assert emptied.floor == (NOW - 1000, 9)


def test_a_tail_that_is_trimmed_while_it_is_read_keeps_the_entries_already_read() -> None:
    tail = StreamTail(History(100))
    tail.add(state(added=9, length=9), messages(9, 8), NOW, is_last=False)
    tail.add(StreamState(1, 30, (NOW - 1000, 30), (NOW - 1000, 30)), [], NOW, is_last=True)
    assert (numbers_of(tail), tail.floor) == ([9, 8], (NOW - 1000, 7))


def test_held_bytes_count_the_nodes_and_messages_of_a_stream() -> None:
    duplicates = DuplicateFilter()
    assert duplicates.held_bytes == 0
    duplicates.has(NODE)
    assert duplicates.held_bytes == NODE_BYTES
    tail = StreamTail(History(5))
    tail.add(StreamState(1, 1, (1, 0), (1, 0)), [read_entry(b"1-0", {b"data": b"pay"})], 0, is_last=True)
    assert tail.held_bytes == MESSAGE_BYTES + len(b"pay") + MAX_HEADER_BYTES


def test_the_key_of_an_idempotency_key_has_the_room_and_its_owner() -> None:
    assert once_key_of("/room/x", IdempotencyKey("k 1")) == "rawws:once:/room/x k 1"
    owned = IdempotencyKey("k", "user a")
    assert once_key_of("/room/x", owned) == f"rawws:once:{owned.owner_digest}/room/x k"
    pretends = IdempotencyKey(f"{owned.owner_digest}/room/x k")
    assert once_key_of("/room/x", pretends) != once_key_of("/room/x", owned)
