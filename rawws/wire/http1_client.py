"""A client's HTTP: one request, and the answer to it, over h11 (RFC 9110, RFC 9112).

It is used for the opening handshake, and to ask a proxy for a tunnel (RFC 9110 §9.3.6).

A `ResponsePhase` ends in an answer, or in a sentence that says what is wrong with the server's bytes. It reads less
strictly than the server's `HttpPhase`, since no other program reads the same bytes after it: the refusal of an old
proxy is worth more to a user than the news that one of its lines ends with a bare LF.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes

import h11

from rawws.limits import Limits
from rawws.wire.first_bytes import is_tls, may_become_tls
from rawws.wire.http1 import Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import escape

# A server may send 1xx before its answer (RFC 9110 §15.2); no server sends many.
MAX_INTERIM_RESPONSES = 10

_ODD_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_VISIBLE = bytes(range(0x21, 0x7F))
_SHOWN_BYTES = 40
# Parts of h11's messages, each with the words for our user.
_EXPLAINED = (
    ("illegal status line", "its first line is not of the form 'HTTP/1.1 101 Switching Protocols'"),
    ("no response line", "its first line is empty"),
    ("illegal header line", "a line of its head is not a header of the form 'Name: value'"),
    ("continuation line", "its first header is folded"),
    ("_SWITCH_", "it switches protocols, which nobody asked for"),
    ("InformationalResponse", "its status is not one of HTTP"),
    ("Content-Length", "its Content-Length headers are not one whole number"),
    ("Transfer-Encoding", "its Transfer-Encoding is not 'chunked'"),
)


class ResponsePhase:
    """The client's side of HTTP/1.1 for one request.

    Send what `send_request` returns, then feed the received bytes. ``next_event`` returns NEED_DATA until there is a
    `Response` or a sentence. From then on it returns that one, and needs no more data.

    An answer that is neither a 101 nor a proxy's 2xx includes its body: as much as was received when the stream ends
    or `cut_body` is called, and at most ``max_body_bytes``. ``body_cut`` says whether a part of it is missing.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.max_header_bytes)
        self._head = bytearray()  # bytes since the beginning of the answer's head, or of a 1xx before it
        self.answer: Response | None = None  # the answer whose body is being read; it doesn't include that yet
        self._body = bytearray()
        self._interim_responses = 0
        self._outcome: Response | str | None = None
        self.body_cut = False
        self.cut_off = False  # the stream ended before there was an answer
        self.has_begun = False  # a byte was received
        self.speaks_tls = False  # the server's first bytes are TLS

    def send_request(self, request: Request) -> bytes:
        """Return the bytes of a request. One with a body has its Content-Length among its headers."""
        head = h11.Request(method=request.method, target=request.target, headers=request.headers.raw())
        events = [head, h11.Data(request.body), h11.EndOfMessage()] if request.body else [head, h11.EndOfMessage()]
        return b"".join([self._h11.send(event) or b"" for event in events])

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the server; empty at the end of the stream."""
        self.has_begun = self.has_begun or bool(data)
        if self.answer is None and self._outcome is None:
            self._head += data
        self._h11.receive_data(data)

    def next_event(self) -> Response | Signal | str:
        """Return the outcome of the bytes received so far. Never raises for what a server sends."""
        if self._outcome is None:
            self._outcome = self._read()
        return Signal.NEED_DATA if self._outcome is None else self._outcome

    def cut_body(self) -> Response:
        """Stop waiting for the rest of the `answer`'s body, and return the answer with what was received."""
        self.body_cut = True
        self._outcome = self._finish()
        return self._outcome

    @property
    def can_continue(self) -> bool:
        """Whether the connection may carry another request, in a phase of its own: the whole answer was read."""
        h11_done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        return h11_done and not self.body_cut and self._h11.trailing_data == (b"", False)

    def _read(self) -> Response | str | None:
        while True:
            if self.answer is None and not b"HTTP/".startswith(self._head[:5]):
                return self._explain_beginning()
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                return self._explain(error)
            match event:
                case h11.InformationalResponse() | h11.Response():
                    outcome = self._take_head(event)
                    if outcome is not None:
                        return outcome
                case h11.Data():
                    room = self._limits.max_body_bytes - len(self._body)
                    self._body += event.data[:room]
                    if len(event.data) > room:
                        self.body_cut = True
                        return self._finish()
                case h11.EndOfMessage():
                    return self._finish()
                case _:  # NEED_DATA: the others come only after an outcome
                    return None

    def _explain_beginning(self) -> str | None:
        """Return a sentence about bytes that don't begin like HTTP; h11 would wait for an empty line.

        That line may never come.
        """
        if may_become_tls(self._head) and not self._h11.trailing_data[1]:
            return None
        if is_tls(self._head):
            self.speaks_tls = True
            return "the server speaks TLS on this port"
        begins = escape(bytes(self._head[:_SHOWN_BYTES]))
        return f"the server's answer is not HTTP: it begins with '{begins}'"

    # Heads

    def _take_head(self, event: h11.InformationalResponse | h11.Response) -> Response | str | None:
        """Return the outcome if this head is one. A 1xx is skipped, and an answer with a body isn't one yet."""
        trailing, _ = self._h11.trailing_data
        raw_head = bytes(self._head[: len(self._head) - len(trailing)])
        self._head = bytearray(trailing)
        if len(raw_head) > self._limits.max_header_bytes:
            return self._head_too_large()
        if len(event.headers) > self._limits.max_headers:
            return f"the server's answer has more than {self._limits.max_headers} header fields"
        if event.status_code < 200 and event.status_code != 101:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                return f"the server sent more than {MAX_INTERIM_RESPONSES} interim answers (1xx)"
            return None
        if event.status_code > 599:
            return f"the server answered with the status {event.status_code}, which is not one of HTTP"
        fields = []
        for name, value in event.headers.raw_items():
            if odd := _ODD_IN_VALUE.search(value):
                return f"the {escape(name)} header of the server's answer has the byte {odd[0][0]:#04x} in it"
            fields.append((name.decode("ascii"), _as_ascii(name, value)))
        answer = Response(event.status_code, b"", Headers(fields), raw_head=raw_head)
        if self._h11.their_state is h11.SWITCHED_PROTOCOL:
            return answer
        self.answer = answer
        return None

    def _head_too_large(self) -> str:
        return f"the head of the server's answer is over our limit of {self._limits.max_header_bytes} bytes"

    def _explain(self, error: h11.RemoteProtocolError) -> Response | str:
        """Turn h11's error into a sentence, or into the answer when only its body is broken."""
        if self.answer is not None:
            self.body_cut = True  # a body that is cut or garbled is still worth more than none
            return self._finish()
        _, ended = self._h11.trailing_data
        reason = str(error)
        if "Receive buffer too long" in reason or len(self._head) > self._limits.max_header_bytes:
            return self._head_too_large()
        for theirs, ours in _EXPLAINED:
            if theirs in reason:
                return f"the server's answer is not proper HTTP: {ours}"
        if ended:
            self.cut_off = True
            if self._head:
                return "the server closed the connection in the middle of its answer"
            return "the server closed the connection before it answered"
        return f"the server's answer is not proper HTTP: {reason.partition(':')[0]}"

    def _finish(self) -> Response:
        assert self.answer is not None
        answer = self.answer
        return Response(answer.status, bytes(self._body), answer.headers, raw_head=answer.raw_head)

    @property
    def trailing_data(self) -> bytes:
        """The bytes after a 101, which are the server's first frames; or the server's bytes after a proxy's answer."""
        return self._h11.trailing_data[0]


def _as_ascii(name: bytes, value: bytes) -> str:
    """Return a value as text that is fit for a log; RFC 9110 §5.5 lets servers send bytes beyond ASCII in it.

    These bytes are escaped, as in ``\\xe9``, which can't match anything that the handshake looks for. In a Location
    they are %-escaped, as RFC 9110 §10.2.2 requires; many servers send them as they are.
    """
    if name.lower() == b"location":
        return quote_from_bytes(value, _VISIBLE)
    return value.decode("ascii", "backslashreplace")
