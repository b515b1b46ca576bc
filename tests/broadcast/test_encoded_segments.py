"""The segments that a log has encoded: made in steps, kept by use, and forgotten within a bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from rawws.broadcast.encoded_segments import ENCODED_BYTES, MAX_RUNS, EncodedSegments
from rawws.broadcast.encodings import PLAIN, WITH_IDS, Encoding
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS


def nobody() -> Iterable[tuple[int, Encoding]]:
    return ()


def filled(numbers: Iterable[int], *encodings: Encoding, size: int = 1000) -> EncodedSegments:
    segments = EncodedSegments()
    for number in numbers:
        for encoding in encodings:
            segments.keep(number, encoding, bytes(size))
    return segments


def numbers_of(segments: EncodedSegments, encoding: Encoding, up_to: int = 20) -> list[int]:
    return [number for number in range(up_to) if segments.has(number, encoding)]


def test_a_segment_is_made_in_steps_and_then_kept() -> None:
    segments = EncodedSegments()
    starts: list[int] = []

    def start() -> Iterator[bytes]:
        starts.append(1)
        return iter([b"one", b"", b"two"])

    assert [segments.step(3, EVENTS, start) for _ in range(3)] == [None] * 3
    assert segments.size_bytes == 6
    assert segments.use(3, EVENTS) is None
    made = segments.step(3, EVENTS, start)
    assert made == b"onetwo"
    assert (segments.size_bytes, len(starts)) == (0, 1)
    segments.keep(3, EVENTS, made)
    assert segments.use(3, EVENTS) is made
    assert segments.size_of(3, EVENTS) == 6
    assert segments.size_bytes == 6 + ENCODED_BYTES


def test_segments_are_known_by_number_and_encoding() -> None:
    segments = filled([3], EVENTS, WITH_IDS)
    others = [(3, JSON_EVENTS), (3, WITH_IDS.deflated(15)), (4, EVENTS), (2, EVENTS)]
    assert [segments.has(number, encoding) for number, encoding in others] == [False] * 4
    assert segments.size_of(4, EVENTS) is None


def test_an_exception_in_a_step_leaves_nothing_behind() -> None:
    def fail() -> Iterator[bytes]:
        yield b"a part"
        raise MemoryError

    segments = EncodedSegments()
    segments.step(0, EVENTS, fail)
    with pytest.raises(MemoryError):
        segments.step(0, EVENTS, fail)
    assert segments.size_bytes == 0
    assert [segments.step(0, EVENTS, lambda: iter([b"anew"])) for _ in range(2)] == [None, b"anew"]


def test_a_kept_segment_replaces_one_that_is_being_encoded() -> None:
    segments = EncodedSegments()
    segments.step(0, EVENTS, lambda: iter([b"a part", b"another"]))
    segments.keep(0, EVENTS, b"the whole")
    assert segments.size_bytes == len(b"the whole") + ENCODED_BYTES


def test_a_segment_is_forgotten_in_all_encodings_with_all_runs() -> None:
    segments = filled([3, 4], EVENTS, WITH_IDS, size=0)
    segments.step(3, JSON_EVENTS, lambda: iter([b"a part"]))
    segments.keep_run(3, EVENTS, (b"a run", [2, 3]))
    segments.forget_segment(3)
    assert numbers_of(segments, EVENTS) == numbers_of(segments, WITH_IDS) == [4]
    assert segments.run(3, EVENTS) is None
    assert (segments.size_bytes, segments.forgotten) == (2 * ENCODED_BYTES, 2)
    segments.forget_segment(4)
    assert segments.size_bytes == 0


def test_the_least_recently_used_are_forgotten_first() -> None:
    segments = filled(range(10), EVENTS)
    segments.use(0, EVENTS)
    segments.shrink(6 * (1000 + ENCODED_BYTES), nobody, last=9)
    assert numbers_of(segments, EVENTS) == [0, 7, 8, 9]
    assert segments.size_bytes == 4 * (1000 + ENCODED_BYTES), "a quarter more than needed"
    assert segments.forgotten == 6


def test_nothing_is_forgotten_or_looked_up_within_the_bound() -> None:
    def ask() -> Iterable[tuple[int, Encoding]]:
        raise AssertionError("readers are looked up for nothing")

    segments = filled(range(10), EVENTS)
    segments.shrink(10 * (1000 + ENCODED_BYTES), ask, last=9)
    assert numbers_of(segments, EVENTS) == list(range(10))


def test_needed_segments_and_the_last_are_kept_even_over_the_bound() -> None:
    segments = filled(range(10), EVENTS, WITH_IDS)
    segments.shrink(0, lambda: [(2, EVENTS), (4, WITH_IDS), (5, JSON_EVENTS)], last=9)
    assert (numbers_of(segments, EVENTS), numbers_of(segments, WITH_IDS)) == ([2, 9], [4, 9])


def test_runs_are_forgotten_before_segments() -> None:
    segments = filled(range(3), EVENTS)
    size = segments.size_bytes
    segments.keep_run(0, EVENTS, (bytes(2000), [1000, 1000]))
    segments.keep_run(1, EVENTS, (bytes(2000), [1000, 1000]))
    segments.shrink(size + 2000, nobody, last=2)
    assert (segments.run(0, EVENTS), segments.run(1, EVENTS)) == (None, (bytes(2000), [1000, 1000]))
    segments.shrink(size, nobody, last=2)
    assert segments.run(1, EVENTS) is None
    assert numbers_of(segments, EVENTS) == [0, 1, 2]
    assert segments.size_bytes == size


def test_the_number_of_runs_is_bounded() -> None:
    segments = EncodedSegments()
    for number in range(MAX_RUNS + 1):
        segments.keep_run(number, PLAIN, (b"run", [1, 2]))
    assert [segments.run(number, PLAIN) is None for number in range(MAX_RUNS + 1)] == [True] + [False] * MAX_RUNS
    assert segments.size_bytes == 3 * MAX_RUNS
