"""The operators of a server: the requests that may administer it.

An address does not identify a person, since a proxy on this machine may pass on the requests of strangers. So each
request needs a secret, wherever it comes from.
"""

from __future__ import annotations

from typing import Protocol

from rawws.access.shared_token import SharedToken, check_shared_token
from rawws.errors import Refusal, UsageError
from rawws.wire.messages import Request

# Such a token in hexadecimal has 64 bits, and nothing here slows down a client that guesses.
MIN_TOKEN_CHARACTERS = 16

_ASK = ((b"WWW-Authenticate", b'Bearer realm="administration"'),)
HOW_TO_OPEN = "to open it, start the server with --admin-token-file"


class Operators(Protocol):
    """Decides which requests may administer a server."""

    def refuse(self, request: Request) -> Refusal | None:
        """Return why a request may not; None if it may."""


class Nobody:
    """No request may, since there is no secret."""

    def refuse(self, request: Request) -> Refusal | None:
        sentence = "Administration is closed here, since there is no token for it."
        return Refusal(403, "administration_closed", sentence, hint=HOW_TO_OPEN)


class TokenHolders:
    """The requests that carry a token, as ``Authorization: Bearer TOKEN``."""

    def __init__(self, token: SharedToken) -> None:
        self._token = token

    def refuse(self, request: Request) -> Refusal | None:
        return None if self._token.is_in(request) else needs("its token")


def needs(what: str) -> Refusal:
    """Return the refusal of a request without the right secret."""
    sentence = f"Administration needs {what}, as 'Authorization: Bearer TOKEN'."
    return Refusal(401, "administration_token", sentence, _ASK)


def check_admin_token(token: str) -> str:
    """Return a token that is long enough. Raises `UsageError` for others; the error doesn't repeat the secret."""
    if len(check_shared_token(token)) < MIN_TOKEN_CHARACTERS:
        raise UsageError(
            f"the admin token has fewer than {MIN_TOKEN_CHARACTERS} characters; give one such as "
            "'openssl rand -hex 16' makes"
        )
    return token
