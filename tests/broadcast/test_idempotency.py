"""Idempotency keys: the message of each, for a limited time and in a limited number."""

from __future__ import annotations

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS, Repeat, Repeats


def test_a_key_is_known_for_ten_minutes_and_no_longer() -> None:
    repeats = Repeats()
    assert repeats.find("a", 0.0) is None
    repeats.note("a", 7, "digest", 100.0)
    repeats.note("b", 8, "other", 200.0)
    assert repeats.find("a", 100.0 + KEPT_S - 1) == Repeat(7, "digest", 100.0)
    assert repeats.find("a", 100.0 + KEPT_S) is None
    assert repeats.find("b", 100.0 + KEPT_S) == Repeat(8, "other", 200.0)
    assert repeats.newest_at == 200.0
    repeats.expire(200.0 + KEPT_S)
    assert (len(repeats), repeats.held_bytes) == (0, 0)


def test_the_oldest_of_more_than_a_thousand_keys_are_forgotten() -> None:
    repeats = Repeats()
    for number in range(MAX_KEYS + 5):
        repeats.note(f"{number:04}", number, "", float(number) / 1000)
    assert len(repeats) == MAX_KEYS
    assert repeats.held_bytes < MAX_KEYS * 600
    assert [number for number in range(MAX_KEYS + 5) if repeats.find(f"{number:04}", 2.0) is None] == [0, 1, 2, 3, 4]
