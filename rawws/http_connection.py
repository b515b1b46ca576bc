"""A connection in its HTTP phase: what all requests on it have to go through, whatever becomes of them.

It has the socket, and what HTTP knows. It receives in time or not at all, asks the application, refuses, sends, and
sees to it that last words arrive. What it is to do next is for others to say: ``answering.py`` from one request to the
next, ``upgrade.py`` for a WebSocket, ``exchange.py`` for any other answer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any, NamedTuple

import trio

from rawws import logs, web
from rawws.accepting import Address
from rawws.errors import Refusal
from rawws.failures import call_application, is_failure, log_failure
from rawws.limits import KIB
from rawws.loop import current_loop
from rawws.peer import Endpoint, Peer
from rawws.service import Service
from rawws.transport import RECEIVE_BYTES, Transport
from rawws.wire.http1 import Event, HttpPhase, Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, OUT, STATE, TIMER, head_lines

# A connection in its HTTP phase, with its task, and h11's state (measured).
CONNECTION_BYTES = 8 * KIB
# Added while it waits for something, with the tasks for that (measured).
WAIT_BYTES = 7 * KIB

SLOW_AND_FULL = "the client reads the answer too slowly, and the server's memory is full (--max-memory)"

# Long enough for the last words to be read across a slow line, short enough not to hoard sockets (a guess).
LINGER_S = 2.0
# So many at once: a crowd that is turned away must not be in the way like that.
MAX_LINGERING = 64

# Takes over a connection, by its number: as a peer of that endpoint, or None when it has ended instead.
Adopt = Callable[[int, Transport, Endpoint], Peer | None]


class Deadline(NamedTuple):
    """By when what is awaited has to have come, and by which limit."""

    at: float
    awaited: str
    limit_s: float
    flag: str

    @classmethod
    def of(cls, awaited: str, limit_s: float, flag: str) -> Deadline:
        return cls(trio.current_time() + limit_s, awaited, limit_s, flag)

    @property
    def refusal(self) -> Refusal:
        told = f"{self.awaited} did not arrive within {self.limit_s:g} seconds ({self.flag})."
        return Refusal(408, "request_timeout", told)


class HttpConnection:
    """One connection until it closes, becomes a WebSocket, or is for somebody else to go on with."""

    def __init__(self, number: int, transport: Transport, service: Service, address: Address) -> None:
        """A ``number`` below zero is provisional: the log's next number replaces it when something is logged."""
        self.number = number
        self.is_announced = False
        self.is_quiet = False  # the last request was the page's own
        self.transport = transport
        self.service = service
        self.address = address  # of the socket's other end, or what a trusted proxy says
        self.socket_address = address
        self.scheme = service.scheme  # or the one that a trusted proxy reports
        self.http = HttpPhase(service.limits)
        self.deadline = self.request_deadline()  # of the request that is being received; the first's from accept on
        self.answered: Response | None = None  # the last answer that was given
        self.is_lost = False  # the client has gone
        self.has_had_request = False
        self.owes_answer = False  # to a request that has come whole, or is refused
        self.adopt: Adopt | None = None  # who goes on with the answer that was begun
        self.request: Request | None = None  # which is being answered
        self.also_held_bytes = 0  # for that request: a body that has come whole, and tasks that wait

    def announce(self) -> None:
        """Report the connection to the log and the tracer, unless that was done before."""
        if self.is_announced:
            return
        self.is_announced = True
        if self.number < 0:
            provisional, self.number = self.number, next(current_loop().numbers)
            if self.service.renumber is not None:
                self.service.renumber(provisional, self.number)
        if logs.http.isEnabledFor(logging.DEBUG):
            self.log(logs.http, logging.DEBUG, STATE, f"accepted from {self.transport.peer_name}")
        if self.service.tracer.is_watched:
            self.service.tracer.opened(self.number, self.transport.peer_name)

    @property
    def is_watched(self) -> bool:
        """Whether the tracer is to be notified of its events at present."""
        return self.service.tracer.is_watched and not self.is_quiet

    @property
    def is_idle(self) -> bool:
        """Whether its loss costs nothing, since no request is being received or answered."""
        if self.owes_answer or (self.transport.has_handshake and not self.has_had_request):
            return False
        return not self.http.request_begun or self.http.response_begun

    def begin_request(self, request: Request | Refusal) -> None:
        """Record the request that was received: any request but the page's own announces the connection."""
        self.has_had_request = True
        is_own = self.service.is_own
        self.is_quiet = is_own is not None and isinstance(request, Request) and is_own(request)
        if not self.is_quiet:
            self.announce()

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, without a body on its way in or out."""
        held = CONNECTION_BYTES + self.transport.held_bytes + self.http.held_bytes + self.also_held_bytes
        return held if self.request is None else held + self.request.held_bytes

    # What comes in

    def request_deadline(self) -> Deadline:
        return Deadline.of("The request", self.service.limits.header_timeout_s, "--open-timeout")

    def take_in_what_is_here(self) -> bool:
        """Receive what has come by now; false if that is nothing."""
        if data := self.transport.try_receive():
            self.http.receive_data(data)
        return bool(data)

    async def receive_event(self, deadline: Deadline, *, is_head: bool = False) -> Event:
        """Return the next event, for which data may have to come by the deadline."""
        while (event := self.http.next_event()) is Signal.NEED_DATA:
            with trio.move_on_at(deadline.at) as scope, self.resting(scope, is_head):
                self.http.receive_data(await self._receive())
                # Reading it takes a while. A cancellation here also ends a client that never stops sending.
                await current_loop().turnstile.pass_through()
            if scope.cancelled_caught:
                # A head that is here by now came in time, and only we are late. Of a body there may always be more.
                if is_head and (data := self.transport.try_receive()):
                    self.http.receive_data(data)
                if is_head and (event := self.http.next_event()) is not Signal.NEED_DATA:
                    return event
                if is_head and self.service.stopping:
                    return Signal.END_OF_STREAM
                return deadline.refusal
        return event

    async def _receive(self) -> bytes:
        try:
            return await self.transport.receive()
        except OSError:
            self.is_lost = True
            raise

    @contextlib.contextmanager
    def resting(self, scope: trio.CancelScope, rests: bool) -> Iterator[None]:
        """Have a server cancel the scope that stops, or is stopping already, unless a request is under way."""
        if not rests:
            yield
            return
        if self.service.stopping:
            scope.cancel()
        self.service.resting.add(scope)
        try:
            yield
        finally:
            self.service.resting.discard(scope)

    async def wait_lost(self) -> None:
        """Keep what is pipelined behind the request that is being answered, until the client has gone."""
        limit = self.service.limits.max_header_bytes
        while len(self.http.trailing_data[0]) <= limit:
            try:
                data = await self.transport.receive()
            except OSError:
                break
            self.http.receive_data(data)
            if not data:
                break
            del data  # or it would be kept until more comes
        else:
            told = f"over {limit} bytes (--max-head) are pipelined behind a request that is being answered"
            self.log(logs.http, logging.INFO, FAULT, f"{told}; the client counts as gone")
        self.is_lost = True

    # What the application is asked

    async def ask(self, hook: Callable[..., Any], *arguments: object) -> Any:
        """Call one of the application's hooks, within the time that the opening may take.

        What goes wrong in it is logged, and answered with 500.
        """
        name = getattr(hook, "__name__", "hook")
        with trio.move_on_after(self.service.limits.header_timeout_s) as scope:
            try:
                return await call_application(hook, *arguments)
            except BaseException as error:
                if not is_failure(error):
                    raise
                log_failure(logs.handshake, self.number, f"{name} failed", error)
                return Response(500, "The server failed to decide about this request.\n", [web.NO_STORE])
        assert scope.cancelled_caught
        self.log(logs.handshake, logging.WARNING, TIMER, f"{name} took too long to decide")
        return Response(503, "The server took too long to decide about this request.\n", [web.NO_STORE])

    async def answer_instead(self, response: object, hook: str, logger: logging.Logger, *, close: bool) -> None:
        """Send what the application's hook answers in place of going on."""
        if not isinstance(response, Response) or response.status < 200:
            told = f"{hook} returned {response!r}; it is to return a Response with a final status, or None"
            self.log(logger, logging.ERROR, FAULT, told)
            response = Response(500, "The server failed to decide about this request.\n", [web.NO_STORE])
        self.log(logger, logging.INFO, STATE, f"answered by {hook} with {response.status}")
        await self.send_response(response, logger, close=close)

    # What goes out

    async def refuse(self, logger: logging.Logger, refusal: Refusal, *, close: bool = True) -> None:
        """Tell the client why it is refused."""
        level = logging.WARNING if refusal.hint else logging.INFO
        told = f"refused with {refusal.status} ({refusal.code}): {refusal.sentence}"
        self.log(logger, level, FAULT, f"{told.removesuffix('.')}; {refusal.hint}" if refusal.hint else told)
        await self.send_response(web.refuse(refusal), logger, close=close)

    async def send_response(self, response: Response, logger: logging.Logger, *, close: bool = False) -> None:
        self.answered = response
        if logger is logs.handshake:
            self.service.handshakes[response.status] += 1
        dated = Response(response.status, response.body, Headers([*self.common_fields(response), *response.headers]))
        head, body = self.http.respond_apart(dated, close=close)
        if len(body) < RECEIVE_BYTES:
            await self.send(head + body, logger)
        else:  # which others may be sent at the same time: it isn't copied
            await self.send(head, logger)
            await self.send(body)

    def common_fields(self, response: Response) -> list[tuple[str, str]]:
        """Return what every answer carries: RFC 9110 §6.6.1 wants a date of a server that has a clock."""
        fields = []
        if "Date" not in response.headers:
            fields.append(("Date", formatdate(usegmt=True)))
        if self.service.server_header is not None and "Server" not in response.headers:
            fields.append(("Server", self.service.server_header))
        return fields

    async def send(self, data: bytes, logger: logging.Logger | None = None) -> None:
        """Send, and show the head of it to a logger. Raises TimeoutError when the client doesn't read."""
        if logger is not None and logger.isEnabledFor(logging.DEBUG) and not self.is_quiet:
            for text in head_lines(data.partition(b"\r\n\r\n")[0]):
                self.log(logger, logging.DEBUG, OUT, text)
        if logger is not None and self.is_watched:
            self.service.tracer.head(self.number, Role.SERVER, data[: data.find(b"\r\n\r\n") + 4])
        try:
            sent = self.transport.try_send(data)
            if sent < len(data):
                await self._send_slowly(data, sent)
        except OSError:
            self.is_lost = True
            raise

    async def _send_slowly(self, data: bytes, sent: int) -> None:
        with current_loop().memory.track(lambda: (data,)) as scope, memoryview(data) as view:
            while sent < len(data):
                # A deadline for each piece: a large answer to a slow reader takes the time that it takes.
                with trio.move_on_after(self.service.limits.close_timeout_s) as patience:
                    await self.transport.send_all(view[sent : sent + RECEIVE_BYTES])
                if patience.cancelled_caught:
                    raise TimeoutError("the client does not read the answer")
                sent += RECEIVE_BYTES
        if scope.cancelled_caught:
            raise TimeoutError(SLOW_AND_FULL)

    async def linger(self) -> None:
        """See to it that the last answer can arrive, where the client may still be sending (RFC 9112 §9.6)."""
        if not self.http.closes_early or self.service.lingering >= MAX_LINGERING:
            return
        self.service.lingering += 1
        try:
            with trio.move_on_after(LINGER_S):
                await self.transport.linger()
        finally:
            self.service.lingering -= 1

    def log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        if self.is_quiet and level < logging.INFO:
            return
        self.is_quiet = False  # something has gone wrong after all
        self.announce()
        logs.line(logger, level, self.number, mark, text)
