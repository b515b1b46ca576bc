"""GET requests to one HTTP server, over connections that are kept for the next request.

Each request is bounded in bytes. The caller bounds its time: after a cancellation the connection is closed. A redirect
is an answer like any other, and isn't followed.
"""

from __future__ import annotations

import contextlib
import ssl as ssl_module
from collections.abc import Sequence

from rawws.errors import NoResponse
from rawws.limits import KIB, Limits
from rawws.net.addresses import format_address
from rawws.net.dial import dial
from rawws.net.tls import default_context, explain, start_tls
from rawws.net.transport import Transport
from rawws.wire.http1 import Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.uri import WebSocketURI

# Connections without a request that are kept open: enough for a burst, few enough for a small backend (a guess).
MAX_IDLE = 16


class _Stale(Exception):
    """The server had ended a kept connection before the request came, so the request can be sent again."""


class HttpServer:
    """An HTTP server as a client asks it. Call `close` at the end."""

    def __init__(
        self, uri: WebSocketURI, *, max_body_bytes: int = 64 * KIB, ssl: ssl_module.SSLContext | None = None
    ) -> None:
        self._uri = uri
        self._limits = Limits(max_body_bytes=max_body_bytes)
        self._ssl = ssl
        self._idle: list[Transport] = []
        self.name = uri.unix_path or format_address((uri.host, uri.port))

    async def get(self, fields: Sequence[tuple[str, str]] = ()) -> Response:
        """Return the server's answer to a GET with these fields, whatever its status.

        Raises `RawwsError` or OSError, with a sentence that names the server, if there is no whole answer within the
        limit of bytes.
        """
        headers = Headers([("Host", self._uri.authority), *fields])
        request = Request("GET", self._uri.resource_name, "1.1", headers)
        while self._idle:
            transport = self._idle.pop()
            with contextlib.suppress(_Stale):
                return await self._ask(transport, request, is_kept=True)
        return await self._ask(await self._open(), request, is_kept=False)

    def close(self) -> None:
        """Close the kept connections."""
        while self._idle:
            self._idle.pop().close()

    async def _open(self) -> Transport:
        uri = self._uri
        connected = await dial(uri.host, uri.port, uri.unix_path)
        if not uri.secure:
            return Transport(connected)
        if self._ssl is None:
            self._ssl = default_context()
        return await start_tls(connected, self._ssl, uri.host, self.name)

    async def _ask(self, transport: Transport, request: Request, *, is_kept: bool) -> Response:
        phase = ResponsePhase(self._limits)
        may_be_kept = False
        try:
            if is_kept and _has_ended(transport):
                raise _Stale
            answer = await self._exchange(transport, phase, request, is_kept)
            may_be_kept = phase.can_continue
        finally:
            if may_be_kept and len(self._idle) < MAX_IDLE:
                self._idle.append(transport)
            else:
                transport.close()
        return answer

    async def _exchange(self, transport: Transport, phase: ResponsePhase, request: Request, is_kept: bool) -> Response:
        try:
            with contextlib.suppress(ConnectionError):  # a server that no longer reads may have answered
                await transport.send_all(phase.send_request(request))
            while (answer := phase.next_event()) is Signal.NEED_DATA:
                phase.receive_data(await transport.receive())
        except ssl_module.SSLError as error:
            raise explain(error, self.name) from error
        except OSError as error:
            if is_kept and not phase.has_begun:
                raise _Stale from None
            sentence = f"{self.name}: the connection was lost before there was an answer: {error.strerror or error}"
            raise NoResponse(sentence) from error
        if not isinstance(answer, Response):
            if is_kept and not phase.has_begun:
                raise _Stale
            raise NoResponse(f"{self.name}: {answer}")
        if phase.body_cut and len(answer.body) < self._limits.max_body_bytes:
            raise NoResponse(f"{self.name}: the body of its answer is cut off or garbled")
        return answer


def _has_ended(transport: Transport) -> bool:
    """Say whether a kept connection can't be used: the server ended it, or sent something unasked."""
    try:
        return transport.try_receive() is not None
    except OSError:
        return True
