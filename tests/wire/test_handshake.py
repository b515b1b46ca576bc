"""The opening handshake (RFC 6455 §1.3, §4), from the bytes of a request to the bytes of its answer."""

from __future__ import annotations

import base64
import dataclasses
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.events import Message, PingReceived
from rawws.wire.frames import Opcode
from rawws.wire.handshake import Accept, Handshake, examine, wants_websocket
from rawws.wire.http1 import BodyPart, HttpPhase, Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.session import Session
from tests.wire.helpers import every_split, from_peer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    b"Host": [b"server.example.com"],
    b"Upgrade": [b"websocket"],
    b"Connection": [b"Upgrade"],
    b"Sec-WebSocket-Key": [KEY],
    b"Origin": [b"http://server.example.com"],
    b"Sec-WebSocket-Version": [b"13"],
}


def handshake(*changes: tuple[str, list[bytes]], line: bytes = b"GET /chat HTTP/1.1", body: bytes = b"") -> bytes:
    """Return a handshake in which each header that ``changes`` name has these values, a line for each."""
    headers = HEADERS | {name.encode(): values for name, values in changes}
    lines = [line, *(name + b": " + value for name, values in headers.items() for value in values)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def receive(chunks: list[bytes], origins: Origins) -> tuple[HttpPhase, Handshake | Refusal]:
    """Take a request's bytes through the HTTP phase and, if it is let through there, the examination."""
    http = HttpPhase(Limits())
    rest = iter(chunks)
    while (event := http.next_event()) is Signal.NEED_DATA:
        http.receive_data(next(rest))
    assert not isinstance(event, Signal | BodyPart), "the request ended early"
    if isinstance(event, Refusal):
        return http, event
    return http, examine(event, origins)


def refusal_of(raw: bytes, origins: Origins | None = None) -> Refusal | None:
    """Return why a request is refused, or None when it is accepted; the same in every split of its bytes."""
    outcomes = {
        verdict.refusal if isinstance(verdict, Handshake) else verdict
        for _, verdict in (receive(chunks, origins or Origins()) for chunks in every_split(raw))
    }
    (refusal,) = outcomes
    return refusal


def assert_accepted(raw: bytes, origins: Origins | None = None) -> None:
    assert refusal_of(raw, origins) is None


def assert_refused(raw: bytes, status: int, code: str, origins: Origins | None = None) -> Refusal:
    refusal = refusal_of(raw, origins)
    assert refusal is not None, "accepted"
    assert (refusal.status, refusal.code) == (status, code)
    assert refusal.sentence.endswith(".")
    assert refusal.sentence.isprintable()
    return refusal


# §1.3 Opening handshake


def test_1_3_the_example_is_answered_with_the_accept_value_of_the_example() -> None:
    for chunks in every_split(handshake()):
        http, verdict = receive(chunks, Origins())
        assert isinstance(verdict, Handshake)
        assert verdict.path == "/chat"
        assert http.next_event() is Signal.END_OF_BODY
        assert http.switch_protocols(verdict.response_headers) == (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
            b"\r\n"
        )


def test_1_3_the_accept_value_is_made_step_by_step() -> None:
    assert Accept.of("dGhlIHNhbXBsZSBub25jZQ==").steps == [
        "key            dGhlIHNhbXBsZSBub25jZQ==",
        "key + GUID     dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
        "SHA-1 of that  b37a4f2cc0624f1690f64606cf385945b2bec4ea",
        "in base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "proves         that this server speaks WebSocket and has read this request; it authenticates nobody",
    ]


def test_4_2_1_every_check_is_listed_with_its_section_and_verdict() -> None:
    _, verdict = receive([handshake()], Origins())
    assert isinstance(verdict, Handshake)
    assert [str(check) for check in verdict.checks] == [
        "RFC 6455 §4.2.1 item 1: the method is GET? yes: GET",
        "RFC 6455 §4.2.1 item 1: HTTP is 1.1 or higher? yes: HTTP/1.1",
        "RFC 6455 §4.2.1 item 1: the target has a path? yes: /chat",
        "RFC 6455 §4.2.1 item 2: one Host header? yes: server.example.com",
        "RFC 6455 §4.2.1 item 3: Upgrade has the token 'websocket'? yes: websocket",
        "RFC 6455 §4.2.1 item 4: Connection has the token 'Upgrade'? yes: Upgrade",
        "RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? yes: dGhlIHNhbXBsZSBub25jZQ==",
        "RFC 6455 §4.2.1 item 6: Sec-WebSocket-Version is 13? yes: 13",
        "RFC 9110 §7.8: no body? yes: none",
        "RFC 6455 §10.2: the Origin is this host, allowed, or none? yes: http://server.example.com",
    ]


def test_4_2_1_the_first_requirement_that_is_not_met_decides_and_the_rest_are_listed() -> None:
    raw = handshake(("Sec-WebSocket-Key", []), ("Sec-WebSocket-Version", [b"8", b"7"]), ("Origin", []))
    _, verdict = receive([raw], Origins())
    assert isinstance(verdict, Handshake)
    assert (verdict.accept, verdict.refusal and verdict.refusal.code) == (None, "key")
    assert [str(check) for check in verdict.checks if not check.holds] == [
        "RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? NO (400): none",
        "RFC 6455 §4.2.1 item 6: Sec-WebSocket-Version is 13? NO (426): 8, 7",
    ]
    assert str(verdict.checks[-1]).endswith("yes: none")


# §4.2.1 Reading the client's opening handshake: each item missing, doubled, malformed


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"POST /chat HTTP/1.1", 405, "method"),
        (b"get /chat HTTP/1.1", 405, "method"),
        (b"HEAD /chat HTTP/1.1", 405, "method"),
        (b"GET /chat HTTP/1.0", 400, "http_1_0"),
        (b"GET /chat HTTP/2.0", 505, "http_version"),
        (b"GET /chat", 400, "request_line_malformed"),
        (b"/chat HTTP/1.1", 400, "request_line_malformed"),
        (b"GET  HTTP/1.1", 400, "request_line_malformed"),
        (b"GET * HTTP/1.1", 400, "target_malformed"),
        (b"GET server.example.com:80 HTTP/1.1", 400, "target_malformed"),
        (b"GET ws://server.example.com/chat HTTP/1.1", 400, "target_malformed"),
    ],
)
def test_4_2_1_item_1_refuses_a_bad_request_line(line: bytes, status: int, code: str) -> None:
    refusal = assert_refused(handshake(line=line), status, code)
    assert refusal.headers == (((b"Allow", b"GET"),) if code == "method" else ())


@pytest.mark.parametrize("line", [b"GET /chat?token=1 HTTP/1.1", b"GET http://server.example.com/chat HTTP/1.1"])
def test_4_2_1_item_1_takes_a_path_or_a_uri_that_has_one(line: bytes) -> None:
    _, verdict = receive([handshake(line=line)], Origins())
    assert isinstance(verdict, Handshake)
    assert (verdict.path, verdict.refusal) == ("/chat", None)


def test_4_2_1_item_1_refuses_a_target_without_a_path() -> None:
    asked = Request("GET", "*", "1.1", Headers([("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]))
    refusal = examine(asked, Origins()).refusal
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "target")


REFUSED: dict[str, tuple[str, list[bytes], int, str]] = {
    "item 2, no Host": ("Host", [], 400, "host_missing"),
    "item 2, an empty Host": ("Host", [b""], 400, "host"),
    "item 2, two Hosts": ("Host", [b"server.example.com"] * 2, 400, "host_repeated"),
    "item 2, a malformed Host": ("Host", [b"server example"], 400, "host_malformed"),
    "item 3, no Upgrade": ("Upgrade", [], 426, "upgrade"),
    "item 3, an empty Upgrade": ("Upgrade", [b""], 426, "upgrade"),
    "item 3, another protocol": ("Upgrade", [b"h2c"], 426, "upgrade"),
    "item 3, part of a token": ("Upgrade", [b"websockets, web, socket"], 426, "upgrade"),
    "item 4, no Connection": ("Connection", [], 400, "connection"),
    "item 4, an empty Connection": ("Connection", [b""], 400, "connection"),
    "item 4, keep-alive": ("Connection", [b"keep-alive"], 400, "connection"),
    "item 5, no key": ("Sec-WebSocket-Key", [], 400, "key"),
    "item 5, an empty key": ("Sec-WebSocket-Key", [b""], 400, "key"),
    "item 5, two keys": ("Sec-WebSocket-Key", [KEY, KEY], 400, "key"),
    "item 5, two in one line": ("Sec-WebSocket-Key", [KEY + b", " + KEY], 400, "key"),
    "item 5, 15 bytes": ("Sec-WebSocket-Key", [base64.b64encode(bytes(15))], 400, "key"),
    "item 5, 17 bytes": ("Sec-WebSocket-Key", [base64.b64encode(bytes(17))], 400, "key"),
    "item 5, not base64": ("Sec-WebSocket-Key", [b"dGhlIHNhbXBsZSBub25jZQ=!"], 400, "key"),
    "item 5, without padding": ("Sec-WebSocket-Key", [KEY.rstrip(b"=")], 400, "key"),
    "item 5, data behind its padding": ("Sec-WebSocket-Key", [KEY + b"AAAA"], 400, "key"),
    "item 5, URL-safe base64": ("Sec-WebSocket-Key", [b"-_hlIHNhbXBsZSBub25jZQ=="], 400, "key"),
    "item 5, only padding": ("Sec-WebSocket-Key", [b"=="], 400, "key"),
    "item 6, no version": ("Sec-WebSocket-Version", [], 426, "version"),
    "item 6, an empty version": ("Sec-WebSocket-Version", [b""], 426, "version"),
    "item 6, version 8": ("Sec-WebSocket-Version", [b"8"], 426, "version"),
    "item 6, 13 twice": ("Sec-WebSocket-Version", [b"13", b"13"], 426, "version"),
    "item 6, a list": ("Sec-WebSocket-Version", [b"13, 8"], 426, "version"),
    "item 6, 013": ("Sec-WebSocket-Version", [b"013"], 426, "version"),
    "a body with a length": ("Content-Length", [b"3"], 400, "upgrade_with_body"),
    "a chunked body": ("Transfer-Encoding", [b"chunked"], 400, "upgrade_with_body"),
    "two Origins": ("Origin", [b"http://server.example.com"] * 2, 400, "origin_repeated"),
    "another Origin": ("Origin", [b"https://evil.example"], 403, "origin"),
    "an empty Origin": ("Origin", [b""], 403, "origin"),
    "an Origin that is none": ("Origin", [b"server.example.com"], 403, "origin"),
    "an Origin with a user": ("Origin", [b"http://server.example.com@evil.example"], 403, "origin"),
}


@pytest.mark.parametrize(("name", "values", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_4_2_1_refuses_what_is_missing_doubled_or_malformed(
    name: str, values: list[bytes], status: int, code: str
) -> None:
    refusal = assert_refused(handshake((name, values), body=b"abc"), status, code)
    required = [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    assert list(refusal.headers) == (required if status == 426 else [])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Upgrade", [b"WebSocket"]),
        ("Upgrade", [b"h2c", b"foo, WEBSOCKET ,bar"]),
        ("Connection", [b"keep-alive, upgrade"]),
        ("Connection", [b"keep-alive", b"UPGRADE"]),
        ("Connection", [b"close, Upgrade"]),
        ("Origin", []),
        ("Sec-WebSocket-Key", [b"  " + KEY + b"\t"]),
        ("Content-Length", [b"0"]),
        ("Sec-WebSocket-Protocol", [b"chat, superchat"]),
        ("Expect", [b"100-continue"]),
    ],
)
def test_4_2_1_accepts_any_case_any_place_in_a_list_and_what_is_optional(name: str, values: list[bytes]) -> None:
    assert_accepted(handshake((name, values)))
    http, verdict = receive([handshake((name, values))], Origins())
    assert isinstance(verdict, Handshake)
    assert http.next_event() is Signal.END_OF_BODY
    assert http.switch_protocols(verdict.response_headers).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "values",
    [
        [b"permessage-deflate; server_max_window_bits=abc"],
        [b"permessage-deflate; server_max_window_bits=99", b"permessage-deflate; client_max_window_bits="],
        [b"permessage-deflate; server_max_window_bits=15; server_max_window_bits=15"],
        [b"__proto__; constructor=1", b"toString"],
        [b""],
        [b";;;,,,=\"\\"],
        [b"a; b=\"" + b"x" * 4000],
    ],
    ids=["abc", "99", "twice", "names of properties", "empty", "punctuation", "an open quote"],
)  # fmt: skip
def test_9_1_no_offer_of_extensions_is_an_exception_and_none_is_agreed_to(values: list[bytes]) -> None:
    _, verdict = receive([handshake(("Sec-WebSocket-Extensions", values))], Origins())
    assert isinstance(verdict, Handshake)
    assert verdict.refusal is None
    assert "sec-websocket-extensions" not in {name.decode().lower() for name, _ in verdict.response_headers}


# Any byte in any header


@pytest.mark.parametrize("name", [name.decode() for name in HEADERS] + ["Sec-WebSocket-Extensions", "Cookie"])
def test_an_odd_byte_in_any_header_is_a_refusal_and_never_an_exception(name: str) -> None:
    (value,) = HEADERS.get(name.encode(), [b"some value"])
    for octet in range(256):
        byte = bytes((octet,))
        for odd in (byte + value, value[:3] + byte + value[3:], value + byte):
            _, verdict = receive([handshake((name, [odd]))], Origins())
            if octet not in b"\t" and not 0x20 <= octet <= 0x7E:
                assert isinstance(verdict, Refusal), (octet, odd)
                assert verdict.status == 400


@pytest.mark.parametrize("octet", [*range(0x21), *b'"(),/;<=>?@[]{}', *range(0x7F, 0x100, 16), 0xFF], ids=hex)
def test_an_odd_byte_in_the_name_of_a_header_is_a_refusal(octet: int) -> None:
    http = HttpPhase(Limits())
    http.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nX" + bytes((octet,)) + b"Y: x\r\n\r\n")
    refusal = http.next_event()
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


@given(st.lists(st.tuples(st.sampled_from(sorted(HEADERS)), st.binary(max_size=30)), max_size=3), st.data())
def test_no_values_make_it_raise(changes: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    raw = handshake(*((name.decode(), [value]) for name, value in changes))
    cut = data.draw(st.integers(1, len(raw) - 1))
    receive([raw[:cut], raw[cut:], b"\r\n\r\n"], Origins())


# §10.2 Origin considerations


def test_10_2_the_hint_is_for_our_log_and_ends_with_the_flag() -> None:
    refusal = assert_refused(handshake(("Origin", [b"https://hoppscotch.io"])), 403, "origin")
    assert refusal.hint == "to allow it, start the server with --allow-origin https://hoppscotch.io"
    assert "--allow-origin" not in refusal.sentence
    assert_accepted(handshake(("Origin", [b"https://hoppscotch.io"])), Origins(["https://hoppscotch.io"]))


ORIGINS = [
    "https://hoppscotch.io",
    "http://b.example:8080",
    "HTTP://B.Example:81",
    "https://xn--bcher-kva.example",
    "http://[2001:db8::1]:8080",
    "http://[::ffff:10.0.0.1]",
    "null",
    "",
    "file://",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "app://.",
    "app://obsidian.md",
    "chrome-extension://ahfgeienlihckogmohjhadlkjgocpleb",
    "moz-extension://3c5ab5ad-5a0b-4f0e-8f0a-5d1c7c9a0b1e",
    "vscode-webview://0a1b2c",
    "https://x;reboot;$(reboot)",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_10_2_the_hint_can_be_pasted_into_a_shell_and_lets_in_that_origin_alone(origin: str) -> None:
    refusal = assert_refused(handshake(("Origin", [origin.encode()])), 403, "origin")
    assert refusal.hint.startswith("to allow it, ")
    assert ("and any page that hides its site" in refusal.hint) is (origin == "null")
    flag, value = shlex.split(refusal.hint.partition("start the server with ")[2])
    assert flag == "--allow-origin"
    origins = Origins([value])
    assert [other for other in ORIGINS if origins.allow(other, "localhost")] == [origin]


@pytest.mark.parametrize(
    "origin",
    ["nonsense", "https://", "https://b.example/path", "https://b.example, https://c.example", "a b", "x" * 300],
)
def test_10_2_the_hint_for_an_origin_that_no_flag_names_lets_it_in_too(origin: str) -> None:
    refusal = assert_refused(handshake(("Origin", [origin.encode()])), 403, "origin")
    assert refusal.hint == (
        "a browser sends no such Origin (RFC 6454 §7.1): have the client send none, or start the server with "
        "--allow-origin '*'"
    )
    assert_accepted(handshake(("Origin", [origin.encode()])), Origins(["*"]))


def test_10_2_an_empty_origin_is_named_as_one() -> None:
    refusal = assert_refused(handshake(("Origin", [b""])), 403, "origin")
    assert refusal.sentence == "Pages from an empty Origin may not connect to this server."


# Requests for a WebSocket


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        ([], True),
        ([b"Upgrade", b"Connection"], True),
        ([b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"], True),
        ([b"Upgrade", b"Sec-WebSocket-Key"], True),
        ([b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"], False),
    ],
)
def test_a_request_for_a_websocket_is_recognized_by_its_fields(without: list[bytes], verdict: bool) -> None:
    http = HttpPhase(Limits())
    http.receive_data(handshake(*((name.decode(), []) for name in without)))
    request = http.next_event()
    assert isinstance(request, Request)
    assert wants_websocket(request) is verdict


def test_another_protocol_s_upgrade_is_none_of_ours() -> None:
    http = HttpPhase(Limits())
    http.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n")
    request = http.next_event()
    assert isinstance(request, Request)
    assert not wants_websocket(request)


# §4.1: frames may follow the handshake at once


def test_frames_pipelined_behind_the_handshake_reach_the_session() -> None:
    frames = from_peer(Role.SERVER, "8105", b"Hello") + from_peer(Role.SERVER, "8901", b"?")
    for chunks in every_split(handshake() + frames):
        http, rest = HttpPhase(Limits()), iter(chunks)
        while (request := http.next_event()) is Signal.NEED_DATA:
            http.receive_data(next(rest))
        assert isinstance(request, Request)
        assert http.next_event() is Signal.END_OF_BODY
        http.switch_protocols(examine(request, Origins()).response_headers)
        session = Session(Role.SERVER, max_message_bytes=100)
        trailing, _ = http.trailing_data
        events = [event for chunk in (trailing, *rest) for event in session.receive_data(chunk)]
        assert events == [Message(Opcode.TEXT, b"Hello"), PingReceived(b"?")]


def test_an_upgrade_may_follow_ordinary_requests() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    http = HttpPhase(Limits())
    http.receive_data(raw + handshake() + b"\x81")
    assert isinstance(http.next_event(), Request)
    assert http.next_event() is Signal.END_OF_BODY
    http.respond(Response(200, b"hi there"))
    http.start_next_request()
    request = http.next_event()
    assert isinstance(request, Request)
    assert examine(request, Origins()).accept == Accept.of(KEY.decode())
    assert http.next_event() is Signal.END_OF_BODY
    assert http.trailing_data == (b"\x81", False)


# §4.2.1 item 8, §4.2.2 item 4: subprotocols


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([b"chat, a b"], "The subprotocol 'a b' in Sec-WebSocket-Protocol is not a token."),
        ([b"rawws.token.a b"], "The subprotocol 'rawws.token.(masked)' in Sec-WebSocket-Protocol is not a token."),
        ([b'rawws.token."a"'], "The subprotocol 'rawws.token.(masked)' in Sec-WebSocket-Protocol is not a token."),
        ([b'"chat"'], "The subprotocol '\"chat\"' in Sec-WebSocket-Protocol is not a token."),
        ([b"chat, superchat, chat"], "Sec-WebSocket-Protocol names a subprotocol twice."),
        ([b"chat", b"chat"], "Sec-WebSocket-Protocol names a subprotocol twice."),
    ],
)
def test_4_2_1_item_8_subprotocols_are_tokens_each_named_once(values: list[bytes], sentence: str) -> None:
    refusal = assert_refused(handshake(("Sec-WebSocket-Protocol", values)), 400, "subprotocol")
    assert refusal.sentence == sentence


def test_4_2_1_item_8_subprotocols_keep_the_client_s_order_over_all_lines_and_empty_ones_are_ignored() -> None:
    _, verdict = receive([handshake(("Sec-WebSocket-Protocol", [b"Chat, ,", b"v2.chat , chat"]))], Origins())
    assert isinstance(verdict, Handshake)
    assert verdict.refusal is None
    assert verdict.offered_subprotocols == ("Chat", "v2.chat", "chat"), "names have their case"


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, []), ("v2.chat", [("Sec-WebSocket-Protocol", "v2.chat")])], ids=["none", "one"]
)
def test_4_2_2_item_5_the_101_names_the_subprotocol_that_was_chosen_if_one_was(
    chosen: str | None, expected: list[tuple[str, str]]
) -> None:
    _, verdict = receive([handshake(("Sec-WebSocket-Protocol", [b"chat, v2.chat"]))], Origins())
    assert isinstance(verdict, Handshake)
    response = dataclasses.replace(verdict, subprotocol=chosen).response
    assert (response.status, response.body) == (101, b"")
    assert list(response.headers) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        *expected,
    ]


def test_9_1_the_101_names_the_extension_that_was_agreed_on() -> None:
    offer = handshake(("Sec-WebSocket-Extensions", [b"permessage-deflate; server_max_window_bits=10"]))
    _, verdict = receive([offer], Origins())
    assert isinstance(verdict, Handshake)
    extensions = verdict.response.headers["Sec-WebSocket-Extensions"]
    assert extensions.startswith("permessage-deflate;")
    assert "server_max_window_bits=9" in extensions
