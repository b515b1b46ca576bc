"""An engine in SQLite, which is a part of Python: a file that a person can look into, as with ``sqlite3 rooms.db``.

A connection makes the commits, and another one serves all readers, which see whole commits (WAL). The engine makes
checkpoints itself, since SQLite doesn't tell of errors in its own.

After a failed write
====================

The transaction is undone, in memory and in the file. It can be tried again.

After a failed fsync
====================

The kernel reports once that it couldn't write a page to the disk, and then takes the page for written: the next fsync
succeeds, and the data is gone as soon as the page leaves the memory. (For this, PostgreSQL ends itself.) SQLite undoes
the transaction and would go on, although the frames before it in the WAL may be lost with the machine. So the engine
refuses everything after a failed fsync. The next start reads the WAL back, where each frame has a checksum,
writes all of it to the file again, and syncs that, which fails too if the disk still does. So the promise is:

* No commit after the failure is called safe.
* At the next start, everything that was called safe before is on the disk, or told as lost, or the start is refused.
* The commit whose fsync has failed may be there too.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar

from rawws.errors import UsageError, sentence_of
from rawws.store.engine import StoreBroken, StoreError, StoreLimit, Usage
from rawws.store.entries import Entry, GroupState, Outcome, Page, RoomTail
from rawws.store.file_bounds import PAGE_BYTES, FileLimit, Pages, pages_to_give_back
from rawws.store.known_rooms import KnownRooms
from rawws.store.modes import SyncMode
from rawws.store.overtaking import is_growth
from rawws.store.retention import CROWDED_AFTER_S, FORGOTTEN_AFTER_S, LOOK_AGAIN_S, RETURN_S
from rawws.store.sqlite_errors import engine_error, fsync_failed, is_of_entry, limit_reached
from rawws.store.sqlite_opening import check_folder, open_file
from rawws.store.sqlite_read import find_room, is_damage, read_all_groups, read_last_page, read_page
from rawws.store.sqlite_rows import StoredRoom, query
from rawws.store.sqlite_schema import connect
from rawws.store.sqlite_write import Before, Change
from rawws.store.store_lock import Mark, StoreLock

# The WAL is written to the file when it has this size, or has grown by it where that wasn't possible. Commits and
# readers wait for it: half of the checkpoints took less than 6 ms with 1 MiB, 24 ms with 4 MiB and 97 ms with 16 MiB,
# where a commit's fsync took 3 ms. All of them together took about the same time.
CHECKPOINT_BYTES = 1024 * 1024
# How long a commit waits for another program that has the file locked.
BUSY_MS = 5000
# How often a commit looks at rooms in which something has grown old, and at how many: two for each that was made in it
# and before, so that they can't be made faster than they go.
SWEEP_S = 1.0
SWEPT_ROOMS, MOST_SWEPT_ROOMS = 100, 2000
# How many are looked at at a time when nothing else is to be done. Commits wait for it.
TENDED_ROOMS = 250
# The pages that this may take beyond the limit of the file: for a moment, a tree may need some to lose others.
TEND_PAGES = 64

T = TypeVar("T")


class SqliteEngine:
    """A store in a file. Make one with `open_store`."""

    def __init__(
        self,
        path: Path,
        mode: SyncMode,
        clock: Callable[[], float] = time.time,
        *,
        most_bytes: int | None = None,
    ) -> None:
        """Open a store, or make one. Raises `UsageError` in one sentence.

        Its file gets no more than ``most_bytes``, unless it has more already.
        """
        # SQLite follows links, too, and puts its files beside the file itself. So each store has one lock.
        self.path, self.mode, self._clock = Path(os.path.realpath(path)), mode, clock
        check_folder(self.path)
        self._lock = StoreLock.take(self.path)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            opened = open_file(self.path, mode, self._lock)
            self._writer, self._mark = opened.connection, opened.mark
            undo.callback(self._writer.close)
            self._reader = self._open_reader()
            undo.callback(self._reader.close)
            self._wal = self._open_wal()
            undo.pop_all()
        found = os.stat(self.path)
        self._place = found.st_dev, found.st_ino
        self.lost = opened.lost  # messages at the end, when it was opened
        self._reading = Lock()
        self._rooms = KnownRooms()
        self._limit = None if most_bytes is None else FileLimit(most_bytes)
        self._broken: StoreBroken | None = None
        self._is_closed = self._is_unsynced = False
        self._checkpoint_at = CHECKPOINT_BYTES  # the size of the WAL
        self._can_shrink, self._has_shrunk = opened.can_shrink, False
        self._swept_at, self._made_rooms, self._is_behind = self._clock(), 0, False
        self._opened_at = self._clock()
        self._room_count, self._pages, self._wal_bytes, self._sized_at = opened.rooms, Pages(), 0, 0.0
        self.shortage: StoreLimit | None = None
        # There is no space for more; the last room that was looked at; and when the first one is again.
        self._is_crowded, self._looked_to, self._look_at = False, 0, -math.inf
        self._bound_file(0)
        self._note_size()

    @property
    def description(self) -> str:
        return str(self.path)

    @property
    def usage(self) -> Usage:
        most = None if self._limit is None else self._limit.most_bytes
        used, pages = self._pages.used * PAGE_BYTES, self._pages.all * PAGE_BYTES
        return Usage(self._room_count, used, pages + self._wal_bytes, most)

    @property
    def held_bytes(self) -> int:
        return self._rooms.held_bytes

    def _open_reader(self) -> sqlite3.Connection:
        try:
            reader = connect(self.path, mode="ro")
            query(reader, "SELECT count(*) FROM store")
        except sqlite3.Error as error:
            raise UsageError(f"the store {self.path} can't be read ({error}); check the disk") from None
        return reader

    def _open_wal(self) -> int:
        """Open the WAL, for its fsyncs. SQLite has no locks on this file that its end would give up."""
        try:
            return os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"the file {self.path}-wal can't be opened: {sentence_of(error)}") from None

    # Commits

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        self._check()
        self._check_place()
        now = self._clock()
        if not entries and not self._is_sweep_due(now):
            return []
        with self._transaction():
            change = self._begin(now)
            outcomes = [change.carry_out(entry) for entry in entries]
            self._is_crowded = self._is_crowded or any(outcome.is_refused for outcome in outcomes)
            if self._is_sweep_due(now):
                most = min(SWEPT_ROOMS + 2 * (self._made_rooms + change.made_rooms), MOST_SWEPT_ROOMS)
                self._is_behind = change.sweep(most)
                self._swept_at = now
            mark = self._finish_change(change)
            if (
                self._limit is not None
                and self._limit.is_too_much(self._count_pages())
                and any(map(is_growth, entries))
            ):
                raise limit_reached(self.path, self._limit.most_bytes)
        self._are_committed(change, mark)
        return outcomes

    def _check_limit(self, entries: Sequence[Entry]) -> None:
        """Raises `StoreLimit` if the messages of a commit leave too little space for groups."""
        limit = self._limit
        if limit is not None and limit.is_too_much(self._count_pages()) and any(map(is_growth, entries)):
            raise limit_reached(self.path, limit.most_bytes)

    def _begin(self, now: float) -> Change:
        forgets_after_s = math.inf
        if abs(now - self._opened_at) >= RETURN_S:
            forgets_after_s = CROWDED_AFTER_S if self._is_crowded else FORGOTTEN_AFTER_S
        return Change(self._writer, self._rooms, now, Before(self._room_count, self._limit, forgets_after_s))

    def _finish_change(self, change: Change) -> Mark:
        change.finish()
        mark = self._mark.advanced(self._mark.commits + 1, self._mark.messages + change.messages)
        self._writer.execute("UPDATE store SET commits = ?, messages = ?", (mark.commits, mark.messages))
        return mark

    def _are_committed(self, change: Change, mark: Mark) -> None:
        self._mark, self._room_count = mark, change.rooms
        self._made_rooms = change.made_rooms
        self._lock.write(mark)  # if it fails, the next one tells the same
        self._is_unsynced = self.mode is not SyncMode.ALWAYS
        with contextlib.suppress(OSError, sqlite3.Error):  # an error here would have the commit carried out again
            self._bound_wal()
            if self._limit is not None or abs(self._clock() - self._sized_at) >= SWEEP_S:
                self._note_size()

    def _is_sweep_due(self, now: float) -> bool:
        return self._is_behind or abs(now - self._swept_at) >= SWEEP_S

    def tend(self) -> bool:
        self._check()
        self._check_place()
        now = self._clock()
        self._bound_file(TEND_PAGES)
        try:
            if query(self._writer, "SELECT 1 FROM due WHERE at <= ? LIMIT 1", now):
                with self._transaction():
                    change = self._begin(now)
                    self._is_behind = change.sweep(TENDED_ROOMS)
                    mark = self._finish_change(change)
                self._are_committed(change, mark)
                return True
            if (self._is_crowded or self.shortage is not None) and now >= self._look_at:
                return self._make_space(now) or self._give_back()
            return self._give_back()
        except sqlite3.Error as error:
            raise self._note(self._error_of(error)) from None
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._bound_file(0)

    def _make_space(self, now: float) -> bool:
        """Forget rooms of which nothing is left earlier than else, in a part of all; return whether there are more.

        Clients that make many rooms must not be able to keep others out for a day.
        """
        self._is_crowded = True
        with self._transaction():
            change = self._begin(now)
            self._looked_to = change.look_for_quiet(self._looked_to, TENDED_ROOMS)
            mark = self._finish_change(change)
        self._are_committed(change, mark)
        if not self._looked_to:
            self._is_crowded, self._look_at = False, now + LOOK_AGAIN_S
        return self._is_crowded

    def _give_back(self) -> bool:
        """Give free space back to the disk, a part at a time; return whether there is more."""
        self._note_size()
        count = pages_to_give_back(self._pages)
        if count and self._can_shrink:
            self._writer.executescript(f"PRAGMA incremental_vacuum({count})")  # `execute` would give back one page
            self._is_unsynced = self.mode is not SyncMode.ALWAYS
            self._has_shrunk = True
            self._bound_wal()
            self._note_size()
            return True
        if self._has_shrunk or self._wal_bytes > CHECKPOINT_BYTES:  # only with a checkpoint is the file shorter
            self._has_shrunk = False
            self._bound_wal(least=1)
            self._note_size()
        return False

    # The size

    def _bound_file(self, more_pages: int) -> None:
        """Have SQLite keep the file within its limit, and some pages more."""
        if self._limit is not None:
            query(self._writer, f"PRAGMA max_page_count = {self._limit.pages + more_pages}")

    def _note_size(self) -> None:
        """Note how large the file is, and whether publishers have to wait for space."""
        self._pages, self._wal_bytes = self._count_pages(), os.fstat(self._wal).st_size
        self._sized_at = self._clock()
        if self._limit is not None:
            was_reached = self.shortage is not None
            is_reached = self._limit.is_reached(self._pages, self._wal_bytes, was_reached=was_reached)
            if is_reached != was_reached:
                self.shortage = limit_reached(self.path, self._limit.most_bytes) if is_reached else None

    def _count_pages(self) -> Pages:
        return Pages(*(query(self._writer, f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count")))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make the block's changes one transaction. Raises `StoreError`."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield
            self._writer.execute("COMMIT")
        except BaseException as error:
            self._rooms.clear()
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and not is_of_entry(error):
                raise self._note(self._error_of(error)) from None
            raise

    def _error_of(self, error: sqlite3.Error) -> StoreError:
        return engine_error(error, self.path, None if self._limit is None else self._limit.most_bytes)

    def _check(self) -> None:
        if self._broken:
            raise StoreBroken(str(self._broken))
        if self._is_closed:
            raise StoreError("the store is closed")

    def _check_place(self) -> None:
        """Raises `StoreBroken` if the file isn't at its path any more: the next start would not find the commits."""
        try:
            found = os.stat(self.path)
            is_there = (found.st_dev, found.st_ino) == self._place
        except FileNotFoundError:
            is_there = False
        except OSError as error:
            raise StoreError(
                f"the store {self.path} can't be found ({sentence_of(error)}); it is tried again"
            ) from None
        if not is_there:
            raise self._note(
                StoreBroken(
                    f"the file of the store {self.path} was moved, deleted or replaced while it was in use; "
                    "put it back, with the files beside it, and restart the server"
                )
            )

    def _note(self, error: StoreError) -> StoreError:
        if isinstance(error, StoreBroken):
            self._broken = error
        return error

    # The disk

    def sync(self) -> None:
        self._check()
        if self._is_unsynced:
            self._is_unsynced = False
            try:
                _sync_file(self._wal)
            except OSError as error:
                raise self._note(fsync_failed(self.path, sentence_of(error))) from None

    def _bound_wal(self, least: int | None = None) -> None:
        """Write the WAL to the file if it is large, or has ``least`` bytes.

        Errors are told by the next commit: this one is safe.

        While another program reads, a part is written, and nobody waits for that program.
        """
        size = os.fstat(self._wal).st_size
        if size < (self._checkpoint_at if least is None else least):
            return
        with self._reading:  # a reader of ours would keep the WAL from beginning again
            self._writer.execute("PRAGMA busy_timeout = 0")
            try:
                is_busy, _, _ = query(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")[0]
            except sqlite3.Error as error:
                self._note(engine_error(error, self.path))
                is_busy = True
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        self._checkpoint_at = CHECKPOINT_BYTES + (size if is_busy else 0)

    # Readers

    def tail(self, path: str) -> RoomTail | None:
        return self._read(path, lambda room: room.tail)

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        return self._read(path, lambda room: read_page(self._reader, room, after, most_messages, most_bytes))

    def read_last(self, path: str, most_messages: int, most_bytes: int) -> Page | None:
        return self._read(path, lambda room: read_last_page(self._reader, room, most_messages, most_bytes))

    def _read(self, path: str, look: Callable[[StoredRoom], T]) -> T | None:
        with self._snapshot():
            try:
                room = find_room(self._reader, path)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                room = None
            return look(room) if room else None

    def groups(self) -> list[GroupState]:
        with self._snapshot():
            return list(read_all_groups(self._reader))

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Have the store as it is at one moment within the block. Raises `StoreError`."""
        with self._reading:
            if self._is_closed:
                raise StoreError("the store is closed")
            try:
                self._reader.execute("BEGIN")
                yield
            except sqlite3.Error as error:
                raise StoreError(f"the store {self.path} can't be read ({error})") from None
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._reader.execute("ROLLBACK")

    def close(self) -> None:
        with self._reading:
            if self._is_closed:
                return
            self._is_closed = True
            self._reader.close()
        try:
            if not self._broken:
                self._finish()
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
            os.close(self._wal)
            self._lock.release()

    def _finish(self) -> None:
        """Have everything in the file itself. Raises `StoreError`."""
        try:
            is_busy, _, _ = query(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")[0]
        except sqlite3.Error as error:
            raise engine_error(error, self.path) from None
        if not is_busy:
            self._lock.write(self._mark.closed())
            self._lock.sync()


def _sync_file(descriptor: int) -> None:
    """Have a file's content on the disk, and not only in the disk's own memory, for which macOS has another call."""
    if (full_sync := getattr(fcntl, "F_FULLFSYNC", None)) is None:
        os.fdatasync(descriptor)
    else:
        fcntl.fcntl(descriptor, full_sync)
