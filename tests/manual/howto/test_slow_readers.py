"""The page about slow readers."""

from __future__ import annotations

from rawws.relay.lag_policies import POLICIES
from tests.manual import page
from tests.manual.howto.walk import Walk


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/slow-readers", sh=lambda _: None)


def test_each_policy_has_a_row() -> None:
    assert all(f"| `--slow {name}`" in page("howto/slow-readers") for name in POLICIES)
