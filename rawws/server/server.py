"""The running server: its listeners, a task for each connection in its HTTP phase, the handlers, and an orderly end."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, cast

import trio

from rawws import logs
from rawws.errors import SHUTTING_DOWN, Cause, ConnectionClosed
from rawws.groups.protocol import names_group
from rawws.hooks import call_handler, is_application_error, log_failure
from rawws.net.accept import Address, accept_connections
from rawws.net.addresses import format_address
from rawws.net.tls_transport import TlsTransport
from rawws.net.transport import Transport
from rawws.relay.leases import EXPIRED
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer, PeerGroup
from rawws.runtime import check_in_trio, not_awaited
from rawws.server.admission import Admission
from rawws.server.config import ServerConfig, ServerFigures, ServerState
from rawws.server.connection import HttpConnection
from rawws.server.http_phase import HandedOver, reject, serve_http
from rawws.server.routes import Area, Handler, Relay, Route, RouteTable
from rawws.server.upgrade import Upgraded
from rawws.tracing import OpenConnection
from rawws.websocket import WebSocket
from rawws.websocket.base import WebSocketBase
from rawws.websocket.callbacks import Callbacks, CallbackWebSocket
from rawws.websocket.internals import close_because, finish, peer_of
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, shorten

# A stopping server closes this many peers in each tick. If there are many peers, it closes more, so that all are closed
# when this share of the drain is over. A hundred clients that reconnect in a second are no load for a server (a guess).
CLOSES_AT_ONCE = 5
CLOSING_TICK_S = 0.05
DRAIN_SHARE = 0.8

Held = TypeVar("Held", bound=WebSocketBase)  # a program's object for a connection

MOST_NAMED = 5  # the most endpoints of an application in one log line


class Server:
    """A server on listening sockets, which it owns and closes at its end.

    A program gets it from `serve`: ``server = await nursery.start(rawws.serve, handler, port)``.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        handler: Handler | Relay | Callbacks | Route,
        config: ServerConfig,
        *,
        tls: ssl_module.SSLContext | None = None,
        admission: Admission | None = None,
        routes: Mapping[str, Route] | None = None,
        areas: Sequence[Area] = (),
    ) -> None:
        """For `serve`, which makes the ``config``."""
        self.listeners = tuple(listeners)
        self.limits = config.limits
        self._routes = RouteTable(handler if isinstance(handler, Route) else Route(handler), routes or {}, areas)
        self._config = config
        self._tls = tls
        self._admission = admission or Admission(None, None)
        counts = not self._admission.is_open
        on_leave = self._admission.leave if counts else None
        self._endpoint = PeerGroup(config.limits, on_leave, config.tracer)
        self._unseen = PeerGroup(config.limits, on_leave, config.tracer, shows_frames=False)
        self._endpoints = (self._endpoint, self._unseen)
        self._accepting = trio.CancelScope()
        self._stop = trio.Event()
        self._tasks: trio.Nursery | None = None  # while it runs
        self._raised: BaseException | None = None  # by a callback, to end the program
        self._state = ServerState(
            config,
            scheme="http" if tls is None else "https",
            origins_at=self._routes.origins_at,
            find_sender=self._admission.find_sender if self._admission.uses_forwarded_for else None,
            renumber=self._admission.renumber if counts else None,
            admit=self._routes.admit,
            find_application=self._routes.find_application,
            peers_publish=self._routes.peers_publish,
            prepare=self._routes.prepare,
        )
        self.figures = ServerFigures(self._state.handshakes, config.limits_by_flag)

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "nowhere"
        return f"<Server on {where}, peers={self.peer_count}{', stopping' * self.stopping}>"

    def stop(self) -> None:
        """End in order: accept no more connections, close every peer, and wait for at most the ``drain``.

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
        """Whether `stop` has been called."""
        return self._stop.is_set()

    @property
    def peer_count(self) -> int:
        """The number of WebSockets and event streams that are open or closing."""
        return sum(endpoint.peer_count for endpoint in self._endpoints)

    @property
    def addresses(self) -> list[str]:
        """The addresses on which it listens: ``host:port``, or the path of a Unix socket."""
        return [format_address(listener.getsockname()) for listener in self.listeners if listener.fileno() >= 0]

    @property
    def port(self) -> int:
        """The port of the first listener, even if the system chose it; 0 for a Unix socket."""
        address = self.listeners[0].getsockname()
        return int(address[1]) if isinstance(address, tuple) else 0

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called and the drain is over, or until cancelled, which ends it at once."""
        loop = current_loop()
        with contextlib.ExitStack() as stack:
            for listener in self.listeners:
                stack.callback(_close_listener, listener)
            stack.callback(loop.calls.make_all)  # the last thing that the program learns of its connections
            for endpoint in self._endpoints:
                stack.callback(loop.drop_all, endpoint)
            self._config.tracer.on_change = partial(loop.show_frames, self._endpoint)
            self._config.tracer.list_open = self._list_open
            loop.memory.extra_usage.add(self._config.tracer.held_bytes)
            stack.callback(loop.memory.extra_usage.discard, self._config.tracer.held_bytes)
            for endpoint in self._endpoints:
                endpoint.on_program_end = self._end_by
            async with self._state.resting.running(), trio.open_nursery() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._accept_all, tasks)
                task_status.started(self)
                await self._stop.wait()
                self._accepting.cancel()
                self._state.stop()
                # Handlers and pending requests have this long to end, and are then cancelled.
                tasks.cancel_scope.deadline = trio.current_time() + self.limits.drain_s
                await self._close_peers()
                for endpoint in self._endpoints:
                    await endpoint.wait_empty()
            self._tasks = None
            if self._raised is not None:
                raise self._raised
            if cut_off := self._state.cut_off:
                message = f"the drain of {self.limits.drain_s:g} s (--drain) ended before "
                message += "these requests were answered: "
                logs.server_line(logging.WARNING, FAULT, message + name_some(cut_off))

    def _end_by(self, error: BaseException) -> bool:
        """End at once, and raise an exception of a callback that ends the program; False if it is too late for that.

        A further one, of another connection, says what is being done already.
        """
        if self._raised is not None:
            return True
        if self._tasks is None:
            return False
        self._raised = error
        self._tasks.cancel_scope.cancel()
        return True

    def _list_open(self, most: int) -> tuple[list[OpenConnection], int]:
        """Return the newest WebSockets and event streams that a tracer sees, and the number of the others."""
        peers = [  # the oldest first
            peer
            for peer in current_loop().peers.values()
            if peer.endpoint is self._endpoint or (peer.endpoint is self._unseen and peer.encoding.is_one_way)
        ]
        listed = [
            OpenConnection(peer.number, peer.remote_address, peer.path, peer.endpoint is self._endpoint)
            for peer in peers[-most:]
        ]
        return listed, len(peers) - len(listed)

    async def _close_peers(self) -> None:
        """Close every peer, spread over most of the drain, so that they don't all reconnect at once."""
        loop = current_loop()
        peers = [peer for endpoint in self._endpoints for peer in loop.peers_of(endpoint)]
        seconds = self.limits.drain_s * DRAIN_SHARE
        at_once = max(CLOSES_AT_ONCE, math.ceil(len(peers) * CLOSING_TICK_S / seconds) if seconds else len(peers))
        for first in range(0, len(peers), at_once):
            if first:
                await trio.sleep(CLOSING_TICK_S)
            for peer in peers[first : first + at_once]:
                _close_for_shutdown(peer)

    @trio.lowlevel.enable_ki_protection
    async def _accept_all(self, tasks: trio.Nursery) -> None:
        """Accept on every listener; each connection becomes a task of its own."""

        def start(connected: socket.socket, address: Address) -> None:
            tasks.start_soon(self._serve_connection, connected, address, tasks)

        with self._accepting:
            async with trio.open_nursery() as accepting:
                for listener in self.listeners:
                    accepting.start_soon(accept_connections, listener, start)
        for listener in self.listeners:
            _close_listener(listener)

    @trio.lowlevel.enable_ki_protection
    async def _serve_connection(self, connected: socket.socket, address: Address, tasks: trio.Nursery) -> None:
        loop = current_loop()
        number = next(loop.numbers if self._config.is_own is None else loop.provisional_numbers)
        transport = Transport(connected) if self._tls is None else TlsTransport(connected, self._tls)
        lives_on = False
        connection = HttpConnection(number, transport, self._state, address)
        try:
            if refusal := self._admission.enter(number, address):
                await reject(connection, refusal)
            elif isinstance(upgraded := await serve_http(connection), HandedOver):
                peer = upgraded.adopt(upgraded.number, upgraded.transport, self._unseen)
                lives_on = self._start_peer(peer)
            elif upgraded is not None:
                lives_on = self._serve_websocket(upgraded, tasks)
        except Exception:
            # This is a bug in rawws. The other connections keep their server.
            connection.announce()
            logs.http.exception("#%d ! an error in rawws itself; the connection is dropped", connection.number)
            loop.forget(transport)
        finally:
            if not lives_on:
                self._admission.leave(connection.number)

    def _serve_websocket(self, upgraded: Upgraded, tasks: trio.Nursery) -> bool:
        """Hand a WebSocket over to the route's relay or callbacks, or to a handler in a task of its own.

        Returns False when the connection has ended instead.
        """
        route = self._routes.at(upgraded.request.path)
        endpoint = self._endpoint if route.shows_frames else self._unseen
        callbacks = route.callbacks
        if route.relay is not None:
            if not names_group(upgraded.request.query):
                return self._relay(route.relay, upgraded, endpoint)
            callbacks = route.relay.queues.callbacks
        try:
            make = WebSocket if callbacks is None else partial(CallbackWebSocket, callbacks)
            websocket = accept_upgraded(upgraded, endpoint, make, fast_lane=self._config.fast_lane)
        except OSError as error:
            message = f"can't be watched: {error.strerror or error}"
            logs.line(logs.hub, logging.ERROR, upgraded.number, FAULT, message)
            if upgraded.acceptance is not None:
                upgraded.acceptance.abandon()
            return False
        if self.stopping:
            close_because(websocket, Cause.SHUTDOWN, 1001, SHUTTING_DOWN)
        if isinstance(websocket, WebSocket):
            # The route has no relay and no callbacks, so it has a handler, or an application that has accepted.
            handler = cast(Handler, route.handler) if upgraded.acceptance is None else upgraded.acceptance.serve
            tasks.start_soon(self._handle, handler, websocket)
        return True

    def _relay(self, relay: Relay, upgraded: Upgraded, endpoint: PeerGroup) -> bool:
        peer = relay.adopt(
            upgraded.number,
            upgraded.transport,
            upgraded.handshake,
            endpoint,
            request=upgraded.request,
            remote_address=upgraded.remote_address,
            admitted=upgraded.admitted,
            trailing_data=upgraded.trailing_data,
            fast_lane=self._config.fast_lane,
        )
        return self._start_peer(peer)

    def _start_peer(self, peer: Peer | None) -> bool:
        """Close a new peer at once if the server is stopping. Returns whether there is a peer at all."""
        if peer is not None and self.stopping:
            _close_for_shutdown(peer)
        return peer is not None

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    async def _handle(handler: Handler, websocket: WebSocket) -> None:
        """Run the application's handler for one connection, and close the connection when it returns."""
        try:
            await call_handler(handler, websocket)
        except BaseException as error:
            if not is_application_error(error):
                raise
            # Most handlers end like this when their peer has gone. It is no error, and has been logged.
            if not _is_about_closing(error):
                log_failure(logs.hub, websocket.id, "the handler failed; its connection is closed with 1011", error)
                close_because(websocket, Cause.ERROR, 1011, "internal error")
        await finish(websocket)


def name_some(paths: Sequence[str]) -> str:
    """Return the first of the paths for a log line, and the number of the others."""
    named = ", ".join(shorten(path) for path in paths[:MOST_NAMED])
    return f"{named} and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else named


def accept_upgraded(upgraded: Upgraded, endpoint: PeerGroup, make: Callable[..., Held], *, fast_lane: bool) -> Held:
    """Return the WebSocket that a connection has become. Raises OSError when the system can't watch it."""
    websocket = make(
        upgraded.transport,
        Role.SERVER,
        number=upgraded.number,
        endpoint=endpoint,
        request=upgraded.request,
        response=upgraded.response or upgraded.handshake.response,
        subprotocol=upgraded.handshake.subprotocol,
        agreement=upgraded.handshake.deflate,
        remote_address=upgraded.remote_address,
        user=upgraded.admitted.user,
        fast_lane=fast_lane,
        trailing_data=upgraded.trailing_data,
    )
    if upgraded.admitted.ends_at != math.inf:
        current_loop().leases.add(peer_of(websocket), upgraded.admitted.ends_at, EXPIRED)
    return websocket


def _is_about_closing(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        _, others = error.split(ConnectionClosed)
        return others is None or not is_application_error(others)
    return isinstance(error, ConnectionClosed)


def _close_for_shutdown(peer: Peer) -> None:
    current_loop().close(peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN)


def _close_listener(listener: socket.socket) -> None:
    if listener.fileno() >= 0:
        trio.lowlevel.notify_closing(listener)
        listener.close()
