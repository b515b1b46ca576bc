"""A rate limit: a number in a second, as many at once after a rest, and never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.broadcast.token_bucket import TokenBucket

START = 100.0


@pytest.mark.parametrize(("per_s", "at_once"), [(5.0, 5), (1.0, 1), (0.25, 1), (2.5, 2)])
def test_after_a_rest_one_seconds_worth_passes_at_once_and_at_least_one(per_s: float, at_once: int) -> None:
    bucket = TokenBucket(per_s, START)
    assert [bucket.try_take(START) for _ in range(at_once)] == [0.0] * at_once
    assert bucket.try_take(START) > 0


@pytest.mark.parametrize(("per_s", "wait_s"), [(4.0, 0.25), (1.0, 1.0), (0.25, 4.0)])
def test_a_refusal_says_when_to_retry_and_the_retry_passes(per_s: float, wait_s: float) -> None:
    bucket = TokenBucket(per_s, START)
    while not bucket.try_take(START):
        pass
    assert bucket.try_take(START) == wait_s
    assert bucket.try_take(START + wait_s / 2) == wait_s / 2, "asking in vain costs nothing"
    assert bucket.try_take(START + wait_s) == 0.0
    assert bucket.try_take(START + wait_s) == wait_s


def test_an_excess_of_counted_things_is_a_time_to_wait() -> None:
    bucket = TokenBucket(10.0, START)
    assert bucket.take(10, START) == 0.0
    assert bucket.take(5, START) == 0.5
    assert bucket.take(5, START) == 1.0
    assert bucket.take(0, START + 0.4) == pytest.approx(0.6)
    assert bucket.take(0, START + 1.0) == 0.0
    assert bucket.take(1, START + 1.0) == pytest.approx(0.1)


def test_a_long_rest_earns_no_more_than_a_short_one() -> None:
    bucket = TokenBucket(3.0, START)
    bucket.take(3, START)
    assert bucket.take(3, START + 1.0) == 0.0
    assert bucket.take(3, START + 1_000_000.0) == 0.0
    assert bucket.try_take(START + 1_000_000.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("per_s", "full_after_s"), [(4.0, 0.25), (0.5, 2.0)])
def test_a_bucket_is_full_again_after_a_long_enough_rest(per_s: float, full_after_s: float) -> None:
    bucket = TokenBucket(per_s, START)
    assert bucket.is_full(START)
    bucket.try_take(START)
    assert not bucket.is_full(START)
    assert not bucket.is_full(START + full_after_s * 0.9)
    assert bucket.is_full(START + full_after_s)


@given(
    per_s=st.sampled_from([0.5, 1.0, 4.0, 32.0]),
    steps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.03125, 0.25, 1.0, 8.0]), max_size=80),
)
def test_no_span_of_time_has_more_than_the_rate_and_one_rest_allow(per_s: float, steps: list[float]) -> None:
    bucket = TokenBucket(per_s, START)
    now = START
    taken: list[float] = []
    for step in steps:
        now += step
        if bucket.try_take(now) == 0.0:
            taken.append(now)
    for first, begin in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= max(per_s, 1.0) + (end - begin) * per_s


def test_the_number_that_would_pass_now_is_known() -> None:
    bucket = TokenBucket(2.0, START)
    assert bucket.credit(START) == 2.0
    bucket.take(5, START)
    assert bucket.credit(START) == -3.0, "more have come than should"
    assert bucket.credit(START + 2.0) == 1.0
    assert bucket.credit(START + 100.0) == 2.0, "as many as in a second, after a rest"
