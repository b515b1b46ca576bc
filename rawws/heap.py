"""The process's memory below Python's: what the allocator keeps of what is freed, and when it gives that back."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

import trio

from rawws.limits import MIB

KEPT_FREE_BYTES = 16 * MIB  # a guess: what large messages under way have at a time, and no more than a process has
GIVE_BACK_EVERY_S = 10.0


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, 16 MiB of it at least, instead of returning it to the system each time.

    Large messages come and go many times a second. By default their memory goes back as soon as 128 KiB of it are
    free, and is then given to us anew a page at a time, which took half of the time of an echo of 64 KiB. The
    allocator raises its thresholds when a large block is freed (mallopt(3), M_MMAP_THRESHOLD); this is one, of
    which no page is ever touched. Where there is another allocator, nothing happens.
    """
    bytes(8 * MIB)


class FreedMemory:
    """What glibc holds of ours that is free, of which all is given back to the system when it is more than 16 MiB.

    By itself it gives back only what is free at the end of its heap, so that one small object there keeps all that is
    below: a node kept 100 MiB of messages of rooms that were long gone. malloc_trim(3) gives back every whole page.
    Where there is another allocator, nothing happens.
    """

    def __init__(self) -> None:
        self._trim: Callable[[int], object] | None = None
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            self._count = libc.mallinfo2  # from glibc 2.33 on
            self._count.restype = _Mallinfo2
            self._trim = libc.malloc_trim

    def give_back(self) -> bool:
        """Give it back if it is worth it; says whether it was.

        To count takes 0.1 ms, to give back 100 MiB takes 10 ms. What was given back counts as free all the same, but to
        give it back again takes no time.
        """
        if self._trim is None or self._count().free_bytes <= KEPT_FREE_BYTES:
            return False
        self._trim(0)
        return True

    async def keep_giving_back(self) -> None:
        while True:
            await trio.sleep(GIVE_BACK_EVERY_S)
            self.give_back()


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h, in which this is called ``fordblks``."""

    _fields_ = (
        ("before", ctypes.c_size_t * 8),
        ("free_bytes", ctypes.c_size_t),
        ("behind", ctypes.c_size_t),
    )
