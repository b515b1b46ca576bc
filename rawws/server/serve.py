"""`serve`: its keywords, written out for ``help()`` and editors, and passed on in groups."""

from __future__ import annotations

import socket
import ssl as ssl_module
from collections.abc import Iterable, Sequence

import trio

from rawws.access.source import Source
from rawws.hub.hub import Hub
from rawws.options import SERVER, ServerOptions
from rawws.runtime import check_runs_on_trio
from rawws.server import plain_apps
from rawws.server.apps import HttpApp
from rawws.server.config import Authenticate, ProcessRequest, ProcessResponse, SelectSubprotocol
from rawws.server.handshake_options import SAME_HOST, HandshakeOptions
from rawws.server.plan import ListeningOptions, ServerPlan
from rawws.server.routes import Handler, Routes
from rawws.server.server import Server
from rawws.tracing import Tracer
from rawws.websocket.callbacks import Callbacks
from rawws.wire.origins import Origins


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Handler | Hub | Callbacks,
    port: int | None = None,
    *,
    host: str | None = None,
    listeners: Sequence[socket.socket | trio.SocketListener] | None = None,
    unix: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
    http: HttpApp | plain_apps.Answer | None = None,
    origins: Origins | Iterable[str] | None = SAME_HOST,
    hosts: Sequence[str] | None = None,
    authenticate: Authenticate | None = None,
    access: Source | None = None,
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
    max_lifetime: float | None = SERVER.max_lifetime,
    drain: float | None = SERVER.drain,
    fast_lane: bool = SERVER.fast_lane,
    routes: Routes | None = None,
    tracer: Tracer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets on a port until cancelled, or until ``server.stop()`` has closed every connection in order.

    ``await nursery.start(rawws.serve, handler, port)`` returns the `Server` when it listens. Times are in seconds and
    sizes in bytes. None switches a limit off, except the limits on a request's head and body.

    ``handler`` is an async function that is called with each `WebSocket`, in a task of its own. The connection is
    closed with 1000 when the handler returns, and with 1011 when it raises. Or ``handler`` is a `Hub`, which relays at
    the paths that are rooms: its ``rooms_at``, or else the paths below ``/room/`` if there is an application for HTTP,
    or else every path. An ASGI application is asked about a WebSocket for another path; without one, it is refused with
    404. Or ``handler`` is an object with `Callbacks`, which are called for each message in the loop's turn, without a
    task for the connection. ``routes`` has other handlers for some paths: ``{"/admin": admin}``.

    Where it listens:

    - ``port`` and ``host``: a port, and a name or address; None is every interface. Port 0 lets the system choose.
    - ``listeners``: sockets that listen already, and are closed at the end; or ``unix``, a path for a Unix socket.
    - ``ssl``: the context with which it speaks TLS.

    How it answers:

    - ``http``: the application for requests that don't upgrade. An async function takes a `Request`, whose body of at
      most ``max_body`` has been read, and returns a `Response`, text, or None for 404. ``rawws.asgi(app)`` is an
      application too. By default the answer is that the client must upgrade.
    - ``origins``: the web pages that may connect: those of the same host and those listed, or any with None.
    - ``hosts``: names by which clients may call the server (``Host``), besides addresses and localhost; ``["*"]`` for
      any. Without a list, only those are accepted if just this machine can reach the server, against DNS rebinding;
      otherwise any name is.
    - ``process_request(request)`` is called first, and may return a `Response` to send instead.
    - ``authenticate(request)`` is called before the 101, and may refuse with a `Response` (401, 403, 429). Any other
      result becomes ``ws.user``, and ``member.user`` of a room's `Member`. For a room of a hub, ``request.action`` is
      what the client may do there if it is let in: ``read``, ``write`` or ``read write``. A `User` as the result limits
      that to its rooms, and ends the connection when it expires. Both hooks may be async, and have ``open_timeout`` to
      decide.
    - ``access`` is a source of grants for the rooms of a hub, such as ``--access`` of ``rawws serve`` has. It is asked
      before ``authenticate``, and without a grant nobody may read or write.
    - ``subprotocols``: the server's subprotocols, the favourite first. Or ``select_subprotocol(request, offered)``
      returns one of the client's offers, or None.
    - ``process_response(request, response)`` gets the 101, and may return another response.
    - ``compression="deflate"`` agrees to permessage-deflate if a client offers it; None declines.
    - ``server_header`` is the value of the Server field; by default there is none.

    Its limits, where a time or a rate of None, 0 or infinity is no limit (but ``drain=0`` does not wait):

    - ``open_timeout``: time for the opening handshake, and for each further request.
    - ``keep_alive``: time between two requests, and between two pieces of a body that ``rawws.asgi(app)`` reads as it
      arrives. Such a body may take any time in all.
    - ``max_head``, ``max_headers``, ``max_target``: size of a request's head, number of its fields, size of its target;
      beyond them the answer is 431 or 414.
    - ``max_body``: size of a body for ``http``; beyond it the answer is 413.
    - ``ping_interval``: time between two pings. ``ping_timeout``: time for any byte to arrive after a ping; otherwise
      the connection is closed with 1011. A peer for which a room with the policy ``"wait"`` waits must also accept a
      byte within ``ping_timeout``; otherwise it is closed with 1013.
    - ``close_timeout``: time for the peer's half of the closing handshake.
    - ``max_size``: size of a message; beyond it the connection is closed with 1009.
    - ``max_queue``: number of messages that wait for ``recv`` before rawws stops reading from the peer.
    - ``rate``: number of messages per second that a peer may send into a hub's room; further ones are read later.
    - ``max_connections``, ``max_connections_per_ip``: number of connections, in all and from one IPv4 address or IPv6
      /64; beyond it the answer is 503 or 429.
    - ``trusted_proxies``: addresses and networks of proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or
      else ``Forwarded`` (RFC 7239), name the client.
    - ``max_memory``: memory that connections, rooms and requests may take together, in all servers of this `trio.run`.
      Beyond it the histories of empty rooms are dropped. Then the largest item goes: another history, a peer (closed
      with 1013), or a request (503).
    - ``max_lifetime``: time for which a WebSocket or an event stream may last; then it is closed with 1012.
    - ``drain``: time that a stopping server gives its peers, their handlers and pending requests. The closes of many
      peers are spread over it. An application of ``rawws.asgi`` is notified by ``http.disconnect``, and by an OSError
      from ``send``: for an event stream at once, for another response when half of the drain is over if it waits for a
      disconnect, and for a stream of unknown length when four fifths are over.

    ``fast_lane=False`` reads and writes each head through h11 and each frame through wsproto, for study. ``tracer``
    gets every head and frame; ``Tracer()`` with a ``Recording("file")`` of `rawws.tracing` is one.

    Raises `ListenError` when it can't listen, and `UsageError` for arguments that can't be used.
    """
    # A table rather than a function: each keyword stands once in the signature, and once in its group here.
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
        max_lifetime=max_lifetime,
        drain=drain,
        fast_lane=fast_lane,
    )
    handshakes = HandshakeOptions(
        origins=origins,
        authenticate=authenticate,
        subprotocols=subprotocols,
        select_subprotocol=select_subprotocol,
        process_request=process_request,
        process_response=process_response,
    )
    plan = ServerPlan(
        handler=handler,
        listening=ListeningOptions(port, host, listeners, unix, ssl),
        options=options,
        handshakes=handshakes,
        access=access,
        http=http,
        hosts=hosts,
        routes=routes,
        trusted_proxies=trusted_proxies,
        server_header=server_header,
        tracer=tracer,
    )
    await plan.run(task_status)
