"""Many patterns, of which the first that matches a path decides. A search costs little, however many there are.

The patterns are a tree of segments: ``/room/a`` and ``/room/*`` share the node of ``/room``. A search goes down the
tree, a level for each segment of the path, and keeps the nodes that fit. A segment without a wildcard is found in a
dictionary. One with a wildcard is found by what it begins and ends with, so only those that share both are compared.

Each node is visited at most once, so the time for a path of any length is bounded by the size of the tree.
"""

from __future__ import annotations

from rawws.access.patterns import Pattern, Pieces, match_segment

NO_PLACE = 1 << 62  # after all others


class _Node:
    """The patterns that begin with the same segments, and go on differently."""

    __slots__ = ("below", "here", "lengths", "literal", "lowest", "wild")

    def __init__(self) -> None:
        self.here = NO_PLACE  # the place of the pattern that ends here
        self.below = NO_PLACE  # the place of the pattern that matches everything below
        self.lowest = NO_PLACE  # of all places from here on
        self.literal: dict[str, _Node] | None = None  # by the next segment
        # The next segments with a wildcard, by what they begin and end with, and the lengths of these two.
        self.wild: dict[tuple[str, str], dict[Pieces, _Node]] | None = None
        self.lengths: set[tuple[int, int]] = _NO_LENGTHS

    def child(self, pieces: Pieces) -> _Node:
        """Return the node after a segment. If there is none, it is made."""
        if len(pieces) == 1:
            if self.literal is None:
                self.literal = {}
            return self.literal.setdefault(pieces[0], _Node())
        if self.wild is None:
            self.wild, self.lengths = {}, set()
        ends = pieces[0], pieces[-1]
        self.lengths.add((len(ends[0]), len(ends[1])))
        return self.wild.setdefault(ends, {}).setdefault(pieces, _Node())

    def add_matching(self, segment: str, best: int, found: list[_Node]) -> None:
        """Add the nodes after a path's segment that have a place before ``best``."""
        if self.literal is not None and (node := self.literal.get(segment)) is not None and node.lowest < best:
            found.append(node)
        if self.wild is None:
            return
        size = len(segment)
        for first, last in self.lengths:
            group = self.wild.get((segment[:first], segment[size - last :])) if first + last <= size else None
            for pieces, node in group.items() if group else ():
                if node.lowest < best and match_segment(pieces, segment):
                    found.append(node)


_NO_LENGTHS: set[tuple[int, int]] = set()  # of all nodes without a wildcard


class PatternIndex:
    """Patterns with their places in an order, by which the first that matches is found."""

    __slots__ = ("_deepest", "_root")

    def __init__(self) -> None:
        self._root = _Node()
        self._deepest = 0  # the segments of the longest pattern

    def add(self, pattern: Pattern, place: int) -> None:
        """Add a pattern at a place, which is a number from 0. Of equal patterns, the first place counts."""
        node = self._root
        node.lowest = min(node.lowest, place)
        segments = pattern.segments[:-1] if pattern.is_open else pattern.segments
        for pieces in segments:
            node = node.child(pieces)
            node.lowest = min(node.lowest, place)
        if pattern.is_open:
            node.below = min(node.below, place)
        else:
            node.here = min(node.here, place)
        self._deepest = max(self._deepest, len(segments))

    def find(self, room: str) -> int:
        """Return the place of the first pattern that matches a path; `NO_PLACE` if none does."""
        segments = room.split("/", self._deepest)  # one more than any pattern has, after which no node is left
        nodes, best = [self._root], NO_PLACE
        for segment in segments:
            found: list[_Node] = []
            for node in nodes:
                best = min(best, node.below)
                node.add_matching(segment, best, found)
            nodes = found
            if not nodes:
                return best
        return min(best, *(node.here for node in nodes))
