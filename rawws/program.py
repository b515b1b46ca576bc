"""A rawws server as a whole process: its resources, its TLS files, its signals."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from rawws import logs, systemd
from rawws.errors import UsageError
from rawws.heap import FreedMemory, keep_freed_memory
from rawws.server import Server
from rawws.signals import ending_signals
from rawws.transport import open_listeners
from rawws.wire.trace import FAULT, STATE, TIMER
from rawws.workers import Membership

# What can't be cancelled (a thread of an application's, a handler that goes on regardless) keeps a program from its
# end. That is told when it is so late, and what is left is ended by force so long after a second signal.
LATE_S = 1.0
FORCE_S = 1


def raise_file_limit() -> None:
    """Raise this process's soft limit on open files to its hard one: each connection takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    # macOS names no limit here and then refuses more than OPEN_MAX: what can't be raised stays as it is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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


Serve = Callable[[Sequence[socket.socket], trio.TaskStatus[Server]], Awaitable[None]]


async def run_program(
    host: str, port: int, serve: Serve, remark: Callable[[], str], worker: Membership | None = None
) -> None:
    """Be the whole program: listen, serve until a signal ends that, drain; a second signal ends the drain.

    Sockets that systemd listens on for us, or the process whose ``worker`` this is, are used in place of ``host`` and
    ``port``. ``serve(listeners,
    task_status)`` is `rawws.serve` with all else that it needs; ``remark`` is what is said of it when it listens.
    Raises `rawws.errors.ListenError` when it can't listen.
    """
    raise_file_limit()
    keep_freed_memory()
    with ending_signals() as signals:
        listeners = systemd.inherited_listeners() if worker is None else worker.listeners
        listeners = listeners or await open_listeners(host, port)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(_serve, serve, listeners, nursery.cancel_scope)
            nursery.start_soon(FreedMemory().keep_giving_back)
            for name in server.addresses:
                s = "s" * server.uses_tls
                _log(logging.INFO, STATE, f"listening on http{s}://{name} and ws{s}://{name} ({remark()})")
            systemd.notify("READY=1", f"STATUS=listening on {', '.join(server.addresses)}")
            if worker is not None:
                worker.say_ready()
                nursery.start_soon(_stop_as_orphan, worker, server)
            async for received in signals:
                name = signal.Signals(received).name
                if server.stopping:
                    _log(logging.WARNING, STATE, f"{name} again: ending at once")
                    signal.signal(signal.SIGALRM, _end_by_force)
                    signal.alarm(FORCE_S)
                    nursery.cancel_scope.cancel()
                    break
                waiting = f"peers to close: {server.peer_count}, for {server.limits.drain_s:g} s at most"
                _log(logging.INFO, STATE, f"{name}: accepting no more, {waiting}")
                systemd.notify("STOPPING=1", f"STATUS=closing {server.peer_count} peers")
                server.stop()
                nursery.start_soon(_tell_who_is_late, server.limits.drain_s + LATE_S)
        signal.alarm(0)
        _log(logging.INFO, STATE, "stopped")


async def _serve(
    serve: Serve,
    listeners: Sequence[socket.socket],
    program: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    await serve(listeners, task_status)
    program.cancel()  # nobody need wait for a signal any more


async def _stop_as_orphan(worker: Membership, server: Server) -> None:
    await worker.wait_orphaned()
    _log(logging.ERROR, FAULT, "the first process is gone: accepting no more")
    server.stop()


async def _tell_who_is_late(after_s: float) -> None:
    await trio.sleep(after_s)
    told = "the drain is over, and the application goes on: a handler, a thread, its shutdown"
    _log(logging.WARNING, TIMER, f"{told}; it is waited for until another signal")


def _end_by_force(*_: object) -> None:
    _log(logging.ERROR, FAULT, "something of the application's can't be cancelled: ending without it")
    os._exit(1)


def _log(level: int, mark: str, text: str) -> None:
    logs.line(logs.server, level, logs.SERVER, mark, text)
