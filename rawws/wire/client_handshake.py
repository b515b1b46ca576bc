"""The opening handshake, from the client's side (RFC 6455 §4.1).

A `ClientHandshake` makes the request, and checks the server's answer against each requirement in turn, with one
function for each. Like ``handshake.py``, it lists every check with its finding, and sends nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rawws.errors import UsageError
from rawws.wire.checks import AnswerCheck, Check, found
from rawws.wire.deflate import OFFER, Agreement, check_answer
from rawws.wire.handshake import KEY_BYTES, VERSION, Accept
from rawws.wire.messages import FieldsLike, Headers, Request, Response, is_token
from rawws.wire.uri import WebSocketURI

# The fields that the handshake sets, and the options to use instead.
_OURS = {
    "upgrade": "",
    "connection": "",
    "sec-websocket-key": "",
    "sec-websocket-version": "",
    "sec-websocket-accept": "",
    "sec-websocket-extensions": "; use compression",
    "sec-websocket-protocol": "; use subprotocols",
    "origin": "; use origin",
}
# These announce a body, and what follows the request's head is the first frame.
_OF_A_BODY = frozenset({"content-length", "transfer-encoding", "trailer", "expect"})
# RFC 9110 §5.3: these fields aren't lists, so two of one name could be read in two ways.
_SINGLE = frozenset({"host", "user-agent", "authorization"})
# RFC 9112 §3.2.1, but less narrowly: text that can't end the request line or a part of it. `parse_uri` gives no other.
_TARGET = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """The outcome: ``fault`` says why the handshake failed, empty if it did not."""

    checks: tuple[AnswerCheck, ...]
    fault: str
    subprotocol: str | None
    deflate: Agreement | None


class ClientHandshake:
    """One attempt to open a WebSocket: the request, and the checks of the answer to it."""

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        headers: FieldsLike = (),
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        compression: bool = True,
        user_agent: str | None = None,
        key: str | None = None,
    ) -> None:
        """``headers`` are sent besides those of the handshake.

        A Host, User-Agent or Authorization among them takes the place of ours. Without a ``key``, a random one is
        made (item 7). Raises `UsageError` for what can't be sent.
        """
        given = Headers.checked(headers)
        _check_given(given)
        _check_offered(subprotocols)
        if not _TARGET.fullmatch(uri.resource_name):
            raise UsageError(
                f"{uri.resource_name!r} can't be asked for; it begins with / and has no spaces or line ends"
            )
        self.uri = uri
        self.accept = Accept.of(_new_key() if key is None else _checked_key(key))
        self._subprotocols = tuple(subprotocols)
        self._compression = compression
        fields = [
            ("Host", given.get("Host") or uri.authority),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self.accept.key),
            ("Sec-WebSocket-Version", VERSION),
        ]
        if origin is not None:
            fields.append(("Origin", origin))
        if subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        if compression:
            fields.append(("Sec-WebSocket-Extensions", OFFER))
        if uri.username is not None and "Authorization" not in given:
            fields.append(("Authorization", basic_authorization(uri.username, uri.password or "")))
        if user_agent is not None and "User-Agent" not in given:
            fields.append(("User-Agent", user_agent))
        fields += [(name, value) for name, value in given if name.lower() != "host"]
        self.request = Request("GET", uri.resource_name, "1.1", Headers.checked(fields))

    def examine(self, response: Response) -> ServerAnswer:
        """Check the server's answer against every requirement."""
        return examine_answer(
            response, self.accept, offered_subprotocols=self._subprotocols, offered_compression=self._compression
        )


def examine_answer(
    response: Response, accept: Accept | None, *, offered_subprotocols: Sequence[str], offered_compression: bool
) -> ServerAnswer:
    """Check an answer against every requirement. Without ``accept``, the accept value is not checked."""
    deflate: Agreement | None = None
    checks = [check_status(response)]
    if checks[0].holds:
        agreed = check_answer(response.headers.get_all("Sec-WebSocket-Extensions"))
        checks += [check_upgrade(response), check_connection(response)]
        if accept is not None:
            checks.append(check_accept(response, accept))
        checks += [
            check_extensions(response, agreed, offered=offered_compression),
            check_subprotocol(response, offered_subprotocols),
        ]
        deflate = agreed if isinstance(agreed, Agreement) else None
    fault = next((check.problem for check in checks if check.problem), "")
    if fault:
        return ServerAnswer(tuple(checks), fault, None, None)
    return ServerAnswer(tuple(checks), "", response.headers.get("Sec-WebSocket-Protocol"), deflate)


def _check_given(headers: Headers) -> None:
    for name, _ in headers:
        lowered = name.lower()
        if lowered in _OURS:
            raise UsageError(f"the {name} header is set by the handshake{_OURS[lowered]}")
        if lowered in _OF_A_BODY:
            raise UsageError(f"the {name} header can't be sent: a handshake has no body (RFC 6455 §4.1)")
        if lowered in _SINGLE and len(headers.get_all(name)) > 1:
            raise UsageError(f"the {name} header is given twice; there can be one")


def _check_offered(subprotocols: Sequence[str]) -> None:
    if isinstance(subprotocols, str):
        raise UsageError(f"subprotocols is a sequence of names; for one name give [{subprotocols!r}]")
    for name in subprotocols:
        if not is_token(name):
            raise UsageError(f"{name!r} can't be a subprotocol: it must be a token, such as chat.v1")
    if len(set(subprotocols)) < len(subprotocols):
        raise UsageError("a subprotocol is given twice; each is offered once (RFC 6455 §4.1 item 10)")


def _new_key() -> str:
    """§4.1 item 7: a nonce of 16 bytes from a strong source (§10.3), new for each connection."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def _checked_key(key: str) -> str:
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != KEY_BYTES:
        raise UsageError(f"the key {key!r} is not {KEY_BYTES} bytes in base64 (RFC 6455 §4.1 item 7)")
    return key


def check_status(response: Response) -> AnswerCheck:
    """§4.1, answer item 1: the status is 101; anything else is for HTTP to deal with."""
    status = f"{response.status} {response.reason}".rstrip()
    fault = None if response.status == 101 else f"the server answered {status} instead of 101"
    return Check("RFC 6455 §4.1 item 1", "the status is 101", status, fault)


def check_upgrade(response: Response) -> AnswerCheck:
    """§4.1, answer item 2: an Upgrade header with the value "websocket", in any case."""
    values = response.headers.get_all("Upgrade")
    fault = None
    if response.headers.tokens("Upgrade") != ["websocket"]:
        fault = f"its Upgrade header is not 'websocket' but {found(values)}"
    return Check("RFC 6455 §4.1 item 2", "Upgrade is 'websocket'", found(values), fault, "Upgrade")


def check_connection(response: Response) -> AnswerCheck:
    """§4.1, answer item 3: a Connection header that has the token "Upgrade", in any case."""
    values = response.headers.get_all("Connection")
    fault = None
    if "upgrade" not in response.headers.tokens("Connection"):
        fault = f"its Connection header lacks 'Upgrade' and has {found(values)}"
    return Check("RFC 6455 §4.1 item 3", "Connection has the token 'Upgrade'", found(values), fault, "Connection")


def check_accept(response: Response, accept: Accept) -> AnswerCheck:
    """§4.1, answer item 4: one Sec-WebSocket-Accept, made of our key. It proves that the server has understood."""
    values = response.headers.get_all("Sec-WebSocket-Accept")
    fault = None
    if values != [accept.value]:
        fault = f"its Sec-WebSocket-Accept is {found(values)}, where {accept.value} belongs to the client's key"
    return Check(
        "RFC 6455 §4.1 item 4",
        "Sec-WebSocket-Accept belongs to the client's key",
        found(values),
        fault,
        "Sec-WebSocket-Accept",
    )


def check_extensions(response: Response, agreed: Agreement | str | None, *, offered: bool) -> AnswerCheck:
    """§4.1, answer item 5: only extensions that we offered, on terms that we understand (RFC 7692 §7.1)."""
    values = response.headers.get_all("Sec-WebSocket-Extensions")
    fault = None
    if isinstance(agreed, str):
        fault = f"its extensions can't be used: {agreed}"
    elif agreed is not None and not offered:
        fault = "it names an extension, and none was offered"
    return Check(
        "RFC 6455 §4.1 item 5", "extensions are those offered", found(values), fault, "Sec-WebSocket-Extensions"
    )


def check_subprotocol(response: Response, offered: Sequence[str]) -> AnswerCheck:
    """§4.1, answer item 6: no subprotocol, or one of those that we offered."""
    values = response.headers.get_all("Sec-WebSocket-Protocol")
    fault = None
    if len(values) > 1:
        fault = "it has more than one Sec-WebSocket-Protocol header"
    elif values and values[0] not in offered:
        fault = f"it chose the subprotocol {values[0]!r}, which was not offered"
    return Check(
        "RFC 6455 §4.1 item 6",
        "the subprotocol is one of those offered",
        found(values),
        fault,
        "Sec-WebSocket-Protocol",
    )


def basic_authorization(username: str, password: str) -> str:
    """Return the value of an Authorization header for a name and a password (RFC 7617).

    Raises `UsageError` for a name with a colon, since the rest of it would be taken for the password.
    """
    if ":" in username:
        raise UsageError(f"the user name {username!r} has a colon in it, which Basic authorization can't carry")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
