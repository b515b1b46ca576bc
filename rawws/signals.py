"""The signals that end a program in order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Iterator

import trio

# SIGHUP: the terminal that the program was started from is gone.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals() -> Iterator[AsyncIterator[int]]:
    """Yield what asks this program to end, as it comes. For a whole program, once in its life.

    Behind the block the program is about to end anyway, and what comes late changes nothing: it would be a traceback
    of KeyboardInterrupt, or death by SIGTERM where all has ended well.
    """
    # nohup(1) has SIGHUP ignored, and means it.
    numbers = [number for number in ENDING if number is not signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # held back for a moment, so that none is lost
    for number in numbers:
        signal.signal(number, _pass_over)  # to which trio gives what nobody has taken when the block ends
    try:
        with trio.open_signal_receiver(*numbers) as signals:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield signals
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # Python's own handlers are gone before the process is


def _pass_over(*_: object) -> None:
    pass
