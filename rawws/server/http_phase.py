"""One connection from accept to the end of its HTTP phase: a request, its response, and the next request.

The functions are in the order of a connection's life: receive a request, have it answered (``exchange.py``), and wait
for the next one. A request for a WebSocket is upgraded (``upgrade.py``), and the socket is handed over. Each connection
runs this in a trio task of its own, which ends at the hand-over.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, replace
from functools import partial

import trio

from rawws import logs
from rawws.errors import Refusal
from rawws.hooks import is_application_error, log_failure
from rawws.net.connection_errors import NotTls
from rawws.net.tls import explain_client
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.server.apps import Adopt
from rawws.server.at_once import take
from rawws.server.connection import HttpConnection
from rawws.server.exchange import NO_MEMORY, ClientError, HttpExchange
from rawws.server.upgrade import Upgraded, upgrade
from rawws.wire.first_bytes import is_proxy_header
from rawws.wire.handshake import wants_websocket
from rawws.wire.http1 import PROXY_PROTOCOL, Signal
from rawws.wire.messages import Request
from rawws.wire.trace import FAULT, STATE, TIMER, mask_target

PLAIN_ON_TLS_PORT = Refusal(400, "plain_on_tls_port", "This port speaks TLS: use https:// or wss://.")
# Such a proxy passes TLS through, and so can't add X-Forwarded-For.
PROXY_BEFORE_TLS = replace(
    PROXY_PROTOCOL, hint="turn it off in the proxy (nginx: proxy_protocol; HAProxy: send-proxy, send-proxy-v2)"
)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A connection whose response goes on without this task. The receiver owns the transport."""

    number: int
    transport: Transport
    adopt: Adopt


async def serve_http(connection: HttpConnection) -> Upgraded | HandedOver | None:
    """Run the connection's HTTP phase. Returns its new form, or None when its transport is closed.

    This raises no exception that the peer could cause: a lost connection is logged, and ends the phase.
    """
    upgraded = None
    if connection.config.is_own is None:
        connection.announce()
    try:
        with current_loop().memory.track_connection(lambda: connection.held_bytes) as scope:
            upgraded = await _serve_requests(connection)
        if scope.cancelled_caught:
            await _give_up(connection)
    except ssl.SSLError as error:
        connection.log(logs.http, logging.INFO, FAULT, f"TLS failed: {explain_client(error)}")
    except OSError as error:
        # Load balancers end each of their checks with a reset.
        level = logging.DEBUG if connection.is_quiet or connection.is_idle else logging.INFO
        connection.log(logs.http, level, FAULT, f"lost in the HTTP phase: {error.strerror or error}")
    finally:
        connection.server.resting.forget(connection.transport)
        if upgraded is None:
            connection.transport.close()
            if connection.is_announced:
                connection.config.tracer.ended(connection.number, "the HTTP connection is closed")
    return upgraded


async def _give_up(connection: HttpConnection) -> None:
    """Refuse the request that is being received or answered, if the response can be sent at once."""
    with trio.move_on_after(0):
        if connection.http.request_begun and not connection.http.response_begun:
            await connection.refuse(logs.http, NO_MEMORY)
        else:
            message = "closed by us: the server's memory is full (--max-memory)"
            connection.log(logs.http, logging.INFO, FAULT, message)


async def reject(connection: HttpConnection, refusal: Refusal) -> None:
    """Refuse a connection before its first request."""
    try:
        if not connection.transport.has_handshake:  # a response would need a TLS handshake, which costs too much
            connection.announce()
            await connection.refuse(logs.http, refusal)
            await connection.linger()
    except OSError:
        pass
    finally:
        connection.transport.close()
        if connection.is_announced:
            connection.config.tracer.ended(connection.number, "the HTTP connection is closed")


async def _serve_requests(connection: HttpConnection) -> Upgraded | HandedOver | None:
    if connection.transport.has_handshake and not await _begin_tls(connection):
        return None
    while True:
        request = connection.taken or await _receive_head(connection)
        connection.taken = None
        if request is None:
            connection.log(logs.http, logging.DEBUG, STATE, "closed by the client without a further request")
            connection.transport.shutdown_write()  # a bare close would end TLS without its alert (RFC 8446 §6.1)
            return None
        connection.request = request if isinstance(request, Request) else None
        connection.owes_answer = True
        upgraded = await _handle_event(connection, request)
        connection.end_request()
        del request  # otherwise its head would be kept while the connection is idle
        if connection.adopt is not None:
            return HandedOver(connection.number, connection.transport, connection.adopt)
        if upgraded is not None or not connection.http.can_continue or connection.server.stopping:
            await connection.linger()
            return upgraded
        connection.http.start_next_request()
        if connection.http.request_begun:
            await trio.lowlevel.checkpoint()  # a thousand pipelined requests may have arrived already
            await current_loop().turnstile.pass_through()
        elif not await _wait_for_next(connection):
            return None
        connection.deadline = connection.request_deadline()
        connection.is_lost = False  # a client that has only shut down its own side can still read


async def _begin_tls(connection: HttpConnection) -> bool:
    """Complete the TLS handshake. Return False after a timeout, or when a client without TLS was answered with 400."""
    with trio.move_on_at(connection.deadline.at) as scope:
        try:
            await connection.transport.do_handshake()
        except NotTls as error:
            first_bytes = error.first_bytes
        else:
            return True
    if scope.cancelled_caught:
        connection.log(logs.http, logging.DEBUG, TIMER, "closed by us: no TLS handshake in time")
        return False
    connection.transport = Transport(connection.transport.detach())
    await connection.refuse(logs.http, PROXY_BEFORE_TLS if is_proxy_header(first_bytes) else PLAIN_ON_TLS_PORT)
    await connection.linger()
    return False


async def _receive_head(connection: HttpConnection) -> Request | Refusal | None:
    """Return the next request, a refusal of it, or None at the end of the stream."""
    # Most often the whole head has arrived already, and then a deadline costs more than reading does.
    if not connection.http.request_begun and connection.receive_now():
        await current_loop().turnstile.pass_through()
    event = connection.http.next_event()
    if event is Signal.NEED_DATA:
        event = await connection.receive_event(connection.deadline, is_head=True)
    if isinstance(event, Request):
        if not event.has_body:
            end = connection.http.next_event()
            assert end is Signal.END_OF_BODY, "h11 ends a request without a body at once"
        return event
    return event if isinstance(event, Refusal) else None


async def _handle_event(connection: HttpConnection, request: Request | Refusal) -> Upgraded | None:
    connection.begin_request(request)
    if isinstance(request, Refusal):
        await connection.refuse(logs.http, request)
    elif await _is_refused(connection, request):
        connection.log_access(request)
    elif wants_websocket(request):
        return await upgrade(connection, request)
    else:
        try:
            await _answer(connection, request)
        finally:
            connection.log_access(request)
    return None


async def _is_refused(connection: HttpConnection, request: Request) -> bool:
    """Refuse a request because of its sender or its Host; return whether that was necessary."""
    config, server = connection.config, connection.server
    if server.find_sender is not None:
        sender = server.find_sender(connection.number, request, connection.socket_address)
        if isinstance(sender, Refusal):
            await connection.refuse(logs.http, sender)
            return True
        connection.address = sender.address
        connection.scheme = sender.scheme or server.scheme
    if config.hosts is not None and (refusal := config.hosts.refuse(request)):
        await connection.refuse(logs.http, refusal)
        return True
    return False


async def _answer(connection: HttpConnection, request: Request) -> None:
    """Have ``process_request`` or the application answer. Their exceptions are logged, and end this request alone."""
    hook = connection.config.process_request
    if hook is not None and (response := await connection.call_hook(hook, request)) is not None:
        await connection.answer_instead(response, "process_request", logs.http, close=False)
        return
    exchange = HttpExchange(connection, request)
    try:
        await connection.config.app(exchange)
    except ClientError:
        pass  # the response is sent below
    except BaseException as error:
        if not is_application_error(error):
            if connection.server.stopping and not exchange.is_complete:
                connection.server.cut_off.append(mask_target(exchange.request.target))
            raise
        if isinstance(error, OSError) and connection.is_lost:  # else it is an error of the application's own
            raise
        target = mask_target(exchange.request.target)
        log_failure(logs.http, connection.number, f"the http handler failed at {target}", error)
        exchange.refusal = Refusal(500, "internal_error", "The server failed to answer this request.")
    if exchange.refusal is not None and not connection.http.response_begun:
        await connection.refuse(logs.http, exchange.refusal, close=exchange.refusal.status != 500)
    elif not exchange.is_complete and not connection.http.response_begun and connection.adopt is None:
        no_answer = Refusal(500, "no_answer", "The server has no answer to this request.")
        await connection.refuse(logs.http, no_answer, close=False)


async def _wait_for_next(connection: HttpConnection) -> bool:
    """Wait for the first byte of another request; return False when the connection has ended or was idle too long."""
    # The task of an application has sent its response some turns of the loop ago, so that a busy client's next request
    # has often arrived. To rest would add a tenth to its cost.
    look = connection.server.look_after_answers
    if connection.answered is None and look.is_due():
        data = connection.transport.try_receive()
        look.note(data is not None)
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            connection.http.receive_data(data)
            return True
    while await _rest(connection):
        if not connection.unsent:
            return True
        await connection.send_unsent()
        connection.end_request()
        connection.http.start_next_request()
        if connection.http.request_begun:
            return True
    data = connection.transport.try_receive()
    if data is None:
        connection.log(logs.http, logging.DEBUG, TIMER, "closed by us: no further request in time")
        return False
    connection.http.receive_data(data)
    return True


async def _rest(connection: HttpConnection) -> bool:
    """Answer requests at once as long as that is possible; return False when no more have come in time."""
    rest_s = connection.config.limits.keep_alive_timeout_s
    return await connection.server.resting.rest(connection.transport, partial(take, connection), rest_s)
