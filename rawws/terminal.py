"""A WebSocket client for a terminal, or for a pipe: lines in, messages out, and the other way round."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import re
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from rawws.errors import ConnectionClosed, UsageError
from rawws.peer import OK_CODES
from rawws.websocket import WebSocket
from rawws.websocket_internals import receive_without_limit
from rawws.wire.trace import printable_lines

if TYPE_CHECKING:
    from prompt_toolkit.patch_stdout import StdoutProxy

CLEAN, ABNORMAL = 0, 1

# In a pipe, when the input has ended and nothing has come for this long, the conversation is taken to be over. A
# handler that asks a database or another server answers in a few tenths of a second; wscat's -x waits for 2 s.
QUIET_S = 1.0
# A server that never pauses, such as a ticker or a busy room, is listened to for this long, counted from when it has
# sent as many messages as it has received: until then, answers may be missing.
MOST_LISTENING_S = 10.0

# How long a thread that has read some input may take to say so.
IN_HAND_S = 0.1

# Characters that a terminal with line editing may be behind (a guess: what it draws in a quarter of a second or so).
MOST_UNDRAWN = 256 * 1024
# How long the program's end waits for the line that was being typed.
LEAVE_LINE_S = 2.0

HELP = """\
/ping [TEXT]           send a ping, and say how long the pong took
/pong [TEXT]           send a pong that nobody asked for
/binary HEX            send a binary message
/close [CODE [REASON]] close, with 1000 unless a code is given
/raw HEX               put these bytes on the wire as they are: no header, no mask, no check
/help                  this
//TEXT                 send /TEXT"""


@dataclass(frozen=True, slots=True)
class Say:
    message: str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    data: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Nothing is sent; the user is told something."""

    text: str


Command = Say | Ping | Pong | Close | Raw | Tell


def parse_command(line: str) -> Command:
    """Return what a typed line means. A line that can't be meant is a `Tell`, which says why."""
    if line.startswith("//") or not line.startswith("/"):
        return Say(line.removeprefix("/") if line.startswith("//") else line)
    name, _, rest = line.partition(" ")
    try:
        match name:
            case "/ping":
                return Ping(_control_payload(rest))
            case "/pong":
                return Pong(_control_payload(rest))
            case "/close":
                return _parse_close(rest)
            case "/raw":
                return Raw(_hex(rest))
            case "/binary":
                return Say(_hex(rest))
            case "/help":
                return Tell(HELP)
    except UsageError as error:
        return Tell(str(error))
    return Tell(f"there is no {name}; /help lists what there is, and //{line[1:]} sends that text")


def _control_payload(text: str) -> bytes:
    payload = text.encode()
    if len(payload) > 125:
        raise UsageError(f"a control frame holds 125 bytes, not {len(payload)} (RFC 6455 §5.5)")
    return payload


def _hex(text: str) -> bytes:
    digits = re.sub(r"[\s:,|]+|0x", "", text)
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"{text.strip()!r} is not bytes in hex, such as 81 85 37 fa") from None
    if not data:
        raise UsageError("give bytes in hex, such as 81 85 37 fa")
    return data


def _parse_close(text: str) -> Close:
    code, _, reason = text.strip().partition(" ")
    if not code:
        return Close()
    if not code.isascii() or not code.isdigit() or not 1000 <= int(code) <= 4999:
        raise UsageError(f"{code!r} is not a close code; give one from 1000 to 4999 (RFC 6455 §7.4)")
    if len(reason.encode()) > 123:
        raise UsageError(f"a close holds a reason of 123 bytes, not {len(reason.encode())} (RFC 6455 §5.5)")
    return Close(int(code), reason)


class Console(Protocol):
    """Where lines come from, and where messages go."""

    def lines(self) -> AsyncIterator[bytes]:
        """Yield each line, without its end."""

    def show(self, message: str | bytes) -> None:
        """Show a message from the server."""

    def tell(self, text: str) -> None:
        """Tell the user something, where there is one to read it."""

    def has_more(self) -> bool:
        """Return whether there is input that `lines` has not yielded, as far as that is known without waiting."""

    def end(self) -> None:
        """Ask for no more lines."""


class Pipe:
    """Standard input and output, at most one of them a terminal: lines, and nothing else.

    Messages of the server are written unchanged, for a file or another program.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()  # read, and not yet yielded
        self._rest = bytearray()  # the beginning of the next one
        self._taken = b""  # read by a thread that may have been abandoned
        self._reading = threading.Lock()  # held by that thread

    async def lines(self) -> AsyncIterator[bytes]:
        # Read without Python's own buffer, whose lock a thread that is left behind would hold at exit.
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
    """A pipe for input, and a terminal for output, which must get no control characters of a peer."""

    def show(self, message: str | bytes) -> None:
        print(_printable(message), flush=True)


class Screen:
    """A terminal without line editing of ours."""

    def __init__(self) -> None:
        self._pipe = Pipe()

    async def lines(self) -> AsyncIterator[bytes]:
        async for line in self._pipe.lines():
            yield line

    def has_more(self) -> bool:
        return False  # what is typed after the end is for the shell

    def show(self, message: str | bytes) -> None:
        self.tell(f"< {_printable(message, indent='  ')}")

    def tell(self, text: str) -> None:
        print(printable_lines(text), flush=True)

    def end(self) -> None:
        pass


class EditedScreen(Screen):
    """A terminal with line editing and history, by prompt_toolkit; messages appear above the line being typed.

    What is told is drawn by threads of its own, a bundle of it every 0.2 s. They are waited for now and then, with all
    that this program does, so that a server can't send more than is drawn.
    """

    def __init__(self) -> None:
        """Raises ImportError where prompt_toolkit is not installed."""
        super().__init__()
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import StdoutProxy

        self._session: PromptSession[str] = PromptSession("> ", history=_history())
        self._make_proxy: Callable[[], StdoutProxy] = StdoutProxy
        self._above: StdoutProxy | None = None  # what is told while a line may be typed
        self._undrawn = 0  # characters given to it, at most
        self._ended = False
        self._is_idle = threading.Event()  # no line is being typed
        self._is_idle.set()

    async def lines(self) -> AsyncIterator[bytes]:
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
        """Wait until the line that was given up is drawn for the last time, by the thread that was abandoned.

        Python aborts the process if it ends while a thread is writing to standard output.
        """
        until = time.monotonic() + LEAVE_LINE_S
        while self._ended and time.monotonic() < until and not self._is_idle.wait(0.01):
            self.end()  # once more: the line may have begun only now

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
        """Wait until what was handed over is drawn, or there is no line being typed above which it would be."""
        from prompt_toolkit.application import in_terminal

        async def take_turn() -> None:
            async with in_terminal():  # behind those who wanted to write there before
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
                    # As in a shell: the line is given up, and an empty one means to leave.
                    if not self._session.default_buffer.text and not self._session.app.current_buffer.text:
                        raise EOFError from None
        finally:
            self._is_idle.set()

    def end(self) -> None:
        self._ended = True
        app = self._session.app
        if app.loop is not None and app.is_running:
            with contextlib.suppress(RuntimeError):  # it ends by itself just now
                app.loop.call_soon_threadsafe(lambda: app.exit(exception=EOFError) if app.is_running else None)


def _history() -> Any:
    """Return a history that is kept from one time to the next, or only for now where that can't be."""
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
    """Return a message for a terminal, to which no control character of a peer's may get."""
    if isinstance(message, bytes):
        return f"(binary, {len(message)} bytes) {message[:64].hex(' ')}{' …' * (len(message) > 64)}"
    return printable_lines(message).replace("\n", f"\n{indent}")


@dataclass(slots=True)
class Tally:
    """Counts of the messages in a conversation."""

    begun: int = 0  # our messages that were to be sent
    sent: int = 0  # our messages that the operating system has taken whole
    received: int = 0
    received_at: float = -math.inf  # time of the last of them, by trio's clock


class Patience(Protocol):
    """Decides how long to wait for the server's messages once all of ours are sent."""

    async def wait(self, ws: WebSocket, tally: Tally) -> str:
        """Wait until it is time for our close; return a remark about it for the user, or an empty string."""


@dataclass(frozen=True, slots=True)
class UntilItCloses:
    """Waits until the server closes."""

    async def wait(self, _ws: WebSocket, _tally: Tally) -> str:
        await trio.sleep_forever()


@dataclass(frozen=True, slots=True)
class ForSeconds:
    seconds: float

    async def wait(self, _ws: WebSocket, _tally: Tally) -> str:
        await trio.sleep(self.seconds)
        return ""


@dataclass(frozen=True, slots=True)
class UntilQuiet:
    """Waits until nothing has come for ``quiet_s``.

    A server that never pauses is listened to for ``most_s``, counted from when it has sent as many messages as it has
    received. Answers look like any other messages, but while fewer have come than were sent, answers may be missing.
    """

    quiet_s: float = QUIET_S
    most_s: float = MOST_LISTENING_S

    async def wait(self, ws: WebSocket, tally: Tally) -> str:
        began = trio.current_time()
        until = math.inf
        while True:
            now = trio.current_time()
            if until == math.inf and tally.received >= tally.sent:
                until = now + self.most_s
            quiet_at = max(began, tally.received_at) + self.quiet_s
            if now >= until:
                return (
                    f"closed by us, though the server is still sending, {self.most_s:g} s after the end of the input; "
                    "--wait says how long to listen"
                )
            if now < quiet_at:
                await trio.sleep_until(min(quiet_at, until))
            elif ws.has_messages():  # it wasn't quiet: this task is late
                tally.received_at = now
            else:
                return ""


@dataclass(slots=True)
class Conversation:
    """What a user and a server say to each other, from the 101 to the end."""

    console: Console
    commands: bool = True  # a line that begins with / is one
    binary: bool = False  # lines are sent as binary messages
    execute: Sequence[str] = ()  # to be sent, in place of what is typed
    patience: Patience = ForSeconds(0.0)  # before our close, once all input is sent
    ping_s: float = 0.0  # between pings
    complete: bool = False  # what the server still sends behind our close is shown too
    lost: OSError | None = field(default=None, init=False)  # why our output can't be written; it is the caller's then
    remarks: list[str] = field(default_factory=list, init=False)  # what the user should know about the end
    _tally: Tally = field(default_factory=Tally, init=False)
    _interrupted: bool = field(default=False, init=False)  # by the user, who expects nothing more to be sent
    _unusable: UsageError | None = field(default=None, init=False)  # why a line of the input can't be sent

    async def run(self, ws: WebSocket, signals: AsyncIterator[int]) -> int:
        """Talk until either side closes, as we do at one of the ``signals``, and return the exit status.

        It is 0 when the peer has closed with a code in `OK_CODES`, and all of the input was sent. A line that can't be
        sent ends the conversation, as the end of the input does, and is raised then: a `UsageError`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, ws, nursery.cancel_scope)
            nursery.start_soon(self._close_on_signal, ws, signals)
            if self.ping_s:
                nursery.start_soon(self._keep_pinging, ws)
            await self._speak(ws)
            if remark := await self.patience.wait(ws, self._tally):
                self.remarks.append(remark)
            if self.complete:
                receive_without_limit(ws)
            await ws.aclose()
        await ws.wait_closed()
        closed = ws.closed
        assert closed is not None
        self.console.tell(f"disconnected: {closed}")
        if self.lost is not None:
            return CLEAN if isinstance(self.lost, BrokenPipeError) else ABNORMAL
        if self._unusable is not None:
            raise self._unusable
        is_ok = closed.code in OK_CODES
        losses = self._describe_losses(is_ok=is_ok)
        if is_ok and not losses:
            return CLEAN
        self.remarks.append("; ".join([str(closed), *losses]))
        return ABNORMAL

    def _describe_losses(self, *, is_ok: bool) -> list[str]:
        """Return what is known about input that the server has not received, or may not have received."""
        tally = self._tally
        what = "message" if self.execute else "line"
        is_cut = tally.sent < (len(self.execute) or tally.begun) or (not self.execute and self.console.has_more())
        losses = []
        if is_cut and not self._interrupted:
            losses.append(f"the input from {what} {tally.sent + 1} on was not sent")
        if tally.sent and not is_ok:
            count = f"{what} 1" if tally.sent == 1 else f"{what}s 1 to {tally.sent}"
            losses.append(f"{count} may not have reached the server")
        return losses

    async def _listen(self, ws: WebSocket, all_of_it: trio.CancelScope) -> None:
        try:
            while True:
                self.console.show(await ws.recv())
                self._tally.received += 1
                self._tally.received_at = trio.current_time()
        except ConnectionClosed:
            pass
        except OSError as error:  # whoever reads it has seen enough, or a disk is full
            self.lost = error
            await ws.aclose()
        self.console.end()
        all_of_it.cancel()

    async def _keep_pinging(self, ws: WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await trio.sleep(self.ping_s)
                self.console.tell(f"pong in {await ws.ping() * 1000:.1f} ms")

    async def _speak(self, ws: WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            if self.execute:
                for text in self.execute:
                    await self._send(ws, text.encode() if self.binary else text)
                return
            number = 0
            async for line in self.console.lines():
                number += 1
                try:
                    command = self._read(line, number)
                except UsageError as error:
                    self._unusable = error
                    return
                await self._act(ws, command)

    async def _send(self, ws: WebSocket, message: str | bytes) -> None:
        self._tally.begun += 1
        await ws.send(message)
        await ws.wait_sent()
        self._tally.sent += 1

    def _read(self, line: bytes, number: int) -> Command:
        if self.binary:
            return Say(line)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise UsageError(
                f"line {number} of the input is not UTF-8, as text has to be; the input from there on was not sent; "
                "use -b to send bytes"
            ) from None
        return parse_command(text) if self.commands else Say(text)

    async def _act(self, ws: WebSocket, command: Command) -> None:
        try:
            await self._carry_out(ws, command)
        except UsageError as error:  # a code that can't be sent, a ping that is under way
            self.console.tell(str(error))

    async def _close_on_signal(self, ws: WebSocket, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._interrupted = True
            ws.begin_close()

    async def _carry_out(self, ws: WebSocket, command: Command) -> None:
        match command:
            case Say(message):
                await self._send(ws, message)
            case Ping(payload):
                self.console.tell(f"pong in {await ws.ping(payload or None) * 1000:.1f} ms")
            case Pong(payload):
                await ws.pong(payload)
            case Close(code, reason):
                await ws.aclose(code, reason)
            case Raw(data):
                ws.send_raw(data)
            case Tell(text):
                self.console.tell(text)
