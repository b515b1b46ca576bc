"""Publishing by POST as a client sees it: the request, the meaning of each answer, and the tries."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rawws.errors import PublishError, PublishRefused, PublishUnsure, UsageError
from rawws.wire.events import Data
from rawws.wire.messages import Response
from rawws.wire.publishing import FIRST_BACKOFF_S, MAX_BACKOFF_S, UNSURE, Post, Published, Setback, Tries

URL = "http://localhost:8080/room?x=1"
LOST = Setback("the connection was lost", may_pass=True, may_be_published=True)
AWAY = Setback("can't connect", may_pass=True, may_be_published=False)


def make_post(message: Data = "hi", url: str = URL, **given: Any) -> Post:
    return Post(url, message, **({"text": None, "token": None, "key": None, "idempotency_key": "order-17"} | given))


# The request


def test_a_text_is_sent_with_its_key_and_its_length() -> None:
    request = make_post("grüße").request
    assert (request.method, request.target, request.body) == ("POST", "/room?x=1", "grüße".encode())
    assert list(request.headers) == [
        ("Host", "localhost:8080"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", "7"),
        ("Idempotency-Key", "order-17"),
    ]


def test_bytes_are_binary_unless_they_are_said_to_be_text() -> None:
    assert make_post(b"\xff").request.headers["Content-Type"] == "application/octet-stream"
    assert make_post(bytearray(b"hi"), text=True).request.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_token_and_a_key_have_their_fields() -> None:
    headers = make_post(token="secret", key="AAPL").request.headers
    assert (headers["Authorization"], headers["Rawws-Key"]) == ("Bearer secret", "AAPL")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"url": "ws://localhost/"}, "begin with http:// or https://, as in http://localhost:8080/room"),
        ({"token": ""}, "the token is empty"),
        ({"token": "two secrets"}, "the token is not printable ASCII without spaces"),
        ({"token": "secret\r\nX: y"}, "the token is not printable ASCII without spaces"),
        ({"key": "é"}, "key can't be 'é'; give 1 to 255 characters of printable ASCII"),
        ({"idempotency_key": ""}, "idempotency_key can't be ''; give 1 to 255"),
        ({"idempotency_key": " x"}, "idempotency_key can't be ' x'"),
        ({"idempotency_key": "x" * 256}, "idempotency_key can't be 'xxx"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused(given: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_post(**given)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("message", "kind"), [(1, TypeError), ("\ud800", ValueError)])
def test_a_message_that_cannot_be_sent_is_refused(message: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        make_post(message)


# The answer


def read(status: int, body: str = "", **headers: str) -> Published | Setback:
    return make_post().read(Response(status, body, {name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(("body", "id_"), [('{"id":"a-1","peers":2}', "a-1"), ('{"id":null,"peers":2}', None)])
def test_an_accepted_message_has_an_id_and_the_number_of_peers(body: str, id_: str | None) -> None:
    assert read(202, body) == Published(id_, 2)


def test_a_client_that_may_not_read_learns_the_id_alone() -> None:
    assert read(202, '{"id":"a-1"}') == Published("a-1", None)


@pytest.mark.parametrize(
    "body", ["", "<!doctype html>", "[]", "{}", '{"id":1,"peers":2}', '{"id":"a","peers":"b"}', "[" * 100_000]
)
def test_a_success_of_another_server_is_none(body: str) -> None:
    sentence = "the server's answer (200) isn't that of a room of rawws; check host, port and path"
    assert read(200, body) == Setback(sentence, may_pass=False, may_be_published=False, status=200)


@pytest.mark.parametrize("status", [400, 403, 413, 415, 422, 500])
def test_a_refusal_that_would_come_again_has_the_servers_words(status: int) -> None:
    sentence = f"the server answered {status}: Not like this; use that"
    assert read(status, "Not like this; use that.\nMore.") == Setback(sentence, False, False, status)


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_a_refusal_that_may_pass_says_when(status: int) -> None:
    setback = read(status, "Later.", Retry_After="7")
    assert setback == Setback(f"the server answered {status}: Later", True, False, status, 7.0)


@pytest.mark.parametrize("wish", ["soon", "-1", "1.5", "9" * 10, "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_time_that_is_not_in_seconds_is_none(wish: str) -> None:
    setback = read(503, "Later.", Retry_After=wish)
    assert isinstance(setback, Setback)
    assert setback.wait_s == 0.0


def test_a_message_may_be_published_if_a_proxy_or_the_server_does_not_know() -> None:
    for status, body in ((502, ""), (504, ""), (503, f"{UNSURE} A retry is safe.")):
        setback = read(status, body)
        assert isinstance(setback, Setback)
        assert (setback.may_pass, setback.may_be_published) == (True, True)


def test_a_remedy_follows_where_there_is_one() -> None:
    answers = [
        read(401, "Log in first"),
        read(404, "<p>Not found", Content_Type="text/html"),
        read(301, Location="https://elsewhere/"),
        read(307),
    ]
    assert [each.sentence for each in answers if isinstance(each, Setback)] == [
        "the server answered 401: Log in first; give a token that may publish there",
        "the server answered 404 Not Found; no room is published in at this address: check host, port and path",
        "the server redirects to https://elsewhere/, and no redirect is followed; publish there",
        "the server redirects to nowhere, and no redirect is followed; publish there",
    ]


def test_words_of_a_server_are_fit_for_a_terminal() -> None:
    setback = read(403, "\x1b[31mNo\x07" + "o" * 1000)
    assert isinstance(setback, Setback)
    assert setback.sentence.isprintable()
    assert len(setback.sentence) < 400
    assert read(403) == Setback("the server answered 403 Forbidden", False, False, 403)
    assert read(403, " ") == Setback("the server answered 403 Forbidden", False, False, 403)
    assert read(599) == Setback("the server answered 599", False, False, 599)


# The tries


def test_the_wait_is_a_random_part_of_a_bound_that_doubles() -> None:
    tries = Tries(10, math.inf, 0.0)
    waits = [tries.wait_after(AWAY, 0.0, 1.0) for _ in range(9)]
    assert waits == [min(FIRST_BACKOFF_S * 2**doubled, MAX_BACKOFF_S) for doubled in range(9)]
    assert tries.wait_after(AWAY, 0.0, 1.0) is None
    assert Tries(10, math.inf, 0.0).wait_after(AWAY, 0.0, 0.0) == 0.0


def test_the_server_says_how_long_to_wait_at_least() -> None:
    busy = Setback("busy", True, False, 503, 3.0)
    assert Tries(5, 30.0, 0.0).wait_after(busy, 0.0, 1.0) == 3.0
    assert Tries(5, 2.0, 0.0).wait_after(busy, 0.0, 1.0) is None


def test_no_try_begins_after_the_time_is_over() -> None:
    tries = Tries(5, 10.0, 100.0)
    assert (tries.left_s(100.0), tries.left_s(104.0), tries.left_s(111.0)) == (10.0, 6.0, 0.0)
    assert tries.wait_after(AWAY, 109.9, 1.0) is None


def test_a_setback_that_will_not_pass_is_the_last() -> None:
    assert Tries(5, 30.0, 0.0).wait_after(Setback("no", False, False, 403), 0.0, 1.0) is None


def test_the_error_says_whose_side_and_whether_the_message_may_be_published() -> None:
    once = Tries(1, 30.0, 0.0)
    once.wait_after(AWAY, 0.0, 1.0)
    error: PublishError = once.error(AWAY, "localhost:8080")
    assert (type(error), str(error)) == (PublishError, "localhost:8080: can't connect")
    refused = Setback("the server answered 503", True, False, 503)
    error = once.error(refused, "localhost:8080")
    assert (type(error), str(error)) == (PublishRefused, "localhost:8080: the server answered 503")
    assert isinstance(error, PublishRefused)
    assert error.status == 503
    often = Tries(2, 30.0, 0.0)
    often.wait_after(LOST, 0.0, 0.0)
    often.wait_after(refused, 0.0, 0.0)
    error = often.error(refused, "localhost:8080")
    assert type(error) is PublishUnsure
    assert str(error) == (
        "localhost:8080: the server answered 503 (after 2 tries); it isn't known whether the message was published: "
        "publish it with the same idempotency_key"
    )


@pytest.mark.parametrize(
    ("most", "timeout_s", "reason"),
    [
        (0, 1.0, "tries can't be 0"),
        (1.5, 1.0, "tries can't be 1.5"),
        (1, -1.0, "timeout can't be -1.0"),
        (1, "1", "timeout can't be '1'"),
    ],
)
def test_a_bound_that_is_none_is_refused(most: Any, timeout_s: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Tries(most, timeout_s, 0.0)
