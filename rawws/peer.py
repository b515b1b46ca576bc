"""One connection from accept to the end of its HTTP phase: requests, answers, and the upgrade.

It reads top to bottom as the connection lives: wait for a request, answer it, wait for the next; when one asks
for a WebSocket, examine it, send the 101, and hand the socket on with every byte that came behind the request.
Each connection runs this in a trio task of its own, which ends at the hand-over.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import trio

from rawws import logs, web
from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.transport import Transport
from rawws.wire.handshake import Handshake, Origins, examine, wants_websocket
from rawws.wire.http1 import Event, HttpPhase, Request, Signal
from rawws.wire.trace import FAULT, IN, OUT, STATE, TIMER, head_lines

# Long enough for the last words to be read across a slow line, short enough not to hoard sockets (a guess).
LINGER_S = 2.0


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What is handed over when HTTP is done: from here on the receiver owns the transport."""

    number: int
    transport: Transport
    request: Request
    handshake: Handshake
    trailing_data: bytes


class HttpConnection:
    """Serves HTTP on one connection until it closes or becomes a WebSocket."""

    def __init__(
        self,
        number: int,
        transport: Transport,
        *,
        limits: Limits,
        origins: Origins,
        compression: bool,
        hand_over: Callable[[Upgraded], None],
    ) -> None:
        self.number = number
        self._transport = transport
        self._limits = limits
        self._origins = origins
        self._compression = compression
        self._hand_over = hand_over
        self._http = HttpPhase(limits)
        self._has_head_of: Request | None = None  # whose body is being passed over

    async def serve(self) -> None:
        """Run the connection's HTTP phase. The transport is closed at the end unless it was handed over.

        Raises nothing that the peer could cause: a lost connection is an end like others.
        """
        upgraded = None
        if logs.http.isEnabledFor(logging.DEBUG):
            self._log(logs.http, logging.DEBUG, STATE, f"accepted from {self._transport.peer_name}")
        try:
            upgraded = await self._serve_requests()
        except ssl.SSLError as error:
            self._log(logs.http, logging.INFO, FAULT, f"TLS failed: {error.reason or error}")
        except OSError as error:
            self._log(logs.http, logging.INFO, FAULT, f"lost in the HTTP phase: {error.strerror or error}")
        finally:
            if upgraded is None:
                self._transport.close()
        if upgraded is not None:
            self._hand_over(upgraded)

    async def _serve_requests(self) -> Upgraded | None:
        deadline = self._head_deadline()  # of the first request, from accept on
        if self._transport.has_handshake:
            with trio.move_on_at(deadline) as scope:
                await self._transport.shake_hands()
            if scope.cancelled_caught:
                self._log(logs.http, logging.DEBUG, TIMER, "closed by us: no TLS handshake in time")
                return None
        while True:
            request = await self._receive_request(deadline)
            if request is None:
                self._log(logs.http, logging.DEBUG, STATE, "closed by the client without a further request")
                return None
            upgraded = await self._answer(request)
            if upgraded is not None or not self._http.can_continue:
                return upgraded
            self._http.start_next_request()
            if not self._http.request_begun and not await self._wait_for_next():
                return None
            deadline = self._head_deadline()

    def _head_deadline(self) -> float:
        return trio.current_time() + (self._limits.header_timeout_s or math.inf)

    async def _receive_request(self, deadline: float) -> Request | Refusal | None:
        """Return the next request, its body passed over; a refusal of it; or None at the end of the stream."""
        # Most often all of it is here already, and then a deadline costs more than reading does.
        if not self._http.request_begun and (data := self._transport.try_receive()):
            self._http.receive_data(data)
        while (request := self._next_request()) is Signal.NEED_DATA:
            with trio.move_on_at(deadline) as scope:
                self._http.receive_data(await self._transport.receive())
            if scope.cancelled_caught:
                within = f"{self._limits.header_timeout_s:g} seconds"
                return Refusal(408, "request_timeout", f"The request did not arrive within {within}.")
        return None if isinstance(request, Signal) else request

    def _next_request(self) -> Event:
        """Return the next request when its body has been passed over, or what else there is to say."""
        event = self._http.next_event()
        if isinstance(event, Request):
            if event.has_body and (wants_websocket(event) or self._http.awaits_continue):
                return event  # its body isn't wanted: the answer can be given at once, and closes the connection
            self._has_head_of = event
            event = self._http.next_event()
        if event is Signal.END_OF_BODY:
            assert self._has_head_of is not None
            return self._has_head_of
        return event

    async def _wait_for_next(self) -> bool:
        """Wait for another request's first byte; False when the connection ends, or rests too long, instead."""
        with trio.move_on_after(self._limits.keep_alive_timeout_s or math.inf) as rest:
            data = await self._transport.receive()
        if rest.cancelled_caught:
            self._log(logs.http, logging.DEBUG, TIMER, "closed by us: no further request in time")
            return False
        self._http.receive_data(data)
        return True

    async def _answer(self, request: Request | Refusal) -> Upgraded | None:
        if logs.http.isEnabledFor(logging.DEBUG):
            for text in head_lines(self._http.raw_head):
                self._log(logs.http, logging.DEBUG, IN, text)
        if isinstance(request, Refusal):
            await self._refuse(logs.http, request)
        elif wants_websocket(request):
            return await self._upgrade(request)
        else:
            self._log(logs.http, logging.INFO, IN, f"Received request for {request.target}")
            answer = web.answer(request)
            if isinstance(answer, Refusal):
                await self._refuse(logs.http, answer, close=False)
            else:
                await self._send(self._http.respond(answer), logs.http)
        return None

    async def _upgrade(self, request: Request) -> Upgraded | None:
        """Examine the handshake; send the 101, or the reason why not."""
        handshake = examine(request, self._origins, compression=self._compression)
        if logs.handshake.isEnabledFor(logging.DEBUG):
            for check in handshake.checks:
                self._log(logs.handshake, logging.DEBUG, STATE if check.holds else FAULT, str(check))
        if handshake.accept is None:
            assert handshake.refusal is not None
            # Closed, always: what the client sends next may be frames, and must not be read as HTTP.
            await self._refuse(logs.handshake, handshake.refusal)
            return None
        debug = logs.handshake.isEnabledFor(logging.DEBUG)
        if debug:
            for step in handshake.accept.steps:
                self._log(logs.handshake, logging.DEBUG, STATE, step)
            for offer in request.headers.get_all("Sec-WebSocket-Extensions"):
                verdict = "declined" if handshake.deflate is None else f"agreed on {handshake.deflate.header}"
                self._log(logs.handshake, logging.DEBUG, STATE, f"RFC 6455 §9.1: offered {offer}: {verdict}")
        await self._send(self._http.switch_protocols(handshake.response_headers), logs.handshake)
        trailing_data, _ = self._http.trailing_data
        if debug:
            self._log(
                logs.handshake,
                logging.DEBUG,
                STATE,
                f"HTTP ends, WebSocket begins: handed over to the broadcast loop for room {handshake.path} "
                f"with {len(trailing_data)} bytes that came behind the request",
            )
        return Upgraded(self.number, self._transport, request, handshake, trailing_data)

    async def _refuse(self, logger: logging.Logger, refusal: Refusal, *, close: bool = True) -> None:
        """Tell the client why it is refused. When the connection closes, see to it that the answer can arrive."""
        level = logging.WARNING if refusal.hint else logging.INFO
        told = f"refused with {refusal.status} ({refusal.code}): {refusal.sentence}"
        self._log(logger, level, FAULT, f"{told} {refusal.hint}".rstrip())
        await self._send(self._http.respond(web.refuse(refusal), close=close), logger)
        if not self._http.can_continue:
            with trio.move_on_after(LINGER_S):
                await self._transport.linger()

    async def _send(self, data: bytes, logger: logging.Logger) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            for text in head_lines(data.partition(b"\r\n\r\n")[0]):
                self._log(logger, logging.DEBUG, OUT, text)
        if (sent := self._transport.try_send(data)) == len(data):
            return
        with trio.move_on_after(self._limits.close_timeout_s or math.inf) as scope:
            await self._transport.send_all(data[sent:])
        if scope.cancelled_caught:
            raise TimeoutError("the client does not read the answer")

    def _log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self.number, mark, text)
