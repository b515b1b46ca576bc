"""Following the stream of commands, and the stream of answers to this node's questions.

The stream of commands is followed as those of rooms are (`rawws.backplane.reader`): from the place where this node last
was, by blocking reads, with a look at the state of the stream (`rawws.broadcast.stream_entries.StreamPlace`) after a
new connection and every few seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from rawws import logs
from rawws.backplane.command_work import CommandWork
from rawws.backplane.connector import TIMEOUT_S
from rawws.backplane.reader import BLOCK_S, PAGE_BYTES, PROBLEM_S, RECHECK_S
from rawws.backplane.scripts import READ_PAGE, Page, ms_of
from rawws.backplane.troubles import Refused, concerns_everything
from rawws.broadcast.node_answers import answers_key
from rawws.broadcast.node_commands import COMMANDS_KEY, RETAINED, KeptCommands, SeenCommands, read_command
from rawws.broadcast.stream_entries import (
    BEGINNING,
    MAX_SEQUENCE,
    Break,
    StreamPlace,
    StreamState,
    format_stream_id,
    parse_stream_id,
)
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from coredis.commands import Script

    from rawws.backplane.connector import Client

# The most entries of a page, and of a blocking read.
PAGE, READ = 200, 16
# The time between two looks while the streams can't be read by a blocking read.
LOOK_EVERY_S = 0.5
# A question that is older than this gets no answer, since nobody waits for it.
STALE_MS = 5000


class CommandReader:
    """This node's place in the stream of commands."""

    def __init__(
        self,
        node: str,
        kept: KeptCommands,
        work: CommandWork,
        send_again: Callable[[], None],
        on_answer: Callable[[Mapping[bytes, bytes]], None],
    ) -> None:
        """``kept`` are this node's own commands, of which ``send_again`` sends those that Redis has lost."""
        self._node = node
        self._kept = kept
        self._work = work
        self._send_again = send_again
        self._on_answer = on_answer
        self._seen = SeenCommands()
        self._began_at = math.nan
        self._place: StreamPlace | None = None  # None until Redis has been reached
        self._last_answer = BEGINNING
        self._looked_at = -math.inf
        self._must_look = True
        self._problem = ""
        self._has_odd_entries = False

    @property
    def held_bytes(self) -> int:
        return self._seen.held_bytes

    def begin(self, now: float) -> None:
        """Note the time from which on commands concern this node."""
        self._began_at = now

    async def follow(self, client: Client, on_works: Callable[[], None]) -> None:
        """Read commands and answers until this is cancelled. Raises the exception of a command that fails."""
        script = client.register_script(READ_PAGE)
        self._must_look = True
        while True:
            await self._work.ready()
            since_s = trio.current_time() - self._looked_at
            if self._must_look or since_s > (PROBLEM_S if self._problem else RECHECK_S):
                await self._look(client, script)
                self._send_again()
            on_works()
            await self._read_what_comes(client)

    async def _look(self, client: Client, script: Script[bytes]) -> None:
        """Compare our place with the state of the stream, and read a page."""
        confirmed = self._kept.confirmed
        place = self._place or StreamPlace()
        most = 0 if self._place is None else PAGE
        arguments: list[str | int] = [PAGE_BYTES, "XRANGE", f"({format_stream_id(place.last)}", "+", most]
        arguments += map(format_stream_id, place.landmarks)
        with trio.fail_after(TIMEOUT_S):
            answers: Any = await script([COMMANDS_KEY], arguments)
        time, answer = answers
        self._looked_at = trio.current_time()
        if isinstance(answer, bytes) and b"no such key" not in answer:
            self._note_problem(answer.decode(errors="replace"))
            return
        self._problem = ""
        page = Page(StreamState(), [], is_last=True) if isinstance(answer, bytes) else Page.of(answer)
        if self._place is None:
            self._place = self._begin(page.state, ms_of(time))
        else:
            self._take_page(self._place, page, ms_of(time))
        if not self._must_look and (lost := confirmed & self._kept.confirmed):
            self._kept.lose(lost)

    def _begin(self, state: StreamState, now_ms: int) -> StreamPlace:
        """Return the place before the commands that were given since this node was started."""
        start = (now_ms - int((trio.current_time() - self._began_at) * 1000), MAX_SEQUENCE)
        place = StreamPlace(min(start, state.newest), state.removed)
        self._must_look = state.newest > start
        if not self._must_look:
            place.note_look(state, is_last=True)
        return place

    def _take_page(self, place: StreamPlace, page: Page, now_ms: int) -> None:
        before = place.last
        state, entries, is_last = page
        if found := place.compare(state, now_ms, int(RETAINED.max_age_s * 1000)):
            self._note_break(found)
        if place.last != before:  # this page begins at the old place
            entries, is_last = [], not state.length or place.last == state.newest
        self._take(place, entries, now_ms)
        place.note_look(state, is_last=is_last)
        self._must_look = not is_last

    def _note_break(self, found: Break) -> None:
        sentence = f"commands of other nodes may have been missed: {found.why.value}; each node sends its own again"
        logs.server_line(logging.ERROR, FAULT, sentence)
        self._kept.lose_all()

    def _note_problem(self, problem: str) -> None:
        if concerns_everything(problem):
            raise Refused(problem)
        if problem != self._problem:
            sentence = f"commands of other nodes can't be read: the key {COMMANDS_KEY}: {problem}"
            logs.server_line(logging.ERROR, FAULT, sentence)
        self._problem, self._must_look = problem, False

    async def _read_what_comes(self, client: Client) -> None:
        """Wait for new commands and answers, and take them."""
        from coredis.exceptions import WrongTypeError

        answers, place = answers_key(self._node), self._place
        places: dict[Any, Any] = {answers: format_stream_id(self._last_answer)}
        if place is not None and not self._problem:
            places[COMMANDS_KEY] = format_stream_id(place.last)
        block = None if self._must_look else int(BLOCK_S * 1000)
        came: dict[Any, Any] = {}
        with trio.fail_after(TIMEOUT_S + BLOCK_S):
            try:
                came = dict(await client.xread(places, count=READ, block=block) or {})
            except WrongTypeError:  # of one of them; a look finds new commands in any case
                self._must_look = True
                await trio.sleep(LOOK_EVERY_S)
        for entry in came.get(answers.encode(), ()):
            self._last_answer = parse_stream_id(entry.identifier)
            self._on_answer(entry.field_values)
        entries = [(each.identifier, each.field_values) for each in came.get(COMMANDS_KEY.encode(), ())]
        if place is None or (place.is_gone and entries):  # a look decides whether it is the same stream
            self._must_look = True
        else:
            self._take(place, entries, 0)
            self._must_look = self._must_look or len(entries) == READ

    def _take(self, place: StreamPlace, entries: Iterable[tuple[bytes, Any]], now_ms: int) -> None:
        for identifier, fields in entries:
            given = parse_stream_id(identifier)
            place.pass_over(given)
            try:
                command = read_command(fields)
            except ValueError as error:
                self._log_odd(identifier.decode(), str(error))
                continue
            if command.by.node == self._node:
                self._kept.note_back(command.by.serial)
            elif given[0] >= now_ms - STALE_MS if command.is_question else self._seen.is_new(command.by):
                self._work.put(command, identifier.decode())

    def _log_odd(self, identifier: str, reason: str) -> None:
        if not self._has_odd_entries:
            sentence = f"entry {identifier} of {COMMANDS_KEY} is no command: {reason}; it is passed over, and so are"
            logs.server_line(logging.ERROR, FAULT, f"{sentence} others like it")
        self._has_odd_entries = True
