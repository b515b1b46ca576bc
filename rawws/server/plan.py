"""The plan of a server: the arguments of `serve`, which are checked and made into a running `Server`."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import trio

from rawws import logs
from rawws.access.source import Source
from rawws.callables import check_async
from rawws.errors import UsageError
from rawws.groups.opening import queued
from rawws.hub.hub import Hub
from rawws.limits import check_names
from rawws.net.listeners import is_listening, is_loopback, open_listeners, open_unix_listener, send_small_frames_at_once
from rawws.options import ServerOptions
from rawws.relay.loop import current_loop
from rawws.server import plain_apps
from rawws.server.admission import Admission
from rawws.server.apps import HttpApp, apps_of
from rawws.server.asgi import AsgiApp
from rawws.server.claims import divide_paths
from rawws.server.config import ServerConfig
from rawws.server.handshake_options import HandshakeOptions
from rawws.server.room_app import RoomApp
from rawws.server.routes import Handler, Relay, Route, Routes
from rawws.server.server import Server
from rawws.store.opening import opened
from rawws.tracing import Tracer
from rawws.websocket.callbacks import Callbacks, check_callbacks, has_callbacks
from rawws.wire.allowed_hosts import Hosts
from rawws.wire.trace import STATE


@dataclass(frozen=True, slots=True)
class ListeningOptions:
    """The keywords of `serve` that say where it listens, and whether it speaks TLS there."""

    port: int | None
    host: str | None
    listeners: Sequence[socket.socket | trio.SocketListener] | None
    unix: str | None
    ssl: ssl_module.SSLContext | None

    def __post_init__(self) -> None:
        """Raises `UsageError` for what can't be a port or settings of TLS."""
        port, ssl = self.port, self.ssl
        if port is not None and (not isinstance(port, int) or not 0 <= port <= 0xFFFF):
            raise UsageError(f"port can't be {port!r}; give a number from 0 to 65535, and a name or an address as host")
        if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
            raise UsageError(f"ssl can't be {ssl!r}; give an ssl.SSLContext, in which a certificate is loaded")

    async def open(self) -> list[socket.socket]:
        """Return sockets that listen; they are the caller's. Raises `ListenError`, and `UsageError`."""
        places = {"port": self.port, "listeners": self.listeners, "unix": self.unix}
        given = [name for name, value in places.items() if value is not None]
        if len(given) != 1:
            reason = f"not {' and '.join(given)} together" if given else "one of them"
            raise UsageError(f"say where to listen: port, listeners or unix; {reason}")
        if self.unix is not None:
            return [open_unix_listener(self.unix)]
        if self.listeners is None:
            assert self.port is not None
            return await open_listeners(self.host or "", self.port)
        return [_as_socket(listener) for listener in self.listeners]


def _as_socket(listener: socket.socket | trio.SocketListener) -> socket.socket:
    """Return a listener as a socket that doesn't block. Raises `UsageError` for one that doesn't listen."""
    if isinstance(listener, trio.SocketListener):
        fd: int = listener.socket.detach()
        listener = socket.socket(fileno=fd)
    if not is_listening(listener):
        raise UsageError(f"{listener!r} can't be a listener: it has to be a stream socket that listens already")
    listener.setblocking(False)
    send_small_frames_at_once(listener)
    return listener


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """All keywords of `serve`, in groups."""

    handler: Handler | Hub | Callbacks
    listening: ListeningOptions
    options: ServerOptions
    handshakes: HandshakeOptions
    access: Source | None
    http: HttpApp | plain_apps.Answer | None
    hosts: Sequence[str] | None
    routes: Routes | None
    trusted_proxies: Sequence[str] | None
    server_header: str | None
    tracer: Tracer | None

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        """Open the listeners, and serve until the server is stopped or cancelled.

        Raises `ListenError` when it can't listen, and `UsageError` for arguments that can't be used.
        """
        check_names("hosts", self.hosts)
        _check_handler("the handler", self.handler)
        routes = _check_routes(self.routes)
        hub = self.handler if isinstance(self.handler, Hub) else None
        if self.access is not None and hub is None:
            raise UsageError("access is for the rooms of a hub; a handler decides with authenticate")
        config = self._make_config(hub)
        most, most_per_ip = self.options.max_connections, self.options.max_connections_per_ip
        admission = Admission(most, most_per_ip, self.trusted_proxies or ())
        if self.options.max_memory is not None:
            current_loop().limit_memory(self.options.max_memory)
        async with contextlib.AsyncExitStack() as stack:
            hubs = _hubs_of(self.handler, self.http, routes)
            for each in hubs:
                await stack.enter_async_context(opened(each))
                await stack.enter_async_context(queued(each))
                stack.enter_context(each.serving())
            _give_hub(hubs, self.http)
            if isinstance(self.http, HttpApp):
                await stack.enter_async_context(self.http.lifespan())
            # Only now, since an application may add endpoints as it starts.
            elsewhere, areas = divide_paths(self.handler, self.http, routes)
            if hub is not None and not self.handshakes.may_refuse and self.access is None:
                _warn_of_open_publishing(hub, self.http)
            listeners = await self.listening.open()
            is_on_loopback = all(map(is_loopback, listeners))
            if self.hosts or is_on_loopback:
                config = replace(config, hosts=Hosts(self.hosts or ()))
            # A client that reaches a proxy reaches the server after it.
            config = replace(config, is_local=is_on_loopback and not self.trusted_proxies)
            server = Server(
                listeners,
                elsewhere,
                config,
                tls=self.listening.ssl,
                admission=admission,
                routes=routes,
                areas=areas,
            )
            await server.run(task_status=task_status)

    def _make_config(self, hub: Hub | None) -> ServerConfig:
        """Return the configuration, which says what the server does with each request."""
        limits_by_flag = self.options.limits_by_flag()
        config = self.handshakes.make_config(
            self.options,
            http=self.http,
            more_subprotocols=() if hub is None else hub.subprotocols,
            server_header=self.server_header,
            tracer=self.tracer,
        )
        limits_by_flag |= {} if hub is None else hub.limits_by_flag()
        return replace(config, access=self.access, limits_by_flag=limits_by_flag)


def _hubs_of(handler: object, http: object, routes: Mapping[str, Route]) -> list[Hub]:
    """Return the hubs of a server, each once: its own, those of rooms in front of an application, those of routes."""
    in_front = [app.hub for app in apps_of(http) if isinstance(app, RoomApp)]
    candidates = [handler, *in_front, *(route.handler for route in routes.values())]
    return list(dict.fromkeys(each for each in candidates if isinstance(each, Hub)))


def _give_hub(hubs: Sequence[Hub], http: object) -> None:
    """Give an ASGI application the first of its server's hubs."""
    application = plain_apps.find_application(http)
    if hubs and isinstance(application, AsgiApp):
        application.give("rawws", hubs[0])


def _check_routes(routes: Routes | None) -> dict[str, Route]:
    """Return the routes by path. Raises `UsageError` for what can't be one."""
    if routes is not None and not isinstance(routes, Mapping):
        raise UsageError("routes is a dict of handlers by path, such as {'/admin': admin}")
    return {path: _as_route(path, route) for path, route in (routes or {}).items()}


def _as_route(path: str, route: Handler | Relay | Callbacks | Route) -> Route:
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
    if has_callbacks(handler):
        check_callbacks(what, handler)
        return
    check_async(what, handler, "ws", hints={2: "; the path of the request is ws.path"})


def _warn_of_open_publishing(hub: Hub, http: object) -> None:
    """Log a warning if there is a token for POSTs, and WebSockets may publish without it."""
    if hub.peers_publish and any(isinstance(app, RoomApp) and app.needs_token(hub) for app in apps_of(http)):
        message = (
            "only a POST needs the publish token: each WebSocket publishes in its room without it; to close that, "
        )
        message += "add --read-only, or Hub(read_only=True), or say who may write with --access"
        logs.server_line(logging.WARNING, STATE, message)
