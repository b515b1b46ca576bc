"""Fixtures for the tests of a store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder that is quick to sync, where there is such a file system."""
    with tempfile.TemporaryDirectory(prefix="rawws-store-", dir=_MEMORY if _MEMORY.is_dir() else None) as made:
        yield Path(made)
