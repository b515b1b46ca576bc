"""Listeners, a task for each connection in its HTTP phase, the handlers of an application, and an orderly end."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from rawws import logs
from rawws.accepting import Address, accept_connections
from rawws.answering import HandedOver, serve_http, turn_away
from rawws.doors import Door
from rawws.errors import SHUTTING_DOWN, Cause, ConnectionClosed, Refusal
from rawws.failures import call_handler, is_application_error, log_failure
from rawws.gate import Gate
from rawws.http_connection import HttpConnection
from rawws.hub import Hub
from rawws.loop import current_loop
from rawws.peer import Endpoint
from rawws.runtime import check_in_trio, not_awaited
from rawws.service import Service
from rawws.tracing import OpenConnection
from rawws.transport import (
    TlsTransport,
    Transport,
    name_address,
)
from rawws.upgrade import Upgraded
from rawws.websocket import WebSocket
from rawws.wire.event_stream import EventStream
from rawws.wire.handshake import Origins
from rawws.wire.messages import Request
from rawws.wire.reading import Reading, read_request
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, shorten

# A stopping server closes so many peers at a time, or more if there are many; and is done with that when so much of
# the drain is over. A hundred a second come back anywhere without being felt (a guess).
CLOSES_AT_ONCE = 5
CLOSING_TICK_S = 0.05
DRAIN_SHARE = 0.8

MOST_NAMED = 5  # the most endpoints of an application in one log line

Handler = Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of the WebSockets of one path, where that isn't what becomes of all others."""

    handler: Handler | Hub
    origins: Origins | None = None  # which web pages may connect; None for those that may elsewhere
    shows_frames: bool = True  # to the log, and to a tracer
    refuse: Callable[[Request], Refusal | None] | None = None  # says why a request can't be let in


Routes = Mapping[str, Handler | Hub | Route]


class Server:
    """A rawws server on sockets that listen already, which it owns once `run` has begun.

    ``task_status`` of `serve` gives one; `stop` ends it in order.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        handler: Handler | Hub | Route,
        service: Service,
        *,
        tls: ssl_module.SSLContext | None = None,
        gate: Gate | None = None,
        fast_lane: bool = True,
        routes: Mapping[str, Route] | None = None,
    ) -> None:
        """For `serve`, which makes the ``service``."""
        self.listeners = tuple(listeners)
        self.limits = service.limits
        self._elsewhere = handler if isinstance(handler, Route) else Route(handler)
        self._routes = routes or {}
        self._service = service
        self._tls = tls
        self._gate = gate or Gate(None, None)
        self._fast_lane = fast_lane
        on_leave = None if self._gate.is_open else self._gate.leave
        self._endpoint = Endpoint(service.limits, on_leave, service.tracer)
        self._unseen = Endpoint(service.limits, on_leave, service.tracer, shows_frames=False)
        self._endpoints = (self._endpoint, self._unseen)
        service.admit = self._admit
        if any(hub.backplane is not None for hub in self._hubs):
            service.prepare = self._prepare
        self._accepting = trio.CancelScope()
        self._stop = trio.Event()
        service.scheme = "http" if tls is None else "https"
        service.origins_at = {path: route.origins for path, route in self._routes.items() if route.origins is not None}
        if self._gate.reads_requests:
            service.find_sender = self._gate.find_sender
        if not self._gate.is_open:
            service.renumber = self._gate.renumber

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "nowhere"
        return f"<Server on {where}, peers={self.peer_count}{', stopping' * self.stopping}>"

    def stop(self) -> None:
        """Ask `run` to come to an orderly end: no new connections, a close to every peer, a bounded wait.

        Another thread has to call it with ``trio.from_thread.run_sync``; a direct call raises `UsageError`.
        """
        check_in_trio("server.stop")
        self._stop.set()
        return not_awaited("server.stop() only begins to stop; rawws.serve returns when all is closed")

    @property
    def uses_tls(self) -> bool:
        return self._tls is not None

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def peer_count(self) -> int:
        """How many WebSockets and event streams are open, or closing."""
        return sum(endpoint.peer_count for endpoint in self._endpoints)

    @property
    def addresses(self) -> list[str]:
        """Where it listens: ``host:port``, or a Unix socket's path."""
        return [name_address(listener.getsockname()) for listener in self.listeners if listener.fileno() >= 0]

    @property
    def port(self) -> int:
        """The port of the first listener, which the system has chosen if it was asked to; 0 for a Unix socket."""
        address = self.listeners[0].getsockname()
        return int(address[1]) if isinstance(address, tuple) else 0

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called and the drain is over, or until cancelled, which ends it at once."""
        loop = current_loop()
        with contextlib.ExitStack() as stack:
            for listener in self.listeners:
                stack.callback(_close_listener, listener)
            for endpoint in self._endpoints:
                stack.callback(loop.drop_all, endpoint)
            self._service.tracer.on_change = partial(loop.show_frames, self._endpoint)
            self._service.tracer.list_open = self._list_open
            async with trio.open_nursery() as tasks:
                tasks.start_soon(self._accept_all, tasks)
                task_status.started(self)
                await self._stop.wait()
                self._accepting.cancel()
                self._service.stop()
                # Handlers, and requests that are being answered, may come to their end; then they are cancelled.
                tasks.cancel_scope.deadline = trio.current_time() + self.limits.drain_s
                await self._close_peers()
                for endpoint in self._endpoints:
                    await endpoint.wait_empty()
            if cut_off := self._service.cut_off:
                message = f"the drain of {self.limits.drain_s:g} s (--drain) ended before "
                message += "these requests were answered: "
                logs.line(logs.server, logging.WARNING, logs.SERVER, FAULT, message + name_some(cut_off))

    def _list_open(self, most: int) -> tuple[list[OpenConnection], int]:
        """Return the newest WebSockets and event streams that a tracer sees, and the number of the others."""
        peers = [  # the oldest first
            peer
            for peer in current_loop().peers.values()
            if peer.endpoint is self._endpoint
            or (peer.endpoint is self._unseen and isinstance(peer.session, EventStream))
        ]
        listed = [
            OpenConnection(peer.number, peer.remote_address, peer.path, peer.endpoint is self._endpoint)
            for peer in peers[-most:]
        ]
        return listed, len(peers) - len(listed)

    async def _close_peers(self) -> None:
        """Close every peer, spread over most of the drain, so that they don't all come back somewhere at once."""
        loop = current_loop()
        peers = [peer for endpoint in self._endpoints for peer in loop.peers_of(endpoint)]
        seconds = self.limits.drain_s * DRAIN_SHARE
        at_once = max(CLOSES_AT_ONCE, math.ceil(len(peers) * CLOSING_TICK_S / seconds) if seconds else len(peers))
        for first in range(0, len(peers), at_once):
            if first:
                await trio.sleep(CLOSING_TICK_S)
            for peer in peers[first : first + at_once]:
                loop.close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN)

    @trio.lowlevel.enable_ki_protection
    async def _accept_all(self, tasks: trio.Nursery) -> None:
        """Accept on every listener; each connection becomes a task of its own."""

        def take(connected: socket.socket, address: Address) -> None:
            tasks.start_soon(self._serve_connection, connected, address, tasks)

        with self._accepting:
            async with trio.open_nursery() as accepting:
                for listener in self.listeners:
                    accepting.start_soon(accept_connections, listener, take)
        for listener in self.listeners:
            _close_listener(listener)

    @trio.lowlevel.enable_ki_protection
    async def _serve_connection(self, connected: socket.socket, address: Address, tasks: trio.Nursery) -> None:
        loop = current_loop()
        number = next(loop.numbers if self._service.is_own is None else loop.provisional_numbers)
        transport = Transport(connected) if self._tls is None else TlsTransport(connected, self._tls)
        lives_on = False
        connection = HttpConnection(number, transport, self._service, address)
        try:
            if refusal := self._gate.enter(number, address):
                await turn_away(connection, refusal)
            elif isinstance(upgraded := await serve_http(connection), HandedOver):
                lives_on = self._hand_over(upgraded)
            elif upgraded is not None:
                lives_on = self._take_over(upgraded, tasks)
        except Exception:
            # Ours to mend, but not a reason to leave the others without a server.
            connection.announce()
            logs.http.exception("#%d ! an error in rawws itself; the connection is dropped", connection.number)
            loop.forget(transport)
        finally:
            if not lives_on:
                self._gate.leave(connection.number)

    def _hand_over(self, given: HandedOver) -> bool:
        """Hand a connection whose response goes on over to who makes that; False when it has ended instead."""
        peer = given.adopt(given.number, given.transport, self._unseen)
        if peer is not None and self.stopping:
            current_loop().close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN)
        return peer is not None

    @property
    def _hubs(self) -> list[Hub]:
        routes = (self._elsewhere, *self._routes.values())
        return [route.handler for route in routes if isinstance(route.handler, Hub)]

    async def _prepare(self, request: Request) -> Refusal | None:
        """Get the room of a path ready, which may be on other nodes too."""
        path = request.path or ""
        hub = self._routes.get(path, self._elsewhere).handler
        reading = read_request(request)
        return await hub.prepare(path, reading.since) if isinstance(hub, Hub) and isinstance(reading, Reading) else None

    def _admit(self, request: Request) -> tuple[str, Refusal | None]:
        """Say what a WebSocket does in the room of its path, if that is one, and why it can't be let in."""
        path = request.path or ""
        route = self._routes.get(path, self._elsewhere)
        refusal = None if route.refuse is None else route.refuse(request)
        if not isinstance(route.handler, Hub):
            return "", refusal
        if refusal := refusal or route.handler.admit(request):
            return "", refusal
        return route.handler.access(Door.WEBSOCKET, path).words, None

    def _take_over(self, upgraded: Upgraded, tasks: trio.Nursery) -> bool:
        """Hand a connection that has become a WebSocket over to the hub, or to a task of its own; False when it has
        ended instead."""
        route = self._routes.get(upgraded.handshake.path, self._elsewhere)
        handler = route.handler
        endpoint = self._endpoint if route.shows_frames else self._unseen
        if isinstance(handler, Hub):
            peer = handler.adopt(
                upgraded.number,
                upgraded.transport,
                upgraded.handshake,
                endpoint,
                request=upgraded.request,
                remote_address=upgraded.remote_address,
                user=upgraded.user,
                trailing_data=upgraded.trailing_data,
                fast_lane=self._fast_lane,
            )
            if peer is not None and self.stopping:
                current_loop().close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN)
            return peer is not None
        try:
            websocket = accept_upgraded(upgraded, endpoint, fast_lane=self._fast_lane)
        except OSError as error:
            told = f"can't be watched: {error.strerror or error}"
            logs.line(logs.hub, logging.ERROR, upgraded.number, FAULT, told)
            return False
        if self.stopping:
            websocket.close_because(Cause.SHUTDOWN, 1001, SHUTTING_DOWN)
        tasks.start_soon(self._handle, handler, websocket)
        return True

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    async def _handle(handler: Handler, websocket: WebSocket) -> None:
        """Run the application's handler for one connection, and close that when it returns."""
        try:
            await call_handler(handler, websocket)
        except BaseException as error:
            if not is_application_error(error):
                raise
            # Most handlers end so, when their peer has gone: it is no error, and has been logged.
            if not _is_about_closing(error):
                log_failure(logs.hub, websocket.id, "the handler failed; its connection is closed with 1011", error)
                websocket.close_because(Cause.ERROR, 1011, "internal error")
        await websocket.finish()


def name_some(paths: Sequence[str]) -> str:
    named = ", ".join(shorten(path) for path in paths[:MOST_NAMED])
    return f"{named} and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else named


def accept_upgraded(upgraded: Upgraded, endpoint: Endpoint, *, fast_lane: bool) -> WebSocket:
    """Return the WebSocket that a connection has become. Raises OSError when the system can't watch it."""
    return WebSocket(
        upgraded.transport,
        Role.SERVER,
        number=upgraded.number,
        endpoint=endpoint,
        request=upgraded.request,
        response=upgraded.response or upgraded.handshake.response,
        subprotocol=upgraded.handshake.subprotocol,
        agreement=upgraded.handshake.deflate,
        remote_address=upgraded.remote_address,
        user=upgraded.user,
        fast_lane=fast_lane,
        trailing_data=upgraded.trailing_data,
    )


def _is_about_closing(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        _, others = error.split(ConnectionClosed)
        return others is None or not is_application_error(others)
    return isinstance(error, ConnectionClosed)


def _close_listener(listener: socket.socket) -> None:
    if listener.fileno() >= 0:
        trio.lowlevel.notify_closing(listener)
        listener.close()
