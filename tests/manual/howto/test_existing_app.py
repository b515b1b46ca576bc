"""The page about existing applications."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec

import pytest
from websockets.sync.client import connect

from tests.manual.howto.walk import Walk
from tests.serving.machine import PATIENCE_S, need


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    for name in ("fastapi", "httpx"):
        need(find_spec(name), name)
    port = walk.port("8080")
    with contextlib.ExitStack() as stack:
        readers = []

        def open_the_page() -> None:
            url = f"ws://localhost:{port}/room/orders"
            readers.append(stack.enter_context(connect(url, proxy=None)))

        walk.before["curl -X POST"] = open_the_page
        walk.follow("howto/existing-app", sh=lambda _: None)
        assert readers[0].recv(PATIENCE_S) == "three apples"
