"""The signals that end a program in order."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType

import trio

# SIGHUP: the terminal that the program was started from is gone.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals(on_second: Callable[[], None] | None = None) -> Iterator[AsyncIterator[int]]:
    """Yield what asks this program to end, as it comes. For a whole program, once in its life.

    ``on_second`` is called by the second one itself, whatever keeps the loop from hearing of it.

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
            if on_second is not None:
                _call_at_second(numbers, on_second)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield signals
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # Python's own handlers are gone before the process is


def name_signal(number: int) -> str:
    """Return a signal's name, or its number where it has none: of Linux's real-time ones most have not."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _call_at_second(numbers: list[signal.Signals], on_second: Callable[[], None]) -> None:
    deliver = {number: signal.getsignal(number) for number in numbers}
    count = itertools.count(1)

    def take(number: int, frame: FrameType | None) -> None:
        if next(count) == 2:
            on_second()
        hand_on = deliver[signal.Signals(number)]
        assert callable(hand_on)
        hand_on(number, frame)

    for number in numbers:
        signal.signal(number, take)


def _pass_over(*_: object) -> None:
    pass
