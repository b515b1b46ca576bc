"""Commits the entries of a store, in a thread beside the loop: all that wait, in one commit.

While a commit is under way the loop goes on, and what it puts meanwhile waits for the next one. So there are as many
commits as the disk can do, each as large as it needs to be. The loop and the thread hand over once for each commit, and
not once for each entry.

The committer is in one of three states:

* It works.
* It is stuck: a commit has failed, and nothing of it is stored (no space, for example). The entries wait in their
  order, and are tried again after growing rests.
* It is broken: nobody knows what is on the disk. All entries fail, those that wait and those that come.

While the store is short of space, as its limit says, publishers have to wait as well, and the committer works: what was
accepted is stored, and what groups have to store makes the store smaller in the end. Where there is no space for all
that was accepted, the committer is stuck with the messages, and the groups go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import not_

import trio

from rawws import logs
from rawws.limits import MIB
from rawws.relay.loop import current_loop
from rawws.store.engine import Engine, StoreBroken, StoreError, StoreLimit, StoreUnfit
from rawws.store.entries import Append, Entry, GroupEnd, GroupWrite, Outcome
from rawws.store.overtaking import overtaking
from rawws.store.waiting import OnDone, Result, Waiting, carry_out
from rawws.store.writer_thread import WriterThread
from rawws.wire.trace import FAULT, STATE, shorten

# Publishers are held back when the entries that wait have this many bytes: as much as a disk writes in some 20 ms.
MAX_WAITING_BYTES = 4 * MIB
# The rest after a commit that has failed. It doubles each time.
FIRST_REST_S, MAX_REST_S = 0.1, 5.0
# Entries that have to be written, and leave nothing behind. They find out whether a store takes something again, if
# nobody has anything for it: publishers may be elsewhere, as long as the server isn't ready.
PROBE = (GroupWrite("", "", 0), GroupEnd("", ""))

# The engine tends its store this often, and more rarely while nothing is committed: the time doubles up to the second,
# since a disk may sleep.
TEND_S, MAX_TEND_S = 1.0, 64.0


@dataclass(slots=True)
class CommitStatistics:
    """Counts of a committer since its start."""

    commits: int = 0
    entries: int = 0
    bytes: int = 0  # of the entries, in memory
    seconds: float = 0.0  # all commits together


class Committer:
    """Takes entries, and commits them. `run` has to be running; what is put before waits for it.

    All methods are for the loop's thread. The committer owns the engine while `run` runs, and closes it at the end.
    """

    def __init__(
        self, engine: Engine, *, sync_every_s: float = math.inf, max_waiting_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        """Within ``sync_every_s`` after a commit everything is on the disk, by a call of the engine's ``sync``."""
        self.engine = engine
        self.statistics = CommitStatistics()
        self.waiting_bytes = 0
        self.lost_messages = 0  # that were accepted, and still waited at the end
        # The reason why nothing can be stored at present. While it is a `StoreBroken`, nothing is tried any more.
        self.failure: StoreError | None = None
        # Called when `is_held` may have changed, and after all ``on_done`` of one commit.
        self.on_change: list[Callable[[], None]] = []
        self.on_commit: list[Callable[[], None]] = []
        # Called with all messages that were stored, in their order, before those are told who have put them.
        self.on_append: list[Callable[[Append, Outcome], None]] = []
        self._sync_every_s = sync_every_s
        self._sync_at = math.inf
        self._max_waiting_bytes = max_waiting_bytes
        self._queue: deque[Waiting] = deque()
        self._under_way = 0  # the first entries of the queue, which are being committed
        self._rest_s = 0.0
        self._shortage: StoreLimit | None = None  # of the engine, after its last call
        self._tend_at, self._tend_s = math.inf, TEND_S
        self._something_to_do = trio.lowlevel.ParkingLot()
        self._space = trio.lowlevel.ParkingLot()
        self._turns = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        state = "broken" if self.is_broken else "stuck" if self.failure else "works"
        return f"<Committer {self.engine.description} {state} waiting={self.waiting}>"

    # The state

    @property
    def trouble(self) -> StoreError | None:
        """The reason why no message can be stored at present, or should be; None if there is none."""
        return self.failure or self._shortage

    @property
    def is_broken(self) -> bool:
        """Whether nothing is stored any more until the program is started again."""
        return isinstance(self.failure, StoreBroken)

    @property
    def is_full(self) -> bool:
        """Whether too many bytes wait."""
        return self.waiting_bytes >= self._max_waiting_bytes

    @property
    def is_held(self) -> bool:
        """Whether publishers should wait: nothing can be stored at present, or too much waits."""
        return self.trouble is not None or self.is_full

    @property
    def waiting(self) -> int:
        """The number of entries that are not committed yet."""
        return len(self._queue)

    @property
    def waiting_messages(self) -> int:
        """The number of messages that are not committed yet."""
        return sum(each.entry.messages for each in self._queue if isinstance(each.entry, Append))

    def held_bytes(self) -> int:
        """Return the bytes of memory of all entries that wait, and of the engine."""
        return self.waiting_bytes + self.engine.held_bytes

    # For those who store

    def put(self, entry: Entry, on_done: OnDone | None = None, more_bytes: int = 0) -> Waiting:
        """Accept an entry, even when `is_held` is true.

        ``on_done`` is called in the loop's thread, after the commit and never within this call, with the outcome or
        the error for which the entry is not stored. ``more_bytes`` is what ``on_done`` holds besides.
        """
        waiting = Waiting(entry, on_done, more_bytes)
        was_full = self.is_full
        self._queue.append(waiting)
        self.waiting_bytes += waiting.held_bytes
        if self._rest_s == 0.0:  # otherwise it is tried again soon enough
            self._something_to_do.unpark()
        if self.is_full and not was_full:
            self._tell_change()
        return waiting

    def withdraw(self, waiting: Waiting) -> bool:
        """Drop an entry that is not being committed; return False when it is too late for that."""
        for place, each in enumerate(self._queue):
            if each is waiting:
                if place < self._under_way:
                    return False
                was_full = self.is_full
                del self._queue[place]
                self._release((waiting,), was_full=was_full)
                return True
        return False

    async def ready(self) -> None:
        """Wait until `is_held` is false, or the committer is broken: then it is no use to wait."""
        while self.is_held and not self.is_broken:
            await self._space.park()

    async def flush(self) -> None:
        """Wait until no entry waits any more. It may wait for ever while the committer is stuck."""
        while self._queue:
            await self._space.park()

    async def told(self) -> None:
        """Wait until those who have put entries know the results of the commit that is under way, if there is one."""
        if self._under_way:
            await self._turns.park()

    # The work

    @trio.lowlevel.enable_ki_protection
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is put, until cancelled. Then close the engine, and fail what still waits."""
        memory = current_loop().memory
        memory.extra_usage.add(self.held_bytes)
        self._tend_at = trio.current_time() + TEND_S
        self._note_shortage()
        try:
            with WriterThread("rawws: store") as thread:
                try:
                    task_status.started()
                    await self._work(thread)
                finally:
                    with trio.CancelScope(shield=True):
                        await self._close(thread)
        finally:
            memory.extra_usage.discard(self.held_bytes)
            self.failure = StoreBroken("it is closed")
            self.lost_messages = self.waiting_messages
            self._fail_all()

    async def _work(self, thread: WriterThread) -> None:
        while True:
            await self._wait()
            if self.is_broken:
                self._fail_all()
            else:
                await self._work_once(thread)
            if trio.current_time() >= self._sync_at:
                await self._sync(thread)

    async def _work_once(self, thread: WriterThread) -> None:
        is_stuck = self.failure is not None
        if is_stuck or trio.current_time() >= self._tend_at:
            await self._tend(thread)  # what is old makes room for what is stuck
        if self.is_broken:
            self._fail_all()
        elif self._queue:
            await self._commit(thread)
        elif is_stuck:
            await self._probe(thread)

    async def _wait(self) -> None:
        """Wait until there is something to do, and let all that wants to run before it."""
        if self._rest_s:
            await trio.sleep_until(min(trio.current_time() + self._rest_s, self._sync_at))
        elif self._queue:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(math.inf if self.is_broken else min(self._sync_at, self._tend_at)):
                await self._something_to_do.park()

    async def _commit(self, thread: WriterThread) -> None:
        batch = list(self._queue)
        self._under_way = len(batch)
        began = time.perf_counter()
        try:
            outcomes = await thread.call(self.engine.commit, [each.entry for each in batch])
        except StoreBroken as error:
            self._break(error)
        except StoreUnfit:
            await self._commit_each(batch, thread)
        except StoreLimit as error:
            self._end_turn()
            await self._commit_overtaking(error, thread)
        except StoreError as error:
            self._get_stuck(error)
        except Exception:  # an error in rawws itself
            await self._commit_each(batch, thread)
        else:
            self.statistics.seconds += time.perf_counter() - began
            self._are_done(batch, outcomes)

    async def _commit_overtaking(self, limit: StoreLimit, thread: WriterThread) -> None:
        """Commit what may go before the messages that wait for space, and makes some. The others are stuck."""
        goes = list(overtaking(each.entry for each in self._queue))
        first = list(compress(self._queue, goes))
        if not first:
            self._get_stuck(limit)
            return
        self._queue = deque((*first, *compress(self._queue, map(not_, goes))))
        self._under_way = len(first)
        try:
            outcomes = await thread.call(self.engine.commit, [each.entry for each in first])
        except StoreBroken as error:
            self._break(error)
        except StoreError as error:
            self._get_stuck(error)
        except Exception:  # an error in rawws itself
            await self._commit_each(first, thread)
        else:
            self._get_stuck(limit)
            self._rest_s = FIRST_REST_S  # there may be space soon
            self._take_out(first, outcomes)

    async def _probe(self, thread: WriterThread) -> None:
        """Commit entries that nobody waits for, and learn whether the store takes something again."""
        try:
            await thread.call(self.engine.commit, PROBE)
        except StoreBroken as error:
            self._break(error)
        except StoreError as error:
            self._get_stuck(error)
        except Exception as error:
            self._break(_of_ours(error))
        else:
            self._recover()

    async def _tend(self, thread: WriterThread) -> None:
        """Have the engine do what isn't urgent. A commit finds out whether an error lasts."""
        has_more = False
        try:
            has_more = await thread.call(self.engine.tend)
        except StoreBroken as error:
            self._break(error)
        except StoreError:
            pass
        except Exception as error:
            self._break(_of_ours(error))
        self._note_shortage()
        is_busy = has_more or self._shortage is not None or self._queue
        self._tend_s = TEND_S if is_busy else min(2 * self._tend_s, MAX_TEND_S)
        # With more to do, it is the next turn's, unless entries wait.
        self._tend_at = trio.current_time() + (0.0 if has_more and not self._queue else self._tend_s)

    async def _commit_each(self, batch: list[Waiting], thread: WriterThread) -> None:
        """Commit entries one by one, since one of them can't be committed, and leave that one out."""
        for each in batch:
            if not self._queue or self._queue[0] is not each:  # it was withdrawn meanwhile
                continue
            self._under_way = 1
            result: Result
            try:
                (result,) = await thread.call(self.engine.commit, [each.entry])
            except StoreBroken as error:
                self._break(error)
                return
            except StoreUnfit as error:
                logs.server_line(logging.ERROR, FAULT, f"a message for {shorten(each.entry.path)} is lost: {error}")
                result = error
            except StoreError as error:
                self._get_stuck(error)
                return
            except Exception as error:
                logs.server.exception("#%d ! an error in rawws itself, while an entry is stored", logs.SERVER)
                result = StoreError(f"an error in rawws itself: {error!r}")
            self._are_done((each,), (result,))

    def _are_done(self, batch: Iterable[Waiting], results: Iterable[Result]) -> None:
        self._recover()
        self._take_out(batch, results)

    def _take_out(self, batch: Iterable[Waiting], results: Iterable[Result]) -> None:
        """Take the first entries out of the queue, and tell those who have put them."""
        was_full = self.is_full
        done = list(zip(batch, results, strict=True))
        for _ in done:
            self._queue.popleft()
        self._end_turn()
        self.statistics.commits += 1
        self.statistics.entries += len(done)
        self.statistics.bytes += sum(each.held_bytes for each, _ in done)
        now = trio.current_time()
        self._sync_at = min(self._sync_at, now + self._sync_every_s)
        if self._tend_at - now > TEND_S:
            self._tend_at = now + TEND_S
        self._tend_s = TEND_S
        self._note_shortage()
        for each, result in done:
            if self.on_append and isinstance(each.entry, Append) and isinstance(result, Outcome):
                self._tell_append(each.entry, result)
            each.tell(result)
        for call in self.on_commit:
            carry_out(call)
        self._release([each for each, _ in done], was_full=was_full)

    def _end_turn(self) -> None:
        self._under_way = 0
        self._turns.unpark_all()  # they run after this step

    def _release(self, gone: Iterable[Waiting], *, was_full: bool) -> None:
        """Count entries no longer that have left the queue."""
        self.waiting_bytes -= sum(each.held_bytes for each in gone)
        if not self._queue or not self.is_held:
            self._space.unpark_all()
        if was_full and not self.is_full:
            self._tell_change()

    async def _sync(self, thread: WriterThread) -> None:
        self._sync_at = math.inf
        try:
            await thread.call(self.engine.sync)
        except StoreError as error:
            self._break(error if isinstance(error, StoreBroken) else StoreBroken(str(error)))
        except Exception as error:
            self._break(_of_ours(error))

    async def _close(self, thread: WriterThread) -> None:
        if self._sync_at != math.inf:
            await self._sync(thread)
        try:
            await thread.call(self.engine.close)
        except StoreError as error:
            logs.server_line(logging.ERROR, FAULT, f"the store can't be closed: {error}")
        except Exception as error:
            _of_ours(error)

    # Troubles

    def _get_stuck(self, error: StoreError) -> None:
        self._end_turn()
        self._rest_s = min(2 * self._rest_s, MAX_REST_S) if self._rest_s else FIRST_REST_S
        is_new = self.failure is None or str(self.failure) != str(error)
        self.failure = error
        if is_new:
            sentence = f"nothing can be stored: {error}; readers stay, and publishers wait"
            logs.server_line(logging.ERROR, FAULT, sentence)
            self._tell_change()

    def _recover(self) -> None:
        if self.failure is None:
            return
        self.failure, self._rest_s = None, 0.0
        if not self.is_held:
            self._space.unpark_all()
        logs.server_line(logging.INFO, STATE, "the store takes messages again")
        self._tell_change()

    def _note_shortage(self) -> None:
        """Hold publishers back, or let them go on, as the space in the store says."""
        shortage = self.engine.shortage
        if (shortage is None) == (self._shortage is None):
            return
        self._shortage = shortage
        if shortage is not None:
            sentence = f"no messages are taken for now: {shortage}; readers stay, and publishers wait"
            logs.server_line(logging.WARNING, STATE, sentence)
        else:
            if not self.is_held:
                self._space.unpark_all()
            logs.server_line(logging.INFO, STATE, "the store has space for messages again")
        self._tell_change()

    def _break(self, error: StoreBroken) -> None:
        self._end_turn()
        self._rest_s, self._sync_at = 0.0, math.inf
        self.failure = error
        sentence = f"nothing is stored any more until the server is started again: {error}"
        if lost := self.waiting_messages:
            sentence += f"; messages that may be lost: {lost}"
        logs.server_line(logging.ERROR, FAULT, sentence)
        self._fail_all()
        self._tell_change()

    def _fail_all(self) -> None:
        """Tell all that wait that they are not stored, since the committer is broken."""
        assert self.failure is not None
        failed, self._queue = self._queue, deque()
        for each in failed:
            each.tell(self.failure)
        self._release(failed, was_full=False)

    def _tell_append(self, entry: Append, outcome: Outcome) -> None:
        if outcome.is_stored:
            for call in self.on_append:
                carry_out(partial(call, entry, outcome))

    def _tell_change(self) -> None:
        for call in self.on_change:
            call()


def _of_ours(error: Exception) -> StoreBroken:
    """Log an error in rawws itself, and return it as one of the store."""
    logs.server.exception("#%d ! an error in rawws itself, while an entry is stored", logs.SERVER)
    return StoreBroken(f"an error in rawws itself: {error!r}")
