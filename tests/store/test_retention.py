"""Tests for rawws/store/retention.py."""

from __future__ import annotations

import math

import pytest

from rawws.broadcast.idempotency import KEPT_S
from rawws.broadcast.log import History
from rawws.store.entries import Job
from rawws.store.retention import (
    FORGOTTEN_AFTER_S,
    LOOK_AGAIN_S,
    NO_EXTENT,
    Extent,
    Kept,
    due_at,
    is_over,
    needed_by,
    removable,
)

ALL = 1 << 40
# Three records: messages 1 and 2, 3, and 4 to 6, of 10 bytes and a second for each message.
RECORDS = [Kept(1, 2, 20, 2.0), Kept(3, 1, 10, 3.0), Kept(4, 3, 30, 6.0)]
EXTENT = Extent(6, 60)
AMPLE = History(messages=100, max_bytes=1000, max_age_s=1000.0)


def removed(history: History, now: float = 6.0, needed: int = ALL) -> int:
    return removable(RECORDS, EXTENT, history, now, needed)


def test_everything_stays_within_ample_limits() -> None:
    assert removed(AMPLE) == 0
    assert not is_over(EXTENT, 2.0, AMPLE, 6.0)


@pytest.mark.parametrize(("messages", "count"), [(6, 0), (5, 0), (4, 1), (3, 2), (1, 2), (0, 3)])
def test_a_record_goes_when_the_others_have_enough_messages(messages: int, count: int) -> None:
    assert removed(AMPLE._replace(messages=messages)) == count


@pytest.mark.parametrize(("size", "count"), [(60, 0), (59, 1), (40, 1), (39, 2), (30, 2), (29, 3), (0, 3)])
def test_a_record_goes_while_all_are_too_large(size: int, count: int) -> None:
    assert removed(AMPLE._replace(max_bytes=size)) == count


@pytest.mark.parametrize(("now", "count"), [(11.9, 0), (12.0, 1), (13.0, 2), (15.9, 2), (16.0, 3)])
def test_a_record_goes_when_it_is_too_old(now: float, count: int) -> None:
    assert removed(AMPLE._replace(max_age_s=10.0), now) == count


@pytest.mark.parametrize(("needed", "count"), [(1, 0), (2, 0), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_a_record_that_a_group_needs_stays(needed: int, count: int) -> None:
    assert removed(AMPLE._replace(messages=0), needed=needed) == count


def test_nothing_goes_without_records() -> None:
    assert removable([], NO_EXTENT, History(), 0.0, ALL) == 0
    assert not is_over(NO_EXTENT, 0.0, History(), 1e9)


@pytest.mark.parametrize("history", [History(5, 60, 9.0), History(6, 59, 9.0), History(6, 60, 4.0)])
def test_a_room_is_over_when_any_limit_is(history: History) -> None:
    assert is_over(EXTENT, 2.0, history, 6.0)


def test_an_extent_that_was_damaged_is_never_below_nothing() -> None:
    assert Extent(1, 5).without(Kept(1, 2, 20, 0.0)) == NO_EXTENT


def test_a_group_needs_its_oldest_job_or_the_message_after_its_position() -> None:
    assert needed_by(7, [Job(5, 1, 0.0, ""), Job(3, 1, 0.0, "x")]) == 3
    assert needed_by(7, []) == 8


@pytest.mark.parametrize(
    ("extent", "keyed_at", "used_at", "due"),
    [
        (EXTENT, 0.0, 6.0, 2.0 + 1000.0),
        (EXTENT, 9.0, 6.0, 9.0 + KEPT_S),
        (NO_EXTENT, 9.0, 6.0, 9.0 + KEPT_S),
        (NO_EXTENT, 0.0, 6.0, 6.0 + FORGOTTEN_AFTER_S),
        (NO_EXTENT, 0.0, None, math.inf),
    ],
    ids=["messages", "keys and messages", "keys", "nothing", "a group"],
)
def test_a_room_is_due_when_the_first_of_what_it_has_is_old(
    extent: Extent, keyed_at: float, used_at: float | None, due: float
) -> None:
    assert due_at(extent, 2.0, AMPLE, keyed_at, used_at, 10.0) == due


def test_a_room_whose_old_messages_can_not_go_is_looked_at_again_later() -> None:
    assert due_at(EXTENT, 2.0, AMPLE, 0.0, None, 5000.0) == 5000.0 + LOOK_AGAIN_S
