"""The memory that a piece of code takes, as Python counts it: for all threads at once."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc  # noqa: TID251
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def traced_memory() -> Iterator[Callable[[], tuple[int, int]]]:
    """Count the bytes that the block adds to Python's memory: ``now, most = count()``.

    Only the block may allocate. So numpy is loaded before: a thread of rawws imports it for the first long message,
    at any time later. An import that has begun is waited for.
    """
    with contextlib.suppress(ImportError):
        import numpy  # noqa: F401
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()

    def count() -> tuple[int, int]:
        now, most = tracemalloc.get_traced_memory()  # the peak, before the collection allocates
        gc.collect()
        now, _ = tracemalloc.get_traced_memory()
        return now - before, most - before

    try:
        yield count
    finally:
        tracemalloc.stop()
