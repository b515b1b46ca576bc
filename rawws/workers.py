"""Several processes on one port, which are simply nodes of one backplane.

The first process listens, starts the workers and serves nobody. Each worker has a listening socket of its own
(``SO_REUSEPORT``: the kernel spreads connections over them), which the first process keeps too: so when a worker dies,
who waits there is served by the one that comes in its place.

A worker is told what it is by an environment variable, `VARIABLE`: its number, its listening sockets and its link,
which is a socket to the first process. A worker says there that it serves; when the link ends, the first process is
gone, and the worker drains as if it had been told to.
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
from dataclasses import dataclass

import trio

from rawws import logs, systemd
from rawws.addresses import format_address
from rawws.errors import UsageError
from rawws.listeners import open_listeners
from rawws.signals import ending_signals, name_signal
from rawws.wire.trace import FAULT, STATE

VARIABLE = "RAWWS_WORKER"
# More than any machine has cores: a slip of the finger is not to take all that the system has.
MAX_WORKERS = 1024
# A worker that died is replaced after so long, twice as long each time, until one has lived for a while.
FIRST_REST_S, MAX_REST_S = 0.2, 30.0
LIVED_S = 60.0
# A worker that doesn't heed a second signal, since it is stopped or its loop is blocked, is killed so much later: those
# that do have a second to end by force.
KILL_S = 3.0


@dataclass(frozen=True)
class Membership:
    """What a worker knows of its being one."""

    number: int
    listeners: list[socket.socket]
    link: socket.socket

    @classmethod
    def of_this_process(cls) -> Membership | None:
        """Return what this process is told to be, if it is a worker. To be asked once.

        Raises `UsageError` when that can't be.
        """
        told = os.environ.pop(VARIABLE, None)
        if told is None:
            return None
        try:
            number, fds, link = json.loads(told)
            os.set_inheritable(link, False)
            return cls(number, [systemd.listener_of(fd) for fd in fds], socket.socket(fileno=link))
        except (ValueError, TypeError, OSError, UsageError):
            raise UsageError(
                f"{VARIABLE} is {told!r}, which isn't what --workers gives its processes; nobody else is to set it"
            ) from None

    def say_ready(self) -> None:
        with contextlib.suppress(OSError):
            self.link.send(b"ready")

    async def wait_orphaned(self) -> None:
        """Wait until the first process is gone."""
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


async def run_workers(count: int, host: str, port: int) -> int:
    """Keep ``count`` workers running, until a signal, which drains them all; a second one ends that.

    Each is started as this process was, by the same interpreter with the same arguments. Returns the exit status: that
    of a worker which could not even begin. Raises `rawws.errors.ListenError`.
    """
    with ending_signals(kept_by=None) as signals:  # workers have more time
        crew = _Crew(await _listen(count, host, port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.run, nursery.cancel_scope)
            async for received in signals:
                if crew.is_stopping:
                    nursery.start_soon(crew.kill_late)
                crew.stop(f"{signal.Signals(received).name}: the workers are to drain")
    if not crew.status:
        _log(logging.INFO, STATE, "stopped")
    return crew.status


async def _listen(count: int, host: str, port: int) -> list[list[socket.socket]]:
    """Return the listening sockets of each worker."""
    inherited = systemd.inherited_listeners()
    if inherited:
        return [inherited] * count
    # A port that somebody else has is refused as ever; with SO_REUSEPORT it would be shared.
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


class _Crew:
    """The workers, and what becomes of them."""

    def __init__(self, sockets: list[list[socket.socket]]) -> None:
        # As it was given: -m has the current directory searched for modules, the installed command hasn't.
        self._command = [sys.executable, *sys.orig_argv[1:]]
        self._workers = [_Worker(number, listeners) for number, listeners in enumerate(sockets, 1)]
        self._addresses = ", ".join(format_address(listener.getsockname()) for listener in sockets[0])
        self._stopping = trio.Event()
        self._first_has_begun = trio.Event()
        self._have_begun = False
        self.status = 0

    async def run(self, program: trio.CancelScope) -> None:
        """Keep the workers running until they have been stopped.

        One goes first: what it can't do none of them can, and then it is said once.
        """
        first, *others = self._workers
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_running, first)
                await self._first_has_begun.wait()
                for worker in others:
                    nursery.start_soon(self._keep_running, worker)
        finally:
            self._close_listeners()
        program.cancel()

    def stop(self, why: str) -> None:
        """Have all workers drain; or end at once, if they do already."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        if not self.is_stopping:
            if running:
                _log(logging.INFO, STATE, why)
            systemd.notify("STOPPING=1", f"STATUS={len(running)} workers drain")
            self._stopping.set()
            self._first_has_begun.set()  # or never will
            self._close_listeners()  # or else who comes now would wait for nobody
        for process in running:
            process.send_signal(signal.SIGTERM)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def kill_late(self) -> None:
        """End the workers that are still there when they should have ended at once."""
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
                self.status = max(self.status, status)  # 1 where it had to end by force
                return
            if not self._have_begun and status > 0:  # and it has said why
                self.status = status
                self.stop(f"worker {worker.number} can't begin: the others are to end")
                return
            rest_s = FIRST_REST_S if trio.current_time() - began > LIVED_S else min(2 * rest_s, MAX_REST_S)
            _log(logging.ERROR, FAULT, f"worker {worker.number} {ended}; another one comes in {rest_s:g} s")
            with trio.move_on_after(rest_s):
                await self._stopping.wait()

    async def _run(self, worker: _Worker) -> int:
        """Run a worker to its end, and return its status."""
        ours, theirs = socket.socketpair()
        fds = [listener.fileno() for listener in worker.listeners]
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
        environment[VARIABLE] = json.dumps([worker.number, fds, theirs.fileno()])
        with ours:
            with theirs:
                # A session of its own: or else a terminal's Ctrl-C would reach it beside our own signal.
                process = await trio.lowlevel.open_process(
                    self._command,
                    env=environment,
                    pass_fds=[*fds, theirs.fileno()],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                )
            worker.process = process
            if self.is_stopping:  # meanwhile, when there was no process yet to be told
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

    async def _hear(self, worker: _Worker, link: socket.socket) -> None:
        """Wait for a worker to serve."""
        link.setblocking(False)
        await trio.lowlevel.wait_readable(link)
        with contextlib.suppress(OSError):
            worker.is_ready = bool(link.recv(16))
        if worker.is_ready:
            self._first_has_begun.set()
        if not self._have_begun and all(each.is_ready for each in self._workers):
            self._have_begun = True
            _log(logging.INFO, STATE, f"{len(self._workers)} workers listen on {self._addresses}")
            systemd.notify("READY=1", f"STATUS={len(self._workers)} workers on {self._addresses}")


_NOT_FOR_WORKERS = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")


def _log(level: int, mark: str, text: str) -> None:
    logs.line(logs.server, level, logs.SERVER, mark, text)
