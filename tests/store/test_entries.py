"""Tests for rawws/store/entries.py."""

from __future__ import annotations

from rawws.broadcast.log import History
from rawws.store.entries import Append, Clear, GroupEnd, GroupState, GroupWrite, Job, Outcome, Page, Record, RoomTail


def test_a_record_ends_with_its_last_message() -> None:
    assert Record(5, 3, 0.0, b"frames").last == 7
    assert Record(5, 1, 0.0, None).last == 5


def test_a_field_that_is_left_out_means_nothing() -> None:
    append = Append("/room", b"frames", 1, History())
    assert (append.key, append.once, append.digest) == (None, None, "")
    assert Outcome() == Outcome("", 0)
    assert GroupWrite("/room", "sms", 3) == GroupWrite("/room", "sms", 3, (), ())
    assert GroupState("/room", "sms", 3).jobs == ()
    assert Page(RoomTail("e", 1, 0)).records == ()


def test_an_outcome_says_whether_something_was_appended() -> None:
    assert Outcome("e", 1).is_stored
    for other in (Outcome("e", 1, is_repeat=True), Outcome("e", is_reused=True), Outcome(is_refused=True)):
        assert not other.is_stored


def test_entries_can_be_compared() -> None:
    assert GroupEnd("/room", "sms") != GroupEnd("/room", "mail")
    assert Clear("/room", 3) == Clear("/room", 3)
    assert Job(1, 0, 0.0, "") < Job(2, 0, 0.0, "")
