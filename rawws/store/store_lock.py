"""The file beside a store that keeps a second process out, and remembers how far the store had come.

The lock is the kernel's (flock), so it ends with its process, however that ends, and holds across pid namespaces. The
text in the file is for people and for the next start:

* the process that has the store, for the sentence that refuses another one;
* how many commits and messages there were when a commit was last told of. A store that has fewer at its next start has
  lost its end, such as a file that was cut, or an older copy. Without this, the numbers of the lost messages would be
  given again, and a reader that goes on from one of them would miss others without knowing;
* the boot of the machine, since the end of the machine may have taken the end of this file too.

The file is written without an fsync, once per commit and in one piece.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import weakref
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from rawws.errors import UsageError, sentence_of

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BYTES = 256


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of a store that is remembered, besides the process that has it."""

    identity: str  # of the store
    commits: int
    messages: int  # that were ever appended
    boot: str  # the id of the machine's boot; empty if that isn't known
    mode: str
    is_closed: bool = False

    def advanced(self, commits: int, messages: int) -> Mark:
        return replace(self, commits=commits, messages=messages)

    def closed(self) -> Mark:
        return replace(self, is_closed=True)


_NO_MARK = Mark("-", 0, 0, "", "-")


class StoreLock:
    """The lock of a store, from `take` until `release`."""

    def __init__(self, path: Path, descriptor: int, before: Mark | None) -> None:
        self.path, self._descriptor = path, descriptor
        self.before = before  # the mark of the process that had the store before
        self._holder = f"{os.getpid()} {socket.gethostname()}"
        _held.add(self)

    @classmethod
    def take(cls, store: Path) -> StoreLock:
        """Return the lock of a store. Raises `UsageError` if another process has it, or the file can't be made."""
        path = Path(f"{store}-lock")
        try:
            # A link would be another file that is written instead, in a directory where others may make one.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(f"the file {path} can't be made or written: {sentence_of(error)}") from None
        try:
            return cls._lock(store, path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def _lock(cls, store: Path, path: Path, descriptor: int) -> StoreLock:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"the store {store} is in use by {_name(descriptor)}; stop that process, or give another path"
            ) from None
        except OSError as error:
            raise UsageError(f"the file {path} can't be locked: {sentence_of(error)}") from None
        lock = cls(path, descriptor, _read_mark(descriptor))
        lock.write(lock.before or _NO_MARK)  # with the name of this process
        return lock

    def write(self, mark: Mark) -> bool:
        """Remember a mark, and return whether that was possible."""
        fields = [self._holder, mark.identity, mark.commits, mark.messages, mark.boot or "-", mark.mode]
        text = " ".join(map(str, [*fields, "closed" if mark.is_closed else "open"]))
        line = f"{text} {zlib.crc32(text.encode()):08x}".ljust(_BYTES - 1) + "\n"
        try:
            return os.pwrite(self._descriptor, line.encode(), 0) == len(line)
        except OSError:
            return False

    def sync(self) -> None:
        """Have the mark on the disk, if possible: it is worth no refusal."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)

    def release(self) -> None:
        """Let another process have the store. The file stays: to delete it would let two processes lock two files."""
        _held.discard(self)
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a child that was forked just now may have the file, too
        os.close(self._descriptor)

    def forget(self) -> None:
        """Close the file in a forked child. The lock is that of both, and would outlive its own process."""
        os.close(self._descriptor)
        self._descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # so that `release` closes nothing else


_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _name(descriptor: int) -> str:
    """Return the process that has the lock, for people."""
    try:
        pid, host, *_ = os.pread(descriptor, _BYTES, 0).decode().split()
    except (OSError, ValueError):
        return "another process"
    return f"process {int(pid)}" if host == socket.gethostname() else f"process {int(pid)} on {host}"


def _read_mark(descriptor: int) -> Mark | None:
    """Return the mark in the file; None if there is none, or it is damaged."""
    try:
        text, _, found = os.pread(descriptor, _BYTES, 0).decode().rstrip().rpartition(" ")
        if found != f"{zlib.crc32(text.encode()):08x}":
            return None
        _, _, identity, commits, messages, boot, mode, state = text.split()
    except (OSError, ValueError):
        return None
    return Mark(identity, int(commits), int(messages), "" if boot == "-" else boot, mode, state == "closed")


def boot_id() -> str:
    """Return the id of the machine's boot; empty where there is none."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
