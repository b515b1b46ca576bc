"""The connection to Redis through which groups take turns: calls of scripts, and the bell that says when to call.

Every node follows the bell (`rawws.backplane.lease_scripts`). It rings when a group that has waited for jobs may have
some, when a group has been ended, and when a room becomes full or has space again. Once a second the node also asks
which groups have something due, so that a bell that wasn't heard costs a second.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from rawws import logs
from rawws.backplane import connector as connecting
from rawws.backplane.connector import Connector
from rawws.backplane.lease_scripts import BELL_KEY, END, LIST, NEWEST, OPEN, STATES, TICK
from rawws.backplane.troubles import Lasts, Trouble, grouping, try_out
from rawws.backplane.turn_script import TURN
from rawws.broadcast.stream_entries import PREFIX, Retention, StreamMessage, key_of, read_entry
from rawws.wire.trace import FAULT, STATE

if TYPE_CHECKING:
    from rawws.backplane.connector import Client

# The most time between two looks at what is due.
TICK_S = 1.0
READ = 100
# A start waits for at most this time.
START_S = 5.0
# The groups whose states are read in one call.
STATES_AT_ONCE = 20


class LeasesAway(Exception):
    """Redis can't be asked at present, or its answer is lost. Then it is unknown whether the call has had an effect."""


class Listener(Protocol):
    """The groups of a node, as far as they follow what happens in Redis."""

    def wake(self, group: str, path: str) -> None:
        """Have a turn of a group soon, if it has workers here that wait."""

    def note_end(self, group: str, path: str) -> None:
        """Note that a group has been ended."""

    def wake_all(self) -> None:
        """Have a turn of all open groups soon: Redis is back."""

    def note_due(self, group: str, path: str) -> None:
        """Have a turn of a group soon, which is opened here if need be."""

    def note_full(self, path: str, *, is_full: bool) -> None:
        """Note that the groups of a room keep too many bytes, or don't any more."""

    def note_all_full(self, paths: Collection[str]) -> None:
        """Note all rooms whose groups keep too many bytes."""


class Beginning(NamedTuple):
    """The place where a new group begins: with some of the last messages, or after an id."""

    last: int
    since: str = ""


class GroupState(NamedTuple):
    """The state of a group over all nodes."""

    waiting: int
    leased: int
    oldest: str
    age_ms: int
    delivered: int
    redelivered: int
    done: int
    dead: int
    workers: int


class Handed(NamedTuple):
    """A job for a worker."""

    want: int  # the place of the worker in the turn
    id: str
    tried: int
    message: StreamMessage


class DeadJob(NamedTuple):
    """A job that no worker gets any more."""

    id: str
    tries: int
    reason: str


class TurnReply(NamedTuple):
    """The answer to a turn, see `TURN`."""

    status: str
    results: Sequence[int] = ()
    handed: Sequence[Handed] = ()
    dead: Sequence[DeadJob] = ()
    lost: Sequence[str] = ()
    next_s: float | None = None
    is_more: bool = False
    before: int = 0  # the number of the node's last call that has taken place before this one


class Leases:
    """The leases in one Redis. `run` has to be running."""

    def __init__(self, connector: Connector, node: str) -> None:
        self.node = node
        self.serials = itertools.count(1)  # of the turns of this node
        self._connector = connector
        self._client: Client | None = None
        self._problem = ""  # the kind of trouble that has been logged
        self._listener: Listener | None = None
        self._is_decided = trio.Event()

    @property
    def is_away(self) -> bool:
        """Whether nothing can be asked at present."""
        return self._client is None

    async def started(self) -> None:
        """Wait until it is connected, or can't be at first, for at most `START_S`."""
        with trio.move_on_after(START_S):
            await self._is_decided.wait()

    async def run(self, listener: Listener) -> None:
        """Keep connected, and follow the bell, until cancelled."""
        self._listener = listener
        await self._connector.run_with_reconnect(self._follow, on_away=self._note_away)

    def _note_away(self, trouble: Trouble) -> None:
        self._is_decided.set()
        # The publisher has logged that Redis is away, and what is wrong with it as a whole.
        if trouble.lasts is not Lasts.A_WHILE and trouble.kind != self._problem:
            logs.server_line(logging.ERROR, FAULT, f"groups can't have their leases in Redis: {trouble.sentence}")
            self._problem = trouble.kind

    async def _follow(self, client: Client) -> None:
        assert self._listener is not None
        trial = f"{PREFIX}trial:{self.node}:group"
        with trio.fail_after(connecting.TIMEOUT_S):
            await try_out(client, [trial], grouping(trial, f"{trial}:other"))
            newest: Any = await client.register_script(NEWEST)([BELL_KEY], [])
        last: Any = newest
        self._client = client
        self._is_decided.set()
        if self._problem:
            self._problem = ""
            logs.server_line(logging.INFO, STATE, "groups have their leases in Redis again")
        try:
            self._listener.wake_all()
            looked_at = -TICK_S
            while True:
                if trio.current_time() >= looked_at + TICK_S:
                    looked_at = trio.current_time()
                    await self._tick(client)
                with trio.fail_after(connecting.TIMEOUT_S + TICK_S):
                    came: Any = await client.xread({BELL_KEY: last}, count=READ, block=int(TICK_S * 1000))
                for entry in dict(came or {}).get(BELL_KEY.encode(), ()):
                    last = entry.identifier
                    self._hear(self._listener, entry.field_values)
        finally:
            self._client = None

    async def _tick(self, client: Client) -> None:
        assert self._listener is not None
        with trio.fail_after(connecting.TIMEOUT_S):
            answer: Any = await client.register_script(TICK)([BELL_KEY], [])
        due, full = answer
        self._listener.note_all_full({_text(path) for path in full})
        for each in due:
            self._listener.note_due(*_split(each))

    @staticmethod
    def _hear(listener: Listener, fields: Mapping[bytes, bytes]) -> None:
        for what, whom in fields.items():
            if what == b"work":
                listener.wake(*_split(whom))
            elif what == b"end":
                listener.note_end(*_split(whom))
            elif what in (b"full", b"free"):
                listener.note_full(_text(whom), is_full=what == b"full")

    # Calls

    async def _call(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Call a script. Raises `LeasesAway`."""
        from coredis.exceptions import RedisError

        client = self._client
        if client is None:
            raise LeasesAway("Redis is away")
        try:
            with trio.fail_after(connecting.TIMEOUT_S):
                return await client.register_script(script)(list(keys), list(arguments))
        except (OSError, trio.TooSlowError, RedisError) as error:
            await trio.lowlevel.checkpoint_if_cancelled()  # coredis turns a cancellation into a lost connection
            raise LeasesAway(str(error)) from error

    async def open(
        self, group: str, path: str, born: str, begin: Beginning, age_s: float, most: tuple[int, int], queue_bytes: int
    ) -> tuple[str, bool] | None:
        """Return a group's incarnation, and whether that is new; None if there are too many groups."""
        how = ("id", begin.since) if begin.since else ("last", begin.last)
        answer = await self._call(
            OPEN, [key_of(path)], [group, path, born, *how, int(min(age_s, 1e12) * 1000), *most, queue_bytes]
        )
        return (_text(answer[0]), bool(answer[1])) if answer else None

    async def end(self, group: str, path: str, expiry_s: int) -> bool:
        """Forget a group; return False if there is none."""
        return bool(await self._call(END, [key_of(path)], [group, path, expiry_s]))

    async def states(self, groups: Sequence[tuple[str, str]]) -> list[GroupState | None]:
        """Return the states of groups, each given as its name and its path."""
        answers = await self._call(STATES, [BELL_KEY], [each for pair in groups for each in pair])
        return [_state(*each) if each else None for each in answers]

    async def list_groups(self) -> list[tuple[str, str]]:
        """Return the names and the paths of all groups."""
        found: list[tuple[str, str]] = []
        while True:
            some = await self._call(LIST, [BELL_KEY], [len(found), 100])
            found += map(_split, some)
            if len(some) < 100:
                return found

    async def turn(self, group: str, path: str, dead: tuple[str, Retention], request: Mapping[str, Any]) -> TurnReply:
        """Take a turn of a group; ``dead`` is the path of its dead room, and what is kept there."""
        where, kept = dead
        arguments: list[str | bytes | int] = [group, path, json.dumps({"node": self.node, **request}), *kept]
        status, *rest = await self._call(TURN, [key_of(path), key_of(where)], arguments)
        if not rest:
            return TurnReply(_text(status))
        results, handed, died, lost, next_ms, is_more, before = rest
        return TurnReply(
            _text(status),
            results,
            [_handed(*each) for each in handed],
            [DeadJob(_text(each[0]), each[1], _text(each[2])) for each in died],
            [_text(each) for each in lost],
            None if next_ms < 0 else next_ms / 1000,
            bool(is_more),
            before,
        )


def _state(waiting: int, leased: int, oldest: bytes, *rest: int) -> GroupState:
    age_ms, delivered, redelivered, done, dead, workers = rest
    return GroupState(waiting, leased, _text(oldest), age_ms, delivered, redelivered, done, dead, workers)


def _handed(want: int, given: bytes, tried: int, fields: Sequence[bytes]) -> Handed:
    message = read_entry(given, dict(zip(*[iter(fields)] * 2, strict=True)))
    return Handed(want - 1, _text(given), tried, message)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _split(raw: bytes) -> tuple[str, str]:
    """Return the name of a group and its path."""
    name, _, path = _text(raw).partition(" ")
    return name, path
