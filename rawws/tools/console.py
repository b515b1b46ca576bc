"""The user's side of ``rawws connect``: a pipe, or a terminal with line editing or without."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from rawws.wire.trace import printable_lines

if TYPE_CHECKING:
    from prompt_toolkit.patch_stdout import StdoutProxy

# The time in which a thread that has read some input reports it.
IN_HAND_S = 0.1

# The most characters that a terminal with line editing has yet to draw (a guess: about a quarter of a second's work).
MOST_UNDRAWN = 256 * 1024
# The time for which the program's end waits for the line that was being typed.
LEAVE_LINE_S = 2.0


class Console(Protocol):
    """The source of the user's lines, and the place where messages are shown."""

    def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield each line, without its end. The caller closes the generator if it doesn't exhaust it."""

    def show(self, message: str | bytes) -> None:
        """Show a message from the server."""

    def tell(self, text: str) -> None:
        """Show the user a remark; a pipe has no place for that."""

    def has_more(self) -> bool:
        """Return whether there is input that `lines` has not yielded, as far as that is known without waiting."""

    def end(self) -> None:
        """Ask for no more lines."""


class Pipe:
    """Standard input and output, at most one of them a terminal, with lines and no remarks.

    The server's messages are written unchanged, for a file or another program.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()  # read, and not yet yielded
        self._rest = bytearray()  # the beginning of the next one
        self._taken = b""  # read by a thread that may have been abandoned
        self._reading = threading.Lock()  # held by that thread

    async def lines(self) -> AsyncGenerator[bytes, None]:
        # This reads without Python's own buffer, whose lock an abandoned thread would hold at exit.
        while data := await trio.to_thread.run_sync(self._read, abandon_on_cancel=True):
            self._taken = b""
            self._rest += data
            if b"\n" in data:
                *lines, self._rest = self._rest.split(b"\n")
                self._lines.extend(map(bytes, lines))
            while self._lines:
                yield self._lines.popleft()
        if self._rest:
            rest, self._rest = bytes(self._rest), bytearray()
            yield rest

    def _read(self) -> bytes:
        with self._reading:
            self._taken = os.read(self._descriptor, 65536)
            return self._taken

    def has_more(self) -> bool:
        if self._lines or self._rest or self._waits_for_a_reader:
            return True
        # The thread that `lines` has abandoned may have read the rest of the input. As long as it holds the lock, it is
        # waiting for more.
        if self._reading.acquire(timeout=IN_HAND_S):
            self._reading.release()
        return bool(self._taken)

    @property
    def _waits_for_a_reader(self) -> bool:
        try:  # a read would block if the thread got the input first
            waiting: bytes = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        except OSError:  # for example /dev/null, which doesn't support it
            return False
        return any(waiting)

    def show(self, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()

    def tell(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass


class Print(Pipe):
    """A pipe for input, and a terminal for output, which must get no control characters from a peer."""

    def show(self, message: str | bytes) -> None:
        print(_printable(message), flush=True)


class Screen:
    """A terminal without line editing of ours."""

    def __init__(self) -> None:
        self._pipe = Pipe()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._pipe.lines()) as lines:
            async for line in lines:
                yield line

    def has_more(self) -> bool:
        return False  # lines that are typed after the end are for the shell

    def show(self, message: str | bytes) -> None:
        self.tell(f"< {_printable(message, indent='  ')}")

    def tell(self, text: str) -> None:
        print(printable_lines(text), flush=True)

    def end(self) -> None:
        pass


class EditedScreen(Screen):
    """A terminal with line editing and history, by prompt_toolkit; messages appear above the line being typed.

    prompt_toolkit draws the lines above in threads of its own, every 0.2 s. The program waits for them now and then, so
    that a server can't send more than is drawn.
    """

    def __init__(self) -> None:
        """Raises ImportError where prompt_toolkit is not installed."""
        super().__init__()
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import StdoutProxy

        self._session: PromptSession[str] = PromptSession("> ", history=_history())
        self._make_proxy: Callable[[], StdoutProxy] = StdoutProxy
        self._above: StdoutProxy | None = None  # for lines that appear while a line is being typed
        self._undrawn = 0  # characters given to it, at most
        self._ended = False
        self._is_idle = threading.Event()  # no line is being typed
        self._is_idle.set()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        self._above = self._make_proxy()
        try:
            while not self._ended:
                try:
                    # It has an event loop of its own, so it gets a thread of its own too.
                    self._is_idle.clear()
                    line = await trio.to_thread.run_sync(self._prompt, abandon_on_cancel=True)
                except EOFError:
                    return
                yield line.encode()
        finally:
            self._leave_line()
            self._above.close()
            self._above = None

    def _leave_line(self) -> None:
        """Wait until the abandoned thread has drawn the abandoned line for the last time.

        Python aborts the process if it ends while a thread is writing to standard output.
        """
        until = time.monotonic() + LEAVE_LINE_S
        while self._ended and time.monotonic() < until and not self._is_idle.wait(0.01):
            self.end()  # again, because the line may have begun only now

    def tell(self, text: str) -> None:
        if self._above is None:
            super().tell(text)
            return
        self._above.write(f"{printable_lines(text)}\n")
        self._undrawn += len(text)
        if self._undrawn > MOST_UNDRAWN:
            self._above.close()  # which hands over all of it
            self._above = self._make_proxy()
            self._wait_drawn()
            self._undrawn = 0

    def _wait_drawn(self) -> None:
        """Wait until all lines are drawn, or until no line is being typed above which they would appear."""
        from prompt_toolkit.application import in_terminal

        async def take_turn() -> None:
            async with in_terminal():  # this waits for all earlier writers
                pass

        app = self._session.app
        loop = app.loop
        if loop is None:
            return
        turn = take_turn()
        try:
            drawn = asyncio.run_coroutine_threadsafe(turn, loop)
        except RuntimeError:  # the line has ended just now
            turn.close()
            return
        while app.loop is loop and not wait([drawn], 0.1).done:
            pass

    def _prompt(self) -> str:
        try:
            while True:
                try:
                    return self._session.prompt(handle_sigint=False)
                except KeyboardInterrupt:
                    # As in a shell, Ctrl-C abandons the line; on an empty line, it ends the program.
                    if not self._session.default_buffer.text and not self._session.app.current_buffer.text:
                        raise EOFError from None
        finally:
            self._is_idle.set()

    def end(self) -> None:
        self._ended = True
        app = self._session.app
        if app.loop is not None and app.is_running:
            with contextlib.suppress(RuntimeError):  # the line ends by itself at this moment
                app.loop.call_soon_threadsafe(lambda: app.exit(exception=EOFError) if app.is_running else None)


def _history() -> Any:
    """Return a history that is kept in a file, or in memory where a file can't be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    file = Path(state) / "rawws" / "history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _printable(message: str | bytes, indent: str = "") -> str:
    """Return a message for a terminal, without a peer's control characters."""
    if isinstance(message, bytes):
        return f"(binary, {len(message)} bytes) {message[:64].hex(' ')}{' …' * (len(message) > 64)}"
    return printable_lines(message).replace("\n", f"\n{indent}")
