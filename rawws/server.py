"""Listeners, a task for each connection in its HTTP phase, the broadcast loop, and an orderly end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import trio

from rawws import logs
from rawws.errors import UsageError
from rawws.hub import Hub, Mode
from rawws.limits import MIB, Limits
from rawws.peer import HttpConnection
from rawws.transport import EXHAUSTED, TlsTransport, Transport, name_address, open_listeners
from rawws.wire.handshake import Origins
from rawws.wire.trace import FAULT, STATE

# One wake of a listener takes in at most so many connections before other tasks get their turn (a guess).
ACCEPT_BATCH = 64
# How long accepting rests when descriptors or buffers have run out: others must have time to go.
EXHAUSTED_PAUSE_S = 0.5


class Server:
    """A rawws server on sockets that listen already, which it owns once `run` has begun."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        limits: Limits | None = None,
        origins: Origins | None = None,
        mode: Mode = Mode.BROADCAST,
        hello: str = "",
        compression: bool = True,
        fast_lane: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.listeners = tuple(listeners)
        self.limits = limits or Limits()
        self.hub = Hub(self.limits, mode=mode, hello=hello, fast_lane=fast_lane)
        self._compression = compression
        self._tls = tls
        self._origins = origins or Origins()
        self._numbers = itertools.count(1)
        self._accepting = trio.CancelScope()
        self._stop = trio.Event()

    def stop(self) -> None:
        """Ask `run` to come to an orderly end: no new connections, a close to every peer, a bounded wait."""
        self._stop.set()

    @property
    def uses_tls(self) -> bool:
        return self._tls is not None

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called and the drain is over, or until cancelled, which ends it at once."""
        with contextlib.ExitStack() as stack:
            for listener in self.listeners:
                stack.callback(_close_listener, listener)
            async with trio.open_nursery() as everything:
                everything.start_soon(self.hub.run)
                everything.start_soon(self._accept_all)
                task_status.started(self)
                await self._stop.wait()
                self._accepting.cancel()
                await self.hub.stop(self.limits.drain_s)
                everything.cancel_scope.cancel()

    async def _accept_all(self) -> None:
        """Accept on every listener; connections still in their HTTP phase end together with it."""
        with self._accepting:
            async with trio.open_nursery() as connections:
                for listener in self.listeners:
                    connections.start_soon(self._accept, listener, connections)
        for listener in self.listeners:
            _close_listener(listener)

    async def _accept(self, listener: socket.socket, connections: trio.Nursery) -> None:
        pausing = False
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for connected in _accept_batch(listener):
                    connections.start_soon(self._serve_connection, connected)
                    if pausing:
                        pausing = False
                        _log(logging.INFO, STATE, "accepting again")
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    # accept() also reports what befell the new connection on its way (ECONNABORTED and
                    # others, see accept(2)): that is its end alone.
                    continue
                if not pausing:
                    pausing = True
                    _log(
                        logging.ERROR,
                        FAULT,
                        f"can't accept connections: {error.strerror}; accepting rests until some are closed",
                    )
                await trio.sleep(EXHAUSTED_PAUSE_S)

    async def _serve_connection(self, connected: socket.socket) -> None:
        number = next(self._numbers)
        try:
            connection = HttpConnection(
                number,
                Transport(connected) if self._tls is None else TlsTransport(connected, self._tls),
                limits=self.limits,
                origins=self._origins,
                compression=self._compression,
                hand_over=self.hub.adopt,
            )
            await connection.serve()
        except Exception:
            # Ours to mend, but not a reason to leave the others without a server.
            logs.http.exception("#%d ! an error in rawws itself; the connection is dropped", number)


def _accept_batch(listener: socket.socket) -> Iterator[socket.socket]:
    for _ in range(ACCEPT_BATCH):
        try:
            connected, _ = listener.accept()
        except BlockingIOError:
            return
        yield connected


def _close_listener(listener: socket.socket) -> None:
    if listener.fileno() >= 0:
        trio.lowlevel.notify_closing(listener)
        listener.close()


def raise_file_limit() -> None:
    """Raise this process's soft limit on open files to its hard one: each connection takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    # macOS names no limit here and then refuses more than OPEN_MAX: what can't be raised stays as it is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to 16 MiB of it, instead of returning it to the system each time.

    Large messages come and go many times a second. By default their memory goes back as soon as 128 KiB of it are
    free, and is then given to us anew a page at a time, which took half of the time of an echo of 64 KiB. The
    allocator raises its thresholds when a large block is freed (mallopt(3), M_MMAP_THRESHOLD); this is one, of
    which no page is ever touched. Where there is another allocator, nothing happens.
    """
    bytes(8 * MIB)


def load_tls(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return the server's TLS settings with a certificate chain and its private key, both PEM files.

    Raises `rawws.errors.UsageError` when they can't be read or don't belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])  # RFC 7301: else a browser may hope for HTTP/2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise UsageError(
            f"the TLS certificate {certificate!r} and its key {key or certificate!r} can't be used: "
            f"{error.reason or error}; both are to be PEM files that belong together"
        ) from None
    except OSError as error:
        raise UsageError(
            f"the TLS certificate {certificate!r} or its key {key or certificate!r} can't be read: {error.strerror}"
        ) from None
    return context


async def run_program(host: str, port: int, make_server: Callable[[Sequence[socket.socket]], Server]) -> None:
    """Be the whole program: listen, serve until SIGINT or SIGTERM, drain; a second signal ends the drain.

    Raises `rawws.errors.ListenError` when it can't listen.
    """
    raise_file_limit()
    keep_freed_memory()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        server = make_server(await open_listeners(host, port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, server, nursery.cancel_scope)
            for listener in server.listeners:
                name, s = name_address(listener.getsockname()), server.uses_tls * "s"
                _log(logging.INFO, STATE, f"listening on http{s}://{name} and ws{s}://{name} (any path is a room)")
            await server.run()
            nursery.cancel_scope.cancel()
        _log(logging.INFO, STATE, "stopped")


async def _obey(signals: AsyncIterator[int], server: Server, program: trio.CancelScope) -> None:
    async for received in signals:
        name = signal.Signals(received).name
        if server.stopping:
            _log(logging.WARNING, STATE, f"{name} again: ending at once")
            program.cancel()
            return
        waiting = f"peers to close: {server.hub.peer_count}, for {server.limits.drain_s:g} s at most"
        _log(logging.INFO, STATE, f"{name}: accepting no more, {waiting}")
        server.stop()


def _log(level: int, mark: str, text: str) -> None:
    logs.line(logs.server, level, logs.SERVER, mark, text)
