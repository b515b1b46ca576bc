"""The answer to a head that comes again: the bytes are those that the HTTP phase writes."""

from __future__ import annotations

import pytest

from rawws.limits import Limits
from rawws.wire.http1 import HttpPhase
from rawws.wire.known_answer import MOST_HEAD_BYTES, KnownAnswer, common_fields
from rawws.wire.messages import NO_STORE, Headers, Request, Response
from tests.serving.wire import get

DATE = b"Tue, 01 Dec 2026 00:00:00 GMT"
GREETS = Response(200, "hi there", [NO_STORE])


def read(raw: bytes) -> tuple[HttpPhase, Request]:
    phase = HttpPhase(Limits())
    phase.receive_data(raw)
    request = phase.next_clean_request()
    assert request is not None
    return phase, request


def known(raw: bytes, answer: Response = GREETS) -> KnownAnswer | None:
    return KnownAnswer.of(read(raw)[1], answer)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("server_header", [None, "shop/1"])
@pytest.mark.parametrize(
    "answer",
    [GREETS, Response(404, b""), Response(200, "x", {"date": "long ago", "SERVER": "another"})],
    ids=repr,
)
def test_the_bytes_are_those_of_any_other_answer(answer: Response, server_header: str | None, method: str) -> None:
    phase, request = read(get("/a?b", method=method))
    again = KnownAnswer.of(request, answer)
    assert again is not None
    assert (again.method, again.target, again.answer) == (method, "/a?b", answer)
    assert again.head == get("/a?b", method=method)
    written = b"".join(phase.respond_apart(answer, common_fields(DATE, server_header, answer.headers)))
    assert again.write(DATE, server_header) == written
    assert written.endswith(b"\r\n\r\n" + answer.body * (method == "GET"))


def test_connections_share_the_bytes_of_a_second() -> None:
    first, second = known(get("/a")), known(get("/b", "X: y"))
    assert first is not None
    assert second is not None
    assert first.write(DATE, None) is second.write(DATE, None)
    assert first.write(DATE, None) != first.write(DATE.replace(b":00 ", b":01 "), None)


def test_a_long_head_is_not_held() -> None:
    longest = get("/", "X: " + "x" * (MOST_HEAD_BYTES - len(get("/", "X: "))))
    assert known(longest) is not None
    assert known(longest.replace(b"X: ", b"X: x")) is None


def test_an_answer_that_h11_has_to_write_is_not_known() -> None:
    assert known(get(), Response(204)) is None
    assert known(get(), Response(200, "", {"Connection": "close"})) is None


def test_the_bytes_that_are_held_are_counted() -> None:
    again = known(get("/path"))
    assert again is not None
    assert again.held_bytes == len(get("/path")) + len("/path")


def test_each_response_has_a_date_and_the_name_of_the_server_if_it_has_one() -> None:
    assert common_fields(DATE, None, Headers()) == [(b"Date", DATE)]
    assert common_fields(DATE, "shop/1", Headers()) == [(b"Date", DATE), (b"Server", b"shop/1")]
    assert common_fields(DATE, "shop/1", Headers([("date", "x"), ("server", "y")])) == []
