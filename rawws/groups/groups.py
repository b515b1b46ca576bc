"""The groups of all rooms of one hub: opening and ending them, and the bytes that they may keep."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import trio

from rawws import logs
from rawws.access.dead_rooms import dead_room, group_of_dead_room
from rawws.errors import Refusal
from rawws.groups.backlog import Backlog
from rawws.groups.group import Group
from rawws.groups.limits import MAX_GROUPS, MAX_GROUPS_OF_ROOM, TOO_MANY, refuse_full
from rawws.groups.protocol import GroupQuery
from rawws.groups.queue import FIGURES, Client, State
from rawws.groups.runner import Runner
from rawws.groups.shelf import PAGE_BYTES, PAGE_MESSAGES, Shelf
from rawws.hub.queues import DEAD_ROOM, QUEUE_BYTES, GroupFigures
from rawws.relay.loop import current_loop
from rawws.store.committer import Committer
from rawws.store.engine import StoreError, StoreFull
from rawws.store.entries import Append, GroupEnd, GroupState, GroupWrite, Outcome, RoomTail
from rawws.store.stored_rooms import BROKEN, FULL, TROUBLE
from rawws.wire.trace import FAULT, STATE, shorten

# The bytes that the groups of a room keep are counted in at most about this many parts.
BACKLOG_PARTS = 1024
# Publishers that wait go on when this part of the limit is free.
SLACK_PART = 16
# The name of a group that no worker can have: with it, the store knows that a room has dead jobs. Its position is
# beyond all messages, so that it keeps none from being trimmed.
OF_THE_DEAD, NEEDS_NOTHING = "", (1 << 40) - 1

Key = tuple[str, str]  # the path of the room, and the name of the group


class Rooms(Protocol):
    """The rooms of a store, as groups need them."""

    @property
    def committer(self) -> Committer:
        """The committer, through which everything goes into the store."""

    def keep_dead(self, path: str) -> None:
        """Have a room keep dead jobs from now on: for long, and no client publishes there."""

    def bury(self, path: str, frame: bytes) -> None:
        """Put the frame about a dead job into the committer at once, for the room that keeps it."""

    def hold(self, path: str, *, held: bool) -> None:
        """Hold publishers of a room back, or let them go on."""


class Groups:
    """All groups of one hub, of which each has a task. `run` has to be running."""

    def __init__(self, rooms: Rooms, queue_bytes: int = QUEUE_BYTES) -> None:
        """The groups of a room keep at most about ``queue_bytes`` from being trimmed, and then publishers wait."""
        self._rooms = rooms
        self._committer = rooms.committer
        self._engine = rooms.committer.engine
        self._queue_bytes = queue_bytes
        self._runners: dict[Key, Runner] = {}
        self._opening: dict[Key, trio.Event] = {}
        self._backlogs: dict[str, Backlog] = {}
        self._of_room: defaultdict[str, dict[str, Runner]] = defaultdict(dict)
        self._held: set[str] = set()  # the rooms whose publishers wait
        self._warned: set[str] = set()
        self._with_dead: set[str] = set()  # the rooms in which dead jobs are, also those of groups that have ended
        self._tasks: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Groups {len(self._runners)}>"

    # Its life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the groups until cancelled. All stored groups are open when it has started."""
        loop = current_loop()
        loop.memory.extra_usage.add(self.held_bytes)
        loop.regrants.append(self.regrant)
        self._committer.on_append.append(self._note_stored)
        try:
            async with trio.open_nursery() as self._tasks:
                states = await trio.to_thread.run_sync(self._engine.groups)
                for state in states:
                    if state.path and state.group != OF_THE_DEAD:
                        await self._restore(state)
                for state in states:
                    if state.path and state.group == OF_THE_DEAD:
                        await self._restore_dead(state.path)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._tasks = None
            self._committer.on_append.remove(self._note_stored)
            loop.regrants.remove(self.regrant)
            loop.memory.extra_usage.discard(self.held_bytes)

    def regrant(self) -> int:
        """End the workers whose grants no longer let them work, and return their number."""
        return sum(runner.regrant() for runner in list(self._runners.values()))

    def held_bytes(self) -> int:
        """Return the bytes of memory of all groups."""
        of_backlogs = sum(backlog.held_bytes for backlog in self._backlogs.values())
        return of_backlogs + sum(runner.held_bytes() for runner in self._runners.values())

    async def _restore(self, state: GroupState) -> None:
        keys = await Shelf(self._engine, state.path).keys([job.number for job in state.jobs])
        group = Group.restored(state, keys, trio.current_time(), time.time())
        await self._start(group, await self._tail(state.path))

    async def _restore_dead(self, path: str) -> None:
        """Go on keeping the dead jobs of a room, if there are any, or may be again."""
        tail = await self._tail(path)
        is_empty = tail is None or tail.oldest > tail.newest
        if is_empty and group_of_dead_room(path) not in self._runners:
            self._committer.put(GroupEnd(path, OF_THE_DEAD))
        else:
            self._with_dead.add(path)

    def _bury(self, path: str, frame: bytes) -> None:
        """Keep a dead job. That its room has some is kept, too: the group may be ended."""
        if path not in self._with_dead:
            self._with_dead.add(path)
            self._committer.put(GroupWrite(path, OF_THE_DEAD, NEEDS_NOTHING))
        self._rooms.bury(path, frame)

    async def _tail(self, path: str) -> RoomTail | None:
        return await trio.to_thread.run_sync(self._engine.tail, path)

    async def _start(self, group: Group, tail: RoomTail | None) -> Runner:
        """Start the task of a group."""
        path, key = group.path, (group.path, group.name)
        shelf = Shelf(self._engine, path, "" if tail is None else tail.epoch)
        for_dead = dead_room(path, group.name)
        dead = await self._tail(for_dead)
        runner = Runner(group, shelf, self._committer, self._bury, partial(self._measure, path))
        runner.died_before = 0 if dead is None else dead.newest
        await self._read_backlog(path, group.oldest - 1)
        self._runners[key] = self._of_room[path][group.name] = runner
        try:
            await self._find_newest(runner)
        except BaseException:
            self._leave_out(key)
            raise
        assert self._tasks is not None
        self._tasks.start_soon(runner.run)
        self._rooms.keep_dead(for_dead)
        self._measure(path)
        return runner

    async def _find_newest(self, runner: Runner) -> None:
        """Tell a runner of the messages that are there: more may have been stored since it was made."""
        path, oldest = runner.group.path, runner.group.oldest
        if (tail := await self._tail(path)) is not None:
            page = await trio.to_thread.run_sync(self._engine.read, path, oldest - 1, 1, 1)
            first = page.records[0].at if page is not None and page.records else time.time()
            runner.note_stored(tail.newest, first)

    def _leave_out(self, key: Key) -> Runner | None:
        """Have a group no more, if there is one."""
        runner = self._runners.pop(key, None)
        if runner is not None:
            path, name = key
            del self._of_room[path][name]
            self._measure(path)
            if not self._of_room[path]:
                del self._of_room[path]
        return runner

    async def _read_backlog(self, path: str, after: int) -> None:
        """Find the sizes of the messages in a room from the first on that a new group has not finished."""
        known = [runner.group.oldest - 1 for runner in self._of_room.get(path, {}).values()]
        if min(known, default=after + 1) <= after:
            return
        backlog = Backlog(self._queue_bytes // BACKLOG_PARTS)
        while True:
            page = await trio.to_thread.run_sync(self._engine.read, path, after, PAGE_MESSAGES, PAGE_BYTES)
            if page is None or not page.records:
                break
            for record in page.records:
                backlog.add(record.last, len(record.frames or b""))
            after = page.records[-1].last
        self._backlogs[path] = backlog

    # For the rooms

    def _note_stored(self, entry: Append, outcome: Outcome) -> None:
        """Note that a room has new messages."""
        path, newest = entry.path, outcome.first + entry.messages - 1
        for runner in list(self._of_room.get(path, {}).values()):
            if runner.epoch not in ("", outcome.epoch):
                self._begin_again(runner, outcome)
        runners = self._of_room.get(path)
        if not runners:
            return
        if (backlog := self._backlogs.get(path)) is not None:
            backlog.add(newest, len(entry.frames))
        now = time.time()
        for runner in runners.values():
            runner.note_stored(newest, now)
        self._measure(path)

    def _begin_again(self, runner: Runner, outcome: Outcome) -> None:
        """Begin a group again, since its room has begun a new epoch: the store has lost the room's messages."""
        path, name = runner.group.path, runner.group.name
        self._leave_out((path, name))
        runner.begin_again()
        sentence = f"the group {name} of {shorten(path)} begins again with message {outcome.epoch}-{outcome.first}"
        logs.server_line(logging.ERROR, FAULT, f"{sentence}, since the store has lost the earlier ones")
        assert self._tasks is not None
        self._tasks.start_soon(self._reopen, path, name)

    async def _reopen(self, path: str, name: str) -> None:
        found = await self.open(path, GroupQuery(name))
        if isinstance(found, Refusal):
            sentence = f"the group {name} of {shorten(path)} begins again with its next worker: {found.sentence}"
            logs.server_line(logging.WARNING, FAULT, sentence)

    def _measure(self, path: str) -> None:
        """Compare what the groups of a room keep with the limit."""
        runners, backlog = self._of_room.get(path), self._backlogs.get(path)
        if backlog is None:
            return
        if not runners:
            del self._backlogs[path]
            self._hold(path, is_over=False)
            return
        backlog.trim(min(runner.group.oldest for runner in runners.values()))
        # Publishers that go on have space for more than a message, so that they don't wait again at once.
        slack = self._queue_bytes // SLACK_PART if path in self._held else 0
        is_over = backlog.bytes >= self._queue_bytes - slack
        if is_over != (path in self._held):
            self._hold(path, is_over=is_over)
            self._tell(path, backlog, "publishers wait" if is_over else "publishers go on")
        elif backlog.bytes < self._queue_bytes // 4:
            self._warned.discard(path)
        elif backlog.bytes >= self._queue_bytes // 2 and path not in self._warned:
            self._warned.add(path)
            self._tell(path, backlog, "when the limit is reached, publishers have to wait")

    def _hold(self, path: str, *, is_over: bool) -> None:
        if is_over != (path in self._held):
            (self._held.add if is_over else self._held.discard)(path)
            self._rooms.hold(path, held=is_over)

    def _tell(self, path: str, backlog: Backlog, what: str) -> None:
        runners = self._of_room.get(path)
        if not runners:
            return
        slowest = min(runners.values(), key=lambda runner: runner.group.oldest).state()
        workers = "no worker" if not slowest.workers else f"workers: {slowest.workers}"
        limit = f"{self._queue_bytes} (--queue-bytes)"
        sentence = (
            f"the groups of {shorten(path)} keep {backlog.bytes} bytes, of {limit}: {what}; "
            f"the group {slowest.group} is furthest behind (messages: {slowest.waiting + slowest.leased}, {workers})"
        )
        logs.server_line(logging.WARNING, STATE, sentence)

    def keeps_dead(self, path: str) -> bool:
        return path in self._with_dead or group_of_dead_room(path) in self._runners

    def refuse_publishing(self, path: str) -> Refusal | None:
        if self.keeps_dead(path):
            return DEAD_ROOM
        return refuse_full(self._queue_bytes) if path in self._held else None

    # For its doors

    def trouble_of(self, path: str) -> Refusal | None:
        """Return why nothing can be stored at present, so that workers had better wait; None if something can.

        While the store is short of space, what workers do still is: it makes the store smaller.
        """
        del path  # all rooms are in one store
        failure = self._committer.failure
        if failure is None:
            return None
        return BROKEN if self._committer.is_broken else FULL if isinstance(failure, StoreFull) else TROUBLE

    def known(self, path: str, group: str) -> Runner | None:
        """Return a group that is open; None if there is none."""
        return self._runners.get((path, group))

    async def find(self, path: str, group: str) -> Runner | None:
        return self.known(path, group)

    async def open(self, path: str, query: GroupQuery) -> Runner | Refusal:
        """Return a group, which is made if there is none of this name yet."""
        key = (path, query.group)
        while (opening := self._opening.get(key)) is not None:
            await opening.wait()
        if (runner := self._runners.get(key)) is not None:
            return runner if runner.problem is None else runner.problem
        if (
            len(self._runners) + len(self._opening) >= MAX_GROUPS
            or len(self._of_room.get(path, ())) >= MAX_GROUPS_OF_ROOM
        ):
            return TOO_MANY
        if self._tasks is None:
            return BROKEN
        if (trouble := self.trouble_of(path)) is not None:
            return trouble
        if self._committer.trouble is not None:
            return FULL  # it would keep more messages
        self._opening[key] = trio.Event()
        try:
            tail = await self._tail(path)
            runner = await self._start(Group(path, query.group, _position(tail, query)), tail)
            return await runner.settled() or runner  # from now on, nothing that it needs is trimmed
        except StoreError as error:
            sentence = f"the group {query.group} of {shorten(path)} can't be opened: {error}"
            logs.server_line(logging.ERROR, FAULT, sentence)
            return BROKEN
        finally:
            self._opening.pop(key).set()

    async def end(self, path: str, group: str) -> bool:
        runner = self._leave_out((path, group))
        if runner is None:
            return False
        runner.end()
        logs.server_line(logging.INFO, STATE, f"the group {group} of {shorten(path)} has been ended")
        return True

    def clients(self) -> Iterator[Client]:
        """Yield the other ends of all workers."""
        for runner in self._runners.values():
            yield from runner.clients

    # Its state

    def figures(self) -> Iterator[GroupFigures]:
        for (path, name), runner in self._runners.items():
            state = runner.state()
            values = {field: getattr(state, field) for field in FIGURES}
            if state.oldest is not None and runner.oldest_at is not None:
                values["oldest_s"] = max(0.0, time.time() - runner.oldest_at)
            yield GroupFigures(path, name, values)

    async def leave(self) -> None:
        """Do nothing: leases of connections end with the server, as the store knows."""

    async def refresh(self) -> None:
        """Have the figures be those of now, which they are."""

    async def state(self, path: str, group: str) -> State | None:
        """Return the state of a group; None if there is none."""
        runner = self._runners.get((path, group))
        if runner is None:
            return None
        state = runner.state()
        oldest = runner.group.oldest
        if state.oldest is not None:
            page = await trio.to_thread.run_sync(self._engine.read, path, oldest - 1, 1, 1)
            if page is not None and page.records:
                state = state._replace(oldest_s=round(max(0.0, time.time() - page.records[0].at), 3))
        return state


def _position(tail: RoomTail | None, query: GroupQuery) -> int:
    """Return the message after which a new group begins: by default, before the oldest that is kept."""
    if tail is None:
        return 0
    first = tail.oldest - 1
    if query.since is not None and query.since.epoch == tail.epoch:
        return min(max(first, query.since.number), tail.newest)
    return first if query.last is None else max(first, tail.newest - query.last)
