"""The calls of other threads for the loop: a queue that is bounded in bytes, and the outcome that a thread waits for.

The lock is reentrant, since a signal handler may interrupt its own thread in the midst of a call here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from rawws.errors import NotServing, PublishError, PublishUnsure, QueueFull
from rawws.limits import MIB

# While this many bytes wait, further calls wait too. It takes the loop some 50 ms with messages of 64 bytes.
MAX_WAITING_BYTES = 16 * MIB
# The share of a bound to all memory that may wait: with more, peers would be closed because threads are fast.
SHARE_OF_MEMORY = 1 / 8
# A thread waits for at most this time: for space, or for the outcome of its call. The loop takes much longer only if it
# is blocked, and then it may be blocked by waiting for this thread.
PATIENCE_S = 30.0


class Gate:
    """Whether calls for one hub are accepted. ``shut`` is a sentence that says why not, or an empty string."""

    __slots__ = ("shut",)

    def __init__(self) -> None:
        self.shut = ""


class Outcome:
    """The outcome of a call, for a thread that waits for it. The loop sets it."""

    __slots__ = ("_error", "_has_begun", "_is_given_up", "_is_known", "_lock", "_result")

    def __init__(self) -> None:
        self._is_known = threading.Event()
        self._lock = threading.Lock()
        self._has_begun = self._is_given_up = False
        self._result: Any = None
        self._error: Exception | None = None

    def begin(self) -> bool:
        """Begin to carry out the call; return False if its thread has given it up, so that it must not be."""
        with self._lock:
            self._has_begun = not self._is_given_up
            return self._has_begun

    def succeed(self, result: object) -> None:
        self._result = result
        self._is_known.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._is_known.set()

    def wait(self) -> Any:
        """Return the result, or raise the error. Other threads than the loop's call this.

        After `PATIENCE_S` it raises `PublishError` for a call that isn't carried out then, and `PublishUnsure` for one
        that has begun.
        """
        if not self._is_known.wait(PATIENCE_S):
            with self._lock:
                self._is_given_up = not self._has_begun
            if self._is_given_up:
                raise PublishError(
                    f"nothing was published, since the call has waited for {PATIENCE_S:g} s: publishers are "
                    "held back, or something blocks the loop, such as a wait for this thread"
                )
            raise PublishUnsure("it isn't known whether the message was published: there is no answer of the backplane")
        if self._error is not None:
            raise self._error
        return self._result


class Call(Protocol):
    """A call for the loop."""

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes while it waits."""


class ThreadQueue:
    """The calls of other threads, in their order. Any thread may put one; the loop alone takes them."""

    def __init__(self, wake: Callable[[], None], max_bytes: int = MAX_WAITING_BYTES) -> None:
        """``wake`` is called, in any thread, when there are calls for a loop that has been told of none.

        It must not wait for the loop, which may be waiting for the lock.
        """
        self._wake = wake
        self.max_bytes = float(max_bytes)
        self._changed = threading.Condition()
        self._calls: deque[Call] = deque()
        self._is_told = False  # the loop knows that there are calls
        self.waiting_bytes = 0  # with the calls that were taken, and not carried out yet
        self.ended = ""  # a sentence that says why no more calls are taken

    def __len__(self) -> int:
        """The number of calls that were not taken."""
        return len(self._calls)

    def put(self, call: Call, gate: Gate, may_wait: Callable[[], bool]) -> None:
        """Add a call. If too many bytes wait already, wait first, for at most `PATIENCE_S`.

        Raises `NotServing` when calls are no longer taken, and `QueueFull` when there is no space in time, or at once
        if this thread may not wait.
        """
        if self.ended:  # before the lock, which in a forked child nobody might ever release
            raise NotServing(self.ended)
        with self._changed:
            if self.waiting_bytes >= self.max_bytes:
                self._wait_for_space(may_wait())
            if reason := self.ended or gate.shut:
                raise NotServing(reason)
            self._calls.append(call)
            self.waiting_bytes += call.held_bytes
            if not self._is_told:  # in this order: if a Ctrl-C comes in between, the next call wakes the loop
                self._wake()
                self._is_told = True

    def _wait_for_space(self, may_wait: bool) -> None:
        waits = f"{self.waiting_bytes} bytes that other threads publish wait for the loop"
        if not may_wait:
            raise QueueFull(f"{waits}, and the thread of an event loop can't wait; publish more slowly, or in a thread")
        if not self._changed.wait_for(self._has_space, PATIENCE_S):
            raise QueueFull(
                f"{waits}, which has done nothing for {PATIENCE_S:g} s: something blocks it, such as a wait for this "
                "thread"
            )

    def _has_space(self) -> bool:
        return bool(self.ended) or self.waiting_bytes < self.max_bytes

    def take(self) -> deque[Call]:
        """Return all calls that wait. Report them by `release` as they are carried out."""
        with self._changed:
            taken, self._calls = self._calls, deque()
            self._is_told = False
        return taken

    def release(self, released_bytes: int) -> None:
        """Count calls as carried out, and let threads go on that wait for space."""
        with self._changed:
            self.waiting_bytes -= released_bytes
            self._changed.notify_all()

    def shut(self, gate: Gate, reason: str) -> None:
        """Accept no more calls for one hub. Calls that were put before can be taken."""
        with self._changed:
            gate.shut = reason

    def end(self, reason: str) -> None:
        """Accept no more calls at all. Calls that were put before can be taken."""
        with self._changed:
            self.ended = reason
            self._changed.notify_all()

    def end_in_child(self, reason: str) -> None:
        """Accept no calls in a forked child: its copy of the loop doesn't run, and another thread may hold the lock."""
        self.ended = reason
        self._calls = deque()
