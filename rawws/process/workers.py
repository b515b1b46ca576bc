"""Several processes on one port, which share their rooms: with each other alone, or as nodes of one backplane.

The first process listens, starts the workers, and serves no clients. Each worker has its own listening socket
(``SO_REUSEPORT``: the kernel distributes connections over them). The first process keeps these sockets too. So when a
worker dies, the connections waiting in its queue are served by its successor.

A worker gets its number, its listening sockets and its link in an environment variable, `VARIABLE`. The link is a
socket to the first process. The worker reports on it that it serves. When the link ends, the first process is gone, and
the worker drains as if it had got a signal. Without Redis there is another socket, on which the first process shares
the rooms (`rawws.local`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from rawws import logs
from rawws.errors import UsageError
from rawws.local.serving import SequencerServer
from rawws.net.addresses import format_address
from rawws.net.listeners import open_listeners
from rawws.process import systemd
from rawws.process.reloading import Reloading
from rawws.process.signals import ending_signals, name_signal
from rawws.wire.trace import FAULT, STATE

_log = logs.server_line

VARIABLE = "RAWWS_WORKER"
# More workers than any machine has cores. A typing error must not use up the system's resources.
MAX_WORKERS = 1024
# The delay before a dead worker is replaced. It doubles each time, until a worker has lived for a while.
FIRST_REST_S, MAX_REST_S = 0.2, 30.0
LIVED_S = 60.0
# The delay before a worker is killed that ignores a second signal, since it is stopped or its loop is blocked. Other
# workers end by force within a second.
KILL_S = 3.0


@dataclass(frozen=True)
class WorkerContext:
    """A worker's number, its listening sockets, and its link to the first process.

    ``rooms`` goes to the sequencer there, if the rooms are not shared through Redis.
    """

    number: int
    listeners: list[socket.socket]
    link: socket.socket
    rooms: socket.socket | None = None

    @classmethod
    def of_this_process(cls) -> WorkerContext | None:
        """Return this process's context if it is a worker, otherwise None. Call it once.

        Raises `UsageError` for an invalid environment variable.
        """
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        try:
            number, fds, *links = json.loads(given)
            for link in links:
                os.set_inheritable(link, False)
            return cls(number, [systemd.listener_of(fd) for fd in fds], *(socket.socket(fileno=link) for link in links))
        except (ValueError, TypeError, OSError, UsageError):
            raise UsageError(
                f"{VARIABLE} is {given!r}, which is not a value that --workers sets for its processes; unset it"
            ) from None

    def notify_ready(self) -> None:
        with contextlib.suppress(OSError):
            self.link.send(b"ready")

    def give_up(self) -> None:
        """Have `wait_parent_exit` return, since the first process is of no use any more."""
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)

    async def wait_parent_exit(self) -> None:
        """Wait until the first process has ended."""
        self.link.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(self.link)
            try:
                if not self.link.recv(16):
                    return
            except BlockingIOError:
                continue
            except OSError:
                return


async def run_workers(
    count: int,
    host: str,
    port: int,
    *,
    reloads: bool = False,
    make_sequencer: Callable[[], SequencerServer] | None = None,
) -> int:
    """Keep ``count`` workers running until a signal, which drains them all; a second one ends them at once.

    Each is started like this process, by the same interpreter with the same arguments. Returns the exit status, which
    is that of a worker if it could not begin. With ``reloads``, SIGHUP is passed on to the workers, which read files
    anew. With ``make_sequencer``, the workers share their rooms through its result.

    Raises `rawws.errors.ListenError`.
    """
    with ending_signals(kept_by=None, on_hangup=not reloads) as signals:  # workers have more time
        supervisor = _Supervisor(await _listen(count, host, port), make_sequencer and make_sequencer())
        async with trio.open_nursery() as nursery:
            if reloads:
                await nursery.start(Reloading(supervisor.reload).run, supervisor.hang_up)
            nursery.start_soon(supervisor.run, nursery.cancel_scope)
            async for received in signals:
                if supervisor.is_stopping:
                    nursery.start_soon(supervisor.kill_late)
                supervisor.stop(f"{signal.Signals(received).name}: the workers are to drain")
    if not supervisor.status:
        _log(logging.INFO, STATE, "stopped")
    return supervisor.status


async def _listen(count: int, host: str, port: int) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker."""
    inherited = systemd.inherited_listeners()
    if inherited:
        return [inherited] * count
    # A port of another program is refused as usual; with SO_REUSEPORT it would be shared.
    probe = await open_listeners(host, port)
    chosen = port or probe[0].getsockname()[1]
    for listener in probe:
        listener.close()
    return [await open_listeners(host, chosen, reuse_port=True) for _ in range(count)]


@dataclass(eq=False)
class _Worker:
    number: int
    listeners: list[socket.socket]
    process: trio.Process | None = None
    is_ready: bool = False
    has_missed_reload: bool = False  # a request to read files anew came while it was starting


class _Supervisor:
    """The workers: it starts, replaces and ends them."""

    def __init__(self, sockets: list[list[socket.socket]], sequencer: SequencerServer | None = None) -> None:
        self._sequencer = sequencer
        self._links: trio.Nursery | None = None  # for the sequencer's ends of the links
        # The command as it was given: -m searches the current directory for modules, the installed command doesn't.
        self._command = [sys.executable, *sys.orig_argv[1:]]
        self._workers = [_Worker(number, listeners) for number, listeners in enumerate(sockets, 1)]
        self._addresses = ", ".join(format_address(listener.getsockname()) for listener in sockets[0])
        self._stopping = trio.Event()
        self._first_has_begun = trio.Event()
        self._have_begun = False
        self.status = 0

    async def run(self, program: trio.CancelScope) -> None:
        """Keep the workers running until they are stopped.

        One starts before the others: an error that affects all of them is then reported once.
        """
        first, *others = self._workers
        try:
            async with trio.open_nursery() as self._links:
                if self._sequencer is not None:
                    self._links.start_soon(self._sequencer.run)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_running, first)
                    await self._first_has_begun.wait()
                    for worker in others:
                        nursery.start_soon(self._keep_running, worker)
                self._links.cancel_scope.cancel()
        finally:
            self._close_listeners()
        program.cancel()

    def stop(self, why: str) -> None:
        """Have all workers drain, or end at once if they drain already."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        if not self.is_stopping:
            if running:
                _log(logging.INFO, STATE, why)
            systemd.notify("STOPPING=1", f"STATUS={len(running)} workers drain")
            self._stopping.set()
            self._first_has_begun.set()  # it has begun, or never will
            self._close_listeners()  # otherwise new connections would wait in a queue without a worker
        for process in running:
            process.send_signal(signal.SIGTERM)

    async def reload(self) -> None:
        """Have all workers read their files anew."""
        for worker in self._workers:
            if worker.is_ready and worker.process is not None:
                worker.process.send_signal(signal.SIGHUP)
            else:  # it may have read them already, and SIGHUP might still end it
                worker.has_missed_reload = True

    def hang_up(self) -> None:
        """Have all workers drain, since the terminal is gone."""
        if not self.is_stopping:
            self.stop("SIGHUP, and the terminal is gone: the workers are to drain")

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def kill_late(self) -> None:
        """Kill the workers that should have ended at once, and have not."""
        await trio.sleep(KILL_S)
        for worker in self._workers:
            if worker.process is not None:
                _log(logging.ERROR, FAULT, f"worker {worker.number} doesn't end by itself: killing it")
                worker.process.kill()
                self.status = 1

    def _close_listeners(self) -> None:
        for worker in self._workers:
            for listener in worker.listeners:
                listener.close()

    async def _keep_running(self, worker: _Worker) -> None:
        """Start a worker, and another whenever it has died."""
        rest_s = FIRST_REST_S
        while not self.is_stopping:
            began = trio.current_time()
            try:
                status = await self._run(worker)
                ended = f"ended (status {status})" if status >= 0 else f"ended ({name_signal(-status)})"
            except OSError as error:  # out of descriptors, or of processes
                status, ended = 0, f"can't be started ({error.strerror or error})"
            if self.is_stopping:
                self.status = max(self.status, status)  # 1 if the worker had to end by force
                return
            if not self._have_begun and status > 0:  # the worker has reported why
                self.status = status
                self.stop(f"worker {worker.number} can't begin: the others are to end")
                return
            rest_s = FIRST_REST_S if trio.current_time() - began > LIVED_S else min(2 * rest_s, MAX_REST_S)
            _log(logging.ERROR, FAULT, f"worker {worker.number} {ended}; another one comes in {rest_s:g} s")
            with trio.move_on_after(rest_s):
                await self._stopping.wait()

    async def _run(self, worker: _Worker) -> int:
        """Run a worker to its end, and return its status."""
        worker.has_missed_reload = False  # it reads the files that there are from now on
        ours, theirs = socket.socketpair()
        fds = [listener.fileno() for listener in worker.listeners]
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
        with ours, self._room_link(worker) as rooms:
            links = [theirs] if rooms is None else [theirs, rooms]
            environment[VARIABLE] = json.dumps([worker.number, fds, *(link.fileno() for link in links)])
            with contextlib.ExitStack() as of_worker:
                for link in links:
                    of_worker.enter_context(link)
                # Its own session: otherwise a terminal's Ctrl-C would reach it besides our own signal.
                process = await trio.lowlevel.open_process(
                    self._command,
                    env=environment,
                    pass_fds=[*fds, *(link.fileno() for link in links)],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                )
            worker.process = process
            if self.is_stopping:  # the stop came before there was a process to signal
                process.send_signal(signal.SIGTERM)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear, worker, ours)
                    status = await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                worker.process = None
                worker.is_ready = False
                if process.returncode is None:
                    process.kill()
        return status

    @contextlib.contextmanager
    def _room_link(self, worker: _Worker) -> Iterator[socket.socket | None]:
        """Give a worker a link to the sequencer for the block, and return the worker's end; None without a sequencer.

        Messages that the worker has sent before its end are still read.
        """
        if self._sequencer is None or self._links is None:
            yield None
            return
        ours, theirs = socket.socketpair()
        self._links.start_soon(self._sequencer.serve, ours, worker.number)
        try:
            yield theirs
        finally:
            theirs.close()
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)  # a child of the worker may have inherited its end

    async def _hear(self, worker: _Worker, link: socket.socket) -> None:
        """Wait until a worker serves."""
        link.setblocking(False)
        await trio.lowlevel.wait_readable(link)
        with contextlib.suppress(OSError):
            worker.is_ready = bool(link.recv(16))
        if worker.is_ready:
            self._first_has_begun.set()
            if worker.has_missed_reload and worker.process is not None:
                worker.process.send_signal(signal.SIGHUP)
        if not self._have_begun and all(each.is_ready for each in self._workers):
            self._have_begun = True
            _log(logging.INFO, STATE, f"{len(self._workers)} workers listen on {self._addresses}")
            systemd.notify("READY=1", f"STATUS={len(self._workers)} workers on {self._addresses}")


_NOT_FOR_WORKERS = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
