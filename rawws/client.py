"""The client: dial, perhaps through a proxy, perform the opening handshake in the open, and come back when cut off."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import re
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import trio

from rawws import logs
from rawws.errors import (
    Cause,
    ConnectionClosed,
    InvalidHandshake,
    InvalidRedirect,
    InvalidResponse,
    InvalidStatus,
    InvalidURI,
    NoResponse,
    OpenTimeout,
    ProxyError,
    RawwsError,
    UsageError,
    sentence_of,
)
from rawws.limits import MIB, NO_LIMIT, Limits, check_number
from rawws.loop import current_loop
from rawws.peer import Endpoint
from rawws.resume import ResumedWebSocket
from rawws.runtime import check_runs_on_trio
from rawws.tls import GIVE_CERTIFICATE, TlsError, begin_tls, default_context, explain
from rawws.transport import Transport, dial, name_address
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.websocket_internals import close_because, finish
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer, basic_authorization
from rawws.wire.encodings import SUBPROTOCOL
from rawws.wire.http1 import Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.message_ids import parse_id
from rawws.wire.messages import FieldsLike, Headers, Request, Response
from rawws.wire.role import Role
from rawws.wire.trace import FAULT, IN, OUT, STATE, head_lines, mask_target, quote, shorten
from rawws.wire.uri import WebSocketURI, parse_uri

USER_AGENT = f"rawws/{__version__}"

REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Not sent on to another server than the one that they were meant for.
OWN_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "host"})

# Between two tries: a random part of a bound that doubles, so that a crowd that was cut off at once comes back
# spread out. Python's websockets goes from 3 to 90 s, socket.io from 1 to 5.
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
# A connection that lasted so long was a good one: the next try begins with the first bound again.
GOOD_CONNECTION_S = 10.0
# For what an answer says besides its status, once that is here (a guess).
BODY_TIMEOUT_S = 1.0
# Answers after which trying again may help (RFC 9110 §15.5.9, RFC 8470, RFC 6585); others of 4xx will stay.
RETRIED_STATUSES = frozenset({408, 425, 429})
# The most redirects that an error names one by one.
MOST_HOPS_NAMED = 3
_USE_WSS = "use wss:// in place of ws://"
# TLS servers answer with 400, and with words of their own, to a client that speaks plain HTTP (nginx, Apache, Go,
# Tomcat, rawws), or has no certificate (nginx).
_ABOUT_TLS = (
    (re.compile(rb"HTTPS port|SSL-enabled server port|HTTPS server|requires TLS|speaks TLS"), False, _USE_WSS),
    (re.compile(rb"No required SSL certificate"), True, f"it demands a client certificate: {GIVE_CERTIFICATE}"),
    (re.compile(rb"The SSL certificate error"), True, f"it refuses our client certificate: {GIVE_CERTIFICATE}"),
)
_SEARCHED_BYTES = 2048
# Advice for each status by which a proxy refuses (RFC 9110 §15).
_ADVICE = {
    407: "; give your user name and password in its address, as http://user:password@host:port",
    403: "; its operator does not allow that",
    502: "; it has no connection to there itself",
    503: "; it has no connection to there itself",
    504: "; it has no connection to there itself",
}
_REFUSED_USER = "; it does not accept the user name and password in its address"


_HOW_TO_CONNECT = (
    "use async with rawws.connect(uri) as ws, or async for ws in rawws.connect(uri) to reconnect; "
    "without a block, ws = await rawws.connect(uri).open()"
)


class Connector:
    """What `connect` returns: use it with ``async with``, or with ``async for`` to reconnect."""

    def __init__(
        self,
        uri: str,
        *,
        ssl: ssl_module.SSLContext | None,
        headers: FieldsLike | None,
        origin: str | None,
        subprotocols: Sequence[str] | None,
        compression: str | None,
        user_agent: str | None,
        proxy: str | bool | None,
        max_redirects: int,
        socket: socket.socket | None,
        open_timeout: float | None,
        limits: Limits,
        fast_lane: bool,
        resume: bool | str | None,
    ) -> None:
        self._uri = parse_uri(uri)
        check_number("max_redirects", max_redirects)
        if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
            raise UsageError(f"ssl can't be {ssl!r}; give an ssl.SSLContext, or None for the default settings")
        if resume and subprotocols:
            raise UsageError(f"resume has a subprotocol of its own, {SUBPROTOCOL}; leave subprotocols out")
        self._resumes = bool(resume)
        self._since = str(parse_id(resume)) if isinstance(resume, str) and resume else ""
        self._resumed: ResumedWebSocket | None = None  # which knows where to go on
        if compression not in ("deflate", None):
            raise UsageError(f"there is no compression {compression!r}; give 'deflate', or None for none")
        self._ssl = ssl
        self._headers = Headers.checked(headers or ())
        self._origin = origin
        self._subprotocols = (SUBPROTOCOL,) if resume else subprotocols or ()
        self._compression = compression is not None
        self._user_agent = user_agent
        self._proxy = proxy
        self._max_redirects = max_redirects
        self._socket = socket
        self._open_timeout = open_timeout
        self._limits = limits
        self._fast_lane = fast_lane
        self._websocket: WebSocket | None = None
        self._entered = False  # by ``async with``
        self._handshake(self._uri, self._headers)  # raises for what can't be sent, before anything is

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
        return _Reconnecting(self)

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
            origin=self._origin,
            subprotocols=self._subprotocols,
            compression=self._compression,
            user_agent=self._user_agent,
        )

    async def open(self) -> WebSocket:
        """Return an open WebSocket, which the caller has to close; ``async with`` does so by itself."""
        check_runs_on_trio("rawws.connect")
        attempt = _Attempt(next(current_loop().numbers), self._limits)
        if self._resumed is not None:
            self._since = self._resumed.last_id or self._since
        with trio.move_on_after(self._open_timeout or math.inf):
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

    def _late(self, attempt: _Attempt) -> OpenTimeout:
        sentence = f"{attempt.stage} took longer than {self._open_timeout:g} s in all (open_timeout){attempt.advice}"
        attempt.log(logs.http, logging.INFO, FAULT, sentence)
        error = OpenTimeout(f"{_shown(self._uri)}: {sentence}")
        attempt.redirects.name_in(error)
        return error

    async def _open(self, attempt: _Attempt) -> WebSocket:
        try:
            return await self._follow(attempt)
        except (OSError, InvalidHandshake) as error:
            attempt.redirects.name_in(error)
            raise

    async def _follow(self, attempt: _Attempt) -> WebSocket:
        """Send the request to the server, and to those that it redirects to, until one answers with another status."""
        uri, headers = self._uri, self._headers
        if self._since:
            uri = uri.with_parameter("since", self._since)
        for _ in range(self._max_redirects + 1):
            handshake = self._handshake(uri, headers)
            transport = await self._dial(attempt, uri)
            try:
                whom = f"{_shown(uri)}{attempt.through}"
                phase, response = await attempt.ask(transport, handshake.request, whom, tls_advice=_tls_advice(uri))
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
                raise InvalidRedirect(f"{_shown(uri)} redirects to where no WebSocket can be: {error}") from error
            if uri.secure and not target.secure:
                raise InvalidRedirect(
                    f"{_shown(uri)} redirects to {_shown(target)}, which isn't encrypted; that is not followed"
                )
            sent, withheld = headers, False
            if target.origin != uri.origin:
                sent = Headers([(name, value) for name, value in headers if name.lower() not in OWN_HEADERS])
                withheld = "Authorization" in headers or "Cookie" in headers or uri.username is not None
            attempt.log(logs.handshake, logging.INFO, STATE, f"redirected to {_shown(target)}")
            attempt.redirects.add(uri, response.status, target, withheld=withheld)
            uri, headers = target, sent
        circle = ", in a circle" if attempt.redirects.are_circular else ""
        raise InvalidRedirect(
            f"{_shown(self._uri)} redirects more than {self._max_redirects} times (max_redirects){circle}"
        )

    def _finish(
        self,
        attempt: _Attempt,
        uri: WebSocketURI,
        transport: Transport,
        handshake: ClientHandshake,
        phase: ResponsePhase,
        response: Response,
        answer: ServerAnswer,
    ) -> WebSocket:
        """Become a WebSocket, or raise for what the server answered."""
        if response.status != 101:
            body = response.body[:200].decode(errors="replace").strip()
            message = f"{_shown(uri)}{attempt.through}: {answer.fault}" + (f": {quote(body)}" if body else "")
            if advice := _advise_on_tls(uri, response):
                message += f"; {advice}"
            raise InvalidStatus(message, response)
        if answer.fault:
            raise InvalidResponse(f"{_shown(uri)}{attempt.through}: the server's 101 is not valid: {answer.fault}")
        trailing_data = phase.trailing_data
        message = f"HTTP ends, WebSocket begins: {len(trailing_data)} bytes came behind the response"
        attempt.log(logs.handshake, logging.DEBUG, STATE, message)
        return (ResumedWebSocket if self._resumes else WebSocket)(
            transport,
            Role.CLIENT,
            number=attempt.number,
            endpoint=Endpoint(self._limits),
            request=handshake.request,
            response=response,
            subprotocol=answer.subprotocol,
            agreement=answer.deflate,
            remote_address=uri.unix_path or transport.remote_address or (uri.host, uri.port),
            fast_lane=self._fast_lane,
            trailing_data=trailing_data,
        )

    # Getting there

    async def dial(self) -> Transport:
        """Return a connection to the server on which HTTP can begin, for those who perform the handshake themselves.

        It is the caller's to close. Raises OSError, `OpenTimeout` and `ProxyError` as `open` does.
        """
        attempt = _Attempt(next(current_loop().numbers), self._limits)
        with trio.move_on_after(self._open_timeout or math.inf):
            return await self._dial(attempt, self._uri)
        raise self._late(attempt)

    async def probe(self) -> None:
        """Connect, request a WebSocket, and close the connection, whatever the answer is.

        Raises the errors of `dial`, and `TlsError` if a server answers plain HTTP with a demand for TLS.
        """
        attempt = _Attempt(next(current_loop().numbers), self._limits)
        transport = await self.dial()
        try:
            with trio.move_on_after(self._open_timeout or math.inf), contextlib.suppress(InvalidHandshake):
                request = self._handshake(self._uri, self._headers).request
                _, response = await attempt.ask(
                    transport, request, _shown(self._uri), tls_advice=_tls_advice(self._uri)
                )
                if advice := _advise_on_tls(self._uri, response):
                    raise TlsError(f"the server refuses us for reasons of TLS; {advice}")
        finally:
            transport.close()

    async def _dial(self, attempt: _Attempt, uri: WebSocketURI) -> Transport:
        """Return a connection to the server on which HTTP can begin."""
        proxy, whose = self._find_proxy(uri)
        attempt.through = ""
        if self._socket is not None:
            connected, self._socket = self._socket, None
        elif proxy is not None and uri.unix_path is None:
            connected = await self._dial_through(attempt, proxy, whose, uri)
        else:
            connected = await attempt.dial(uri.host, uri.port, uri.unix_path)
        if not uri.secure:
            return Transport(connected)
        where = f"{uri.unix_path or name_address((uri.host, uri.port))}{attempt.through}"
        attempt.stage = f"the TLS handshake with {where}"
        attempt.advice = "; if the server doesn't speak TLS, use ws:// in place of wss://"
        if self._ssl is None:
            self._ssl = default_context()  # reading a machine's authorities takes longer than a handshake
        return await begin_tls(connected, self._ssl, uri.host, where)

    def _find_proxy(self, uri: WebSocketURI) -> tuple[str | None, str]:
        """Return the proxy for an address, and who named it: our caller, or the environment, unless it excepts it."""
        if self._proxy is not True:
            return self._proxy or None, "that was given"
        proxies = getproxies_environment()
        if not proxy_bypass(f"{uri.host}:{uri.port}"):
            for scheme in ("wss", "https", "all") if uri.secure else ("ws", "http", "all"):
                if proxies.get(scheme):
                    return proxies[scheme], f"of {scheme}_proxy in the environment, to which no_proxy makes exceptions"
        return None, ""

    async def _dial_through(self, attempt: _Attempt, proxy: str, whose: str, uri: WebSocketURI) -> socket.socket:
        """Have an HTTP proxy connect us (RFC 9110 §9.3.6)."""
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            shown = f"{parts.scheme}://{parts.hostname}:{parts.port or 80}"
        except ValueError as error:
            raise ProxyError(f"the address of the proxy can't be used: {error}") from None
        if parts.scheme != "http" or not parts.hostname:
            raise ProxyError(
                f"the proxy {shown} can't be used: only http:// proxies can; give proxy=None to go without, or name "
                f"{uri.host} in no_proxy in the environment"
            )
        try:
            connected = await attempt.dial(parts.hostname, parts.port or 80)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; that is the proxy {whose}") from error
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        fields = [("Host", f"{host}:{uri.port}")]
        if self._user_agent is not None:
            fields.append(("User-Agent", self._user_agent))
        if parts.username is not None:
            secret = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
            fields.append(("Proxy-Authorization", secret))
        transport = Transport(connected)
        try:
            request = Request("CONNECT", f"{host}:{uri.port}", "1.1", Headers(fields))
            whom = f"the proxy {shown}"
            phase, response = await attempt.ask(
                transport, request, whom, ProxyError, tls_advice="only proxies that speak plain HTTP can be used"
            )
            if not 200 <= response.status < 300:
                status = f"{response.status} {response.reason}".rstrip()
                sentence = f"{whom} does not connect us to {host}:{uri.port}: it answered {status}"
                advice = (
                    _REFUSED_USER if response.status == 407 and parts.username else _ADVICE.get(response.status, "")
                )
                raise ProxyError(f"{sentence}{advice}", response)
            if phase.trailing_data:
                raise ProxyError(f"{whom} sent bytes after its answer")
            attempt.through = f" (through {whom})"
            return transport.detach()
        except BaseException:
            transport.close()
            raise


def _tls_advice(uri: WebSocketURI) -> str:
    return "" if uri.secure else _USE_WSS


def _advise_on_tls(uri: WebSocketURI, response: Response) -> str:
    """Return advice if a server's answer is about TLS, otherwise an empty string."""
    for words, secure, advice in _ABOUT_TLS:
        if response.status == 400 and uri.secure is secure and words.search(response.body, 0, _SEARCHED_BYTES):
            return advice
    return ""


class _Redirects:
    """The redirects that were followed so far; every later error names them."""

    def __init__(self) -> None:
        self._hops: list[tuple[WebSocketURI, int, WebSocketURI, bool]] = []

    def add(self, source: WebSocketURI, status: int, target: WebSocketURI, *, withheld: bool) -> None:
        """Record one. ``withheld`` says that the source was sent credentials which the target is not sent."""
        self._hops.append((source, status, target, withheld))

    @property
    def are_circular(self) -> bool:
        """Whether the last one led to an address that had redirected us before."""
        return any(source == self._hops[-1][2] for source, *_ in self._hops)

    def name_in(self, error: OSError | InvalidHandshake | OpenTimeout) -> None:
        """Put them in front of an error's message, which otherwise names only a server that the caller doesn't know."""
        if not self._hops:
            return
        if isinstance(error, OSError) and error.strerror:
            error.strerror = f"{self}: {error.strerror}"
            error.args = (error.errno, error.strerror)
        else:
            error.args = (f"{self}: {error}", *error.args[1:])

    def __str__(self) -> str:
        hops = []
        for _, status, target, withheld in self._hops:
            why = f"{status}, and credentials are not sent to another server" if withheld else str(status)
            hops.append(f"to {_shown(target)} ({why})")
        if len(hops) > MOST_HOPS_NAMED:
            hops[1 : 1 - MOST_HOPS_NAMED] = ["…"]
        return f"{_shown(self._hops[0][0])} sent us on {', then '.join(hops)}"


def _shown(uri: WebSocketURI) -> str:
    """Return an address as errors show it."""
    return shorten(mask_target(str(uri)))


class _Attempt:
    """One connection as it is being opened: its number in the log, and how far it has come."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.stage = "connecting"
        self.advice = ""  # for the user, if the stage takes too long
        self.through = ""  # a proxy, if there is one
        self.redirects = _Redirects()
        self._limits = limits

    def log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self.number, mark, text)

    async def dial(self, host: str, port: int, unix_path: str | None = None) -> socket.socket:
        """Return a connected socket. Raises OSError, which says to where there is no connection, and why."""
        where = unix_path or name_address((host, port))
        self.stage = f"connecting to {where}"
        self.advice = "; the host may be down, or a firewall may drop packets to it"
        connected = await dial(host, port, unix_path)
        self.log(logs.http, logging.DEBUG, STATE, f"connected to {where}")
        return connected

    async def ask(
        self,
        transport: Transport,
        request: Request,
        whom: str,
        invalid: type[InvalidHandshake] = InvalidResponse,
        *,
        tls_advice: str,
    ) -> tuple[ResponsePhase, Response]:
        """Send a request and return the answer. Raises ``invalid`` for a bad answer, `NoResponse` and `TlsError`.

        ``tls_advice`` is the advice if the server answers plain HTTP with TLS; it is empty where we use TLS.
        """
        self.stage = f"waiting for {whom} to answer"
        self.advice = ""
        phase = ResponsePhase(self._limits)
        data = phase.send_request(request)
        self._show(OUT, data)
        try:
            with contextlib.suppress(ConnectionError):  # a server that accepts no more may have sent a reason
                await transport.send_all(data)
            while (answer := phase.next_event()) is Signal.NEED_DATA and phase.answer is None:
                phase.receive_data(await transport.receive())
        except ssl_module.SSLError as error:
            raise explain(error, whom) from error
        except OSError as error:
            sentence = f"{whom}: the connection was lost before there was an answer: {error.strerror or error}"
            advice = f"; if it speaks TLS, {tls_advice}" if tls_advice and not phase.has_begun else ""
            raise NoResponse(f"{sentence}{advice}") from error
        if phase.answer is not None:
            answer = await _receive_body(transport, phase, phase.answer)
        if isinstance(answer, Response):
            self._show(IN, answer.raw_head)
            return phase, answer
        fault = str(answer)
        raised: type[InvalidHandshake | TlsError] = NoResponse if phase.cut_off else invalid
        if phase.speaks_tls and tls_advice:
            fault += f"; {tls_advice}"
            raised = TlsError if invalid is InvalidResponse else invalid
        elif phase.cut_off and tls_advice and not phase.has_begun:
            fault += f"; if it speaks TLS, {tls_advice}"
        self.log(logs.handshake, logging.INFO, FAULT, f"no handshake: {fault}")
        raise raised(f"{whom}: {fault}")

    def _show(self, mark: str, raw_head: bytes) -> None:
        if logs.http.isEnabledFor(logging.DEBUG):
            for line in head_lines(raw_head):
                self.log(logs.http, logging.DEBUG, mark, line)

    def examine(self, handshake: ClientHandshake, response: Response) -> ServerAnswer:
        """Hold the answer against the RFC's requirements, and show each."""
        answer = handshake.examine(response)
        if logs.handshake.isEnabledFor(logging.DEBUG):
            for check in answer.checks:
                self.log(logs.handshake, logging.DEBUG, STATE if check.holds else FAULT, str(check))
            if not answer.fault:
                for step in handshake.accept.steps:
                    self.log(logs.handshake, logging.DEBUG, STATE, step)
        if answer.fault:
            self.log(logs.handshake, logging.INFO, FAULT, f"no handshake: {answer.fault}")
        return answer


async def _receive_body(transport: Transport, phase: ResponsePhase, answer: Response) -> Response | str:
    """Return an answer with as much of its body as comes soon: its status is worth more than its last byte.

    Of a redirect nobody reads it, and that of a stream of events never ends.
    """
    if answer.status not in REDIRECTS:
        now = trio.current_time()
        left_s = trio.current_effective_deadline() - now  # for all of it; then nothing would be told
        with trio.move_on_at(now + min(BODY_TIMEOUT_S, left_s / 2)), contextlib.suppress(OSError):
            while phase.next_event() is Signal.NEED_DATA:
                phase.receive_data(await transport.receive())
    whole = phase.next_event()
    return phase.cut_body() if isinstance(whole, Signal) else whole


class _Reconnecting(AsyncIterator[WebSocket]):
    """Yields a connection, and a new one each time that the program asks for the next."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._websocket: WebSocket | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._opened_at = -math.inf

    def __aiter__(self) -> _Reconnecting:
        return self

    async def __anext__(self) -> WebSocket:
        if self._websocket is not None:
            await finish(self._websocket)
            self._websocket = None
            if trio.current_time() - self._opened_at >= GOOD_CONNECTION_S:
                self._backoff_s = FIRST_BACKOFF_S
            await self._rest("cut off", 0.0)
        while True:
            try:
                self._websocket = await self._connector.open()
            except (OSError, RawwsError) as error:
                least_s = _retry_after_s(error)
                if least_s is None:
                    raise
                await self._rest(sentence_of(error), least_s)
            else:
                self._opened_at = trio.current_time()
                return self._websocket

    async def _rest(self, why: str, least_s: float) -> None:
        rest_s = max(least_s, random.uniform(0, self._backoff_s))
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        logs.line(logs.http, logging.INFO, logs.SERVER, STATE, f"{why}; connecting again in {rest_s:.1f} s")
        await trio.sleep(rest_s)

    def __del__(self) -> None:
        # The program has left its loop, and with it the connection: it is closed in the background.
        if self._websocket is not None:
            with contextlib.suppress(Exception):
                self._websocket.begin_close()


def _retry_after_s(error: Exception) -> float | None:
    """Return how long to wait at least before another try; None where that would fail in the same way."""
    if isinstance(error, InvalidStatus | ProxyError) and (response := error.response) is not None:
        if response.status < 500 and response.status not in RETRIED_STATUSES:
            return None
        wish = response.headers.get("Retry-After", "0") or "0"
        return min(float(wish), MAX_BACKOFF_S) if wish.isascii() and wish.isdigit() else 0.0
    if isinstance(error, TlsError):
        return 0.0 if error.may_pass else None
    return 0.0 if isinstance(error, OSError) else None


def connect(
    uri: str,
    *,
    ssl: ssl_module.SSLContext | None = None,
    headers: FieldsLike | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: str | None = "deflate",
    user_agent: str | None = USER_AGENT,
    proxy: str | bool | None = True,
    max_redirects: int = 10,
    socket: socket.socket | None = None,
    open_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    close_timeout: float | None = 10,
    max_size: int | None = MIB,
    max_queue: int | None = 16,
    fast_lane: bool = True,
    resume: bool | str | None = False,
) -> Connector:
    """Connect to a WebSocket server: ``async with connect("wss://host/path") as ws:``, closed at the end.

    ``async for ws in connect(...)`` connects, and again each time that the loop comes round, which is to be when
    ``ws`` has raised `ConnectionClosed`; it waits a random time before each try, longer and longer up to a minute.
    It gives up, and raises, where another try would fail too: for 401, 403 and other statuses of 4xx, of a server or
    a proxy, a bad certificate, a server that doesn't speak WebSocket. To leave it, ``break``; the connection is
    closed then.

    ``uri`` begins with ``ws:``, ``wss:``, or ``ws+unix:`` (``ws+unix:///run/app.sock:/room``); a user name and a
    password in it are sent as Basic authorization. Times are in seconds, sizes in bytes; None switches a limit off.

    - ``ssl``: settings for TLS, in place of the default ones; ``ssl.create_default_context(cafile="cert.pem")`` trusts
      a self-signed certificate, or a private authority.
    - ``headers``: sent besides those of the handshake, such as Authorization or Cookie; those two are not sent
      on when the server redirects to another one.
    - ``origin``, ``subprotocols``, ``user_agent``: what the request says; the favourite subprotocol first.
    - ``proxy``: True for the one in the environment (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``),
      None for none, or ``http://host:port``.
    - ``socket``: a connected socket to use; it is ours from then on.
    - ``open_timeout``: for all from the look-up of the name to the 101, and with ``resume`` to the first message.
    - ``ping_interval``, ``ping_timeout``, ``close_timeout``, ``max_size``, ``max_queue``, ``compression``,
      ``fast_lane``: as for `serve`.

    With ``resume``, for a room of rawws, ``ws.last_id`` is the id of the message that was received last, and ``async
    for`` goes on behind it after a cut: nothing is missed that the room's history still has, and ``ws.gap`` says so if
    something is. An id in place of True is where to begin: one that another process noted, for instance.

    Raises `InvalidURI` and `UsageError` at once for what can't be meant. Connecting raises OSError when there is no
    connection, such as ConnectionRefusedError, `TlsError` (an ssl.SSLError) when TLS fails, with `CertificateError` for
    a certificate that isn't trusted, `OpenTimeout`, and `InvalidHandshake` when the server says no: `InvalidStatus` has
    its answer. `NoResponse`, when the connection ends first, is an OSError too. The message names the server, and the
    redirects that led to it; the original exception is the ``__cause__``.
    """
    return Connector(
        uri,
        ssl=ssl,
        headers=headers,
        origin=origin,
        subprotocols=subprotocols,
        compression=compression,
        user_agent=user_agent,
        proxy=proxy,
        max_redirects=max_redirects,
        socket=socket,
        open_timeout=open_timeout,
        limits=Limits(
            max_message_bytes=NO_LIMIT if max_size is None else max_size,
            max_queue=NO_LIMIT if max_queue is None else max_queue,
            header_timeout_s=open_timeout or 0.0,
            ping_interval_s=ping_interval or 0.0,
            ping_timeout_s=ping_timeout or 0.0,
            close_timeout_s=close_timeout or 0.0,
        ),
        fast_lane=fast_lane,
        resume=resume,
    )
