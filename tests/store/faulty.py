"""A program under faults.c: it appends numbered messages while a call fails, and looks at what is there afterwards.

``python -m tests.store.faulty FOLDER CALLS ERROR TIMES MODE FIRST STEP`` has the n-th of some calls fail, for n =
FIRST, FIRST + STEP and so on until none is left to fail. It prints a line for each promise that was broken, and at last
a line with the number of runs, and of those that have said each word. A process of its own appends, and ends without
closing the store in every second run.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import shutil
import sys
import traceback
from collections import Counter
from pathlib import Path

from rawws.broadcast.log import History
from rawws.errors import UsageError
from rawws.store import sqlite_engine, sqlite_opening
from rawws.store.engine import StoreBroken, StoreError, StoreFull
from rawws.store.entries import Append, GroupWrite, Job
from rawws.store.modes import SyncMode
from rawws.store.sqlite_engine import SqliteEngine

MESSAGES = 12
TRIES = 4  # of a commit that fails
HISTORY = History(messages=1000)
PATHS = ("/room/a", "/room/b")


def payload(path: str, number: int) -> bytes:
    """Return the payload of a message, of very different sizes."""
    return f"{path} {number} ".encode() * (1 + number % 5 * 60)


def append_all(store: Path, mode: SyncMode, *, is_closed: bool) -> None:
    """Append the messages, and print the id of each when it is safe. A refusal is printed too."""
    try:
        engine = SqliteEngine(store, mode)
    except UsageError as refusal:
        print("refused", refusal)
        return
    for number in range(1, MESSAGES + 1):
        path = PATHS[number % len(PATHS)]
        entries: list[Append | GroupWrite] = [
            Append(path, payload(path, number), 1, HISTORY),
            GroupWrite(path, "g", number, (Job(1, number, 0.0, ""),)),
        ]
        for _ in range(TRIES):
            try:
                outcome = engine.commit(entries)[0]
                print("id", path, outcome.epoch, outcome.first, number, flush=True)
                if not number % 5:
                    engine.sync()
                break
            except StoreBroken as error:
                print("broken", error, flush=True)
                check_stays_broken(engine, entries)
                return
            except StoreFull as error:
                print("full", error, flush=True)
            except StoreError as error:
                print("error", error, flush=True)
    if is_closed:
        try:
            engine.close()
        except StoreError as error:
            print("error", error)


def check_stays_broken(engine: SqliteEngine, entries: list[Append | GroupWrite]) -> None:
    for refused in (lambda: engine.commit(entries), engine.sync):
        try:
            refused()
            print("went on after it was broken")
        except StoreBroken:
            pass


def run_child(
    store: Path, mode: SyncMode, fault: tuple[str, int, int, int], *, is_closed: bool
) -> tuple[list[str], int]:
    """Append in a process of its own, and return its lines and how many calls have failed."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        library = ctypes.CDLL(None)
        library.fault(str(store.parent).encode(), fault[0].encode(), *fault[1:])
        try:
            append_all(store, mode, is_closed=is_closed)
        except BaseException:
            traceback.print_exc()
        print("hits", library.fault_hits())
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        said = lines.read().splitlines()
    os.waitpid(child, 0)
    return said, next((int(line.split()[1]) for line in said if line.startswith("hits ")), 0)


def judge(store: Path, said: list[str]) -> list[str]:
    """Return a sentence for each promise that was broken."""
    troubles = [line for line in said if line.split()[0] not in ("id", "hits", "refused", "full", "error", "broken")]
    try:
        engine = SqliteEngine(store, SyncMode.ALWAYS)
    except UsageError as refusal:
        return [*troubles, f"refused without a fault: {refusal}"]
    found: dict[tuple[str, str, int], bytes | None] = {}
    for path in PATHS:
        if page := engine.read(path, 0, 1 << 30, 1 << 30):
            found |= {(path, page.tail.epoch, record.first): record.frames for record in page.records}
    engine.close()
    promised = [line.split() for line in said if line.startswith("id ")]
    for _, path, epoch, first, number in promised:
        if found.get((path, epoch, int(first))) != payload(path, int(number)):
            troubles.append(f"{path} {epoch}-{first} isn't there")
    payloads = Counter(frames for frames in found.values())
    troubles += [f"twice: {frames!r:.40}" for frames, count in payloads.items() if count > 1]
    return troubles


def main(folder: str, calls: str, error: str, times: str, mode: str, first: str, step: str) -> None:
    sqlite_engine.CHECKPOINT_BYTES = 64 * 1024  # a few checkpoints in a short run
    sqlite_opening.BUSY_S = 0.0
    number = 0 if error == "short" else getattr(errno, error)
    runs = 0
    kinds: Counter[str] = Counter()
    for at in itertools.count(int(first), int(step)):
        runs += 1
        place = Path(folder) / str(at)
        place.mkdir()
        said, hits = run_child(
            place / "rooms.db", SyncMode(mode), (calls, at, int(times), number), is_closed=at % 2 == 1
        )
        for trouble in judge(place / "rooms.db", said):
            print(f"call {at}: {trouble}")
        kinds.update({line.split()[0] for line in said})
        shutil.rmtree(place)
        if not hits:
            break
    print(*(f"{name}={count}" for name, count in sorted({**kinds, "runs": runs}.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])
