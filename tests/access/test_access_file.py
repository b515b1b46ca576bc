"""The access file: its lines, its tokens, and the errors that name a line."""

from __future__ import annotations

import hashlib
import time

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rawws.access.access_file import LINES_AT_ONCE, MAX_LINES, AccessFile
from rawws.access.credentials import TWO_TOKENS
from rawws.access.grant import Action, Grant
from rawws.access.patterns import Pattern
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


async def test_only_a_path_can_be_a_room() -> None:
    grant = await grant_of(AccessFile("anonymous * read"))
    assert [room in grant.read for room in ("/x", "x", None, 7)] == [True, False, False, False]


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
    for _ in range(100):
        assert grant.allowed("/a" + "/" * 12_000) == NOTHING
    assert time.process_time() - began < 0.5, "each rule is compared with the path"  # that takes 5 s


def test_a_file_that_is_read_in_steps_is_the_same_in_the_end() -> None:
    lines = [f"token t{number} /room/{number} read" for number in range(200)]
    lines += [f"token t{number} {declared(str(number))}" for number in range(200)]
    steps = list(AccessFile.read_in_steps("\n".join(lines)))
    assert len(steps) == len(lines) // LINES_AT_ONCE + 1
    assert {id(step) for step in steps} == {id(steps[-1])}
    assert (steps[-1].summary, steps[-1].find_name("7")) == ("tokens: 200, rules: 200", "t7")
    assert len(list(AccessFile.read_in_steps(""))) == 1
    lines[300] = "wrong"
    with pytest.raises(UsageError, match="line 301: "):
        list(AccessFile.read_in_steps("\n".join(lines)))


SUBJECTS = ["anonymous", "token a", "token b", "token *"]
PATHS = ["/x", "/x/*", "/x/*-y", "/*/y", "*", "/x/y"]
DEAD = f"""
token ann  {declared("ann")}
token ann  /room/pay             deny
token ann  /room/log             read
token ann  /room/*               read write
token bea  {declared("bea")}
token bea  /room/pay.*.dead      read write
token bea  /room/pay             deny
token bea  /room/*               read write
token cal  {declared("cal")}
token cal  /room/pay             read write
"""


@pytest.mark.parametrize(
    ("token", "room", "rights"),
    [
        ("ann", "/room/pay", NOTHING),
        ("ann", "/room/pay.sms.dead", NOTHING),
        ("ann", "/room/pay.sms.dead.repair.dead", NOTHING),
        ("ann", "/room/pay.sms.dead.x.dead.repair.dead", NOTHING),
        ("ann", "/room/pay.sms", READ | WRITE),
        ("ann", "/room/paying.sms.dead", READ | WRITE),
        ("ann", "/room/log.sms.dead", READ),
        ("bea", "/room/pay", NOTHING),
        ("bea", "/room/pay.sms.dead", READ | WRITE),
        ("cal", "/room/pay", READ | WRITE),
        ("cal", "/room/pay.sms.dead", NOTHING),
    ],
)
def test_a_dead_room_is_closed_to_those_whom_a_rule_keeps_from_its_room(token: str, room: str, rights: Action) -> None:
    grant = AccessFile(DEAD).grant_of(hashlib.sha256(token.encode()).digest())
    assert grant is not None
    assert (room in grant.read, room in grant.write) == (READ in rights, WRITE in rights)


RIGHTS = ["read", "write", "read write", "deny"]
LINES = st.tuples(*map(st.sampled_from, (SUBJECTS, PATHS, RIGHTS)))


@given(st.lists(LINES, max_size=15), st.sampled_from(["/x", "/x/", "/x/y", "/x/a-y", "/a/y", "/a/b/c"]))
def test_the_decision_is_that_of_the_first_line_of_all(lines: list[tuple[str, str, str]], room: str) -> None:
    tokens = [f"token {name} {declared(name)}" for name in "ab"]
    file = AccessFile("\n".join([*tokens, *map(" ".join, lines)]))
    for name, subjects in ((None, ["anonymous"]), ("a", ["token a", "token *"]), ("b", ["token b", "token *"])):
        fields = [] if name is None else [bearer(name)]
        grant = trio.run(file.grant, request_for(room, *fields), room, READ)
        if not isinstance(grant, Grant):
            assert name is None
            assert all(subject != "anonymous" for subject, *_ in lines)
            continue
        matching = [rights for subject, path, rights in lines if subject in subjects and room in Pattern(path)]
        words = (matching or ["deny"])[0].split()
        assert [action in grant.allowed(room) for action in (READ, WRITE)] == ["read" in words, "write" in words]


def test_a_file_has_a_bound() -> None:
    AccessFile("#\n" * MAX_LINES)
    with pytest.raises(UsageError, match=f"line {MAX_LINES + 1}"):
        AccessFile("#\n" * (MAX_LINES + 1))


async def test_a_grant_is_made_once_for_each_token() -> None:
    file = AccessFile(FILE)
    first, again, by_another = [await grant_of(file, bearer(token)) for token in ("a-1", "a-1", "a-2")]
    assert first is again
    assert first is not by_another
    assert first.user == by_another.user


class Replaced:
    """A file that others take the place of."""

    def __init__(self, text: str) -> None:
        self.file = AccessFile(text, self.get)

    def get(self) -> AccessFile:
        return self.file


async def test_a_grant_of_a_file_that_is_replaced_is_that_of_the_next_one() -> None:
    rules = Replaced(FILE)
    alice, other = [await grant_of(rules.file, bearer(token)) for token in ("a-1", "a-2")]
    nobody = await grant_of(rules.file)
    assert nobody.present is nobody
    assert alice.present is alice, "it is the same one while nothing changes"
    _, second, *_ = [line for line in FILE.splitlines() if line.startswith("token alice")]
    *_, rules.file = AccessFile.read_in_steps(f"{second}\ntoken alice /x read", rules.get)
    assert alice.present is None, "this one of her tokens was withdrawn"
    assert other.present is not None
    assert (other.present.user, other.present.allowed("/x"), other.present.allowed("/room/x")) == (
        "alice",
        READ,
        NOTHING,
    )
    assert other.present.present is other.present
    assert nobody.present is not None
    assert nobody.present.allowed("/public/x") == NOTHING, "no line is for clients without a token any more"


async def test_a_grant_of_a_file_that_stays_is_its_own_present() -> None:
    grant = await grant_of(AccessFile(FILE))
    assert grant.renew is None
    assert grant.present is grant
