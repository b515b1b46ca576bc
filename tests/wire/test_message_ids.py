"""What messages are called: by the count of a log, or by the ids of the stream that they came from."""

from __future__ import annotations

import itertools

import pytest

from rawws.errors import UsageError
from rawws.wire.broadcast_log import BroadcastLog, History
from rawws.wire.encodings import WITH_IDS, encode_in_steps
from rawws.wire.message_ids import MessageId, NumberedIds, StreamIds, new_epoch, parse_id
from tests.wire.helpers import everything_from, text_frame


def test_an_id_is_read_as_it_is_written() -> None:
    for number in (42, (1 << 64) - 1):
        assert parse_id(str(MessageId("9f2c41d7", number))) == MessageId("9f2c41d7", number)
    assert new_epoch() != new_epoch()


@pytest.mark.parametrize("text", ["", "42", "x-", "-1", "E-1", "a-b", "a-1-2", "a-1 ", f"a-{1 << 64}"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(UsageError, match="is not a message's id"):
        parse_id(text)


def test_ids_that_came_with_the_messages() -> None:
    ids = StreamIds((5, 0))
    log = BroadcastLog(encode_in_steps, ids=ids, history=History(3))
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


def test_an_id_of_another_log_is_known_for_what_it_is() -> None:
    ids = NumberedIds("e")
    assert ids.number_of(parse_id("e-7")) == 7
    assert ids.number_of(parse_id("f-7")) is None
    assert [ids.label(7), *itertools.islice(ids.labels(8), 2)] == [b"e-7", b"e-8", b"e-9"]
    assert NumberedIds().number_of(parse_id("e-7")) is None, "an epoch that no other log has"


def test_ids_that_count_can_be_told_of_messages_that_are_gone() -> None:
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
