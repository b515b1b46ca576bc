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
