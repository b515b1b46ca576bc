"""The client: `connect`, which performs the opening handshake, follows redirects, and opens a `WebSocket`."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from rawws import logs
from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import parse_id
from rawws.client.attempt import REDIRECTS, Attempt, advise_on_tls, shown, tls_advice_for
from rawws.client.proxy import Proxy
from rawws.client.reconnect import Reconnecting
from rawws.client.resume import ResumedWebSocket
from rawws.errors import (
    Cause,
    ConnectionClosed,
    InvalidHandshake,
    InvalidRedirect,
    InvalidResponse,
    InvalidURI,
    OpenTimeout,
    UsageError,
)
from rawws.limits import check_number
from rawws.net.addresses import format_address
from rawws.net.tls import TlsError, default_context, start_tls
from rawws.net.transport import Transport
from rawws.options import CONNECTION, ConnectionOptions
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.runtime import check_runs_on_trio
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.websocket.internals import close_because, finish
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer
from rawws.wire.handshake_errors import InvalidStatus
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import FieldsLike, Headers, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, STATE, quote
from rawws.wire.uri import WebSocketURI, parse_uri

USER_AGENT = f"rawws/{__version__}"

# Fields that are not sent to another server after a redirect.
OWN_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "host"})

_HOW_TO_CONNECT = (
    "use async with rawws.connect(uri) as ws, or async for ws in rawws.connect(uri) to reconnect; "
    "without a block, ws = await rawws.connect(uri).open()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(ConnectionOptions):
    """The keywords of `connect`. A keyword that other functions share has its default there."""

    ssl: ssl_module.SSLContext | None
    headers: FieldsLike | None
    origin: str | None
    subprotocols: Sequence[str] | None
    user_agent: str | None
    proxy: str | bool | None
    max_redirects: int
    resume: bool | str | None

    def __post_init__(self) -> None:
        """Raises `UsageError` for a value that can't be used."""
        ConnectionOptions.__post_init__(self)
        check_number("max_redirects", self.max_redirects)
        if self.ssl is not None and not isinstance(self.ssl, ssl_module.SSLContext):
            raise UsageError(f"ssl can't be {self.ssl!r}; give an ssl.SSLContext, or None for the default settings")
        if self.resume and self.subprotocols:
            raise UsageError(f"resume has a subprotocol of its own, {SUBPROTOCOL}; leave subprotocols out")

    @property
    def first_position(self) -> str:
        """The id of the message after which a room is read, or an empty string."""
        return str(parse_id(self.resume)) if isinstance(self.resume, str) and self.resume else ""


class ClientConnector:
    """The object that `connect` returns: use it with ``async with``, or with ``async for`` to reconnect."""

    def __init__(self, uri: str, options: ClientOptions, connected: socket.socket | None) -> None:
        """``connected`` is used for the first connection, and owned from here on.

        Raises `InvalidURI`, and `UsageError` for options that can't be used, before anything is sent.
        """
        self._uri = parse_uri(uri)
        self._options = options
        self._limits = options.to_limits()
        self._since = options.first_position
        self._resumed: ResumedWebSocket | None = None  # knows the position at which the next connection goes on
        self._ssl = options.ssl
        self._headers = Headers.checked(options.headers or ())
        self._socket = connected
        self._websocket: WebSocket | None = None
        self._entered = False  # by ``async with``
        self._handshake(self._uri, self._headers)  # raises UsageError for a header that can't be sent

    def __repr__(self) -> str:
        return f"<connect to {self._uri}>"

    async def __aenter__(self) -> WebSocket:
        if self._entered:
            raise UsageError(f"{self!r} is used twice at a time; call connect once for each connection")
        self._entered = True
        try:
            self._websocket = await self.open()
        except BaseException:
            self._entered = False
            raise
        return self._websocket

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        websocket, self._websocket, self._entered = self._websocket, None, False
        assert websocket is not None
        failed = isinstance(error, Exception) and not isinstance(error, ConnectionClosed)
        if failed:
            close_because(websocket, Cause.ERROR, 1011, "")
        await finish(websocket)

    def __aiter__(self) -> AsyncIterator[WebSocket]:
        return Reconnecting(self.open)

    if not TYPE_CHECKING:  # a type checker refuses these by itself

        def _misused(self, *_):
            raise UsageError(f"rawws.connect is for async with and async for; {_HOW_TO_CONNECT}")

        __await__ = __enter__ = __exit__ = __iter__ = _misused

        def __getattr__(self, name):
            raise AttributeError(f"rawws.connect returns no WebSocket, so it has no {name!r}; {_HOW_TO_CONNECT}")

    def _handshake(self, uri: WebSocketURI, headers: Headers) -> ClientHandshake:
        return ClientHandshake(
            uri,
            headers=headers,
            origin=self._options.origin,
            subprotocols=(SUBPROTOCOL,) if self._options.resume else self._options.subprotocols or (),
            compression=self._options.compression is not None,
            user_agent=self._options.user_agent,
        )

    async def open(self) -> WebSocket:
        """Return an open WebSocket, which the caller has to close; ``async with`` does so by itself."""
        check_runs_on_trio("rawws.connect")
        attempt = Attempt(next(current_loop().numbers), self._limits)
        if self._resumed is not None:
            self._since = self._resumed.last_id or self._since
        with trio.move_on_after(self._options.open_timeout or math.inf):
            websocket = await self._open(attempt)
            if isinstance(websocket, ResumedWebSocket):
                try:
                    attempt.stage = f"waiting for {self._uri} to say where it begins"
                    await websocket.begin(self._since)
                except BaseException:
                    websocket.begin_close()
                    raise
                self._resumed = websocket
            return websocket
        raise self._late(attempt)

    def _late(self, attempt: Attempt) -> OpenTimeout:
        sentence = (
            f"{attempt.stage} took longer than {self._options.open_timeout:g} s in all (open_timeout){attempt.advice}"
        )
        attempt.log(logs.http, logging.INFO, FAULT, sentence)
        error = OpenTimeout(f"{shown(self._uri)}: {sentence}")
        attempt.redirects.name_in(error)
        return error

    async def _open(self, attempt: Attempt) -> WebSocket:
        try:
            return await self._follow(attempt)
        except (OSError, InvalidHandshake) as error:
            attempt.redirects.name_in(error)
            raise

    async def _follow(self, attempt: Attempt) -> WebSocket:
        """Send the request to the server, and follow redirects until a server answers with another status."""
        uri, headers = self._uri, self._headers
        if self._since:
            uri = uri.with_parameter("since", self._since)
        for _ in range(self._options.max_redirects + 1):
            handshake = self._handshake(uri, headers)
            transport = await self._dial(attempt, uri)
            try:
                whom = f"{shown(uri)}{attempt.through}"
                phase, response = await attempt.ask(transport, handshake.request, whom, tls_advice=tls_advice_for(uri))
                answer = attempt.examine(handshake, response)
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or location is None:
                    return self._finish(attempt, uri, transport, handshake, phase, response, answer)
            except BaseException:
                transport.close()
                raise
            transport.close()
            try:
                target = uri.resolve(location)
            except InvalidURI as error:
                raise InvalidRedirect(f"{shown(uri)} redirects to where no WebSocket can be: {error}") from error
            if uri.secure and not target.secure:
                raise InvalidRedirect(
                    f"{shown(uri)} redirects to {shown(target)}, which isn't encrypted; that is not followed"
                )
            sent, withheld = headers, False
            if target.origin != uri.origin:
                sent = Headers([(name, value) for name, value in headers if name.lower() not in OWN_HEADERS])
                withheld = "Authorization" in headers or "Cookie" in headers or uri.username is not None
            attempt.log(logs.handshake, logging.INFO, STATE, f"redirected to {shown(target)}")
            attempt.redirects.add(uri, response.status, target, withheld=withheld)
            uri, headers = target, sent
        circle = ", in a circle" if attempt.redirects.are_circular else ""
        raise InvalidRedirect(
            f"{shown(self._uri)} redirects more than {self._options.max_redirects} times (max_redirects){circle}"
        )

    def _finish(
        self,
        attempt: Attempt,
        uri: WebSocketURI,
        transport: Transport,
        handshake: ClientHandshake,
        phase: ResponsePhase,
        response: Response,
        answer: ServerAnswer,
    ) -> WebSocket:
        """Return the WebSocket, or raise an error if the server refused."""
        if response.status != 101:
            body = response.body[:200].decode(errors="replace").strip()
            message = f"{shown(uri)}{attempt.through}: {answer.fault}" + (f": {quote(body)}" if body else "")
            if advice := advise_on_tls(uri, response):
                message += f"; {advice}"
            raise InvalidStatus(message, response)
        if answer.fault:
            raise InvalidResponse(f"{shown(uri)}{attempt.through}: the server's 101 is not valid: {answer.fault}")
        trailing_data = phase.trailing_data
        message = f"HTTP ends, WebSocket begins: {len(trailing_data)} bytes came after the response"
        attempt.log(logs.handshake, logging.DEBUG, STATE, message)
        return (ResumedWebSocket if self._options.resume else WebSocket)(
            transport,
            Role.CLIENT,
            number=attempt.number,
            endpoint=PeerGroup(self._limits),
            request=handshake.request,
            response=response,
            subprotocol=answer.subprotocol,
            agreement=answer.deflate,
            remote_address=uri.unix_path or transport.remote_address or (uri.host, uri.port),
            fast_lane=self._options.fast_lane,
            trailing_data=trailing_data,
        )

    # Getting there

    async def dial(self) -> Transport:
        """Return a connection to the server on which HTTP can start, for callers that perform the handshake themselves.

        It is the caller's to close. Raises OSError, `OpenTimeout` and `ProxyError` as `open` does.
        """
        attempt = Attempt(next(current_loop().numbers), self._limits)
        with trio.move_on_after(self._options.open_timeout or math.inf):
            return await self._dial(attempt, self._uri)
        raise self._late(attempt)

    async def probe(self) -> None:
        """Connect, request a WebSocket, and close the connection, whatever the answer is.

        Raises the errors of `dial`, and `TlsError` if a server answers plain HTTP with a demand for TLS.
        """
        attempt = Attempt(next(current_loop().numbers), self._limits)
        transport = await self.dial()
        try:
            with trio.move_on_after(self._options.open_timeout or math.inf), contextlib.suppress(InvalidHandshake):
                request = self._handshake(self._uri, self._headers).request
                _, response = await attempt.ask(
                    transport, request, shown(self._uri), tls_advice=tls_advice_for(self._uri)
                )
                if advice := advise_on_tls(self._uri, response):
                    raise TlsError(f"the server refuses us for reasons of TLS; {advice}")
        finally:
            transport.close()

    async def _dial(self, attempt: Attempt, uri: WebSocketURI) -> Transport:
        """Return a connection to the server on which HTTP can start."""
        attempt.through = ""
        if self._socket is not None:
            connected, self._socket = self._socket, None
        elif uri.unix_path is None and (proxy := Proxy.find(self._options.proxy, uri)) is not None:
            connected = await proxy.connect(attempt, uri, self._options.user_agent)
        else:
            connected = await attempt.dial(uri.host, uri.port, uri.unix_path)
        if not uri.secure:
            return Transport(connected)
        where = f"{uri.unix_path or format_address((uri.host, uri.port))}{attempt.through}"
        attempt.stage = f"the TLS handshake with {where}"
        attempt.advice = "; if the server doesn't speak TLS, use ws:// in place of wss://"
        if self._ssl is None:
            self._ssl = default_context()  # kept, since loading the machine's authorities takes longer than a handshake
        return await start_tls(connected, self._ssl, uri.host, where)


def connect(
    uri: str,
    *,
    ssl: ssl_module.SSLContext | None = None,
    headers: FieldsLike | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: str | None = CONNECTION.compression,
    user_agent: str | None = USER_AGENT,
    proxy: str | bool | None = True,
    max_redirects: int = 10,
    socket: socket.socket | None = None,
    open_timeout: float | None = CONNECTION.open_timeout,
    ping_interval: float | None = CONNECTION.ping_interval,
    ping_timeout: float | None = CONNECTION.ping_timeout,
    close_timeout: float | None = CONNECTION.close_timeout,
    max_size: int | None = CONNECTION.max_size,
    max_queue: int | None = CONNECTION.max_queue,
    fast_lane: bool = CONNECTION.fast_lane,
    resume: bool | str | None = False,
) -> ClientConnector:
    """Connect to a WebSocket server: ``async with connect("wss://host/path") as ws:``, closed at the end.

    ``async for ws in connect(...)`` connects, and connects again in each round of the loop; the body of the loop goes
    on to the next round when ``ws`` raises `ConnectionClosed`. Before each new try there is a random wait, whose bound
    doubles up to a minute. The loop raises when another try would fail too: for a status of 4xx of a server or a proxy,
    such as 401 and 403, for a bad certificate, and for a server that doesn't speak WebSocket. ``break`` leaves the loop
    and closes the connection.

    ``uri`` begins with ``ws:``, ``wss:``, or ``ws+unix:`` (``ws+unix:///run/app.sock:/room``); a user name and a
    password in it are sent as Basic authorization. Times are in seconds and sizes in bytes; None switches a limit off.

    - ``ssl``: settings for TLS, in place of the default ones; ``ssl.create_default_context(cafile="cert.pem")`` trusts
      a self-signed certificate, or a private authority.
    - ``headers``: fields to send besides those of the handshake. Authorization and Cookie are not sent to another
      server after a redirect.
    - ``origin``, ``subprotocols``, ``user_agent``: values of the request; the favourite subprotocol comes first.
    - ``proxy``: True for the one in the environment (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``),
      None for none, or ``http://host:port``.
    - ``max_redirects``: number of redirects that are followed.
    - ``socket``: a connected socket for the first connection; rawws owns it from then on.
    - ``open_timeout``: time from the look-up of the name to the 101, and with ``resume`` to the first message.
    - ``ping_interval``, ``ping_timeout``, ``close_timeout``, ``max_size``, ``max_queue``, ``compression``,
      ``fast_lane``: as for `serve`.

    ``resume`` is for a room of rawws. ``ws.last_id`` is then the id of the message that was received last, and ``async
    for`` continues after that message when the connection was lost. No message is missed if the room's history
    still has it; otherwise ``ws.gap`` says so. An id instead of True is the position to start from, such as one that
    another process has stored.

    Raises `InvalidURI` and `UsageError` at once for arguments that can't be used. Connecting raises OSError when there
    is no connection, such as ConnectionRefusedError; `TlsError` (an ssl.SSLError) when TLS fails, which is
    `CertificateError` for a certificate that isn't trusted; `OpenTimeout`; and `InvalidHandshake` when the server
    refuses, of which `InvalidStatus` has its answer. `NoResponse`, when the connection ends first, is an OSError too.
    The message names the server, and the redirects that led to it; the original exception is the ``__cause__``.
    """
    options = ClientOptions(
        ssl=ssl,
        headers=headers,
        origin=origin,
        subprotocols=subprotocols,
        compression=compression,
        user_agent=user_agent,
        proxy=proxy,
        max_redirects=max_redirects,
        open_timeout=open_timeout,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        close_timeout=close_timeout,
        max_size=max_size,
        max_queue=max_queue,
        fast_lane=fast_lane,
        resume=resume,
    )
    return ClientConnector(uri, options, socket)
