"""Patterns of room paths, in which ``*`` is the only wildcard.

- ``*`` matches any characters but ``/``, also none: ``/room/*-news`` is ``/room/sports-news``, not ``/room/a/b-news``.
- A last segment that is ``*`` alone matches everything below, over any number of segments: ``/room/*`` is ``/room/x``,
  ``/room/x/y`` and ``/room/``, but not ``/room``. So ``/*`` is every room, and ``*`` is short for it.
- All other characters stand for themselves. Paths are compared byte by byte as they stand in the request, as rooms are
  (`rawws.hub.paths.RoomPaths`): ``/%72oom/x`` is another room than ``/room/x``, and another path for a pattern.

The time for a match is linear in the length of the path for each ``*``. Each piece between two wildcards is taken at
the first place where it fits, which is always right with this one wildcard, so nothing is ever tried again. A path is
divided into no more segments than the pattern has, since a request may ask about thousands of them, and of patterns.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

from rawws.errors import UsageError

# The bounds for one list of patterns. A grant that needs more of them should name its rooms by a common beginning.
MAX_PATTERNS = 100
MAX_PATTERN_CHARACTERS = 255

_EVERYTHING = "/*"

Pieces = tuple[str, ...]  # a segment of a pattern, divided at its wildcards


class Pattern:
    """One pattern. ``room in pattern`` says whether it matches the path of a room."""

    __slots__ = ("_beginning", "is_open", "segments", "text")

    def __init__(self, text: str) -> None:
        """Raises `UsageError` for a text that can't match any room."""
        if not isinstance(text, str):
            raise UsageError(f"{reprlib.repr(text)} can't be a pattern of rooms; give a text such as '/room/*'")
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise UsageError(f"the pattern {text[:40]!r}... has over {MAX_PATTERN_CHARACTERS} characters")
        if text == "*":
            text = _EVERYTHING
        if not text.startswith("/"):
            raise UsageError(f"the pattern {text!r} doesn't begin with a slash, as the paths of rooms do")
        if not (text.isascii() and text.isprintable()) or not {" ", "?", "#"}.isdisjoint(text):
            raise UsageError(f"the pattern {text!r} is not a path as requests have it; percent-encode it")
        self.text = text
        self._beginning = text.partition("*")[0]
        segments = text.split("/")
        self.is_open = segments[-1] == "*"  # the last segment matches any rest
        self.segments: tuple[Pieces, ...] = tuple(tuple(segment.split("*")) for segment in segments)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Pattern) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __contains__(self, room: object) -> bool:
        if not isinstance(room, str) or not room.startswith(self._beginning):  # most patterns end here
            return False
        most = len(self.segments) - 1 if self.is_open else len(self.segments)  # one too many shows that there are more
        given = room.split("/", most)
        if len(given) != len(self.segments):
            return False
        if self.is_open:  # the last one is the whole rest
            given.pop()
        return all(map(match_segment, self.segments, given))


def match_segment(pieces: Pieces, segment: str) -> bool:
    """Say whether a segment consists of these pieces, with anything between two of them."""
    if len(pieces) == 1:
        return pieces[0] == segment
    first, *middle, last = pieces
    if not (segment.startswith(first) and segment.endswith(last)):
        return False
    at, end = len(first), len(segment) - len(last)
    for piece in middle:
        found = segment.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end


class Patterns:
    """A list of patterns. ``room in patterns`` says whether one of them matches."""

    __slots__ = ("_patterns",)

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises `UsageError` for what can't be a pattern, and for too many of them."""
        if isinstance(patterns, str | bytes):
            raise UsageError(f"{patterns!r} is one text; give a list of patterns, such as [{patterns!r}]")
        try:
            given = list(patterns)
        except TypeError:
            raise UsageError(f"{patterns!r} can't be patterns of rooms; give a list such as ['/room/*']") from None
        if len(given) > MAX_PATTERNS:
            raise UsageError(f"there are {len(given)} patterns, and at most {MAX_PATTERNS} are taken")
        self._patterns = tuple(map(Pattern, given))

    def __repr__(self) -> str:
        return f"Patterns({[pattern.text for pattern in self._patterns]})"

    def __eq__(self, other: object) -> bool:
        return self._patterns == other._patterns if isinstance(other, Patterns) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._patterns)

    def __contains__(self, room: object) -> bool:
        return any(room in pattern for pattern in self._patterns)


NO_ROOM = Patterns()
EVERY_ROOM = Patterns([_EVERYTHING])
