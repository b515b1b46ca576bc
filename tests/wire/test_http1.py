"""The HTTP phase, bytes in and events out (RFC 9110, RFC 9112), up to an upgrade."""

from __future__ import annotations

from collections.abc import Callable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.http1 import BodyPart, HttpPhase, Signal
from rawws.wire.messages import Headers, Request, Response
from tests.wire.helpers import any_chunking, every_split

LIMITS = Limits()
GET = b"GET /room HTTP/1.1\r\nHost: a\r\n\r\n"


class Exchange:
    """Takes requests off one connection as a server would, and answers each with 200 and ``ok``."""

    def __init__(self, chunks: list[bytes], limits: Limits = LIMITS) -> None:
        self.http = HttpPhase(limits)
        self.requests: list[Request] = []
        self.refusal: Refusal | None = None
        self.signal: Signal | None = None  # the last one, when there was no refusal
        self.sent: list[bytes] = []
        self.body = b""
        for chunk in chunks:
            self.http.receive_data(chunk)
            if not self._take():
                break

    def _take(self) -> bool:
        while True:
            match self.http.next_event():
                case Request() as request:
                    self.requests.append(request)
                case Refusal() as refusal:
                    self.refusal, self.signal = refusal, None
                    self.sent.append(self.http.respond(Response(refusal.status, refusal.sentence.encode()), close=True))
                    return False
                case BodyPart(data):
                    self.body += data
                case Signal.END_OF_BODY:
                    self.sent.append(self.http.respond(Response(200, b"ok")))
                    if not self.http.can_continue:
                        return False
                    self.http.start_next_request()
                case Signal() as signal:
                    self.signal = signal
                    return signal is Signal.NEED_DATA

    @property
    def outcome(self) -> tuple[list[tuple[str, str]], str | None]:
        code = None if self.refusal is None else self.refusal.code
        return [(request.method, request.target) for request in self.requests], code


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a", body: bytes = b"") -> bytes:
    return b"".join(part + b"\r\n" for part in (line, host, *lines) if part) + b"\r\n" + body


def assert_refused(chunks: list[bytes], status: int, code: str, limits: Limits = LIMITS) -> Refusal:
    """One sentence for the client, with its status, and the connection is over."""
    exchange = Exchange(chunks, limits)
    refusal = exchange.refusal
    assert refusal is not None, f"let in: {exchange.outcome}, {exchange.signal}"
    assert (refusal.status, refusal.code) == (status, code)
    assert refusal.sentence[0].isupper()
    assert refusal.sentence.endswith(".")
    assert refusal.sentence.isprintable()
    head, _, body = exchange.sent[-1].partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close" in head
    assert body == refusal.sentence.encode()
    assert not exchange.http.can_continue
    return refusal


# A request and its answer


def test_a_request_is_taken_apart_as_it_stands() -> None:
    raw = request(b"Accept: a", b"X-Empty:", b"accept:\t b, C ", line=b"GET /room?x=1 HTTP/1.1")
    for chunks in every_split(raw):
        exchange = Exchange(chunks)
        (taken,) = exchange.requests
        assert (taken.method, taken.target, taken.http_version, taken.path) == ("GET", "/room?x=1", "1.1", "/room")
        assert list(taken.headers) == [("Host", "a"), ("Accept", "a"), ("X-Empty", ""), ("accept", "b, C")]
        assert taken.raw_head == raw
        assert exchange.sent == [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]


def test_headers_are_found_in_any_case_and_lists_over_all_their_lines() -> None:
    headers = Headers([("Connection", "keep-alive, Upgrade"), ("X", "1"), ("CONNECTION", " ,, close")])
    assert headers.get_all("connection") == ["keep-alive, Upgrade", " ,, close"]
    assert headers.tokens("connection") == ["keep-alive", "upgrade", "close"]
    assert ("x" in headers, "y" in headers, len(headers)) == (True, False, 3)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a?b", "/a"),
        ("//a", "//a"),
        ("http://h/a?b", "/a"),
        ("HTTPS://h", "/"),
        ("http://h?b", "/"),
        ("OPTIONS *", None),
    ],
)
def test_9112_3_2_the_path_of_each_form_of_target(target: str, path: str | None) -> None:
    line = f"{target} HTTP/1.1" if " " in target else f"GET {target} HTTP/1.1"
    (taken,) = Exchange([request(line=line.encode())]).requests
    assert (taken.target, taken.path) == (target.split()[-1], path)


@pytest.mark.parametrize(
    "target",
    [
        *("*", "h:443", "room", "?x", "/a#b", "/a?b#", "http://h/#", "ftp://h/a", "ws://h/a"),
        *("http:/a", "http:a", "http://", "http:///a", "http://?a", "http://u@h/a", "http://u:p@h/a", "http://h:x/a"),
    ],
)
def test_9112_3_2_a_target_of_another_form_is_refused(target: str) -> None:
    assert_refused([request(line=f"GET {target} HTTP/1.1".encode())], 400, "target_malformed")


def test_9110_9_3_6_no_tunnel_is_made() -> None:
    assert_refused([request(line=b"CONNECT h:443 HTTP/1.1")], 501, "connect")


@pytest.mark.parametrize(
    ("target", "authority"), [("/", "a"), ("http://B.example:81/x", "B.example:81"), ("http://[::1]", "[::1]")]
)
def test_9112_3_2_2_the_host_of_a_target_counts_and_not_that_of_its_header(target: str, authority: str) -> None:
    (taken,) = Exchange([request(line=f"GET {target} HTTP/1.1".encode())]).requests
    assert (taken.authority, taken.headers["Host"]) == (authority, "a")


def test_9112_9_3_2_pipelined_requests_are_answered_in_their_order() -> None:
    data = GET + request(b"Content-Length: 5", line=b"POST /b HTTP/1.1", body=b"01234") + GET
    for chunks in every_split(data):
        exchange = Exchange(chunks)
        assert exchange.outcome == ([("GET", "/room"), ("POST", "/b"), ("GET", "/room")], None)
        assert len(exchange.sent) == 3
        assert exchange.signal is Signal.NEED_DATA
        assert not exchange.http.request_begun


def test_9110_9_3_2_an_answer_to_head_has_no_body_but_its_length() -> None:
    exchange = Exchange([request(line=b"HEAD / HTTP/1.1") + GET])
    assert exchange.sent == [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ]


@pytest.mark.parametrize(
    "raw",
    [
        request(line=b"GET / HTTP/1.0"),
        request(line=b"GET / HTTP/1.0", host=b""),
        request(b"Connection: close"),
        request(b"Connection: keep-alive, Close"),
    ],
    ids=["HTTP/1.0", "HTTP/1.0 without Host", "asked to close", "in a list"],
)
def test_9112_9_6_the_connection_closes_when_the_client_wants_it_so(raw: bytes) -> None:
    for chunks in every_split(raw):
        exchange = Exchange(chunks)
        assert exchange.sent == [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"]
        assert not exchange.http.can_continue


def test_9110_7_8_another_protocol_s_upgrade_is_ignored_and_the_connection_kept() -> None:
    exchange = Exchange([request(b"Upgrade: h2c", b"Connection: Upgrade") + GET])
    assert exchange.outcome == ([("GET", "/"), ("GET", "/room")], None)
    assert b"close" not in exchange.sent[0]


def test_9112_2_2_empty_lines_in_front_of_a_request_are_ignored() -> None:
    for data in (b"\r\n" + GET, b"\r\n\r\n" + GET, GET + b"\r\n" + GET):
        for chunks in every_split(data):
            exchange = Exchange(chunks)
            assert exchange.refusal is None, chunks
            assert len(exchange.requests) == data.count(b"GET")


def test_an_empty_line_does_not_begin_a_request() -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(b"\r\n")
    assert not http.request_begun
    http.receive_data(b"G")
    assert http.request_begun
    assert http.raw_head == b"G"


@pytest.mark.parametrize(
    "before", [b"", GET, b"\r\n", GET[:-1], GET[:5]], ids=["nothing", "one", "crlf", "most", "some"]
)
def test_the_end_of_the_stream_is_no_fault(before: bytes) -> None:
    assert Exchange([before, b""] if before else [b""]).signal is Signal.END_OF_STREAM


@pytest.mark.parametrize("lines", [[b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]])
def test_the_end_of_the_stream_inside_a_body_is_no_fault_either(lines: list[bytes]) -> None:
    exchange = Exchange([request(*lines, body=b"2\r\n"), b""])
    assert (exchange.signal, exchange.refusal) == (Signal.END_OF_STREAM, None)


# RFC 9112 §6 and §7, bodies: read past, counted, bounded

CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "raw",
    [
        request(b"Content-Length: 0"),
        request(b"Content-Length: 3", body=b"abc"),
        request(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"),
        request(CHUNKED, body=b"0\r\n\r\n"),
        request(CHUNKED, body=b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"),
    ],
    ids=["length 0", "length 3", "twice the same", "empty chunked", "chunked"],
)
def test_9112_6_a_body_is_passed_over_and_the_next_request_read(raw: bytes) -> None:
    for chunks in every_split(raw + GET):
        exchange = Exchange(chunks)
        assert exchange.outcome == ([("GET", "/"), ("GET", "/room")], None)


@pytest.mark.parametrize(
    ("lines", "has_body"),
    [([], False), ([b"Content-Length: 0"], False), ([b"Content-Length: 3"], True), ([CHUNKED], True)],
)
def test_9112_6_a_body_is_announced_by_the_head(lines: list[bytes], has_body: bool) -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(request(*lines))
    taken = http.next_event()
    assert isinstance(taken, Request)
    assert taken.has_body is has_body


def test_9110_10_1_1_a_body_held_back_is_not_asked_for() -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(request(b"Content-Length: 3", b"Expect: 100-continue"))
    assert isinstance(http.next_event(), Request)
    assert http.awaits_continue
    assert b"\r\nConnection: close" in http.respond(Response(200, b"ok"))
    assert not http.can_continue
    (taken,) = Exchange([request(b"Content-Length: 3", b"Expect: 100-continue"), b"abc"]).requests
    assert taken.has_body


# Refused, whole, byte by byte, and cut in two anywhere

CLIENT_HELLO = bytes.fromhex("16 03 01 00 c8 01 00 00 c4 03 03") + bytes(range(32)) + b"\r\n"

# Version 1 and 2 of the PROXY protocol, as nginx and HAProxy send it.
PROXY_1 = b"PROXY TCP4 203.0.113.5 203.0.113.80 52000 443\r\n"
PROXY_1_UNKNOWN = b"PROXY UNKNOWN\r\n"
PROXY_2 = bytes.fromhex("0d0a0d0a000d0a515549540a 2111 000c cb007105 cb007150 cb20 01bb")

REFUSED = {
    "the PROXY protocol": (PROXY_1 + GET, 400, "proxy_protocol"),
    "the PROXY protocol over IPv6": (b"PROXY TCP6 ::1 ::1 1 2\r\n" + GET, 400, "proxy_protocol"),
    "the PROXY protocol of a health check": (PROXY_1_UNKNOWN, 400, "proxy_protocol"),
    "the PROXY protocol, then TLS": (PROXY_1 + CLIENT_HELLO, 400, "proxy_protocol"),
    "the PROXY protocol, version 2": (PROXY_2 + GET, 400, "proxy_protocol"),
    "the PROXY protocol, version 2, alone": (PROXY_2, 400, "proxy_protocol"),
    "a method called PROXY": (request(line=b"PROXY /a HTTP/1.0", host=b"Host: a b"), 400, "host_malformed"),
    "a NUL behind one empty line": (b"\r\n\0" + GET, 400, "request_line_malformed"),
    "a TLS ClientHello": (CLIENT_HELLO, 400, "tls_on_plain_port"),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "request_line_malformed"),
    "HTTP/3.0": (request(line=b"GET / HTTP/3.0"), 505, "http_version"),
    "HTTP/11.1": (request(line=b"GET / HTTP/11.1"), 400, "request_line_malformed"),
    "http in lower case": (request(line=b"GET / http/1.1"), 400, "request_line_malformed"),
    "a space in the target": (request(line=b"GET /a b HTTP/1.1"), 400, "request_line_malformed"),
    "a target beyond ASCII": (request(line="GET /ü HTTP/1.1".encode()), 400, "request_line_malformed"),
    "a space in front": (b" " + GET, 400, "request_line_malformed"),
    "binary": (b"\x00\x01\x02\x03\r\n\r\n", 400, "request_line_malformed"),
    "no Host": (request(host=b""), 400, "host_missing"),
    "no Host in HTTP/1.2": (request(host=b"", line=b"GET / HTTP/1.2"), 400, "host_missing"),
    "two Hosts": (request(b"Host: a"), 400, "host_repeated"),
    "a Host with a path": (request(host=b"Host: a/b"), 400, "host_malformed"),
    "a Host with a user": (request(host=b"Host: u@a"), 400, "host_malformed"),
    "a Host with a space": (request(host=b"Host: a b"), 400, "host_malformed"),
    "a Host list": (request(host=b"Host: a, b:x"), 400, "host_malformed"),
    "an IPv6 Host without brackets": (request(host=b"Host: ::1"), 400, "host_unbracketed"),
    "an IPv6 Host without brackets and a port": (request(host=b"Host: 2001:db8::1:8080"), 400, "host_unbracketed"),
    "a mapped IPv4 Host without brackets": (request(host=b"Host: ::ffff:10.0.0.1"), 400, "host_unbracketed"),
    "a port of letters": (request(host=b"Host: a:http"), 400, "host_malformed"),
    "a header without a colon": (request(b"Nonsense"), 400, "header_malformed"),
    "a header without a name": (request(b": x"), 400, "header_malformed"),
    "a space before the colon": (request(b"X : x"), 400, "header_malformed"),
    "a name beyond ASCII": (request("Ü: x".encode()), 400, "header_malformed"),
    "NUL in a value": (request(b"X: a\0b"), 400, "header_malformed"),
    "CR in a value": (request(b"X: a\rb"), 400, "header_malformed"),
    "UTF-8 in a value": (request("X: ü".encode()), 400, "odd_byte_in_header"),
    "ESC in a value": (request(b"X: \x1b[2J"), 400, "odd_byte_in_header"),
    "DEL in a value": (request(b"X: \x7f"), 400, "odd_byte_in_header"),
    "a folded line": (request(b"X: a", b" b"), 400, "folded_line"),
    "a line folded with a tab": (request(b"X: a", b"\tb"), 400, "folded_line"),
    "a fold in front of the headers": (request(host=b" Host: a"), 400, "header_malformed"),
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare_lf"),
    "all bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "bare_lf"),
    "a bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_lf"),
    "two lengths": (request(b"Content-Length: 3", b"Content-Length: 4"), 400, "content_length_malformed"),
    "two lengths in one": (request(b"Content-Length: 3, 4"), 400, "content_length_malformed"),
    "a negative length": (request(b"Content-Length: -1"), 400, "content_length_malformed"),
    "a signed length": (request(b"Content-Length: +3"), 400, "content_length_malformed"),
    "a length in hex": (request(b"Content-Length: 0x3"), 400, "content_length_malformed"),
    "no length": (request(b"Content-Length:"), 400, "content_length_malformed"),
    "a length of 30 digits": (request(b"Content-Length: " + b"9" * 30), 400, "content_length_malformed"),
    "a length beside chunked": (request(b"Content-Length: 3", CHUNKED), 400, "framing_ambiguous"),
    "chunked beside a length": (request(CHUNKED, b"Content-Length: 0"), 400, "framing_ambiguous"),
    "chunked in HTTP/1.0": (request(CHUNKED, line=b"POST / HTTP/1.0"), 400, "framing_ambiguous"),
    "gzip, chunked": (request(b"Transfer-Encoding: gzip, chunked"), 501, "transfer_encoding"),
    "chunked twice": (request(CHUNKED, CHUNKED), 501, "transfer_encoding"),
    "no chunk size": (request(CHUNKED, body=b"x\r\n"), 400, "body_malformed"),
    "a chunk that goes on": (request(CHUNKED, body=b"1\r\nabc\r\n"), 400, "body_malformed"),
    "a length over the limit": (request(b"Content-Length: 65537"), 413, "body_too_large"),
}


@pytest.mark.parametrize(("raw", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_request_is_refused_by_name_in_every_split(raw: bytes, status: int, code: str) -> None:
    sentences = {assert_refused(chunks, status, code).sentence for chunks in every_split(raw)}
    sentences.add(assert_refused([GET + raw + GET], status, code).sentence)
    assert len(sentences) == 1, sentences


def test_the_line_that_is_no_header_is_named() -> None:
    for bad in (b"Nonsense", b"X: a\0b", b"X: a\x0bb", b"X: a\rb"):
        raw = request(b"Fine: yes", bad, body=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert "Line 4 " in assert_refused([raw], 400, "header_malformed").sentence


@pytest.mark.parametrize(
    "body",
    [b"request line\r\n", b"header line\r\n", CHUNKED + b"\r\n", b"peer closed\r\n", b"0\r\nrequest line\r\n\r\n"],
)
def test_words_of_the_peer_s_own_do_not_choose_its_fault(body: bytes) -> None:
    assert_refused([request(CHUNKED, body=body)], 400, "body_malformed")


def test_words_of_the_peer_s_own_in_a_header_do_not_choose_its_fault() -> None:
    assert_refused([request(b"the request line")], 400, "header_malformed")


# Limits: the same whether all comes at once or byte by byte

SMALL = Limits(max_header_bytes=1000, max_headers=10, max_target_bytes=200, max_body_bytes=50)


def padded(size: int) -> bytes:
    """Return a request of so many bytes, with a short target."""
    return request(b"X: " + b"x" * (size - len(request(b"X: "))))


def over_the_limits() -> dict[str, tuple[bytes, int, str]]:
    return {
        "the target": (request(line=b"GET /" + b"a" * 250 + b" HTTP/1.1"), 414, "target_too_long"),
        "a target without end": (b"GET /" + b"a" * 5000, 414, "target_too_long"),
        "the head by one byte": (padded(1001), 431, "head_too_large"),
        "a head without end": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000, 431, "head_too_large"),
        "empty lines without end": (b"\r\n" * 2000, 431, "head_too_large"),
        "line feeds without end": (b"\n" * 5000, 431, "head_too_large"),
        "empty lines and a request": (b"\r\n" * 485 + GET, 431, "head_too_large"),
        "a malformed head without end": (b"GET / HTTP/1.1\r\n" + b"x\r\n" * 2000, 431, "head_too_large"),
        "the number of headers": (request(*[b"X: x"] * 10), 431, "too_many_headers"),
        "a length": (request(b"Content-Length: 51", body=b"x" * 51), 413, "body_too_large"),
        "a chunk": (request(CHUNKED, body=b"33\r\n" + b"x" * 51 + b"\r\n0\r\n\r\n"), 413, "body_too_large"),
        "chunks": (request(CHUNKED, body=b"1\r\nx\r\n" * 51 + b"0\r\n\r\n"), 413, "body_too_large"),
    }


@pytest.mark.parametrize(("raw", "status", "code"), over_the_limits().values(), ids=over_the_limits())
def test_a_request_over_a_limit_is_refused_however_it_arrives(raw: bytes, status: int, code: str) -> None:
    for chunks in ([raw], [raw[i : i + 1] for i in range(len(raw))], [raw[:100], raw[100:]], [raw + GET]):
        assert_refused(chunks, status, code, SMALL)


@pytest.mark.parametrize(
    "raw",
    [
        padded(1000),
        padded(500),
        b"\r\n" * 484 + GET,
        request(line=b"GET /" + b"a" * 199 + b" HTTP/1.1"),
        request(*[b"X: x"] * 9),
        request(b"Content-Length: 50", body=b"x" * 50),
        request(CHUNKED, body=b"32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n"),
    ],
    ids=["head", "head with a short target", "empty lines and a head", "target", "headers", "length", "chunk"],
)
def test_a_request_at_its_limit_is_accepted_however_it_arrives(raw: bytes) -> None:
    for chunks in ([raw], [raw[i : i + 1] for i in range(len(raw))], [raw[:100], raw[100:]], [raw + GET]):
        exchange = Exchange(chunks, SMALL)
        assert exchange.refusal is None
        assert exchange.requests


def test_a_head_below_the_default_limit_may_be_longer_than_a_target_may() -> None:
    cookies = request(*[b"Cookie: " + b"c" * 1500] * 9)
    assert LIMITS.max_target_bytes < len(cookies) < LIMITS.max_header_bytes
    for chunks in ([cookies], [cookies[:20], cookies[20:9000], cookies[9000:]]):
        assert Exchange(chunks).outcome == ([("GET", "/")], None)


def test_the_head_of_a_refused_request_is_kept_for_the_log() -> None:
    raw = request(b"Nonsense")
    http = HttpPhase(LIMITS)
    http.receive_data(GET + raw)
    assert isinstance(http.next_event(), Request)
    assert http.raw_head == GET
    assert http.next_event() is Signal.END_OF_BODY
    http.respond(Response(200))
    http.start_next_request()
    assert isinstance(http.next_event(), Refusal)
    assert http.raw_head == raw


# The upgrade


def test_9110_7_8_bytes_behind_an_upgrade_are_handed_over_untouched() -> None:
    raw = request(b"Upgrade: websocket", b"Connection: Upgrade")
    behind = b"\r\n\x81\x00\xff GET"
    for chunks in every_split(raw + behind):
        http = HttpPhase(LIMITS)
        rest = iter(chunks)
        while (event := http.next_event()) is Signal.NEED_DATA:
            http.receive_data(next(rest))
        assert isinstance(event, Request)
        assert http.next_event() is Signal.END_OF_BODY
        sent = http.switch_protocols([(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")])
        assert sent == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        assert http.trailing_data[0] + b"".join(rest) == behind


# Any bytes, in any chunking

PIECES = [
    *(b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"HEAD / HTTP/1.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n"),
    *(b"Host: a\r\n", b"\r\n", b"\n", b"\r", b" ", b":", CHUNKED + b"\r\n", b"Content-Length: 3\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"Connection: close\r\n"),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"request line", b"\x16\x03"),
]
pieces = st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=12).map(b"".join)
requests = st.sampled_from([GET, b"\r\n", request(CHUNKED), request(b"Content-Length: 3")])
anything = st.lists(requests | pieces, max_size=4).map(b"".join)


@given(any_chunking(anything))
def test_no_bytes_make_it_raise_and_no_chunking_changes_what_they_mean(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert Exchange(chunks, SMALL).outcome == Exchange([whole], SMALL).outcome
    assert Exchange([whole[i : i + 1] for i in range(len(whole))], SMALL).outcome == Exchange([whole], SMALL).outcome
    Exchange([whole, b""], SMALL)


# Answers (RFC 9110 §15, RFC 9112 §6)


def asked(raw: bytes) -> HttpPhase:
    http = HttpPhase(LIMITS)
    http.receive_data(raw)
    assert isinstance(http.next_event(), Request)
    return http


@pytest.mark.parametrize("status", [204, 304])
def test_9110_8_6_an_answer_that_can_have_no_body_has_no_length(status: int) -> None:
    http = asked(GET)
    assert http.next_event() is Signal.END_OF_BODY
    head = http.respond(Response(status))
    assert head == f"HTTP/1.1 {status} {Response(status).reason}\r\n\r\n".encode()
    assert http.can_continue


def test_9112_4_a_status_that_is_not_registered_has_an_empty_reason() -> None:
    http = asked(GET)
    assert http.next_event() is Signal.END_OF_BODY
    assert http.respond(Response(299, b"x")) == b"HTTP/1.1 299 \r\nContent-Length: 1\r\n\r\nx"


def test_9110_10_1_1_a_client_that_waits_for_a_100_gets_it_before_the_answer() -> None:
    http = asked(request(b"Expect: 100-continue", b"Content-Length: 3", line=b"POST / HTTP/1.1"))
    assert http.awaits_continue
    assert http.send_100_continue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not http.awaits_continue
    assert not http.response_begun, "a 1xx is no answer yet"
    http.receive_data(b"abc")
    assert [http.next_event(), http.next_event()] == [BodyPart(b"abc"), Signal.END_OF_BODY]
    assert http.respond(Response(200, b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")


def test_whether_an_answer_has_begun_is_known_up_to_its_end_and_anew_for_each_request() -> None:
    http = asked(GET * 2)
    assert http.next_event() is Signal.END_OF_BODY
    assert not http.response_begun
    http.begin_response(200, [(b"Content-Length", b"2")])
    assert http.response_begun
    assert http.send_body(b"ok") + http.end_response() == b"ok"
    assert http.response_begun
    http.start_next_request()
    assert not http.response_begun


def test_9112_6_3_an_endless_body_has_no_length_and_no_chunks_and_ends_with_the_connection() -> None:
    head = asked(GET).begin_endless_response([(b"Content-Type", b"text/event-stream"), (b"X-One", b"1")])
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(head + b"data: a\n\n")
    answer = client.next_event()
    assert isinstance(answer, h11.Response)
    assert answer.status_code == 200
    assert list(answer.headers) == [
        (b"content-type", b"text/event-stream"), (b"x-one", b"1"), (b"connection", b"close")
    ]  # fmt: skip
    data = client.next_event()
    assert isinstance(data, h11.Data)
    assert data.data == b"data: a\n\n"
    client.receive_data(b"")
    assert isinstance(client.next_event(), h11.EndOfMessage)


def test_9112_9_6_a_client_that_ends_its_side_behind_a_request_is_answered_and_then_gone() -> None:
    exchange = Exchange([GET + b"\r\n", b""])
    assert exchange.sent == [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
    http = asked(GET)
    http.receive_data(b"")
    assert http.next_event() is Signal.END_OF_BODY
    http.respond(Response(200, b"ok"))
    assert http.can_continue
    http.start_next_request()
    assert http.next_event() is Signal.END_OF_STREAM


def test_behind_a_request_that_was_refused_nothing_is_a_request() -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(b"GET / HTTP/1.1\r\nbad\r\n\r\n")
    first = http.next_event()
    assert isinstance(first, Refusal)
    http.respond(Response(first.status), close=True)
    assert not http.can_continue
    again = http.next_event()
    assert isinstance(again, Refusal)
    assert (again.status, again.sentence.startswith("Malformed request: ")) == (400, True)


# Another server's connection, taken over (RFC 9110 §7.8)


def taken_over(raw: bytes, limits: Limits = LIMITS) -> HttpPhase:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    assert isinstance(connection.next_event(), h11.Request)
    return HttpPhase.resume(connection, limits)


@pytest.mark.parametrize("trailing", [b"", b"\x89\x00"])
def test_a_request_that_another_server_has_read_is_switched_and_what_is_behind_it_are_frames(trailing: bytes) -> None:
    http = taken_over(request(b"Connection: Upgrade", b"Upgrade: websocket") + trailing)
    assert (http.request_begun, http.response_begun) == (True, False)
    sent = http.switch_protocols([(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")])
    assert sent == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert http.trailing_data == (trailing, False)


@pytest.mark.parametrize(
    "body",
    [
        request(b"Content-Length: 3", line=b"POST / HTTP/1.1", body=b"abc"),
        request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1", body=b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunks"],
)
def test_the_body_of_a_request_that_was_taken_over_is_passed_over_and_the_next_is_read(body: bytes) -> None:
    http = taken_over(body + GET)
    assert http.respond(Response(400, b"no")).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert http.can_continue
    http.start_next_request()
    following = http.next_event()
    assert isinstance(following, Request)
    assert following.raw_head == GET


def test_taking_over_waits_for_no_more_of_a_body_than_has_come() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    connection.next_event()
    phase = HttpPhase.resume(connection, Limits())
    assert phase.next_event() is Signal.NEED_DATA
    phase.receive_data(b"cde")
    assert phase.next_event() is not Signal.NEED_DATA


def test_a_head_is_there_twice_until_it_is_whole() -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(GET[:-2])
    assert http.held_bytes == 2 * len(GET[:-2])
    http.receive_data(b"\r\nGET")
    assert isinstance(http.next_event(), Request)
    http.next_event()
    assert http.held_bytes == len(b"GET")


# The parts of an answer, each in its turn

PLAIN = [(b"Content-Length", b"2")]
UPGRADE = request(b"Connection: Upgrade", b"Upgrade: websocket")
PARTS: dict[str, Callable[[HttpPhase], bytes]] = {
    "head": lambda http: http.begin_response(200, PLAIN),
    "closing head": lambda http: http.begin_response(200, PLAIN, close=True),
    "body": lambda http: http.send_body(b"ok"),
    "end": lambda http: http.end_response(),
    "100": lambda http: http.send_100_continue(),
    "101": lambda http: http.switch_protocols([(b"Upgrade", b"websocket")]),
}


def waiting_for_answer(raw: bytes, *, fast_lane: bool = True) -> HttpPhase:
    """Return the connection of a client that waits for the answer to a request without a body."""
    http = HttpPhase(LIMITS, fast_lane=fast_lane)
    http.receive_data(raw)
    assert isinstance(http.next_event(), Request)
    assert http.next_event() is Signal.END_OF_BODY
    return http


def test_a_clean_request_is_read_with_its_end() -> None:
    http = HttpPhase(LIMITS)
    assert http.next_clean_request() is None
    http.receive_data(GET[:-4])
    assert http.next_clean_request() is None
    http.receive_data(GET[-4:] + GET[:-2] + b"Content-Length: 1\r\n\r\nx")
    request = http.next_clean_request()
    assert request is not None
    assert request.raw_head == GET
    assert http.next_clean_request() is None, "the next one comes when this one is answered"
    assert http.respond(Response(200)) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    http.start_next_request()
    assert http.next_clean_request() is None, "it has a body"
    assert isinstance(http.next_event(), Request)
    assert http.next_event() == BodyPart(b"x")


def test_no_request_is_clean_for_study() -> None:
    http = HttpPhase(LIMITS, fast_lane=False)
    http.receive_data(GET)
    assert http.next_clean_request() is None
    assert isinstance(http.next_event(), Request)


def test_9110_9_3_2_the_pieces_of_an_answer_to_head_stay_here() -> None:
    http = waiting_for_answer(GET.replace(b"GET", b"HEAD"))
    assert http.begin_response(200, [(b"Content-Length", b"2")]).endswith(b"\r\nContent-Length: 2\r\n\r\n")
    assert http.send_body(b"ok") + http.end_response() == b""
    assert http.can_continue


LATE = ["head", "closing head", "100", "101"]


@pytest.mark.parametrize(
    ("before", "out_of_turn"),
    [
        ("", ["body", "end"]),
        ("head", LATE),
        ("head, body", LATE),
        ("head, body, end", [*LATE, "body", "end"]),
        ("101", [*LATE, "body", "end"]),
    ],
)
def test_nothing_is_sent_out_of_turn(before: str, out_of_turn: list[str]) -> None:
    for first in out_of_turn:
        http = waiting_for_answer(UPGRADE)
        for part in filter(None, before.split(", ")):
            PARTS[part](http)
        for part in (first, *PARTS):
            with pytest.raises(h11.LocalProtocolError):
                PARTS[part](http)
        assert http.response_begun
        assert not http.can_continue


def test_the_next_request_waits_for_the_end_of_the_response() -> None:
    http = waiting_for_answer(GET + UPGRADE)
    for part in ("head", "body", "end"):
        PARTS[part](http)
        assert http.next_event() is Signal.NEED_DATA
        assert http.response_begun
    http.start_next_request()
    following = http.next_event()
    assert isinstance(following, Request)
    assert following.raw_head == UPGRADE


@pytest.mark.parametrize("fast_lane", [True, False])
def test_an_answer_before_the_end_of_the_request_closes(fast_lane: bool) -> None:
    for end in ([], [b""]):
        http = HttpPhase(LIMITS, fast_lane=fast_lane)
        for chunk in (GET + b"GET", *end):
            http.receive_data(chunk)
        assert isinstance(http.next_event(), Request)
        assert http.begin_response(200, PLAIN) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        assert http.closes_early
        assert http.send_body(b"ok") + http.end_response() == b"ok"
        assert not http.can_continue
        assert http.trailing_data == (b"GET", bool(end))


@pytest.mark.parametrize("fast_lane", [True, False])
def test_a_client_that_ends_its_side_is_answered_at_length_too(fast_lane: bool) -> None:
    http = waiting_for_answer(GET, fast_lane=fast_lane)
    http.receive_data(b"")
    assert http.begin_response(200, []).endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    assert http.send_body(b"ok") + http.end_response() == b"2\r\nok\r\n0\r\n\r\n"
    http.start_next_request()
    assert http.next_event() is Signal.END_OF_STREAM


@pytest.mark.parametrize("fast_lane", [True, False])
def test_9110_15_2_2_a_switch_ends_what_is_sent_as_http(fast_lane: bool) -> None:
    http = waiting_for_answer(UPGRADE + b"\x81", fast_lane=fast_lane)
    fields = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert http.switch_protocols(fields) == head
    assert http.trailing_data == (b"\x81", False)
    assert http.next_event() is Signal.NEED_DATA


def test_h11_is_not_needed_to_wait_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks before the first bytes come. The request is as clean afterwards."""
    monkeypatch.setattr(h11, "Connection", None)
    http = HttpPhase(LIMITS)
    for _ in range(2):
        assert http.next_event() is Signal.NEED_DATA
        http.receive_data(GET)
        assert isinstance(http.next_event(), Request)
        assert http.next_event() is Signal.END_OF_BODY
        assert http.respond(Response(200, b"ok")).endswith(b"\r\n\r\nok")
        http.start_next_request()


def test_a_phase_is_at_rest_until_something_has_arrived_and_again_after_a_clean_exchange() -> None:
    http = HttpPhase(Limits())
    assert http.is_at_rest
    http.receive_data(b"\r\n")
    assert not http.is_at_rest, "an empty line counts towards the limit on the head"
    http.receive_data(b"GET / HTTP/1.1\r\n")
    assert not http.is_at_rest
    http.receive_data(b"Host: a\r\n\r\n")
    assert isinstance(http.next_clean_request(), Request)
    http.respond(Response(200, "hi"))
    assert not http.is_at_rest
    http.start_next_request()
    assert http.is_at_rest
    http.receive_data(b"")
    assert not http.is_at_rest, "h11 has the end of the stream"
