"""A tap: stands between clients and a server, passes every byte on unchanged, and shows what they say."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl as ssl_module
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from rawws import logs
from rawws.accepting import Address, accept_connections
from rawws.limits import MIB
from rawws.loop import current_loop
from rawws.tls import begin_tls, explain
from rawws.tracing import OpenConnection, Tracer
from rawws.transport import EXHAUSTED, Transport, dial, name_address
from rawws.wire.describe import describe_switch
from rawws.wire.observer import Head, Observer, Rest, Seen, SeenFrame, Switch
from rawws.wire.role import Role
from rawws.wire.trace import DIRECTIONS, FAULT, STATE, escape, head_lines

# From the look-up of the server's name to the end of the TLS handshake, as with `rawws.connect`.
DIAL_TIMEOUT_S = 10.0
# What comes behind an upgrade before its answer breaks §4.1: a client has to wait. It is passed on in any case.
MAX_WAITING_BYTES = 4096
# Of a payload so much is kept for a recording, and of what is longer a little of its end; others need less.
MAX_SHOWN_BYTES = 16 * MIB
# How long a side's last bytes are still passed on after it stopped reading (a guess: they are in a buffer of ours).
LAST_WORDS_S = 5.0
# Looked at, and shown, before others have their turn: there may be a frame in every two bytes.
LOOKED_AT_BYTES = 8192
SHOWN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Target:
    """The server behind the tap."""

    host: str
    port: int
    tls: ssl_module.SSLContext | None = None

    def __str__(self) -> str:
        return name_address((self.host, self.port))

    async def dial(self) -> Transport:
        """Return a connection to it. Raises OSError, also when that takes too long."""
        stage = f"connecting to {self}"
        with trio.move_on_after(DIAL_TIMEOUT_S):
            connected = await dial(self.host, self.port)
            if self.tls is None:
                return Transport(connected)
            stage = f"the TLS handshake with {self}"
            return await begin_tls(connected, self.tls, self.host, str(self))
        raise TimeoutError(f"{stage} took longer than {DIAL_TIMEOUT_S:g} s")


async def run_tap(
    listeners: Sequence[socket.socket],
    target: Target,
    tracer: Tracer,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tap every connection that the listeners accept, until cancelled. The listeners are closed at the end."""
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        opened: dict[_Tapped, None] = {}  # in the order in which they were opened

        def list_open(most: int) -> tuple[list[OpenConnection], int]:
            websockets = [tapped for tapped in opened if tapped.is_websocket]
            listed = [tapped.describe() for tapped in websockets[-most:]]
            return listed, len(websockets) - len(listed)

        tracer.list_open = list_open

        async def run(tapped: _Tapped) -> None:
            opened[tapped] = None
            try:
                await tapped.run()
            finally:
                del opened[tapped]

        async with trio.open_nursery() as nursery:

            def take(connected: socket.socket, _: Address) -> None:
                nursery.start_soon(run, _Tapped(Transport(connected), target, tracer))

            for listener in listeners:
                nursery.start_soon(accept_connections, listener, take)
            task_status.started([name_address(listener.getsockname()) for listener in listeners])


def _describe_loss(error: OSError, sender: Role, target: Target) -> str:
    if isinstance(error, ssl_module.SSLError):  # with TLS 1.3, a refusal of our certificate comes as late as this
        error = explain(error, str(target))
    return f"lost: {error.strerror or error}, while the {sender.name.lower()}'s bytes were passed on"


class _Tapped:
    """One connection through the tap."""

    def __init__(self, client: Transport, target: Target, tracer: Tracer) -> None:
        self._number = next(current_loop().numbers)
        self._ends = {Role.CLIENT: client}
        self._target = target
        self._tracer = tracer
        self._observer = Observer(max_waiting_bytes=MAX_WAITING_BYTES)
        self._told = ""  # how it ended, where that is worth a word
        self._dialled_from = client.peer_name
        self._path = ""  # of the last request
        self.is_websocket = False

    def describe(self) -> OpenConnection:
        return OpenConnection(self._number, self._dialled_from, self._path, self.is_websocket)

    async def run(self) -> None:
        """Pass everything on until both sides have ended, or one is lost."""
        client = self._ends[Role.CLIENT]
        self._log(logs.http, logging.INFO, STATE, f"accepted from {client.peer_name}")
        self._tracer.opened(self._number, client.peer_name)
        try:
            server = self._ends[Role.SERVER] = await self._target.dial()
        except OSError as error:
            client.close()
            self._end(FAULT, error.strerror or str(error))
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, Role.CLIENT, nursery.cancel_scope)
                nursery.start_soon(self._pump, Role.SERVER, nursery.cancel_scope)
        finally:
            for end in (client, server):
                if self._told:
                    end.reset()  # a close would look as if all had been said, where it was cut off
                else:
                    end.close()
            for seen in self._observer.finish():
                self._show(seen)
            self._end(STATE, self._told or "ended by both sides")

    async def _pump(self, sender: Role, tapped: trio.CancelScope) -> None:
        """Pass on what one side sends, and then that it has ended."""
        source, sink = self._ends[sender], self._ends[sender.other]
        try:
            while data := await source.receive():
                # Shown before it is passed on, so that a question stands before its answer.
                await self._look_at(sender, data)
                try:
                    await sink.send_all(data)
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        raise
                    # The other side may have sent its reason before the reset, and that has yet to be passed on.
                    self._told = self._told or _describe_loss(error, sender, self._target)
                    tapped.deadline = trio.current_time() + LAST_WORDS_S
                    return
            if self._told:
                return  # it was cut off, so some bytes may be missing
            self._log(logs.http, logging.DEBUG, DIRECTIONS[sender], f"the {sender.name.lower()} ended its stream")
            await sink.send_eof()
        except OSError as error:
            self._told = self._told or _describe_loss(error, sender, self._target)
            tapped.cancel()

    async def _look_at(self, sender: Role, data: bytes) -> None:
        for start in range(0, len(data), LOOKED_AT_BYTES):
            self._observer.shown_bytes = min(self._tracer.shown_bytes, MAX_SHOWN_BYTES)
            seen = self._observer.receive(sender, data[start : start + LOOKED_AT_BYTES])
            for number, each in enumerate(seen, 1):
                self._show(each)
                if number % SHOWN_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _end(self, mark: str, told: str) -> None:
        self._log(logs.hub, logging.INFO, mark, told)
        self._tracer.ended(self._number, told)

    # What is shown

    def _show(self, seen: Seen) -> None:
        match seen:
            case Head():
                self._show_head(seen)
            case Switch():
                self._log(logs.handshake, logging.INFO, STATE, describe_switch(seen))
                if not seen.protocol:
                    self.is_websocket = True
                    self._tracer.switched(self._number)
            case SeenFrame():
                self._show_frame(seen)
            case Rest():
                told = f"{seen.told}: {escape(seen.raw[:40])}"
                self._log(logs.http, logging.INFO, FAULT, f"the {seen.sender.name.lower()}: {told}")

    def _show_head(self, head: Head) -> None:
        mark = DIRECTIONS[head.sender]
        for text in head_lines(head.raw):
            self._log(logs.http, logging.DEBUG, mark, text)
        if head.problem:
            self._log(logs.http, logging.INFO, FAULT, head.problem)
        for check in head.checks:
            level = logging.DEBUG if check.holds else logging.INFO
            self._log(logs.handshake, level, STATE if check.holds else FAULT, str(check))
        if head.accept is not None and head.is_fine:
            for step in head.accept.steps:
                self._log(logs.handshake, logging.DEBUG, STATE, step)
        if head.sender is Role.CLIENT:
            target = b"".join(head.raw.split(b" ", 2)[1:2])
            self._path = escape(target.partition(b"?")[0])
        self._tracer.head(self._number, head.sender, head.raw)
        if head.checks:
            self._tracer.checked(self._number, head.sender, head.checks, head.accept)

    def _show_frame(self, seen: SeenFrame) -> None:
        if logs.frames.isEnabledFor(logging.DEBUG):
            logs.show_frame(self._number, DIRECTIONS[seen.sender], seen.frame)
        if seen.fault is not None:
            who = seen.sender.name.lower()
            told = f"{seen.fault.sentence}; the receiver is to fail with {seen.fault.close_code}"
            self._log(logs.frames, logging.WARNING, FAULT, f"the {who} broke a rule: {told}")
        self._tracer.frame(self._number, seen.sender, seen.frame)

    def _log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self._number, mark, text)
