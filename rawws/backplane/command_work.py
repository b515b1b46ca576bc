"""Carrying out the commands of other nodes: together, after the messages before them, and not all of the time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import trio

from rawws import logs
from rawws.broadcast.node_commands import COMMAND_BYTES, Command, encode_body
from rawws.relay.backplane import Backplane, CommandTaker
from rawws.relay.room_state import RoomState
from rawws.wire.trace import FAULT

# Commands that wait. Beyond that, no more are read.
MAX_PENDING = 1000
# After commands have taken some time, none are carried out for this many times as long, but at most `MAX_REST_S`.
REST, MAX_REST_S = 9, 1.0
# The kinds of commands that can't be carried out and are logged.
MAX_LOGGED_KINDS = 20


class CommandWork:
    """The commands and questions of other nodes that this node has read, until they are carried out."""

    def __init__(
        self,
        backplane: Backplane[RoomState],
        taker: CommandTaker[RoomState],
        catch_up: Callable[[Collection[RoomState]], Awaitable[None]],
        answer: Callable[[Command, Iterable[object]], None],
    ) -> None:
        """``catch_up`` reads what was published in some rooms up to now. ``answer`` sends an answer."""
        self._backplane = backplane
        self._taker = taker
        self._catch_up = catch_up
        self._send_answer = answer
        self._pending: deque[Command] = deque()
        self.held_bytes = 0
        self._something_pending, self._space = trio.Event(), trio.Event()
        self._logged_kinds = set[str]()

    async def ready(self) -> None:
        """Wait while there are too many."""
        while len(self._pending) >= MAX_PENDING:
            self._space = trio.Event()
            await self._space.wait()

    def put(self, command: Command, identifier: str) -> None:
        """Accept a command, which is the entry with an id. One that can't be carried out is logged."""
        if fault := self._taker.fault_of(command):
            self._log(command, identifier, fault)
            return
        self._pending.append(command)
        self.held_bytes += _bytes_of(command)
        self._something_pending.set()

    def _log(self, command: Command, identifier: str, fault: str) -> None:
        if command.kind in self._logged_kinds or len(self._logged_kinds) >= MAX_LOGGED_KINDS:
            return
        self._logged_kinds.add(command.kind)
        what = f"the command {command.kind} of node {command.by.node} (entry {identifier}) is not carried out: {fault}"
        logs.server_line(logging.WARNING, FAULT, f"{what}; others of this kind are passed over silently")

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Carry out commands until cancelled, whether Redis is there or not."""
        while True:
            await self._something_pending.wait()
            self._something_pending = trio.Event()
            batch = list(self._pending)
            used_s = await self._carry_out([each for each in batch if not each.is_question])
            for question in batch:
                if question.is_question:
                    await self._answer(question)
            for command in batch:
                self._pending.popleft()
                self.held_bytes -= _bytes_of(command)
            self._space.set()
            await trio.sleep(min(REST * used_s, MAX_REST_S))

    async def _carry_out(self, commands: list[Command]) -> float:
        """Carry out commands that are no questions, and return the time that it took."""
        if not commands:
            return 0.0
        began = time.perf_counter()
        try:
            rooms = self._taker.rooms_for(commands, self._backplane)
            used_s = time.perf_counter() - began
            if rooms:
                await self._catch_up(rooms)
            began = time.perf_counter()
            await self._taker.carry_out(commands, self._backplane)
        except Exception:  # nothing that a command contains should cause one
            _log_failure()
            return MAX_REST_S
        return used_s + time.perf_counter() - began

    async def _answer(self, question: Command) -> None:
        items: Iterable[Any] | None = None
        try:
            items = await self._taker.answer(question)
        except Exception:
            _log_failure()
        if items is not None:
            self._send_answer(question, items)


def _log_failure() -> None:
    logs.server.exception("#%d ! an error in rawws itself, in a command of another node", logs.SERVER)


def _bytes_of(command: Command) -> int:
    return COMMAND_BYTES + len(encode_body(command.body))
