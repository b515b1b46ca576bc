"""`serve`: what a program asks of a server, checked, and made into a `Server` that runs."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl as ssl_module
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import trio

from rawws import logs, web
from rawws.apps import HttpApp, apps_of
from rawws.asgi_app import AsgiApp
from rawws.asgi_endpoints import may_match_below
from rawws.callables import check_async
from rawws.errors import UsageError
from rawws.gate import Admission
from rawws.handshake_options import SAME_HOST, HandshakeOptions
from rawws.hub import Hub
from rawws.limits import check_names
from rawws.loop import current_loop
from rawws.options import SERVER, ServerOptions
from rawws.room_app import RoomApp
from rawws.routes import Handler, Relay, Route, Routes
from rawws.runtime import check_runs_on_trio
from rawws.server_object import Server, name_some
from rawws.service import Authenticate, ProcessRequest, ProcessResponse, SelectSubprotocol
from rawws.tracing import Tracer
from rawws.transport import (
    is_loopback,
    listens,
    open_listeners,
    open_unix_listener,
)
from rawws.wire.handshake import Origins
from rawws.wire.hosts import Hosts
from rawws.wire.trace import STATE, shorten

_AS_IN_TARGETS = "/%!$&'()*+,;=:@{}<>"  # RFC 3986 §3.3, and the brackets in which frameworks have parameters


def _check_place(port: object, ssl: object) -> None:
    """Raises `UsageError` for what can't be a port or settings of TLS."""
    if port is not None and (not isinstance(port, int) or not 0 <= port <= 0xFFFF):
        raise UsageError(f"port can't be {port!r}; give a number from 0 to 65535, and a name or an address as host")
    if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
        raise UsageError(f"ssl can't be {ssl!r}; give an ssl.SSLContext, in which a certificate is loaded")


def _check_routes(routes: Routes | None) -> dict[str, Route]:
    """Return the routes by path. Raises `UsageError` for what can't be one."""
    if routes is not None and not isinstance(routes, Mapping):
        raise UsageError("routes is a dict of handlers by path, such as {'/admin': admin}")
    return {path: _as_route(path, route) for path, route in (routes or {}).items()}


def _as_route(path: str, route: Handler | Relay | Route) -> Route:
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
            message = f"the application's WebSocket endpoints aren't served: {name_some(seen)}; an upgrade there gets "
            message += f"404, since rooms are {paths}"
            if shared := [path for path in seen if may_match_below(path, paths.root)]:
                message += f"; where {name_some(shared)} matches a room's path, rawws serves the room without asking "
                message += "the application"
            logs.server_line(logging.WARNING, STATE, message)
    return Route(hub, refuse=lambda request: paths.refuse(request.path or ""))


def _warn_of_open_publishing(hub: Hub, http: object) -> None:
    """Log a warning if there is a token for POSTs, and WebSockets may publish without it."""
    if hub.peers_publish and any(isinstance(app, RoomApp) and app.needs_token(hub) for app in apps_of(http)):
        message = "the publish token is asked of POSTs only, and every WebSocket publishes in its room without it; add "
        message += "--read-only, or Hub(read_only=True), to publish by POST alone"
        logs.server_line(logging.WARNING, STATE, message)


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler | Hub,
    port: int | None = None,
    *,
    host: str | None = None,
    listeners: Sequence[socket.socket | trio.SocketListener] | None = None,
    unix: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
    http: HttpApp | web.Answer | None = None,
    origins: Origins | Iterable[str] | None = SAME_HOST,
    hosts: Sequence[str] | None = None,
    authenticate: Authenticate | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    compression: str | None = SERVER.compression,
    open_timeout: float | None = SERVER.open_timeout,
    ping_interval: float | None = SERVER.ping_interval,
    ping_timeout: float | None = SERVER.ping_timeout,
    close_timeout: float | None = SERVER.close_timeout,
    max_size: int | None = SERVER.max_size,
    max_queue: int | None = SERVER.max_queue,
    rate: float | None = SERVER.rate,
    max_connections: int | None = SERVER.max_connections,
    max_connections_per_ip: int | None = SERVER.max_connections_per_ip,
    max_memory: int | None = SERVER.max_memory,
    max_head: int = SERVER.max_head,
    max_headers: int = SERVER.max_headers,
    max_target: int = SERVER.max_target,
    max_body: int = SERVER.max_body,
    keep_alive: float | None = SERVER.keep_alive,
    trusted_proxies: Sequence[str] | None = None,
    server_header: str | None = None,
    drain: float | None = SERVER.drain,
    fast_lane: bool = SERVER.fast_lane,
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
    options = ServerOptions(
        compression=compression,
        open_timeout=open_timeout,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
        max_size=max_size,
        max_queue=max_queue,
        rate=rate,
        max_connections=max_connections,
        max_connections_per_ip=max_connections_per_ip,
        max_memory=max_memory,
        max_head=max_head,
        max_headers=max_headers,
        max_target=max_target,
        max_body=max_body,
        keep_alive=keep_alive,
        drain=drain,
        fast_lane=fast_lane,
    )
    limits_by_flag = options.limits_by_flag()
    handshakes = HandshakeOptions(
        origins=origins,
        authenticate=authenticate,
        subprotocols=subprotocols,
        select_subprotocol=select_subprotocol,
        process_request=process_request,
        process_response=process_response,
    )
    check_names("hosts", hosts)
    _check_handler("the handler", handler)
    _check_place(port, ssl)
    checked_routes = _check_routes(routes)
    hub = handler if isinstance(handler, Hub) else None
    config = handshakes.make_config(
        options,
        http=http,
        more_subprotocols=() if hub is None else hub.subprotocols,
        server_header=server_header,
        tracer=tracer,
    )
    config = replace(config, limits_by_flag=limits_by_flag | ({} if hub is None else hub.limits_by_flag()))
    admission = Admission(max_connections, max_connections_per_ip, trusted_proxies or ())
    if max_memory is not None:
        current_loop().memory.limit(max_memory)
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(http, HttpApp):
            await stack.enter_async_context(http.lifespan())
        # Only now, since an application may add endpoints as it starts.
        elsewhere = Route(handler) if hub is None else _refuse_outside_rooms(hub, http, checked_routes)
        if hub is not None and authenticate is None and process_request is None:
            _warn_of_open_publishing(hub, http)
        opened = await _open(port, host, listeners, unix)
        if hosts or all(map(is_loopback, opened)):
            config = replace(config, hosts=Hosts(hosts or ()))
        server = Server(
            opened, elsewhere, config, tls=ssl, admission=admission, fast_lane=fast_lane, routes=checked_routes
        )
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
