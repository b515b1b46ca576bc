"""A client's HTTP: one request, and the answer to it, over h11 (RFC 9110, RFC 9112).

For the opening handshake, and for asking a proxy to connect us (RFC 9110 §9.3.6).
"""

from __future__ import annotations

import re

import h11

from rawws.limits import Limits
from rawws.wire.http1 import Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import escape

# A server may send 1xx before its answer (RFC 9110 §15.2); nobody sends many.
MAX_INTERIM_RESPONSES = 10

_ODD_IN_VALUE = re.compile(rb"[^\x20-\x7e\t]")


class ResponsePhase:
    """The client's side of HTTP/1.1 for one request.

    ``next_event`` says NEED_DATA until there is a `Response`, or a sentence that tells what is wrong with the
    server's answer. A refusal's body is read, as far as ``max_body_bytes``; what is over is left out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.max_header_bytes)
        self._head = b""  # what has come of the answer, up to its bound
        self._answer: Response | None = None  # whose body is being read
        self._body = bytearray()
        self._interim_responses = 0

    def send_request(self, request: Request) -> bytes:
        """Return the bytes of a request without a body."""
        head = h11.Request(method=request.method, target=request.target, headers=request.headers.raw())
        data = self._h11.send(head)
        end = self._h11.send(h11.EndOfMessage())
        assert data is not None
        assert end is not None
        return data + end

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the server; empty at the end of the stream."""
        if self._answer is None and len(self._head) < self._limits.max_header_bytes:
            self._head += data[: self._limits.max_header_bytes]
        self._h11.receive_data(data)

    def next_event(self) -> Response | Signal | str:
        """Return what the bytes received so far amount to; never raises for what a server sends."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                return self._explain(error)
            match event:
                case h11.InformationalResponse() if event.status_code != 101:
                    self._interim_responses += 1
                    if self._interim_responses > MAX_INTERIM_RESPONSES:
                        return f"the server sent more than {MAX_INTERIM_RESPONSES} interim answers (1xx)"
                    self._head = self._head.partition(b"\r\n\r\n")[2]
                case h11.InformationalResponse() | h11.Response():
                    answer = self._take_head(event)
                    if (
                        isinstance(answer, str)
                        or answer.status == 101
                        or self._h11.their_state is h11.SWITCHED_PROTOCOL
                    ):
                        return answer
                    self._answer = answer
                case h11.Data():
                    self._body += event.data[: self._limits.max_body_bytes - len(self._body)]
                    if len(self._body) >= self._limits.max_body_bytes:
                        return self._finish()
                case h11.EndOfMessage():
                    return self._finish()
                case h11.PAUSED:
                    return self._finish()
                case h11.ConnectionClosed():
                    return "the server closed the connection before it answered"
                case _:
                    return Signal.NEED_DATA

    def _take_head(self, event: h11.InformationalResponse | h11.Response) -> Response | str:
        if len(event.headers) > self._limits.max_headers:
            return f"the server's answer has more than {self._limits.max_headers} header fields"
        for name, value in event.headers.raw_items():
            if odd := _ODD_IN_VALUE.search(value):
                return f"the {escape(name)} header of the server's answer has the byte {odd[0][0]:#04x} in it"
        fields = [(name.decode("ascii"), value.decode("ascii")) for name, value in event.headers.raw_items()]
        raw_head = self._head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        return Response(event.status_code, b"", Headers(fields), raw_head=raw_head)

    def _finish(self) -> Response:
        assert self._answer is not None
        answer = self._answer
        return Response(answer.status, bytes(self._body), answer.headers, raw_head=answer.raw_head)

    def _explain(self, error: h11.RemoteProtocolError) -> Response | str:
        if self._answer is not None:
            return self._finish()  # a body cut short tells more than nothing
        if not self._head:
            return "the server closed the connection before it answered"
        if not self._head[:5].upper().startswith(b"HTTP/"[: len(self._head)]):
            return f"the server's answer is not HTTP: it begins with {escape(self._head[:20])!r}"
        if len(self._head) >= self._limits.max_header_bytes:
            return f"the head of the server's answer is over the limit of {self._limits.max_header_bytes} bytes"
        if "closed connection" in str(error):
            return "the server closed the connection in the middle of its answer"
        return f"the server's answer is not proper HTTP: {str(error).partition(':')[0]}"

    @property
    def trailing_data(self) -> bytes:
        """The bytes that came behind the answer: the server's first frames."""
        return self._h11.trailing_data[0]
