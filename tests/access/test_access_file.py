"""The access file: its lines, its tokens, and the errors that name a line."""

from __future__ import annotations

import hashlib
import time

import pytest

from rawws.access.access_file import MAX_LINES, AccessFile
from rawws.access.credentials import TWO_TOKENS
from rawws.access.grant import Action, Grant
from rawws.errors import UsageError
from tests.access.helpers import bearer, request_for

READ, WRITE, NOTHING = Action.READ, Action.WRITE, Action(0)


def declared(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


FILE = f"""
# a comment
token alice {declared("a-1")}   # and another
token alice {declared("a-2").replace("sha256", "SHA256").upper().replace("SHA256", "sha256")}
token bob\t{declared("b")}

anonymous    /public/secret  deny
anonymous    /public/*       read
token alice  /room/plans     deny
token alice  /room/*         read write
token bob    /room/inbox     write
token *      /room/*         read
token *      /public/*       write read
"""


async def grant_of(file: AccessFile, *fields: tuple[str, str]) -> Grant:
    answer = await file.grant(request_for("/room/x", *fields), "/room/x", READ)
    assert isinstance(answer, Grant)
    return answer


@pytest.mark.parametrize(
    ("token", "user", "room", "allowed"),
    [
        (None, None, "/public/x", READ),
        (None, None, "/public/secret", NOTHING),
        (None, None, "/room/x", NOTHING),
        ("a-1", "alice", "/room/x", READ | WRITE),
        ("a-2", "alice", "/room/x", READ | WRITE),
        ("a-1", "alice", "/room/plans", NOTHING),  # the first match, though a later line would let her in
        ("a-1", "alice", "/public/secret", READ | WRITE),  # the lines for nobody are not hers
        ("b", "bob", "/room/x", READ),
        ("b", "bob", "/room/inbox", WRITE),
        ("b", "bob", "/other", NOTHING),
    ],
)
async def test_the_first_rule_that_matches_decides(
    token: str | None, user: str | None, room: str, allowed: Action
) -> None:
    grant = await grant_of(AccessFile(FILE), *([] if token is None else [bearer(token)]))
    assert grant.user == user
    assert grant.allowed(room) == allowed


async def test_a_token_that_is_not_declared_is_unknown() -> None:
    file = AccessFile(FILE)
    for token in ("c", "", "A-1", declared("a-1")):
        assert await file.grant(request_for("/x", bearer(token)), "/x", READ) is None


async def test_two_tokens_are_refused() -> None:
    request = request_for("/x?access_token=b", bearer("a-1"))
    assert await AccessFile(FILE).grant(request, "/x", READ) is TWO_TOKENS


async def test_without_a_rule_for_anonymous_clients_another_source_may_know_them() -> None:
    for text in ("", f"token alice {declared('a')}\ntoken * /x read"):
        assert await AccessFile(text).grant(request_for(), "/x", READ) is None


def test_summary() -> None:
    assert AccessFile(FILE).summary == "tokens: 3, rules: 7"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("everybody /x read", "begins with 'anonymous', 'token NAME' or '#'"),
        ("anonymous", "'anonymous' lacks a pattern"),
        ("token alice", "'token' lacks a pattern"),
        ("anonymous /x", "not 'nothing'"),
        ("anonymous /x execute", "not 'execute'"),
        ("anonymous /x read deny", "not 'read deny'"),
        ("anonymous x read", "doesn't begin with a slash"),
        ("token alice /x read", "no line declares the token alice"),
        ("token alice sha256:12", "the 64 digits that sha256sum prints"),
        ("token alice x read", "a pattern of rooms, as /room/*"),
        (f"token alice {declared('')}", "the hash of an empty token"),
        (f"token alice {declared(chr(10))}", "the hash of an empty token"),  # echo "$UNSET" | sha256sum
        (f"token * {declared('t')}", "stands for any token"),
        (f"token {'x' * 256} {declared('t')}", "a user's name"),
        (f"token carol {declared('a-1')}", "this token is that of alice, on an earlier line"),
    ],
)
def test_an_error_names_its_line(line: str, problem: str) -> None:
    first = f"token alice {declared('a-1')}" if "carol" in line else "# the first line"
    with pytest.raises(UsageError, match=problem) as caught:
        AccessFile(f"{first}\n\n{line}\n")
    assert str(caught.value).startswith("line 3: ")


def test_the_same_line_twice_is_no_error() -> None:
    line = f"token alice {declared('a')}\n"
    assert AccessFile(line + line).find_name("a") == "alice"


@pytest.mark.parametrize("before", ["token alice sha256:", "token alice ", "token alice sha256 ", "token alice:", ""])
def test_an_error_repeats_no_token(before: str) -> None:
    with pytest.raises(UsageError) as caught:
        AccessFile(f"{before}my-secret-token")
    assert "my-secret-token" not in str(caught.value)


@pytest.mark.parametrize("separator", ["\u2028", "\x0c", "\x0b", "\x85", "\x1c"])
async def test_a_comment_ends_with_its_line_as_an_editor_shows_it(separator: str) -> None:
    file = AccessFile(f"# for the team{separator}anonymous /* read write\nanonymous /public/* read\r\n")
    grant = await grant_of(file)
    assert (grant.allowed("/x"), grant.allowed("/public/x")) == (NOTHING, READ)


async def test_many_rules_and_a_path_of_many_segments_take_little_time() -> None:
    grant = await grant_of(AccessFile("\n".join(f"anonymous /a*b/x{i} read" for i in range(MAX_LINES))))
    began = time.process_time()
    assert grant.allowed("/a" + "/" * 12_000) == NOTHING
    assert time.process_time() - began < 0.5, "each rule divides the whole path"  # that takes 2 s


def test_a_file_has_a_bound() -> None:
    AccessFile("#\n" * MAX_LINES)
    with pytest.raises(UsageError, match=f"line {MAX_LINES + 1}"):
        AccessFile("#\n" * (MAX_LINES + 1))


async def test_a_grant_is_made_once() -> None:
    file = AccessFile(FILE)
    assert await grant_of(file, bearer("a-1")) is await grant_of(file, bearer("a-2"))
