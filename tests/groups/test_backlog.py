"""The bytes that groups keep."""

from __future__ import annotations

from rawws.groups.backlog import Backlog


def test_records_count_until_all_their_messages_are_finished() -> None:
    backlog = Backlog()
    backlog.add(3, 100)
    backlog.add(5, 50)
    backlog.add(5, 70)  # it is known already
    assert backlog.bytes == 150
    backlog.trim(3)
    assert backlog.bytes == 150
    backlog.trim(4)
    assert backlog.bytes == 50
    backlog.trim(6)
    assert backlog.bytes == 0


def test_many_small_records_take_little_memory() -> None:
    backlog = Backlog(1000)
    for number in range(1, 100_001):
        backlog.add(number, 3)
    backlog.add(100_000, 3)
    backlog.add(100_001, 5000)
    assert backlog.bytes == 305_000
    assert backlog.held_bytes < 60_000
    backlog.trim(334)
    assert backlog.bytes == 305_000 - 999
    backlog.trim(100_001)
    assert backlog.bytes == 5000
    backlog.trim(100_002)
    assert backlog.bytes == backlog.held_bytes == 0
