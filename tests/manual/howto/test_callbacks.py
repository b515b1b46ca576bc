"""The page about callbacks."""

from __future__ import annotations

from rawws.limits import KIB, MAX_LAG_BYTES, MIB
from rawws.relay.sending import MAX_OUTBOX_BYTES
from tests.manual import page
from tests.manual.howto.walk import Walk


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/callbacks")


def test_the_limits_shown_are_the_defaults() -> None:
    text = page("howto/callbacks")
    assert f"* Above {MAX_OUTBOX_BYTES // KIB} KiB, `pause_writing(ws)` is called" in text
    assert f"`ws.max_buffered_bytes` ({MAX_LAG_BYTES // MIB} MiB)" in text
