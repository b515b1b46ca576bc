"""`serve`: its keywords, written out for ``help()`` and editors, and passed on in groups."""

from __future__ import annotations

import socket
import ssl as ssl_module
from collections.abc import Iterable, Sequence

import trio

from rawws import web
from rawws.apps import HttpApp
from rawws.handshake_options import SAME_HOST, HandshakeOptions
from rawws.hub import Hub
from rawws.options import SERVER, ServerOptions
from rawws.routes import Handler, Routes
from rawws.runtime import check_runs_on_trio
from rawws.server_object import Server
from rawws.server_plan import ListeningOptions, ServerPlan
from rawws.service import Authenticate, ProcessRequest, ProcessResponse, SelectSubprotocol
from rawws.tracing import Tracer
from rawws.wire.handshake import Origins


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
        http=http,
        hosts=hosts,
        routes=routes,
        trusted_proxies=trusted_proxies,
        server_header=server_header,
        tracer=tracer,
    )
    await plan.run(task_status)
