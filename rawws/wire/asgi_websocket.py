"""The WebSocket of an ASGI application as its events, in both directions, without any I/O.

An application answers ``websocket.connect`` by one of three decisions: it accepts, it closes, or it sends a response of
its own (the extension ``websocket.http.response``). After an acceptance, messages go both ways until one side closes.
`AsgiWebSocket` checks each event that the application sends against that order, and returns the action that it asks
for. It also has the events that need no waiting: the first and the last one. Quotations are from the HTTP and WebSocket
part of ASGI, 2.4.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rawws.errors import CloseFrame, UsageError
from rawws.wire.events import check_close
from rawws.wire.frames import MAX_CONTROL_PAYLOAD_BYTES
from rawws.wire.messages import Headers
from rawws.wire.trace import shorten

MAX_REASON_BYTES = MAX_CONTROL_PAYLOAD_BYTES - 2

# An application that never heeds the end, and goes on receiving, would keep a processor busy for ever. After the end
# has been reported this many times, nothing more is received (a guess; uvicorn reports it twice at most).
MAX_DISCONNECTS = 16

# The fields of a 101 that belong to the handshake itself, or that it can't have (RFC 9110 §8.6, §15.2).
_FIELDS_OF_THE_HANDSHAKE = frozenset(
    {
        *("upgrade", "connection", "content-length", "transfer-encoding"),
        *("sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol", "sec-websocket-version"),
    }
)

ABNORMAL = CloseFrame(1006, "")  # the connection ended without a close, or before there was a WebSocket


@dataclass(frozen=True, slots=True)
class Accept:
    """The application accepts: a 101 with this subprotocol, and these fields besides those of the handshake."""

    subprotocol: str | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Reject:
    """The application closes before it has accepted: a 403."""


@dataclass(frozen=True, slots=True)
class Deny:
    """A part of the application's own response in place of the 101, as the event of an HTTP response."""

    event: dict[str, Any]


class Send(NamedTuple):  # which is made faster than a frozen dataclass: there is one for each message
    """A message for the client; ``str`` is text."""

    data: str | bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Close:
    """The application closes the WebSocket."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class TooLate:
    """Nothing can be sent any more: "the server should raise a server-specific subclass of OSError"."""


Action = Accept | Reject | Deny | Send | Close | TooLate


class Phase(enum.Enum):
    """How far a WebSocket has come, as the application sees it."""

    ASKED = "that it has neither accepted nor closed"
    OPEN = "that it has accepted"
    DENIED = "that it answers with a response of its own"
    OVER = "that has ended"


class AsgiWebSocket:
    """The state of one application's WebSocket. Its user performs the actions, and reports the end."""

    def __init__(self, offered_subprotocols: Sequence[str] = ()) -> None:
        self._offered = offered_subprotocols
        self.has_connected = False  # the application has taken ``websocket.connect``
        self.ended: CloseFrame | None = None  # how it ended, once that is known
        self._disconnects = 0  # how often the end has been reported
        self._enter(Phase.ASKED)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._expected = _EXPECTED[phase]

    # Events that the application sends

    def take(self, message: Mapping[str, Any]) -> Action:
        """Return what an event of the application asks for. Raises `UsageError` for one that can't be sent now."""
        kind = message.get("type")
        if isinstance(kind, str) and (read := self._expected.get(kind)) is not None:
            return read(self, message)
        if self.phase is Phase.OVER:
            return TooLate()
        *others, last = self._expected
        expected = f"{', '.join(others)} or {last}" if others else last
        raise UsageError(
            f"an ASGI application can't send {shorten(repr(kind))} about a WebSocket {self.phase.value}; "
            f"it may send {expected}"
        )

    def _accept(self, message: Mapping[str, Any]) -> Accept:
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self._offered:
            offers = f"its offers are {', '.join(self._offered)}" if self._offered else "it offers none"
            raise UsageError(
                f"the ASGI application accepts with the subprotocol {subprotocol!r}, which the client doesn't offer "
                f"(RFC 6455 §4.1); {offers}"
            )
        accept = Accept(subprotocol, _read_fields(message.get("headers") or ()))
        self._enter(Phase.OPEN)
        return accept

    def _reject(self, _message: Mapping[str, Any]) -> Reject:
        self.end(ABNORMAL)
        return Reject()

    def _begin_denial(self, message: Mapping[str, Any]) -> Deny:
        status = message.get("status")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise UsageError(
                f"the ASGI application's response can't have the status {status!r}; give one from 200 to 599, or send "
                "websocket.accept"
            )
        self._enter(Phase.DENIED)
        return Deny({**message, "type": "http.response.start"})

    def _deny(self, message: Mapping[str, Any]) -> Deny:
        if not message.get("more_body"):
            self.end(ABNORMAL)
        return Deny({**message, "type": "http.response.body"})

    def _send(self, message: Mapping[str, Any]) -> Send:
        return Send(_read_data(message))

    def _close(self, message: Mapping[str, Any]) -> Close:
        close = _read_close(message)
        self.end(CloseFrame(close.code, close.reason))
        return close

    # Events that it receives

    def next_event(self) -> dict[str, Any] | None:
        """Return the event that is due now; None while a message or the end has to come first.

        When the end has been reported often enough, `is_exhausted` is true, and there is no further event.
        """
        if not self.has_connected:
            self.has_connected = True
            return {"type": "websocket.connect"}
        if self.ended is None or self.is_exhausted:
            return None
        self._disconnects += 1
        return {"type": "websocket.disconnect", "code": self.ended.code, "reason": self.ended.reason}

    @property
    def is_exhausted(self) -> bool:
        """Whether the application goes on receiving although it knows of the end."""
        return self._disconnects >= MAX_DISCONNECTS

    @property
    def knows_the_end(self) -> bool:
        """Whether the end has been reported to the application."""
        return self._disconnects > 0

    def end(self, how: CloseFrame) -> None:
        """Record the end of the connection, or of the attempt. The first call decides."""
        self._enter(Phase.OVER)
        if self.ended is None:
            self.ended = how


# The events that an application may send in each phase, in the order in which an error names them.
_EXPECTED: dict[Phase, dict[str, Callable[[AsgiWebSocket, Mapping[str, Any]], Action]]] = {
    Phase.ASKED: {
        "websocket.accept": AsgiWebSocket._accept,
        "websocket.close": AsgiWebSocket._reject,
        "websocket.http.response.start": AsgiWebSocket._begin_denial,
    },
    Phase.OPEN: {"websocket.send": AsgiWebSocket._send, "websocket.close": AsgiWebSocket._close},
    Phase.DENIED: {"websocket.http.response.body": AsgiWebSocket._deny},
    Phase.OVER: {},
}


def event_of(message: str | bytes) -> dict[str, Any]:
    """Return the event of a message from the client."""
    return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}


def _read_fields(given: Iterable[Any]) -> Headers:
    fields = []
    for name, value in given:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise UsageError(f"the ASGI application's header {name!r}: {value!r} must be two byte strings")
        if name.lower().decode("latin-1") in _FIELDS_OF_THE_HANDSHAKE:
            instead = "; give it as subprotocol" if name.lower() == b"sec-websocket-protocol" else ""
            raise UsageError(
                f"the ASGI application can't set the header {name.decode('latin-1')} of websocket.accept, which "
                f"belongs to the handshake{instead}"
            )
        fields.append((name.decode("latin-1"), value.decode("latin-1")))
    return Headers.checked(fields)


def _read_data(message: Mapping[str, Any]) -> str | bytes | bytearray | memoryview:
    """Return the content: "Exactly one of bytes or text must be non-None"."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        both = "neither text nor bytes" if text is None else "both text and bytes"
        raise UsageError(f"the ASGI application's websocket.send has {both}; give one of them")
    if text is not None:
        if not isinstance(text, str):
            raise UsageError(f"the text of websocket.send must be a str, not {type(text).__name__}")
        return text
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"the bytes of websocket.send must be bytes, not {type(data).__name__}")
    return data


def _read_close(message: Mapping[str, Any]) -> Close:
    """Return the close. A reason "can be any string": what a close frame can't hold of it is cut off (§5.5)."""
    code = message.get("code")
    reason = str(message.get("reason") or "").encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return Close(*check_close(1000 if code is None else code, reason))
