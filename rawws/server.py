"""Listeners, a task for each connection in its HTTP phase, the handlers of an application, and an orderly end."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote

import trio

from rawws import logs, web
from rawws.accepting import Address, accept_connections
from rawws.answering import HandedOver, serve_http, turn_away
from rawws.asgi_app import AsgiApp
from rawws.asgi_endpoints import may_match_below
from rawws.callables import check_async, check_function
from rawws.doors import Door
from rawws.errors import Cause, ConnectionClosed, Refusal, UsageError
from rawws.exchange import Exchange
from rawws.failures import call_handler, is_failure, log_failure
from rawws.gate import Gate
from rawws.http_connection import HttpConnection
from rawws.hub import Hub
from rawws.limits import KIB, MIB, NO_LIMIT, Limits, check_names, check_number
from rawws.loop import current_loop
from rawws.peer import Endpoint
from rawws.room_app import RoomApp
from rawws.runtime import check_in_trio, check_runs_on_trio, not_awaited
from rawws.service import Authenticate, ProcessRequest, ProcessResponse, SelectSubprotocol, Service
from rawws.tracing import OpenConnection, Tracer
from rawws.transport import (
    TlsTransport,
    Transport,
    is_loopback,
    listens,
    name_address,
    open_listeners,
    open_unix_listener,
)
from rawws.upgrade import Upgraded
from rawws.websocket import WebSocket
from rawws.websocket_internals import close_because, finish
from rawws.wire.handshake import Origins
from rawws.wire.hosts import Hosts
from rawws.wire.messages import Request, Response, is_token
from rawws.wire.reading import Reading, read_request
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, STATE, shorten

# A stopping server closes so many peers at a time, or more if there are many; and is done with that when so much of
# the drain is over. A hundred a second come back anywhere without being felt (a guess).
CLOSES_AT_ONCE = 5
CLOSING_TICK_S = 0.05
DRAIN_SHARE = 0.8

# In place of a list of origins: pages of the server's own host only.
SAME_HOST = Origins()

_AS_IN_TARGETS = "/%!$&'()*+,;=:@{}<>"  # RFC 3986 §3.3, and the brackets in which frameworks have parameters
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
                logs.line(logs.server, logging.WARNING, logs.SERVER, FAULT, message + _name_some(cut_off))

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
        """Close every peer, spread over most of the drain, so that they don't all come back somewhere at once."""
        loop = current_loop()
        peers = [peer for endpoint in self._endpoints for peer in loop.peers_of(endpoint)]
        seconds = self.limits.drain_s * DRAIN_SHARE
        at_once = max(CLOSES_AT_ONCE, math.ceil(len(peers) * CLOSING_TICK_S / seconds) if seconds else len(peers))
        for first in range(0, len(peers), at_once):
            if first:
                await trio.sleep(CLOSING_TICK_S)
            for peer in peers[first : first + at_once]:
                loop.close(peer, 1001, "the server is shutting down", Cause.SHUTDOWN)

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
            current_loop().close(peer, 1001, "the server is shutting down", Cause.SHUTDOWN)
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
                current_loop().close(peer, 1001, "the server is shutting down", Cause.SHUTDOWN)
            return peer is not None
        try:
            websocket = accept_upgraded(upgraded, endpoint, fast_lane=self._fast_lane)
        except OSError as error:
            told = f"can't be watched: {error.strerror or error}"
            logs.line(logs.hub, logging.ERROR, upgraded.number, FAULT, told)
            return False
        if self.stopping:
            close_because(websocket, Cause.SHUTDOWN, 1001, "the server is shutting down")
        tasks.start_soon(self._handle, handler, websocket)
        return True

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    async def _handle(handler: Handler, websocket: WebSocket) -> None:
        """Run the application's handler for one connection, and close that when it returns."""
        try:
            await call_handler(handler, websocket)
        except BaseException as error:
            if not is_failure(error):
                raise
            # Most handlers end so, when their peer has gone: it is no error, and has been logged.
            if not _is_about_closing(error):
                log_failure(logs.hub, websocket.id, "the handler failed; its connection is closed with 1011", error)
                close_because(websocket, Cause.ERROR, 1011, "internal error")
        await finish(websocket)


def _as_route(path: str, route: Handler | Hub | Route) -> Route:
    if not path.startswith("/"):
        raise UsageError(f"{path!r} can't be the path of a route; it begins with a slash, such as /admin")
    route = route if isinstance(route, Route) else Route(route)
    _check_handler(f"the handler at {path}", route.handler)
    return route


def _check_handler(what: str, handler: object) -> None:
    if isinstance(handler, Hub):
        return
    if isinstance(handler, type) and issubclass(handler, Hub):
        raise UsageError(f"{what} is the class {handler.__name__} itself; give a hub, such as {handler.__name__}()")
    check_async(what, handler, "ws", hints={2: "; the path of the request is ws.path"})


def _refuse_outside_rooms(hub: Hub, http: object, routes: Mapping[str, Route]) -> Route:
    """Return the route of WebSockets that have none of their own: at the paths of rooms they are the hub's.

    Raises `UsageError` when the application has WebSocket endpoints of its own there. Others are named in the log.
    """
    application = web.find_application(http)
    paths = hub.paths(beside_application=application is not None)
    if isinstance(application, AsgiApp):
        seen = [path for path in application.websocket_paths() if path not in routes]
        if claimed := next((path for path in seen if quote(path, safe=_AS_IN_TARGETS) in paths), None):
            raise UsageError(
                f"the application has a WebSocket endpoint at {shorten(claimed)}, where rawws has its rooms ({paths}); "
                "put the rooms elsewhere, with --rooms, or Hub(rooms_at=...)"
            )
        if seen:
            message = f"the application's WebSocket endpoints aren't served: {_name_some(seen)}; an upgrade there gets "
            message += f"404, since rooms are {paths}"
            if shared := [path for path in seen if may_match_below(path, paths.root)]:
                message += f"; where {_name_some(shared)} matches a room's path, rawws serves the room without asking "
                message += "the application"
            logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, message)
    return Route(hub, refuse=lambda request: paths.refuse(request.path or ""))


def _warn_of_open_publishing(hub: Hub, http: object) -> None:
    """Log a warning if there is a token for POSTs, and WebSockets may publish without it."""
    if hub.peers_publish and any(isinstance(app, RoomApp) and app.needs_token(hub) for app in web.apps_of(http)):
        message = "the publish token is asked of POSTs only, and every WebSocket publishes in its room without it; add "
        message += "--read-only, or Hub(read_only=True), to publish by POST alone"
        logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, message)


def _name_some(paths: Sequence[str]) -> str:
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
        return others is None or not is_failure(others)
    return isinstance(error, ConnectionClosed)


def _close_listener(listener: socket.socket) -> None:
    if listener.fileno() >= 0:
        trio.lowlevel.notify_closing(listener)
        listener.close()


def make_service(
    *,
    limits: Limits,
    http: web.HttpApp | web.Answer | None = None,
    origins: Origins | Iterable[str] | None = SAME_HOST,
    authenticate: Authenticate | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    compression: str | None = "deflate",
    server_header: str | None = None,
    tracer: Tracer | None = None,
) -> Service:
    """Return what `serve` and `rawws.attach` do with a request. Raises `UsageError` for what can't be meant."""
    if compression not in ("deflate", None):
        raise UsageError(f"there is no compression {compression!r}; give 'deflate', or None for none")
    check_names("subprotocols", subprotocols)
    for name in subprotocols or ():
        if not isinstance(name, str) or not is_token(name):
            raise UsageError(f"{name!r} can't be a subprotocol: it is to be a token, such as chat.v1 (RFC 6455 §4.1)")
    if server_header is not None:
        Response(200, b"", {"Server": server_header})  # raises for what can't be a header's value
    origins = Origins.of(origins)
    for what, hook, arguments in (
        ("authenticate", authenticate, ("request",)),
        ("process_request", process_request, ("request",)),
        ("process_response", process_response, ("request", "response")),
        ("select_subprotocol", select_subprotocol, ("request", "offered")),
    ):
        if hook is not None:
            check_function(what, hook, *arguments)
    app: Callable[[Exchange], Awaitable[None]]
    if http is None:
        app = web.UpgradeOnlyApp()
    elif isinstance(http, web.HttpApp):
        app = http.serve_exchange
        limits = replace(limits, max_body_bytes=http.max_body_bytes(limits))
    else:
        app = web.CallableApp(http)
    return Service(
        app=app,
        is_own=http.is_own if isinstance(http, web.InFront) else None,
        limits=limits,
        origins=origins,
        compression=compression is not None,
        subprotocols=tuple(subprotocols or ()),
        select_subprotocol=select_subprotocol,
        authenticate=authenticate,
        process_request=process_request,
        process_response=process_response,
        server_header=server_header,
        tracer=tracer or Tracer(),
    )


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler | Hub,
    port: int | None = None,
    *,
    host: str | None = None,
    listeners: Sequence[socket.socket | trio.SocketListener] | None = None,
    unix: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
    http: web.HttpApp | web.Answer | None = None,
    origins: Origins | Iterable[str] | None = SAME_HOST,
    hosts: Sequence[str] | None = None,
    authenticate: Authenticate | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    compression: str | None = "deflate",
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: int | None = MIB,
    max_queue: int | None = 16,
    rate: float | None = None,
    max_connections: int | None = None,
    max_connections_per_ip: int | None = None,
    max_memory: int | None = None,
    max_head: int = 16 * KIB,
    max_headers: int = 100,
    max_target: int = 8 * KIB,
    max_body: int = 64 * KIB,
    keep_alive: float | None = 75,
    trusted_proxies: Sequence[str] | None = None,
    server_header: str | None = None,
    drain: float | None = 5,
    fast_lane: bool = True,
    routes: Routes | None = None,
    tracer: Tracer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets on a port until cancelled, or until ``server.stop()`` has closed every connection in order.

    ``await nursery.start(rawws.serve, handler, port)`` returns the `Server` when it listens. Times are in seconds,
    sizes in bytes; None switches a limit off, except those of a request's head and body.

    ``handler`` is an async function that is called with each `WebSocket`, in a task of its own; the connection is
    closed with 1000 when it returns, and with 1011 when it raises. Or it is a `Hub`, which relays at the paths that are
    rooms: its ``rooms_at``, or else the paths below ``/room/`` beside an application for HTTP, or else every path. A
    WebSocket for another path is refused with 404. ``routes`` has others for some paths: ``{"/admin": admin}``.

    Where it listens:

    - ``port`` and ``host``: a name or address; None is every interface. Port 0 lets the system choose.
    - ``listeners``: sockets that listen already, which are closed at the end; or ``unix``, a path for a Unix socket.
    - ``ssl``: speak TLS with this context.

    What it answers:

    - ``http``: what answers requests that don't upgrade: an async function that takes a `Request` (its body read,
      up to ``max_body``) and returns a `Response`, text, or None for 404; or ``rawws.asgi(app)``. By default they are
      told to upgrade.
    - ``origins``: which web pages may connect: those of the same host, and those listed; None for any.
    - ``hosts``: names by which it may be called (``Host``), beside addresses and localhost; ``["*"]`` for any. Without
      any it is only called so if only this machine can reach it, and by any name otherwise (DNS rebinding).
    - ``process_request(request)`` is asked first of all, and may answer with a `Response` instead.
    - ``authenticate(request)`` is asked before the 101, and may refuse with a `Response` (401, 403, 429); anything
      else that it returns is ``ws.user``, and ``member.user`` of a room's `Member`. For a room of a hub,
      ``request.action`` is the access that the client needs: ``read``, ``write`` or ``read write``. These two may be
      async; they have ``open_timeout`` to decide.
    - ``subprotocols`` are those that are spoken here, the favourite first; or ``select_subprotocol(request,
      offered)`` chooses one of the offered, or None.
    - ``process_response(request, response)`` sees the 101, and may return another response.
    - ``compression="deflate"`` agrees to permessage-deflate where a client offers it.
    - ``server_header`` is the value of the Server field; by default there is none.

    Its limits; a time or a rate of None, 0 or infinity is no limit (but ``drain=0`` does not wait):

    - ``open_timeout``: for the opening handshake, and for each further request. ``keep_alive``: between two requests,
      and between two pieces of a body that ``rawws.asgi(app)`` reads as it comes, which may take any time in all.
    - ``max_head``, ``max_headers``, ``max_target``: of a request's head in bytes, its fields, and its target in bytes;
      else 431 and 414. ``max_body``: of a body that ``http`` gets, in bytes, else 413.
    - ``ping_interval``, ``ping_timeout``: a ping so often, and so long for any byte in answer, else 1011. A peer that a
      room with the policy ``"wait"`` waits for has ``ping_timeout`` to take any byte, else 1013.
    - ``close_timeout``: for the peer's half of the closing handshake.
    - ``max_size``: of a message, else 1009. ``max_queue``: messages that wait for ``recv`` before the peer is held
      back.
    - ``rate``: messages in a second that a peer may send into a hub's room; more are read later.
    - ``max_connections``, ``max_connections_per_ip``: else 503 and 429. Of IPv6 a /64 counts as one address. Behind a
      proxy, list it in ``trusted_proxies``, so that its ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed, or
      else its ``Forwarded`` (RFC 7239).
    - ``max_memory``: the memory that connections, rooms and requests may take together, in all servers of this
      `trio.run`. Beyond it, the histories of empty rooms are dropped, and then whatever is largest: another history, a
      peer (closed with 1013), or a request (503).
    - ``drain``: how long a stopping server waits for its peers, their handlers and the requests that are being
      answered; when there are many peers, their closes are spread over it. An application of ``rawws.asgi`` is notified
      by ``http.disconnect``, and by an OSError from ``send``: of an event stream at once, of another response when half
      of the drain is over if it waits for a disconnect, and of a stream of unknown length when four fifths are over.

    ``fast_lane=False`` reads and writes each frame through wsproto, for study. ``tracer`` is told every head and
    frame, such as ``Tracer()`` with a ``Recording("file")`` (`rawws.tracing`).

    Raises `ListenError` when it can't listen, and `UsageError` for arguments that can't be used.
    """
    check_runs_on_trio("rawws.serve", "rawws.serve, handler, 8080")
    limits = Limits(
        max_header_bytes=max_head,
        max_headers=max_headers,
        max_target_bytes=max_target,
        max_body_bytes=max_body,
        keep_alive_timeout_s=keep_alive or 0.0,
        max_message_bytes=NO_LIMIT if max_size is None else max_size,
        max_queue=NO_LIMIT if max_queue is None else max_queue,
        header_timeout_s=open_timeout or 0.0,
        messages_per_s=rate or 0.0,
        ping_interval_s=ping_interval or 0.0,
        ping_timeout_s=ping_timeout or 0.0,
        close_timeout_s=close_timeout or 0.0,
        drain_s=NO_LIMIT if drain is None else drain,
    )
    if max_memory is not None:
        check_number("max_memory", max_memory, least=1)
    check_names("subprotocols", subprotocols)
    check_names("hosts", hosts)
    _check_handler("the handler", handler)
    if port is not None and (not isinstance(port, int) or not 0 <= port <= 0xFFFF):
        raise UsageError(f"port can't be {port!r}; give a number from 0 to 65535, and a name or an address as host")
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise UsageError(f"ssl can't be {ssl!r}; give an ssl.SSLContext, in which a certificate is loaded")
    if routes is not None and not isinstance(routes, Mapping):
        raise UsageError("routes is a dict of handlers by path, such as {'/admin': admin}")
    service = make_service(
        limits=limits,
        http=http,
        origins=origins,
        authenticate=authenticate,
        subprotocols=[*(subprotocols or ()), *(handler.subprotocols if isinstance(handler, Hub) else ())],
        select_subprotocol=select_subprotocol,
        process_request=process_request,
        process_response=process_response,
        compression=compression,
        server_header=server_header,
        tracer=tracer,
    )
    gate = Gate(max_connections, max_connections_per_ip, trusted_proxies or ())
    memory = {} if max_memory is None else {"--max-memory": max_memory}
    rooms = handler.limits_by_flag() if isinstance(handler, Hub) else {}
    service.limits_by_flag = {**limits.by_flag(), **gate.limits_by_flag(), **memory, **rooms}
    if max_memory is not None:
        current_loop().limit_memory(max_memory)
    checked_routes = {path: _as_route(path, route) for path, route in (routes or {}).items()}
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(http, web.HttpApp):
            await stack.enter_async_context(http.lifespan())
        # Only now, since an application may add endpoints as it starts.
        elsewhere = _refuse_outside_rooms(handler, http, checked_routes) if isinstance(handler, Hub) else Route(handler)
        if isinstance(handler, Hub) and authenticate is None and process_request is None:
            _warn_of_open_publishing(handler, http)
        opened = await _open(port, host, listeners, unix)
        if hosts or all(map(is_loopback, opened)):
            service.hosts = Hosts(hosts or ())
        server = Server(opened, elsewhere, service, tls=ssl, gate=gate, fast_lane=fast_lane, routes=checked_routes)
        await server.run(task_status=task_status)


async def _open(
    port: int | None,
    host: str | None,
    listeners: Sequence[socket.socket | trio.SocketListener] | None,
    unix: str | None,
) -> list[socket.socket]:
    given = [name for name, value in (("port", port), ("listeners", listeners), ("unix", unix)) if value is not None]
    if len(given) != 1:
        told = f"not {' and '.join(given)} together" if given else "one of them"
        raise UsageError(f"say where to listen: port, listeners or unix; {told}")
    if unix is not None:
        return [open_unix_listener(unix)]
    if listeners is None:
        assert port is not None
        return await open_listeners(host or "", port)
    opened = []
    for listener in listeners:
        if isinstance(listener, trio.SocketListener):
            fd: int = listener.socket.detach()
            listener = socket.socket(fileno=fd)
        if not listens(listener):
            raise UsageError(f"{listener!r} can't be a listener: it has to be a stream socket that listens already")
        listener.setblocking(False)
        opened.append(listener)
    return opened
