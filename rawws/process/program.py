"""A rawws server as a whole process: its resources, its TLS files, its signals."""

from __future__ import annotations

import contextlib
import logging
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import trio

from rawws import logs
from rawws.application.whereabouts import place_of_blocked_loop
from rawws.net.addresses import format_address
from rawws.net.listeners import open_listeners
from rawws.net.tls import load_certificate
from rawws.process import systemd
from rawws.process.malloc import HeapTrimmer, raise_trim_threshold
from rawws.process.reloading import Reloading
from rawws.process.signals import LATE_S, end_soon, ending_signals
from rawws.process.workers import WorkerContext
from rawws.server.server import Server
from rawws.wire.trace import STATE, TIMER

_log = logs.server_line

# A worker without its parent process gets no second signal, so it ends by force this long after its drain. Its
# application has five seconds to end, and messages that wait for a backplane have three.
ORPHAN_S = 10.0


def raise_file_limit() -> None:
    """Raise this process's soft limit on open files to its hard one: each connection takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    # macOS reports no limit here, and then refuses more than OPEN_MAX. A limit that can't be raised stays as it is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def load_tls(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return the server's TLS settings with a certificate chain and its private key, both PEM files.

    Raises `rawws.errors.UsageError` when they can't be read or don't belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])  # RFC 7301: otherwise a browser may expect HTTP/2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL's own default since 3.0: a handshake at a client's whim
    load_certificate(context, "the TLS certificate", certificate, key)
    return context


Serve = Callable[[Sequence[socket.socket], trio.TaskStatus[Server]], Awaitable[None]]


async def run_program(
    host: str,
    port: int,
    serve: Serve,
    remark: Callable[[], str],
    worker: WorkerContext | None = None,
    invite: Callable[[], str] = str,
    reload: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run the whole program: listen, serve until a signal, and drain; a second signal ends the drain.

    Listening sockets of systemd, or of the process whose ``worker`` this is, are used in place of ``host`` and
    ``port``. ``serve(listeners, task_status)`` is `rawws.serve` with its other arguments. ``remark`` returns the words
    that follow the addresses in the log, and ``invite`` a line that is logged after them, or an empty one.
    ``reload`` is called at each SIGHUP, which otherwise is a signal to end. Raises `rawws.errors.ListenError` if it
    can't listen.
    """
    raise_file_limit()
    raise_trim_threshold()
    with ending_signals(on_hangup=reload is None) as signals:
        ending = _Ending()
        async with trio.open_nursery() as nursery:
            if reload is not None:
                await nursery.start(Reloading(reload).run, ending.hang_up)
            nursery.start_soon(ending.heed, signals)  # before all else, since an application may take long to start
            if worker is not None:
                nursery.start_soon(ending.heed_link, worker)
            with ending.work:
                listeners = systemd.inherited_listeners() if worker is None else worker.listeners
                await _serve(serve, listeners or await open_listeners(host, port), remark, invite, worker, ending)
            nursery.cancel_scope.cancel()  # signals need no waiting any more
        _log(logging.INFO, STATE, "stopped")


async def _serve(
    serve: Serve,
    listeners: Sequence[socket.socket],
    remark: Callable[[], str],
    invite: Callable[[], str],
    worker: WorkerContext | None,
    ending: _Ending,
) -> None:
    """Serve to the end. When serving begins, notify systemd, the parent process and the log."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Server]) -> None:
            await serve(listeners, task_status)
            nursery.cancel_scope.cancel()

        server = ending.server = await nursery.start(run)
        nursery.start_soon(HeapTrimmer().run)
        for listener in server.listeners:
            name, s = format_address(listener.getsockname()), "s" * server.uses_tls
            is_unix = listener.family == socket.AF_UNIX
            where = f"unix:{name}" if is_unix else f"http{s}://{name} and ws{s}://{name}"
            _log(logging.INFO, STATE, f"listening on {where} ({remark()})")
        if invitation := invite():
            _log(logging.INFO, STATE, invitation)
        systemd.notify("READY=1", f"STATUS=listening on {', '.join(server.addresses)}")
        if worker is not None:
            worker.notify_ready()


class _Ending:
    """The end of the program: in order after the first request, and at once after the second."""

    def __init__(self) -> None:
        self.work = trio.CancelScope()  # around everything that has to end
        self.server: Server | None = None  # None until there is one
        self._has_begun = False

    async def heed(self, signals: AsyncIterator[int]) -> None:
        """Handle signals until the second one."""
        async with trio.open_nursery() as nursery:
            async for received in signals:
                name = signal.Signals(received).name
                if self._has_begun:
                    _log(logging.WARNING, STATE, f"{name} again: ending at once")
                    self.work.cancel()
                    nursery.cancel_scope.cancel()
                    break
                drain_s = self._begin(name)
                nursery.start_soon(_tell_who_is_late, drain_s + LATE_S)

    def hang_up(self) -> None:
        """End since the terminal is gone, if this hasn't begun."""
        if not self._has_begun:
            self._begin("SIGHUP, and the terminal is gone")

    async def heed_link(self, worker: WorkerContext) -> None:
        """End when the first process is gone."""
        await worker.wait_parent_exit()
        drain_s = self._begin("the first process is gone", logging.ERROR)
        end_soon(drain_s + ORPHAN_S, "the first process is gone, and the application goes on")

    def _begin(self, why: str, level: int = logging.INFO) -> float:
        """Begin to end in order, and return the number of seconds that peers may delay the end."""
        self._has_begun = True
        if self.server is None:
            _log(level, STATE, f"{why}: ending before anything was served")
            systemd.notify("STOPPING=1", "STATUS=ending before anything was served")
            self.work.cancel()
            return 0.0
        drain_s = self.server.limits.drain_s
        waiting = f"peers to close: {self.server.peer_count}, for {drain_s:g} s at most"
        _log(level, STATE, f"{why}: accepting no more, {waiting}")
        systemd.notify("STOPPING=1", f"STATUS=closing {self.server.peer_count} peers")
        self.server.stop()
        return drain_s


async def _tell_who_is_late(after_s: float) -> None:
    await trio.sleep(after_s)
    place = place_of_blocked_loop()
    blocked = f", whose loop is at {place}," if place else ""
    reason = f"the application{blocked} goes on: a handler, a thread, its startup or shutdown"
    _log(logging.WARNING, TIMER, f"{reason}; another signal ends it at once")
