"""One connection from accept to the end of its HTTP phase: requests, answers, and the upgrade.

It reads top to bottom as the connection lives: wait for a request, have it answered, wait for the next; when one
asks for a WebSocket, examine it, ask the application, send the 101, and hand the socket on with every byte that
came behind the request. Each connection runs this in a trio task of its own, which ends at the hand-over.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, NamedTuple, NoReturn

import trio

from rawws import logs, web
from rawws.accepting import Address
from rawws.errors import Refusal
from rawws.limits import KIB, Limits
from rawws.loop import current_loop
from rawws.peer import Endpoint, Peer
from rawws.tracing import Tracer
from rawws.transport import RECEIVE_BYTES, Transport
from rawws.wire.client_handshake import examine_answer
from rawws.wire.handshake import Handshake, Origins, examine, wants_websocket
from rawws.wire.hosts import Hosts
from rawws.wire.http1 import BodyPart, Event, HttpPhase, Signal
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, IN, OUT, STATE, TIMER, head_lines

# Long enough for the last words to be read across a slow line, short enough not to hoard sockets (a guess).
LINGER_S = 2.0
# So many at once: a crowd that is turned away must not be in the way like that.
MAX_LINGERING = 64

# So much of a body that nobody wants costs less than a new connection (a guess).
MAX_PASSED_OVER_BYTES = 64 * KIB
# Ten thousand chunks may be here already: after so many, others have their turn. After each one, that would be a third
# of what a tiny chunk costs.
PIECES_IN_A_ROW = 16

_TOO_LARGE = Refusal(413, "body_too_large", "The request's body is larger than what is taken here.")
_NO_MEMORY = Refusal(
    503,
    "no_memory",
    "The server has no memory left for this request (--max-memory); try again later.",
    ((b"Retry-After", b"1"),),
)


# GeneratorExit is how a coroutine ends that nobody goes on with.
_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)


def is_failure(error: BaseException) -> bool:
    """Say whether what an application has raised is its own failure, which costs one answer or one connection.

    The rest is for who called us: what ends the program, and trio's cancelling. But trio doesn't cancel where an
    application has kept a ``Cancelled``, and raises it when nothing is cancelled: let through, that would end the
    whole server without a word. Nor does asyncio's ``CancelledError`` mean anything to anybody above.
    """
    if isinstance(error, BaseExceptionGroup):
        # Cancelling beside a failure isn't lost: trio raises it again where we wait next.
        return error.subgroup(_ENDS_THE_PROGRAM) is None and any(map(is_failure, error.exceptions))
    if isinstance(error, trio.Cancelled):
        return trio.current_effective_deadline() > -math.inf
    return not isinstance(error, _ENDS_THE_PROGRAM)


class Deadline(NamedTuple):
    """By when what is awaited has to have come, and by which limit."""

    at: float
    awaited: str
    limit_s: float
    flag: str

    @classmethod
    def of(cls, awaited: str, limit_s: float, flag: str) -> Deadline:
        return cls(trio.current_time() + (limit_s or math.inf), awaited, limit_s, flag)

    @property
    def refusal(self) -> Refusal:
        told = f"{self.awaited} did not arrive within {self.limit_s:g} seconds ({self.flag})."
        return Refusal(408, "request_timeout", told)


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What is handed over when HTTP is done: from here on the receiver owns the transport."""

    number: int
    transport: Transport
    request: Request
    response: Response | None  # if the application had a say in it; else the handshake's own
    handshake: Handshake
    trailing_data: bytes
    remote_address: Address
    user: object  # what ``authenticate`` returned


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A connection whose answer is for somebody else to go on with, who owns the transport from here on."""

    number: int
    transport: Transport
    adopt: Adopt


# Takes over a connection, by its number: as a peer of that endpoint, or None when it has ended instead.
Adopt = Callable[[int, Transport, Endpoint], Peer | None]

# What may be asked of the application; each may be an ``async def`` or a plain function.
Authenticate = Callable[[Request], Awaitable[object] | object]
ProcessRequest = Callable[[Request], Awaitable[Response | None] | Response | None]
ProcessResponse = Callable[[Request, Response], Awaitable[Response | None] | Response | None]
SelectSubprotocol = Callable[[Request, Sequence[str]], str | None]


@dataclass(slots=True)
class Service:
    """What a server does with its connections: the same for all of them."""

    app: Callable[[Exchange], Awaitable[None]]
    limits: Limits = field(default_factory=Limits)
    origins: Origins = field(default_factory=Origins)
    hosts: Hosts | None = None  # by which a request may call the server; None for any
    origins_at: Mapping[str, Origins] = field(default_factory=dict)  # at paths that have a rule of their own
    compression: bool = True
    subprotocols: Sequence[str] = ()
    select_subprotocol: SelectSubprotocol | None = None
    authenticate: Authenticate | None = None
    process_request: ProcessRequest | None = None
    process_response: ProcessResponse | None = None
    server_header: str | None = None
    tracer: Tracer = field(default_factory=Tracer)
    scheme: str = "http"
    stopping: bool = False
    lingering: int = 0  # how many connections wait for their last words to be read
    resting: set[trio.CancelScope] = field(default_factory=set)  # of connections that wait for a request
    # Says who a request came from, which proxies may know better; and may refuse to hear more from there.
    find_client: Callable[[int, Request, Address], Address | Refusal] | None = None
    # Says what a WebSocket for that path would do in a room, and why it can't be let in.
    admit: Callable[[Request], tuple[str, Refusal | None]] | None = None
    # Gets the room of a path ready, where that takes a while, and says why it can't be.
    prepare: Callable[[Request], Awaitable[Refusal | None]] | None = None
    limits_by_flag: Mapping[str, float] = field(default_factory=dict)  # those of the whole server, to be told
    handshakes: Counter[int] = field(default_factory=Counter)  # by the status of the answer

    def stop(self) -> None:
        """End the connections that rest; those that are being answered end when they are."""
        self.stopping = True
        for scope in self.resting:
            scope.cancel()


class ClientError(OSError):
    """The client's body can't be read on; what it is told is decided already."""


class HttpConnection:
    """Serves HTTP on one connection until it closes or becomes a WebSocket."""

    def __init__(self, number: int, transport: Transport, service: Service, address: Address) -> None:
        self.number = number
        self.transport = transport
        self.service = service
        self.address = address  # of the socket's other end, or what a trusted proxy says
        self._socket_address = address
        self.http = HttpPhase(service.limits)
        self.deadline = self._request_deadline()  # of the request that is being received; the first's from accept on
        self.answered: Response | None = None  # the last answer that was given
        self.is_lost = False  # the client has gone
        self.adopt: Adopt | None = None  # who goes on with the answer that was begun

    async def serve(self) -> Upgraded | HandedOver | None:
        """Run the connection's HTTP phase; returns it as what it has become, or closes the transport at the end.

        Raises nothing that the peer could cause: a lost connection is an end like others.
        """
        upgraded = None
        if logs.http.isEnabledFor(logging.DEBUG):
            self._log(logs.http, logging.DEBUG, STATE, f"accepted from {self.transport.peer_name}")
        if self.service.tracer.is_watched:
            self.service.tracer.opened(self.number, self.transport.peer_name)
        try:
            upgraded = await self._serve_requests()
        except ssl.SSLError as error:
            self._log(logs.http, logging.INFO, FAULT, f"TLS failed: {error.reason or error}")
        except OSError as error:
            self._log(logs.http, logging.INFO, FAULT, f"lost in the HTTP phase: {error.strerror or error}")
        finally:
            if upgraded is None:
                self.transport.close()
                self.service.tracer.ended(self.number, "the HTTP connection is closed")
        return upgraded

    async def turn_away(self, refusal: Refusal) -> None:
        """Refuse the connection before it has said anything."""
        try:
            if not self.transport.has_handshake:  # there is no telling before TLS is there, which costs too much
                await self.refuse(logs.http, refusal)
                await self.linger()
        except OSError:
            pass
        finally:
            self.transport.close()

    async def _serve_requests(self) -> Upgraded | HandedOver | None:
        if self.transport.has_handshake:
            with trio.move_on_at(self.deadline.at) as scope:
                await self.transport.shake_hands()
            if scope.cancelled_caught:
                self._log(logs.http, logging.DEBUG, TIMER, "closed by us: no TLS handshake in time")
                return None
        while True:
            request = await self._receive_head()
            if request is None:
                self._log(logs.http, logging.DEBUG, STATE, "closed by the client without a further request")
                self.transport.shutdown_write()  # of TLS a close says nothing (RFC 8446 §6.1)
                return None
            upgraded = await self._act_on(request)
            if self.adopt is not None:
                return HandedOver(self.number, self.transport, self.adopt)
            if upgraded is not None or not self.http.can_continue or self.service.stopping:
                await self.linger()
                return upgraded
            self.http.start_next_request()
            if self.http.request_begun:
                await trio.lowlevel.checkpoint()  # a thousand may be here already
            elif not await self._wait_for_next():
                return None
            self.deadline = self._request_deadline()
            self.is_lost = False  # who has only ended its own side still reads

    def _request_deadline(self) -> Deadline:
        return Deadline.of("The request", self.service.limits.header_timeout_s, "--open-timeout")

    async def _receive_head(self) -> Request | Refusal | None:
        """Return the next request, a refusal of it, or None at the end of the stream."""
        # Most often all of it is here already, and then a deadline costs more than reading does.
        if not self.http.request_begun and (data := self.transport.try_receive()):
            self.http.receive_data(data)
        event = self.http.next_event()
        if event is Signal.NEED_DATA:
            event = await self.receive_event(self.deadline, is_head=True)
        if isinstance(event, Request):
            if not event.has_body:
                end = self.http.next_event()
                assert end is Signal.END_OF_BODY, "h11 ends a request without a body at once"
            return event
        return event if isinstance(event, Refusal) else None

    async def receive_event(self, deadline: Deadline, *, is_head: bool = False) -> Event:
        """Return the next event, for which data may have to come by the deadline."""
        while (event := self.http.next_event()) is Signal.NEED_DATA:
            with trio.move_on_at(deadline.at) as scope, self.resting(scope, is_head):
                self.http.receive_data(await self._receive())
                await trio.lowlevel.checkpoint_if_cancelled()  # who never stops sending runs out of time too
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

    async def _wait_for_next(self) -> bool:
        """Wait for another request's first byte; False when the connection ends, or rests too long, instead."""
        rest_s = self.service.limits.keep_alive_timeout_s or math.inf
        with trio.move_on_after(rest_s) as rest, self.resting(rest, True):
            data: bytes | None = await self.transport.receive()
        if rest.cancelled_caught:
            data = self.transport.try_receive()
        if data is None:
            self._log(logs.http, logging.DEBUG, TIMER, "closed by us: no further request in time")
            return False
        self.http.receive_data(data)
        return True

    async def _act_on(self, request: Request | Refusal) -> Upgraded | None:
        if self.service.tracer.is_watched:
            self.service.tracer.head(self.number, Role.CLIENT, self.http.raw_head)
        if logs.http.isEnabledFor(logging.DEBUG):
            for text in head_lines(self.http.raw_head):
                self._log(logs.http, logging.DEBUG, IN, text)
        if isinstance(request, Request):
            return await self._act_on_request(request)
        await self.refuse(logs.http, request)
        return None

    async def _act_on_request(self, request: Request) -> Upgraded | None:
        service = self.service
        if service.find_client is not None:
            client = service.find_client(self.number, request, self._socket_address)
            if isinstance(client, Refusal):
                await self.refuse(logs.http, client)
                return None
            self.address = client
        if service.hosts is not None and (refusal := service.hosts.refuse(request)):
            await self.refuse(logs.http, refusal)
            return None
        if wants_websocket(request):
            return await self.upgrade(request)
        if service.process_request is not None:
            response = await self.ask(service.process_request, request)
            if response is not None:
                await self._answer_instead(response, "process_request", logs.http, close=False)
                return None
        exchange = Exchange(self, request)
        # What is asked for rawws's own sake would only hide the rest.
        level = logging.DEBUG if request.target.startswith(web.OWN_PATHS) else logging.INFO
        if logs.http.isEnabledFor(level):
            self._log(logs.http, level, IN, f"Received request for {request.target}")
        await self._have_answered(exchange)
        return None

    async def _have_answered(self, exchange: Exchange) -> None:
        """Have the application answer; what goes wrong in it is logged, and ends this request alone."""
        try:
            await self.service.app(exchange)
        except ClientError:
            pass  # told below
        except BaseException as error:
            if not is_failure(error):
                raise
            if isinstance(error, OSError) and self.is_lost:  # else it is an error of the application's own
                raise
            logs.http.exception("#%d ! the http handler failed at %s", self.number, exchange.request.target)
            exchange.refusal = Refusal(500, "internal_error", "The server failed to answer this request.")
        if exchange.refusal is not None and not self.http.response_begun:
            await self.refuse(logs.http, exchange.refusal, close=exchange.refusal.status != 500)
        elif not exchange.is_complete and not self.http.response_begun and self.adopt is None:
            no_answer = Refusal(500, "no_answer", "The server has no answer to this request.")
            await self.refuse(logs.http, no_answer, close=False)

    async def ask(self, hook: Callable[..., Any], *arguments: object) -> Any:
        """Call one of the application's hooks, within the time that the opening may take.

        What goes wrong in it is logged, and answered with 500.
        """
        name = getattr(hook, "__name__", "hook")
        with trio.move_on_after(self.service.limits.header_timeout_s or math.inf) as scope:
            try:
                result = hook(*arguments)
                return await result if inspect.isawaitable(result) else result
            except BaseException as error:
                if not is_failure(error):
                    raise
                logs.handshake.exception("#%d ! %s failed", self.number, name)
                return Response(500, "The server failed to decide about this request.\n")
        assert scope.cancelled_caught
        self._log(logs.handshake, logging.WARNING, TIMER, f"{name} took too long to decide")
        return Response(503, "The server took too long to decide about this request.\n")

    async def _answer_instead(self, response: object, hook: str, logger: logging.Logger, *, close: bool) -> None:
        """Send what the application's hook answers in place of going on."""
        if not isinstance(response, Response) or response.status < 200:
            told = f"{hook} returned {response!r}; it is to return a Response with a final status, or None"
            self._log(logger, logging.ERROR, FAULT, told)
            response = Response(500, "The server failed to decide about this request.\n")
        self._log(logger, logging.INFO, STATE, f"answered by {hook} with {response.status}")
        await self.send_response(response, logger, close=close)

    async def upgrade(self, request: Request) -> Upgraded | None:
        """Examine the handshake and ask the application; send the 101, or the reason why not.

        A refusal always closes: what the client sends next may be frames, and must not be read as HTTP.
        """
        service = self.service
        if service.process_request is not None:
            response = await self.ask(service.process_request, request)
            if response is not None:
                await self._answer_instead(response, "process_request", logs.handshake, close=True)
                return None
        origins = service.origins_at.get(request.path or "", service.origins)
        handshake = examine(request, origins, compression=service.compression)
        debug = logs.handshake.isEnabledFor(logging.DEBUG)
        if service.tracer.is_watched:
            service.tracer.checked(self.number, Role.CLIENT, handshake.checks, handshake.accept)
        if debug:
            for check in handshake.checks:
                self._log(logs.handshake, logging.DEBUG, STATE if check.holds else FAULT, str(check))
        refusal = handshake.refusal
        if refusal is None and service.admit is not None:
            action, refusal = service.admit(request)
            if action:
                request = replace(request, action=action)
                if refusal is None and service.prepare is not None:
                    refusal = await service.prepare(request)
        if refusal is not None:
            await self.refuse(logs.handshake, refusal)
            return None
        user: object = None
        if service.authenticate is not None:
            user = await self.ask(service.authenticate, request)
            if isinstance(user, Response):
                await self._answer_instead(user, "authenticate", logs.handshake, close=True)
                return None
        if handshake.offered_subprotocols:
            chosen = await self._choose_subprotocol(request, handshake.offered_subprotocols)
            if isinstance(chosen, Response):
                await self._answer_instead(chosen, "select_subprotocol", logs.handshake, close=True)
                return None
            handshake = replace(handshake, subprotocol=chosen)
        response = None
        if service.process_response is not None:
            proposed = handshake.response
            response = await self.ask(service.process_response, request, proposed) or proposed
            if not isinstance(response, Response) or response.status != 101:
                await self._answer_instead(response, "process_response", logs.handshake, close=True)
                return None
        if service.admit is not None and (refusal := service.admit(request)[1]):  # others have come meanwhile
            await self.refuse(logs.handshake, refusal)
            return None
        if debug:
            self._show_agreement(request, handshake)
        fields = handshake.response_headers if response is None else response.headers.raw()
        if service.server_header is not None and (response is None or "Server" not in response.headers):
            fields = [*fields, (b"Server", service.server_header.encode("ascii"))]
        service.handshakes[101] += 1
        await self.send(self.http.switch_protocols(fields), logs.handshake)
        if service.tracer.is_watched:
            self._show_answer(handshake, response or handshake.response)
            service.tracer.switched(self.number)
        trailing_data, _ = self.http.trailing_data
        if debug:
            told = f"handed over with {len(trailing_data)} bytes that came behind the request"
            self._log(logs.handshake, logging.DEBUG, STATE, f"HTTP ends, WebSocket begins: {told}")
        return Upgraded(self.number, self.transport, request, response, handshake, trailing_data, self.address, user)

    async def _choose_subprotocol(self, request: Request, offered: Sequence[str]) -> str | Response | None:
        """Choose one of what the client offers, the server's favourite first, or none (§4.2.2 item 4)."""
        if self.service.select_subprotocol is None:
            return next((name for name in self.service.subprotocols if name in offered), None)
        chosen: str | Response | None = await self.ask(self.service.select_subprotocol, request, offered)
        if chosen is None or isinstance(chosen, Response) or chosen in offered:
            return chosen
        logs.handshake.error("select_subprotocol chose %r, not one of those offered: %s", chosen, offered)
        return None

    def _show_answer(self, handshake: Handshake, response: Response) -> None:
        """Tell how our answer meets what a client requires of it (§4.1)."""
        offered = handshake.offered_subprotocols
        answer = examine_answer(
            response,
            handshake.accept,
            offered_subprotocols=offered,
            offered_compression=handshake.deflate is not None,
        )
        self.service.tracer.checked(self.number, Role.SERVER, answer.checks)

    def _show_agreement(self, request: Request, handshake: Handshake) -> None:
        assert handshake.accept is not None
        for step in handshake.accept.steps:
            self._log(logs.handshake, logging.DEBUG, STATE, step)
        if offered := handshake.offered_subprotocols:
            chosen = "none chosen" if handshake.subprotocol is None else f"chose {handshake.subprotocol}"
            told = f"RFC 6455 §1.9: offered the subprotocols {', '.join(offered)}: {chosen}"
            self._log(logs.handshake, logging.DEBUG, STATE, told)
        for offer in request.headers.get_all("Sec-WebSocket-Extensions"):
            verdict = "declined" if handshake.deflate is None else f"agreed on {handshake.deflate.header}"
            self._log(logs.handshake, logging.DEBUG, STATE, f"RFC 6455 §9.1: offered {offer}: {verdict}")

    # What goes out

    async def refuse(self, logger: logging.Logger, refusal: Refusal, *, close: bool = True) -> None:
        """Tell the client why it is refused."""
        level = logging.WARNING if refusal.hint else logging.INFO
        told = f"refused with {refusal.status} ({refusal.code}): {refusal.sentence}"
        self._log(logger, level, FAULT, f"{told} {refusal.hint}".rstrip())
        await self.send_response(web.refuse(refusal), logger, close=close)

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
        if logger is not None and logger.isEnabledFor(logging.DEBUG):
            for text in head_lines(data.partition(b"\r\n\r\n")[0]):
                self._log(logger, logging.DEBUG, OUT, text)
        if logger is not None and self.service.tracer.is_watched:
            self.service.tracer.head(self.number, Role.SERVER, data[: data.find(b"\r\n\r\n") + 4])
        try:
            sent = self.transport.try_send(data)
            if sent < len(data):
                await self._send_slowly(data, sent)
        except OSError:
            self.is_lost = True
            raise

    async def _send_slowly(self, data: bytes, sent: int) -> None:
        with current_loop().memory.counting(data) as scope, memoryview(data) as view:
            while sent < len(data):
                # A deadline for each piece: a large answer to a slow reader takes the time that it takes.
                with trio.move_on_after(self.service.limits.close_timeout_s or math.inf) as patience:
                    await self.transport.send_all(view[sent : sent + RECEIVE_BYTES])
                if patience.cancelled_caught:
                    raise TimeoutError("the client does not read the answer")
                sent += RECEIVE_BYTES
        if scope.cancelled_caught:
            raise TimeoutError("the client reads the answer too slowly, and the server's memory is full (--max-memory)")

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
        else:
            told = f"over {limit} bytes (--max-head) are pipelined behind a request that is being answered"
            self._log(logs.http, logging.INFO, FAULT, f"{told}; the client counts as gone")
        self.is_lost = True

    def _log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self.number, mark, text)


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
        return self._connection.service.scheme

    @property
    def client(self) -> tuple[str, int] | None:
        """Who asks: the socket's other end, or what a trusted proxy says; None on a Unix socket."""
        address = self._connection.address
        return address if isinstance(address, tuple) else None

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
        with current_loop().memory.counting(body) as scope:
            while piece := await self._receive_body(self._connection.deadline):
                body += piece
                if len(body) > max_bytes:
                    self._refuse(too_large)
        if scope.cancelled_caught:
            self._refuse(_NO_MEMORY)
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

    async def authorize(self, action: str) -> Response | None:
        """Ask the application whether this client may read from, or write to, the room of its path."""
        connection = self._connection
        if connection.service.authenticate is None:
            return None
        answer = await connection.ask(connection.service.authenticate, replace(self.request, action=action))
        return answer if isinstance(answer, Response) else None

    async def wait_for(self, happens: Callable[[], Awaitable[None]], most_s: float) -> None:
        """Wait until there is something to tell, or there is no use in it: the client has gone, or the server stops.

        For when the body has been read. Who has only ended its own side still reads, and is answered at once.
        """
        with trio.move_on_after(most_s) as scope, self._connection.resting(scope, True):

            async def give_up() -> None:
                await self.wait_disconnected()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                await happens()
                nursery.cancel_scope.cancel()

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

    async def wait_disconnected(self) -> None:
        """Return when the client has gone. For when the body has been read, and beside no other receiving.

        Whether it has gone can't be seen behind more pipelined requests than are kept: then it counts as gone.
        """
        await self._connection.wait_lost()
