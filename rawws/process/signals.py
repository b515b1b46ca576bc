"""The signals that end a program: in order at first, and by force when it is asked again.

The last resort must not depend on what keeps the program. The main thread may be blocked in an application's code, or
in a C library below it, or it may wait for the application's threads, which Python does after everything else. Python's
signal handlers run in the main thread only. So a thread of ours reads the signals: the interpreter writes the number of
each to a socket (`signal.set_wakeup_fd`) when it arrives, whatever the main thread does. Only a C library that never
releases the interpreter's lock is out of its reach.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import FrameType
from typing import TypeVar

import trio

from rawws import logs
from rawws.wire.trace import FAULT, TIMER, shorten

# SIGHUP: the terminal that the program was started from is gone.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The log names the threads that still run this long after the end of the program.
LATE_S = 1.0
# The process is ended by force this long after a second signal.
FORCE_S = 1.0
# The interpreter's last finalizers, which run when no thread does any more, may take this long.
FINALIZING_S = 10.0

# How long to wait for the last line to be written.
LAST_WORDS_S = 0.5

BY_APPLICATION = "something of the application's can't be cancelled, or blocks the loop"

_MOST_NAMED = 5

Result = TypeVar("Result")


@contextlib.contextmanager
def ending_signals(*, kept_by: str | None = BY_APPLICATION, on_hangup: bool = True) -> Iterator[AsyncIterator[int]]:
    """Yield the signals that ask this program to end, as they come. For a whole program, once in its life.

    If the process is still there `FORCE_S` after the second signal, it ends with status 1, and the log says that it
    was ``kept_by`` something. With None, the program handles a second signal itself. Without ``on_hangup``, it handles
    SIGHUP itself.

    After the block the program is about to end anyway. If something keeps it, such as a thread of the application's,
    that is logged and waited for, and the next signal ends the process by force. If nothing does, a late signal changes
    nothing; otherwise it would cause a traceback of KeyboardInterrupt, or death by SIGTERM after an orderly end.
    """
    # nohup(1) has SIGHUP ignored, and means it.
    hangs_up = on_hangup and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    numbers = [number for number in ENDING if number is not signal.SIGHUP or hangs_up]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # held back for a moment, so that none is lost
    for number in numbers:
        signal.signal(number, _pass_over)  # to which trio gives what nobody has taken when the block ends
    watch = _Watch(numbers, kept_by)
    try:
        with trio.open_signal_receiver(*numbers) as signals, watch.beside_trio():
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield signals
    finally:
        watch.program_is_over()


def run(main: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
    """Run a whole program on trio that uses `ending_signals`, and watch for signals until the process is gone.

    Returns what ``main`` returns, and raises what it raises.
    """
    try:
        return trio.run(main, *arguments)
    finally:
        if _of_process is not None:
            _of_process.take_signals()  # which trio has given back


def end_soon(after_s: float, why: str) -> None:
    """End this process by force after ``after_s``, unless it has ended: for when no second signal will come."""
    if _of_process is not None:
        threading.Thread(target=_of_process.end_by_force, args=(after_s, why), name="rawws: end", daemon=True).start()


def name_signal(number: int) -> str:
    """Return a signal's name, or its number where it has none: of Linux's real-time ones most have not."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Watch:
    """A thread that sees each signal, in place of trio while that runs, and after it until the process is gone."""

    def __init__(self, numbers: list[signal.Signals], kept_by: str | None) -> None:
        global _of_process
        _of_process = self
        self._numbers = numbers
        self._kept_by = kept_by
        self._is_over = False
        self._pid = os.getpid()
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._trio_fd = -1
        self._trio_lock = threading.Lock()
        # Standard error may be full, or a lock may be held by a thread that is blocked: the thread that ends the
        # process writes nothing itself.
        self._to_say: queue.SimpleQueue[tuple[int, str, str | None, str]] = queue.SimpleQueue()
        self._is_said = threading.Event()
        # Both start now, since Python 3.12 and later start no thread while the interpreter ends.
        threading.Thread(target=self._run, name="rawws: signals", daemon=True).start()
        threading.Thread(target=self._speak, name="rawws: last words", daemon=True).start()

    @contextlib.contextmanager
    def beside_trio(self) -> Iterator[None]:
        """See the signals from now on, and pass them on to trio, which they have to wake."""
        self._trio_fd = self.take_signals()
        try:
            yield
        finally:
            with self._trio_lock:
                self._trio_fd = -1  # trio closes it soon, and its number may be another file's then

    def take_signals(self) -> int:
        """Have the interpreter report signals to our socket, and return the descriptor that it used before."""
        return signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)

    def end_by_force(self, after_s: float, why: str | None = None) -> None:
        """End this process with status 1, whatever keeps it. Without ``why``, the log says what is left running."""
        time.sleep(min(after_s, threading.TIMEOUT_MAX))
        self._is_said.clear()
        self._to_say.put((logging.ERROR, FAULT, why, ": ending without it"))
        self._is_said.wait(LAST_WORDS_S)
        os._exit(1)

    def program_is_over(self) -> None:
        """From now on each signal forces the end."""
        self._is_over = True
        for number in self._numbers:
            signal.signal(number, self._tell)
        self._tell(_OVER)

    def interpreter_ends(self) -> None:
        """Limit the time after all our threads have ended; signals are ignored then.

        Python's handlers are gone before the process is, so a late SIGTERM would kill a process that has ended well.
        """
        if self._pid != os.getpid():
            return
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # without a standard error
            faulthandler.dump_traceback_later(FINALIZING_S, exit=True)

    def _tell(self, number: int, _: FrameType | None = None) -> None:
        """As a handler it runs in the main thread, or in that of a child, whose signals are none of ours."""
        if self._pid == os.getpid():
            with contextlib.suppress(BlockingIOError):  # the socket is full, so one more makes no difference
                self._writing.send(bytes([number]))

    def _run(self) -> None:
        seen, late = 0, b""
        while not self._is_over:
            received, _, late = self._reading.recv(64).partition(bytes([_OVER]))
            with self._trio_lock, contextlib.suppress(BlockingIOError):
                if self._trio_fd >= 0:
                    os.write(self._trio_fd, received)
            seen += self._count(received)
            if seen >= 2 and self._kept_by is not None:
                self.end_by_force(FORCE_S, self._kept_by)
        self._reading.settimeout(LATE_S)
        while not self._count(late):
            try:
                late = self._reading.recv(64)
            except TimeoutError:
                self._to_say.put((logging.WARNING, TIMER, None, "; it is waited for until another signal"))
                self._reading.settimeout(None)
        self.end_by_force(FORCE_S)

    def _speak(self) -> None:
        while True:
            level, mark, what, consequence = self._to_say.get()
            logs.server_line(level, mark, (what or _what_is_left()) + consequence)
            self._is_said.set()

    def _count(self, received: bytes) -> int:
        return sum(number in self._numbers for number in received)


_OVER = 0  # in place of a signal's number

_of_process: _Watch | None = None


@atexit.register
def _at_exit() -> None:
    """Run after the application's functions: atexit runs them in reverse order, and this is registered first."""
    if _of_process is not None:
        _of_process.interpreter_ends()


class _Forking(threading.local):
    """Makes a forked child leave the socket alone, which it shares with us: its signals aren't ours.

    A signal could come before the child has run any code, so signals are blocked from before the fork.
    """

    _before: set[int] | None = None

    def begin(self) -> None:
        if _of_process is not None:
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def end_in_parent(self) -> None:
        if self._before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
            self._before = None

    def end_in_child(self) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(-1)
        self.end_in_parent()


_forking = _Forking()
os.register_at_fork(before=_forking.begin, after_in_parent=_forking.end_in_parent, after_in_child=_forking.end_in_child)


def _what_is_left() -> str:
    """Return what the application keeps running after the end of the program."""
    main = threading.main_thread()
    # Python waits for the threads of pools too, although those that a daemon has made are daemons.
    pooled = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    left = [each for each in threading.enumerate() if (not each.daemon or each in pooled) and each is not main]
    names = [repr(shorten(each.name)) for each in left]
    if not names:
        return "the application still runs at exit: a function of atexit, or a library that it calls"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"the application still runs in a thread: {', '.join(names[:_MOST_NAMED])}{more}"


def _pass_over(*_: object) -> None:
    pass
