"""The upgrade: from a request for a WebSocket to the 101, or to the reason why not (RFC 6455 §4.2.2).

What the request has to be is in ``wire/handshake.py``; here is who is asked about it, in which order, and what the
client is told. After the 101 the socket is for the caller to hand on, with every byte that came behind the request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rawws import logs
from rawws.accepting import Address
from rawws.http_connection import HttpConnection
from rawws.transport import Transport
from rawws.wire.client_handshake import examine_answer
from rawws.wire.handshake import Handshake, examine
from rawws.wire.messages import Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import STATE


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What is handed over when HTTP is done: from here on the receiver owns the transport."""

    number: int
    transport: Transport
    request: Request
    response: Response | None  # if the application had a say in it; else the handshake's own
    handshake: Handshake
    trailing_data: bytes
    remote_address: Address
    user: object  # what ``authenticate`` returned


async def upgrade(connection: HttpConnection, request: Request) -> Upgraded | None:
    """Examine the handshake and ask the application; send the 101, or the reason why not.

    A refusal always closes: what the client sends next may be frames, and must not be read as HTTP.
    """
    service = connection.service
    if service.process_request is not None:
        response = await connection.ask(service.process_request, request)
        if response is not None:
            await connection.answer_instead(response, "process_request", logs.handshake, close=True)
            return None
    origins = service.origins_at.get(request.path or "", service.origins)
    handshake = examine(request, origins, compression=service.compression)
    debug = logs.handshake.isEnabledFor(logging.DEBUG)
    if connection.is_watched:
        service.tracer.checked(connection.number, Role.CLIENT, handshake.checks, handshake.accept)
    logs.show_checks(connection.number, handshake.checks)
    refusal = handshake.refusal
    if refusal is None and service.admit is not None:
        action, refusal = service.admit(request)
        if action:
            request = replace(request, action=action)
    if refusal is not None:
        await connection.refuse(logs.handshake, refusal)
        return None
    user: object = None
    if service.authenticate is not None:
        user = await connection.ask(service.authenticate, request)
        if isinstance(user, Response):
            await connection.answer_instead(user, "authenticate", logs.handshake, close=True)
            return None
    if handshake.offered_subprotocols:
        chosen = await _choose_subprotocol(connection, request, handshake.offered_subprotocols)
        if isinstance(chosen, Response):
            await connection.answer_instead(chosen, "select_subprotocol", logs.handshake, close=True)
            return None
        handshake = replace(handshake, subprotocol=chosen)
    response = None
    if service.process_response is not None:
        proposed = handshake.response
        response = await connection.ask(service.process_response, request, proposed) or proposed
        if not isinstance(response, Response) or response.status != 101:
            await connection.answer_instead(response, "process_response", logs.handshake, close=True)
            return None
    # While the application was asked, others have come, and a room would not have been kept ready for so long.
    if service.prepare is not None and request.action:
        refusal = await service.prepare(request)
    if refusal is None and service.admit is not None:
        refusal = service.admit(request)[1]
    if refusal is not None:
        await connection.refuse(logs.handshake, refusal)
        return None
    if debug:
        _show_agreement(connection, request, handshake)
    fields = handshake.response_headers if response is None else response.headers.raw()
    if service.server_header is not None and (response is None or "Server" not in response.headers):
        fields = [*fields, (b"Server", service.server_header.encode("ascii"))]
    service.handshakes[101] += 1
    await connection.send(connection.http.switch_protocols(fields), logs.handshake)
    if connection.is_watched:
        _show_answer(connection, handshake, response or handshake.response)
        service.tracer.switched(connection.number)
    trailing_data, _ = connection.http.trailing_data
    if debug:
        told = f"handed over with {len(trailing_data)} bytes that came behind the request"
        connection.log(logs.handshake, logging.DEBUG, STATE, f"HTTP ends, WebSocket begins: {told}")
    return Upgraded(
        connection.number, connection.transport, request, response, handshake, trailing_data, connection.address, user
    )


async def _choose_subprotocol(
    connection: HttpConnection, request: Request, offered: Sequence[str]
) -> str | Response | None:
    """Choose one of what the client offers, the server's favourite first, or none (§4.2.2 item 4)."""
    if connection.service.select_subprotocol is None:
        return next((name for name in connection.service.subprotocols if name in offered), None)
    chosen: str | Response | None = await connection.ask(connection.service.select_subprotocol, request, offered)
    if chosen is None or isinstance(chosen, Response) or chosen in offered:
        return chosen
    logs.handshake.error("select_subprotocol chose %r, not one of those offered: %s", chosen, offered)
    return None


def _show_answer(connection: HttpConnection, handshake: Handshake, response: Response) -> None:
    """Tell how our answer meets what a client requires of it (§4.1)."""
    offered = handshake.offered_subprotocols
    answer = examine_answer(
        response,
        handshake.accept,
        offered_subprotocols=offered,
        offered_compression=handshake.deflate is not None,
    )
    connection.service.tracer.checked(connection.number, Role.SERVER, answer.checks)


def _show_agreement(connection: HttpConnection, request: Request, handshake: Handshake) -> None:
    assert handshake.accept is not None
    for step in handshake.accept.steps:
        connection.log(logs.handshake, logging.DEBUG, STATE, step)
    if offered := handshake.offered_subprotocols:
        chosen = "none chosen" if handshake.subprotocol is None else f"chose {handshake.subprotocol}"
        told = f"RFC 6455 §1.9: offered the subprotocols {', '.join(offered)}: {chosen}"
        connection.log(logs.handshake, logging.DEBUG, STATE, told)
    for offer in request.headers.get_all("Sec-WebSocket-Extensions"):
        verdict = "declined" if handshake.deflate is None else f"agreed on {handshake.deflate.header}"
        connection.log(logs.handshake, logging.DEBUG, STATE, f"RFC 6455 §9.1: offered {offer}: {verdict}")
