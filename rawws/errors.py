"""The package's exceptions as one tree, and the types for faults on the wire and for a connection's end.

::

    RawwsError
    ├── UsageError                 a value that our caller gave can't be used: a flag, an option
    │   └── InvalidURI             such as an address that isn't one of a WebSocket
    ├── ListenError                the operating system won't let us listen there
    ├── BackplaneAway              the backplane is away, and can't keep one more command to the other nodes
    ├── InvalidHandshake           the opening handshake came to nothing
    │   ├── InvalidStatus          the server answered something else than 101 (1)
    │   ├── InvalidResponse        its 101 breaks the RFC
    │   ├── NoResponse             the connection ended before it had answered; a ConnectionError too
    │   ├── InvalidRedirect        it sends us to where we don't follow
    │   ├── ProxyError             a proxy in between refused (1)
    │   └── HandshakeRefused       we are the server, and refused the client (1)
    ├── TlsError                   TLS with a server failed; an ssl.SSLError too (in ``net/tls.py``, which knows ssl)
    │   └── CertificateError       its certificate isn't trusted; an ssl.SSLCertVerificationError too
    ├── OpenTimeout                the opening took longer than ``open_timeout``; a TimeoutError too
    ├── PublishError               a message wasn't published
    │   ├── NotServing             nobody serves the hub: not yet, or not any more
    │   ├── QueueFull              other threads publish faster than the loop takes it
    │   ├── PublishRefused         the server at an address has refused it, and the answer says why
    │   └── PublishUnsure          or it was: nobody knows, since the answer is lost
    └── ConnectionClosed           the WebSocket is closed; ``closed`` says how that came
        ├── ConnectionClosedOK     with 1000 or 1001 on both sides
        └── ConnectionClosedError  in any other way

The exceptions marked (1) carry a response. They are in ``wire/handshake_errors.py``, since this module imports none.

A *fault* is not an exception. A peer's mistake is an ordinary event in the life of a server: it is returned,
answered and logged in one sentence. Each fault has a sentence for people, a stable ``code`` for programs, and the HTTP
status or WebSocket close code that is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

# RFC 6455 §7.4.1, and the registry that it set up (https://www.iana.org/assignments/websocket).
CLOSE_CODE_NAMES = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status received",
    1006: "abnormal closure",
    1007: "invalid frame payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake",
}


class RawwsError(Exception):
    """The root of all exceptions that this package raises on purpose."""


class UsageError(RawwsError):
    """A value that the caller gave can't be used; the message says which, and what would do."""


class InvalidURI(UsageError):
    """An address isn't one of a WebSocket (RFC 6455 §3)."""


class ListenError(RawwsError):
    """No socket could be opened to listen on; the message says where, why, and what to try."""


class BackplaneAway(RawwsError):
    """A command can't be sent to the other nodes: the backplane is away, and as many as it keeps wait already."""


class InvalidHandshake(RawwsError):
    """The opening handshake came to nothing; the message says whose fault it was, and why."""


class InvalidResponse(InvalidHandshake):
    """The server's 101 doesn't meet a requirement of RFC 6455 §4.1, or can't be read as HTTP."""


class NoResponse(InvalidHandshake, ConnectionError):
    """The connection ended before the server, or a proxy, had answered: it may be that it is being started again."""


class InvalidRedirect(InvalidHandshake):
    """The server redirects in a circle, too often, or to where a WebSocket can't be."""


class OpenTimeout(RawwsError, TimeoutError):
    """Connecting and the opening handshake took longer than ``open_timeout`` together."""


class PublishError(RawwsError):
    """A message wasn't published; the message of this exception says why, and what to do."""


class NotServing(PublishError):
    """A thread calls a hub that no loop serves: its server hasn't started, or has ended."""


class QueueFull(PublishError):
    """Too much that other threads publish waits for the loop already, and this thread can't wait."""


class PublishRefused(PublishError):
    """A server has refused a message. ``status`` is that of its answer."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class PublishUnsure(PublishError):
    """It isn't known whether a message was published: there was no answer in time."""


def sentence_of(error: Exception) -> str:
    """Return an exception's message, without the number that OSError puts in front of it."""
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a request is refused over HTTP, as the client gets it.

    ``headers`` are those that the status calls for, such as ``Allow``.
    """

    status: int
    code: str
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hint: str = ""  # what the operator could do about it: for our own log, and for a client that is the operator
    body: bytes | None = None  # in place of the sentence, if somebody else has refused; the headers say what it is

    @property
    def advice(self) -> str:
        """The sentence and the hint, for the operator. A hint has its end to itself, so that it can be copied."""
        return f"{self.sentence.removesuffix('.')}; {self.hint}" if self.hint else self.sentence


# The header of a refusal that may be over a second later.
RETRY_SOON = ((b"Retry-After", b"1"),)

# The reason of every close with 1001, which goes with `Cause.SHUTDOWN`.
SHUTTING_DOWN = "the server is shutting down"


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why we *fail the connection* (RFC 6455 §7.1.7): the peer broke a rule or crossed a limit."""

    close_code: int
    code: str
    sentence: str


class Cause(Enum):
    """The reason why a connection ended, for programs; it answers "why 1006?"."""

    OUR_CLOSE = "our close"  # our program closed it
    PEER_CLOSE = "peer close"  # the peer sent a close first
    EOF = "eof"  # the peer ended the stream without a close
    RESET = "reset"  # the connection broke: a reset, a network error
    PING_TIMEOUT = "ping timeout"  # nothing came for ``ping_timeout`` seconds after a ping
    CLOSE_TIMEOUT = "close timeout"  # the peer didn't answer our close
    LIMIT = "limit"  # the peer went over a limit: with a message, or with TLS records that carry no data
    SLOW_PEER = "slow peer"  # the peer read too slowly for its room
    PROTOCOL_ERROR = "protocol error"  # the peer broke a rule
    SHUTDOWN = "shutdown"  # our server stops
    ERROR = "error"  # an error of our own program


class CloseFrame(NamedTuple):
    """A close as it was sent or received; code 1005 stands for a close without a status (§7.1.5)."""

    code: int
    reason: str

    def __str__(self) -> str:
        name = CLOSE_CODE_NAMES.get(self.code)
        text = str(self.code) if name is None else f"{self.code} ({name})"
        return f"{text} {self.reason!r}" if self.reason else text


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended.

    ``code`` and ``reason`` are those of the close that was received, whichever side began: 1005 stands for a close
    without a code, and 1006 with an empty reason for no close at all (RFC 6455 §7.1.5, §7.1.6).
    """

    code: int
    reason: str
    by_us: bool  # we began the closing handshake, or failed the connection
    cause: Cause
    sentence: str  # the whole story in one sentence, as in the log
    rcvd: CloseFrame | None = None  # the peer's close: its ``code`` and ``reason``
    sent: CloseFrame | None = None  # our close; it may not have reached the peer

    def __str__(self) -> str:
        return self.sentence


class ConnectionClosed(RawwsError):
    """The WebSocket is closed, and nothing more can be sent or received; ``closed`` says how that came."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(str(closed))
        self.closed = closed

    @property
    def code(self) -> int:
        """The code of the close that was received; 1005 for one without a code, 1006 for none."""
        return self.closed.code

    @property
    def reason(self) -> str:
        """The reason in the close that was received; empty if it has none."""
        return self.closed.reason

    @property
    def rcvd(self) -> CloseFrame | None:
        """The peer's close, or None."""
        return self.closed.rcvd

    @property
    def sent(self) -> CloseFrame | None:
        """Our close, or None."""
        return self.closed.sent


class ConnectionClosedOK(ConnectionClosed):
    """An orderly end: a closing handshake with 1000 (normal closure), 1001 (going away), or without a code."""


class ConnectionClosedError(ConnectionClosed):
    """Any other end: a failure, a lost connection, or a close whose code tells of a problem."""
