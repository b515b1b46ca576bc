"""A client's HTTP phase: the bytes of a request out, bytes in and an answer out (RFC 9110, RFC 9112)."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawws.limits import Limits
from rawws.wire.http1 import Signal
from rawws.wire.http1_client import MAX_INTERIM_RESPONSES, ResponsePhase
from rawws.wire.messages import Headers, Request, Response
from tests.traced_memory import traced_memory
from tests.wire.helpers import any_chunking, every_split

LIMITS = Limits()
UPGRADE = Request("GET", "/", "1.1", Headers([("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]))
CONNECT = Request("CONNECT", "h:443", "1.1", Headers([("Host", "h:443")]))
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
FRAMES = b"\x81\x05Hello\x89\x00"
EOF = b""


def ask(chunks: list[bytes], request: Request = UPGRADE, limits: Limits = LIMITS) -> tuple[ResponsePhase, object]:
    """Feed an answer as a client would, up to its outcome; an empty chunk is the end of the stream."""
    phase = ResponsePhase(limits)
    phase.send_request(request)
    for chunk in chunks:
        phase.receive_data(chunk)
        if (event := phase.next_event()) is not Signal.NEED_DATA:
            assert phase.next_event() is event  # for ever
            return phase, event
    return phase, Signal.NEED_DATA


def assert_answered(chunks: list[bytes], request: Request = UPGRADE, limits: Limits = LIMITS) -> Response:
    _, event = ask(chunks, request, limits)
    assert isinstance(event, Response), event
    return event


def assert_fault(chunks: list[bytes], said: str, request: Request = UPGRADE, limits: Limits = LIMITS) -> str:
    """One sentence, which says what is wrong in characters fit for a log."""
    _, event = ask(chunks, request, limits)
    assert isinstance(event, str), event
    assert event.isascii()
    assert event.isprintable()
    assert said in event
    return event


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"".join(part + b"\r\n" for part in (line, *lines)) + b"\r\n" + body


# The request


def test_9112_3_a_request_as_it_goes_out() -> None:
    headers = Headers([("Host", "h:443"), ("Proxy-Authorization", "Basic YTpi")])
    assert ResponsePhase(LIMITS).send_request(Request("CONNECT", "h:443", "1.1", headers)) == (
        b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n"
    )


# 101, and a proxy's 2xx


def test_9110_15_2_2_a_101_has_no_body_and_what_comes_behind_it_is_kept() -> None:
    for trailing in (b"", FRAMES, SWITCHED):
        for cut in range(1, len(SWITCHED) + 1):
            phase, event = ask(
                [SWITCHED[:cut], SWITCHED[cut:] + trailing] if cut < len(SWITCHED) else [SWITCHED + trailing]
            )
            assert isinstance(event, Response)
            assert (event.status, event.body, event.raw_head) == (101, b"", SWITCHED)
            assert list(event.headers) == [("Upgrade", "websocket"), ("Connection", "Upgrade")]
            assert phase.trailing_data == trailing


def test_9110_15_2_2_byte_by_byte_nothing_is_behind_a_101_until_it_comes() -> None:
    phase, event = ask([bytes([byte]) for byte in SWITCHED])
    assert isinstance(event, Response)
    assert phase.trailing_data == b""
    phase.receive_data(FRAMES)
    assert phase.next_event() is event
    assert phase.trailing_data == FRAMES


def test_a_length_in_a_101_announces_no_body() -> None:
    raw = response(b"Content-Length: 5", b"Upgrade: websocket", line=b"HTTP/1.1 101 x")
    phase, event = ask([raw + FRAMES])
    assert isinstance(event, Response)
    assert (event.body, phase.trailing_data) == (b"", FRAMES)


@pytest.mark.parametrize("status", [b"200 OK", b"200 Connection established", b"204 No Content", b"299"])
def test_9110_9_3_6_a_proxys_2xx_has_no_body_whatever_it_says(status: bytes) -> None:
    raw = response(b"Content-Length: 5", b"Transfer-Encoding: chunked", line=b"HTTP/1.1 " + status)
    for chunks in every_split(raw):
        phase, event = ask([*chunks[:-1], chunks[-1] + b"\x16\x03"], CONNECT)
        assert isinstance(event, Response)
        assert (event.body, event.raw_head, phase.trailing_data) == (b"", raw, b"\x16\x03")


def test_9110_9_3_6_a_proxys_refusal_has_a_body() -> None:
    raw = response(b"Content-Length: 2", line=b"HTTP/1.1 407 Proxy Authentication Required", body=b"no")
    refused = assert_answered([raw], CONNECT)
    assert (refused.status, refused.body) == (407, b"no")


def test_9110_7_8_a_switch_that_nobody_asked_for_is_a_fault() -> None:
    assert_fault([SWITCHED], "which nobody asked for", CONNECT)
    assert_fault([SWITCHED], "which nobody asked for", Request("GET", "/", "1.1", Headers([("Host", "h")])))


# Any other answer, with its body


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (response(b"Content-Length: 2", body=b"no"), b"no"),
        (response(b"Content-Length: 0"), b""),
        (response(b"Content-Length: 2", b"Content-Length: 2", body=b"no"), b"no"),
        (response(b"Transfer-Encoding: chunked", body=b"1\r\nn\r\n1;x=y\r\no\r\n0\r\nX: y\r\n\r\n"), b"no"),
        (response(line=b"HTTP/1.1 204 No Content"), b""),
        (response(b"Content-Length: 9", line=b"HTTP/1.1 304 Not Modified"), b""),
    ],
    ids=["length", "empty", "length twice", "chunked", "204", "304"],
)
def test_9112_6_3_an_answer_is_whole_with_the_end_of_its_body(raw: bytes, body: bytes) -> None:
    head, _, _ = raw.partition(b"\r\n\r\n")
    for chunks in every_split(raw):
        phase, event = ask(chunks)
        assert isinstance(event, Response)
        assert (event.body, event.raw_head, phase.body_cut) == (body, head + b"\r\n\r\n", False)
    assert assert_answered([raw + FRAMES]).body == body


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 403 Forbidden", b"HTTP/1.0 403 Forbidden", b"HTTP/1.1 403", b"HTTP/1.1 403 "]
)
def test_9112_6_3_without_a_length_the_body_ends_with_the_stream(line: bytes) -> None:
    raw = response(line=line, body=b"no")
    for chunks in every_split(raw):
        assert ask(chunks)[1] is Signal.NEED_DATA
        phase, event = ask([*chunks, EOF])
        assert isinstance(event, Response)
        assert (event.status, event.reason, event.body, phase.body_cut) == (403, "Forbidden", b"no", False)


@pytest.mark.parametrize(
    "raw",
    [
        response(b"Content-Length: 10", body=b"no") + EOF,
        response(b"Transfer-Encoding: chunked", body=b"2\r\nno\r\n"),
        response(b"Transfer-Encoding: chunked", body=b"2\r\nno\r\n0\r\n"),
        response(b"Transfer-Encoding: chunked", body=b"2\r\nno\r\nX\r\n\r\n"),
        response(b"Transfer-Encoding: chunked", body=b"2\r\nno!!\r\n"),
    ],
    ids=["cut short", "no last chunk", "no end of the trailers", "bad chunk", "bad end of a chunk"],
)
def test_the_received_part_of_a_broken_body_is_returned(raw: bytes) -> None:
    for chunks in every_split(raw):
        phase, event = ask([*chunks, EOF])
        assert isinstance(event, Response)
        assert (event.status, event.body, phase.body_cut) == (200, b"no", True)


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"X: until the end"])
def test_a_body_is_cut_at_its_limit_and_the_rest_not_waited_for(framing: bytes) -> None:
    limits = Limits(max_body_bytes=10)
    head = response(framing)
    phase, event = ask([head, b"0123456", b"789"], limits=limits)
    assert event is Signal.NEED_DATA
    for chunks in ([head + b"0123456789a"], [head, b"0123456", b"789a"], [head, b"0123456789", b"a"]):
        phase, event = ask(chunks, limits=limits)
        assert isinstance(event, Response)
        assert (event.body, phase.body_cut) == (b"0123456789", True)


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"X: until the end"])
def test_a_body_that_does_not_end_is_cut_where_it_is(framing: bytes) -> None:
    body = b"2\r\nno\r\n" if b"chunked" in framing else b"no"
    phase, event = ask([response(framing, line=b"HTTP/1.1 401 Unauthorized"), body])
    assert event is Signal.NEED_DATA
    assert phase.answer is not None
    assert (phase.answer.status, phase.answer.body) == (401, b"")
    answer = phase.cut_body()
    assert (answer.status, answer.body, phase.body_cut) == (401, b"no", True)
    assert phase.next_event() is answer


def test_a_body_of_just_the_limit_is_whole() -> None:
    raw = response(b"Content-Length: 10", body=b"0123456789")
    for chunks in every_split(raw):
        phase, event = ask(chunks, limits=Limits(max_body_bytes=10))
        assert isinstance(event, Response)
        assert (event.body, phase.body_cut) == (b"0123456789", False)


# §15.2: 1xx


def test_9110_15_2_interim_answers_are_passed_over() -> None:
    hints = response(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints")
    go_on = response(line=b"HTTP/1.1 100 Continue")
    for chunks in every_split(go_on + hints + SWITCHED):
        answer = assert_answered(chunks)
        assert (answer.status, answer.raw_head) == (101, SWITCHED)
    assert assert_answered([go_on + response(b"Content-Length: 2", body=b"no")]).body == b"no"


def test_9110_15_2_interim_answers_without_end_are_a_fault() -> None:
    go_on = response(line=b"HTTP/1.1 100 Continue")
    assert assert_answered([go_on * MAX_INTERIM_RESPONSES + SWITCHED]).status == 101
    for chunks in ([go_on * (MAX_INTERIM_RESPONSES + 1) + SWITCHED], [go_on] * (MAX_INTERIM_RESPONSES + 1)):
        assert_fault(chunks, f"more than {MAX_INTERIM_RESPONSES} interim answers")


# Bytes that are no answer


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", r"begins with 'SSH-2.0-OpenSSH_9.2p1\r\n'"),
        (b"220 mail.example.com ESMTP\r\n", "begins with '220 mail"),
        (b"http/1.1 101 x\r\n\r\n", "begins with 'http/1.1"),
        (b"\r\nHTTP/1.1 101 x\r\n\r\n", r"begins with '\r\nHTTP/1.1"),
        (b" HTTP/1.1 101 x\r\n\r\n", "begins with ' HTTP/1.1"),
        (b"HTTPS/1.1 101 x\r\n\r\n", "begins with 'HTTPS"),
        (b"ICY 200 OK\r\n\r\n", "begins with 'ICY"),
        (b"<html>", "begins with '<html>'"),
        (b"\x00\x00\x12\x04\x00", r"begins with '\x00\x00\x12\x04\x00'"),
        (b"\xff\xfe\xe9", r"begins with '\xff\xfe\xe9'"),
        (b"x" * 100_000, "begins with 'xxxxx"),
    ],
)
def test_bytes_that_are_not_http_are_reported_at_once_with_their_beginning(raw: bytes, shown: str) -> None:
    sentence = assert_fault([raw], shown)
    assert sentence.startswith("the server's answer is not HTTP")
    assert len(sentence) < 250
    assert_fault([raw[i : i + 1] for i in range(min(6, len(raw)))], "the server's answer is not HTTP: it begins with '")


@pytest.mark.parametrize(
    "raw", [b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03\x03\x00\x7a\x02"], ids=["alert", "handshake"]
)
def test_a_server_that_speaks_tls_is_told_as_such(raw: bytes) -> None:
    for chunks in every_split(raw):
        assert_fault(chunks, "the server speaks TLS on this port")
    assert_fault([raw[:1], EOF], r"begins with '\x1")
    assert_fault([raw[:1] + b"x"], r"begins with '\x1")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "before it answered"),
        (b"HT", "in the middle of its answer"),
        (SWITCHED[:-1], "in the middle of its answer"),
        (response(line=b"HTTP/1.1 100 Continue"), "before it answered"),
        (response(line=b"HTTP/1.1 100 Continue") + b"HTTP/1.1 1", "in the middle of its answer"),
    ],
)
def test_a_stream_that_ends_early_is_told_as_such(raw: bytes, said: str) -> None:
    for chunks in every_split(raw) if raw else [[]]:
        assert ask(chunks)[1] is Signal.NEED_DATA
        phase, reason = ask([*chunks, EOF])
        assert (reason, phase.cut_off) == (f"the server closed the connection {said}", True)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"HTTP/1.1\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1 abc x\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1 1010 x\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/11 101 x\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1  101 x\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1 _SWITCH_ Content-Length\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1 \xff\xff\xff x\r\n\r\n", "its first line is not of the form"),
        (b"HTTP/1.1 099 x\r\n\r\n", "its status is not one of HTTP"),
        (b"HTTP/1.1 000 x\r\n\r\n", "its status is not one of HTTP"),
        (b"HTTP/1.1 600 x\r\n\r\n", "the status 600, which is not one of HTTP"),
        (b"HTTP/1.1 999 Request denied\r\n\r\n", "the status 999, which is not one of HTTP"),
        (response(b"no colon"), "not a header of the form 'Name: value'"),
        (response(b"Na me: x"), "not a header of the form 'Name: value'"),
        (response(b"Name : x"), "not a header of the form 'Name: value'"),
        (response(b": x"), "not a header of the form 'Name: value'"),
        (response("Nämé: x".encode()), "not a header of the form 'Name: value'"),
        (response(b"X: a\0b"), "not a header of the form 'Name: value'"),
        (response(b"X: a\rb"), "not a header of the form 'Name: value'"),
        (response(b" folded"), "its first header is folded"),
        (response(b"X: a\x01b"), "the X header of the server's answer has the byte 0x01 in it"),
        (response(b"X: \x1b[2J"), "the X header of the server's answer has the byte 0x1b in it"),
        (response(b"X: a\x7fb"), "the X header of the server's answer has the byte 0x7f in it"),
        (response(b"Content-Length: x"), "Content-Length"),
        (response(b"Content-Length: -1"), "Content-Length"),
        (response(b"Content-Length: 1", b"Content-Length: 2"), "Content-Length"),
        (response(b"Content-Length: " + b"9" * 5000), "Content-Length"),
        (response(b"Transfer-Encoding: gzip, chunked"), "Transfer-Encoding"),
        (response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "Transfer-Encoding"),
    ],
)
def test_an_answer_that_is_not_proper_http_is_told_with_what_is_wrong(raw: bytes, said: str) -> None:
    for chunks in ([raw], [raw[i : i + 1] for i in range(len(raw))], [raw + FRAMES]):
        assert_fault(chunks, said)


def test_a_lone_lf_ends_a_line_of_a_server_and_a_folded_header_is_one() -> None:
    raw = b"HTTP/1.1 403 Forbidden\nX: a\n  b\nContent-Length: 2\n\nno"
    for chunks in every_split(raw):
        answer = assert_answered(chunks)
        assert (answer.headers["X"], answer.body, answer.raw_head) == ("a b", b"no", raw[:-2])
    phase, event = ask([SWITCHED.replace(b"\r\n", b"\n") + FRAMES])
    assert isinstance(event, Response)
    assert (event.raw_head, phase.trailing_data) == (SWITCHED.replace(b"\r\n", b"\n"), FRAMES)


def test_9110_5_5_bytes_beyond_ascii_in_a_value_are_spelt_out_and_in_a_location_escaped() -> None:
    raw = response("Server: Wéb".encode(), b"X: \xff", "Location: /café au lait%20".encode(), b"Content-Length: 0")
    for chunks in every_split(raw):
        answer = assert_answered(chunks)
        assert answer.headers["Server"] == r"W\xc3\xa9b"
        assert answer.headers["X"] == r"\xff"
        assert answer.headers["Location"] == "/caf%C3%A9%20au%20lait%20"


def test_a_reason_may_be_anything() -> None:
    answer = assert_answered([response(b"Content-Length: 0", line="HTTP/1.1 403 Désolé".encode())])
    assert (answer.status, answer.reason) == (403, "Forbidden")


# Limits


@pytest.mark.parametrize(
    ("beginning", "end"),
    [
        (b"HTTP/1.1 101 ", b"\r\n\r\n"),
        (b"HTTP/1.1 101 x\r\n", b":\r\n\r\n"),
        (b"HTTP/1.1 101 x\r\nX: ", b"\r\n\r\n"),
        (b"HTTP/1.1 204 x\r\nX: ", b"\r\n\r\n"),
        (b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 204 x\r\nX: ", b"\r\n\r\n"),
    ],
    ids=["a reason", "a name", "a value in a 101", "a value in a 204", "behind a 100"],
)
def test_a_head_over_the_limit_is_a_fault_however_it_comes(beginning: bytes, end: bytes) -> None:
    limits = Limits(max_header_bytes=1000)
    whole_bytes = 1000 + max(0, beginning.find(b"HTTP", 1))  # a 100 doesn't count to it
    just = beginning + b"a" * (whole_bytes - len(beginning + end)) + end
    over = beginning + b"a" * (whole_bytes - len(beginning + end) + 1) + end
    endless = beginning + b"a" * 100_000
    for raw in (just, over, endless):
        for chunks in ([raw], [raw[i : i + 1] for i in range(min(len(raw), whole_bytes + 1))]):
            if raw is just:
                assert_answered(chunks, limits=limits)
            else:
                assert_fault(chunks, "over our limit of 1000 bytes", limits=limits)


def test_bytes_after_a_head_do_not_count_toward_its_limit() -> None:
    phase, event = ask([SWITCHED + b"x" * 100_000], limits=Limits(max_header_bytes=len(SWITCHED)))
    assert isinstance(event, Response)
    assert event.raw_head == SWITCHED
    assert len(phase.trailing_data) == 100_000


def test_headers_over_their_number_are_a_fault() -> None:
    limits = Limits(max_headers=3)
    three = [b"Content-Length: 0", b"X: 1", b"X: 2"]
    assert assert_answered([response(*three)], limits=limits).headers.get_all("x") == ["1", "2"]
    for chunks in every_split(response(*three, b"X: 3")):
        assert_fault(chunks, "more than 3 header fields", limits=limits)


def test_a_head_without_end_takes_no_more_memory_than_its_limit() -> None:
    phase = ResponsePhase(LIMITS)
    phase.send_request(UPGRADE)
    phase.receive_data(b"HTTP/1.1 101 x\r\n")
    fed = 0
    with traced_memory() as count:
        while phase.next_event() is Signal.NEED_DATA:
            phase.receive_data(b"X: " + b"a" * 95 + b"\r\n")
            fed += 100
        _, peak = count()
    assert fed <= LIMITS.max_header_bytes + 100
    assert peak < 10 * LIMITS.max_header_bytes


# Any bytes of a server

PIECES = st.sampled_from(
    (
        *(
            b"HTTP/1.1 101 x\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 999\r\n",
            b"HTTP/1.1 100 x\r\n\r\n",
            b"HTTP/1.1 099 ",
        ),
        *(
            b"Upgrade: websocket\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Location: \xff\r\n",
        ),
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"\0",
            b"\xff",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"X: y\r\n",
            b"x" * 300,
            b":",
        ),
    )
)
ANSWERS = st.one_of(
    st.binary(max_size=60),
    st.lists(PIECES, max_size=8).map(b"".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: b"HTTP/1.1 200 OK\r\n" + b"".join(pieces)),
)


@given(any_chunking(ANSWERS), st.sampled_from([UPGRADE, CONNECT]), st.booleans())
@example([b"HTTP/1.1 999 x\r\n\r\n"], UPGRADE, False)
def test_any_bytes_of_a_server_are_an_answer_or_a_sentence_in_any_chunks(
    chunks: list[bytes], request: Request, ends: bool
) -> None:
    limits = Limits(max_header_bytes=500, max_body_bytes=20)
    phase, event = ask([*chunks, EOF] if ends else chunks, request, limits)
    whole_phase, whole = ask([b"".join(chunks), EOF] if ends else [b"".join(chunks)] if chunks else [], request, limits)
    if isinstance(event, Response):
        assert isinstance(whole, Response)
        outcome = (event.status, event.headers, event.body, event.raw_head, phase.body_cut)
        assert outcome == (whole.status, whole.headers, whole.body, whole.raw_head, whole_phase.body_cut)
        assert "".join(value for _, value in event.headers).isascii()
    elif isinstance(event, str):
        assert isinstance(whole, str)
        assert event.isascii()
        assert event.isprintable()
    else:
        assert event is whole is Signal.NEED_DATA
        assert not ends


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("some new rule: b'what the peer wrote'", "the server's answer is not proper HTTP: some new rule"),
        ("some new rule", "the server's answer is not proper HTTP: some new rule"),
    ],
)
def test_a_fault_that_the_parser_words_in_a_new_way_is_told_without_the_peer_s_own_words(
    monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    def next_event(_: h11.Connection) -> None:
        raise h11.RemoteProtocolError(words)

    monkeypatch.setattr(h11.Connection, "next_event", next_event)
    assert assert_fault([SWITCHED], said) == said


# Another request on the same connection

GET = Request("GET", "/", "1.1", Headers([("Host", "h")]))
WHOLE = response(b"Content-Length: 2", body=b"ok")


@pytest.mark.parametrize(
    ("chunks", "request_", "may"),
    [
        ([WHOLE], GET, True),
        ([response(line=b"HTTP/1.1 204 No Content")], GET, True),
        ([response(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n")], GET, True),
        ([WHOLE + b"H"], GET, False),  # a byte too many would begin the next answer
        ([response(b"Content-Length: 2", b"Connection: close", body=b"ok")], GET, False),
        ([response(body=b"ok"), EOF], GET, False),
        ([response(b"Content-Length: 2", line=b"HTTP/1.0 200 OK", body=b"ok")], GET, False),
        ([response(b"Content-Length: 100000", body=b"x" * 100_000)], GET, False),
        ([response(b"Content-Length: 2", body=b"o")], GET, False),
        ([b"garbage\r\n"], GET, False),
        ([SWITCHED], UPGRADE, False),
    ],
)
def test_a_connection_may_carry_another_request_only_after_a_whole_answer(
    chunks: list[bytes], request_: Request, may: bool
) -> None:
    phase, _ = ask(chunks, request_)
    assert phase.can_continue is may
