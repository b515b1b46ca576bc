"""The page about clients that don't connect, or are cut off."""

from __future__ import annotations

import pytest

from tests.manual.howto.walk import Walk


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/debug")
