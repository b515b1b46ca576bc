"""Header fields, requests and responses as our own caller and a peer give them (RFC 9110)."""

from __future__ import annotations

from typing import Any

import pytest

from rawws.errors import Refusal, UsageError
from rawws.wire.messages import FIELD_BYTES, NO_STORE, Headers, Request, Response, is_token

CONTENT_TYPE = ("Content-Type", "text/plain; charset=utf-8")
FIELDS = [("Accept", "a"), ("X-One", "1"), ("accept", "b, C")]


def asked(target: str, *fields: tuple[str, str]) -> Request:
    return Request("GET", target, "1.1", Headers(fields))


# RFC 9110 §5: fields


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("chat", True), ("v1.json-rpc", True), ("!#$%&'*+.^_`|~", True), ("", False), ("a b", False), ("a,b", False),
     ("a\n", False), ("é", False), ('"a"', False)],
)  # fmt: skip
def test_9110_5_6_2_tokens_are_recognized(text: str, verdict: bool) -> None:
    assert is_token(text) is verdict


def test_9110_5_1_names_have_no_case_and_fields_keep_their_order() -> None:
    headers = Headers(FIELDS)
    assert list(headers) == FIELDS
    assert len(headers) == 3
    assert ("ACCEPT" in headers, "x-one" in headers, "x-two" in headers) == (True, True, False)
    assert headers.get_all("Accept") == ["a", "b, C"]
    assert headers.get_all("x-two") == []


def test_9110_5_3_a_repeated_field_is_all_its_values_with_commas() -> None:
    headers = Headers(FIELDS)
    assert headers["ACCEPT"] == headers.get("accept") == "a, b, C"
    assert (headers.get("x-two"), headers.get("x-two", "2")) == (None, "2")
    with pytest.raises(KeyError):
        headers["x-two"]


def test_9110_5_6_1_the_members_of_a_list_are_found_over_all_lines_and_empty_ones_passed_over() -> None:
    assert Headers([*FIELDS, ("Accept", " , ,D ,")]).tokens("accept") == ["a", "b", "c", "d"]


def test_the_same_fields_in_the_same_order_are_equal_and_have_one_hash() -> None:
    headers = Headers(FIELDS)
    assert headers == Headers(tuple(FIELDS))
    assert hash(headers) == hash(Headers(FIELDS))
    assert headers != Headers(FIELDS[::-1])
    assert headers != FIELDS
    assert repr(headers) == f"Headers({FIELDS})"
    assert headers.raw() == [(b"Accept", b"a"), (b"X-One", b"1"), (b"accept", b"b, C")]


def test_one_of_several_fields_is_looked_for_at_once() -> None:
    headers = Headers([("Accept", "a"), ("Via", "b")])
    assert headers.has_any(frozenset({"via", "upgrade"}))
    assert not headers.has_any(frozenset({"upgrade", "Via"}))


def test_the_lines_of_fields_are_kept_unless_one_could_not_be_sent() -> None:
    headers = Headers([("Via", "a"), ("X", ""), ("via", "b\tc")])
    assert headers.lines() == b"Via: a\r\nX: \r\nvia: b\tc\r\n"
    assert headers.lines() is headers.lines()
    for unfit in (("a b", "c"), ("a", " b"), ("a", "b\r\nc: d"), ("a", "\x80")):
        assert Headers([("Via", "a"), unfit]).lines() == b""


def test_a_caller_gives_a_mapping_or_pairs() -> None:
    assert Headers.checked({"X-One": "1", "X-Two": ""}) == Headers([("X-One", "1"), ("X-Two", "")])
    assert Headers.checked(iter(FIELDS)) == Headers(FIELDS)


@pytest.mark.parametrize("given", ["X-One: 1", ["X-One: 1"], [("X-One",)], 5])
def test_headers_that_are_neither_a_dict_nor_pairs_are_a_usage_error(given: Any) -> None:
    with pytest.raises(UsageError, match=r"^headers can't be .*; give a dict, or pairs of a name and a value$"):
        Headers.checked(given)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", " a"])
def test_9110_5_1_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a header field"):
        Headers.checked({name: "x"})


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0", " a", "a ", "\t", "é", "\x7f"])
def test_9110_5_5_a_value_that_would_end_its_field_or_come_back_changed_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="the X-One header can't have the value"):
        Response(200, b"", {"X-One": value})


# RFC 9112 §3, RFC 9110 §12: requests


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a?", "/a", ""),
        ("/a?b=1&c=%20", "/a", "b=1&c=%20"),
        ("/a?b?c", "/a", "b?c"),
        ("http://h/a?b", "/a", "b"),
        ("https://h", "/", ""),
        ("http://u@h/", None, ""),
        ("*", None, ""),
        ("h:443", None, ""),
    ],
)
def test_9112_3_2_the_path_and_the_query_of_a_target(target: str, path: str | None, query: str) -> None:
    assert (asked(target).path, asked(target).query) == (path, query)


@pytest.mark.parametrize(
    ("target", "fields", "authority"),
    [
        ("/", [("Host", "h:8080")], "h:8080"),
        ("http://t:80/a?b", [("Host", "h")], "t:80"),
        ("HTTPS://[::1]", [], "[::1]"),
        ("http://u@t/", [("Host", "h")], "h"),  # RFC 9110 §4.2.4: user information is refused
        ("*", [("Host", "h")], "h"),
        ("/", [], ""),
    ],
)
def test_9112_3_2_2_whom_a_request_is_for_says_its_target_and_else_its_host_header(
    target: str, fields: list[tuple[str, str]], authority: str
) -> None:
    assert asked(target, *fields).authority == authority


@pytest.mark.parametrize(
    ("accept", "verdict"),
    [
        (["text/event-stream"], True),
        (["text/html, Text/Event-Stream;q=0.5"], True),
        (["text/html", "text/event-stream ; q=1"], True),
        (["*/*"], False),
        (["text/*"], False),
        (["text/event-stream-2"], False),
        ([], False),
        (["text/event-stream;q=0"], False),
        (["text/event-stream; Q=0.000"], False),
        (["text/event-stream;q=0", "*/*"], False),
        (["*/*, text/event-stream;q=0"], False),
        (["text/event-stream;charset=utf-8;q=0"], False),
        (["text/event-stream;q=0.001"], True),
        (["text/event-stream;q=0.5, text/html, */*;q=0.8"], True),
        (["text/event-stream;q=1.000, */*;q=0"], True),
        (["text/event-stream;q = .2"], True),
        (["text/event-stream;q=0, text/event-stream"], True),
        (["text/event-stream;charset=utf-8"], True),
        (['text/plain;a="text/event-stream,text/event-stream"'], False),
        (['text/plain;a=",text/event-stream'], False),
        (['text/plain;a="\\",text/event-stream"', "TEXT/EVENT-STREAM"], True),
        (['text/event-stream;a="q=0;q=0"'], True),
        (["text/event-stream;q=2"], False),  # no weight (RFC 9110 §12.4.2)
        (["text/event-stream;q="], False),
        (["text/event-stream;q=-0"], False),
        ([",,;,", "text/event-stream"], True),
        (['"', "\\"], False),
    ],
)
def test_9110_12_5_1_a_media_type_is_accepted_only_by_its_name(accept: list[str], verdict: bool) -> None:
    assert asked("/", *(("Accept", value) for value in accept)).accepts("text/event-stream") is verdict


@pytest.mark.parametrize(
    ("accept", "verdict"),
    [
        ("application/json, text/event-stream", True),
        ("application/json, text/event-stream;q=0.9", False),
        ("application/json;q=0.9, text/event-stream", True),
        ("*/*, text/event-stream;q=0.9", False),
        ("application/*;q=0.5, */*, text/event-stream;q=0.9", True),
        ("application/json;q=0.1, */*, text/event-stream;q=0.9", True),
        ("text/event-stream", True),
        ("application/json", False),
    ],
)
def test_9110_12_5_1_of_two_media_types_the_one_with_more_weight_is_wanted(accept: str, verdict: bool) -> None:
    wants = asked("/", ("Accept", accept)).accepts("text/event-stream", rather_than="application/json")
    assert wants is verdict


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("Forwarded", True),
        ("via", True),
        ("X-Forwarded-For", True),
        ("x-forwarded-proto", True),
        ("X-Real-IP", True),
        ("X-Forwarded", False),
        ("Referer", False),
    ],
)
def test_9110_7_6_3_a_proxy_says_that_it_is_one(name: str, verdict: bool) -> None:
    assert asked("/", (name, "1.1 a")).was_forwarded is verdict


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([], False),
        ([("Origin", "http://a.example:8080")], False),
        ([("Origin", "http://A.example:8080"), ("Sec-Fetch-Site", "same-origin")], False),
        ([("Origin", "http://a.example")], True),
        ([("Origin", "http://a.example:8080.evil.example")], True),
        ([("Origin", "null")], True),
        ([("Origin", "")], True),
        ([("Origin", "http://a.example:8080"), ("Origin", "http://evil.example")], True),
        ([("Sec-Fetch-Site", "none")], False),
        ([("Sec-Fetch-Site", "same-origin")], False),
        ([("Sec-Fetch-Site", "same-site")], True),
        ([("Sec-Fetch-Site", "cross-site")], True),
    ],
)
def test_6454_7_a_browser_says_that_a_page_of_another_origin_asks(fields: list[tuple[str, str]], verdict: bool) -> None:
    assert asked("/", ("Host", "a.example:8080"), *fields).is_cross_origin is verdict


BROWSER = [("User-Agent", "Mozilla/5.0 (X11) Firefox/80.0"), ("Accept", "image/webp,*/*")]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([], False),
        ([("User-Agent", "curl/8.5.0"), ("Accept", "*/*")], False),
        ([("User-Agent", "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1.1")], False),
        (BROWSER, True),
        ([*BROWSER, ("Authorization", "Bearer secret")], False),
        ([*BROWSER, ("Authorization", "Basic YTpi")], True),
        ([*BROWSER, ("Origin", "http://other.example")], False),
        ([*BROWSER, ("Sec-Fetch-Site", "none")], False),
        ([*BROWSER, ("Sec-Fetch-Site", "same-origin")], False),
        ([*BROWSER, ("Sec-Fetch-Site", "same-site")], True),
        ([("Sec-Fetch-Site", "cross-site")], True),
        ([*BROWSER, ("Referer", "http://a.example:8080/app?x=1")], False),
        ([*BROWSER, ("Referer", "HTTP://A.example:8080")], False),
        ([*BROWSER, ("Referer", "http://a.example:8080.evil.example/")], True),
        ([*BROWSER, ("Referer", "http://a.example:8080@evil.example/")], True),
        ([*BROWSER, ("Referer", "http://evil.example/http://a.example:8080/")], True),
        ([*BROWSER, ("Referer", "")], True),
        ([*BROWSER, ("Referer", "about:blank")], True),
        ([("Referer", "http://other.example/")], True),
    ],
)
def test_a_browser_may_ask_for_an_image_of_another_site(fields: list[tuple[str, str]], verdict: bool) -> None:
    assert asked("/", ("Host", "a.example:8080"), *fields).may_be_embedded is verdict


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ([], False),
        ([("Content-Length", "0")], False),
        ([("Content-Length", "00"), ("Content-Length", "0, 0")], False),
        ([("Content-Length", "10")], True),
        ([("Transfer-Encoding", "chunked")], True),
    ],
)
def test_9112_6_whether_a_body_follows_is_in_the_head(fields: list[tuple[str, str]], verdict: bool) -> None:
    assert asked("/", *fields).has_body is verdict


# RFC 9110 §15: responses


def test_a_text_as_body_is_utf_8_and_says_so_unless_it_is_told_otherwise() -> None:
    response = Response(200, "é", {"X-One": "1"})
    assert response.body == b"\xc3\xa9"
    assert list(response.headers) == [("Content-Type", "text/plain; charset=utf-8"), ("X-One", "1")]
    assert list(Response(200, "{}", {"content-type": "application/json"}).headers) == [
        ("content-type", "application/json")
    ]
    assert list(Response(200, b"bytes").headers) == []


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 1000])
def test_9110_15_a_status_has_three_digits_and_one_of_five_classes(status: int) -> None:
    with pytest.raises(UsageError, match=f"{status} is not an HTTP status"):
        Response(status)


@pytest.mark.parametrize("status", [100, 101, 204, 304])
def test_9110_6_4_1_some_have_no_body(status: int) -> None:
    for body in ("gone", b"gone"):
        with pytest.raises(UsageError, match=f"a response with status {status} has no body"):
            Response(status, body)
    assert Response(status, "").body == b""


@pytest.mark.parametrize(
    ("status", "reason"), [(100, "Continue"), (404, "Not Found"), (426, "Upgrade Required"), (299, ""), (599, "")]
)
def test_9110_15_a_registered_status_has_its_phrase_and_any_other_none(status: int, reason: str) -> None:
    assert Response(status).reason == reason


def test_a_response_is_told_in_one_line_without_its_body() -> None:
    shown = repr(Response(404, "secret"))
    assert shown == "Response(404 Not Found, Headers([('Content-Type', 'text/plain; charset=utf-8')]), body=6 bytes)"


def test_a_request_takes_its_head_its_fields_and_its_body() -> None:
    assert Request("POST", "/", "1.1", Headers(), body=b"12345").held_bytes == 5
    request = Request("GET", "/", "1.1", Headers(FIELDS), raw_head=b"x" * 100)
    assert request.held_bytes == 2 * 100 + len(FIELDS) * FIELD_BYTES


def test_none_in_place_of_fields_or_a_body_is_none_of_them() -> None:
    response = Response(204, None, None, raw_head=None)
    assert (response.body, list(response.headers), response.raw_head) == (b"", [], b"")
    assert list(Headers(None)) == []


def test_a_field_that_is_missing_has_the_default() -> None:
    headers = Headers([("A", "1"), ("a", "2")])
    assert (headers.get("a"), headers.get("a", ""), headers.get("A", 0)) == ("1, 2", "1, 2", "1, 2")
    assert (headers.get("b"), headers.get("b", ""), headers.get("b", 0)) == (None, "", 0)


def test_a_refusal_becomes_a_response_that_no_cache_stores() -> None:
    response = Response.from_refusal(Refusal(405, "method", "Only GET is allowed here.", ((b"Allow", b"GET"),)))
    assert (response.status, response.body) == (405, b"Only GET is allowed here.\n")
    assert list(response.headers) == [CONTENT_TYPE, ("Allow", "GET"), NO_STORE]


def test_a_refusal_may_have_a_rule_for_caches_of_its_own() -> None:
    headers = ((b"Cache-Control", b"max-age=60"),)
    response = Response.from_refusal(Refusal(404, "nothing_here", "Nothing is here.", headers))
    assert list(response.headers) == [CONTENT_TYPE, ("Cache-Control", "max-age=60")]


def test_the_fields_for_an_application_have_names_in_lower_case_and_are_made_once() -> None:
    headers = Headers([("Accept", "A"), ("X-Y", "b"), ("x-y", "C")])
    assert headers.raw_lower() == ((b"accept", b"A"), (b"x-y", b"b"), (b"x-y", b"C"))
    assert headers.raw_lower() is headers.raw_lower()
