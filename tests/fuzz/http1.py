"""A harness for the HTTP phase, the server's and the client's: any bytes, cut in any way (RFC 9110, RFC 9112)."""

from __future__ import annotations

import sys
from typing import Any

from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.http1 import BodyPart, HttpPhase, Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Headers, Request, Response
from tests.fuzz.runner import Options, cut, main

LIMITS = Limits(max_header_bytes=512, max_target_bytes=128, max_headers=8, max_body_bytes=256)
UPGRADE = Request("GET", "/", "1.1", Headers([("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]))
REQUESTS = (
    UPGRADE,
    Request("CONNECT", "h:443", "1.1", Headers([("Host", "h:443")])),
    Request("HEAD", "/", "1.1", Headers([("Host", "h")])),
    Request("GET", "/", "1.1", Headers([("Host", "h")])),
)


def check(data: bytes) -> None:
    """The first byte says who reads, the second how the rest is cut."""
    options = Options(data, count=2)
    chunks = cut(options.rest, options.number(1))
    if options.flag(0, 0):
        check_client(chunks, REQUESTS[options.number(0) >> 1 & 3], ends=options.flag(0, 3))
    else:
        check_server(chunks, ends=options.flag(0, 3))


def check_server(chunks: list[bytes], *, ends: bool = False) -> None:
    """Requests, a refusal, or the wish for more: whatever comes, and the same in both lanes and in any cut."""
    whole = b"".join(chunks)
    end = [b""] * ends
    in_chunks, at_once = serve([*chunks, *end]), serve([*[whole] * bool(whole), *end])
    assert at_once == serve([*[whole] * bool(whole), *end], fast_lane=False)
    if len(whole) > LIMITS.max_target_bytes:
        # Bytes after a malformed line in the same chunk count for its size, so that it may be a 414 or 431.
        in_chunks, at_once = _without_code(in_chunks), _without_code(at_once)
    assert in_chunks == at_once


def _without_code(events: list[Any]) -> list[Any]:
    return ["refused" if isinstance(each, str) else each for each in events]


def serve(chunks: list[bytes], *, fast_lane: bool = True) -> list[Any]:
    """Take requests off a connection, and answer each, as a server does; return what there was."""
    phase = HttpPhase(LIMITS, fast_lane=fast_lane)
    events: list[Any] = []
    for chunk in chunks:
        phase.receive_data(chunk)
        if not _take_requests(phase, events, len(chunk)):
            break
    return events


def _take_requests(phase: HttpPhase, events: list[Any], chunk_bytes: int) -> bool:
    while True:
        match phase.next_event():
            case Request() as request:
                assert len(request.raw_head) <= LIMITS.max_header_bytes
                assert len(request.headers) <= LIMITS.max_headers
                assert all(value.isprintable() or "\t" in value for _, value in request.headers)
                assert request.path is None or request.path.isprintable()
                assert request.query.isascii()
                events.append((request.method, request.target, request.http_version, request.headers, request.raw_head))
                events.append(b"")
            case BodyPart(data):
                assert data
                events[-1] += data
                assert len(events[-1]) <= LIMITS.max_body_bytes
            case Refusal() as refusal:
                assert refusal.status in (400, 413, 414, 431, 501, 505), refusal
                assert refusal.sentence.isprintable(), refusal
                answer = phase.respond(Response(refusal.status, refusal.sentence), close=True)
                assert answer.startswith(b"HTTP/1.1 %d " % refusal.status)
                assert not phase.can_continue
                if events and isinstance(events[-1], bytes):
                    events.pop()  # how much of the body came before depends on how it was cut
                events.append(refusal.code)
                return False
            case Signal.END_OF_BODY:
                assert phase.respond(Response(200, b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
                if not phase.can_continue:
                    return False
                phase.start_next_request()
            case Signal.END_OF_STREAM:
                if events and isinstance(events[-1], bytes) and phase.request_begun:
                    events.append("cut short")
                return False
            case Signal.NEED_DATA:
                held = len(phase.raw_head) + len(phase.trailing_data[0])
                assert held <= 4 * LIMITS.max_header_bytes + chunk_bytes, f"{held} bytes are held"
                return True


def check_client(chunks: list[bytes], request: Request = UPGRADE, *, ends: bool = False) -> None:
    """An answer, a sentence, or the wish for more: whatever comes, within bounds, and the same however it was cut."""
    whole = b"".join(chunks)
    end = [b""] * ends
    in_chunks, at_once = ask([*chunks, *end], request), ask([*[whole] * bool(whole), *end], request)
    if len(whole) > LIMITS.max_header_bytes and {len(in_chunks), len(at_once)} == {1}:
        return  # as above: which sentence it is may depend on what else has come
    assert in_chunks == at_once


def ask(chunks: list[bytes], request: Request) -> tuple[Any, ...]:
    phase = ResponsePhase(LIMITS)
    assert phase.send_request(request).endswith(b"\r\n\r\n")
    for chunk in chunks:
        phase.receive_data(chunk)
        outcome = phase.next_event()
        assert phase.next_event() is outcome, "it says so for ever"
        match outcome:
            case Signal.NEED_DATA:
                held = len(phase.trailing_data)
                assert held <= LIMITS.max_header_bytes + len(chunk), f"{held} bytes are held"
                assert chunk, "nothing more will come"
            case str(sentence):
                assert sentence.isprintable(), sentence
                return (sentence.partition(": it begins")[0],)  # what is quoted depends on the cut
            case Response() as response:
                assert 100 <= response.status <= 599
                assert len(response.body) <= LIMITS.max_body_bytes
                assert len(response.raw_head) <= LIMITS.max_header_bytes
                assert len(response.headers) <= LIMITS.max_headers
                assert all(value.isascii() for _, value in response.headers)
                return response.status, response.headers, response.body, response.raw_head, phase.body_cut
            case other:
                raise AssertionError(other)
    return ()


GET = b"GET /room?x=1 HTTP/1.1\r\nHost: a.example:80\r\nAccept: a\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n01234"
CHUNKED = (
    b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    b"5;x=y\r\n01234\r\n0\r\nX: trailer\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
ANSWERS = (
    SWITCHED + b"\x81\x05Hello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.0 302 Found\r\nLocation: /caf\xc3\xa9\r\n\r\nover there",
    b"\x15\x03\x01\x00\x02\x02\x46",
)

seeds = [
    *(bytes((0, how)) + stream for how in (0, 1, 0x35) for stream in (GET + POST + GET, CHUNKED + GET)),
    *(bytes((8, 0)) + stream for stream in (GET, POST[:-1], b"\r\n" + GET[:-3], b"\x16\x03\x01\x02\x00")),
    *(bytes((1 | asked << 1 | 8, 0)) + stream for asked in range(4) for stream in ANSWERS),
    *(bytes((1, 1)) + stream for stream in ANSWERS),
]

if __name__ == "__main__":
    sys.exit(main(check, seeds))
