"""A conversation with a WebSocket server: the user's lines become messages, and messages are shown to the user."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from rawws.errors import ConnectionClosed, UsageError
from rawws.relay.peer import OK_CODES
from rawws.tools.console import Console
from rawws.tools.typed_commands import Close, Command, Ping, Pong, Raw, Say, Tell, parse_command
from rawws.websocket import WebSocket
from rawws.websocket.internals import receive_without_limit

CLEAN, ABNORMAL = 0, 1

# In a pipe, the conversation is over when the input has ended and no message has come for this time. A handler that
# asks a database or another server answers in a few tenths of a second; wscat's -x waits for 2 s.
QUIET_S = 1.0
# A server that never pauses, such as a ticker or a busy room, is listened to for this long, counted from when it has
# sent as many messages as it has received: until then, answers may be missing.
MOST_LISTENING_S = 10.0


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
    """The messages between a user and a server, from the 101 to the end."""

    console: Console
    commands: bool = True  # a line that begins with / is one
    binary: bool = False  # lines are sent as binary messages
    execute: Sequence[str] = ()  # to be sent, in place of what is typed
    patience: Patience = ForSeconds(0.0)  # before our close, once all input is sent
    ping_s: float = 0.0  # between pings
    complete: bool = False  # messages that the server sends after our close are shown too
    lost: OSError | None = field(default=None, init=False)  # why our output can't be written, for the caller to report
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
        except OSError as error:  # the reader of our output has ended, or a disk is full
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
            async with contextlib.aclosing(self.console.lines()) as lines:
                async for line in lines:
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
