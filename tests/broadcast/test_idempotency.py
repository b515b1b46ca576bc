"""Idempotency keys: the message of each, for a limited time and in a limited number."""

from __future__ import annotations

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS, IdempotencyKey, Repeat, Repeats


def test_a_key_is_known_for_ten_minutes_and_no_longer() -> None:
    repeats = Repeats()
    assert repeats.find(IdempotencyKey("a"), 0.0) is None
    repeats.note(IdempotencyKey("a"), 7, "digest", 100.0)
    repeats.note(IdempotencyKey("b"), 8, "other", 200.0)
    assert repeats.find(IdempotencyKey("a"), 100.0 + KEPT_S - 1) == Repeat(7, "digest", 100.0)
    assert repeats.find(IdempotencyKey("a"), 100.0 + KEPT_S) is None
    assert repeats.find(IdempotencyKey("b"), 100.0 + KEPT_S) == Repeat(8, "other", 200.0)
    assert repeats.newest_at == 200.0
    repeats.expire(200.0 + KEPT_S)
    assert (len(repeats), repeats.held_bytes) == (0, 0)


def test_the_oldest_of_more_than_a_thousand_keys_are_forgotten() -> None:
    repeats = Repeats()
    for number in range(MAX_KEYS + 5):
        repeats.note(IdempotencyKey(f"{number:04}"), number, "", float(number) / 1000)
    assert len(repeats) == MAX_KEYS
    assert MAX_KEYS * 500 < repeats.held_bytes < MAX_KEYS * 600
    known = [repeats.find(IdempotencyKey(f"{number:04}"), 2.0) is not None for number in range(MAX_KEYS + 5)]
    assert known == [False] * 5 + [True] * MAX_KEYS


def test_the_same_key_of_another_owner_is_another_one() -> None:
    repeats = Repeats()
    keys = [IdempotencyKey("k"), IdempotencyKey("k", "user a"), IdempotencyKey("k", "user b")]
    for number, key in enumerate(keys):
        assert repeats.find(key, 0.0) is None
        repeats.note(key, number, "digest", 0.0)
    found = [repeats.find(key, 1.0) for key in keys]
    assert [each and each.number for each in found] == [0, 1, 2]
    repeats.expire(KEPT_S)
    assert repeats.held_bytes == 0


def test_a_digest_says_nothing_about_the_owner() -> None:
    digests = [IdempotencyKey("k", owner).owner_digest for owner in ("", "user a", "user b")]
    assert list(map(len, digests)) == [0, 32, 32]
    assert len(set(digests)) == 3
    assert IdempotencyKey("other", "user a").owner_digest == digests[1]
    assert IdempotencyKey("key", "user a").held_bytes == IdempotencyKey("k").held_bytes + 8


def test_an_owner_may_have_any_name() -> None:
    """An application that takes a name from a URL or a file may leave surrogates in it."""
    digests = {IdempotencyKey("k", f"user {name}").owner_digest for name in ("ä", "\udcc3\udca4", "\udcc3", "")}
    assert len(digests) == 4
