"""The page about running an application that exists already."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.manual.howto.walk import Walk
from tests.serving.machine import need


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    for name in ("fastapi", "django", "flask"):
        need(find_spec(name), name)
    walk.follow("howto/run-your-application")
