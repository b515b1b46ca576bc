"""The allocator's freed memory: how much of it the process keeps, and when it returns it to the system."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

import trio

from rawws.limits import MIB

KEPT_FREE_BYTES = 16 * MIB  # a guess: enough for the large messages of one moment, and little for a process
TRIM_INTERVAL_S = 10.0


def raise_trim_threshold() -> None:
    """Make glibc keep at least 16 MiB of freed memory, instead of returning it to the system each time.

    Large messages come and go many times a second. By default their memory is returned as soon as 128 KiB are free,
    and comes back page by page, which took half of the time of an echo of 64 KiB. The allocator raises its thresholds
    when a large block is freed (mallopt(3), M_MMAP_THRESHOLD). This function frees one whose pages were never touched.
    With another allocator it does nothing.
    """
    bytes(8 * MIB)


class HeapTrimmer:
    """Returns the free memory that glibc holds to the system, when there are more than 16 MiB of it.

    By itself glibc returns only memory at the end of its heap. One small object there keeps all free memory below it: a
    node kept 100 MiB of messages of rooms that were long gone. malloc_trim(3) returns every whole page. With another
    allocator this does nothing.
    """

    def __init__(self) -> None:
        self._trim: Callable[[int], object] | None = None
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            self._count = libc.mallinfo2  # from glibc 2.33 on
            self._count.restype = _Mallinfo2
            self._trim = libc.malloc_trim

    def trim(self) -> bool:
        """Return the memory to the system if there is enough of it. Returns whether that was so.

        Counting takes 0.1 ms, and returning 100 MiB takes 10 ms. Returned memory still counts as free, but to return it
        again takes no time.
        """
        if self._trim is None or self._count().free_bytes <= KEPT_FREE_BYTES:
            return False
        self._trim(0)
        return True

    async def run(self) -> None:
        while True:
            await trio.sleep(TRIM_INTERVAL_S)
            self.trim()


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h, in which this is called ``fordblks``."""

    _fields_ = (
        ("before", ctypes.c_size_t * 8),
        ("free_bytes", ctypes.c_size_t),
        ("behind", ctypes.c_size_t),
    )
