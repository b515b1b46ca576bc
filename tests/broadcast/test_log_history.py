"""The history of a log, by example and against a naive model: a list of messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from rawws.broadcast.encodings import PLAIN, WITH_IDS, Encoding
from rawws.broadcast.log import BroadcastLog, Cursor, History
from rawws.broadcast.message_ids import Ids, NumberedIds, StreamIds
from rawws.broadcast.stream_encodings import EVENTS
from rawws.wire.frames import Opcode, encode_message
from tests.effort import examples
from tests.traced_memory import traced_memory
from tests.wire.helpers import everything_from, text_frame, texts_in


def make_log(*turns: list[str], history: int = 100, sealed_at: float = 0.0) -> BroadcastLog:
    """A log with a segment for each turn."""
    log = BroadcastLog(ids=NumberedIds("e"), history=History(history))
    for turn in turns:
        log.append([text_frame(text) for text in turn])
        log.seal(sealed_at)
    return log


def test_messages_are_numbered_in_their_order() -> None:
    log = make_log(["a", "b"], ["c"])
    assert log.last_message == 3
    assert log.tail_id == "e-3"
    assert [(message.decode(), bytes(payload)) for message, _, payload in log.messages(0, most=9, most_bytes=99)] == [
        ("e-1", b"a"),
        ("e-2", b"b"),
        ("e-3", b"c"),
    ]


def test_a_large_message_in_two_pieces_is_one() -> None:
    log = BroadcastLog()
    frames: list[bytes | bytearray] = []
    for payload in (b"", b"x" * 126, b"y" * 5000, b"z" * 70_000):
        encode_message(Opcode.BINARY, payload, frames)
    assert len(frames) == 6
    log.append(frames)
    log.seal()
    assert (log.last_message, log.sealed_messages, log.next_message) == (4, 4, 5)


@pytest.mark.parametrize("least", [0, 100, 4080, 65_520])
def test_a_message_of_any_size_is_one(least: int) -> None:
    for size in range(least, least + 60):
        log = BroadcastLog()
        frames: list[bytes | bytearray] = []
        for payload in (b"x" * size, b"", b"yy"):
            encode_message(Opcode.BINARY, payload, frames)
        log.append(frames)
        log.seal()
        assert log.last_message == 3, f"with one of {size} bytes"


@pytest.mark.parametrize("after", range(6))
def test_a_reader_resumes_after_its_last_message_even_within_a_segment(after: int) -> None:
    log = make_log(["1", "2", "3"], ["4"], ["5"])
    assert everything_from(log, after) == ["1", "2", "3", "4", "5"][after:]
    assert not log.replay_start(after, PLAIN, 0.0).is_gap
    (last, *_) = everything_from(log, after, WITH_IDS)[-1:] or [""]
    assert last in ("", '{"id":"e-5"}\n5')


def test_the_history_ends_with_its_number_of_messages() -> None:
    log = make_log(["1", "2", "3"], ["4"], ["5"], history=3)
    log.trim(log.next)
    assert log.oldest(0.0) == 3
    assert everything_from(log, 2) == ["3", "4", "5"]
    assert log.replay_start(1, PLAIN, 0.0).is_gap
    assert everything_from(log, 0) == ["3", "4", "5"]


def test_the_history_ends_with_its_age_and_its_size() -> None:
    log = BroadcastLog(history=History(100, max_bytes=10, max_age_s=60))
    for second in range(5):
        log.append([text_frame("abc")])  # five bytes
        log.seal(float(second * 20))
    log.trim(log.next, 80.0)
    assert (log.kept_bytes, log.oldest(80.0)) == (10, 4)
    log.trim(log.next, 130.0)
    assert log.oldest(130.0) == 5
    log.trim(log.next, 140.0)
    assert (log.kept_bytes, log.oldest(140.0), log.last_message) == (0, 6, 5)


def test_without_a_history_everything_before_is_a_gap() -> None:
    log = make_log(["1"], ["2"], history=0)
    log.trim(log.next)
    assert not log.replay_start(2, PLAIN, 0.0).is_gap
    assert log.replay_start(1, PLAIN, 0.0).is_gap
    assert log.replay_start(3, PLAIN, 0.0).is_gap, "an id from a future that hasn't been"


def test_a_poll_gets_messages_within_its_bounds_and_at_least_one() -> None:
    log = make_log(["1", "22", "333"], ["4"], ["55555"])

    def polled(after: int, *, most: int = 99, most_bytes: int = 99) -> list[bytes]:
        return [bytes(payload) for _, _, payload in log.messages(after, most=most, most_bytes=most_bytes)]

    assert polled(1) == [b"22", b"333", b"4", b"55555"]
    assert polled(1, most=2) == [b"22", b"333"]
    assert polled(2, most=2) == [b"333", b"4"], "over the end of a segment"
    assert polled(0, most_bytes=3) == [b"1", b"22"]
    assert polled(4, most=0) == polled(4, most_bytes=1) == [b"55555"]
    assert polled(5) == polled(6) == []


def test_each_message_is_in_the_segment_of_its_turn_and_the_next_in_the_open_one() -> None:
    log = make_log(["1", "2"], ["3"])
    assert [log.number_of(message) for message in (1, 2, 3, 4, 9)] == [0, 0, 1, 2, 2]
    log.trim(1)
    log.append([text_frame("4")])
    assert [log.number_of(message) for message in (3, 4)] == [1, 2]
    assert [log.last_before(number) for number in (1, 2)] == [2, 3]


def test_a_segment_knows_its_first_and_last_messages_whatever_was_before() -> None:
    log = make_log(["1", "2"], ["3"], ["4", "5", "6"], history=0)
    assert [log.span(number) for number in range(3)] == [(1, 2), (3, 3), (4, 6)]
    log.trim(2)
    assert log.span(2) == (4, 6)


def test_missing_messages_take_a_number_and_end_the_history() -> None:
    log = make_log(["1", "2"])
    log.record_gap({})
    assert (log.last_message, log.tail_id, log.next_message, log.oldest(0.0)) == (3, "e-3", 4, 4)
    log.append([text_frame("4")])
    log.seal()
    assert [log.replay_start(after, PLAIN, 0.0).is_gap for after in range(5)] == [True, True, True, False, False]
    assert everything_from(log, 0) == everything_from(log, 2) == everything_from(log, 3) == ["4"]
    assert [number for number, _, _ in log.messages(3, most=9, most_bytes=99)] == [b"e-4"]
    log.trim(log.next)
    assert (log.kept_bytes, log.oldest(0.0)) == (len(text_frame("4")), 4), "earlier messages are no part of the history"


def test_a_gap_is_sent_between_its_neighbours_in_each_encoding_with_controls() -> None:
    log = make_log(["1"])
    log.record_gap({"gap": {"since": "e-1"}})
    log.append([text_frame("3")])
    log.seal()
    assert [log.segment(1, encoding) for encoding in (PLAIN, PLAIN.deflated(15), WITH_IDS, EVENTS)] == [
        b"",
        b"",
        text_frame('{"gap":{"since":"e-1"}}\n'),
        b'event: gap\ndata: {"since":"e-1"}\n\n',
    ]
    assert texts_in(log.run(0, WITH_IDS)[0]) == ['{"id":"e-1"}\n1', '{"gap":{"since":"e-1"}}\n', '{"id":"e-3"}\n3']


def test_gaps_are_found_among_the_segments_of_a_range() -> None:
    log = make_log(["1"])
    log.record_gap({})
    log.append([text_frame("3")])
    log.seal()
    log.record_gap({})
    assert [log.gaps(first, 4) for first in range(5)] == [[1, 3], [1, 3], [3], [3], []]
    assert [log.gaps(0, behind) for behind in range(5)] == [[], [], [1], [1], [1, 3]]
    log.trim(2)
    assert log.gaps(2, 4) == [3]


def test_a_gap_between_messages_of_one_turn_is_refused() -> None:
    log = make_log()
    log.append([text_frame("1")])
    with pytest.raises(AssertionError, match="not sealed"):
        log.record_gap({})


class HistoryModel(RuleBasedStateMachine):
    """Publish in turns, trim at random, and compare each reader's messages with a list."""

    @initialize(history=st.integers(0, 8))
    def begin(self, history: int) -> None:
        self.history = history
        self.log = BroadcastLog(ids=NumberedIds("e"), history=History(history))
        self.sent: list[str] = []
        self.reader = 0  # a segment that a reader still needs

    @rule(texts=st.lists(st.sampled_from(["", "a", "b" * 5000]), min_size=1, max_size=4))
    def turn(self, texts: list[str]) -> None:
        for text in texts:
            pieces: list[bytes | bytearray] = []
            encode_message(Opcode.TEXT, text.encode(), pieces)
            self.log.append(pieces)
            self.sent.append(text)
        self.log.seal()

    @rule(back=st.integers(0, 3))
    def trim(self, back: int) -> None:
        self.reader = max(self.reader, self.log.next - back)
        self.log.trim(self.reader)

    @rule(after=st.integers(0, 40))
    def read(self, after: int) -> None:
        oldest = max(len(self.sent) - self.history, 0) + 1
        start = self.log.replay_start(after, PLAIN, 0.0)
        assert self.log.oldest(0.0) == oldest
        assert start.is_gap is not (oldest - 1 <= after <= len(self.sent))
        first = oldest if start.is_gap else after + 1
        assert everything_from(self.log, after) == self.sent[first - 1 :]
        if not start.is_gap:
            texts = [bytes(payload).decode() for _, _, payload in self.log.messages(after, most=99, most_bytes=1 << 30)]
            assert texts == self.sent[after:]


TestHistoryModel = HistoryModel.TestCase
TestHistoryModel.settings = settings(max_examples=examples(60), stateful_step_count=25)


# Memory


def taken(act: Callable[[], object]) -> int:
    """Return the bytes of memory that the result of a call takes."""
    with traced_memory() as count:
        kept = act()
        now, _ = count()
    del kept
    return now


def one_by_one(ids: Ids, encodings: Sequence[Encoding], count: int = 1500, text: str = "a") -> BroadcastLog:
    """A log whose messages have come one at a time, and been sent to readers with these encodings."""
    log = BroadcastLog(ids=ids)
    for number in range(count):
        log.append([text_frame(text)])
        if isinstance(ids, StreamIds):
            ids.add(number, 1 << 63)
        log.seal()
        for encoding in encodings:
            log.segment(number, encoding)
    return log


@pytest.mark.parametrize("make_ids", [NumberedIds, StreamIds])
@pytest.mark.parametrize("encodings", [[], [WITH_IDS], [EVENTS, WITH_IDS]], ids=["plain", "ids", "events and ids"])
def test_the_memory_of_the_tiniest_messages_is_counted(make_ids: type[Ids], encodings: list[Encoding]) -> None:
    logs = []
    took = taken(lambda: logs.append(one_by_one(make_ids(), encodings)))
    assert 0.7 < logs[0].held_bytes / took < 1.5
    log = logs[0]
    assert log.kept_bytes == log.lag_bytes(Cursor(0)) == 3 * 1500, "they are few bytes on the wire"
    assert took * 0.2 < log.lag_cost(Cursor(0)), "the lag counts the memory in use, including other encodings"
    assert log.lag_cost(Cursor(log.next)) == 0
    log.trim(log.next)
    assert log.held_bytes == 0


def test_other_encodings_take_a_bounded_multiple_and_can_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.broadcast.log.MAX_ENCODED_RATIO", 1)
    log = one_by_one(NumberedIds("e"), [WITH_IDS, EVENTS], text="x" * 100)
    alone = one_by_one(NumberedIds("e"), [], text="x" * 100).held_bytes
    assert alone < log.held_bytes <= 2 * alone
    assert texts_in(log.segment(7, WITH_IDS)) == ['{"id":"e-8"}\n' + "x" * 100]
    for number in range(log.next):
        log.run(number, EVENTS)
        assert log.held_bytes <= 2 * alone


def test_a_history_can_be_ended() -> None:
    log = make_log(["1"], ["2"], ["3"], sealed_at=7.0)
    assert (log.history_bytes, log.sealed_at) == (9, 7.0)
    log.end_history()
    log.trim(2, 7.0)
    assert (log.kept_bytes, log.history_bytes, log.oldest(7.0)) == (3, 0, 4), "a reader still needs the last"
    log.append([text_frame("4")])
    log.seal(8.0)
    log.trim(log.next, 8.0)
    assert (log.kept_bytes, log.oldest(8.0), log.tail_id) == (3, 4, "e-4")
    log.end_history()
    log.trim(log.next, 8.0)
    assert log.sealed_at == -math.inf


def test_a_gap_in_the_midst_of_the_history_leaves_what_is_before_it() -> None:
    log = BroadcastLog(history=History(10))
    for gap in (False, True, False):
        if gap:
            log.record_gap({}, ends_history=False)
        else:
            log.append([b"\x81\x01x"])
            log.seal()
    assert [log.is_gap(number) for number in range(1, 5)] == [False, True, False, False]
    assert log.oldest(0.0) == 1
    assert [bytes(payload) for _, _, payload in log.messages(0, most=10, most_bytes=1000)] == [b"x"]
    assert len(list(log.messages(1, most=10, most_bytes=1000))) == 1
    assert len(list(log.messages(2, most=10, most_bytes=1000))) == 1
