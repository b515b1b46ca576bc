"""One request that doesn't upgrade, and its answer, as an application sees them.

An application doesn't touch the connection: here it reads the request's body, answers as a whole or in pieces, waits,
or has an answer that never ends go on without it. What is still missing when it returns, ``answering.py`` sees to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NoReturn

import trio

from rawws import logs
from rawws.accepting import Address
from rawws.doors import Access
from rawws.errors import Refusal
from rawws.http_connection import SLOW_AND_FULL, WAIT_BYTES, Adopt, Deadline, HttpConnection
from rawws.limits import KIB, Limits
from rawws.loop import current_loop
from rawws.service import Drain
from rawws.wire.http1 import BodyPart, Signal
from rawws.wire.messages import Request, Response

# So much of a body that nobody wants costs less than a new connection (a guess).
MAX_PASSED_OVER_BYTES = 64 * KIB
# Ten thousand chunks may be here already: after so many, others have their turn. After each one, that would be a third
# of what a tiny chunk costs.
PIECES_IN_A_ROW = 16

_TOO_LARGE = Refusal(413, "body_too_large", "The request's body is larger than what is taken here.")
NO_MEMORY = Refusal(
    503,
    "no_memory",
    "The server has no memory left for this request (--max-memory); try again later.",
    ((b"Retry-After", b"1"),),
)


class ClientError(OSError):
    """The client's body can't be read on; what it is told is decided already."""


class Exchange:
    """One request that doesn't upgrade, and its answer, either of which may stream.

    ``receive_body`` and ``send_body`` raise OSError when the client is lost; what else goes wrong with its body is
    told to it when the application returns, and raises `ClientError`, which is an OSError too.
    """

    def __init__(self, connection: HttpConnection, request: Request) -> None:
        self.request = request
        self.refusal: Refusal | None = None
        self._connection = connection
        self._body_ended = not request.has_body
        self._pieces = 0  # of the body, that have come
        self.is_complete = False  # the answer has gone out as a whole

    @property
    def number(self) -> int:
        """The connection's number in the log."""
        return self._connection.number

    @property
    def scheme(self) -> str:
        """The scheme of the client's request: the server's own, or the one that a trusted proxy reports."""
        return self._connection.scheme

    @property
    def client(self) -> tuple[str, int] | None:
        """Who asks: the socket's other end, or what a trusted proxy says; None on a Unix socket."""
        address = self.remote_address
        return address if isinstance(address, tuple) else None

    @property
    def remote_address(self) -> Address:
        """The other end, as `client` has it, or the path of a Unix socket."""
        return self._connection.address

    @property
    def server(self) -> tuple[str, int | None] | None:
        """Where the server listens: host and port, or the path of a Unix socket and None."""
        return self._connection.transport.local_address

    @property
    def handshakes(self) -> Counter[int]:
        """How many WebSocket handshakes this server has answered with which status."""
        return self._connection.service.handshakes

    @property
    def limits(self) -> Limits:
        """The server's, for one connection."""
        return self._connection.service.limits

    @property
    def limits_by_flag(self) -> Mapping[str, float]:
        """All of the server's limits, by the flag that sets each."""
        return self._connection.service.limits_by_flag

    @property
    def stopping(self) -> bool:
        """Whether the server is about to end."""
        return self._connection.service.stopping

    @property
    def drain(self) -> Drain | None:
        """The time that a stopping server gives to pending work; None while it isn't stopping."""
        return self._connection.service.drain

    def heeding_stop(self, heed: Callable[[], None]) -> AbstractContextManager[None]:
        """Have a function called when the server begins to stop, if it does so within the block."""
        return self._connection.service.heeding_stop(heed)

    async def receive_body(self) -> bytes:
        """Return the next piece of the request's body, never empty before its end, and empty ever after.

        Each piece has its deadline, as in sending: a large body on a slow line takes the time that it takes.
        """
        rest_s = self._connection.service.limits.keep_alive_timeout_s
        return await self._receive_body(Deadline.of("More of the request's body", rest_s, "--keep-alive"))

    async def _receive_body(self, deadline: Deadline) -> bytes:
        if self._body_ended:
            return b""
        if self._connection.http.awaits_continue and not self._connection.http.response_begun:
            await self._connection.send(self._connection.http.go_on())
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

    async def read_body(self, max_bytes: float = math.inf, too_large: Refusal = _TOO_LARGE) -> bytes:
        """Return the whole body, which arrives in the time that a request may take.

        One of more than ``max_bytes`` is refused with ``too_large``, read or not.
        """
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

    async def pass_over_body(self) -> None:
        """Read past a body that nobody wants, so that the connection can be kept.

        Not if it is large: then the connection is closed with the answer, and so it is if the client asks first.
        """
        if self._connection.http.awaits_continue or self._announced_bytes > MAX_PASSED_OVER_BYTES:
            return
        passed_over = 0
        while passed_over <= MAX_PASSED_OVER_BYTES and (piece := await self._receive_body(self._connection.deadline)):
            passed_over += len(piece)

    @property
    def _announced_bytes(self) -> int:
        return int(self.request.headers.get("Content-Length") or 0)

    def _refuse(self, refusal: Refusal) -> NoReturn:
        self.refusal = refusal
        raise ClientError(refusal.sentence)

    async def answer(self, response: Response | Refusal) -> None:
        """Send a whole answer."""
        if isinstance(response, Refusal):
            await self._connection.refuse(logs.http, response, close=False)
        else:
            await self._connection.send_response(response, logs.http)
        self.is_complete = True

    async def authorize(self, access: Access) -> object:
        """Ask ``authenticate`` whether this client may have that access to the room at its path.

        Returns the `Response` with which it refuses, or else the user that it returned; None if there is no
        ``authenticate``.
        """
        connection = self._connection
        if connection.service.authenticate is None:
            return None
        return await connection.ask(connection.service.authenticate, replace(self.request, action=access.words))

    async def wait_for(self, happens: Callable[[], Awaitable[None]], most_s: float) -> None:
        """Wait until there is something to tell, or there is no use in it: the client has gone, or the server stops.

        For when the body has been read. Who has only ended its own side still reads, and is answered at once.
        """
        self._connection.also_held_bytes += WAIT_BYTES
        with trio.move_on_after(most_s) as scope, self._connection.resting(scope, True):

            async def give_up() -> None:
                await self.wait_disconnected()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                await happens()
                nursery.cancel_scope.cancel()
        self._connection.also_held_bytes -= WAIT_BYTES

    async def hand_over(self, headers: Sequence[tuple[str, str]], adopt: Adopt) -> None:
        """Begin an answer that goes on until the connection ends, and have somebody else go on with it.

        ``adopt`` is called when this exchange is over, with what it then owns.
        """
        connection = self._connection
        fields = [*connection.common_fields(Response(200)), *headers]
        raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields]
        await connection.send(connection.http.begin_endless_response(raw), logs.http)
        self.is_complete = True
        connection.adopt = adopt

    async def start_response(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of an answer whose body follows; chunked, unless the headers give its length."""
        names = {name.lower() for name, _ in headers}
        common = self._connection.common_fields(Response(status, b""))
        added = [(name.encode(), value.encode()) for name, value in common if name.lower().encode() not in names]
        await self._connection.send(self._connection.http.begin_response(status, [*added, *headers]), logs.http)

    async def send_body(self, data: bytes) -> None:
        """Send a piece of the answer's body; waits while the client reads slowly."""
        if data:
            await self._connection.send(self._connection.http.send_body(data))

    async def end_response(self) -> None:
        """Send what ends the answer."""
        await self._connection.send(self._connection.http.end_response())
        self.is_complete = True

    async def answer_in_pieces(
        self, headers: Sequence[tuple[bytes, bytes]], body: Iterable[bytes], held: Callable[[], Iterable[bytes]]
    ) -> None:
        """Send a 200 whose body is made as it is sent; ``held`` returns what is kept in memory to make the rest of it.

        Raises OSError when the client is lost, reads too slowly, or has to go because the server's memory is full.
        """
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

    async def wait_disconnected(self) -> None:
        """Return when the client has gone. For when the body has been read, and beside no other receiving.

        Whether it has gone can't be seen behind more pipelined requests than are kept: then it counts as gone.
        """
        await self._connection.wait_lost()
