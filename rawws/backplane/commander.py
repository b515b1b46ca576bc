"""Commands between nodes through Redis, and questions that all nodes answer.

A command to all nodes is added to the stream ``rawws:commands`` by the publisher, among the messages
(`rawws.broadcast.node_commands`). Every node follows that stream from the place where it last was (``command_reader``),
so a node that was away carries out what it has missed when it is back. If the stream has lost entries, the log says so,
and each node sends its own commands of the last hour again.

A command concerns the rooms of the Redis that it has come through, and is carried out when their messages from before
it have been read (``command_work``).

Questions and answers don't wait for a Redis that is away: a task sends them as long as there is a connection.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from rawws.backplane.command_reader import CommandReader
from rawws.backplane.command_work import CommandWork
from rawws.backplane.connector import TIMEOUT_S
from rawws.backplane.scripts import APPEND, ASK
from rawws.backplane.troubles import reading, try_out
from rawws.broadcast.node_answers import (
    BEAT_S,
    NODES_KEY,
    ROLL_S,
    Gathered,
    Gathering,
    NodeName,
    answers_key,
    fields_of_answer,
    question_of,
    read_roll,
)
from rawws.broadcast.node_commands import (
    COMMAND_BYTES,
    COMMANDS_KEY,
    MAX_BODY_BYTES,
    RETAINED,
    Command,
    KeptCommands,
    OutgoingCommand,
    encode_body,
)
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stream_entries import PREFIX, Author
from rawws.errors import BackplaneAway
from rawws.relay.backplane import Backplane, CommandTaker
from rawws.relay.room_state import RoomState

if TYPE_CHECKING:
    from rawws.backplane.connector import Client

# Commands of this node that wait for Redis, about 1 KB each. Beyond that, a caller gets an error.
MAX_WAITING = 10_000
# Questions of this node under way at a time, and questions and answers that wait to be sent.
MAX_ASKED, MAX_UNSENT = 8, 200
# Redis keeps this many answers to a node for this time, and this many entries of nodes.
MAX_ANSWERS, ANSWERS_EXPIRY_S = 1000, 60
MAX_BEATS = 10_000
LEAVE_S = 0.5

Call = list[str | bytes | int]  # the key of a stream, the most entries, its expiry, and the fields of an entry


class Commander:
    """Gives commands to other nodes, and takes theirs. `work` and `carry_out` have to be running."""

    def __init__(
        self,
        name: NodeName,
        backplane: Backplane[RoomState],
        taker: CommandTaker[RoomState],
        put: Callable[[Outgoing], None],
        catch_up: Callable[[Collection[RoomState]], Awaitable[None]],
    ) -> None:
        """``put`` sends something among the messages. ``catch_up`` reads what was published in rooms up to now."""
        self._name = name
        self._put = put
        self._kept = KeptCommands()
        self.waiting = 0  # commands that are still on their way to Redis
        self._work = CommandWork(backplane, taker, catch_up, self._answer)
        self._reader = CommandReader(name.node, self._kept, self._work, self._send_again, self._take_answer)
        self._questions = itertools.count(1)
        self._asked: dict[int, tuple[Gathering, trio.Event]] = {}
        self._limit = trio.CapacityLimiter(MAX_ASKED)
        self._unsent: deque[Command | Call] = deque(maxlen=MAX_UNSENT)
        self._something_unsent = trio.Event()
        self._client: Client | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes."""
        commands = self._work.held_bytes + self._reader.held_bytes + self._kept.held_bytes
        answers = sum(gathering.held_bytes for gathering, _ in self._asked.values())
        return commands + answers + sum(map(_bytes_of, self._unsent))

    # Commands

    def tell(self, kind: str, body: Mapping[str, Any], serial: int) -> None:
        """Send a command. ``serial`` is its number among all that this node publishes."""
        if self.waiting >= MAX_WAITING:
            sentence = f"{MAX_WAITING} commands to the other nodes wait for the backplane already"
            raise BackplaneAway(f"{sentence}; no other node gets this one, so give it again when the backplane is back")
        command = Command(kind, body, Author(self._name.node, 0, serial))
        self._send_out(self._kept.add(command, trio.current_time()))

    def _send_out(self, outgoing: OutgoingCommand) -> None:
        outgoing.on_done = self._count_done
        self.waiting += 1
        self._put(outgoing)

    def _count_done(self) -> None:
        self.waiting -= 1

    def _send_again(self) -> None:
        for outgoing in self._kept.send_again(trio.current_time()):
            self._send_out(outgoing)

    async def carry_out(self) -> None:
        """Carry out the commands of others until cancelled, whether Redis is there or not."""
        self._reader.begin(trio.current_time())
        await self._work.run()

    # Questions

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        encode_body(body)  # checks its size
        number = next(self._questions)
        gathering, is_answered = self._asked[number] = (Gathering(), trio.Event())
        try:
            with trio.move_on_after(timeout_s):
                async with self._limit:
                    self._send(Command(kind, body, Author(self._name.node, 0, number), is_question=True))
                    await is_answered.wait()
        finally:
            del self._asked[number]
        return gathering.result

    def _answer(self, question: Command, items: Iterable[object]) -> None:
        fields = fields_of_answer(question.by.serial, self._name, items)
        self._send([answers_key(question.by.node), MAX_ANSWERS, ANSWERS_EXPIRY_S, *fields])

    def _take_answer(self, fields: Mapping[bytes, bytes]) -> None:
        if (asked := self._asked.get(question_of(fields) or 0)) is not None:
            gathering, is_answered = asked
            gathering.take(fields)
            if gathering.is_whole:
                is_answered.set()

    def _send(self, what: Command | Call) -> None:
        self._unsent.append(what)
        self._something_unsent.set()

    # The connection

    async def work(self, client: Client, on_works: Callable[[], None]) -> None:
        """Follow commands, ask and answer until this is cancelled. Raises the exception of a command that fails.

        ``on_works`` is called when Redis refuses none of the commands, and has answered the first read.
        """
        trial_key = f"{PREFIX}trial:{self._name.node}:commands"
        with trio.fail_after(TIMEOUT_S):
            await try_out(client, [trial_key], reading(trial_key))
        on_works()
        self._unsent.clear()  # nobody waits for them any more
        try:
            async with trio.open_nursery() as nursery:
                self._client = client
                nursery.start_soon(self._beat, client)
                nursery.start_soon(self._send_what_waits, client)
                await self._reader.follow(client, on_works)
        finally:
            self._client = None

    @trio.lowlevel.enable_ki_protection
    async def _beat(self, client: Client) -> None:
        """Stay on the roll."""
        while True:
            await self._append(client, self._beat_call)
            await trio.sleep(BEAT_S)

    @property
    def _beat_call(self) -> Call:
        return [NODES_KEY, MAX_BEATS, int(ROLL_S), "node", self._name.node, "host", self._name.host]

    async def leave(self) -> None:
        """Have this node taken from the roll, if Redis is there."""
        if self._client is not None:
            with contextlib.suppress(Exception), trio.move_on_after(LEAVE_S):
                await self._append(self._client, [*self._beat_call, "gone", "1"])

    @trio.lowlevel.enable_ki_protection
    async def _send_what_waits(self, client: Client) -> None:
        while True:
            await self._something_unsent.wait()
            self._something_unsent = trio.Event()
            while self._unsent:
                what = self._unsent.popleft()
                if isinstance(what, Command):
                    await self._send_question(client, what)
                else:
                    await self._append(client, what)

    @staticmethod
    async def _append(client: Client, call: Call) -> None:
        """Add an entry to a stream. This has no effect in a Redis that is full."""
        from coredis.exceptions import ResponseError

        key, *arguments = call
        with contextlib.suppress(ResponseError), trio.fail_after(TIMEOUT_S):
            await client.register_script(APPEND)([str(key)], arguments)

    async def _send_question(self, client: Client, question: Command) -> None:
        from coredis.exceptions import ResponseError

        asked = self._asked.get(question.by.serial)
        if asked is None:
            return  # it is too late
        gathering, is_answered = asked
        arguments = [RETAINED.messages, int(RETAINED.max_age_s), int(ROLL_S * 1000), MAX_BEATS, *question.fields]
        try:
            with trio.fail_after(TIMEOUT_S):
                entries: Any = await client.register_script(ASK)([COMMANDS_KEY, NODES_KEY], arguments)
        except ResponseError as error:
            gathering.problem = f"Redis refuses the question: {error}"
        else:
            roll = read_roll(dict(zip(*[iter(fields)] * 2, strict=True)) for _, fields in entries)
            roll.pop(self._name.node, None)
            gathering.expect(roll)
        if gathering.is_whole:
            is_answered.set()


def _bytes_of(unsent: Command | Call) -> int:
    """Return the memory of a question or an answer that waits to be sent."""
    if isinstance(unsent, Command):
        return COMMAND_BYTES + MAX_BODY_BYTES
    return COMMAND_BYTES + sum(len(each) for each in unsent if isinstance(each, bytes))
