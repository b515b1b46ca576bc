"""The user that a program names."""

from __future__ import annotations

import pytest

import rawws
from rawws.access.grant import Action
from rawws.errors import UsageError


def test_a_user_may_do_nothing_by_default() -> None:
    user = rawws.User("alice")
    assert user.allowed("/x") == Action(0)
    assert (user.name, user.info, user.expires_at) == ("alice", None, None)
    assert repr(user) == "<User 'alice'>"


def test_a_user_with_rooms() -> None:
    user = rawws.User("alice", read=["/room/*"], write=["/room/x"], expires_at=7.5, info={"team": 1})
    assert user.allowed("/room/x") == Action.READ | Action.WRITE
    assert user.allowed("/room/y") == Action.READ
    assert (user.info, user.expires_at) == ({"team": 1}, 7.5)


def test_a_user_has_a_name() -> None:
    with pytest.raises(UsageError, match="a user has a name"):
        rawws.User(None)  # type: ignore[arg-type]


def test_one_text_is_not_a_list_of_patterns() -> None:
    with pytest.raises(UsageError, match="is one text"):
        rawws.User("alice", read="/room/*")
