"""The server's `Exchange`: one request that doesn't upgrade, and its response, on a connection in its HTTP phase.

An application reads the request's body through it, and sends a response: as a whole, in pieces, or one that goes on
without it. If the application returns without a response, ``http_phase.py`` sends one.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

import trio

from rawws import logs
from rawws.access.grant import Action, Admitted
from rawws.errors import RETRY_SOON, Refusal
from rawws.limits import KIB, Limits
from rawws.net.accept import Address
from rawws.relay.loop import current_loop
from rawws.server.apps import BODY_TOO_LARGE, Adopt, Body, Drain, Exchange, UpgradeExchange
from rawws.server.authorization import authorize
from rawws.server.connection import SLOW_AND_FULL, WAIT_BYTES, Deadline, HttpConnection
from rawws.wire.http1 import BodyPart, Signal
from rawws.wire.messages import Request, Response
from rawws.wire.trace import STATE

# Reading a body of at most this size and dropping it costs less than a new connection (a guess).
MAX_DISCARDED_BYTES = 64 * KIB
# The size of the pieces in which a body is sent. Each has a deadline of its own, and is a chunk if the body is chunked.
PIECE_BYTES = 64 * KIB
# Ten thousand chunks may have arrived already. After this many, other tasks run; a checkpoint after each chunk would be
# a third of the cost of a tiny one.
PIECES_IN_A_ROW = 16

# The memory of an application's call about an upgrade: its task, and for each field of the request the objects in the
# scope, besides the bytes of the head (measured).
CALL_BYTES = 10 * KIB
SCOPE_FIELD_BYTES = 150

NO_MEMORY = Refusal(
    503,
    "no_memory",
    "The server has no memory left for this request (--max-memory); try again later.",
    RETRY_SOON,
)


class ClientError(OSError):
    """The rest of the client's body can't be read. The exchange's ``refusal`` is the response."""


class HttpExchange(Exchange):
    """An exchange on a connection in its HTTP phase. `Exchange` describes the methods."""

    _logger = logs.http  # gets the head of the response
    _closes = False  # the connection, after the response

    def __init__(self, connection: HttpConnection, request: Request) -> None:
        self.request = request
        self.refusal: Refusal | None = None
        self._connection = connection
        self._body_ended = not request.has_body
        self._pieces = 0  # of the body that have arrived
        self.is_complete = False  # the whole response has been sent

    @property
    def number(self) -> int:
        return self._connection.number

    @property
    def scheme(self) -> str:
        return self._connection.scheme

    @property
    def client(self) -> tuple[str, int] | None:
        address = self.remote_address
        return address if isinstance(address, tuple) else None

    @property
    def remote_address(self) -> Address:
        return self._connection.address

    @property
    def server(self) -> tuple[str, int | None] | None:
        return self._connection.local_address

    @property
    def handshakes(self) -> Counter[int]:
        return self._connection.server.handshakes

    @property
    def limits(self) -> Limits:
        return self._connection.config.limits

    @property
    def limits_by_flag(self) -> Mapping[str, float]:
        return self._connection.config.limits_by_flag

    @property
    def stopping(self) -> bool:
        return self._connection.server.stopping

    @property
    def drain(self) -> Drain | None:
        return self._connection.server.drain

    def count(self, held_bytes: Callable[[], int]) -> None:
        self._connection.held_for_call = held_bytes

    def on_stop(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        return self._connection.server.on_stop(call)

    async def receive_body(self) -> bytes:
        rest_s = self._connection.config.limits.keep_alive_timeout_s
        return await self._receive_body(Deadline.of("More of the request's body", rest_s, "--keep-alive"))

    async def _receive_body(self, deadline: Deadline) -> bytes:
        if self._body_ended:
            return b""
        if self._connection.http.awaits_continue and not self._connection.http.response_begun:
            await self._connection.send(self._connection.http.send_100_continue())
        event = await self._connection.receive_event(deadline)
        if isinstance(event, BodyPart):
            self._pieces += 1
            if self._pieces % PIECES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
            return event.data
        if event is Signal.END_OF_BODY:
            self._body_ended = True
            return b""
        if isinstance(event, Refusal):
            self._refuse(event)
        self._connection.is_lost = True
        raise ConnectionResetError("the client ended the stream inside a request")

    async def read_body(self, max_bytes: float = math.inf, too_large: Refusal = BODY_TOO_LARGE) -> bytes:
        if self._announced_bytes > max_bytes:
            self._refuse(too_large)
        body = bytearray()
        with current_loop().memory.track(lambda: (body,)) as scope:
            while piece := await self._receive_body(self._connection.deadline):
                body += piece
                if len(body) > max_bytes:
                    self._refuse(too_large)
        if scope.cancelled_caught:
            self._refuse(NO_MEMORY)
        self._connection.also_held_bytes += len(body)  # until the request is answered
        return bytes(body)

    async def discard_body(self) -> None:
        if self._connection.http.awaits_continue or self._announced_bytes > MAX_DISCARDED_BYTES:
            return
        discarded = 0
        while discarded <= MAX_DISCARDED_BYTES and (piece := await self._receive_body(self._connection.deadline)):
            discarded += len(piece)

    @property
    def _announced_bytes(self) -> int:
        return int(self.request.headers.get("Content-Length") or 0)

    def _refuse(self, refusal: Refusal) -> NoReturn:
        self.refusal = refusal
        raise ClientError(refusal.sentence)

    async def answer(self, response: Response | Refusal) -> None:
        if isinstance(response, Refusal):
            await self._connection.refuse(logs.http, response, close=False)
        else:
            await self._connection.send_response(response, logs.http)
        self.is_complete = True

    @property
    def has_grants(self) -> bool:
        return self._connection.config.access is not None

    async def authorize(self, asked: Action, *, is_operator: bool = False) -> Admitted | Refusal | Response:
        return await authorize(self._connection, self.request, asked, is_operator=is_operator)

    async def wait_for(self, happens: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        self._connection.also_held_bytes += WAIT_BYTES
        with trio.move_on_after(timeout_s) as scope, self._connection.interruptible_by_stop(scope, True):

            async def give_up() -> None:
                await self.wait_disconnected()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                await happens()
                nursery.cancel_scope.cancel()
        self._connection.also_held_bytes -= WAIT_BYTES

    async def hand_over(self, headers: Sequence[tuple[str, str]], adopt: Adopt) -> None:
        connection = self._connection
        own = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
        raw = [*connection.common_fields(), *own]
        await connection.send(connection.http.begin_endless_response(raw), logs.http)
        self.is_complete = True
        connection.adopt = adopt

    async def start_response(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: Body = b"") -> None:
        names = {name.lower() for name, _ in headers}
        fields = [field for field in self._connection.common_fields() if field[0].lower() not in names]
        fields += headers
        head = self._connection.http.begin_response(status, fields, close=self._closes)
        try:
            head += self._connection.http.send_body(bytes(body[:PIECE_BYTES])) if body else b""
        finally:  # a body that is too long for its head doesn't keep the head back
            await self._connection.send(head, self._logger, of=body)
        await self._send_from(PIECE_BYTES, body)

    async def send_body(self, data: Body) -> None:
        await self._send_from(0, data)

    async def _send_from(self, begin: int, body: Body) -> None:
        for start in range(begin, len(body), PIECE_BYTES):
            piece = self._connection.http.send_body(bytes(body[start : start + PIECE_BYTES]))
            await self._connection.send(piece, of=body)

    async def end_response(self) -> None:
        if end := self._connection.http.end_response():
            await self._connection.send(end)
        self.is_complete = True

    async def answer_in_pieces(
        self, headers: Sequence[tuple[bytes, bytes]], body: Iterable[bytes], held: Callable[[], Iterable[bytes]]
    ) -> None:
        piece = b""
        with current_loop().memory.track(lambda: (*held(), piece)) as scope:
            await self.start_response(200, headers)
            if self.request.method != "HEAD":
                for piece in body:
                    await self.send_body(piece)
                    await trio.lowlevel.checkpoint()
            await self.end_response()
        if scope.cancelled_caught:
            self._connection.is_lost = True
            raise TimeoutError(SLOW_AND_FULL)

    def has_gone(self) -> bool:
        return self._connection.is_lost or self._connection.transport.has_ended()

    def has_refused(self) -> bool:
        return self._connection.transport.is_reset()

    async def wait_disconnected(self) -> None:
        await self._connection.wait_lost()


class HttpUpgradeExchange(HttpExchange, UpgradeExchange):
    """The exchange of a request for a WebSocket, which an application answers. `UpgradeExchange` describes it."""

    _logger = logs.handshake
    _closes = True

    def __init__(self, connection: HttpConnection, request: Request, subprotocols: Sequence[str]) -> None:
        super().__init__(connection, request)
        self._subprotocols = subprotocols
        connection.also_held_bytes += self.call_bytes

    @property
    def subprotocols(self) -> Sequence[str]:
        return self._subprotocols

    @property
    def is_lost(self) -> bool:
        return self._connection.is_lost

    @property
    def call_bytes(self) -> int:
        request = self.request
        return CALL_BYTES + len(request.raw_head) + SCOPE_FIELD_BYTES * len(request.headers)

    async def start_response(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: Body = b"") -> None:
        await super().start_response(status, headers, body)
        self._connection.server.handshakes[status] += 1
        self._connection.log(logs.handshake, logging.INFO, STATE, f"answered by the application with {status}")
