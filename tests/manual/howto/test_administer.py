"""The page about the administration of a running server."""

from __future__ import annotations

from tests.manual.howto.walk import Walk


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/administer")
