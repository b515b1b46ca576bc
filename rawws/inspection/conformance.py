"""The cases for a test of a server: legal ones that it has to accept, and broken ones that it has to refuse.

Each `Case` says what is sent, and what RFC 6455 asks of the server; `judge` compares the answer with that. If the RFC
leaves a choice, both ways pass: *fail the connection* (§7.1.7) should send a close that says why, and must close in any
case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from rawws.inspection.observer import Observer
from rawws.inspection.seen import Head, Seen, SeenFrame
from rawws.limits import MIB
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.events import CloseFrame
from rawws.wire.frames import FIN, MASK, RSV1, RSV2, RSV3, Opcode, encode_frame, encode_header
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role

# Any key will do in a test: it hides nothing (§5.3 is about proxies in between).
KEY = b"\x37\xfa\x21\x3d"
# The ping after input that a server must accept: its answer shows that the connection is still open.
STILL_THERE = b"still there?"
# A server that sends more than this, without the answer, won't send the answer either (a guess).
MAX_ANSWER_BYTES = MIB
# The limit on heads and frames: each is an object, and there may be one in every two bytes.
MAX_ANSWER_PARTS = 10_000


class Verdict(Enum):
    GOOD = "good"
    LAX = "lax"  # allowed, but not what the RFC says it should be
    BAD = "BAD"
    UNCLEAR = "unclear"  # the case couldn't be run to its end


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a case: the verdict, and the server's behaviour in a few words."""

    verdict: Verdict
    got: str


class Answer:
    """The bytes that come back from the server in one case, observed as they come.

    It is complete when the case ``is_settled``, even if the connection is open, and too large when it ``is_full``.
    """

    def __init__(self, case: Case, request: bytes) -> None:
        self.raw = bytearray()
        # The client's bytes, each piece with the number of bytes that the server had sent before it.
        self.sent: list[tuple[int, bytes]] = [(0, request)]
        self.seen: list[Seen] = []  # the same as heads and frames
        self.ended = False  # the server ended the stream, or reset it
        self.is_settled = False
        self.has_close = False  # the server sent a close, and may expect one (§5.5.1)
        self._case = case
        self._observer = Observer()
        self._observer.receive(Role.CLIENT, request)

    @property
    def is_full(self) -> bool:
        return len(self.raw) >= MAX_ANSWER_BYTES or len(self.seen) >= MAX_ANSWER_PARTS

    def will_send(self, data: bytes) -> None:
        """Record bytes that the client is about to send."""
        self.sent.append((len(self.raw), data))

    def receive(self, data: bytes) -> None:
        """Process the next bytes."""
        self.raw += data
        new = self._observer.receive(Role.SERVER, data)
        self.seen += new
        self.has_close = self.has_close or _close_of(new) is not None
        self.is_settled = self.is_settled or self._case.is_settled_by(new)


@dataclass(frozen=True, slots=True)
class Case:
    """One case. ``title`` completes "the server is sent ..."."""

    name: str
    title: str
    section: str
    rule: str
    judge: Callable[[list[Seen], Answer], Outcome] = field(repr=False)
    request: Callable[[ClientHandshake], bytes] = field(repr=False, default=lambda handshake: raw_request(handshake))
    frames: bytes = field(repr=False, default=b"")
    half: bool = False  # the client ends its side of the stream after the last byte
    debatable: bool = False  # the RFC binds the sender, and doesn't say what a receiver must do

    @property
    def is_about_handshake(self) -> bool:
        """Whether only the answer to the request counts."""
        return not self.frames

    @property
    def begins_with_close(self) -> bool:
        """Whether the client's part of the closing handshake is in ``frames``."""
        return self.frames[:1] == bytes((FIN | Opcode.CLOSE,))

    def outcome(self, answer: Answer) -> Outcome:
        """Judge the server's answer."""
        if answer.is_full and not answer.is_settled:
            came = f"{len(answer.raw):,} bytes came, with {len(answer.seen):,} heads and frames"
            return Outcome(Verdict.UNCLEAR, f"{came}, and went on, with nothing in them by which to judge")
        outcome = self.judge(answer.seen, answer)
        if self.debatable and outcome.verdict is Verdict.BAD:
            return Outcome(Verdict.LAX, outcome.got)
        return outcome

    def is_settled_by(self, seen: list[Seen]) -> bool:
        """Whether one of these decides the case, even if the connection is open."""
        status = status_of(seen)
        if self.is_about_handshake or status not in (None, 101):
            return status is not None
        return any(each.frame.payload_head == STILL_THERE for each in frames_of(seen) if _is(each, Opcode.PONG))


def raw_request(
    handshake: ClientHandshake,
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
    without: str = "",
    **changed: str,
) -> bytes:
    """Return the handshake's request as bytes, with changes that our client can't make."""
    fields = [(name, value) for name, value in handshake.request.headers if name != without]
    for key, value in changed.items():
        name = key.replace("_", "-")
        if any(name.lower() == known.lower() for known, _ in fields):
            fields = [(known, value if known.lower() == name.lower() else old) for known, old in fields]
        else:
            fields.append((name, value))
    lines = [f"{method} {handshake.request.target} {version}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _changed(**changes: str) -> Callable[[ClientHandshake], bytes]:
    return lambda handshake: raw_request(handshake, **changes)


def _twice(name: str) -> Callable[[ClientHandshake], bytes]:
    def request(handshake: ClientHandshake) -> bytes:
        line = f"{name}: {handshake.request.headers[name]}\r\n".encode()
        return raw_request(handshake).replace(line, line * 2)

    return request


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a client's frame."""
    return encode_frame(opcode, payload, fin=fin, rsv=rsv, mask_key=KEY)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason)


def _long_form(payload: bytes, length_bytes: int) -> bytes:
    """Return a text frame whose length is encoded in more bytes than it needs."""
    short = 126 if length_bytes == 2 else 127
    header = bytes((FIN | Opcode.TEXT, MASK | short)) + len(payload).to_bytes(length_bytes, "big") + KEY
    return header + apply_mask(payload, KEY)


# Judging the answer


def frames_of(seen: Iterable[Seen]) -> list[SeenFrame]:
    """Return the server's frames among what was seen."""
    return [each for each in seen if isinstance(each, SeenFrame)]


def _is(seen: SeenFrame, opcode: Opcode) -> bool:
    return seen.frame.header.opcode == opcode


def status_of(seen: list[Seen]) -> int | None:
    """Return the status of the server's final answer."""
    for each in seen:
        if isinstance(each, Head):
            try:
                status = int(each.raw.split(b" ", 2)[1])
            except (IndexError, ValueError):
                continue
            if status == 101 or status >= 200:
                return status
    return None


def _close_of(seen: list[Seen]) -> CloseFrame | None:
    for each in frames_of(seen):
        if _is(each, Opcode.CLOSE):
            payload = each.frame.payload_head
            if len(payload) < 2:
                return CloseFrame(1005, "")
            return CloseFrame(int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace"))
    return None


def _tell_end(answer: Answer) -> str:
    return "and the connection closed" if answer.ended else "and the connection stayed open"


def _not_open(seen: list[Seen]) -> Outcome | None:
    """Return the outcome of a case that needs an open WebSocket, if there is none."""
    status = status_of(seen)
    if status == 101:
        return None
    return Outcome(Verdict.UNCLEAR, f"the handshake was answered with {status or 'nothing'}: the case can't be run")


def _refuses(*expected: int) -> Callable[[list[Seen], Answer], Outcome]:
    """The handshake has to be refused with an HTTP error (§4.2.1), and should be with one of those expected."""

    def judge(seen: list[Seen], answer: Answer) -> Outcome:
        status = status_of(seen)
        if status == 101:
            return Outcome(Verdict.BAD, "101: it was accepted")
        if status is None:
            if answer.raw:
                return Outcome(Verdict.BAD, "an answer that is not HTTP")
            return Outcome(Verdict.LAX if answer.ended else Verdict.BAD, f"no answer, {_tell_end(answer)}")
        if status < 400:
            return Outcome(Verdict.BAD, f"{status}, which is not a refusal")
        if expected and status not in expected:
            return Outcome(Verdict.LAX, f"{status}, where it should be {' or '.join(map(str, expected))}")
        return Outcome(Verdict.GOOD, f"{status}")

    return judge


def _is_no_upgrade(seen: list[Seen], answer: Answer) -> Outcome:
    """The request isn't a handshake: it may be refused, or answered as any other request, but not with a 101."""
    status = status_of(seen)
    if status == 101:
        return Outcome(Verdict.BAD, "101: it was accepted")
    if status is None:
        return Outcome(Verdict.LAX, f"no answer, {_tell_end(answer)}")
    return Outcome(Verdict.GOOD, f"{status}" + ("" if status >= 400 else ", as to an ordinary request"))


def _names_version_13(seen: list[Seen], answer: Answer) -> Outcome:
    """§4.4: the refusal of a version names those that are spoken."""
    outcome = _refuses(426, 400)(seen, answer)
    if outcome.verdict is not Verdict.GOOD:
        return outcome
    names = b"sec-websocket-version: 13" in answer.raw.lower().replace(b":13", b": 13")
    if not names:
        return Outcome(Verdict.LAX, f"{outcome.got}, without a Sec-WebSocket-Version that names 13")
    return Outcome(Verdict.GOOD, f"{outcome.got}, Sec-WebSocket-Version: 13")


def _accepts(seen: list[Seen], _: Answer) -> Outcome:
    """The handshake is legal, and has to be accepted with a valid 101."""
    status = status_of(seen)
    if status != 101:
        return Outcome(Verdict.BAD, f"{status or 'no answer'}, where 101 was due")
    head = next(each for each in seen if isinstance(each, Head) and each.sender is Role.SERVER)
    wrong = [check for check in head.checks if not check.holds]
    if wrong:
        return Outcome(Verdict.BAD, f"101, but {wrong[0].requirement} is not so: {wrong[0].found}")
    return Outcome(Verdict.GOOD, "101")


def _is_alive(seen: list[Seen], answer: Answer) -> Outcome:
    """The case is legal: the server has to answer the ping after it."""
    if unclear := _not_open(seen):
        return unclear
    pongs = [each for each in frames_of(seen) if _is(each, Opcode.PONG)]
    if any(each.frame.payload_head == STILL_THERE for each in pongs):
        return Outcome(Verdict.GOOD, "taken; the ping behind it was answered")
    if found := _close_of(seen):
        return Outcome(Verdict.BAD, f"a close with {found}")
    return Outcome(Verdict.BAD, f"no pong, {_tell_end(answer)}")


def _fails(*codes: int) -> Callable[[list[Seen], Answer], Outcome]:
    """The server has to *fail the connection* (§7.1.7): it should send a close with that code, and has to close."""

    def judge(seen: list[Seen], answer: Answer) -> Outcome:
        if unclear := _not_open(seen):
            return unclear
        found = _close_of(seen)
        if found is None:
            if answer.ended:
                return Outcome(Verdict.LAX, "the connection closed, without a close frame that says why")
            return Outcome(Verdict.BAD, "nothing: the connection stayed open")
        if not answer.ended:
            return Outcome(Verdict.BAD, f"a close with {found}, but the connection stayed open")
        if found.code not in codes:
            return Outcome(Verdict.LAX, f"a close with {found}, where {' or '.join(map(str, codes))} was due")
        return Outcome(Verdict.GOOD, f"a close with {found}")

    return judge


def _answers_close(*codes: int) -> Callable[[list[Seen], Answer], Outcome]:
    """§5.5.1: a close is answered with a close, typically with the code received; then the server closes (§7.1.1)."""

    def judge(seen: list[Seen], answer: Answer) -> Outcome:
        if unclear := _not_open(seen):
            return unclear
        found = _close_of(seen)
        if found is None:
            return Outcome(Verdict.BAD, f"no close in answer, {_tell_end(answer)}")
        if found.code not in codes:
            return Outcome(Verdict.LAX, f"a close with {found}, where {' or '.join(map(str, codes))} is usual")
        if not answer.ended:
            return Outcome(Verdict.LAX, f"a close with {found}; the TCP connection is left for the client to close")
        return Outcome(Verdict.GOOD, f"a close with {found}")

    return judge


def _pongs(*payloads: bytes) -> Callable[[list[Seen], Answer], Outcome]:
    """§5.5.3: a pong has the ping's payload; of several pings, answering the last is enough."""

    def judge(seen: list[Seen], answer: Answer) -> Outcome:
        alive = _is_alive(seen, answer)
        if alive.verdict is not Verdict.GOOD:
            return alive
        pongs = [
            each.frame.payload_head + each.frame.payload_tail for each in frames_of(seen) if _is(each, Opcode.PONG)
        ]
        strange = [pong for pong in pongs if pong not in (*payloads, STILL_THERE)]
        if strange:
            return Outcome(Verdict.BAD, f"a pong with another payload: {strange[0][:16].hex(' ')}")
        missing = [payload for payload in payloads if payload not in pongs]
        if missing:
            return Outcome(Verdict.LAX, f"{len(missing)} of {len(payloads)} pings answered by a later pong only")
        return Outcome(Verdict.GOOD, "a pong with the same payload")

    return judge


def _unmasked_from_server(seen: list[Seen], _: Answer) -> Outcome:
    """§5.1: a server masks nothing. Any frame that it sends shows that."""
    if unclear := _not_open(seen):
        return unclear
    found = frames_of(seen)
    if not found:
        return Outcome(Verdict.UNCLEAR, "no frame came")
    wrong = [each for each in found if each.fault is not None]
    if wrong and wrong[0].fault is not None:
        return Outcome(Verdict.BAD, wrong[0].fault.sentence)
    return Outcome(Verdict.GOOD, f"{len(found)} frames, all of them proper")


def _silent_after_close(seen: list[Seen], answer: Answer) -> Outcome:
    """§5.5.1: frames after a close are not acted upon, so the ping there must not be answered."""
    outcome = _answers_close(1000)(seen, answer)
    if any(each.frame.payload_head == b"late" for each in frames_of(seen)):
        return Outcome(Verdict.BAD, "a pong to the ping behind the close")
    return outcome


def _lets_go(seen: list[Seen], answer: Answer) -> Outcome:
    """The client has left in the middle of a frame: the server has to close the connection."""
    if unclear := _not_open(seen):
        return unclear
    if not answer.ended:
        return Outcome(Verdict.BAD, "the connection stayed open")
    found = _close_of(seen)
    return Outcome(Verdict.GOOD, f"the connection closed{f', after a close with {found}' if found else ''}")


_PING = frame(Opcode.PING, STILL_THERE)
_REFUSE = "stop, and answer with an HTTP error such as 400"
_NO_UPGRADE = "anything but a 101: this is not a handshake"
_FAIL = "fail the connection: a close with {}, and the end of TCP"
_TAKE = "take it; the connection goes on"


# Zeros when unmasked. The bytes are put together here, since masking this much would load numpy.
_ZEROS = encode_header(Opcode.BINARY, 65536, mask_key=KEY) + KEY * (65536 // len(KEY))


def _broken(name: str, title: str, section: str, frames: bytes, *codes: int, debatable: bool = False) -> Case:
    codes = codes or (1002,)
    rule = _FAIL.format(" or ".join(map(str, codes)))
    return Case(name, title, section, rule, _fails(*codes), frames=frames, debatable=debatable)


def _legal(name: str, title: str, section: str, frames: bytes) -> Case:
    return Case(name, title, section, _TAKE, _is_alive, frames=frames + _PING)


def _bad_request(
    name: str, title: str, request: Callable[[ClientHandshake], bytes], *, debatable: bool = False
) -> Case:
    return Case(name, title, "RFC 6455 §4.2.1", _REFUSE, _refuses(), request=request, debatable=debatable)


def _no_upgrade(name: str, title: str, request: Callable[[ClientHandshake], bytes]) -> Case:
    return Case(name, title, "RFC 6455 §4.2.1", _NO_UPGRADE, _is_no_upgrade, request=request)


CASES: tuple[Case, ...] = (
    # The handshake
    Case("handshake", "a handshake as it should be", "RFC 6455 §4.2.2", "101, with the key's accept value", _accepts),
    Case("tokens", "Connection: keep-alive, Upgrade and Upgrade: WebSocket", "RFC 6455 §4.2.1",
         "101: tokens are found in lists, in any case", _accepts,
         request=_changed(Connection="keep-alive, Upgrade", Upgrade="WebSocket")),
    Case("odd-offer", "an offer of an unknown extension", "RFC 6455 §9.1", "101, without that extension", _accepts,
         request=_changed(Sec_WebSocket_Extensions="x-nobody-knows; a=1")),
    _no_upgrade("lowercase-method", "get in lower case: methods are case-sensitive", _changed(method="get")),
    _no_upgrade("post", "POST in place of GET", _changed(method="POST", Content_Length="0")),
    _no_upgrade("http-1.0", "HTTP/1.0, which has no Upgrade", _changed(version="HTTP/1.0")),
    _no_upgrade("no-upgrade", "no Upgrade, but all the rest", _changed(without="Upgrade")),
    _no_upgrade("other-upgrade", "Upgrade: h2c", _changed(Upgrade="h2c")),
    _no_upgrade("no-connection", "no Connection: Upgrade", _changed(Connection="keep-alive")),
    _bad_request("no-host", "no Host", _changed(without="Host")),
    _bad_request("no-key", "no Sec-WebSocket-Key", _changed(without="Sec-WebSocket-Key")),
    _bad_request("short-key", "a key of 15 bytes", _changed(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA")),
    _bad_request("odd-key", "a key that is not base64", _changed(Sec_WebSocket_Key="!!!!!!!!!!!!!!!!!!!!!!==")),
    _bad_request("two-keys", "the key twice", _twice("Sec-WebSocket-Key"), debatable=True),
    _bad_request("no-version", "no Sec-WebSocket-Version", _changed(without="Sec-WebSocket-Version")),
    Case("version-12", "version 12", "RFC 6455 §4.4", "refuse, and name the version spoken", _names_version_13,
         request=_changed(Sec_WebSocket_Version="12")),
    # Frames that are legal
    Case("proper-frames", "a text, a binary message and a ping", "RFC 6455 §5.1", "answer with proper frames, no masks",
         _unmasked_from_server, frames=frame(Opcode.TEXT, b"hello") + frame(Opcode.BINARY, bytes(range(256))) + _PING),
    _legal("fragments", "a text in three fragments", "RFC 6455 §5.4",
           frame(Opcode.TEXT, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c")),
    _legal("ping-between", "a ping between two fragments", "RFC 6455 §5.4",
           frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.PING, b"1") + frame(0, b"b")),
    _legal("cut-character", "a character cut between two fragments", "RFC 6455 §5.6",
           frame(Opcode.TEXT, b"\xe2\x82", fin=False) + frame(0, b"\xac")),
    _legal("empty", "an empty text, and an empty fragment", "RFC 6455 §5.2",
           frame(Opcode.TEXT) + frame(Opcode.BINARY, fin=False) + frame(0)),
    _legal("zero-key", "a masking key of zeros", "RFC 6455 §5.3", encode_frame(Opcode.TEXT, b"x", mask_key=bytes(4))),
    _legal("unasked-pong", "a pong that nobody asked for", "RFC 6455 §5.5.3", frame(Opcode.PONG, b"hi")),
    _legal("length-126", "a payload of 126 bytes", "RFC 6455 §5.2", frame(Opcode.TEXT, b"x" * 126)),
    _legal("length-65536", "a payload of 65,536 bytes", "RFC 6455 §5.2", _ZEROS),
    Case("ping-125", "a ping of 125 bytes", "RFC 6455 §5.5.3", "a pong with the same payload",
         _pongs(bytes(range(125))), frames=frame(Opcode.PING, bytes(range(125))) + _PING),
    Case("ping-empty", "a ping without a payload", "RFC 6455 §5.5.3", "a pong without one",
         _pongs(b""), frames=frame(Opcode.PING) + _PING),
    # Frames that are not
    _broken("unmasked", "a frame that is not masked", "RFC 6455 §5.1", encode_frame(Opcode.TEXT, b"hello")),
    _broken("rsv1", "RSV1, with no extension agreed on", "RFC 6455 §5.2", frame(Opcode.TEXT, b"hello", rsv=RSV1)),
    _broken("rsv2", "RSV2", "RFC 6455 §5.2", frame(Opcode.TEXT, b"hello", rsv=RSV2)),
    _broken("rsv3", "RSV3", "RFC 6455 §5.2", frame(Opcode.TEXT, b"hello", rsv=RSV3)),
    _broken("opcode-3", "the reserved data opcode 3", "RFC 6455 §5.2", frame(3, b"hello")),
    _broken("opcode-11", "the reserved control opcode 11", "RFC 6455 §5.2", frame(11)),
    _broken("length-too-large", "a length of 2^63", "RFC 6455 §5.2",
            bytes((FIN | Opcode.BINARY, MASK | 127)) + (1 << 63).to_bytes(8, "big") + KEY, 1002, 1009, debatable=True),
    _broken("long-form-16", "5 bytes whose length is told in 16 bits", "RFC 6455 §5.2", _long_form(b"hello", 2),
            debatable=True),
    _broken("long-form-64", "5 bytes whose length is told in 64 bits", "RFC 6455 §5.2", _long_form(b"hello", 8),
            debatable=True),
    _broken("lone-continuation", "a continuation of nothing", "RFC 6455 §5.4", frame(0, b"hello")),
    _broken("text-in-message", "a text between the fragments of another", "RFC 6455 §5.4",
            frame(Opcode.TEXT, b"a", fin=False) + frame(Opcode.TEXT, b"b")),
    _broken("ping-126", "a ping of 126 bytes", "RFC 6455 §5.5", frame(Opcode.PING, bytes(126))),
    _broken("ping-fragment", "a ping in fragments", "RFC 6455 §5.5",
            frame(Opcode.PING, b"a", fin=False) + frame(0, b"b")),
    _broken("bad-utf-8", "a text that is not UTF-8", "RFC 6455 §8.1", frame(Opcode.TEXT, b"\xce\xba\xff"), 1007),
    _broken("surrogate", "a text with a surrogate in UTF-8's clothes", "RFC 6455 §8.1",
            frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
    _broken("cut-utf-8", "a text that ends inside a character", "RFC 6455 §8.1", frame(Opcode.TEXT, b"\xe2\x82"), 1007),
    Case("half-a-frame", "half a frame, and the end of the stream", "RFC 6455 §7.1.1", "let go of the connection",
         _lets_go, frames=frame(Opcode.TEXT, b"hello")[:8], half=True),
    # Closing
    Case("close", "a close with 1000", "RFC 6455 §5.5.1", "a close in answer, then the end of TCP",
         _answers_close(1000), frames=close(1000, b"bye")),
    Case("close-empty", "a close without a code", "RFC 6455 §5.5.1", "a close in answer, then the end of TCP",
         _answers_close(1005, 1000), frames=frame(Opcode.CLOSE)),
    Case("close-4000", "a close with a code of one's own, 4000", "RFC 6455 §7.4.2", "a close in answer",
         _answers_close(4000, 1000), frames=close(4000)),
    Case("ping-behind-close", "a ping behind a close", "RFC 6455 §5.5.1", "answer the close, and nothing more",
         _silent_after_close, frames=close(1000) + frame(Opcode.PING, b"late")),
    _broken("close-1-byte", "a close with one byte", "RFC 6455 §5.5.1", frame(Opcode.CLOSE, b"\x03")),
    _broken("close-999", "a close with 999", "RFC 6455 §7.4.2", close(999)),
    _broken("close-1005", "a close with 1005, which is never sent", "RFC 6455 §7.4.1", close(1005)),
    _broken("close-1006", "a close with 1006, which is never sent", "RFC 6455 §7.4.1", close(1006)),
    _broken("close-bad-utf-8", "a close whose reason is not UTF-8", "RFC 6455 §5.5.1", close(1000, b"\xff"),
            1007, 1002),
)  # fmt: skip

BY_NAME = {case.name: case for case in CASES}
