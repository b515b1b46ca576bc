"""A token that several requests share, such as all of a back end, and which can be replaced while it is in use."""

from __future__ import annotations

import hmac
import re

from rawws.errors import UsageError
from rawws.wire.messages import Request

_TOKEN = re.compile("[!-~]+")  # the characters that can follow Bearer; spaces around them are ignored


class SharedToken:
    """A token that requests carry as ``Authorization: Bearer TOKEN`` (RFC 6750 §2.1). It appears in no `repr`."""

    __slots__ = ("_token",)

    def __init__(self, token: str) -> None:
        """Raises `UsageError` for a token that can't be sent, or is empty. The error doesn't repeat the secret."""
        self.replace(token)

    def replace(self, token: str) -> None:
        """Ask requests for another token from now on. Raises `UsageError` as the constructor does."""
        self._token = check_shared_token(token).encode("ascii")

    def is_in(self, request: Request) -> bool:
        """Return whether a request carries the token. The time for it says nothing about the token."""
        scheme, _, given = (request.headers.get("Authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


def check_shared_token(token: str) -> str:
    """Return a token that can be sent. Raises `UsageError` for others; the error doesn't repeat the secret."""
    if not _TOKEN.fullmatch(token):
        fault = "not printable ASCII without spaces" if token else "empty"
        raise UsageError(f"the token is {fault}; give one such as 'openssl rand -hex 16' makes")
    return token
