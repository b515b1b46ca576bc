"""The page about moderating messages."""

from __future__ import annotations

from tests.manual.howto.walk import Walk


def test_messages_are_changed_dropped_and_refused(walk: Walk) -> None:
    walk.follow("howto/moderate")
