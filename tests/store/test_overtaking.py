"""Tests for rawws/store/overtaking.py: what may go before the messages for which there is no space."""

from __future__ import annotations

from rawws.broadcast.log import History
from rawws.store.entries import Append, Clear, GroupEnd, GroupWrite, Keep
from rawws.store.overtaking import is_growth, overtaking

MESSAGE, DEAD = (Append(path, b"x", 1, History()) for path in ("/a", "/a.sms.dead"))
WRITE, END = GroupWrite("/a", "sms", 1), GroupEnd("/a", "mail")


def test_groups_go_before_messages_and_their_dead_jobs_with_them() -> None:
    entries = (MESSAGE, WRITE, DEAD, WRITE, END, Clear("/a", 1), Keep("/a"))
    assert list(overtaking(entries)) == [False, True, True, True, True, True, False]


def test_messages_but_those_about_dead_jobs_make_a_store_larger() -> None:
    assert [is_growth(entry) for entry in (MESSAGE, DEAD, WRITE)] == [True, False, False]
