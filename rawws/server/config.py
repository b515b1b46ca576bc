"""A server's configuration, which is fixed, and its state. All of its connections share both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from rawws.access.grant import Action
from rawws.access.source import Source
from rawws.errors import Refusal
from rawws.limits import Limits
from rawws.net.accept import Address
from rawws.relay.resting import Resting, SecondLook
from rawws.server.admission import Sender
from rawws.server.apps import Drain, Exchange, HttpApp, UpgradeApp
from rawws.tracing import Tracer
from rawws.wire.allowed_hosts import Hosts, is_local_name
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins

# The hooks of an application. Each may be an ``async def`` or a plain function.
Authenticate = Callable[[Request], Awaitable[object] | object]
ProcessRequest = Callable[[Request], Awaitable[Response | None] | Response | None]
ProcessResponse = Callable[[Request, Response], Awaitable[Response | None] | Response | None]
SelectSubprotocol = Callable[[Request, Sequence[str]], str | None]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The application, its hooks, and the limits, as a program gives them to `serve` or `rawws.attach`."""

    app: Callable[[Exchange], Awaitable[None]]
    limits: Limits = field(default_factory=Limits)
    fast_lane: bool = True  # False has every head read by h11, and every frame by wsproto
    origins: Origins = field(default_factory=Origins)
    hosts: Hosts | None = None  # the names that a request may use for the server; None for any
    # Whether only this machine can reach the server. Then its clients are the operator's own, and get advice too.
    is_local: bool = False
    compression: bool = True
    subprotocols: Sequence[str] = ()
    select_subprotocol: SelectSubprotocol | None = None
    access: Source | None = None  # gives the grants for a hub's rooms; None lets everybody in
    authenticate: Authenticate | None = None
    process_request: ProcessRequest | None = None
    process_response: ProcessResponse | None = None
    server_header: str | None = None
    tracer: Tracer = field(default_factory=Tracer)
    # The app as an object, if it may have answers to a GET or HEAD that need no waiting.
    prompt_app: HttpApp | None = None
    # Says whether a request is the page's own, and will be granted. Then it isn't logged.
    is_own: Callable[[Request], bool] | None = None
    limits_by_flag: Mapping[str, float] = field(default_factory=dict)  # the limits of the whole server, for /metrics

    def is_from_operator(self, request: Request | None) -> bool:
        """Whether a request comes from this machine, as far as anybody can tell, to a server that is only for it.

        A name in Host may be that of a proxy that adds no field, or of a page that has its own name point here.
        """
        if request is None or not self.is_local or request.was_forwarded:
            return False
        return is_local_name(request.authority)


class ServerFigures(NamedTuple):
    """The figures of a server for ``/metrics``. The server goes on to change the first."""

    handshakes: Counter[int]
    limits_by_flag: Mapping[str, float]


@dataclass(slots=True)
class ServerState:
    """The state of a server, and the questions that a connection asks it.

    The questions are None where there is nothing to ask: `rawws.attach` has a connection without a server.
    """

    config: ServerConfig
    scheme: str = "http"
    origins_at: Mapping[str, Origins] = field(default_factory=dict)  # at paths that have a rule of their own
    # Returns the sender of a request, which a proxy in front may report; or refuses further requests of that sender.
    find_sender: Callable[[int, Request, Address], Sender | Refusal] | None = None
    # Called with the provisional number of a connection, and with its final one.
    renumber: Callable[[int, int], None] | None = None
    # Returns the action in a room that a WebSocket is for, and a refusal of the request or None.
    admit: Callable[[Request], tuple[Action, Refusal | None]] | None = None
    # Returns the application that answers a request for a WebSocket itself; None if rawws answers it.
    find_application: Callable[[Request], UpgradeApp | None] | None = None
    # Returns whether the WebSockets of a request's path publish what they send.
    peers_publish: Callable[[Request], bool] | None = None
    # Loads the room for a path if needed; returns a refusal if that fails.
    prepare: Callable[[Request], Awaitable[Refusal | None]] | None = None

    resting: Resting = field(default_factory=Resting)  # connections between two requests
    # Whether clients have often sent the next request by the time that an application's task has answered one.
    look_after_answers: SecondLook = field(default_factory=SecondLook)
    drain: Drain | None = None  # set when the server starts to stop
    lingering: int = 0  # the number of closed connections whose last response the client may still be reading
    idle_scopes: set[trio.CancelScope] = field(default_factory=set)  # of connections that wait in a request
    cut_off: list[str] = field(default_factory=list)  # the targets of requests without an answer at the drain's end
    handshakes: Counter[int] = field(default_factory=Counter)  # by the status of the answer
    _at_stop: set[Callable[[], None]] = field(default_factory=set)

    @property
    def stopping(self) -> bool:
        return self.drain is not None

    def stop(self) -> None:
        """End the idle connections. A connection whose request is being answered ends after its response."""
        self.drain = Drain(trio.current_time(), self.config.limits.drain_s)
        self.resting.end()
        for scope in self.idle_scopes:
            scope.cancel()
        for call in list(self._at_stop):
            call()

    def on_stop(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Call a function when the server starts to stop, if that is within the block."""
        return _Listed(self._at_stop, call)


class _Listed:
    """A context in which a call is in a set. `contextlib.contextmanager` would cost three times as much a request."""

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: set[Callable[[], None]], call: Callable[[], None]) -> None:
        self._calls = calls
        self._call = call

    def __enter__(self) -> None:
        self._calls.add(self._call)

    def __exit__(self, *_: object) -> None:
        self._calls.discard(self._call)
