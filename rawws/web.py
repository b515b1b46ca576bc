"""Plain HTTP answers, for requests that don't upgrade."""

from __future__ import annotations

from email.utils import formatdate

from rawws.errors import Refusal
from rawws.wire.http1 import Request, Response

GREETING = b"hi there"
ALLOWED_METHODS = ("GET", "HEAD")


def answer(request: Request) -> Response | Refusal:
    """Return the answer to an ordinary request: ``hi there`` for any path but ``/healthz``, which says ``ok``."""
    if request.method not in ALLOWED_METHODS:
        allowed = ", ".join(ALLOWED_METHODS)
        return Refusal(
            405,
            "method_not_allowed",
            f"The method {request.method} is not allowed here; use {allowed.replace(', ', ' or ')}.",
            ((b"Allow", allowed.encode("ascii")),),
        )
    return text(200, b"ok" if request.path == "/healthz" else GREETING)


def text(status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """Return a response of plain text, dated as RFC 9110 §6.6.1 asks of a server that has a clock."""
    common = (
        (b"Date", formatdate(usegmt=True).encode("ascii")),
        (b"Content-Type", b"text/plain; charset=utf-8"),
    )
    return Response(status, common + headers, body)


def refuse(refusal: Refusal) -> Response:
    """Return the response that tells a client why it is refused, in one sentence."""
    return text(refusal.status, refusal.sentence.encode() + b"\n", refusal.headers)
