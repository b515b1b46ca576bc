"""The HTTP phase of a connection, over h11 (RFC 9110, RFC 9112).

An `HttpPhase` is fed bytes and asked for the next event: a request whose head has passed every check, a piece of its
body or the end of it, the need for more bytes, the peer's end of the stream, or a refusal. It writes the responses,
whole or in pieces. If a request is an upgrade, it writes the 101 and hands over the bytes after the request, which are
the peer's first frames.

h11 is the parser, except for heads that are beyond doubt (``clean_exchange.py``). This module adds what h11 leaves to
its users: limits, each with its own status (414, 431, 413); a sentence that tells the client what was wrong; and
stricter checks of input that servers and proxies have been known to read in two ways (RFC 9112 §11.2, request
smuggling). Examples are folded lines, a bare LF, bytes outside ASCII, Content-Length besides Transfer-Encoding, and
chunks that aren't framed to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from itertools import takewhile
from typing import NamedTuple

import h11

from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.wire.chunked import ChunkedFramingCheck
from rawws.wire.clean_exchange import HOST, LINE_BYTES, CleanExchange, read_clean, reason_phrase
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import escape


class BodyPart(NamedTuple):
    """The next piece of a request's body; never empty."""

    data: bytes


class Signal(Enum):
    """The result of `HttpPhase.next_event` when there is no request, and no part of one."""

    NEED_DATA = "need data"
    END_OF_BODY = "end of body"
    END_OF_STREAM = "end of stream"


HttpEvent = Request | BodyPart | Refusal | Signal

# RFC 9110 §5.5 without obs-text: VCHAR, and SP and HTAB between. h11 would let other bytes through.
_ODD_IN_VALUE = re.compile(rb"[^\x20-\x7e\t]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FIELD_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\0\r\v\f]*")
_NOT_CHUNKED = "The request's body is not in the chunked coding of RFC 9112."
_UNBRACKETED = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")

# The PROXY protocol begins with a line in version 1, and with a signature of 12 bytes in version 2
# (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, §2). The signature begins with two empty lines and a
# NUL, and no request has a NUL.
_PROXY_LINE = re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)[ \r]")
_PROXY_EMPTY_LINES = len(b"\r\n\r\n")
PROXY_PROTOCOL = Refusal(
    400,
    "proxy_protocol",
    "This server does not speak the PROXY protocol, which a proxy in front of it has sent.",
    hint="turn it off in the proxy (nginx: proxy_protocol; HAProxy: send-proxy, send-proxy-v2), and have that send "
    "X-Forwarded-For instead",
)


class HttpPhase:
    """The server's side of HTTP/1.1 on one connection, up to an upgrade.

    Take events until NEED_DATA before feeding more; answer each request with `respond` before taking the next.
    """

    def __init__(self, limits: Limits, *, fast_lane: bool = True) -> None:
        """``fast_lane=False`` reads and writes every head through h11, for study; nothing else differs."""
        self._limits = limits
        self._fast_lane = fast_lane
        self._clean: CleanExchange | None = None  # the present request and its response, unless h11 has them
        self._made_h11: h11.Connection | None = None  # once it is needed
        self._head = bytearray()  # raw bytes of the head of the next request
        self._empty_lines_bytes = 0  # before the request
        self._raw_head = b""
        self._body_bytes = 0
        self._in_head = True
        self._answer_has_body = True
        self.response_status: int | None = None  # of the answer to the present request, once it has begun
        self.closes_early = False  # an answer announced our close, and the client may still be sending
        self._chunks: ChunkedFramingCheck | None = None  # of a chunked body
        self._is_framed = True  # the chunks received so far are valid

    @classmethod
    def resume(cls, connection: h11.Connection, limits: Limits) -> HttpPhase:
        """Take over from another server that has read a request, and has not begun to answer it."""
        phase = cls(limits)
        phase._made_h11 = connection
        phase._in_head = False
        while connection.their_state is h11.SEND_BODY and phase.next_event() is not Signal.NEED_DATA:
            pass
        return phase

    @property
    def _h11(self) -> h11.Connection:
        """The judge of the present request. When it is asked for the first time, it reads what has come so far."""
        if self._made_h11 is None:
            # h11's own limit only backs ours up: between two checks, one read may add to the buffer.
            self._made_h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.max_header_bytes * 2)
            if self._clean is not None:
                self._leave_fast_lane(self._clean, self._made_h11)
            elif self._head:
                self._made_h11.receive_data(bytes(self._head))
        return self._made_h11

    def _leave_fast_lane(self, clean: CleanExchange, connection: h11.Connection) -> None:
        connection.receive_data(self._raw_head + clean.trailing)
        if clean.has_ended:
            connection.receive_data(b"")
        connection.next_event()  # the request
        if clean.end_was_told:
            connection.next_event()
        self._clean = None

    @property
    def request_begun(self) -> bool:
        """Whether some bytes of a request were received, so that its deadline runs."""
        return bool(self._head) or not self._in_head

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of a request was received, not even an empty line before it, and h11 isn't needed yet."""
        return self._in_head and not self._head and not self._empty_lines_bytes and self._made_h11 is None

    @property
    def held_bytes(self) -> int:
        """The bytes of memory of input that is not a request yet. A head counts twice, since h11 has a copy."""
        return 2 * len(self._head) if self._in_head else len(self.trailing_data[0])

    @property
    def raw_head(self) -> bytes:
        """The last request's head as it was on the wire, or the part of it that was received."""
        return self._raw_head or bytes(self._head)

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the peer; empty at the end of the stream."""
        if self._in_head:
            if not self._head and data:
                # RFC 9112 §2.2: ignore empty lines in front of a request line.
                begun = data.lstrip(b"\r\n")
                self._empty_lines_bytes += len(data) - len(begun)
                data = begun
                if not data:
                    return
            self._head += data
        elif self._chunks is not None and self._is_framed:
            self._is_framed = self._chunks.feed(data)
        if self._clean is not None:
            self._clean.receive_data(data)
        elif self._made_h11 is not None:
            self._made_h11.receive_data(data)
        elif not data:
            self._h11.receive_data(data)

    def next_event(self) -> HttpEvent:
        """Return the next event in the bytes received so far. Never raises for what a peer sends."""
        if self._in_head and self._fast_lane and self._made_h11 is None and (request := self._read_clean()):
            return request
        if self._made_h11 is None and not self.request_begun and not self._empty_lines_bytes:
            return Signal.NEED_DATA  # without h11, which would have the whole of the next request then
        if self._clean is not None and not self._clean.end_was_told:
            self._clean.end_was_told = True
            return Signal.END_OF_BODY
        if self._clean is not None and self._clean.response_begun:
            return Signal.NEED_DATA  # the bytes that are here belong to the next request
        while True:
            if not self._is_framed:
                return _bad_request("body_malformed", _NOT_CHUNKED)
            if self._in_head and self._is_from_proxy():
                return PROXY_PROTOCOL
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                return self._explain(error)
            match event:
                case h11.Request():
                    return self._check_head(event)
                case h11.Data():
                    self._body_bytes += len(event.data)
                    if self._body_bytes > self._limits.max_body_bytes:
                        return self._body_too_large(f"{self._body_bytes} bytes or more")
                    return BodyPart(bytes(event.data))
                case h11.EndOfMessage():
                    return Signal.END_OF_BODY
                case h11.ConnectionClosed():
                    return Signal.END_OF_STREAM
                case _:
                    if self._in_head and (refusal := self._check_size(self._head)):
                        return refusal
                    return Signal.NEED_DATA

    def next_clean_request(self) -> Request | None:
        """Return the next request if its head is clean, with the end of its body, which is empty.

        Otherwise None, and `next_event` says what there is.
        """
        if not (self._in_head and self._fast_lane and self._made_h11 is None):
            return None
        request = self._read_clean()
        if self._clean is not None:
            self._clean.end_was_told = True
        return request

    # Checks of a head

    def _read_clean(self) -> Request | None:
        """Return the request that the received bytes begin with, if its head is clean."""
        room = self._limits.max_header_bytes - self._empty_lines_bytes
        self._clean = read_clean(self._head, self._limits, room)
        if self._clean is None:
            return None
        request = self._clean.request
        self._raw_head = request.raw_head
        self._head.clear()
        self._in_head = False
        self._answer_has_body = request.method != "HEAD"
        return request

    def _is_from_proxy(self) -> bool:
        """Say whether the received bytes begin with a header of the PROXY protocol."""
        if self._head[:1] == b"\0":
            return self._empty_lines_bytes == _PROXY_EMPTY_LINES
        return _PROXY_LINE.match(self._head) is not None

    def _check_size(self, head: bytes | bytearray) -> Refusal | None:
        """RFC 9112 §3 wants 414 for a long request line; RFC 6585 §5 has 431 for all the fields."""
        limits = self._limits
        head_bytes = len(head)
        line_bytes = head.find(b"\n", 0, limits.max_header_bytes)
        most = limits.max_target_bytes + LINE_BYTES
        if line_bytes > most or (line_bytes < 0 and head_bytes > most):
            message = (
                f"The request target is over the server's limit of {limits.max_target_bytes} bytes (--max-target)."
            )
            return Refusal(414, "target_too_long", message)
        if self._empty_lines_bytes + head_bytes > limits.max_header_bytes:
            message = f"The request's head is over the server's limit of {limits.max_header_bytes} bytes (--max-head)."
            return Refusal(431, "head_too_large", message)
        return None

    def _check_head(self, event: h11.Request) -> HttpEvent:
        trailing, _ = self._h11.trailing_data
        raw_head = bytes(self._head[: len(self._head) - len(trailing)])
        self._raw_head = raw_head
        self._head.clear()
        self._in_head = False
        self._body_bytes = 0
        self._answer_has_body = event.method != b"HEAD"  # RFC 9110 §9.3.2
        if refusal := self._check_size(raw_head) or self._check_lines(raw_head, event):
            return refusal
        fields = [(name.decode("ascii"), value.decode("ascii")) for name, value in event.headers.raw_items()]
        request = Request(
            event.method.decode("ascii"),
            event.target.decode("ascii"),
            event.http_version.decode("ascii"),
            Headers(fields),
            raw_head,
        )
        if refusal := self._check_request(request):
            return refusal
        if "Transfer-Encoding" in request.headers:
            self._chunks = ChunkedFramingCheck()
            self._is_framed = self._chunks.feed(trailing)
        return request

    def _check_lines(self, raw_head: bytes, event: h11.Request) -> Refusal | None:
        limits = self._limits
        if len(event.headers) > limits.max_headers:
            message = (
                f"The request has more than the {limits.max_headers} fields that the server takes (--max-headers)."
            )
            return Refusal(431, "too_many_headers", message)
        if _BARE_LF.search(raw_head):
            return _bad_request("bare_lf", "A line ends with a bare LF; HTTP lines end with CR LF.")
        if b"\n " in raw_head or b"\n\t" in raw_head:
            return _bad_request("folded_line", "A header is folded over two lines, which HTTP has given up.")
        for name, value in event.headers.raw_items():
            if odd := _ODD_IN_VALUE.search(value):
                return _bad_request(
                    "odd_byte_in_header",
                    f"The {escape(name)} header has the byte {odd[0][0]:#04x}; only printable ASCII is taken.",
                )
        return None

    def _check_request(self, request: Request) -> Refusal | None:
        major = request.http_version.partition(".")[0]
        if major != "1":
            return Refusal(505, "http_version", f"HTTP/{request.http_version} is not supported; use HTTP/1.1.")
        hosts = request.headers.get_all("Host")
        if not hosts and request.http_version != "1.0":
            return _bad_request("host_missing", "The request has no Host header.")
        if hosts and not HOST.fullmatch(hosts[0]):
            if _UNBRACKETED.fullmatch(hosts[0]):
                reason = "The Host header has an IPv6 address without its brackets; write it as in [::1]:8080."
                return _bad_request("host_unbracketed", reason)
            return _bad_request("host_malformed", "The Host header is not a host with an optional port.")
        if request.method == "CONNECT":  # an app that answers it with a 200 would have made a tunnel, to nowhere
            return Refusal(501, "connect", "CONNECT asks a proxy for a tunnel, and this server is none.")
        if not _has_form(request):
            return _bad_request("target_malformed", "The request target is neither a path nor an http:// URI.")
        if not HOST.fullmatch(request.authority):
            return _bad_request("target_malformed", "The request target's host is not a host with an optional port.")
        lengths = request.headers.get_all("Content-Length")
        if "Transfer-Encoding" in request.headers and (lengths or request.http_version == "1.0"):
            return _bad_request(
                "framing_ambiguous", "Transfer-Encoding beside Content-Length or in HTTP/1.0 has two readings."
            )
        if lengths and int(lengths[0]) > self._limits.max_body_bytes:
            return self._body_too_large(f"{int(lengths[0])} bytes")
        return None

    def _body_too_large(self, size: str) -> Refusal:
        message = f"A body of {size} is over the server's limit of {self._limits.max_body_bytes} bytes for one."
        return Refusal(413, "body_too_large", message)

    def _explain(self, error: h11.RemoteProtocolError) -> Refusal | Signal:
        """Turn h11's error into a status and a sentence for the client."""
        reason = str(error).partition(":")[0]  # the rest quotes the peer
        if "peer" in reason and "closed" in reason:
            return Signal.END_OF_STREAM
        if not self._in_head:
            return _bad_request("body_malformed", _NOT_CHUNKED)
        if refusal := self._check_size(self._head):
            return refusal
        if "request line" in reason:
            if self._head[0] == 0x16:  # RFC 8446 §5.1: the content type of a TLS handshake record
                return _bad_request("tls_on_plain_port", "This port speaks plain HTTP, but TLS was sent.")
            return _bad_request("request_line_malformed", "The request line is not of the form 'GET /path HTTP/1.1'.")
        if "header line" in reason or "continuation line" in reason:
            return _bad_request("header_malformed", self._name_bad_line())
        if "Missing mandatory Host" in reason:
            return _bad_request("host_missing", "The request has no Host header.")
        if "multiple Host" in reason:
            return _bad_request("host_repeated", "The request has more than one Host header.")
        if "Content-Length" in reason:
            return _bad_request("content_length_malformed", "The Content-Length headers are not one whole number.")
        if "Transfer-Encoding" in reason:
            return Refusal(501, "transfer_encoding", "The only Transfer-Encoding understood here is 'chunked'.")
        return _bad_request("malformed", f"Malformed request: {reason}.")

    def _name_bad_line(self) -> str:
        lines = (line.removesuffix(b"\r") for line in bytes(self._head).split(b"\n")[1:])
        wrong = (
            f"Line {number}"
            for number, line in enumerate(takewhile(bool, lines), 2)
            if line[:1] not in b" \t" and not _FIELD_LINE.fullmatch(line)
        )
        return f"{next(wrong, 'A line')} of the request is not a header of the form 'Name: value'."

    # Output

    def respond(self, response: Response, *, close: bool = False) -> bytes:
        """Return the bytes of the answer to the last request or refusal.

        The body of an answer to HEAD is left out. Afterwards, ``can_continue`` says whether the connection may be
        kept.
        """
        return b"".join(self.respond_apart(response, close=close))

    def respond_apart(
        self, response: Response, more_fields: Sequence[tuple[bytes, bytes]] = (), *, close: bool = False
    ) -> tuple[bytes, bytes]:
        """Return the answer in two parts: the head, and the response's own body, which many answers may share.

        ``more_fields`` come before the response's own.
        """
        if self._clean is not None and self._clean.end_was_told and not close:
            whole = self._clean.respond(response, more_fields)
            if whole is not None:
                self.response_status = response.status
                return whole
        fields = [*more_fields, *response.headers.raw()]
        if response.status not in (204, 304):  # RFC 9110 §8.6: no length where there is no body
            fields.append((b"Content-Length", str(len(response.body)).encode()))
        head = self.begin_response(response.status, fields, close=close)
        body = self.send_body(response.body) if response.body else b""
        self.end_response()  # it returns no bytes after a body whose length is known
        return head, body

    def begin_response(self, status: int, fields: Sequence[tuple[bytes, bytes]], *, close: bool = False) -> bytes:
        """Return the head of an answer whose body follows in pieces; chunked, unless the fields give a length."""
        if self._clean is not None:
            closes = close or not self._clean.end_was_told
            plain = self._clean.begin_response(status, fields, close=closes)
            if plain is not None:
                self.response_status = status
                return plain
        connection = [value for name, value in fields if name.lower() == b"connection"]
        # Ignoring another protocol's Upgrade (h2c) leaves the connection as it was (RFC 9110 §7.8).
        if close or self._h11.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR):
            connection.append(b"close")
            self.closes_early = True
        sent = [(name, value) for name, value in fields if name.lower() != b"connection"]
        if connection:
            sent.append((b"Connection", b", ".join(connection)))
        head = self._send(h11.Response(status_code=status, reason=reason_phrase(status), headers=sent))
        self.response_status = status
        return head

    def begin_endless_response(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Return the head of a 200 whose body continues until the connection ends (RFC 9112 §6.3 item 8).

        It is made here, since h11 would make the body chunked, and a body that is encoded once for many clients can't
        be in chunks of each client's own. Nothing more can be sent through this object.
        """
        self.response_status = 200
        lines = [b"HTTP/1.1 200 OK", *(name + b": " + value for name, value in fields), b"Connection: close"]
        return b"\r\n".join([*lines, b"", b""])

    def send_body(self, data: bytes) -> bytes:
        """Return a piece of the answer's body as it goes on the wire; nothing in an answer to HEAD."""
        if not self._answer_has_body:
            return b""
        return self._send(h11.Data(data=data)) if self._clean is None else self._clean.send_body(data)

    def end_response(self) -> bytes:
        """Return the bytes that end the answer. Raises `h11.LocalProtocolError` for less body than was announced."""
        return self._send(h11.EndOfMessage()) if self._clean is None else self._clean.end_response()

    def send_100_continue(self) -> bytes:
        """Return the 100 that a client waits for before it sends its body (RFC 9110 §10.1.1)."""
        if self._clean is not None:
            self._clean.check_turn("InformationalResponse")
        return self._send(h11.InformationalResponse(status_code=100, reason=b"Continue", headers=[]))

    @property
    def response_begun(self) -> bool:
        """Whether an answer to the present request has begun to go out."""
        if self._clean is not None:
            return self._clean.response_begun
        return self._made_h11 is not None and self._made_h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    def switch_protocols(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Return the bytes of the 101 that ends the HTTP phase (RFC 9110 §15.2.2)."""
        if self._clean is not None and (head := self._clean.switch_protocols(headers)) is not None:
            return head
        return self._send(h11.InformationalResponse(status_code=101, reason=reason_phrase(101), headers=list(headers)))

    def _send(self, event: h11.Event) -> bytes:
        pieces = self._h11.send_with_data_passthrough(event)
        assert pieces is not None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body (RFC 9110 §10.1.1)."""
        return self._clean is None and self._h11.they_are_waiting_for_100_continue

    @property
    def can_continue(self) -> bool:
        """Whether the connection may be kept for another request, now that this one is answered."""
        if self._clean is not None:
            return self._clean.can_continue
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def start_next_request(self) -> None:
        """Prepare for the next request on this connection. A part of it may have been received already."""
        trailing, ended = self.trailing_data
        self._clean = self._made_h11 = None
        self._answer_has_body = True
        self.response_status = None
        self._chunks = None
        self._in_head = True
        self._raw_head = b""
        self._head.clear()
        self._empty_lines_bytes = 0
        # The bytes are fed again, so that empty lines between two requests are ignored like those before the first.
        if trailing:
            self.receive_data(trailing)
        if ended:
            self.receive_data(b"")

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """The bytes after the last request, and whether the stream ended after them."""
        if self._clean is not None:
            return bytes(self._clean.trailing), self._clean.has_ended
        return self._h11.trailing_data


def _has_form(request: Request) -> bool:
    """Say whether a target has one of the forms of RFC 9112 §3.2; a fragment is in none of them."""
    if request.target == "*":
        return request.method == "OPTIONS"
    return request.path is not None and "#" not in request.target


def _bad_request(code: str, sentence: str) -> Refusal:
    return Refusal(400, code, sentence)
