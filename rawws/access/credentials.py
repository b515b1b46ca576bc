"""The tokens that a request carries: as a header, in its query, or as a subprotocol.

A program sends ``Authorization: Bearer TOKEN`` (RFC 6750 §2.1). A browser's WebSocket and EventSource can't send
headers: they have ``?access_token=TOKEN`` (§2.3), and a WebSocket also the subprotocol ``rawws.token.TOKEN``, which
stays out of URLs, and so out of the logs of proxies. It is offered beside the one that is spoken, and never agreed on.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from rawws.errors import Refusal
from rawws.wire.messages import Request
from rawws.wire.trace import TOKEN_SUBPROTOCOL

QUERY_NAME = "access_token"

TWO_TOKENS = Refusal(
    400, "two_tokens", "This request carries two different tokens; send one, in one place (RFC 6750 §2)."
)


def find_tokens(request: Request) -> list[str]:
    """Return the different tokens that a request carries, whatever their kind, in the order of their places."""
    found = [
        *_bearer_tokens(request),
        *_query_tokens(request),
        *_subprotocol_tokens(request),
    ]
    return list(dict.fromkeys(found))


def find_token(request: Request) -> str | Refusal | None:
    """Return the one token that a request carries, a refusal if it carries several, or None if it carries none."""
    found = find_tokens(request)
    if len(found) > 1:
        return TWO_TOKENS
    return found[0] if found else None


def _bearer_tokens(request: Request) -> list[str]:
    parted = (value.strip().partition(" ") for value in request.headers.get_all("Authorization"))
    return [token.strip() for scheme, _, token in parted if scheme.lower() == "bearer"]


def _query_tokens(request: Request) -> list[str]:
    """Return the values of the parameter. Its name has to be written plainly, since the log masks only that."""
    parted = (parameter.partition("=") for parameter in request.query.split("&"))
    return [unquote_plus(value) for name, _, value in parted if name == QUERY_NAME]


def _subprotocol_tokens(request: Request) -> list[str]:
    offered = (name.strip() for value in request.headers.get_all("Sec-WebSocket-Protocol") for name in value.split(","))
    return [name.removeprefix(TOKEN_SUBPROTOCOL) for name in offered if name.startswith(TOKEN_SUBPROTOCOL)]
