"""Applications for HTTP, and their view of a connection: one exchange at a time.

`HttpApp` is what answers requests that don't upgrade, and `Exchange` is what it is given for each of them. Both are
protocols, so that an application doesn't depend on the server. ``exchange.py`` has the server's exchange.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rawws.access.grant import Action, Admitted
from rawws.broadcast.json_messages import as_compact_json
from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.net.accept import Address
from rawws.net.transport import Transport
from rawws.relay.peer import Peer, PeerGroup
from rawws.websocket import WebSocket
from rawws.wire.messages import NO_STORE, Headers, Request, Response

BODY_TOO_LARGE = Refusal(413, "body_too_large", "The request's body is larger than this server accepts.")

# A body, or a piece of one.
Body = bytes | bytearray | memoryview

# Takes over a connection, by its number, as a peer of that endpoint. It returns None when the connection has ended.
Adopt = Callable[[int, Transport, PeerGroup], Peer | None]


@dataclass(frozen=True, slots=True)
class Drain:
    """The time that a stopping server gives to its peers and to pending requests."""

    began: float
    seconds: float

    def at(self, share: float) -> float:
        """Return the time at which this share of the drain, from 0 to 1, is over."""
        return self.began + share * self.seconds


class Exchange(Protocol):
    """One request that doesn't upgrade, and its response, either of which may stream.

    ``receive_body`` and ``send_body`` raise OSError when the client is lost. Any other error in the body raises an
    OSError too, and the client gets a response that names it when the application returns.
    """

    request: Request
    refusal: Refusal | None  # the response that the client gets when the application returns without one

    @property
    def number(self) -> int:
        """The connection's number in the log."""

    @property
    def scheme(self) -> str:
        """The scheme of the client's request: the server's own, or the one that a trusted proxy reports."""

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address and port, or those that a trusted proxy reports; None on a Unix socket."""

    @property
    def remote_address(self) -> Address:
        """The same as `client`, or the path of a Unix socket."""

    @property
    def server(self) -> tuple[str, int | None] | None:
        """Where the server listens: host and port, or the path of a Unix socket and None."""

    @property
    def handshakes(self) -> Counter[int]:
        """The number of WebSocket handshakes that this server has answered with each status."""

    @property
    def limits(self) -> Limits:
        """The server's limits for one connection."""

    @property
    def limits_by_flag(self) -> Mapping[str, float]:
        """All limits of the server, by the flag that sets each."""

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""

    @property
    def drain(self) -> Drain | None:
        """The time that a stopping server gives to pending work; None while it isn't stopping."""

    def count(self, held_bytes: Callable[[], int]) -> None:
        """Count the bytes that the application's call holds as the connection's, until the request is answered."""

    def on_stop(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Call a function when the server starts to stop, if that is within the block."""

    async def receive_body(self) -> bytes:
        """Return the next piece of the request's body, and empty bytes after its end.

        Each piece has a deadline of its own, as in sending, so that a large body on a slow line can arrive.
        """

    async def read_body(self, max_bytes: float = math.inf, too_large: Refusal = BODY_TOO_LARGE) -> bytes:
        """Return the whole body. It has to arrive within the time for a request.

        A body of more than ``max_bytes`` is refused with ``too_large``, whether it has been read or not.
        """

    async def discard_body(self) -> None:
        """Read the rest of the body and drop it, so that the connection can be kept.

        A large body isn't read, nor is one that the client would send only after "100 Continue": then the connection
        is closed after the response.
        """

    @property
    def has_grants(self) -> bool:
        """Whether the server has a source of grants, so that clients without one may do nothing."""

    async def authorize(self, asked: Action, *, is_operator: bool = False) -> Admitted | Refusal | Response:
        """Return what this client may do in the room at its path, or why it may not.

        The server's source of grants decides, except about an operator, and then ``authenticate``.
        """

    async def wait_for(self, happens: Callable[[], Awaitable[None]], timeout_s: float) -> None:
        """Wait until ``happens`` returns, the client has gone, the server stops, or ``timeout_s`` seconds are over.

        Call it only when the body has been read. A client that has only shut down its own side still reads, and gets
        its response at once.
        """

    async def wait_disconnected(self) -> None:
        """Return when the client has gone. Call it only when the body has been read, and in one task at a time.

        A client that pipelines more requests than are kept counts as gone, since its end can't be seen.
        """

    def has_gone(self) -> bool:
        """Say whether the client has ended the connection, or its side of it, as far as that is known now."""

    def has_refused(self) -> bool:
        """Say whether it is known that the client has closed the connection before it had all of the response."""

    async def answer(self, response: Response | Refusal) -> None:
        """Send a whole response."""

    async def start_response(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: Body = b"") -> None:
        """Send the head of a response whose body follows; it is chunked unless the headers give its length.

        The first piece of the ``body`` may go out with it.
        """

    async def send_body(self, data: Body) -> None:
        """Send a piece of the response's body, of any size; waits while the client reads slowly.

        Meanwhile all of it counts as memory of the server, and the client is lost when that is full.
        """

    async def end_response(self) -> None:
        """Send the end of the response."""

    async def answer_in_pieces(
        self, headers: Sequence[tuple[bytes, bytes]], body: Iterable[bytes], held: Callable[[], Iterable[bytes]]
    ) -> None:
        """Send a 200 whose body is made as it is sent; ``held`` returns the objects that are kept to make its rest.

        Raises OSError when the client is lost, reads too slowly, or has to go because the server's memory is full.
        """

    async def hand_over(self, headers: Sequence[tuple[str, str]], adopt: Adopt) -> None:
        """Start a response that lasts until the connection ends, and hand it over.

        ``adopt`` is called when this exchange is over, and then owns the transport that it is given.
        """


class UpgradeExchange(Exchange, Protocol):
    """A request for a WebSocket whose handshake meets every requirement, and its response if there is to be no 101.

    The connection is closed after such a response: the client may send frames next, which must not be read as HTTP.
    """

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that the client offers, in its order of preference."""

    @property
    def is_lost(self) -> bool:
        """Whether the client has gone."""

    @property
    def call_bytes(self) -> int:
        """The memory that the application's call takes, besides what its WebSocket takes."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An application's acceptance of a WebSocket. One of the two functions is called in any case."""

    subprotocol: str | None
    headers: Headers  # of the 101, besides those of the handshake
    serve: Callable[[WebSocket], Awaitable[None]]  # the handler of the WebSocket
    abandon: Callable[[], None]  # called if there can be none


@runtime_checkable
class UpgradeApp(Protocol):
    """An application that answers requests for a WebSocket itself."""

    async def answer_upgrade(self, exchange: UpgradeExchange) -> Acceptance | Refusal | None:
        """Return how a request is accepted, or why it is refused; None if it is answered through the exchange.

        Raises OSError when the client is lost before that.
        """


@runtime_checkable
class HttpApp(Protocol):
    """Answers requests that don't upgrade, each as an exchange, whose bodies may stream both ways."""

    def max_body_bytes(self, limits: Limits) -> int:
        """Return the largest body that it accepts, by its own limit or the server's."""

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Answer one request. An exception is logged, and answered with 500 if no response has begun."""

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        """Return what `serve_exchange` would answer to a GET or HEAD without a body, if that needs no waiting.

        None has `serve_exchange` called. ``stopping`` says whether the server is.
        """

    def answer_always(self, request: Request) -> Response | None:
        """Return the response that every GET or HEAD without a body gets that has this head; None if it may change."""

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return a context that lasts from before the server listens until after the last exchange."""


class Middleware:
    """The base of apps that answer some requests themselves, and pass all others on to another app."""

    elsewhere: HttpApp | None  # None where there is no other app

    def concerns(self, request: Request) -> bool:
        """Say whether this app may answer a request, now or later. That depends on the request's head alone."""
        raise NotImplementedError

    def is_own(self, request: Request) -> bool:
        """Say whether a request is rawws's own, such as its page's, and so isn't logged."""
        return isinstance(self.elsewhere, Middleware) and self.elsewhere.is_own(request)

    def max_body_bytes(self, limits: Limits) -> int:
        """Return the largest body that either app accepts."""
        return limits.max_body_bytes if self.elsewhere is None else self.elsewhere.max_body_bytes(limits)

    async def serve_exchange(self, exchange: Exchange) -> None:
        """Answer one request, or have the other app answer it."""
        raise NotImplementedError

    def answer_now(self, request: Request, *, stopping: bool) -> Response | Refusal | None:
        """Return the other app's answer to a request that doesn't concern this one. An own answer has to be awaited."""
        if self.elsewhere is None or self.concerns(request):
            return None
        return self.elsewhere.answer_now(request, stopping=stopping)

    def answer_always(self, request: Request) -> Response | None:
        """Return the other app's answer to a request that doesn't concern this one."""
        return None if self.elsewhere is None or self.concerns(request) else self.elsewhere.answer_always(request)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return the other app's lifespan."""
        return nullcontext() if self.elsewhere is None else self.elsewhere.lifespan()


def apps_of(http: object) -> Iterator[object]:
    """Yield apps that wrap one another, the outermost first."""
    yield http
    while isinstance(http, Middleware):
        http = http.elsewhere
        yield http


def answer_json(content: dict[str, Any] | bytes, status: int = 200) -> Response:
    """Return a JSON response that no cache may keep; the content is encoded unless it is bytes."""
    body = content if isinstance(content, bytes) else as_compact_json(content) + b"\n"
    return Response(status, body, [("Content-Type", "application/json"), NO_STORE])


def answer_options(methods: Sequence[str], fields: Mapping[str, str] | None = None) -> Response:
    """Return the response to OPTIONS. ``methods`` are those allowed besides OPTIONS itself (RFC 9110 §9.3.7)."""
    return Response(204, b"", {"Allow": name_methods(methods), **(fields or {})})


def name_methods(methods: Sequence[str]) -> str:
    """Return the value of an Allow field. OPTIONS is always allowed."""
    return ", ".join(sorted({*methods, "OPTIONS"}))
