"""A harness for the opening handshake: mutated requests for the server, answers for the client (RFC 6455 §4)."""

from __future__ import annotations

import sys

from rawws.broadcast.query import read_request
from rawws.wire.allowed_hosts import Hosts
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer
from rawws.wire.deflate import Agreement, check_answer
from rawws.wire.handshake import Handshake, examine, wants_websocket
from rawws.wire.http1 import HttpPhase
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins
from rawws.wire.uri import parse_uri
from tests.fuzz.http1 import LIMITS
from tests.fuzz.runner import Options, main

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
URI = parse_uri("ws://a.example/room?x=1")
ORIGINS = (Origins(), Origins(["*"]), Origins(["https://b.example:8443", "null"]))


def check(data: bytes) -> None:
    """The first byte says who reads and what is known beforehand; the rest is a request, or an answer."""
    options = Options(data, count=1)
    if options.flag(0, 0):
        check_answer_bytes(options.rest, compression=options.flag(0, 1), subprotocols=options.flag(0, 2))
    else:
        check_request_bytes(options.rest, ORIGINS[options.number(0) >> 2 & 1], compression=options.flag(0, 1))


def check_request_bytes(data: bytes, origins: Origins, *, compression: bool = True) -> Handshake | None:
    """A request that HTTP lets through is accepted or refused, and either can be sent."""
    phase = HttpPhase(LIMITS)
    phase.receive_data(data)
    request = phase.next_event()
    if not isinstance(request, Request):
        return None
    handshake = check_request(request, origins, compression=compression)
    phase.next_event()
    if handshake.refusal is None:
        assert phase.switch_protocols(handshake.response_headers).startswith(b"HTTP/1.1 101 ")
    else:
        refusal = handshake.refusal
        headers = [(name.decode(), value.decode()) for name, value in refusal.headers]
        answer = phase.respond(Response(refusal.status, refusal.sentence, headers), close=True)
        assert answer.startswith(b"HTTP/1.1 %d " % refusal.status)
    return handshake


def check_request(request: Request, origins: Origins, *, compression: bool = True) -> Handshake:
    """A request is accepted or refused by its first requirement that isn't met, and what was found is told."""
    wants_websocket(request)
    Hosts(["a.example"]).refuse(request)
    read_request(request)
    handshake = examine(request, origins, compression=compression)
    assert (handshake.accept is None) is (handshake.refusal is not None)
    assert handshake.refusal == next((check.refusal for check in handshake.checks if not check.holds), None)
    assert all(str(check) for check in handshake.checks)
    if handshake.refusal is None:
        accept = handshake.accept
        assert accept is not None
        assert len(accept.steps) == 5
        assert len(accept.value) == 28
        assert handshake.response.status == 101
        # Our own client takes what we answer to this.
        assert handshake.deflate is None or isinstance(check_answer([handshake.deflate.header]), Agreement)
    else:
        assert handshake.refusal.status in (400, 403, 405, 426)
        assert handshake.refusal.sentence.isascii()
    return handshake


def check_answer_bytes(data: bytes, *, compression: bool = True, subprotocols: bool = True) -> ServerAnswer | None:
    """An answer that HTTP lets through is taken, or what is wrong with it is told."""
    offered = ["chat.v1", "chat.v2"] if subprotocols else []
    handshake = ClientHandshake(URI, key=KEY, compression=compression, subprotocols=offered)
    phase = ResponsePhase(LIMITS)
    phase.send_request(handshake.request)
    phase.receive_data(data)
    response = phase.next_event()
    return check_response(response, handshake, offered, compression) if isinstance(response, Response) else None


def check_response(
    response: Response, handshake: ClientHandshake, offered: list[str], compression: bool
) -> ServerAnswer:
    answer = handshake.examine(response)
    assert all(str(check) for check in answer.checks)
    assert answer.fault == next((check.problem for check in answer.checks if not check.holds), "")
    assert answer.fault.replace("\t", " ").isprintable()  # a value may have one in it (RFC 9110 §5.5)
    if answer.fault:
        assert (answer.subprotocol, answer.deflate) == (None, None)
    else:
        assert response.status == 101
        assert response.headers.get("Sec-WebSocket-Accept") == handshake.accept.value
        assert answer.subprotocol in (None, *offered)
        assert answer.deflate is None or compression
    return answer


REQUEST = (
    b"GET /room?since=e-7 HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
REQUESTS = [
    REQUEST + b"\r\n",
    REQUEST + b"Origin: http://a.example\r\nSec-WebSocket-Protocol: chat.v1, chat.v2\r\n\r\n",
    REQUEST + b'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x; y="z"\r\n\r\n',
    REQUEST + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\nOrigin: null\r\n\r\n",
    REQUEST.replace(b"GET /room", b"GET http://a.example/room").replace(b"a.example\r\n", b"[::1]:8080\r\n") + b"\r\n",
]
ANSWERS = [
    ANSWER + b"\r\n",
    ANSWER + b"Sec-WebSocket-Protocol: chat.v2\r\n\r\n\x81\x02hi",
    ANSWER + b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n",
    ANSWER + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
]
seeds = [
    *(bytes((option,)) + request for option in (0, 2, 6) for request in REQUESTS),
    *(bytes((option,)) + answer for option in (1, 3, 7) for answer in ANSWERS),
]

if __name__ == "__main__":
    sys.exit(main(check, seeds))
