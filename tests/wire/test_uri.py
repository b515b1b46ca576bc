"""The addresses of WebSockets (RFC 6455 §3), and where a redirect leads from one (RFC 9110 §10.2.2)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawws.errors import InvalidURI, RawwsError, UsageError
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.uri import WebSocketURI, parse_uri


def assert_invalid(text: str, *said: str) -> None:
    """One sentence says what is wrong, and no secret is in it."""
    with pytest.raises(InvalidURI) as caught:
        parse_uri(text)
    assert_sentence(caught.value, *said)


def assert_sentence(error: RawwsError, *said: str) -> None:
    sentence = str(error)
    assert sentence.isprintable()
    assert "secret" not in sentence
    for part in said:
        assert part in sentence


# §3: the parts of an address


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ws://example.com", (False, "example.com", 80, "/", "")),
        ("wss://example.com", (True, "example.com", 443, "/", "")),
        ("ws://example.com:8080/chat?room=1", (False, "example.com", 8080, "/chat", "room=1")),
        ("WSS://EXAMPLE.com/Chat", (True, "example.com", 443, "/Chat", "")),
        ("ws://example.com?x", (False, "example.com", 80, "/", "x")),
        ("ws://example.com/?", (False, "example.com", 80, "/", "")),
        ("ws://example.com/a?b?c", (False, "example.com", 80, "/a", "b?c")),
        ("ws://example.com:/", (False, "example.com", 80, "/", "")),
        ("ws://example.com:00080/", (False, "example.com", 80, "/", "")),
        ("ws://example.com:443/", (False, "example.com", 443, "/", "")),
        ("ws://example.com./", (False, "example.com.", 80, "/", "")),
        ("ws://under_score.local/", (False, "under_score.local", 80, "/", "")),
        ("ws://127.0.0.1:1/", (False, "127.0.0.1", 1, "/", "")),
        ("ws://[::1]/", (False, "::1", 80, "/", "")),
        ("ws://[2001:DB8:0::1]:65535/", (False, "2001:db8::1", 65535, "/", "")),
        ("ws://h//a/../b;c=d", (False, "h", 80, "//a/../b;c=d", "")),
        ("ws://h/a@b:c", (False, "h", 80, "/a@b:c", "")),
        ("ws://h?a@b:c/d", (False, "h", 80, "/", "a@b:c/d")),
    ],
)
def test_3_an_address_is_taken_apart(text: str, parts: tuple[bool, str, int, str, str]) -> None:
    uri = parse_uri(text)
    assert (uri.secure, uri.host, uri.port, uri.path, uri.query) == parts
    assert (uri.username, uri.password, uri.unix_path) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "resource_name"),
    [
        ("ws://h", "/"),
        ("ws://h/a", "/a"),
        ("ws://h/a?", "/a"),
        ("ws://h?b", "/?b"),
        ("ws://h/a?b", "/a?b"),
    ],
)
def test_3_the_resource_name_is_the_path_and_a_query_that_is_not_empty(text: str, resource_name: str) -> None:
    assert parse_uri(text).resource_name == resource_name


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("ws://h/", "h"),
        ("ws://h:80/", "h"),
        ("ws://h:443/", "h:443"),
        ("wss://h:443/", "h"),
        ("wss://h:80/", "h:80"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[::1]:8080/", "[::1]:8080"),
        ("ws://u:p@h:1/", "h:1"),
        ("ws+unix:///run/app.sock:/", "localhost"),
        ("wss+unix:///run/app.sock:/", "localhost"),
    ],
)
def test_4_1_item_4_the_authority_has_no_default_port_and_no_user(text: str, authority: str) -> None:
    assert parse_uri(text).authority == authority


@pytest.mark.parametrize(
    ("text", "resource_name"),
    [
        ("ws://h/ä?ö=ü", "/%C3%A4?%C3%B6=%C3%BC"),
        ("ws://h/%C3%A4", "/%C3%A4"),
        ("ws://h/%c3%a4%2F", "/%c3%a4%2F"),
        ("ws://h/100%", "/100%25"),
        ("ws://h/100%?100%2", "/100%25?100%252"),
        ("ws://h/a\\b", "/a%5Cb"),
        ("ws://h/<\"{|}^`>?<\"{|}^`>[]", "/%3C%22%7B%7C%7D%5E%60%3E?%3C%22%7B%7C%7D%5E%60%3E%5B%5D"),
        ("ws://h/\u2028", "/%E2%80%A8"),
        ("ws://h/\x85", "/%C2%85"),
    ],
)  # fmt: skip
def test_3987_3_1_characters_invalid_in_a_request_are_escaped_and_escapes_are_left(
    text: str, resource_name: str
) -> None:
    assert parse_uri(text).resource_name == resource_name


@pytest.mark.parametrize(
    ("host", "ascii_host"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
    ],
)
def test_5890_a_host_beyond_ascii_is_looked_up_by_its_a_labels(host: str, ascii_host: str) -> None:
    assert parse_uri(f"ws://{host}:8080/").authority == f"{ascii_host}:8080"


@pytest.mark.parametrize(
    ("userinfo", "username", "password"),
    [
        ("alice:secret", "alice", "secret"),
        ("alice", "alice", None),
        ("alice:", "alice", ""),
        (":secret", "", "secret"),
        ("alice:se:cr:et", "alice", "se:cr:et"),
        ("al%40ice:sec%2Fret%C3%A4", "al@ice", "sec/retä"),
        ("älice:€", "älice", "€"),
        ("", None, None),
    ],
)
def test_7617_user_name_and_password_are_taken_out_of_the_address(
    userinfo: str, username: str | None, password: str | None
) -> None:
    uri = parse_uri(f"ws://{userinfo}@h/")
    assert (uri.host, uri.username, uri.password) == ("h", username, password)


def test_an_address_is_shown_without_its_user_and_its_repr_without_the_password() -> None:
    uri = parse_uri("wss://alice:secret@h:8080/a?b")
    assert str(uri) == "wss://h:8080/a?b"
    assert "secret" not in repr(uri)


# Unix sockets


@pytest.mark.parametrize(
    ("text", "unix_path", "resource_name"),
    [
        ("ws+unix:///run/app.sock", "/run/app.sock", "/"),
        ("ws+unix:///run/app.sock:", "/run/app.sock", "/"),
        ("ws+unix:///run/app.sock:/", "/run/app.sock", "/"),
        ("ws+unix:///run/app.sock:/room?x=1", "/run/app.sock", "/room?x=1"),
        ("ws+unix:///run/app.sock:?x=1", "/run/app.sock", "/?x=1"),
        ("ws+unix:///run/app.sock:/a:b", "/run/app.sock", "/a:b"),
        ("WS+UNIX:///Run/app.sock:/", "/Run/app.sock", "/"),
        ("ws+unix:///a%3Ab%20c%3F:/ä", "/a:b c?", "/%C3%A4"),
        ("ws+unix:///ä:/", "/ä", "/"),
        ("ws+unix:///%ff:/", "/\udcff", "/"),
    ],
)
def test_behind_a_unix_socket_and_a_colon_stands_what_is_asked_for(
    text: str, unix_path: str, resource_name: str
) -> None:
    uri = parse_uri(text)
    assert (uri.unix_path, uri.resource_name, uri.secure) == (unix_path, resource_name, False)
    assert parse_uri(str(uri)) == uri


def test_tls_over_a_unix_socket() -> None:
    uri = parse_uri("wss+unix:///run/app.sock:/room")
    assert (uri.secure, uri.unix_path, str(uri)) == (True, "/run/app.sock", "wss+unix:///run/app.sock:/room")


@pytest.mark.parametrize(
    "text",
    [
        "ws+unix://",
        "ws+unix://:/room",
        "ws+unix://run/app.sock",
        "ws+unix://run/app.sock:/room",
        "ws+unix://localhost/app.sock",
        "ws+unix:///run/app.sock?x=1",
        "ws+unix:///run/app.sock:room",
        "ws+unix:///run/app%00.sock",
        "ws+unix:///run/app.sock:/#x",
        "ws+unix:///run/a b",
    ],
)
def test_an_invalid_address_of_a_unix_socket_is_refused(text: str) -> None:
    assert_invalid(text)


# Texts that are no address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://h/", "use ws:// in place of http://"),
        ("HTTPS://h/", "use wss:// in place of https://"),
        ("ftp://h/", "begins with ws:// or wss://"),
        ("h", "begins with ws:// or wss://"),
        ("h:80/room", "begins with ws:// or wss://"),
        ("ws:h", "begins with ws:// or wss://"),
        ("ws:/h", "begins with ws:// or wss://"),
        ("//h/", "begins with ws:// or wss://"),
        ("", "begins with ws:// or wss://"),
        ("ws://h/#", "fragment"),
        ("ws://h/a#b", "%23"),
        ("ws://h#b", "fragment"),
        ("ws://", "names no host"),
        ("ws:///room", "names no host"),
        ("ws://:80/", "names no host"),
        ("ws://alice:secret@/", "names no host"),
        ("ws://h:0/", "from 1 to 65535"),
        ("ws://h:65536/", "from 1 to 65535"),
        ("ws://h:-1/", "from 1 to 65535"),
        ("ws://h:+1/", "from 1 to 65535"),
        ("ws://h:８０/", "from 1 to 65535"),
        ("ws://h:http/", "from 1 to 65535"),
        (f"ws://h:{'9' * 5000}/", "from 1 to 65535"),
        ("ws://alice:secret@h:99999/", "from 1 to 65535"),
        ("ws://alice:sec/secret@h/", "…@h"),  # a slash in the password: what comes before it is taken for the host
        ("ws://a:b:c/", "no proper host and port"),
        ("ws://::1/", "brackets"),
        ("ws://[::1/", "no proper host"),
        ("ws://::1]/", "no proper host"),
        ("ws://[::1]x/", "no proper host"),
        ("ws://x[::1]/", "no proper host"),
        ("ws://[]/", "not an IPv6 address"),
        ("ws://[h]/", "not an IPv6 address"),
        ("ws://[127.0.0.1]/", "not an IPv6 address"),
        ("ws://[v1.abc]/", "not an IPv6 address"),
        ("ws://[::1::]/", "not an IPv6 address"),
        ("ws://[fe80::1%25eth0]/", "zone"),
        ("ws://[fe80::1%eth0]/", "zone"),
        ("ws://a..b/", "empty or too long part"),
        ("ws://.a/", "empty or too long part"),
        ("ws://./", "empty or too long part"),
        (f"ws://{'a' * 64}.example/", "empty or too long part"),
        (f"ws://{'a.' * 127}aa/", "empty or too long part"),
        (f"ws://{'ä' * 64}.example/", "IDNA"),
        ("ws://a%41/", "bad character"),
        ("ws://<h>/", "bad character"),
        ("ws://a／b/", "bad character"),
        ("ws://a％b/", "bad character"),
        ("ws://h＃/", "bad character"),
        ("ws://\u200b/", "IDNA"),
        ("ws://good.example\\@evil.example/", "backslash"),
        ("ws://h\\room", "backslash"),
        ("ws://alice@secret@h/", "write %40"),
        ("ws://al%3Aice:secret@h/", "colon"),
        ("ws://alice:secret%0A@h/", "control character"),
        ("ws://alice:secret%FF@h/", "UTF-8"),
    ],
)  # fmt: skip
def test_3_an_invalid_address_is_refused_with_advice(text: str, said: str) -> None:
    assert_invalid(text, said)


@pytest.mark.parametrize("character", ["\r", "\n", "\r\n", "\t", " ", "\0", "\x1f", "\x7f", "\ud800"])
@pytest.mark.parametrize(
    "where", ["ws://h/%s", "ws://h/a?%s", "ws://%s", "ws://a%sb/", "%sws://h/", "ws://%s@h/", "w%ss://h"]
)
def test_a_space_or_a_control_character_is_refused_wherever_it_stands(where: str, character: str) -> None:
    assert_invalid(where % character, "a space or a control character")


def test_a_long_address_is_cut_in_the_error() -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri("http://" + "a" * 100_000)
    assert len(str(caught.value)) < 400


# RFC 9110 §10.2.2: redirects


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/c", "ws://h:8080/c"),
        ("c", "ws://h:8080/a/c"),
        ("../c", "ws://h:8080/c"),
        ("./", "ws://h:8080/a/"),
        ("?c", "ws://h:8080/a/b?c"),
        ("", "ws://h:8080/a/b?q"),
        ("#c", "ws://h:8080/a/b?q"),
        ("/c#d", "ws://h:8080/c"),
        ("//other/c", "ws://other/c"),
        ("//[::1]:1/c", "ws://[::1]:1/c"),
        ("ws://other/c", "ws://other/c"),
        ("wss://other", "wss://other/"),
        ("http://other:80/c", "ws://other/c"),
        ("https://other:443/c", "wss://other/c"),
        ("HTTPS://Other/c", "wss://other/c"),
        (" /c ", "ws://h:8080/c"),
        ("/c d/ä", "ws://h:8080/c%20d/%C3%A4"),
        ("/c%20d/%C3%A4", "ws://h:8080/c%20d/%C3%A4"),
        ("\\\\other/c", "ws://h:8080/a/%5C%5Cother/c"),
    ],
)
def test_9110_10_2_2_a_location_is_resolved_and_http_stands_for_ws(reference: str, target: str) -> None:
    assert str(parse_uri("ws://h:8080/a/b?q").resolve(reference)) == target


@pytest.mark.parametrize(
    "reference",
    [
        "ftp://h/",
        "mailto:a@h",
        "javascript:alert(1)",
        "ws://",
        "http://[bad",
        "http://[::1%25eth0]/",
        "http://h:0/",
        "http://h:99999/",
        "http://a..b/",
        "http://good.example\\@evil.example/",
        "ws:h",
        "ws+unix:///run/app.sock",
        "WSS+unix:///run/app.sock:/",
        "/\udcff",
    ],
)
@pytest.mark.parametrize("base", ["wss://h/a", "ws+unix:///run/base.sock:/a"])
def test_9110_10_2_2_a_location_that_leads_to_no_websocket_is_refused(base: str, reference: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(base).resolve(reference)
    assert_sentence(caught.value)


@pytest.mark.parametrize("reference", ["/c", "ws://h/c", "http://H:80/c", "//h"])
def test_within_a_server_user_and_password_go_along(reference: str) -> None:
    base = parse_uri("ws://alice:secret@h/a")
    target = base.resolve(reference)
    assert target.origin == base.origin
    assert (target.username, target.password) == ("alice", "secret")


@pytest.mark.parametrize("reference", ["//other", "//h:81", "wss://h", "https://h:80/", "//sub.h/"])
def test_to_another_server_user_and_password_do_not_go_along(reference: str) -> None:
    base = parse_uri("ws://alice:secret@h/a")
    target = base.resolve(reference)
    assert target.origin != base.origin
    assert (target.username, target.password) == (None, None)


def test_a_location_with_a_user_of_its_own_does_not_get_the_old_ones_password() -> None:
    target = parse_uri("ws://alice:secret@h/a").resolve("http://bob@h/")
    assert (target.username, target.password) == ("bob", None)


def test_a_redirect_within_a_unix_socket_stays_there_and_one_to_elsewhere_leaves_it() -> None:
    base = parse_uri("ws+unix:///run/app.sock:/a")
    assert str(base.resolve("/b")) == "ws+unix:///run/app.sock:/b"
    assert str(base.resolve("http://localhost/b")) == "ws+unix:///run/app.sock:/b"
    assert str(base.resolve("http://h/b")) == "ws://h/b"
    assert base.resolve("http://h/b").origin != base.origin


# Any given text

PIECES = st.sampled_from(
    (
        *(
            "ws://",
            "wss://",
            "ws+unix://",
            "http://",
            "h",
            "a.b",
            "ä",
            "[::1]",
            "[",
            "]",
            ":",
            "80",
            "@",
            "/",
            "//",
            "?",
        ),
        *("#", "%", "%41", "%00", "%0d%0a", "\\", "..", ".", "\r\n", " ", "\ud800", "\u3002", "ﬀ", "\u00ad", "xn--"),
    )
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: "ws://" + "".join(pieces)),
)


def assert_sendable(uri: WebSocketURI) -> None:
    """Nothing in the request can end its line early, and the address is one for its own text."""
    assert re.fullmatch(r"/[!-~]*", uri.resource_name)
    assert re.fullmatch(r"[!-~]+", uri.authority)
    assert "#" not in uri.resource_name
    assert 1 <= uri.port <= 65535
    again = parse_uri(str(uri))
    assert (again.origin, again.resource_name) == (uri.origin, uri.resource_name)
    request = ClientHandshake(uri).request
    assert (request.target, request.headers["Host"]) == (uri.resource_name, uri.authority)


def parsed(parse: Callable[[str], WebSocketURI], text: str) -> WebSocketURI | None:
    """Return an address, or None when it is refused."""
    try:
        return parse(text)
    except InvalidURI as refused:
        assert_sentence(refused)
        return None


@given(TEXTS)
@example("ws://h/\udcff")
def test_any_text_is_an_address_that_can_be_sent_or_is_refused(text: str) -> None:
    if (uri := parsed(parse_uri, text)) is not None:
        assert_sendable(uri)


@given(st.sampled_from(["ws://a:b@h:8080/x/y?z", "wss://h", "ws+unix:///run/app.sock:/x"]), TEXTS)
@example("ws://h", "http://[")
def test_any_location_leads_to_an_address_that_can_be_sent_or_is_refused(base: str, reference: str) -> None:
    uri = parse_uri(base)
    if (target := parsed(uri.resolve, reference)) is not None:
        assert_sendable(target)
        assert target.unix_path in (None, uri.unix_path)


def test_an_invalid_address_is_an_error_of_usage() -> None:
    assert issubclass(InvalidURI, UsageError)


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", "since=1-2"),
        ("name=me", "name=me&since=1-2"),
        ("since=1-1&name=me", "name=me&since=1-2"),
        ("a=since&since=1-1&&since&sincere=1", "a=since&sincere=1&since=1-2"),
    ],
)
def test_a_parameter_takes_the_place_of_those_of_its_name(query: str, asked: str) -> None:
    uri = parse_uri(f"ws://h/x?{query}").with_parameter("since", "1-2")
    assert uri.resource_name == f"/x?{asked}"
