"""The routes of a server's WebSockets, by path: to a handler of the program's, to a relay, or to an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rawws.access.grant import ANYBODY, NOTHING, Action, Admitted
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.query import RoomQuery, read_request
from rawws.errors import Refusal
from rawws.groups.protocol import names_group
from rawws.groups.websockets import WORKING
from rawws.hub.doors import Door
from rawws.hub.queues import Queues
from rawws.net.accept import Address
from rawws.net.transport import Transport
from rawws.relay.peer import Peer, PeerGroup
from rawws.server.apps import UpgradeApp
from rawws.websocket import WebSocket
from rawws.websocket.callbacks import Callbacks, has_callbacks
from rawws.wire.handshake import Handshake
from rawws.wire.messages import Request
from rawws.wire.origins import Origins

Handler = Callable[[WebSocket], Awaitable[None]]


class Relay(Protocol):
    """An object that is given whole connections, and passes messages on between them; a `Hub` is one.

    The server asks it about a request first (`admit`, `action`, `prepare`), and calls `adopt` after the 101.
    """

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that the relay itself speaks."""

    def limits_by_flag(self) -> Mapping[str, float]:
        """Return the relay's limits, by the flag that sets each."""

    def admit(self, request: Request) -> Refusal | None:
        """Return why a request is refused; None if it is admitted."""

    def action(self, door: Door, path: str) -> Action:
        """Return the action in the room of a path that a door is for."""

    @property
    def queues(self) -> Queues:
        """The groups of its rooms."""

    async def prepare(self, path: str, since: MessageId | None = None) -> Refusal | None:
        """Load the room of a path, to be read from an id on; return a refusal if that fails."""

    def adopt(
        self,
        number: int,
        transport: Transport,
        handshake: Handshake,
        endpoint: PeerGroup,
        *,
        request: Request | None = None,
        remote_address: Address | None = None,
        admitted: Admitted = ANYBODY,
        trailing_data: bytes = b"",
        fast_lane: bool = True,
    ) -> Peer | None:
        """Take over a connection whose handshake is complete, and own its transport from then on.

        Returns None if the connection has ended; then the transport is closed.
        """


@dataclass(frozen=True, slots=True)
class Route:
    """The route of the WebSockets of one path, if it differs from that of other paths."""

    handler: Handler | Relay | UpgradeApp | Callbacks
    origins: Origins | None = None  # the web pages that may connect; None for the same as elsewhere
    shows_frames: bool = True  # to the log, and to a tracer
    refuse: Callable[[Request], Refusal | None] | None = None  # returns why a request is refused, or None
    relay: Relay | None = field(init=False, repr=False, compare=False)  # the handler, if it is one
    application: UpgradeApp | None = field(init=False, repr=False, compare=False)  # likewise
    callbacks: Callbacks | None = field(init=False, repr=False, compare=False)  # likewise

    def __post_init__(self) -> None:
        # A handler is called, and the others are not; an object with the methods of all, such as a mock, is a handler.
        other = None if callable(self.handler) else self.handler
        kind = "application" if isinstance(other, UpgradeApp) else "callbacks" if has_callbacks(other) else "relay"
        for name in ("application", "callbacks", "relay"):
            object.__setattr__(self, name, other if name == kind else None)

    def admit(self, request: Request) -> tuple[Action, Refusal | None]:
        """Return the action in a room that a WebSocket is for, and a refusal of the request or None."""
        refusal = None if self.refuse is None else self.refuse(request)
        if refusal is not None or self.relay is None:
            return NOTHING, refusal
        if names_group(request.query):
            refusal = self.relay.queues.refuse(request)
            return (NOTHING, refusal) if refusal is not None else (WORKING, None)
        if refusal := self.relay.admit(request):
            return NOTHING, refusal
        return self.relay.action(Door.WEBSOCKET, request.path or ""), None

    async def prepare(self, request: Request) -> Refusal | None:
        """Load the room for a request; return a refusal if that fails."""
        if self.relay is None:
            return None
        if names_group(request.query):
            return await self.relay.queues.prepare(request)
        reading = read_request(request)
        return await self.relay.prepare(request.path or "", reading.since) if isinstance(reading, RoomQuery) else None


Routes = Mapping[str, Handler | Relay | Callbacks | Route]


class Paths(Protocol):
    """Many paths, such as those of rooms."""

    def __contains__(self, path: str, /) -> bool: ...


class Area(NamedTuple):
    """The route of many paths."""

    paths: Paths
    route: Route


class RouteTable:
    """The routes of a server: some for one path each, some for an area, and one for all other paths."""

    def __init__(self, elsewhere: Route, by_path: Mapping[str, Route], areas: Sequence[Area] = ()) -> None:
        self._elsewhere = elsewhere
        self._by_path = by_path
        self._areas = areas

    def at(self, path: str | None) -> Route:
        """Return the route of a path. A target without a path has that of all other paths."""
        if path is None:
            return self._elsewhere
        if (route := self._by_path.get(path)) is not None:
            return route
        return next((area.route for area in self._areas if path in area.paths), self._elsewhere)

    @property
    def origins_at(self) -> dict[str, Origins]:
        """The rules for web pages of the paths that have one of their own."""
        return {path: route.origins for path, route in self._by_path.items() if route.origins is not None}

    def admit(self, request: Request) -> tuple[Action, Refusal | None]:
        """Ask the route of a request's path. See `Route.admit`."""
        return self.at(request.path).admit(request)

    def peers_publish(self, request: Request) -> bool:
        """Return whether the WebSockets of a request's path publish what they send."""
        relay = self.at(request.path).relay
        return relay is not None and Action.WRITE in relay.action(Door.WEBSOCKET, request.path or "")

    async def prepare(self, request: Request) -> Refusal | None:
        """Have the route of a request's path get ready. See `Route.prepare`."""
        return await self.at(request.path).prepare(request)

    def find_application(self, request: Request) -> UpgradeApp | None:
        """Return the application that answers a request for a WebSocket itself, if its path has one."""
        return self.at(request.path).application
