"""A connection in its HTTP phase: the steps that every request on it goes through.

The object owns the socket and the HTTP parser. It receives within deadlines, calls the application's hooks, refuses,
sends, and lets the last response arrive. ``http_phase.py`` takes it from one request to the next, ``upgrade.py`` to a
WebSocket, and ``exchange.py`` to any other response.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from typing import Any, NamedTuple

import trio

from rawws import logs
from rawws.errors import Refusal
from rawws.hooks import call_application, is_application_error, log_failure
from rawws.limits import KIB
from rawws.net.accept import Address
from rawws.net.transport import RECEIVE_BYTES, Transport
from rawws.relay.loop import current_loop
from rawws.server.apps import Adopt, Body
from rawws.server.config import ServerState
from rawws.wire.http1 import HttpEvent, HttpPhase, Signal
from rawws.wire.known_answer import KnownAnswer, common_fields
from rawws.wire.messages import NO_STORE, Headers, Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, IN, OUT, STATE, TIMER, head_lines, mask_target

# A connection in its HTTP phase, with its task (measured). h11's state takes 1 KiB more, and is made for few of them.
CONNECTION_BYTES = 8 * KIB
# Added while it waits for an event, with the tasks for that (measured).
WAIT_BYTES = 7 * KIB

SLOW_AND_FULL = "the client reads the answer too slowly, and the server's memory is full (--max-memory)"

# This is long enough to read the last response across a slow line, and short enough not to hoard sockets (a guess).
LINGER_S = 2.0
# The most connections that linger at once, so that a crowd of rejected clients doesn't use up the sockets.
MAX_LINGERING = 64


_NO_FIELDS = Headers()


class Deadline(NamedTuple):
    """The time by which an awaited event has to occur, and the limit that sets it."""

    at: float
    awaited: str
    limit_s: float
    flag: str

    @classmethod
    def of(cls, awaited: str, limit_s: float, flag: str) -> Deadline:
        return cls(trio.current_time() + limit_s, awaited, limit_s, flag)

    @property
    def refusal(self) -> Refusal:
        sentence = f"{self.awaited} did not arrive within {self.limit_s:g} seconds ({self.flag})."
        return Refusal(408, "request_timeout", sentence)


@functools.lru_cache(maxsize=1)
def http_date(seconds: int) -> bytes:
    """Return a time as the value of a Date field (RFC 9110 §5.6.7). All responses of a second share it."""
    return formatdate(seconds, usegmt=True).encode("ascii")


class HttpConnection:
    """One connection until it closes, becomes a WebSocket, or is handed over."""

    def __init__(self, number: int, transport: Transport, server: ServerState, address: Address) -> None:
        """A ``number`` below zero is provisional: the log's next number replaces it when something is logged."""
        self.number = number
        self.is_announced = False
        self.is_quiet = False  # whether the last request was the page's own
        self.transport = transport
        self.server = server
        self.config = server.config
        self.address = address  # of the socket's other end, or the one that a trusted proxy reports
        self.socket_address = address
        self.scheme = server.scheme  # or the one that a trusted proxy reports
        self.http = HttpPhase(self.config.limits, fast_lane=self.config.fast_lane)
        self.deadline = self.request_deadline()  # of the request that is being received; the first's from accept on
        self.answered: Response | None = None  # the last request's response, if it was sent as a whole
        self.is_lost = False  # the client has gone
        self.has_had_request = False
        self.request_began_at = 0.0  # the time at which the head of the last request was complete
        self.owes_answer = False  # whether a complete or refused request has no response yet
        self.adopt: Adopt | None = None  # takes over the response that has begun
        self.request: Request | None = None  # the one that is being answered
        self.also_held_bytes = 0  # for that request: its complete body, and tasks that wait
        self.held_for_call: Callable[[], int] = int  # returns the bytes that the application's call holds for it
        self.taken: Request | None = None  # received while the connection rested, and not answered yet
        self.unsent = b""  # of the answer to a request that was answered at once
        self.known: KnownAnswer | None = None  # the last request's, if it always is the same

    def announce(self) -> None:
        """Report the connection to the log and the tracer, unless that was done before."""
        if self.is_announced:
            return
        self.is_announced = True
        if self.number < 0:
            provisional, self.number = self.number, next(current_loop().numbers)
            if self.server.renumber is not None:
                self.server.renumber(provisional, self.number)
        if logs.http.isEnabledFor(logging.DEBUG):
            self.log(logs.http, logging.DEBUG, STATE, f"accepted from {self.transport.peer_name}")
        if self.config.tracer.is_watched:
            self.config.tracer.opened(self.number, self.transport.peer_name)

    @functools.cached_property
    def local_address(self) -> tuple[str, int | None] | None:
        """Our end: host and port, or a Unix socket's path and None."""
        return self.transport.local_address

    @property
    def is_watched(self) -> bool:
        """Whether the tracer gets its events at present."""
        return self.config.tracer.is_watched and not self.is_quiet

    @property
    def is_idle(self) -> bool:
        """Whether its loss costs nothing, since no request is being received or answered."""
        if self.owes_answer or (self.transport.has_handshake and not self.has_had_request):
            return False
        return not self.http.request_begun or self.http.response_begun

    def begin_request(self, request: Request | Refusal) -> None:
        """Record the request that was received: any request but the page's own announces the connection."""
        self.has_had_request = True
        self.answered = None
        self.request_began_at = trio.current_time()
        is_own = self.config.is_own
        self.is_quiet = is_own is not None and isinstance(request, Request) and is_own(request)
        if not self.is_quiet:
            self.announce()
        if self.is_watched:
            self.config.tracer.head(self.number, Role.CLIENT, self.http.raw_head)
        if logs.http.isEnabledFor(logging.DEBUG) and not self.is_quiet:
            for text in head_lines(self.http.raw_head):
                self.log(logs.http, logging.DEBUG, IN, text)

    def begin_known(self) -> None:
        """Record a request that is answered as one before it was, which has announced the connection."""
        self.is_quiet = False
        self.request_began_at = trio.current_time()

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it uses, without a body that is being received or sent."""
        held = CONNECTION_BYTES + self.transport.held_bytes + self.http.held_bytes + self.also_held_bytes
        held += self.held_for_call()
        held += len(self.unsent)
        if self.known is not None:
            held += self.known.held_bytes
        return held if self.request is None else held + self.request.held_bytes

    def end_request(self) -> None:
        """Let go of the request that is answered."""
        self.owes_answer = False
        self.request = None
        self.also_held_bytes = 0
        self.held_for_call = int

    # Receiving

    def request_deadline(self) -> Deadline:
        return Deadline.of("The request", self.config.limits.header_timeout_s, "--open-timeout")

    def receive_now(self) -> bool:
        """Receive the bytes that have arrived; return False if there are none."""
        if data := self.transport.try_receive():
            self.http.receive_data(data)
        return bool(data)

    async def receive_event(self, deadline: Deadline, *, is_head: bool = False) -> HttpEvent:
        """Return the next event, or a refusal if the data for it doesn't arrive by the deadline."""
        while (event := self.http.next_event()) is Signal.NEED_DATA:
            with trio.move_on_at(deadline.at) as scope, self.interruptible_by_stop(scope, is_head):
                self.http.receive_data(await self._receive())
                # Parsing takes time. A cancellation here also ends a client that never stops sending.
                await current_loop().turnstile.pass_through()
            if scope.cancelled_caught:
                # A head that has arrived by now was in time: only the server is late. A body may always have more.
                if is_head and (data := self.transport.try_receive()):
                    self.http.receive_data(data)
                if is_head and (event := self.http.next_event()) is not Signal.NEED_DATA:
                    return event
                if is_head and self.server.stopping:
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
    def interruptible_by_stop(self, scope: trio.CancelScope, is_idle: bool) -> Iterator[None]:
        """Let a stopping server cancel the scope, now or later, if the connection is idle within the block."""
        if not is_idle:
            yield
            return
        if self.server.stopping:
            scope.cancel()
        self.server.idle_scopes.add(scope)
        try:
            yield
        finally:
            self.server.idle_scopes.discard(scope)

    async def wait_lost(self) -> None:
        """Keep the requests that are pipelined after the current one, until the client has gone."""
        limit = self.config.limits.max_header_bytes
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
            message = f"over {limit} bytes (--max-head) are pipelined after a request that is being answered"
            self.log(logs.http, logging.INFO, FAULT, f"{message}; the client counts as gone")
        self.is_lost = True

    # Hooks

    async def call_hook(self, hook: Callable[..., Any], *arguments: object) -> Any:
        """Call one of the application's hooks, and return its result.

        An exception of the hook is logged, and the result is a 500. If the hook takes more than ``open_timeout``, the
        result is a 503.
        """
        name = getattr(hook, "__name__", "hook")
        with trio.move_on_after(self.config.limits.header_timeout_s) as scope:
            try:
                return await call_application(hook, *arguments)
            except BaseException as error:
                if not is_application_error(error):
                    raise
                log_failure(logs.handshake, self.number, f"{name} failed", error)
                return Response(500, "The server failed to decide about this request.\n", [NO_STORE])
        assert scope.cancelled_caught
        self.log(logs.handshake, logging.WARNING, TIMER, f"{name} took too long to decide")
        sentence = "The server took too long to decide about this request.\n"
        return Response(503, sentence, [("Retry-After", "1"), NO_STORE])

    async def answer_instead(self, response: object, hook: str, logger: logging.Logger, *, close: bool) -> None:
        """Send the response that a hook of the application has returned, and end the request with it."""
        if not isinstance(response, Response) or response.status < 200:
            message = f"{hook} returned {response!r}; it must return a Response with a final status, or None"
            self.log(logger, logging.ERROR, FAULT, message)
            response = Response(500, "The server failed to decide about this request.\n", [NO_STORE])
        self.log(logger, logging.INFO, STATE, f"answered by {hook} with {response.status}")
        await self.send_response(response, logger, close=close)

    # Sending

    async def refuse(self, logger: logging.Logger, refusal: Refusal, *, close: bool = True) -> None:
        """Log a refusal, and send it to the client."""
        level = logging.WARNING if refusal.hint else logging.INFO
        self.log(logger, level, FAULT, f"refused with {refusal.status} ({refusal.code}): {refusal.advice}")
        if refusal.hint and self.config.is_from_operator(self.request):
            refusal = replace(refusal, sentence=refusal.advice)
        if self.is_watched:
            self.config.tracer.refused(self.number, refusal)
        await self.send_response(Response.from_refusal(refusal), logger, close=close)

    async def send_response(self, response: Response, logger: logging.Logger, *, close: bool = False) -> None:
        if logger is logs.handshake:
            self.server.handshakes[response.status] += 1
        head, body = self.write_response(response, close=close)
        if len(body) < RECEIVE_BYTES:
            await self.send(head + body, logger)
        else:  # several clients may be sent the same body at a time, so it isn't copied
            await self.send(head, logger)
            await self.send(body)

    def write_response(self, response: Response, *, close: bool = False) -> tuple[bytes, bytes]:
        """Return the head of a whole response, and its body, to be sent now."""
        self.answered = response
        return self.http.respond_apart(response, self.common_fields(response.headers), close=close)

    def common_fields(self, own: Headers = _NO_FIELDS) -> list[tuple[bytes, bytes]]:
        """Return the fields of every response, but those that it has as its ``own``."""
        return common_fields(http_date(int(time.time())), self.config.server_header, own)

    def write_known(self, known: KnownAnswer) -> bytes:
        """Return the bytes of a known answer, to be sent now."""
        self.answered = known.answer
        return known.write(http_date(int(time.time())), self.config.server_header)

    async def send(self, data: bytes, logger: logging.Logger | None = None, *, of: Body = b"") -> None:
        """Send data; a logger gets its head. Raises TimeoutError when the client doesn't read.

        ``of`` is what the data is a part of. It counts as memory while this waits.
        """
        sent = self.try_send(data, logger)
        if sent < len(data):
            await self._send_slowly(data, sent, of.obj if isinstance(of, memoryview) else of)

    def try_send(self, data: bytes, logger: logging.Logger | None = None) -> int:
        """Send what the kernel takes now of data, and return how many bytes that was; a logger gets its head."""
        if logger is not None and logger.isEnabledFor(logging.DEBUG) and not self.is_quiet:
            for text in head_lines(data.partition(b"\r\n\r\n")[0]):
                self.log(logger, logging.DEBUG, OUT, text)
        if logger is not None and self.is_watched:
            self.config.tracer.head(self.number, Role.SERVER, data[: data.find(b"\r\n\r\n") + 4])
        try:
            return self.transport.try_send(data)
        except OSError:
            self.is_lost = True
            raise

    async def send_unsent(self) -> None:
        """Send the rest of an answer. Raises TimeoutError when the client doesn't read."""
        data, self.unsent = self.unsent, b""  # it is counted while it is sent
        await self._send_slowly(data, 0, b"")

    async def _send_slowly(self, data: bytes, sent: int, of: Any) -> None:
        try:
            await self._send_in_pieces(data, sent, of)
        except OSError:
            self.is_lost = True
            raise

    async def _send_in_pieces(self, data: bytes, sent: int, of: Any) -> None:
        with current_loop().memory.track(lambda: (data, of)) as scope, memoryview(data) as view:
            while sent < len(data):
                # Each piece has a deadline of its own, so that a large response can reach a slow reader.
                with trio.move_on_after(self.config.limits.close_timeout_s) as patience:
                    await self.transport.send_all(view[sent : sent + RECEIVE_BYTES])
                if patience.cancelled_caught:
                    raise TimeoutError("the client does not read the answer")
                sent += RECEIVE_BYTES
        if scope.cancelled_caught:
            raise TimeoutError(SLOW_AND_FULL)

    async def linger(self) -> None:
        """Let the last response arrive where the client may still be sending (RFC 9112 §9.6)."""
        if not self.http.closes_early or self.server.lingering >= MAX_LINGERING:
            return
        self.server.lingering += 1
        try:
            with trio.move_on_after(LINGER_S):
                await self.transport.linger()
        finally:
            self.server.lingering -= 1

    def log_access(self, request: Request | KnownAnswer) -> None:
        """Log the one line about a request that doesn't upgrade: what it asked for, the status, and the time taken."""
        if self.is_quiet or not logs.http.isEnabledFor(logging.INFO):
            return
        status = request.answer.status if isinstance(request, KnownAnswer) else self.http.response_status
        took_s = trio.current_time() - self.request_began_at
        took = f"{took_s * 1000:.1f} ms" if took_s < 1 else f"{took_s:.1f} s"
        outcome = f"no answer after {took}" if status is None else f"{status} in {took}"
        self.log(logs.http, logging.INFO, STATE, f"{request.method} {mask_target(request.target)}: {outcome}")

    def log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        """Log a line about the connection. A line below INFO is dropped while the connection is quiet."""
        if self.is_quiet and level < logging.INFO:
            return
        self.is_quiet = False  # an error has occurred after all
        self.announce()
        logs.line(logger, level, self.number, mark, text)
