"""Tests for rawws/store/modes.py."""

from __future__ import annotations

from rawws.store.modes import SyncMode


def test_the_modes_have_the_names_of_the_flag() -> None:
    assert [SyncMode(name) for name in ("always", "interval", "never")] == list(SyncMode)
