"""Ids that a store has given: the log's numbers, shifted, in runs between which something is lost."""

from __future__ import annotations

import itertools

import pytest

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.stored_ids import BEGINNING, StoredIds


def test_a_log_may_begin_in_the_midst_of_the_stored_messages() -> None:
    ids = StoredIds("e", 41)
    assert ids.label(0) == b"e-41"
    assert ids.next_is(1) == ("e", 42)
    assert ids.number_of(MessageId("e", 42)) == 1
    assert ids.number_of(MessageId("e", 40)) == -1  # before the log, so that its reader gets a gap
    assert ids.number_of(MessageId("f", 42)) is None
    assert ids.knows(MessageId("e", 42))
    assert not ids.knows(MessageId("f", 42))
    assert list(itertools.islice(ids.labels(1), 2)) == [b"e-42", b"e-43"]
    assert ids.bytes_each == 0


def test_the_beginning_is_the_place_before_the_first_message_of_any_room() -> None:
    ids = StoredIds()
    assert ids.label(0) == b"0-0"
    assert ids.number_of(BEGINNING) == 0
    ids.begin("e")
    assert ids.label(1) == b"e-1"
    assert ids.number_of(BEGINNING) == 0
    assert StoredIds("e", 41).number_of(BEGINNING) == -41


def test_a_run_ends_where_numbers_are_lost() -> None:
    ids = StoredIds("e", 10)  # numbers 1 and 2 are e-11 and e-12, and 3 is the gap
    ids.restart(3, "e", 20)
    assert [ids.label(number) for number in range(5)] == [b"e-10", b"e-11", b"e-12", b"e-20", b"e-21"]
    assert list(itertools.islice(ids.labels(2), 3)) == [b"e-12", b"e-20", b"e-21"]
    assert list(itertools.islice(ids.labels(3), 2)) == [b"e-20", b"e-21"]
    assert [ids.number_of(MessageId("e", number)) for number in (9, 11, 12, 15, 20, 21)] == [-1, 1, 2, 2, 3, 4]


def test_a_new_epoch_may_have_lower_numbers() -> None:
    ids = StoredIds("e", 10)
    ids.restart(1, "f", 0)
    assert ids.label(2) == b"f-1"
    assert ids.number_of(MessageId("f", 1)) == 2
    assert ids.number_of(MessageId("e", 10)) == 0
    assert ids.next_is(2) == ("f", 1)


@pytest.mark.parametrize(("forgotten", "first"), [(2, b"e-12"), (3, b"e-19")])
def test_runs_are_forgotten_with_their_messages(forgotten: int, first: bytes) -> None:
    ids = StoredIds("e", 10)
    ids.restart(3, "e", 20)
    ids.forget(forgotten)
    assert ids.label(2) == first
