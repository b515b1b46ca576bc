"""WebSockets on connections of another HTTP server, which has accepted them and read the request."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Sequence

import h11
import trio

from rawws import logs
from rawws.errors import Cause, UsageError
from rawws.net.transport import RECEIVE_BYTES, Transport
from rawws.options import CONNECTION, ConnectionOptions
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.runtime import check_runs_on_trio
from rawws.server.config import (
    Authenticate,
    ProcessRequest,
    ProcessResponse,
    SelectSubprotocol,
    ServerConfig,
    ServerState,
)
from rawws.server.connection import LINGER_S, HttpConnection
from rawws.server.handshake_options import SAME_HOST, HandshakeOptions
from rawws.server.server import accept_upgraded
from rawws.server.upgrade import Upgraded, upgrade
from rawws.websocket import WebSocket
from rawws.websocket.internals import close_because, finish
from rawws.wire.handshake_errors import HandshakeRefused
from rawws.wire.http1 import HttpPhase
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins

AnyStream = trio.abc.Stream | socket.socket


@contextlib.asynccontextmanager
async def attach(
    stream: AnyStream,
    request: Request | h11.Request,
    *,
    connection: h11.Connection | None = None,
    trailing_data: bytes | None = None,
    origins: Origins | Iterable[str] | None = SAME_HOST,
    authenticate: Authenticate | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    compression: str | None = CONNECTION.compression,
    open_timeout: float | None = CONNECTION.open_timeout,
    ping_interval: float | None = CONNECTION.ping_interval,
    ping_timeout: float | None = CONNECTION.ping_timeout,
    close_timeout: float | None = CONNECTION.close_timeout,
    max_size: int | None = CONNECTION.max_size,
    max_queue: int | None = CONNECTION.max_queue,
    fast_lane: bool = CONNECTION.fast_lane,
) -> AsyncIterator[WebSocket]:
    """Carry on from a request for an upgrade that another server has read: ``async with attach(...) as ws:``.

    ``stream`` is any trio stream or a connected socket. rawws owns it from here on, and closes it at the end, whatever
    is raised: when the client has closed its side too, or after ``close_timeout``. A socket, or a stream that is a
    plain socket, is used directly; the bytes of any other stream are passed through a pair of sockets.

    ``request`` is the request that was read. With the ``connection`` of h11 that read it, the answer is sent through
    that, and the bytes after the request come from it. Otherwise give those bytes as ``trailing_data``. The other
    keywords are as for `serve`.

    Raises `HandshakeRefused` when the request isn't a valid handshake, or the application refused it; the client
    has been answered then, and the stream is closed. Raises OSError when the client goes before it is answered. An
    exception in the block, such as `ConnectionClosed` when the client leaves, is raised from ``async with`` too. A
    server has to catch all of these, or any client can end it.
    """
    check_runs_on_trio("rawws.attach")
    async with as_socket(stream) as connected:
        transport = Transport(connected)
        try:
            options = ConnectionOptions(
                compression=compression,
                open_timeout=open_timeout,
                ping_interval=ping_interval,
                ping_timeout=ping_timeout,
                close_timeout=close_timeout,
                max_size=max_size,
                max_queue=max_queue,
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
            config = handshakes.make_config(options)
            upgraded = await _upgrade(transport, config, request, connection, trailing_data)
        except BaseException:
            transport.close()
            raise
        websocket = accept_upgraded(upgraded, PeerGroup(config.limits), WebSocket, fast_lane=config.fast_lane)
        try:
            yield websocket
        except BaseException as error:
            close_because(websocket, Cause.ERROR if isinstance(error, Exception) else Cause.OUR_CLOSE, 1011, "")
            raise
        finally:
            await finish(websocket)


async def _upgrade(
    transport: Transport,
    config: ServerConfig,
    request: Request | h11.Request,
    connection: h11.Connection | None,
    trailing_data: bytes | None,
) -> Upgraded:
    """Answer the request, and return the connection that it has become. Raises `HandshakeRefused`, and OSError."""
    if connection is not None and trailing_data:
        raise UsageError("the connection of h11 has the trailing data; leave trailing_data out")
    ours = request if isinstance(request, Request) else _from_h11(request)
    http = HttpConnection(next(current_loop().numbers), transport, ServerState(config), transport.remote_address or "")
    http.is_announced = True  # the application accepted it
    http.http = HttpPhase.resume(connection or _replay(ours, trailing_data or b""), config.limits)
    upgraded = await upgrade(http, ours)
    if upgraded is None:
        await http.linger()
        assert http.answered is not None
        body = http.answered.body.decode(errors="replace").strip()  # it may be anything, such as gzip
        raise HandshakeRefused(f"the handshake was refused with {http.answered.status}: {body}", http.answered)
    return upgraded


def _from_h11(request: h11.Request) -> Request:
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw_items()]
    return Request(
        request.method.decode("ascii"),
        request.target.decode("latin-1"),
        request.http_version.decode("ascii"),
        Headers(fields),
    )


def _replay(request: Request, trailing_data: bytes) -> h11.Connection:
    """Return an h11 connection that has read this request. Raises `UsageError` for a request that it can't have read.

    RFC 9110 §5.5 lets clients send bytes beyond ASCII in a value.
    """
    client, server = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    try:
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        head = h11.Request(method=request.method, target=request.target, headers=fields)
    except (UnicodeEncodeError, h11.LocalProtocolError) as error:
        raise UsageError(f"this request can't have been read from a client: {error}") from None
    server.receive_data((client.send(head) or b"") + trailing_data)
    server.next_event()
    return server


@contextlib.asynccontextmanager
async def as_socket(stream: AnyStream) -> AsyncIterator[socket.socket]:
    """Turn a stream into a socket, which is the caller's; its bytes are passed on within the block."""
    if isinstance(stream, socket.socket):
        yield stream
        return
    if isinstance(stream, trio.SocketStream):
        yield socket.socket(fileno=stream.socket.detach())
        return
    ours, theirs = socket.socketpair()
    inner = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    pumps = _Pumps()
    # A nursery here would wrap the exceptions of the caller's block.
    trio.lowlevel.spawn_system_task(pumps.run, stream, inner)
    try:
        yield ours
        # The last words are on their way, and the loop waits for the other end to close.
        with trio.move_on_after(LINGER_S):
            await pumps.done.wait()
    finally:
        pumps.scope.cancel()
        for end in (inner, stream):
            await trio.aclose_forcefully(end)


class _Pumps:
    """Passes bytes on between two streams, both ways, until both have ended or it is cancelled."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self, outer: trio.abc.Stream, inner: trio.SocketStream) -> None:
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_pump, outer, inner)
                    nursery.start_soon(_pump, inner, outer)
        except Exception:  # raised by somebody else's stream; nobody could catch it in a system task
            logs.hub.exception("#%d ! a stream that rawws was attached to failed", logs.SERVER)
        finally:
            self.done.set()


@trio.lowlevel.enable_ki_protection
async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    """Pass bytes on until the source ends, or either side fails."""
    try:
        while data := await source.receive_some(RECEIVE_BYTES):
            try:
                await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the other pump passes on earlier data, such as a close with a reason
        if isinstance(sink, trio.abc.HalfCloseableStream):
            await sink.send_eof()
        else:
            await sink.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(sink)
