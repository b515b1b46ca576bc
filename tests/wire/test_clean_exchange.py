"""The fast lane of HTTP/1.1 against h11: the same events, bytes and errors for all that a client may send."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.clean_exchange import CleanExchange, read_clean
from rawws.wire.http1 import BodyPart, HttpPhase, Signal
from rawws.wire.messages import NO_STORE, Headers, Request, Response
from tests.wire.helpers import every_split

LIMITS = Limits(max_header_bytes=300, max_target_bytes=40, max_headers=6, max_body_bytes=64)
UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

Fields = list[tuple[bytes, bytes]]


def head(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a:80") -> bytes:
    return b"".join(part + b"\r\n" for part in (line, host, *lines) if part) + b"\r\n"


def read(raw: bytes, limits: Limits = LIMITS) -> CleanExchange | None:
    return read_clean(bytearray(raw), limits, limits.max_header_bytes)


def begun(raw: bytes = head()) -> CleanExchange:
    exchange = read(raw)
    assert exchange is not None
    return exchange


# The heads that are clean


def test_a_clean_head_is_a_request() -> None:
    raw = head(b"Accept:\t a, b ", b"X:", line=b"GET /a%20b?c=d HTTP/1.1")
    exchange = begun(raw + b"GET /next")
    headers = Headers([("Host", "a:80"), ("Accept", "a, b"), ("X", "")])
    assert exchange.request == Request("GET", "/a%20b?c=d", "1.1", headers, raw)
    assert exchange.trailing == b"GET /next"


def test_a_head_that_comes_again_is_not_split_again() -> None:
    raw = head(b"X: again")
    assert begun(raw).request is begun(raw).request
    for _ in range(2):
        pipelined = begun(raw + head())
        assert pipelined.request == begun(raw).request
        assert pipelined.trailing == head()


@pytest.mark.parametrize(
    "raw",
    [
        head(b"X: " + b"a" * 2048),
        head(*[b"X: a"] * 32),
        head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        head(b"authorization: Bearer secret"),
        head(b"Cookie: session=secret"),
        head(b"Proxy-Authorization: Basic c2VjcmV0"),
        head(line=b"GET /room/a?token=secret HTTP/1.1"),
    ],
    ids=["long", "many fields", "a handshake", "a token", "a cookie", "a password", "a token in the query"],
)
def test_a_head_that_is_large_or_secret_or_will_not_come_again_is_not_kept(raw: bytes) -> None:
    first, second = read(raw, Limits()), read(raw, Limits())
    assert first is not None
    assert second is not None
    assert first.request is not second.request
    assert first.request == second.request


@pytest.mark.parametrize(
    "stricter",
    [Limits(max_header_bytes=40), Limits(max_target_bytes=5), Limits(max_headers=1)],
    ids=["bytes", "target", "fields"],
)
def test_the_limits_hold_for_a_head_that_was_read_under_others(stricter: Limits) -> None:
    raw = head(b"X: a", line=b"GET /" + b"a" * 40 + b" HTTP/1.1")
    assert read(raw, Limits()) is not None
    assert read(raw, stricter) is None


@pytest.mark.parametrize(
    "raw",
    [
        head()[:-1],
        head(line=b"POST / HTTP/1.1"),
        head(line=b"GET / HTTP/1.0"),
        head(line=b"GET http://a/ HTTP/1.1"),
        head(line=b"GET /#a HTTP/1.1"),
        head(line=b"GET  / HTTP/1.1"),
        head(line=b"GET /\xc3\xa4 HTTP/1.1"),
        head(host=b""),
        head(host=b"Host: a/b"),
        head(host=b"Host: a@b"),
        head(b"Host: a:80"),
        head(b"Content-Length: 0"),
        head(b"transfer-encoding: chunked"),
        head(b"Expect: 100-continue"),
        head(b"Connection: Keep-Alive, Close"),
        head(b"Connection: Upgrade", b"Upgrade: ,"),
        head(b"X : a"),
        head(b"X: a", b" b"),
        head(b"X: a\nY: b"),
        head(b"X: \x7f"),
        head(b"X: \x00"),
        head(b"X: \xc3\xa4"),
        head(b"X: a\r"),
        head(b"X"),
        head(line=b"GET /" + b"a" * 60 + b" HTTP/1.1"),
        head(b"X: " + b"a" * 300),
        head(*[b"X: a"] * 6),
    ],
)
def test_any_other_head_is_left_to_h11(raw: bytes) -> None:
    assert read(raw) is None


# The responses that are plain


def test_a_response_whose_length_is_known_is_written_here() -> None:
    exchange = begun()
    assert not exchange.response_begun
    assert exchange.begin_response(200, [(b"Content-Length", b"3"), (b"X", b"a\tb")]) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: a\tb\r\n\r\n"
    )
    assert exchange.response_begun
    assert exchange.send_body(b"ab") + exchange.send_body(b"c") == b"abc"
    assert not exchange.can_continue
    assert exchange.end_response() == b""
    assert exchange.can_continue


def test_a_response_without_a_phrase_has_none() -> None:
    assert begun().begin_response(299, [(b"Content-Length", b"0")]) == b"HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    exchange = begun(head(line=b"HEAD / HTTP/1.1"))
    assert exchange.begin_response(200, [(b"Content-Length", b"9")]) is not None
    exchange.end_response()
    assert exchange.can_continue


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (103, [(b"Content-Length", b"0")]),
        (204, [(b"X", b"a")]),
        (304, [(b"Content-Length", b"0")]),
        (200, []),
        (200, [(b"Content-Length", b"1"), (b"content-length", b"1")]),
        (200, [(b"Content-Length", b"x")]),
        (200, [(b"Content-Length", b"1"), (b"Connection", b"close")]),
        (200, [(b"Content-Length", b"1"), (b"Host", b"a")]),
        (200, [(b"Content-Length", b"1"), (b"a b", b"a")]),
        (200, [(b"Content-Length", b"1"), (b"a", b"a\r\nb: c")]),
        (200, [(b"Content-Length", b"1"), (b"a", b" a")]),
    ],
)
def test_any_other_response_is_left_to_h11(status: int, fields: Fields) -> None:
    exchange = begun()
    assert exchange.begin_response(status, fields) is None
    assert not exchange.response_begun


DATE = (b"Date", b"Mon, 30 Nov 2026 21:00:00 GMT")


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"HEAD / HTTP/1.1"])
def test_a_whole_response_is_written_in_one_go(line: bytes) -> None:
    exchange = begun(head(line=line))
    response = Response(404, "no", [("X", "a\tb")])
    first, body = exchange.respond(response, [DATE]) or (b"", b"")
    assert first == (
        b"HTTP/1.1 404 Not Found\r\nDate: Mon, 30 Nov 2026 21:00:00 GMT\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nX: a\tb\r\nContent-Length: 2\r\n\r\n"
    )
    assert body == (b"" if line.startswith(b"HEAD") else b"no")
    assert exchange.can_continue
    with pytest.raises(h11.LocalProtocolError, match="state=DONE"):
        exchange.respond(response, [DATE])


@pytest.mark.parametrize(
    ("response", "more"),
    [
        (Response(103), []),
        (Response(204), []),
        (Response(304), []),
        (Response(200, b"", [("Content-Length", "0")]), []),
        (Response(200, b"", [("Connection", "close")]), []),
        (Response(200, b"", [("Transfer-Encoding", "chunked")]), []),
        (Response(200, b"", Headers([("a", "a\r\nb: c")])), []),
        (Response(200, b"", Headers([("a b", "a")])), []),
        (Response(200), [(b"Server", b" a")]),
        (Response(200), [(b"a b", b"a")]),
        (Response(200), [(b"Connection", b"close")]),
        (Response(200), [(b"Content-Length", b"1")]),
    ],
)
def test_any_other_whole_response_is_left_to_h11(response: Response, more: Fields) -> None:
    exchange = begun()
    assert exchange.respond(response, more) is None
    assert not exchange.response_begun


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize(
    "response",
    [Response(200, "ok", [NO_STORE]), Response(200), Response(204), Response(404, b"x" * 70, [("Upgrade", "h2c")])],
)
@pytest.mark.parametrize("raw", [head(), head(line=b"HEAD / HTTP/1.1"), UPGRADE])
def test_h11_writes_a_whole_response_likewise(raw: bytes, response: Response, close: bool) -> None:
    written = []
    for fast_lane in (True, False):
        http = HttpPhase(LIMITS, fast_lane=fast_lane)
        http.receive_data(raw)
        assert isinstance(http.next_event(), Request)
        assert http.next_event() is Signal.END_OF_BODY
        answer = http.respond_apart(response, [DATE], close=close)
        written.append((answer, http.response_status, http.can_continue, http.closes_early))
    assert written[0] == written[1]


@pytest.mark.parametrize(("body", "reason"), [(b"a", "Too little data"), (b"abc", "Too much data")])
def test_a_body_has_its_announced_length(body: bytes, reason: str) -> None:
    exchange = begun()
    assert exchange.begin_response(200, [(b"Content-Length", b"2")]) is not None
    with pytest.raises(h11.LocalProtocolError, match=reason):
        exchange.send_body(body) + exchange.end_response()
    assert not exchange.can_continue


PLAIN = [(b"Content-Length", b"2")]


def test_a_part_that_is_out_of_turn_is_the_last() -> None:
    exchange = begun()
    with pytest.raises(h11.LocalProtocolError, match=r"event type EndOfMessage when .* state=SEND_RESPONSE"):
        exchange.end_response()
    with pytest.raises(h11.LocalProtocolError, match="our state is ERROR"):
        exchange.begin_response(200, PLAIN)
    with pytest.raises(h11.LocalProtocolError, match="our state is ERROR"):
        exchange.send_body(b"a")
    assert exchange.response_begun
    assert not exchange.can_continue


def test_the_101_of_an_upgrade() -> None:
    exchange = begun(UPGRADE)
    exchange.receive_data(b"\x81")
    exchange.receive_data(b"")
    assert exchange.switch_protocols([(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert (bytes(exchange.trailing), exchange.has_ended, exchange.can_continue) == (b"\x81", True, False)


@pytest.mark.parametrize("fields", [[(b"Host", b"a")], [(b"a b", b"a")], [(b"a", b"a\n")]])
def test_any_other_101_is_left_to_h11(fields: Fields) -> None:
    assert begun(UPGRADE).switch_protocols(fields) is None
    assert begun().switch_protocols([(b"Upgrade", b"websocket")]) is None


# Both lanes


class Server:
    """Answers requests in one of the lanes as a script says, and writes down all that can be seen of it."""

    def __init__(self, script: list[tuple[str, int, Fields, list[bytes]]], *, fast_lane: bool) -> None:
        self.http = HttpPhase(LIMITS, fast_lane=fast_lane)
        self.script = iter(script)
        self.seen: list[Any] = []

    def receive(self, chunk: bytes) -> bool:
        self.http.receive_data(chunk)
        while self._take(self.http.next_event()):
            self.seen.append(self._state())
        self.seen.append(self._state())
        return not isinstance(self.seen[-2], Refusal) and "over" not in self.seen

    def _take(self, event: object) -> bool:
        self.seen.append(event)
        if isinstance(event, Request):
            self.seen.append(event.raw_head)
        if event is not Signal.END_OF_BODY:
            return isinstance(event, Request | BodyPart)
        try:
            self._answer(*next(self.script, ("whole", 200, [(b"Content-Length", b"2")], [b"ok"])))
        except h11.LocalProtocolError as error:
            self.seen.append(str(error))
            self._answer_after_all()
        self.seen.append(self._state())
        if not self.http.can_continue:
            self.seen.append("over")
            return False
        self.http.start_next_request()
        return True

    def _answer(self, how: str, status: int, fields: Fields, pieces: list[bytes]) -> None:
        sent = self.seen.append
        if how == "switch":
            sent(self.http.switch_protocols([(b"Upgrade", b"websocket"), *fields]))
            return
        if how == "early":
            sent(self.http.send_body(b"ok"))
        if how == "look":  # as a server does that waits for the client's leaving meanwhile
            sent(self.http.next_event())
        sent(self.http.begin_response(status, fields, close=how == "close"))
        for piece in pieces:
            sent(self.http.send_body(piece))
        if how == "twice":
            sent(self.http.begin_response(status, fields))
        sent(self.http.end_response())

    def _answer_after_all(self) -> None:
        """Try to answer in place of a response that has failed, as an application may."""
        try:
            self.seen.append(self.http.begin_response(500, PLAIN))
            self.seen.append(self.http.send_body(b"no") + self.http.end_response())
        except h11.LocalProtocolError as error:
            self.seen.append(str(error))

    def _state(self) -> object:
        http = self.http
        parts = (http.request_begun, http.response_begun, http.awaits_continue, http.response_status, http.closes_early)
        return (*parts, http.can_continue, http.raw_head, http.trailing_data if http.response_begun else None)


LINES = st.sampled_from(
    [b"GET / HTTP/1.1", b"HEAD /a?b HTTP/1.1", b"GET / HTTP/1.0", b"POST / HTTP/1.1", b"GET /# HTTP/1.1", b"GET"]
)
FIELD_LINES = st.sampled_from(
    [
        *(b"Accept: a", b"X:", b"Y: \t a b\t", b"Connection: Upgrade", b"Upgrade: websocket", b"Connection: close"),
        *(b"Connection: keep-alive", b"Content-Length: 0", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        *(b"Host: b", b"Z: \x80", b" folded", b"bad", b"Expect: 100-continue", b"Long: " + b"l" * 200, b"a: b\nc: d"),
    ]
)
HEADS = st.builds(
    lambda line, host, fields, end: b"\r\n".join([line, *host, *fields]) + end,
    LINES,
    st.sampled_from([[b"Host: a"], [b"host:a:1"], [], [b"Host: a b"]]),
    st.lists(FIELD_LINES, max_size=4),
    st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\nabc", b"\n\n", b"\r\n"]),
)
CLEAN = st.sampled_from([head(), head(b"Accept: a"), UPGRADE, UPGRADE, head(line=b"HEAD / HTTP/1.1"), b"\r\n" + head()])
RUBBISH = st.binary(max_size=8)
FIELDS = st.lists(
    st.sampled_from(
        [
            *(
                (b"Content-Length", b"2"),
                (b"Content-Length", b"3"),
                (b"content-length", b"x"),
                (b"X", b"a"),
                (b"Y", b""),
            ),
            *((b"Connection", b"close"), (b"Transfer-Encoding", b"chunked"), (b"Host", b"a")),
            *((b"Upgrade", b"h2c"), (b"a b", b"c"), (b"Z", b" z"), (b"Q", b"\r\n"), (b"O", b"\x80\x01")),
        ]
    ),
    max_size=3,
)
ANSWERS = st.tuples(
    st.sampled_from(["whole", "whole", "look", "close", "switch", "early", "twice"]),
    st.sampled_from([200, 200, 299, 404, 204, 304]),
    FIELDS,
    st.lists(st.sampled_from([b"ok", b"", b"abc"]), max_size=2),
)
PLAIN_ANSWERS = st.builds(
    lambda how, more, body: (how, 200, [(b"Content-Length", b"2"), *more], body),
    st.sampled_from(["whole", "whole", "look", "switch", "early", "twice"]),
    st.lists(st.sampled_from([(b"X", b"a"), (b"Y", b"")]), max_size=1),
    st.sampled_from([[b"ok"], [b"ok"], [b"o", b"k"], [b"o"], [b"ok", b"ok"]]),
)


@given(
    chunks=st.one_of(st.lists(CLEAN, min_size=1, max_size=4), st.lists(st.one_of(CLEAN, HEADS, RUBBISH), max_size=4)),
    cut=st.one_of(st.just(0), st.just(0), st.integers(0, 80)),
    script=st.lists(st.one_of(PLAIN_ANSWERS, PLAIN_ANSWERS, ANSWERS), max_size=4),
    ends=st.booleans(),
)
@example(chunks=[UPGRADE + b"\x81\x00"], cut=0, script=[("switch", 101, [], [])], ends=True)
@example(chunks=[UPGRADE], cut=0, script=[("whole", 404, [(b"Content-Length", b"2")], [b"ok"])], ends=False)
@example(chunks=[head() + head()], cut=0, script=[("look", 200, [(b"Content-Length", b"2")], [b"ok"])], ends=True)
def test_h11_comes_to_the_same(
    chunks: list[bytes], cut: int, script: list[tuple[str, int, Fields, list[bytes]]], ends: bool
) -> None:
    whole = b"".join(chunks)
    pieces = [whole[:cut], whole[cut:]] if cut and len(whole) > cut else [whole]
    servers = [Server(script, fast_lane=fast_lane) for fast_lane in (True, False)]
    for piece in [*filter(None, pieces), *[b""] * ends]:
        fast, plain = (server.receive(piece) for server in servers)
        if not (fast and plain):
            break
    assert servers[0].seen == servers[1].seen


def test_a_head_in_two_reads_is_read_too() -> None:
    for chunks in every_split(head() + UPGRADE):
        servers = [Server([], fast_lane=fast_lane) for fast_lane in (True, False)]
        for chunk in chunks:
            for server in servers:
                server.receive(chunk)
        assert servers[0].seen == servers[1].seen
