"""The position at which a reader starts: what it asks for, and the gap if the log has it no more."""

from __future__ import annotations

import pytest

from rawws.broadcast.log import BroadcastLog, History
from rawws.broadcast.message_ids import Ids, MessageId, NumberedIds, StreamIds
from rawws.broadcast.query import FROM_NOW_ON, RoomQuery
from rawws.broadcast.start_position import StartPosition
from tests.wire.helpers import text_frame


def make_log(messages: int, *, history: int = 100, ids: Ids | None = None) -> BroadcastLog:
    """A log with a segment for each message, all of them sealed at second 0."""
    log = BroadcastLog(ids=ids or NumberedIds("e"), history=History(history, max_age_s=60.0))
    add(log, messages)
    return log


def add(log: BroadcastLog, messages: int) -> None:
    for _ in range(messages):
        log.append([text_frame("x")])
        log.seal(0.0)


def since(epoch: str, number: int) -> RoomQuery:
    return RoomQuery(since=MessageId(epoch, number))


@pytest.mark.parametrize(
    ("reading", "after"),
    [
        (FROM_NOW_ON, 5),
        (RoomQuery(last=0), 5),
        (RoomQuery(last=2), 3),
        (RoomQuery(last=3), 2),
        (RoomQuery(last=9), 2),  # the log has three
        (since("e", 2), 2),
        (since("e", 4), 4),
        (since("e", 5), 5),
    ],
)
def test_a_reader_gets_what_it_asks_for_and_the_log_has(reading: RoomQuery, after: int) -> None:
    assert StartPosition.find(make_log(5, history=3), reading, 0.0) == (after, None)


@pytest.mark.parametrize(
    ("reading", "after", "id_after"),
    [
        (since("e", 1), 2, "e-2"),  # older than the history
        (since("another", 4), 2, "e-2"),
        (since("e", 6), 5, "e-5"),  # newer than all that there is
    ],
)
def test_a_reader_is_told_of_the_messages_that_it_may_miss(reading: RoomQuery, after: int, id_after: str) -> None:
    gap = {"since": str(reading.since), "after": id_after}
    assert StartPosition.find(make_log(5, history=3), reading, 0.0) == (after, gap)


def test_messages_that_are_too_old_are_missing() -> None:
    gap = {"since": "e-4", "after": "e-5"}
    assert StartPosition.find(make_log(5), since("e", 4), 61.0) == (5, gap)
    assert StartPosition.find(make_log(5), RoomQuery(last=3), 61.0) == (5, None)


def test_an_id_between_two_of_a_stream_is_of_a_message_that_others_may_have_missed() -> None:
    ids = StreamIds((100, 0))
    ids.add(100, 1)
    ids.add(100, 5)
    log = make_log(2, ids=ids)
    assert StartPosition.find(log, since("100", 1), 0.0) == (1, None)
    assert StartPosition.find(log, since("100", 3), 0.0) == (1, {"since": "100-3", "after": "100-1"})


def test_a_gap_after_the_last_message_seen_is_passed_over_and_told_once() -> None:
    log = make_log(2)
    log.record_gap({"gap": {}}, 0.0, ends_history=False)
    add(log, 1)
    assert StartPosition.find(log, since("e", 2), 0.0) == (3, {"since": "e-2", "after": "e-3"})
    assert StartPosition.find(log, since("e", 1), 0.0) == (1, None)  # the gap is in what it reads
