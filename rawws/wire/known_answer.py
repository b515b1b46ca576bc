"""The answer to a request that comes again and again.

A client that keeps its connection often sends the same head each time, such as a load balancer that checks a server.
Equal bytes have one reading. So where the answer depends on the head alone, neither has to be made again: the bytes
that arrive are compared with the last head, and the answer's own bytes are sent.
"""

from __future__ import annotations

from functools import lru_cache

from rawws.limits import KIB
from rawws.wire.clean_exchange import write_whole
from rawws.wire.messages import Headers, Request, Response

# Each connection between two requests holds one head, and a browser's have a kilobyte or two (a guess).
MOST_HEAD_BYTES = 2 * KIB
# The answers, each with a second, whose bytes are kept for all connections. A server has two or three such answers.
_MOST_WRITTEN = 16


class KnownAnswer:
    """The answer to all requests on a connection that have the same clean head."""

    __slots__ = ("_is_to_head", "answer", "head", "method", "target")

    def __init__(self, request: Request, answer: Response) -> None:
        self.head = request.raw_head  # to be compared with all bytes that have arrived
        self.method = request.method
        self.target = request.target
        self.answer = answer
        self._is_to_head = request.method == "HEAD"

    @classmethod
    def of(cls, request: Request, answer: Response) -> KnownAnswer | None:
        """Return the answer to a request with a clean head as a known one, if that is of use.

        None for a head that is too long to be held, and for an answer that h11 has to write.
        """
        return cls(request, answer) if len(request.raw_head) <= MOST_HEAD_BYTES and _is_plain(answer) else None

    @property
    def held_bytes(self) -> int:
        """The bytes of the head, and of its target, which is a copy."""
        return len(self.head) + len(self.target)

    def write(self, date: bytes, server_header: str | None) -> bytes:
        """Return the bytes of the answer, with the value of its Date. All connections of a second share them."""
        return _write(self.answer, self._is_to_head, date, server_header)


@lru_cache(maxsize=_MOST_WRITTEN)
def _is_plain(answer: Response) -> bool:
    return write_whole(answer, (), is_to_head=False) is not None


@lru_cache(maxsize=_MOST_WRITTEN)
def _write(answer: Response, is_to_head: bool, date: bytes, server_header: str | None) -> bytes:
    whole = write_whole(answer, common_fields(date, server_header, answer.headers), is_to_head=is_to_head)
    assert whole is not None, "`KnownAnswer.of` has written it before"
    return b"".join(whole)


def common_fields(date: bytes, server_header: str | None, own: Headers) -> list[tuple[bytes, bytes]]:
    """Return the fields of every response, but those that it has as its ``own``.

    RFC 9110 §6.6.1 requires a date of a server that has a clock.
    """
    fields = []
    if "Date" not in own:
        fields.append((b"Date", date))
    if server_header is not None and "Server" not in own:
        fields.append((b"Server", server_header.encode("ascii")))
    return fields
