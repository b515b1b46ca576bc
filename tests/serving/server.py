"""A server, or a hub without HTTP in front, in the test's own trio."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import Any

import trio

from rawws.access.grant import ANYBODY, Admitted
from rawws.errors import Cause
from rawws.hub.hub import Hub
from rawws.hub.hub_arguments import Mode
from rawws.limits import MAX_LAG_BYTES, Limits
from rawws.net.listeners import open_listeners
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.server.config import ProcessResponse, ServerConfig
from rawws.server.plain_apps import HelloApp
from rawws.server.server import Server
from rawws.websocket import WebSocket
from rawws.wire.deflate import answer_offers
from rawws.wire.handshake import Accept, Handshake
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from tests.serving.client import Client, HangsUp
from tests.serving.machine import LOOPBACK
from tests.serving.wire import KEY


class _Starter:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.clients: list[HangsUp] = []

    def hang_up(self) -> None:
        """Close every client that the test has left open."""
        for client in self.clients:
            client.hang_up()


class Running:
    """A server in the test's nursery, and the clients that the test has connected to it."""

    def __init__(self, server: Server, hub: Hub, clients: list[HangsUp]) -> None:
        self.server = server
        self.hub = hub
        self.port = server.port
        self.clients = clients  # closed at the end

    async def connect(self) -> Client:
        client = Client(socket.socket())
        self.clients.append(client)
        return await client.connect(self.port)

    async def open(self, path: str = "/", *lines: str, then: bytes = b"") -> Client:
        client = await self.connect()
        return await client.open(path, *lines, then=then)


class Serve(_Starter):
    """Starts servers: ``running = await serve(limits=Limits(...))``."""

    async def __call__(
        self,
        *,
        limits: Limits | None = None,
        max_lag_bytes: int = MAX_LAG_BYTES,
        origins: Origins | None = None,
        mode: Mode = Mode.BROADCAST,
        hello: str = "",
        compression: bool = True,
        fast_lane: bool = True,
        tls: ssl.SSLContext | None = None,
        process_response: ProcessResponse | None = None,
        **settings: Any,
    ) -> Running:
        server, hub = make_server(
            await open_listeners(LOOPBACK, 0),
            limits=limits or Limits(),
            max_lag_bytes=max_lag_bytes,
            origins=origins or Origins(),
            mode=mode,
            hello=hello,
            compression=compression,
            fast_lane=fast_lane,
            tls=tls,
            process_response=process_response,
            **settings,
        )
        await self._nursery.start(server.run)
        return Running(server, hub, self.clients)


def make_server(
    listeners: list[socket.socket],
    *,
    limits: Limits,
    max_lag_bytes: int = MAX_LAG_BYTES,
    origins: Origins | None = None,
    mode: Mode = Mode.BROADCAST,
    hello: str = "",
    compression: bool = True,
    fast_lane: bool = True,
    tls: ssl.SSLContext | None = None,
    process_response: ProcessResponse | None = None,
    **settings: Any,
) -> tuple[Server, Hub]:
    """Return the server that ``python -m rawws`` runs, with any limits; ``settings`` are those of its rooms."""
    hub = Hub(mode=mode, hello=hello, max_lag_bytes=max_lag_bytes, **settings)
    app = HelloApp()
    config = ServerConfig(
        app=app.serve_exchange,
        prompt_app=app,
        limits=replace(limits, max_body_bytes=app.max_body_bytes(limits)),
        origins=origins or Origins(),
        compression=compression,
        fast_lane=fast_lane,
        process_response=process_response,
    )
    return Server(listeners, hub, config, tls=tls), hub


class RunningHub:
    """A hub without HTTP in front. Its peers are socket pairs, so the kernel's buffers are small and known."""

    def __init__(self, hub: Hub, endpoint: PeerGroup, fast_lane: bool, clients: list[HangsUp]) -> None:
        self.hub = hub
        self.endpoint = endpoint
        self._fast_lane = fast_lane
        self._clients = clients
        self._joined = 0

    async def stop(self, drain_s: float) -> None:
        """Close every peer as a stopping server does, and wait for them."""
        for peer in current_loop().peers_of(self.endpoint):
            current_loop().close(peer, 1001, "the server is shutting down", Cause.SHUTDOWN)
        with trio.move_on_after(drain_s):
            await self.endpoint.wait_empty()

    def join(
        self,
        path: str = "/",
        *,
        send_buffer: int | None = None,
        trailing_data: bytes = b"",
        extensions: str = "",
        subprotocol: str | None = None,
    ) -> Client:
        """Put a new peer into a room. ``send_buffer`` bounds the bytes that it can be sent before it reads."""
        ours, client = self.pair(send_buffer=send_buffer)
        self.adopt(Transport(ours), path, trailing_data, extensions, subprotocol)
        return client

    def pair(self, *, send_buffer: int | None = None) -> tuple[socket.socket, Client]:
        """Return the two ends of a connection."""
        ours, theirs = socket.socketpair()
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client = Client(theirs)
        self._clients.append(client)
        return ours, client

    def adopt(
        self,
        transport: Transport,
        path: str = "/",
        trailing_data: bytes = b"",
        extensions: str = "",
        subprotocol: str | None = None,
        *,
        number: int | None = None,
        admitted: Admitted = ANYBODY,
    ) -> None:
        """Hand a connection over to the hub, as the HTTP phase does after its 101."""
        self._joined += 1
        handshake = Handshake(
            (), path, Accept.of(KEY.decode()), None, answer_offers([extensions]), subprotocol=subprotocol
        )
        self.hub.adopt(
            self._joined if number is None else number,
            transport,
            handshake,
            self.endpoint,
            admitted=admitted,
            trailing_data=trailing_data,
            fast_lane=self._fast_lane,
        )


def websocket_on(connected: socket.socket, number: int, endpoint: PeerGroup) -> WebSocket:
    """Return the WebSocket that a handler holds."""
    return WebSocket(
        Transport(connected),
        Role.SERVER,
        number=number,
        endpoint=endpoint,
        request=Request("GET", "/", "1.1", Headers([("Host", "a")])),
        response=Response(101),
        subprotocol=None,
        agreement=None,
        remote_address="",
    )


class StartHub(_Starter):
    """Starts hubs: ``running = start_hub(limits=Limits(...))``."""

    def __call__(
        self,
        *,
        limits: Limits | None = None,
        max_lag_bytes: int = MAX_LAG_BYTES,
        mode: Mode = Mode.BROADCAST,
        hello: str = "",
        fast_lane: bool = True,
        **settings: Any,
    ) -> RunningHub:
        limits = limits or Limits()
        hub = Hub(mode=mode, hello=hello, max_lag_bytes=max_lag_bytes, **settings)
        return RunningHub(hub, PeerGroup(limits), fast_lane, self.clients)
