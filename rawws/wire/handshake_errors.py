"""The exceptions of an opening handshake that carry a response.

The other exceptions are in ``errors.py``, which imports nothing and so doesn't know what a response is.
"""

from __future__ import annotations

from rawws.errors import InvalidHandshake
from rawws.wire.messages import Response


class InvalidStatus(InvalidHandshake):
    """The server answered with a status other than 101; ``response`` is its answer, including the body."""

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response


class ProxyError(InvalidHandshake):
    """The proxy refused to connect us, or its answer is not HTTP; ``response`` is its refusal, if it sent one."""

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class HandshakeRefused(InvalidHandshake):
    """We refused a client's handshake; ``response`` is the answer that the client was sent."""

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response
