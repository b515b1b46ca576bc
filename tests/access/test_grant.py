"""Grants: what can be one, and the decision that every door asks."""

from __future__ import annotations

import pytest

from rawws.access.grant import (
    ANYBODY,
    EXPIRED,
    MAX_INFO_BYTES,
    NO_READER,
    UNKNOWN,
    Action,
    Admitted,
    Grant,
    decide,
    let_in,
    refuse,
    refuse_by_now,
)
from rawws.access.patterns import Patterns
from rawws.errors import UsageError

READ, WRITE = Action.READ, Action.WRITE
ALICE = Grant("alice", Patterns(["/room/*", "/news"]), Patterns(["/room/*"]), expires_at=100.0)


def test_words_of_an_action() -> None:
    assert [READ.words, WRITE.words, (READ | WRITE).words] == ["read", "write", "read write"]


@pytest.mark.parametrize(("room", "allowed"), [("/room/x", READ | WRITE), ("/news", READ), ("/other", Action(0))])
def test_all_that_a_grant_allows_in_a_room(room: str, allowed: Action) -> None:
    assert ALICE.allowed(room) == allowed


@pytest.mark.parametrize(
    ("room", "action", "now", "status", "code"),
    [
        ("/room/x", READ | WRITE, 99.9, None, ""),
        ("/news", READ, 0.0, None, ""),
        ("/news", READ | WRITE, 0.0, 403, "not_allowed"),
        ("/other", READ, 0.0, 403, "not_allowed"),
        ("/room/x", READ, 100.0, 401, "expired"),
        ("/other", READ, 100.0, 401, "expired"),
    ],
)
def test_decision_about_a_user(room: str, action: Action, now: float, status: int | None, code: str) -> None:
    refusal = refuse(ALICE, room, action, now)
    if status is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert (refusal.status, refusal.code) == (status, code)


@pytest.mark.parametrize(
    ("room", "asked", "expected"),
    [
        ("/room/x", READ | WRITE, READ | WRITE),
        ("/room/x", READ, READ),
        ("/room/x", Action(0), Action(0)),
        ("/news", READ | WRITE, READ),
        ("/news", WRITE, 403),
        ("/inbox", READ | WRITE, 403),  # only a POST needs no right to read
        ("/inbox", WRITE, WRITE),
    ],
)
def test_a_client_that_may_only_read_is_let_in_to_read(room: str, asked: Action, expected: Action | int) -> None:
    grant = Grant("alice", Patterns(["/room/*", "/news"]), Patterns(["/room/*", "/inbox"]))
    decided = decide(grant, room, asked, 0.0)
    assert (decided if isinstance(decided, Action) else decided.status) == expected


def test_anybody_may_do_everything_where_nobody_is_asked() -> None:
    assert ANYBODY.action == READ | WRITE
    assert ANYBODY.user is None
    for action in (Action(0), READ, WRITE, READ | WRITE):
        assert let_in(action) == Admitted(action)
        assert let_in(action) is let_in(action)


def test_a_refusal_names_what_is_missing() -> None:
    refusal = refuse(ALICE, "/news", READ | WRITE, 0.0)
    assert refusal is not None
    assert refusal.sentence == "This user may not write in this room."
    assert "'alice'" in refusal.hint  # for the operator alone
    nothing = refuse(Grant("bob"), "/news", READ | WRITE, 0.0)
    assert nothing is not None
    assert nothing.sentence == "This user may not read or write in this room."


def test_nobody_is_asked_to_log_in() -> None:
    refusal = refuse(Grant(None, Patterns(["/news"])), "/room/x", READ, 0.0)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (401, "login_required")
    assert dict(refusal.headers)[b"WWW-Authenticate"].startswith(b"Bearer")
    assert refuse(Grant(None, Patterns(["/news"])), "/news", READ, 1e12) is None


def test_an_expired_grant_has_the_code_of_rfc_6750() -> None:
    assert b'error="invalid_token"' in dict(EXPIRED.headers)[b"WWW-Authenticate"]


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 256, 7])
def test_an_impossible_name_is_an_error(user: object) -> None:
    with pytest.raises(UsageError, match="a user's name"):
        Grant(user)  # type: ignore[arg-type]


@pytest.mark.parametrize("expires_at", ["100", True, -1, float("nan"), float("inf"), 1767225600000, 10**400])
def test_an_impossible_end_is_an_error(expires_at: object) -> None:
    with pytest.raises(UsageError, match="Unix seconds"):
        Grant("alice", expires_at=expires_at)  # type: ignore[arg-type]


def test_info_is_at_most_a_kilobyte_of_json() -> None:
    most = "ä" * ((MAX_INFO_BYTES - 2) // 2)  # counted as UTF-8
    assert Grant("alice", info=most).info == most
    with pytest.raises(UsageError, match="1026 bytes of JSON"):
        Grant("alice", info=most + "aa")
    with pytest.raises(UsageError, match="what JSON can hold"):
        Grant("alice", info=object())


def test_a_grant_with_info_can_be_hashed() -> None:
    assert hash(Grant("alice", info={"team": 1})) == hash(Grant("alice"))


def test_a_client_may_read_unless_something_says_otherwise() -> None:
    assert ANYBODY.may_read
    assert all(let_in(action).may_read for action in (READ, WRITE))
    assert (NO_READER.action, NO_READER.may_read) == (WRITE, False)


def test_a_grant_that_was_let_in_is_asked_for_again() -> None:
    room = "/room/x"
    for present, status in ((None, 401), (Grant("alice"), 403), (Grant(), 401), (ALICE, None)):
        user = Grant("alice", Patterns(["*"]), renew=lambda present=present: present)  # type: ignore[misc]
        refusal = refuse_by_now(user, room, READ, 0.0)
        assert (refusal and refusal.status) == status
        assert (refusal is UNKNOWN) is (present is None)
    for unchanged in (ALICE, Grant("alice"), "alice", None):
        assert refuse_by_now(unchanged, room, READ, 0.0) is None, "it was decided about before, and is the same"


def test_the_way_to_renew_a_grant_is_no_part_of_it() -> None:
    grant = Grant("alice", renew=lambda: None)
    assert grant == Grant("alice")
    assert hash(grant) == hash(Grant("alice"))
    assert "renew" not in repr(grant)
