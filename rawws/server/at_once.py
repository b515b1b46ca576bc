"""Requests that are answered at once: in the turn in which they arrive, while their connection rests.

Most requests that need no application have an answer that is known as soon as their head is. They need no task: the one
that receives for all resting connections (`rawws.relay.resting`) answers them. If the answer is always the same, a
head that comes again isn't even read (`rawws.wire.known_answer`). Work that may take time is left to the connection's
own task, and so is everything out of the ordinary: a head that isn't clean, a refusal, a connection that a tracer sees,
pipelined requests, and the end of the stream.
"""

from __future__ import annotations

import logging

from rawws import logs
from rawws.net.transport import RECEIVE_BYTES
from rawws.server.connection import HttpConnection
from rawws.wire.handshake import wants_websocket
from rawws.wire.known_answer import KnownAnswer
from rawws.wire.messages import Request, Response


def take(connection: HttpConnection, data: bytes) -> bool:
    """Take bytes that have arrived on a resting connection. Return whether it goes on resting.

    If not, the connection has a request that its task has to answer (``taken``), the end of an answer that its task has
    to send (``unsent``), or bytes that its task has to look at. Raises OSError when the client is lost.
    """
    known = connection.known
    if known is not None and known.head == data and _may_repeat(connection):
        return _answer_again(connection, known)
    connection.http.receive_data(data)
    request = connection.http.next_clean_request()
    if request is None:
        return False
    known, answer = _find_answer(connection, request)
    if answer is None:
        connection.taken = request
        return False
    connection.known = known
    return _answer(connection, request, answer)


def _find_answer(connection: HttpConnection, request: Request) -> tuple[KnownAnswer | None, Response | None]:
    """Return the answer to a request, if this module can send it; first as the one to all with that head, if it is."""
    config = connection.config
    nothing = None, None
    if config.prompt_app is None or config.process_request is not None or config.tracer.is_watched:
        return nothing
    if connection.server.find_sender is not None or wants_websocket(request):
        return nothing
    if config.hosts is not None and config.hosts.refuse(request) is not None:
        return nothing
    try:
        if (always := config.prompt_app.answer_always(request)) is not None:
            return KnownAnswer.of(request, always), always
        answer = config.prompt_app.answer_now(request, stopping=connection.server.stopping)
    except Exception:  # raised again where the connection's task calls the app; there it is logged, and costs a 500
        return nothing
    return None, answer if isinstance(answer, Response) and len(answer.body) < RECEIVE_BYTES else None


def _answer(connection: HttpConnection, request: Request, answer: Response) -> bool:
    connection.begin_request(request)
    data = b"".join(connection.write_response(answer))
    if not _send(connection, data, request, logs.http):
        return False
    connection.http.start_next_request()
    return not connection.http.request_begun


def _may_repeat(connection: HttpConnection) -> bool:
    """Say whether the answer alone is to be sent: nobody sees the head, and nothing came before it."""
    is_seen = connection.config.tracer.is_watched or logs.http.isEnabledFor(logging.DEBUG)
    return not is_seen and connection.http.is_at_rest


def _answer_again(connection: HttpConnection, known: KnownAnswer) -> bool:
    """Answer a request whose head has come before. The HTTP phase is as it would be after any whole answer."""
    connection.begin_known()
    return _send(connection, connection.write_known(known), known)


def _send(
    connection: HttpConnection, data: bytes, request: Request | KnownAnswer, logger: logging.Logger | None = None
) -> bool:
    """Send an answer, and return whether the kernel has taken all of it. A logger gets its head."""
    connection.owes_answer = True
    try:
        sent = connection.try_send(data, logger)
    finally:
        connection.log_access(request)
    if sent < len(data):
        connection.unsent = data[sent:]
        return False
    connection.owes_answer = False
    return True
