"""Fixtures of the tests of the manual."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manual.howto.walk import Walk
from tests.serving.machine import need


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    """Follow a page: ``walk.follow("howto/publish")``."""
    for program in ("bash", "curl"):
        need(shutil.which(program), program)
    walk = Walk(tmp_path)
    try:
        yield walk
    finally:
        walk.end()
