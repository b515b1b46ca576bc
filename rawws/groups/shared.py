"""The groups of rooms that are shared through Redis, as one node serves them.

Where a group is, and what it has left to do, is in Redis alone. A node knows the groups in which it has had workers, or
for which something was due; it can forget any of them at any time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Protocol

import trio

from rawws import logs
from rawws.access.dead_rooms import is_dead_room
from rawws.backplane.leases import STATES_AT_ONCE, Beginning, GroupState, Leases, LeasesAway
from rawws.broadcast.log import History
from rawws.broadcast.stream_entries import Retention
from rawws.errors import Refusal
from rawws.groups.limits import MAX_GROUPS, MAX_GROUPS_OF_ROOM, TOO_MANY, refuse_full
from rawws.groups.protocol import GroupQuery
from rawws.groups.queue import ENDED, FIGURES, Client, State
from rawws.groups.shared_queue import SharedQueue
from rawws.hub.hub import STORED_HISTORY
from rawws.hub.queues import DEAD_ROOM, GroupFigures
from rawws.relay.backplane import AWAY
from rawws.relay.loop import current_loop
from rawws.wire.trace import STATE, shorten

# The most messages that a new group has from before it began.
MOST_BEFORE = 10_000
# A node that ends gives jobs back within this time.
LEAVE_S = 2.0

Key = tuple[str, str]  # the path of the room, and the name of the group


class Rooms(Protocol):
    """The rooms of a hub, as shared groups need them."""

    def history(self, path: str) -> History | Refusal:
        """Return the history that a room keeps, or why there can't be such a room."""

    def hold(self, path: str, *, held: bool) -> None:
        """Hold publishers of a room back, or let them go on."""


class SharedGroups:
    """All groups of one hub (`rawws.groups.queue.Home`). `run` has to be running."""

    def __init__(
        self, rooms: Rooms, leases: Collection[Leases], of: Callable[[str], Leases], dead: History, queue_bytes: int
    ) -> None:
        """``of`` returns the Redis of a room. ``dead`` is what dead rooms keep."""
        self._rooms = rooms
        self._leases = leases
        self._of = of
        self._kept = Retention.of(dead)
        self._queue_bytes = queue_bytes
        self._queues: dict[Key, SharedQueue] = {}
        self._opening: dict[Key, trio.Event] = {}
        self._held = dict[Leases, set[str]]()
        self._figures: list[GroupFigures] = []
        self._tasks: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<SharedGroups {len(self._queues)}>"

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the groups until cancelled."""
        loop = current_loop()
        loop.memory.extra_usage.add(self.held_bytes)
        loop.regrants.append(self.regrant)
        try:
            async with trio.open_nursery() as self._tasks:
                for each in self._leases:
                    self._held[each] = set()
                    self._tasks.start_soon(each.run, _Ears(self, each))
                for each in self._leases:
                    await each.started()
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._tasks = None
            loop.regrants.remove(self.regrant)
            loop.memory.extra_usage.discard(self.held_bytes)

    def regrant(self) -> int:
        """End the workers whose grants no longer let them work, and return their number."""
        return sum(queue.regrant() for queue in list(self._queues.values()))

    def held_bytes(self) -> int:
        """Return the bytes of memory of all groups."""
        return sum(queue.held_bytes() for queue in self._queues.values())

    # For its doors

    def trouble_of(self, path: str) -> Refusal | None:
        return AWAY if self._of(path).is_away else None

    def known(self, path: str, group: str) -> SharedQueue | None:
        return self._queues.get((path, group))

    async def find(self, path: str, group: str) -> SharedQueue | Refusal | None:
        if (known := self.known(path, group)) is not None:
            return known
        try:
            (state,) = await self._of(path).states([(group, path)])
        except LeasesAway:
            return AWAY
        return None if state is None else await self.open(path, GroupQuery(group))

    async def open(self, path: str, query: GroupQuery) -> SharedQueue | Refusal:
        key = (path, query.group)
        while (opening := self._opening.get(key)) is not None:
            await opening.wait()
        if (trouble := self.trouble_of(path)) is not None:
            return trouble
        if (known := self._queues.get(key)) is not None:
            return known if known.problem is None else known.problem
        if self._tasks is None:
            return AWAY
        self._opening[key] = trio.Event()
        try:
            queue = SharedQueue(path, query.group, "", self._of(path), self._kept, partial(self._make, query=query))
            if (refusal := await self._make(queue, query=query)) is not None:
                return refusal
            if self._tasks is None:
                return AWAY
            self._queues[key] = queue
            self._tasks.start_soon(self._serve, queue)
            return queue
        except LeasesAway:
            return AWAY
        finally:
            self._opening.pop(key).set()

    async def _serve(self, queue: SharedQueue) -> None:
        try:
            await queue.run()
        finally:
            if self._queues.get((queue.path, queue.name)) is queue:
                del self._queues[queue.path, queue.name]

    async def _make(self, queue: SharedQueue, *, query: GroupQuery) -> Refusal | None:
        """Make a group in Redis if there is none, and set its incarnation. Raises `LeasesAway`."""
        history = self._rooms.history(queue.path)
        if isinstance(history, Refusal):
            return history
        last = history.messages or STORED_HISTORY if query.last is None else query.last
        begin = Beginning(min(last, MOST_BEFORE), "" if query.since is None else _stream_id(str(query.since)))
        most = MAX_GROUPS, MAX_GROUPS_OF_ROOM
        made = await self._of(queue.path).open(
            queue.name, queue.path, os.urandom(6).hex(), begin, history.max_age_s, most, self._queue_bytes
        )
        if made is None:
            return TOO_MANY
        queue.born = made[0]
        return None

    async def end(self, path: str, group: str) -> bool | Refusal:
        history = self._rooms.history(path)
        if isinstance(history, Refusal):
            return history
        try:
            if not await self._of(path).end(group, path, Retention.of(history).expiry_s):
                return False
        except LeasesAway:
            return AWAY
        self._note_end(path, group)
        logs.server_line(logging.INFO, STATE, f"the group {group} of {shorten(path)} has been ended")
        return True

    def _note_end(self, path: str, group: str) -> None:
        if (queue := self._queues.pop((path, group), None)) is not None:
            queue.stop(ENDED)

    def clients(self) -> Iterator[Client]:
        for queue in list(self._queues.values()):
            yield from queue.clients

    def keeps_dead(self, path: str) -> bool:
        return is_dead_room(path)  # there may be a group that no worker of this node knows

    def refuse_publishing(self, path: str) -> Refusal | None:
        if self.keeps_dead(path):
            return DEAD_ROOM
        return refuse_full(self._queue_bytes) if any(path in held for held in self._held.values()) else None

    async def leave(self) -> None:
        """Give back what the workers of this node have, for at most `LEAVE_S`, if Redis is there."""
        with trio.move_on_after(LEAVE_S):
            async with trio.open_nursery() as nursery:
                for queue in self._queues.values():
                    if not self._of(queue.path).is_away:
                        nursery.start_soon(queue.leave_all)

    # Their state

    async def state(self, path: str, group: str) -> State | Refusal | None:
        try:
            (found,) = await self._of(path).states([(group, path)])
        except LeasesAway:
            return AWAY
        return None if found is None else _state_of(path, group, found)

    async def refresh(self) -> None:
        figures: list[GroupFigures] = []
        try:
            for leases in self._leases:
                groups = await leases.list_groups()
                for first in range(0, len(groups), STATES_AT_ONCE):
                    some = groups[first : first + STATES_AT_ONCE]
                    for (name, path), found in zip(some, await leases.states(some), strict=True):
                        if found is not None:
                            figures.append(_figures_of(_state_of(path, name, found)))
        except LeasesAway:
            return  # those of before are the best that is known
        self._figures = figures

    def figures(self) -> Iterable[GroupFigures]:
        return self._figures

    # The bell

    def wake(self, path: str, group: str) -> None:
        """Have a turn of a group soon if it has workers here that wait."""
        queue = self._queues.get((path, group))
        if queue is not None and queue.mirror.is_hungry:
            queue.kick()

    def note_end(self, path: str, group: str) -> None:
        """Have a turn of a group that may have been ended."""
        if (queue := self._queues.get((path, group))) is not None:
            queue.kick()

    def wake_all(self, leases: Leases) -> None:
        """Have a turn of all groups in one Redis."""
        for queue in self._queues.values():
            if self._of(queue.path) is leases:
                queue.kick()

    def note_due(self, path: str, group: str) -> None:
        """Have a turn of a group soon."""
        if (queue := self._queues.get((path, group))) is not None:
            queue.kick()
        elif self._tasks is not None:
            self._tasks.start_soon(self.find, path, group)

    def note_full(self, leases: Leases, path: str, *, is_full: bool) -> None:
        """Note that the groups of a room keep too many bytes, or don't any more."""
        held = self._held[leases]
        if is_full == (path in held):
            return
        (held.add if is_full else held.discard)(path)
        self._rooms.hold(path, held=is_full)
        what = "publishers wait" if is_full else "publishers go on"
        limit = f"{self._queue_bytes} bytes (--queue-bytes)"
        sentence = f"the groups of {shorten(path)} keep {'up to' if is_full else 'less than'} {limit}: {what}"
        logs.server_line(logging.WARNING, STATE, sentence)

    def note_all_full(self, leases: Leases, paths: Collection[str]) -> None:
        """Note all rooms whose groups keep too many bytes."""
        for path in self._held[leases] - set(paths):
            self.note_full(leases, path, is_full=False)
        for path in paths:
            self.note_full(leases, path, is_full=True)


class _Ears:
    """Hears the bell of one Redis for the groups of a hub."""

    def __init__(self, groups: SharedGroups, leases: Leases) -> None:
        self._groups = groups
        self._leases = leases

    def wake(self, group: str, path: str) -> None:
        self._groups.wake(path, group)

    def note_end(self, group: str, path: str) -> None:
        self._groups.note_end(path, group)

    def wake_all(self) -> None:
        self._groups.wake_all(self._leases)

    def note_due(self, group: str, path: str) -> None:
        self._groups.note_due(path, group)

    def note_full(self, path: str, *, is_full: bool) -> None:
        self._groups.note_full(self._leases, path, is_full=is_full)

    def note_all_full(self, paths: Collection[str]) -> None:
        self._groups.note_all_full(self._leases, paths)


def _stream_id(label: str) -> str:
    """Return an id as Redis takes it; that of another kind of server is before all messages."""
    milliseconds, _, sequence = label.partition("-")
    fits = milliseconds.isdigit() and int(milliseconds) < 1 << 64
    return f"{int(milliseconds)}-{sequence}" if fits else "0-0"


def _state_of(path: str, group: str, found: GroupState) -> State:
    oldest = found.oldest or None
    return State(
        *(path, group, found.waiting, found.leased, oldest, found.age_ms / 1000 if oldest else None),
        *(found.delivered, found.redelivered, found.done, found.dead, found.workers),
    )


def _figures_of(state: State) -> GroupFigures:
    values: dict[str, float] = {name: getattr(state, name) for name in FIGURES}
    if state.oldest_s is not None:
        values["oldest_s"] = state.oldest_s
    return GroupFigures(state.room, state.group, values)
