"""SIGHUP as a request to read files anew, for a program that has such files.

Without them SIGHUP ends the program, as SIGTERM does (`rawws.process.signals`). With them it still does so when the
terminal that the program was started from is gone. nohup(1) rules that out, and then every SIGHUP is a request.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import trio


class Reloading:
    """Calls a function at each SIGHUP, or another one when the terminal is gone."""

    def __init__(self, reload: Callable[[], Awaitable[None]]) -> None:
        self._reload = reload
        outlives_terminal = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._depends_on_terminal = not outlives_terminal and _has_terminal()

    async def run(
        self, hang_up: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Handle SIGHUP until cancelled. ``hang_up`` is called when the terminal is gone."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._depends_on_terminal and not _has_terminal():
                    hang_up()
                else:
                    await self._reload()  # another signal meanwhile is handled after it


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
