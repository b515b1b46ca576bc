"""The page about stored rooms, with a server that is killed."""

from __future__ import annotations

from tests.manual.howto.walk import Walk
from tests.serving.programs import wait_listening_at


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.before["curl 'localhost"] = lambda: wait_listening_at(int(walk.port("8080")))
    walk.follow("howto/store", sh=lambda _: None)
