"""The question to a backend, and its answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rawws.access import auth_backend
from rawws.access.auth_backend import MAX_BODY_BYTES, RememberedGrants, is_question, question_about, read_answer
from rawws.access.grant import Action, Grant, refuse
from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Headers, Response
from tests.access.helpers import request_for

BOTH = Action.READ | Action.WRITE


def read(
    status: int = 200, *fields: tuple[str, str], body: bytes = b"", action: Action = BOTH, accepts: str | None = None
) -> Grant | Refusal:
    request = request_for("/room/a", *([] if accepts is None else [("Accept-Encoding", accepts)]))
    return read_answer(Response(status, body, Headers(fields)), request, "/room/a", action)


def granted(*fields: tuple[str, str], action: Action = BOTH) -> Grant:
    grant = read(200, *fields, action=action)
    assert isinstance(grant, Grant), grant
    return grant


# The question


def test_the_question_has_the_credentials_and_the_room() -> None:
    request = request_for(
        "/room/a?access_token=t",
        ("Host", "example.org"),
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("authorization", "Bearer t"),
        ("Origin", "https://example.org"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("Rawws-Room", "/room/other"),
        ("Content-Length", "5"),
    )
    assert question_about(request, "/room/a", BOTH) == [
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
        ("Authorization", "Bearer t"),
        ("Origin", "https://example.org"),
        ("X-Original-URI", "/room/a?access_token=t"),
        ("Accept-Encoding", "identity"),
        ("Rawws-Room", "/room/a"),
        ("Rawws-Action", "read write"),
    ]


def test_a_question_that_comes_back_is_known_by_its_fields() -> None:
    question = question_about(request_for("/room/a"), "/room/a", Action.READ)
    assert is_question(request_for("/check", *question))
    assert not is_question(request_for("/room/a", ("Rawws-Room", "/room/a")))
    assert not is_question(request_for("/room/a"))


def test_the_question_has_the_address_of_the_client_if_it_is_known() -> None:
    request = replace(request_for("/a", ("X-Forwarded-For", "6.6.6.6")), client="192.0.2.1")
    fields = question_about(request, "/a", Action.READ)
    assert [value for name, value in fields if name == "X-Forwarded-For"] == ["192.0.2.1"]
    assert fields[-1] == ("Rawws-Action", "read")


# Grants


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_answer_without_fields_allows_what_was_asked_and_nothing_else(status: int) -> None:
    grant = read(status, action=Action.READ)
    assert isinstance(grant, Grant)
    assert grant.allowed("/room/a") == Action.READ
    assert not grant.allowed("/room/b")
    assert (grant.user, grant.expires_at, grant.info) == (None, None, None)
    assert granted().allowed("/room/a") == BOTH


def test_a_room_with_a_wildcard_in_its_path_is_that_room_alone() -> None:
    grant = read_answer(Response(200), request_for("/*"), "/*", BOTH)
    assert isinstance(grant, Grant)
    assert grant.allowed("/*") == BOTH
    assert not grant.allowed("/room/a")


def test_the_fields_say_more() -> None:
    grant = granted(
        ("Rawws-User", " alice "),
        ("Rawws-Allow", "read=/room/*, write=/room/a;Write = /room/b"),
        ("Rawws-Allow", 'write="/room/c,d;\\"e\\""'),
        ("Rawws-Expires", "1767225600"),
        ("Rawws-Info", '{"name": "Al\\u00efce"}'),
    )
    assert (grant.user, grant.expires_at, grant.info) == ("alice", 1767225600.0, {"name": "Alïce"})
    assert grant.allowed("/room/x/y") == Action.READ
    for room in ("/room/a", "/room/b", '/room/c,d;"e"'):
        assert grant.allowed(room) == BOTH


def test_an_empty_list_allows_nothing() -> None:
    grant = granted(("Rawws-Allow", ""), ("Rawws-User", "alice"))
    assert not grant.allowed("/room/a")
    refusal = refuse(grant, "/room/a", Action.READ, 0)
    assert refusal is not None
    assert refusal.status == 403


# No decision


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("Rawws-Allow", "read")], "'read', and its parts are"),
        ([("Rawws-Allow", "delete=/a")], "'delete=/a', and its parts are"),
        ([("Rawws-Allow", "read=room")], "doesn't begin with a slash"),
        ([("Rawws-Expires", "tomorrow")], "'tomorrow', and not a whole number"),
        ([("Rawws-Expires", "-1")], "'-1', and not a whole number"),
        ([("Rawws-Expires", "1" * 13)], "and not a whole number"),
        ([("Rawws-Info", "{")], "Rawws-Info is not JSON"),
        ([("Rawws-Info", "[" * 9000)], "Rawws-Info is not JSON"),
        ([("Rawws-Info", '"' + "x" * 2000 + '"')], "at most 1024 are taken"),
        ([("Rawws-User", "x" * 300)], "a user's name is"),
        ([("Rawws-User", "alice"), ("Rawws-User", "bob")], "2 Rawws-User headers"),
    ],
)
def test_an_answer_that_can_not_be_read_lets_nobody_in(fields: list[tuple[str, str]], reason: str) -> None:
    refusal = read(200, *fields)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (503, "no_decision")
    assert (b"Retry-After", b"1") in refusal.headers
    assert reason in refusal.hint
    assert reason not in refusal.sentence


@pytest.mark.parametrize("status", [100, 302, 400, 404, 407, 500, 503])
def test_any_other_status_is_no_decision(status: int) -> None:
    refusal = read(status, ("Location", "/login"))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (503, "no_decision")
    assert f"answered with {status}" in refusal.hint


# Refusals


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_passed_on_with_its_body(status: int) -> None:
    refusal = read(
        status,
        ("WWW-Authenticate", 'Basic realm="shop"'),
        ("Content-Type", "text/html"),
        ("Set-Cookie", "a=1"),
        ("Content-Length", "12"),
        body=b"<h1>No</h1>\n",
    )
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    response = Response.from_refusal(refusal)
    assert response.body == b"<h1>No</h1>\n"
    assert list(response.headers) == [
        ("WWW-Authenticate", 'Basic realm="shop"'),
        ("Content-Type", "text/html"),
        ("Cache-Control", "no-store"),
    ]


def test_a_refusal_has_at_most_so_many_bytes() -> None:
    refusal = read(403, body=b"x" * (MAX_BODY_BYTES + 1))
    assert isinstance(refusal, Refusal)
    assert refusal.body == b"x" * MAX_BODY_BYTES


CODED = [("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("WWW-Authenticate", "Form")]


@pytest.mark.parametrize("accepts", ["gzip", "br, GZIP;q=0.5", "deflate;q=0, gzip ; q=1.0"])
def test_a_coded_body_is_passed_on_to_a_client_that_accepts_it(accepts: str) -> None:
    refusal = read(401, *CODED, body=b"\x1f\x8b", accepts=accepts)
    assert isinstance(refusal, Refusal)
    assert (refusal.body, refusal.hint) == (b"\x1f\x8b", "")
    assert dict(refusal.headers)[b"Content-Encoding"] == b"gzip"


@pytest.mark.parametrize(
    ("accepts", "size"), [(None, 2), ("", 2), ("identity", 2), ("*", 2), ("gzip;q=0", 2), ("gzip", MAX_BODY_BYTES)]
)
def test_a_coded_body_that_the_client_can_not_decode_is_left_out(accepts: str | None, size: int) -> None:
    refusal = read(401, *CODED, body=b"\x1f" * size, accepts=accepts)
    assert isinstance(refusal, Refusal)
    assert "the client can't decode it (gzip); have the server use no Content-Encoding" in refusal.hint
    response = Response.from_refusal(refusal)
    assert response.body == b"The server of --auth-url wants a login.\n"
    assert [name for name, _ in response.headers] == ["Content-Type", "WWW-Authenticate", "Cache-Control"]


def test_identity_is_no_coding() -> None:
    refusal = read(403, ("Content-Encoding", "identity"), body=b"No")
    assert isinstance(refusal, Refusal)
    assert (refusal.body, refusal.hint) == (b"No", "")


# Bytes beyond ASCII


def received(*lines: bytes) -> Response:
    """Return an answer as the client's parser makes it of bytes."""
    phase = ResponsePhase(Limits())
    phase.send_request(request_for("/auth", ("Host", "localhost")))
    phase.receive_data(b"\r\n".join([b"HTTP/1.1 204 No Content", *lines, b"", b""]))
    answer = phase.next_event()
    assert isinstance(answer, Response)
    return answer


@pytest.mark.parametrize("name", ["Jürgen", "小明", "alice", "a\\xe9"])
def test_the_name_of_a_user_is_utf_8(name: str) -> None:
    response = received(b"X-Other: \xff", b"rawws-user:  " + name.encode() + b" ")
    grant = read_answer(response, request_for(), "/room/x", BOTH)
    assert isinstance(grant, Grant)
    assert grant.user == name


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"Rawws-User: J\xfcrgen", "Rawws-User is not UTF-8; send the bytes of the name in UTF-8, or another name"),
        (b"Rawws-User: =?utf-8?b?xYF1a2Fzeg==?=", "Rawws-User is in MIME's encoding, which HTTP doesn't have; send"),
        (b"Rawws-User: a\xe2\x80\xa8b", "a user's name is a printable text"),
        ("Rawws-Allow: read=/zürich".encode(), "its rawws-allow header has bytes beyond ASCII; percent-encode paths"),
        ('Rawws-Info: "ü"'.encode(), "its rawws-info header has bytes beyond ASCII"),
    ],
)
def test_other_bytes_beyond_ascii_are_no_decision(line: bytes, reason: str) -> None:
    refusal = read_answer(received(line), request_for(), "/room/x", BOTH)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, reason in refusal.hint) == (503, True), refusal.hint


# Memory


QUESTION = [("Cookie", "a=1"), ("Rawws-Room", "/room/a")]


def test_a_grant_is_remembered_for_its_question_and_its_time() -> None:
    remembered, grant = RememberedGrants(10), Grant("alice")
    assert remembered.find(QUESTION, 100) is None
    remembered.add(QUESTION, grant, 100)
    assert remembered.find(QUESTION, 109.9) is grant
    assert remembered.find(QUESTION, 110) is None
    assert remembered.find([("Cookie", "a=2"), QUESTION[1]], 100) is None


def test_a_grant_is_not_remembered_beyond_its_end() -> None:
    remembered = RememberedGrants(10)
    remembered.add(QUESTION, Grant("alice", expires_at=105), 100)
    assert remembered.find(QUESTION, 104.9) is not None
    assert remembered.find(QUESTION, 105) is None


def test_nothing_is_remembered_for_no_time() -> None:
    remembered = RememberedGrants(0)
    remembered.add(QUESTION, Grant("alice"), 100)
    assert not len(remembered)
    assert remembered.find(QUESTION, 100) is None


def test_the_oldest_grants_and_those_that_are_over_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_backend, "MAX_REMEMBERED", 2)
    remembered = RememberedGrants(10)
    for number in range(3):
        remembered.add([("Cookie", str(number))], Grant(str(number)), 100 + number)
    assert [remembered.find([("Cookie", str(number))], 103) is not None for number in range(3)] == [False, True, True]
    remembered.add([("Cookie", "1")], Grant("again"), 111)  # it becomes the newest
    assert remembered.find([("Cookie", "2")], 111) is not None
    remembered.add(QUESTION, Grant("last", expires_at=100), 130)
    assert len(remembered) == 0
