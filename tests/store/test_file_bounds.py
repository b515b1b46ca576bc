"""Tests for rawws/store/file_bounds.py: when a store is full, and what it gives back to the disk."""

from __future__ import annotations

import pytest

from rawws.limits import LEAST_STORE_BYTES, MIB
from rawws.store.file_bounds import (
    LEAST_FREE_PAGES,
    MOST_GIVEN_BACK,
    MOST_REST_BYTES,
    PAGE_BYTES,
    FileLimit,
    Pages,
    pages_to_give_back,
)

LIMIT = FileLimit(64 * MIB)  # of which 8 MiB are the rest
PAGES = MIB // PAGE_BYTES


@pytest.mark.parametrize(("used", "is_reached"), [(0, False), (56 * PAGES, False), (56 * PAGES + 1, True)])
def test_publishers_are_refused_before_the_limit_is_reached(used: int, *, is_reached: bool) -> None:
    assert LIMIT.is_reached(Pages(used), 0, was_reached=False) is is_reached
    assert LIMIT.is_reached(Pages(used + 1000, 1000), 0, was_reached=False) is is_reached  # what is free doesn't count


@pytest.mark.parametrize(("used", "is_reached"), [(55 * PAGES, False), (55 * PAGES + 1, True)])
def test_publishers_go_on_when_there_is_space_for_more_than_a_message(used: int, *, is_reached: bool) -> None:
    assert LIMIT.is_reached(Pages(used), 0, was_reached=True) is is_reached


@pytest.mark.parametrize(("most", "wal"), [(8, 16), (64, 16), (100, 25)])
def test_the_log_beside_the_file_is_bounded_too(most: int, wal: int) -> None:
    limit = FileLimit(most * MIB)
    assert not limit.is_reached(Pages(), wal * MIB, was_reached=True)
    assert limit.is_reached(Pages(), wal * MIB + 1, was_reached=False)


def test_the_rest_is_a_part_of_the_limit() -> None:
    assert FileLimit(LEAST_STORE_BYTES).rest_bytes == MIB
    assert FileLimit(1 << 40).rest_bytes == MOST_REST_BYTES
    assert LIMIT.pages == 64 * PAGES


def test_messages_leave_half_of_the_rest_to_groups() -> None:
    assert not LIMIT.is_too_much(Pages(60 * PAGES))
    assert LIMIT.is_too_much(Pages(60 * PAGES + 1))
    assert not LIMIT.is_too_much(Pages(64 * PAGES, 4 * PAGES))


def test_a_message_may_be_too_large_for_any_store() -> None:
    assert LIMIT.fits(56 * MIB)
    assert not LIMIT.fits(56 * MIB + 1)


@pytest.mark.parametrize(
    ("all_pages", "free", "given_back"),
    [
        (1000, 0, 0),
        (1000, LEAST_FREE_PAGES, 0),
        (1000, LEAST_FREE_PAGES + 1, 1),
        (16_000, 1000, 0),
        (16_000, 1001, 1),
        (16_000, 9000, MOST_GIVEN_BACK),
    ],
)
def test_more_free_pages_than_the_file_needs_are_given_back(all_pages: int, free: int, given_back: int) -> None:
    assert pages_to_give_back(Pages(all_pages, free)) == given_back
