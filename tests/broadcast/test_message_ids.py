"""Ids of messages: by the count of a log, or by the stream that they came from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.broadcast.encodings import WITH_IDS
from rawws.broadcast.log import BroadcastLog, History
from rawws.broadcast.message_ids import MessageId, NumberedIds, StreamIds, new_epoch, parse_id
from rawws.errors import UsageError
from tests.wire.helpers import everything_from, text_frame


def test_an_id_is_read_as_it_is_written() -> None:
    for number in (42, (1 << 64) - 1):
        assert parse_id(str(MessageId("9f2c41d7", number))) == MessageId("9f2c41d7", number)
    assert new_epoch() != new_epoch()


@pytest.mark.parametrize("text", ["", "42", "x-", "-1", "E-1", "a-b", "a-1-2", "a-1 ", f"a-{1 << 64}"])
def test_an_invalid_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a message's id"):
        parse_id(text)


def test_ids_that_came_with_the_messages() -> None:
    ids = StreamIds((5, 0))
    log = BroadcastLog(ids=ids, history=History(3))
    for number, each in enumerate([(7, 0), (7, 1), (9, 4), (12, 0)]):
        log.append([text_frame(str(number))])
        ids.add(*each)
        log.seal()
    assert (log.label(0), log.label(3), log.tail_id) == ("5-0", "9-4", "12-0")
    places = ["4-9", "5-0", "6-0", "7-0", "7-1", "8-8", "9-4", "12-0", "13-0"]
    assert [ids.number_of(parse_id(place)) for place in places] == [-1, 0, -1, 1, 2, 2, 3, 4, 5]
    assert ids.number_of(parse_id("9f2c-1")) is None
    assert everything_from(log, 2, WITH_IDS) == ['{"id":"9-4"}\n2', '{"id":"12-0"}\n3']
    log.trim(log.next)
    assert log.oldest(0.0) == 2
    assert [ids.number_of(parse_id(place)) for place in places] == [0, 0, 0, 1, 2, 2, 3, 4, 5]
    assert (log.label(1), ids.last) == ("7-0", (12, 0))


def test_an_id_that_no_message_has_is_not_known() -> None:
    ids = StreamIds((5, 0))
    for each in [(7, 0), (7, 1), (9, 4)]:
        ids.add(*each)
    known = ["5-0", "7-0", "7-1", "9-4"]
    assert [ids.knows(parse_id(each)) for each in known] == [True] * 4
    assert not any(ids.knows(parse_id(each)) for each in ["4-0", "5-1", "6-0", "7-2", "8-0", "9-3", "9-5", "9f2c-1"])
    ids.deleted = (8, 0)
    assert [ids.knows(parse_id(each)) for each in ["6-0", "8-0", "8-1"]] == [True, True, False], "they may have been"


def test_an_id_is_passed_where_the_stream_went_on_without_it() -> None:
    ids = StreamIds((5, 0))
    for each in [(7, 0), (7, 1), (9, 4)]:
        ids.add(*each)
    passed = ["7-2", "8-0", "9-3"]
    assert [ids.is_passed(parse_id(each)) for each in passed] == [True] * 3
    not_passed = {
        "it is older than the first message": ["4-0", "5-1", "6-0"],
        "it is known": ["5-0", "7-0", "7-1", "9-4"],
        "it is newer than the last message": ["9-5", "10-0"],
        "it isn't of a stream": ["9f2c-1"],
    }
    for why, places in not_passed.items():
        assert not any(ids.is_passed(parse_id(each)) for each in places), why
    ids.deleted = (8, 0)
    assert [ids.is_passed(parse_id(each)) for each in passed] == [False, False, True], "it may have been deleted"


def test_a_stream_that_begins_anew_with_lower_ids() -> None:
    ids = StreamIds()
    log = BroadcastLog(ids=ids, history=History(10))

    def add(*each: int) -> None:
        log.append([text_frame("x")])
        ids.add(*each)
        log.seal()

    add(90, 0)
    add(91, 0)
    log.record_gap({})
    ids.restart((40, 0))
    add(50, 0)
    add(60, 0)
    assert [log.label(number) for number in range(6)] == ["0-0", "90-0", "91-0", "40-0", "50-0", "60-0"]
    assert (ids.last, log.oldest(0.0)) == ((60, 0), 4)
    of_the_past = ["0-0", "39-0", "45-0", "55-0", "61-0", "90-0", "91-0"]
    beginning = log.oldest(0.0) - 1
    for each in map(parse_id, of_the_past):
        number = ids.number_of(each)
        assert number is None or number < beginning, each
        assert not ids.knows(each)
    assert [ids.number_of(parse_id(each)) for each in ["40-0", "50-0", "60-0", "92-0"]] == [3, 4, 5, 6]
    add(90, 5)
    assert [ids.number_of(parse_id(each)) for each in ["60-0", "89-0", "90-0", "90-5", "91-0"]] == [
        5,
        None,
        None,
        6,
        None,
    ]
    assert [ids.number_of(parse_id(each)) for each in ["91-1", "92-0"]] == [7, 7], (
        "an id that this node has never had is newer"
    )
    log.trim(log.next)
    ids.restart((70, 0))
    assert ids.number_of(parse_id("90-5")) is None
    assert ids.number_of(parse_id("70-0")) == 7


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), unique=True, min_size=1, max_size=12).map(sorted),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), unique=True, min_size=1, max_size=12).map(sorted),
    st.integers(0, 30),
    st.tuples(st.integers(0, 10), st.integers(0, 4)),
)
def test_ids_are_looked_up_in_the_present_sequence_only(
    before: list[tuple[int, int]], now: list[tuple[int, int]], forgotten: int, given_id: tuple[int, int]
) -> None:
    ids = StreamIds(before[0])
    for each in before[1:]:
        ids.add(*each)
    begin = len(before)
    ids.restart(now[0])
    for each in now[1:]:
        ids.add(*each)
    forgotten = min(forgotten, begin + len(now) - 1)
    ids.forget(forgotten)
    there = dict(enumerate(now, begin))
    asked = MessageId(str(given_id[0]), given_id[1])
    number = ids.number_of(asked)
    found = [place for place, each in there.items() if each == given_id and place >= forgotten]
    assert ids.knows(asked) is bool(found)
    if found:
        assert number == found[0]
    elif given_id <= before[-1]:
        assert number is None
    elif given_id > now[-1]:
        assert number == begin + len(now)
    else:
        earlier = [place for place, each in there.items() if each < given_id]
        assert number in (earlier[-1] if earlier else 0, max(begin, forgotten) - 1)


def test_an_id_of_another_log_is_known_for_what_it_is() -> None:
    ids = NumberedIds("e")
    assert ids.number_of(parse_id("e-7")) == 7
    assert ids.number_of(parse_id("f-7")) is None
    assert (ids.knows(parse_id("e-7")), ids.knows(parse_id("f-7"))) == (True, False)
    assert [ids.label(7), *itertools.islice(ids.labels(8), 2)] == [b"e-7", b"e-8", b"e-9"]
    assert NumberedIds().number_of(parse_id("e-7")) is None, "an epoch that no other log has"


def test_numbered_ids_of_forgotten_messages_are_known() -> None:
    ids = NumberedIds("e")
    ids.forget(7)
    assert (ids.label(3), ids.number_of(parse_id("e-3"))) == (b"e-3", 3)


@pytest.mark.parametrize(
    ("place", "other", "is_beyond"),
    [
        ("a1-5", "a1-5", False),
        ("a1-4", "a1-5", False),
        ("a1-6", "a1-5", True),
        ("b2-1", "a1-5", True),  # of another log
        ("1699-9", "1700-1", False),  # of a stream
        ("1700-2", "1700-1", True),
        ("10000-0", "9999-5", True),
    ],
)
def test_a_place_is_beyond_another_where_messages_may_be_between(place: str, other: str, is_beyond: bool) -> None:
    assert parse_id(place).is_beyond(parse_id(other)) is is_beyond
