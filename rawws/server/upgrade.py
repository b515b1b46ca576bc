"""The upgrade: from a request for a WebSocket to the 101, or to the response that refuses it (RFC 6455 §4.2.2).

The requirements for the request are in ``wire/handshake.py``. The steps that follow it are here, one function for each;
`STEPS` has their order. The first step with an outcome ends the upgrade, and the outcome is the client's response.

After the 101 the caller owns the socket, and every byte that came after the request.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, assert_never

from rawws import logs
from rawws.access.grant import NOTHING, Action, Admitted, Grant, let_in
from rawws.errors import Refusal
from rawws.groups.protocol import names_group
from rawws.groups.websockets import MAY_NOT_WORK, NO_WORKER_HERE
from rawws.net.accept import Address
from rawws.net.transport import Transport
from rawws.server.apps import Acceptance
from rawws.server.authorization import authorize
from rawws.server.connection import HttpConnection
from rawws.server.exchange import HttpUpgradeExchange
from rawws.wire.client_handshake import examine_answer
from rawws.wire.handshake import Handshake, examine
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, STATE, TOKEN_SUBPROTOCOL, mask_subprotocols


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection that has become a WebSocket; its receiver owns the transport."""

    number: int
    transport: Transport
    request: Request
    response: Response | None  # if ``process_response`` had a say in it; None for the handshake's own
    handshake: Handshake
    trailing_data: bytes
    remote_address: Address
    admitted: Admitted  # with the user that a source of grants or ``authenticate`` has named
    acceptance: Acceptance | None = None  # of the application that has accepted it


class HookResponse(NamedTuple):
    """The response of an application's hook, in place of the 101. It isn't checked yet."""

    hook: str
    response: object


class Answered(enum.Enum):
    """The application has sent a response of its own."""

    BY_APPLICATION = "by the application"


class Upgrade:
    """One request on its way to the 101, with the results of the steps so far."""

    __slots__ = ("acceptance", "admitted", "application", "connection", "handshake", "request", "response")

    handshake: Handshake  # from `examine_request` on

    def __init__(self, connection: HttpConnection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.response: Response | None = None
        self.admitted = let_in(NOTHING)  # what it may do, and before that what its door is for
        find = connection.server.find_application
        self.application = None if find is None else find(request)  # which decides about it
        self.acceptance: Acceptance | None = None


async def ask_process_request(upgrade: Upgrade) -> HookResponse | None:
    """Let ``process_request`` answer, before anything else is looked at."""
    connection = upgrade.connection
    if connection.config.process_request is None:
        return None
    response = await connection.call_hook(connection.config.process_request, upgrade.request)
    return None if response is None else HookResponse("process_request", response)


async def examine_request(upgrade: Upgrade) -> Refusal | None:
    """§4.2.1: the request has to meet every requirement. The log and the tracer get each verdict."""
    connection, request = upgrade.connection, upgrade.request
    origins = connection.server.origins_at.get(request.path or "", connection.config.origins)
    handshake = upgrade.handshake = examine(request, origins, compression=connection.config.compression)
    if connection.is_watched:
        connection.config.tracer.checked(connection.number, Role.CLIENT, handshake.checks, handshake.accept)
    if logs.handshake.isEnabledFor(logging.DEBUG) and not connection.is_quiet:
        connection.announce()
        logs.show_checks(connection.number, handshake.checks)
    return handshake.refusal


async def ask_admission(upgrade: Upgrade) -> Refusal | HookResponse | None:
    """The path's room has to exist, or be possible, and have space. This also decides what the door is for."""
    connection = upgrade.connection
    if connection.server.admit is None:
        return None
    action, refusal = connection.server.admit(upgrade.request)
    upgrade.admitted = let_in(action)
    if refusal is not None and refusal.status == 503 and connection.config.access is not None:
        # Only a client that may read the room learns that it is full, or that it isn't one of those in use.
        upgrade.admitted = let_in(Action.READ)
        return await ask_authorization(upgrade) or refusal
    return refusal


async def ask_authorization(upgrade: Upgrade) -> Refusal | HookResponse | None:
    """Let a source of grants and ``authenticate`` name the user, and what it may do; or refuse."""
    answer = await authorize(upgrade.connection, upgrade.request, upgrade.admitted.action)
    if isinstance(answer, Refusal):
        return answer
    if isinstance(answer, Response):
        return HookResponse("authenticate", answer)
    upgrade.admitted = answer
    if answer.action:
        upgrade.request = replace(upgrade.request, action=answer.action.words)
    return None


async def ask_right_to_work(upgrade: Upgrade) -> Refusal | None:
    """A worker of a group takes messages from others, so it needs the right to write, too."""
    if not upgrade.request.action or not names_group(upgrade.request.query):
        return None
    if Action.WRITE not in upgrade.admitted.action:
        return MAY_NOT_WORK
    server, config = upgrade.connection.server, upgrade.connection.config
    if isinstance(upgrade.admitted.user, Grant) or config.is_from_operator(upgrade.request):
        return None
    return None if server.peers_publish is None or server.peers_publish(upgrade.request) else NO_WORKER_HERE


async def choose_subprotocol(upgrade: Upgrade) -> HookResponse | None:
    """§4.2.2 item 4: choose one of the subprotocols on offer, the server's favourite first, or none."""
    connection = upgrade.connection
    # A token beside the subprotocols isn't one to speak. It must not come back in the answer, or reach a log.
    offered = [name for name in upgrade.handshake.offered_subprotocols if not name.startswith(TOKEN_SUBPROTOCOL)]
    if not offered:
        return None
    if connection.config.select_subprotocol is None:
        chosen = next((name for name in connection.config.subprotocols if name in offered), None)
    else:
        chosen = await connection.call_hook(connection.config.select_subprotocol, upgrade.request, offered)
        if isinstance(chosen, Response):
            return HookResponse("select_subprotocol", chosen)
        if chosen is not None and chosen not in offered:
            message = f"select_subprotocol chose {chosen!r}, not one of those offered: {', '.join(offered)}"
            connection.log(logs.handshake, logging.ERROR, FAULT, message)
            chosen = None
    upgrade.handshake = replace(upgrade.handshake, subprotocol=chosen)
    return None


async def ask_process_response(upgrade: Upgrade) -> HookResponse | None:
    """Let ``process_response`` see the 101, and return another response, which may be a 101 too."""
    connection = upgrade.connection
    if connection.config.process_response is None:
        return None
    proposed = upgrade.handshake.response
    response = await connection.call_hook(connection.config.process_response, upgrade.request, proposed) or proposed
    if not isinstance(response, Response) or response.status != 101:
        return HookResponse("process_response", response)
    upgrade.response = response
    return None


async def prepare_room(upgrade: Upgrade) -> Refusal | None:
    """Load the path's room. A room isn't kept for as long as the hooks may take, so this comes after them."""
    prepare = upgrade.connection.server.prepare
    return None if prepare is None or not upgrade.request.action else await prepare(upgrade.request)


async def ask_admission_again(upgrade: Upgrade) -> Refusal | None:
    """Ask once more whether the room has space: other clients may have joined while the hooks ran."""
    admit = upgrade.connection.server.admit
    return None if admit is None else admit(upgrade.request)[1]


async def ask_application(upgrade: Upgrade) -> Refusal | Answered | None:
    """Let the application decide, which alone knows who may connect, and what is spoken."""
    connection, handshake = upgrade.connection, upgrade.handshake
    assert upgrade.application is not None
    exchange = HttpUpgradeExchange(connection, upgrade.request, handshake.offered_subprotocols)
    answer = await upgrade.application.answer_upgrade(exchange)
    if not isinstance(answer, Acceptance):
        return Answered.BY_APPLICATION if answer is None or connection.http.response_begun else answer
    upgrade.acceptance = answer
    handshake = upgrade.handshake = replace(handshake, subprotocol=answer.subprotocol)
    if answer.headers:
        upgrade.response = Response(101, b"", Headers([*handshake.response.headers, *answer.headers]))
    return None


Step = Callable[[Upgrade], Awaitable[Refusal | HookResponse | Answered | None]]

# A WebSocket of the application's own. Grants, subprotocols and hooks that ask about rooms and handlers aren't for it.
APPLICATION_STEPS: tuple[Step, ...] = (
    ask_process_request,
    examine_request,
    ask_admission,
    ask_application,
)

STEPS: tuple[Step, ...] = (
    ask_process_request,
    examine_request,
    ask_admission,
    ask_authorization,
    ask_right_to_work,
    choose_subprotocol,
    ask_process_response,
    prepare_room,
    ask_admission_again,
)


async def upgrade(connection: HttpConnection, request: Request) -> Upgraded | None:
    """Take the steps of an upgrade, and send the 101 or the response that refuses it.

    Returns None after a refusal. A refusal always closes the connection: the client may send frames next, which must
    not be read as HTTP. Raises OSError when the client is lost.
    """
    attempt = Upgrade(connection, request)
    for step in STEPS if attempt.application is None else APPLICATION_STEPS:
        match await step(attempt):
            case None:
                continue
            case Refusal() as refusal:
                await connection.refuse(logs.handshake, refusal)
            case HookResponse(hook, response):
                await connection.answer_instead(response, hook, logs.handshake, close=True)
            case Answered():
                pass
            case other:
                assert_never(other)
        return None
    try:
        return await _switch_protocols(attempt)
    except BaseException:
        if attempt.acceptance is not None:
            attempt.acceptance.abandon()
        raise


async def _switch_protocols(attempt: Upgrade) -> Upgraded:
    """Send the 101, and return the upgraded connection."""
    connection, handshake, response = attempt.connection, attempt.handshake, attempt.response
    config = connection.config
    debug = logs.handshake.isEnabledFor(logging.DEBUG)
    if debug:
        _show_agreement(connection, attempt.request, handshake)
    fields = handshake.response_headers if response is None else response.headers.raw()
    if config.server_header is not None and (response is None or "Server" not in response.headers):
        fields = [*fields, (b"Server", config.server_header.encode("ascii"))]
    connection.server.handshakes[101] += 1
    head = connection.http.switch_protocols(fields)
    await connection.send(head, logs.handshake)
    if not connection.is_quiet:
        config.tracer.upgraded(connection.number, connection.http.raw_head, head)
    if connection.is_watched:
        _show_answer(connection, handshake, response or handshake.response)
        config.tracer.switched(connection.number)
    trailing_data, _ = connection.http.trailing_data
    if debug:
        handed_over = f"handed over with {len(trailing_data)} bytes that came after the request"
        message = f"HTTP ends, WebSocket begins: {handed_over}"
        connection.log(logs.handshake, logging.DEBUG, STATE, message)
    return Upgraded(
        connection.number,
        connection.transport,
        attempt.request,
        response,
        handshake,
        trailing_data,
        connection.address,
        attempt.admitted,
        attempt.acceptance,
    )


def _show_answer(connection: HttpConnection, handshake: Handshake, response: Response) -> None:
    """Give the tracer the checks that a client makes on our response (§4.1)."""
    offered = handshake.offered_subprotocols
    answer = examine_answer(
        response,
        handshake.accept,
        offered_subprotocols=offered,
        offered_compression=handshake.deflate is not None,
    )
    connection.config.tracer.checked(connection.number, Role.SERVER, answer.checks)


def _show_agreement(connection: HttpConnection, request: Request, handshake: Handshake) -> None:
    """Log how the accept value is made, and the subprotocol and extension that were agreed on."""
    assert handshake.accept is not None
    for step in handshake.accept.steps:
        connection.log(logs.handshake, logging.DEBUG, STATE, step)
    if offered := handshake.offered_subprotocols:
        chosen = "none chosen" if handshake.subprotocol is None else f"chose {handshake.subprotocol}"
        names = mask_subprotocols(", ".join(offered))
        message = f"RFC 6455 §1.9: offered the subprotocols {names}: {chosen}"
        connection.log(logs.handshake, logging.DEBUG, STATE, message)
    for offer in request.headers.get_all("Sec-WebSocket-Extensions"):
        verdict = "declined" if handshake.deflate is None else f"agreed on {handshake.deflate.header}"
        connection.log(logs.handshake, logging.DEBUG, STATE, f"RFC 6455 §9.1: offered {offer}: {verdict}")
