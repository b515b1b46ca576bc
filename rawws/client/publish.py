"""`publish` and `publish_async`: a message for a room of a server in another process, by POST.

Both use a blocking socket; `publish_async` has a thread for it, and so works on trio and on asyncio. A program that
publishes needs no loop of rawws, and no connection is kept between two messages.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl as ssl_module
import threading
import time
from typing import Any

import trio

from rawws.errors import NoResponse, UsageError, sentence_of
from rawws.limits import KIB, Limits
from rawws.net.addresses import format_address
from rawws.net.dial import explain_dial
from rawws.net.tls import TlsError, default_context, explain
from rawws.net.transport import RECEIVE_BYTES
from rawws.runtime import event_loop_here
from rawws.wire.events import Data
from rawws.wire.http1 import Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Response
from rawws.wire.publishing import Post, Published, Setback, Tries

TIMEOUT_S = 30.0
TRIES = 5
# A try is given up if nothing can be sent or received for this long. The server itself answers within 5 s.
IDLE_S = 10.0
# The bytes that are sent before the next look for an early answer, such as 413.
SENT_AT_ONCE_BYTES = 256 * KIB
MAX_ANSWER_BYTES = 64 * KIB


def publish(
    url: str,
    message: Data,
    *,
    text: bool | None = None,
    key: str | None = None,
    token: str | None = None,
    idempotency_key: str | None = None,
    timeout: float = TIMEOUT_S,
    tries: int = TRIES,
    ssl: ssl_module.SSLContext | None = None,
) -> Published:
    """Publish a message in the room at an address, and return its id. This blocks, and needs no event loop.

    ``url`` is ``http://``, ``https://``, or ``http+unix:///PATH/OF/SOCKET:/room``. A ``str`` goes as text, anything
    bytes-like as binary, unless ``text`` says otherwise. ``key`` is for rooms whose slow peers get the newest message
    of each key. ``token`` is the server's publish token, or one that its ``access`` knows. No proxy is used, and no
    redirect followed. ``ssl`` replaces the settings by which certificates are checked.

    There are at most ``tries``, within ``timeout`` seconds in all. After a lost connection, and a status of 408, 425,
    429, 502, 503 or 504, another one follows, after the time in the server's ``Retry-After``. A message isn't published
    twice: all tries have one ``idempotency_key``, which is made if it isn't given, and which the server knows for ten
    minutes, or until it is started again. Give one, such as an order's number, to repeat the call safely as well.

    Raises `rawws.PublishRefused` when the server refuses the message, `rawws.PublishUnsure` when it isn't known whether
    it was published, and `rawws.PublishError` when there is no server; `rawws.TlsError`; and `rawws.UsageError` for
    arguments that can't be sent, and in the thread of an event loop.
    """
    if event_loop_here():
        raise UsageError("rawws.publish would block the event loop; use await rawws.publish_async(url, message)")
    post = _post(url, message, text, key, token, idempotency_key)
    return _Poster(post, timeout, tries, ssl).run()


async def publish_async(
    url: str,
    message: Data,
    *,
    text: bool | None = None,
    key: str | None = None,
    token: str | None = None,
    idempotency_key: str | None = None,
    timeout: float = TIMEOUT_S,
    tries: int = TRIES,
    ssl: ssl_module.SSLContext | None = None,
) -> Published:
    """Do the same as `publish`, on trio or asyncio, in a thread.

    When it is cancelled, it returns at once and the connection is closed; the message may have been published.
    """
    poster = _Poster(_post(url, message, text, key, token, idempotency_key), timeout, tries, ssl)
    try:
        if trio.lowlevel.in_trio_task():
            return await trio.to_thread.run_sync(poster.run, abandon_on_cancel=True)
        if event_loop_here() != "asyncio":
            raise UsageError("rawws.publish_async runs on trio or asyncio; elsewhere, use rawws.publish(url, message)")
        import asyncio  # it runs here already

        return await asyncio.to_thread(poster.run)
    except BaseException:
        poster.abort()
        raise


def _post(
    url: str, message: Data, text: bool | None, key: str | None, token: str | None, idempotency_key: str | None
) -> Post:
    once = secrets.token_hex(16) if idempotency_key is None else idempotency_key
    return Post(url, message, text=text, token=token, key=key, idempotency_key=once)


class _Poster:
    """Sends one message until it is published, or no further try is left."""

    def __init__(self, post: Post, timeout_s: float, tries: int, ssl: ssl_module.SSLContext | None) -> None:
        self._post = post
        self._ssl = ssl
        self._timeout_s = timeout_s
        self._tries = tries
        uri = post.uri
        self._where = uri.unix_path or format_address((uri.host, uri.port))
        self._is_aborted = threading.Event()
        self._socket: socket.socket | None = None
        Tries(tries, timeout_s, 0.0)  # raises in the caller's task

    def run(self) -> Published:
        """Return when the message is published. Raises as `publish` does."""
        tries = Tries(self._tries, self._timeout_s, time.monotonic())
        while True:
            until = time.monotonic() + tries.left_s(time.monotonic())
            outcome = self._try(until)
            if isinstance(outcome, Published):
                return outcome
            wait_s = tries.wait_after(outcome, time.monotonic(), random.random())
            if wait_s is None or self._is_aborted.wait(wait_s):
                raise tries.error(outcome, self._where)

    def abort(self) -> None:
        """Have `run` end soon, in its own thread. Harmless when it has ended."""
        self._is_aborted.set()
        if (connected := self._socket) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # not TLS's own, which isn't for two threads

    def _try(self, until: float) -> Published | Setback:
        try:
            connected = self._connect(until)
        except TlsError as error:
            if not error.may_pass:
                raise
            return Setback(sentence_of(error), may_pass=True, may_be_published=False)
        except OSError as error:
            passes = not isinstance(error, socket.gaierror) or error.errno == socket.EAI_AGAIN
            return Setback(f"can't connect: {explain_dial(error)}", passes, may_be_published=False)
        with connected:
            return self._exchange(connected, until)

    # A connection

    def _connect(self, until: float) -> socket.socket:
        """Connect to the first of the server's addresses that accepts."""
        uri = self._post.uri
        places: list[tuple[int, Any]] = [(socket.AF_UNIX, uri.unix_path)]
        if uri.unix_path is None:
            found = socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
            places = [(family, address) for family, _, _, _, address in found]
        while True:
            family, address = places.pop(0)
            self._socket = connected = socket.socket(family, socket.SOCK_STREAM)
            try:
                connected.settimeout(_idle_s(until))
                connected.connect(address)
                break
            except OSError:
                connected.close()
                if not places or self._is_aborted.is_set():
                    raise
        if uri.unix_path is None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._start_tls(connected) if uri.secure else connected

    def _start_tls(self, connected: socket.socket) -> socket.socket:
        if self._ssl is None:
            self._ssl = default_context()
        try:
            self._socket = secured = self._ssl.wrap_socket(connected, server_hostname=self._post.uri.host)
        except OSError as error:
            connected.close()
            raise self._explain(error) from error
        return secured

    def _explain(self, error: OSError) -> OSError:
        """Return the exception for a failure of TLS, in the words of HTTP."""
        explained = explain(error, self._where)
        words = sentence_of(explained).replace("wss://", "https://").replace("ws://", "http://")
        if type(explained) is TlsError:
            words = words.replace("not a TLS record;", "not a TLS record; use http:// if it speaks that, or")
            return TlsError(words, explained.reason, may_pass=explained.may_pass)
        return NoResponse(words) if isinstance(explained, NoResponse) else explained

    # The request and its answer

    def _exchange(self, connected: socket.socket, until: float) -> Published | Setback:
        phase = ResponsePhase(Limits(max_body_bytes=MAX_ANSWER_BYTES))
        sent = _Sent()
        try:
            sent.send(connected, phase.send_request(self._post.request), until)
            if sent.early is not None:
                phase.receive_data(sent.early)
            while (answer := phase.next_event()) is Signal.NEED_DATA:
                connected.settimeout(_idle_s(until))
                phase.receive_data(connected.recv(RECEIVE_BYTES))
        except TimeoutError:
            return Setback(f"no answer within {IDLE_S:g} s, or the timeout", True, sent.is_complete)
        except OSError as error:
            if isinstance(error, ssl_module.SSLError) and not phase.has_begun:
                explained = self._explain(error)
                if isinstance(explained, TlsError):
                    raise explained from error
            return Setback(f"the connection was lost: {error.strerror or error}", True, sent.is_complete)
        if isinstance(answer, Response) and not (phase.body_cut and answer.status < 300):
            return self._post.read(answer)
        if phase.cut_off or isinstance(answer, Response):
            return Setback("the connection ended before the whole answer had come", True, sent.is_complete)
        advice = ": use https://" if phase.speaks_tls else "; check host and port"
        return Setback(f"{answer}{advice}", may_pass=False, may_be_published=False)


class _Sent:
    """The progress of a request: whether all of it was sent, and the beginning of an answer that came before."""

    def __init__(self) -> None:
        self.is_complete = False
        self.early: bytes | None = None

    def send(self, connected: socket.socket, data: bytes, until: float) -> None:
        """Send all data, unless an answer comes first, or the server reads no more and may have answered."""
        rest = memoryview(data)
        with contextlib.suppress(ConnectionError):
            while rest:
                connected.settimeout(_idle_s(until))
                rest = rest[connected.send(rest[:SENT_AT_ONCE_BYTES]) :]
                if rest and (early := _receive_now(connected)) is not None:
                    self.early = early
                    return
            self.is_complete = True


def _receive_now(connected: socket.socket) -> bytes | None:
    """Return bytes that have come, empty at the end of the stream; None if there are none."""
    connected.settimeout(0)
    try:
        return connected.recv(RECEIVE_BYTES)
    except (BlockingIOError, ssl_module.SSLWantReadError):
        return None


def _idle_s(until: float) -> float:
    """Return the timeout of the next call of a socket. Raises TimeoutError when the time is over."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return min(IDLE_S, left_s)
