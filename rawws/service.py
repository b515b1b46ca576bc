"""What all connections of a server have in common: the application and its hooks, the limits, what is counted."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from rawws.accepting import Address
from rawws.errors import Refusal
from rawws.gate import Sender
from rawws.limits import Limits
from rawws.tracing import Tracer
from rawws.wire.allowed_hosts import Hosts
from rawws.wire.messages import Request, Response
from rawws.wire.origins import Origins

if TYPE_CHECKING:
    from rawws.exchange import Exchange

# What may be asked of the application; each may be an ``async def`` or a plain function.
Authenticate = Callable[[Request], Awaitable[object] | object]
ProcessRequest = Callable[[Request], Awaitable[Response | None] | Response | None]
ProcessResponse = Callable[[Request, Response], Awaitable[Response | None] | Response | None]
SelectSubprotocol = Callable[[Request, Sequence[str]], str | None]


@dataclass(frozen=True, slots=True)
class Drain:
    """The time that a stopping server gives to its peers and to pending requests."""

    began: float
    seconds: float

    def at(self, share: float) -> float:
        """Return the time at which this share of the drain, from 0 to 1, is over."""
        return self.began + share * self.seconds


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
    drain: Drain | None = None  # once the server has begun to stop
    lingering: int = 0  # how many connections wait for their last words to be read
    resting: set[trio.CancelScope] = field(default_factory=set)  # of connections that wait for a request
    cut_off: list[str] = field(default_factory=list)  # targets of requests without an answer at the drain's end
    _at_stop: set[Callable[[], None]] = field(default_factory=set)
    # Says who a request came from, which proxies may know better; and may refuse to hear more from there.
    find_sender: Callable[[int, Request, Address], Sender | Refusal] | None = None
    # Says whether a request is the page's own, and will be granted: then it isn't logged.
    is_own: Callable[[Request], bool] | None = None
    # Called when a connection that had a provisional number gets another one.
    renumber: Callable[[int, int], None] | None = None
    # Says what a WebSocket for that path would do in a room, and why it can't be let in.
    admit: Callable[[Request], tuple[str, Refusal | None]] | None = None
    # Gets the room of a path ready, where that takes a while, and says why it can't be.
    prepare: Callable[[Request], Awaitable[Refusal | None]] | None = None
    limits_by_flag: Mapping[str, float] = field(default_factory=dict)  # those of the whole server, to be told
    handshakes: Counter[int] = field(default_factory=Counter)  # by the status of the answer

    @property
    def stopping(self) -> bool:
        return self.drain is not None

    def stop(self) -> None:
        """End the connections that rest; those that are being answered end when they are."""
        self.drain = Drain(trio.current_time(), self.limits.drain_s)
        for scope in self.resting:
            scope.cancel()
        for heed in list(self._at_stop):
            heed()

    @contextlib.contextmanager
    def heeding_stop(self, heed: Callable[[], None]) -> Iterator[None]:
        """Have a function called when the server begins to stop, if it does so within the block."""
        self._at_stop.add(heed)
        try:
            yield
        finally:
            self._at_stop.discard(heed)
