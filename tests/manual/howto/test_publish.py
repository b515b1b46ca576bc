"""The page about publishing from a back end."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.manual.howto.walk import Walk
from tests.serving.machine import need


@pytest.mark.thorough  # Celery takes seconds to start
def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(find_spec("celery"), "celery (pip install 'celery[redis]')")
    walk.follow("howto/publish", sh=lambda _: None, crontab=walk.run_crontab)
