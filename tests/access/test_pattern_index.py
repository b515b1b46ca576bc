"""Many patterns: the first that matches decides, as if each were compared with the path in turn, and quickly."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawws.access.pattern_index import NO_PLACE, PatternIndex
from rawws.access.patterns import Pattern


def index_of(patterns: Iterable[str]) -> PatternIndex:
    index = PatternIndex()
    for place, text in enumerate(patterns):
        index.add(Pattern(text), place)
    return index


def first_of(patterns: Iterable[str], room: str) -> int:
    """Return what the index does, by comparing the path with each pattern in turn."""
    return next((place for place, text in enumerate(patterns) if room in Pattern(text)), NO_PLACE)


RULES = ["/room/a", "/room/a", "/room/a*", "/room/*-*b", "/r*/*/x", "/room/x/*", "/room/*", "*", "/room/z"]


@pytest.mark.parametrize(
    ("room", "place"),
    [
        ("/room/a", 0),
        ("/room/ab", 2),
        ("/room/-b", 3),
        ("/room/x-b", 3),
        ("/room/x/x", 4),
        ("/room/x/y", 5),
        ("/room/x/y/z", 5),
        ("/room/z", 6),  # an earlier line is for it too
        ("/room/", 6),
        ("/room", 7),
        ("/", 7),
        ("/room/a/x/", 6),
        ("", NO_PLACE),
        ("*", NO_PLACE),
        ("room/a", NO_PLACE),
    ],
)
def test_the_first_pattern_that_matches_is_found(room: str, place: int) -> None:
    assert first_of(RULES, room) == place
    assert index_of(RULES).find(room) == place


def test_without_patterns_nothing_is_found() -> None:
    assert PatternIndex().find("/room/a") == NO_PLACE


def test_places_may_be_added_in_any_order_and_have_gaps() -> None:
    index = PatternIndex()
    for text, place in (("/a/*", 7), ("/a/b", 9), ("/*", 30), ("/a/b", 3), ("/*", 20)):
        index.add(Pattern(text), place)
    assert [index.find(room) for room in ("/a/b", "/a/c", "/b")] == [3, 7, 20]


PARTS = st.sampled_from(["a", "b", "ab", "*", "a*", "*a", "a*b", "*a*", "a*b*", "**", ""])
TEXTS = st.lists(PARTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
ROOMS = st.lists(st.sampled_from(["a", "b", "ab", "aab", "abb", "ba", "", "*"]), max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)


@given(st.lists(TEXTS, max_size=12), ROOMS)
@example(["/a/*", "/a"], "/a/")
@example(["/*a*", "/**"], "/aa")
def test_the_index_agrees_with_a_comparison_in_turn(patterns: list[str], room: str) -> None:
    assert index_of(patterns).find(room) == first_of(patterns, room)


MANY = 10_000


@pytest.mark.parametrize(
    ("pattern", "room"),
    [
        ("/room/{}", "/room/9999"),
        ("/user/{}/*", "/user/9999/x/y"),
        ("/room/{}-*", "/room/9999-x"),
        ("/room/*-{}", "/room/x-9999"),
        ("/a*b/x{}", "/a-b/x9999"),
        ("/tenant/*/{}/*", "/tenant/a/9999/x"),
        ("/room/{}", "/room" + "/" * 12_000),
        ("/a*b/x{}", "/a" + "/" * 12_000),
    ],
)
def test_the_time_does_not_grow_with_the_number_of_patterns(pattern: str, room: str) -> None:
    few, many = [index_of(pattern.format(number) for number in range(count)) for count in (10, MANY)]

    def seconds(index: PatternIndex) -> float:
        """Return the shortest time for a search, since others use the machine too."""
        taken = []
        for _ in range(50):
            began = time.thread_time()
            index.find(room)
            taken.append(time.thread_time() - began)
        return min(taken)

    assert many.find(room) == (MANY - 1 if "9999" in room else NO_PLACE)
    assert seconds(many) < 20 * seconds(few) + 0.0001, "a comparison in turn takes a thousand times as long"
