"""The broadcast log, by example and against a naive model of it: one string of bytes and a list of frame ends."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rawws.broadcast.encoded_segments import MAX_RUNS
from rawws.broadcast.encodings import PLAIN, Encoding, Plain
from rawws.broadcast.log import (
    MAX_ENCODED_RATIO,
    RUN_BYTES,
    SEGMENT_PIECES,
    SEGMENT_PLAIN_BYTES,
    BroadcastLog,
    Cursor,
)
from rawws.wire.frames import Opcode, encode_frame, encode_message, frame_ends
from tests.effort import examples

HELLO = bytes.fromhex("81 05 48 65 6c 6c 6f")
PING = bytes.fromhex("89 00")
LARGE = encode_frame(Opcode.TEXT, b"x" * 2000)


class Fake(Plain):
    """Stands in for an encoding, by number. The last four bits are those of a window, without which it is another."""

    def __init__(self, fakes: Fakes, number: int) -> None:
        self._fakes = fakes
        self._number = number

    @property
    def uncompressed(self) -> Encoding:
        return self._fakes[self._number & ~0x0F]

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        return self._fakes.encode(frames, self._number)

    def work(self, plain_bytes: int, messages: int) -> int:
        return Encoding.work(self, plain_bytes, messages)


class Fakes:
    """Encodings by number, each once; 0 is the plain one. All of them call one function, with their number."""

    def __init__(self, encode: Callable[[bytes, int], Iterator[bytes]]) -> None:
        self.encode = encode
        self._known: dict[int, Encoding] = {0: PLAIN}

    def __getitem__(self, number: int) -> Encoding:
        return self._known.setdefault(number, Fake(self, number))


def shout(frames: bytes, window_bits: int) -> Iterator[bytes]:
    """Stands in for deflating: other bytes, of another length, that contain the window that they were made for."""
    yield frames.replace(LARGE, encode_frame(Opcode.TEXT, b"X" * window_bits))


SHOUTED = Fakes(shout)


def rest(log: BroadcastLog, cursor: Cursor, encoding: Encoding = PLAIN, *, committed_bytes: int = 0) -> bytes:
    if cursor.number == log.next:
        return b""
    segment = log.segment(cursor.number, encoding)
    return encoding.rest_of_message(segment, cursor.offset, committed_bytes=committed_bytes)


def test_a_segment_is_the_frames_of_a_turn_in_their_order() -> None:
    log = BroadcastLog()
    assert log.seal() is None
    log.append([HELLO])
    log.append([PING])
    assert (log.next, log.open_bytes, log.end_bytes, log.kept_bytes) == (0, 9, 0, 0)
    segment = log.seal()
    assert segment == HELLO + PING
    assert log.segment(0) is segment, "all readers share the same bytes"
    assert (log.next, log.open_bytes, log.end_bytes, log.kept_bytes) == (1, 0, 9, 9)
    assert log.seal() is None


@pytest.mark.parametrize("large_at", [None, 0, SEGMENT_PIECES - 1, SEGMENT_PIECES])
def test_a_segment_has_a_bounded_number_of_messages_and_each_is_whole(large_at: int | None) -> None:
    reversing = Fakes(lambda frames, _: iter((frames[::-1],)))
    log = BroadcastLog()
    count = 2 * SEGMENT_PIECES + 5
    frames: list[bytes | bytearray] = []
    for number in range(count):
        encode_message(Opcode.BINARY, b"x" * 5000 if number == large_at else b"%d" % number, frames)
    log.append(frames)
    assert (log.next_message, log.open_bytes) == (count + 1, sum(map(len, frames)))
    first = 1
    sealed: list[bytes] = []
    for segment in iter(log.seal, None):
        end = first + sum(1 for _ in frame_ends(segment))
        assert log.span(len(sealed)) == (first, end - 1)
        is_deflatable = log.segment(len(sealed), reversing[15]) is not segment
        assert is_deflatable is (large_at is not None and first <= large_at + 1 < end)
        assert log.next_message == count + 1
        sealed.append(segment)
        first = end
    assert len(sealed) == 3
    assert b"".join(sealed) == b"".join(frames)
    assert (log.last_message, log.open_bytes) == (count, 0)


def test_lag_counts_the_sealed_bytes_after_a_cursor() -> None:
    log = BroadcastLog()
    for frame in (HELLO, PING, HELLO):
        log.append([frame])
        log.seal()
    log.append([PING])
    cursors = [Cursor(0), Cursor(0, 3), Cursor(1), Cursor(2, 6), Cursor(3)]
    assert [log.lag_bytes(cursor) for cursor in cursors] == [16, 13, 9, 1, 0]


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [(0, 0), (1, 6), (6, 1), (7, 0), (8, 1), (9, 0), (10, 6), (16, 0)],
)
def test_the_rest_of_a_frame_leads_to_the_next_boundary(offset: int, wanted: int) -> None:
    log = BroadcastLog()
    segment = HELLO + PING + HELLO
    log.append([segment])
    log.seal()
    assert rest(log, Cursor(0, offset)) == segment[offset : offset + wanted]


def test_trimming_forgets_and_renumbers_nothing() -> None:
    log = BroadcastLog()
    for _ in range(4):
        log.append([HELLO])
        log.seal()
    log.trim(2)
    log.trim(1)
    assert (log.first, log.next, log.kept_bytes, log.end_bytes) == (2, 4, 14, 28)
    assert log.lag_bytes(Cursor(3, 1)) == 6
    log.append([PING])
    log.trim(9)
    assert (log.first, log.next, log.kept_bytes, log.open_bytes) == (4, 4, 0, 2)
    assert log.seal() == PING == log.segment(4)
    assert repr(log) == "<BroadcastLog segments 4..5 kept=2 open=0>"


def test_a_segment_is_encoded_once_and_only_if_it_has_a_large_message() -> None:
    made: list[int] = []

    def deflate(frames: bytes, window_bits: int) -> Iterator[bytes]:
        made.append(window_bits)
        return shout(frames, window_bits)

    fakes = Fakes(deflate)
    log = BroadcastLog()
    log.append([HELLO])
    log.seal()
    log.append([HELLO, LARGE])
    log.seal()
    assert log.segment(0, fakes[15]) is log.segment(0)
    assert log.segment(1, fakes[15]) is log.segment(1, fakes[15])
    assert log.segment(1, fakes[15]) == HELLO + encode_frame(Opcode.TEXT, b"X" * 15)
    assert log.segment(1, fakes[9]) == HELLO + encode_frame(Opcode.TEXT, b"X" * 9)
    assert log.segment(1) == HELLO + LARGE
    assert made == [15, 9]
    # A third of an encoded segment of 24 bytes has been sent, so that two thirds of the plain frames are lacking.
    assert len(log.segment(1, fakes[15])) == 24
    assert log.lag_bytes(Cursor(1, 8), fakes[15]) == len(HELLO + LARGE) - len(HELLO + LARGE) // 3
    assert rest(log, Cursor(1, 8), fakes[15]) == (b"\x81\x0f" + b"X" * 15)[1:]


def test_bytes_that_can_not_be_called_back_are_part_of_the_rest() -> None:
    log = BroadcastLog()
    log.append([HELLO, PING, HELLO])
    log.seal()
    assert rest(log, Cursor(0), committed_bytes=7) == HELLO
    assert rest(log, Cursor(0), committed_bytes=8) == HELLO + PING
    assert rest(log, Cursor(0, 2), committed_bytes=9) == (HELLO + PING + HELLO)[2:]


class LogModel(RuleBasedStateMachine):
    """Random steps of a room: publish, seal, join, partial sends, leave, trim."""

    @initialize()
    def begin(self) -> None:
        self.log = BroadcastLog()
        self.stream = b""  # all that was ever sealed
        self.open = b""
        self.frame_ends = [0]
        self.starts = [0]  # of each segment in the stream, and of the next
        self.first = 0
        self.readers: list[Cursor] = []

    def position(self, reader: Cursor) -> int:
        return self.starts[reader.number] + reader.offset

    @rule(payload=st.binary(max_size=300), opcode=st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
    def publish(self, payload: bytes, opcode: Opcode) -> None:
        frame = encode_frame(opcode, payload)
        self.log.append([frame])
        self.open += frame
        self.frame_ends.append(len(self.stream) + len(self.open))

    @rule()
    def seal(self) -> None:
        assert self.log.seal() == (self.open or None)
        if self.open:
            self.stream += self.open
            self.open = b""
            self.starts.append(len(self.stream))

    @rule(back=st.integers(0, 3))
    def join(self, back: int) -> None:
        self.readers.append(Cursor(max(self.log.first, self.log.next - back)))

    @precondition(lambda self: any(reader.number < self.log.next for reader in self.readers))
    @rule(data=st.data())
    def send_some(self, data: st.DataObject) -> None:
        index, reader = data.draw(
            st.sampled_from([(i, r) for i, r in enumerate(self.readers) if r.number < self.log.next])
        )
        rest = self.log.segment(reader.number)[reader.offset :]
        taken = data.draw(st.integers(0, len(rest)))
        at = self.position(reader)
        assert rest[:taken] == self.stream[at : at + taken]
        whole = taken == len(rest)
        self.readers[index] = Cursor(reader.number + 1) if whole else Cursor(reader.number, reader.offset + taken)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.readers.remove(data.draw(st.sampled_from(self.readers)))

    @rule()
    def trim(self) -> None:
        self.first = min((reader.number for reader in self.readers), default=len(self.starts) - 1)
        self.log.trim(self.first)

    @invariant()
    def sizes_agree(self) -> None:
        assert (self.log.first, self.log.next) == (self.first, len(self.starts) - 1)
        assert (self.log.end_bytes, self.log.open_bytes) == (len(self.stream), len(self.open))
        assert self.log.kept_bytes == len(self.stream) - self.starts[self.first]

    @invariant()
    def cursors_agree(self) -> None:
        for reader in self.readers:
            at = self.position(reader)
            assert self.log.lag_bytes(reader) == len(self.stream) - at
            boundary = self.frame_ends[bisect.bisect_left(self.frame_ends, at)]
            assert rest(self.log, reader) == self.stream[at:boundary]


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=examples(60), stateful_step_count=40)


# Runs


def sealed(*segments: bytes) -> BroadcastLog:
    log = BroadcastLog()
    for segment in segments:
        log.append([segment])
        log.seal()
    return log


def test_a_run_is_the_segments_from_a_position_on_and_their_sizes() -> None:
    log = sealed(HELLO, HELLO + PING, LARGE)
    assert log.run(0, PLAIN) == (HELLO + HELLO + PING + LARGE, [7, 9, len(LARGE)])
    assert log.run(2, PLAIN) == (LARGE, [len(LARGE)])
    assert log.run(1, SHOUTED[15]) == (HELLO + PING + encode_frame(Opcode.TEXT, b"X" * 15), [9, 17])


def test_a_run_fits_into_one_send_but_has_at_least_one_segment() -> None:
    half = encode_frame(Opcode.BINARY, bytes(RUN_BYTES // 2 - 4))
    log = sealed(half, half, PING, encode_frame(Opcode.BINARY, bytes(RUN_BYTES)), PING)
    assert log.run(0, PLAIN)[1] == [RUN_BYTES // 2] * 2
    assert log.run(1, PLAIN)[1] == [RUN_BYTES // 2, 2]
    assert log.run(2, PLAIN)[1] == [2]
    assert log.run(3, PLAIN)[1] == [RUN_BYTES + 10]


def test_readers_that_resume_at_one_position_share_the_same_bytes_in_each_encoding() -> None:
    log = sealed(HELLO, LARGE)
    run = log.run(0, PLAIN)
    assert log.run(0, PLAIN) is run
    assert log.run(0, SHOUTED[15]) != run
    assert log.run(0, PLAIN) is run


def test_runs_of_the_oldest_position_are_dropped_first() -> None:
    log = sealed(*[HELLO] * (MAX_RUNS + 2))
    runs = [log.run(number, PLAIN) for number in range(MAX_RUNS)]
    assert all(log.run(number, PLAIN) is run for number, run in enumerate(runs))
    log.run(MAX_RUNS, PLAIN)
    assert log.run(1, PLAIN) is runs[1]
    again = log.run(0, PLAIN)
    assert again == runs[0]
    assert again is not runs[0]


def test_trimming_drops_the_runs_with_their_segments() -> None:
    log = sealed(HELLO, PING, HELLO)
    run = log.run(1, PLAIN)
    log.trim(0)
    assert log.run(1, PLAIN) is run
    log.trim(1)
    again = log.run(1, PLAIN)
    assert again == run == (PING + HELLO, [2, 7])
    assert again is not run


# Encoding: work, steps, and kept segments


class Making(Fakes):
    """Encodes to as many bytes as the frames have, in three steps, and notes the requests."""

    def __init__(self) -> None:
        super().__init__(self._make)
        self.asked: list[tuple[bytes, int]] = []
        self.steps = 0

    def _make(self, frames: bytes, number: int) -> Iterator[bytes]:
        self.asked.append((frames, number))
        yield b""
        self.steps += 1
        yield bytes([number]) * (len(frames) - 1)
        self.steps += 1
        yield b"."
        self.steps += 1


def test_a_lag_is_known_without_encoding_anything() -> None:
    making = Making()
    log = BroadcastLog(message_bytes=7)
    for _ in range(5):
        log.append([LARGE])
        log.seal()
    for encoding in map(making.__getitem__, (0, 9, 15, 0x10, 0x1F, 0x20)):
        for cursor in (Cursor(0), Cursor(2, 1), Cursor(4, 2000), Cursor(5)):
            lacking = (5 - cursor.number) * len(LARGE)
            assert lacking - cursor.offset <= log.lag_bytes(cursor, encoding) <= lacking
            assert log.lag_cost(cursor, encoding) >= log.lag_bytes(cursor, encoding)
    assert making.asked == []
    assert log.work_done == 0


def test_a_segment_is_encoded_in_steps_and_its_work_is_known_before() -> None:
    making = Making()
    log = BroadcastLog()
    log.append([HELLO, LARGE])
    log.seal()
    work = log.work(0, making[15])
    assert work > len(LARGE)
    held = log.held_bytes
    assert [log.make(0, making[15]) for _ in range(4)] == [False, False, False, True]
    assert making.steps == 3
    assert log.make(0, making[15])
    assert (log.work(0, making[15]), log.work(0, PLAIN), log.make(0, PLAIN)) == (0, 0, True)
    assert log.held_bytes > held + len(HELLO + LARGE)
    assert log.segment(0, making[15]) is log.segment(0, making[15])
    assert making.asked == [(HELLO + LARGE, 15)]
    assert log.work_done == work


def test_encoding_begun_in_steps_can_be_completed_at_once() -> None:
    making = Making()
    log = BroadcastLog()
    log.append([LARGE])
    log.seal()
    log.make(0, making[9])
    log.make(0, making[9])
    assert log.segment(0, making[9]) == bytes([9]) * (len(LARGE) - 1) + b"."
    assert making.asked == [(LARGE, 9)]
    log.trim(1)
    assert log.held_bytes == 0


def test_a_segment_partly_encoded_is_forgotten_with_its_segment() -> None:
    making = Making()
    log = BroadcastLog()
    for _ in range(2):
        log.append([LARGE])
        log.seal()
        assert not log.make(log.next - 1, making[15])
        assert not log.make(log.next - 1, making[15])
    log.trim(1)
    assert making.steps == 2
    log.segment(1, making[15])
    log.trim(2)
    assert log.held_bytes == 0


def test_without_a_large_message_a_compressed_segment_is_the_uncompressed_one() -> None:
    making = Making()
    log = BroadcastLog()
    log.append([HELLO])
    log.seal()
    assert log.segment(0, making[0x1F]) is log.segment(0, making[0x19]) is log.segment(0, making[0x10])
    assert log.work(0, making[15]) == 0
    assert making.asked == [(HELLO, 0x10)]


def test_a_segment_is_left_uncompressed_if_there_is_no_time() -> None:
    making = Making()
    log = BroadcastLog()
    log.append([LARGE])
    log.seal()
    log.make(0, making[15])
    log.leave_plain(0, making[15])
    assert log.work(0, making[15]) == 0
    assert log.segment(0, making[15]) is log.segment(0)
    log.leave_plain(0, making[0x19])
    assert log.segment(0, making[0x19]) is log.segment(0, making[0x10])
    for form in (0, 15, 0x10, 0x20):
        log.leave_plain(0, making[form])
    assert [form for _, form in making.asked] == [15, 0x10]


def encoded_of(log: BroadcastLog, encoding: Encoding) -> list[int]:
    return [number for number in range(log.first, log.next) if not log.work(number, encoding)]


NOISE = encode_frame(Opcode.BINARY, bytes(50_000))
SEGMENTS = 12  # of NOISE are 600 kB, of which six times as much is kept encoded


def large_log(making: Making, readers: Iterable[tuple[Cursor, int]] = ()) -> BroadcastLog:
    log = BroadcastLog(in_use=lambda: [(cursor, making[number]) for cursor, number in readers])
    for _ in range(SEGMENTS):
        log.append([NOISE])
        log.seal()
    return log


def test_encoded_segments_are_forgotten_one_at_a_time_least_recently_used_first() -> None:
    making = Making()
    log = large_log(making)
    for form in range(1, MAX_ENCODED_RATIO):
        for number in range(SEGMENTS):
            log.segment(number, making[0x20 + form])
    log.segment(1, making[0x21])
    assert len(making.asked) == SEGMENTS * (MAX_ENCODED_RATIO - 1), "all are there"
    for number in range(SEGMENTS + 1):
        log.segment(number % SEGMENTS, making[0x30 if number < SEGMENTS else 0x31])
    left = {form: encoded_of(log, making[form]) for form in (0x21, 0x20 + MAX_ENCODED_RATIO - 1, 0x30)}
    assert 0 not in left[0x21], "it was used least recently"
    assert 1 in left[0x21], "it was used again"
    assert left[0x20 + MAX_ENCODED_RATIO - 1] == left[0x30] == list(range(SEGMENTS))
    assert log.held_bytes <= (MAX_ENCODED_RATIO + 1) * log.kept_bytes + 100_000


def test_an_encoded_segment_is_kept_while_a_reader_is_within_it() -> None:
    making = Making()
    readers = [(Cursor(1, 10), 9), (Cursor(2, 0), 9), (Cursor(SEGMENTS), 9)]
    log = large_log(making, readers)
    log.append([HELLO])
    log.seal()
    log.segment(1, making[9])
    log.segment(2, making[9])
    forms = [0x10, *range(0x21, 0x22 + MAX_ENCODED_RATIO)]
    for form in forms:
        for number in range(SEGMENTS):
            log.segment(number, making[form])
    asked = len(making.asked)
    assert not log.work(1, making[9])
    assert log.work(2, making[9]), "that reader has had none of its bytes"
    log.segment(1, making[9])
    assert len(making.asked) == asked
    readers.clear()
    for form in forms:
        for number in range(SEGMENTS):
            log.segment(number, making[form])
    assert log.work(1, making[9]), "no reader needs it any more"


def test_each_segment_is_encoded_once_for_readers_at_different_positions() -> None:
    making = Making()
    forms = [9, 15, 0x10, 0x19, 0x1F, 0x20, 0x30]  # one more than there is room for
    readers = [(Cursor(number, 1), form) for number in range(SEGMENTS) for form in forms]
    log = large_log(making, readers)
    assert log.lag_bytes(Cursor(0, 1), making[9]) > 0
    for _ in range(3):
        for cursor, form in readers:
            log.segment(cursor.number, making[form])
            log.lag_cost(cursor, making[form])
    assert len(making.asked) == len(set(readers)) == 7 * SEGMENTS


def test_the_last_segment_is_kept_in_each_encoding() -> None:
    making = Making()
    log = large_log(making)
    last = SEGMENTS - 1
    log.segment(last, making[15])
    for form in range(0x21, 0x22 + MAX_ENCODED_RATIO):
        for number in range(last):
            log.segment(number, making[form])
    assert not log.work(last, making[15])


def test_an_encoded_segment_that_a_reader_has_had_a_part_of_can_be_put_back() -> None:
    making = Making()
    log = large_log(making)
    log.make(0, making[15])
    log.put_back(0, making[15], b"as it was")
    assert log.segment(0, making[15]) == b"as it was"
    log.put_back(0, making[15], b"otherwise")
    log.put_back(1, PLAIN, b"otherwise")
    assert (log.segment(0, making[15]), log.segment(1, PLAIN)) == (b"as it was", NOISE)


def test_a_run_needs_no_more_than_a_given_amount_of_work() -> None:
    making = Making()
    log = BroadcastLog()
    for _ in range(4):
        log.append([HELLO])
        log.seal()
    log.segment(0, making[0x10])
    one = log.work(1, making[0x10])
    assert len(log.run(0, making[0x10], 2 * one)[1]) == 3
    assert len(making.asked) == 3
    assert len(log.run(1, making[0x10], 0)[1]) == 2


def test_runs_that_take_too_much_are_forgotten_before_segments_are() -> None:
    making = Making()
    log = BroadcastLog()
    for _ in range(8):
        log.append([encode_frame(Opcode.BINARY, bytes(20_000))])
        log.seal()
    forms = range(0x21, 0x20 + MAX_ENCODED_RATIO)
    for form in forms:
        for number in range(8):
            log.segment(number, making[form])
    asked = len(making.asked)
    runs = [log.run(number, making[0x21]) for number in range(4)]
    assert all(len(sizes) == 3 for _, sizes in runs)
    assert log.run(0, making[0x21]) is not runs[0], "it was forgotten"
    assert [encoded_of(log, making[form]) for form in forms] == [list(range(8))] * len(forms)
    assert len(making.asked) == asked


@pytest.mark.parametrize("size", [100_000, SEGMENT_PLAIN_BYTES - 10, SEGMENT_PLAIN_BYTES, 3 * SEGMENT_PLAIN_BYTES])
def test_a_segment_has_a_bounded_size_unless_it_is_one_message(size: int) -> None:
    log = BroadcastLog()
    frames: list[bytes | bytearray] = []
    for number in range(7):
        encode_message(Opcode.BINARY, bytes(size if number != 3 else 1), frames)
    log.append(frames)
    segments = list(iter(log.seal, None))
    assert b"".join(segments) == b"".join(frames)
    for number, segment in enumerate(segments):
        first, last = log.span(number)
        assert len(list(frame_ends(segment))) == last - first + 1
        assert len(segment) <= SEGMENT_PLAIN_BYTES or first == last
    assert log.last_message == 7


def test_a_run_of_segments_that_were_forgotten_meanwhile_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.broadcast.log.MIN_ENCODED_BYTES", 400_000)
    monkeypatch.setattr("rawws.broadcast.log.MAX_ENCODED_RATIO", 0)
    in_use = [(Cursor(number, 1), 9) for number in range(4, 16)]
    making = Making()
    log = BroadcastLog(in_use=lambda: [(cursor, making[number]) for cursor, number in in_use])
    for _ in range(20):
        log.append([encode_frame(Opcode.BINARY, bytes(20_000))])
        log.seal()
    for number in range(4, 9):
        log.segment(number, making[0x10])
    for cursor, form in in_use:
        log.segment(cursor.number, making[form])
    run, sizes = log.run(0, making[15])
    assert len(sizes) == 3
    assert log.work(0, making[15]), "the first was forgotten when the third was made"
    log.leave_plain(0, making[15])
    again, _ = log.run(0, making[15], 0)
    assert again != run
    assert again.startswith(log.segment(0, making[15])), "a run is the segments that its readers go on in"


def test_a_segment_whose_encoding_has_failed_is_encoded_from_the_beginning() -> None:
    failures = [MemoryError()]

    def encode(frames: bytes, _: int) -> Iterator[bytes]:
        yield frames[:1]
        if failures:
            raise failures.pop()
        yield frames[1:]

    making = Fakes(encode)
    log = BroadcastLog()
    log.append([LARGE])
    log.seal()
    held = log.held_bytes
    with pytest.raises(MemoryError):
        log.segment(0, making[15])
    assert log.held_bytes == held
    assert log.segment(0, making[15]) == LARGE


def test_a_log_knows_the_segments_that_it_keeps() -> None:
    log = BroadcastLog()
    log.append([HELLO])
    first = log.seal()
    assert log.keeps(first)
    assert not log.keeps(LARGE)
    log.append([LARGE])
    log.seal()
    log.trim(1)
    assert not log.keeps(first)
