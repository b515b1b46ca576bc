"""One attempt of a client to open a connection: its request, the answer, and the errors about it."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import ssl as ssl_module

import trio

from rawws import logs
from rawws.errors import InvalidHandshake, InvalidResponse, NoResponse, OpenTimeout
from rawws.limits import Limits
from rawws.net.addresses import format_address
from rawws.net.dial import dial
from rawws.net.tls import GIVE_CERTIFICATE, TlsError, explain
from rawws.net.transport import Transport
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer
from rawws.wire.http1 import Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Request, Response
from rawws.wire.trace import FAULT, IN, OUT, STATE, head_lines, mask_target, shorten
from rawws.wire.uri import WebSocketURI

REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Time for the body of an answer, after its head (a guess).
BODY_TIMEOUT_S = 1.0
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


def tls_advice_for(uri: WebSocketURI) -> str:
    return "" if uri.secure else _USE_WSS


def advise_on_tls(uri: WebSocketURI, response: Response) -> str:
    """Return advice if a server's answer is about TLS, otherwise an empty string."""
    for words, secure, advice in _ABOUT_TLS:
        if response.status == 400 and uri.secure is secure and words.search(response.body, 0, _SEARCHED_BYTES):
            return advice
    return ""


class Redirects:
    """The redirects that were followed so far; every later error names them."""

    def __init__(self) -> None:
        self._hops: list[tuple[WebSocketURI, int, WebSocketURI, bool]] = []

    def add(self, source: WebSocketURI, status: int, target: WebSocketURI, *, withheld: bool) -> None:
        """Record one. With ``withheld``, the source was sent credentials, and the target is not."""
        self._hops.append((source, status, target, withheld))

    @property
    def are_circular(self) -> bool:
        """Whether the last one led to an address that had redirected us before."""
        return any(source == self._hops[-1][2] for source, *_ in self._hops)

    def name_in(self, error: OSError | InvalidHandshake | OpenTimeout) -> None:
        """Put them in front of an error's message, which would name only a server that the caller doesn't know."""
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
            hops.append(f"to {shown(target)} ({why})")
        if len(hops) > MOST_HOPS_NAMED:
            hops[1 : 1 - MOST_HOPS_NAMED] = ["…"]
        return f"{shown(self._hops[0][0])} sent us on {', then '.join(hops)}"


def shown(uri: WebSocketURI) -> str:
    """Return an address as errors show it."""
    return shorten(mask_target(str(uri)))


class Attempt:
    """One connection as it is being opened: its number in the log, and how far it has come."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.stage = "connecting"
        self.advice = ""  # for the user, if the stage takes too long
        self.through = ""  # a proxy, if there is one
        self.redirects = Redirects()
        self._limits = limits

    def log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self.number, mark, text)

    async def dial(self, host: str, port: int, unix_path: str | None = None) -> socket.socket:
        """Return a connected socket, which the caller owns. Raises OSError with the address and the reason."""
        where = unix_path or format_address((host, port))
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
            with contextlib.suppress(ConnectionError):  # a server that no longer reads may have sent a reason
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
        """Check the answer against the RFC's requirements, and show the result of each."""
        answer = handshake.examine(response)
        logs.show_checks(self.number, answer.checks, () if answer.fault else handshake.accept.steps)
        if answer.fault:
            self.log(logs.handshake, logging.INFO, FAULT, f"no handshake: {answer.fault}")
        return answer


async def _receive_body(transport: Transport, phase: ResponsePhase, answer: Response) -> Response | str:
    """Return an answer with as much of its body as comes soon: the status matters more than the last byte.

    The body of a redirect is not read, and the body of a stream of events never ends.
    """
    if answer.status not in REDIRECTS:
        now = trio.current_time()
        left_s = trio.current_effective_deadline() - now  # after it, the error would be a timeout, without the status
        with trio.move_on_at(now + min(BODY_TIMEOUT_S, left_s / 2)), contextlib.suppress(OSError):
            while phase.next_event() is Signal.NEED_DATA:
                phase.receive_data(await transport.receive())
    whole = phase.next_event()
    return phase.cut_body() if isinstance(whole, Signal) else whole
