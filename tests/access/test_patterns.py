"""Patterns of rooms: what ``*`` matches, what can't be a pattern, and how long a match takes."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.access.patterns import (
    EVERY_ROOM,
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    NO_ROOM,
    Pattern,
    Patterns,
)
from rawws.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "room", "matches"),
    [
        ("/room/x", "/room/x", True),
        ("/room/x", "/room/xy", False),
        ("/room/x", "/room/x/", False),
        ("/room/x", "/Room/x", False),
        ("/room/x", "/%72oom/x", False),
        # within a segment
        ("/room/a*", "/room/a", True),
        ("/room/a*", "/room/abc", True),
        ("/room/a*", "/room/ab/c", False),
        ("/room/*-news", "/room/sports-news", True),
        ("/room/*-news", "/room/a/b-news", False),
        ("/room/a*a", "/room/a", False),
        ("/room/a*a", "/room/aa", True),
        ("/room/a*b*c", "/room/a-b-b-c", True),
        ("/room/a*b*c", "/room/a-c-b", False),
        ("/room/a*b*c", "/room/ac", False),
        ("/room/ab*b*bc", "/room/abbc", False),
        ("/room/**x", "/room/x", True),
        ("/*/x", "/room/x", True),
        ("/*/x", "//x", True),
        ("/*/x", "/a/b/x", False),
        # a last segment that is a wildcard alone
        ("/room/*", "/room/x", True),
        ("/room/*", "/room/x/y/z", True),
        ("/room/*", "/room/", True),
        ("/room/*", "/room", False),
        ("/room/*", "/roomy/x", False),
        ("/*/*", "/a/b/c", True),
        ("/*/*", "/a", False),
        ("/*", "/", True),
        ("/*", "/a/b", True),
        ("*", "/a/b", True),
        ("/room/*", None, False),
    ],
)
def test_a_pattern_matches_a_room(pattern: str, room: object, matches: bool) -> None:
    assert (room in Pattern(pattern)) is matches
    assert (room in Patterns(["/other", pattern])) is matches


def test_no_pattern_matches_no_room() -> None:
    assert "/" not in NO_ROOM
    assert "/x" in EVERY_ROOM


def test_patterns_with_the_same_text_are_equal() -> None:
    assert Pattern("*") == Pattern("/*")
    assert hash(Pattern("*")) == hash(Pattern("/*"))
    assert Pattern("/a") != Pattern("/b")
    assert Pattern("/a") != "/a"
    assert Patterns(["*"]) == EVERY_ROOM
    assert hash(Patterns(["*"])) == hash(EVERY_ROOM)
    assert Patterns() != ()
    assert repr(Pattern("/a")) == "Pattern('/a')"
    assert repr(EVERY_ROOM) == "Patterns(['/*'])"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "None can't be a pattern"),
        ("", "doesn't begin with a slash"),
        ("room/*", "doesn't begin with a slash"),
        ("/ä", "percent-encode"),
        ("/a b", "percent-encode"),
        ("/a?b", "percent-encode"),
        ("/a#b", "percent-encode"),
        ("/a\n", "percent-encode"),
        ("/" + "a" * MAX_PATTERN_CHARACTERS, "has over 255 characters"),
    ],
)
def test_an_impossible_pattern_is_an_error(text: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Pattern(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        ("/room/*", "is one text"),
        (b"/room/*", "is one text"),
        (7, "can't be patterns"),
        (["/a"] * (MAX_PATTERNS + 1), "there are 101 patterns"),
        ([7], "7 can't be a pattern"),
    ],
)
def test_impossible_lists_are_errors(patterns: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Patterns(patterns)  # type: ignore[arg-type]


def test_an_error_about_a_pattern_repeats_little_of_it() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UsageError) as raised:
        Patterns([deep])  # type: ignore[list-item]
    assert len(str(raised.value)) < 200


def test_the_longest_bounds_are_taken() -> None:
    longest = "/" + "a" * (MAX_PATTERN_CHARACTERS - 1)
    assert longest in Patterns([longest] * MAX_PATTERNS)


def test_hostile_pattern_and_path_take_no_time() -> None:
    """A matcher that goes back would take years for these."""
    pattern = Pattern("/" + "a*" * 120 + "b")
    room = "/" + "a" * 8000
    started = time.thread_time()
    assert room not in pattern
    assert "/" + "/" * 8000 not in Pattern("/" + "*/" * 120 + "b")
    assert time.thread_time() - started < 1


@pytest.mark.hypothesis
@given(st.text("ab/*", min_size=1, max_size=12), st.text("ab/", max_size=12))
def test_patterns_match_as_the_regular_expression_does(pattern: str, room: str) -> None:
    pattern, room = f"/{pattern}", f"/{room}"
    head, last = pattern.rpartition("/")[::2]
    body = head + "/" if last == "*" else pattern
    expected = "".join("[^/]*" if character == "*" else re.escape(character) for character in body)
    expected += ".*" if last == "*" else ""
    assert (room in Pattern(pattern)) is (re.fullmatch(expected, room) is not None)
