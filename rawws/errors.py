"""What can go wrong, as one tree of exceptions and one shape for faults on the wire.

::

    RawwsError
    ├── UsageError      a value that our caller gave can't be used: a flag, an option
    └── ListenError     the operating system won't let us listen there

A *fault* is not an exception. What a peer does wrong is an ordinary event in the life of a server: it is
returned, answered and logged in one sentence. Each has a stable ``code`` for programs beside its sentence for
people, and says what goes out on the wire (an HTTP status, or a WebSocket close code).
"""

from __future__ import annotations

from dataclasses import dataclass


class RawwsError(Exception):
    """The root of all exceptions that this package raises on purpose."""


class UsageError(RawwsError):
    """A value that the caller gave can't be used; the message says which, and what would do."""


class ListenError(RawwsError):
    """No socket could be opened to listen on; the message says where, why, and what to try."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the HTTP phase refuses a request, and what the client is told.

    ``headers`` are those that the status calls for, such as ``Allow``.
    """

    status: int
    code: str
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hint: str = ""  # for our own log only: what the operator could do about it


@dataclass(frozen=True, slots=True)
class Fault:
    """Why we *fail the connection* (RFC 6455 §7.1.7): the peer broke a rule or crossed a limit."""

    close_code: int
    code: str
    sentence: str
