"""Requests that are answered at once: in the turn in which they arrive, while their connection rests.

Most requests that need no application have an answer that is known as soon as their head is. They need no task: the one
that receives for all resting connections (`rawws.relay.resting`) answers them. Work that may take time is left to the
connection's own task, and so is everything out of the ordinary: a head that isn't clean, a refusal, a connection that
a tracer sees, pipelined requests, and the end of the stream.
"""

from __future__ import annotations

from rawws import logs
from rawws.net.transport import RECEIVE_BYTES
from rawws.server.connection import HttpConnection
from rawws.wire.handshake import wants_websocket
from rawws.wire.messages import Request, Response


def take(connection: HttpConnection, data: bytes) -> bool:
    """Take bytes that have arrived on a resting connection. Return whether it goes on resting.

    If not, the connection has a request that its task has to answer (``taken``), the end of an answer that its task has
    to send (``unsent``), or bytes that its task has to look at. Raises OSError when the client is lost.
    """
    connection.http.receive_data(data)
    request = connection.http.next_clean_request()
    if request is None:
        return False
    answer = _find_answer(connection, request)
    if answer is None:
        connection.taken = request
        return False
    return _answer(connection, request, answer)


def _find_answer(connection: HttpConnection, request: Request) -> Response | None:
    """Return the answer to a request, if it is known, and one that this module sends."""
    config = connection.config
    if config.answer_now is None or config.process_request is not None or config.tracer.is_watched:
        return None
    if connection.server.find_sender is not None or wants_websocket(request):
        return None
    if config.hosts is not None and config.hosts.refuse(request) is not None:
        return None
    try:
        answer = config.answer_now(request, stopping=connection.server.stopping)
    except Exception:  # raised again where the connection's task calls the app; there it is logged, and costs a 500
        return None
    return answer if isinstance(answer, Response) and len(answer.body) < RECEIVE_BYTES else None


def _answer(connection: HttpConnection, request: Request, answer: Response) -> bool:
    connection.begin_request(request)
    connection.owes_answer = True
    try:
        data = b"".join(connection.write_response(answer))
        sent = connection.try_send(data, logs.http)
    finally:
        connection.log_access(request)
    if sent < len(data):
        connection.unsent = data[sent:]
        return False
    connection.owes_answer = False
    connection.http.start_next_request()
    return not connection.http.request_begun
