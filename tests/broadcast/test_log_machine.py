"""The broadcast log with readers of every encoding, against a naive model of it: a plain list of messages."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rawws.broadcast import log as log_module
from rawws.broadcast.encodings import PLAIN, WITH_IDS, Encoding
from rawws.broadcast.log import BroadcastLog, Cursor, History, ReplayStart
from rawws.broadcast.message_ids import MessageId, NumberedIds, StreamIds, parse_id
from rawws.broadcast.stream_encodings import EVENTS, JSON_EVENTS
from rawws.wire.frames import Opcode, encode_frame, encode_message
from tests.effort import examples

ENCODINGS = (PLAIN, WITH_IDS, EVENTS, JSON_EVENTS)


@dataclass(frozen=True)
class Said:
    """One message of the model, and its expected bytes in each encoding."""

    id: bytes
    opcode: Opcode
    payload: bytes
    segment: int
    at: float

    def encoded(self, encoding: Encoding) -> bytes:
        """Encode the message in the plainest way, independently of encodings.py."""
        if encoding is PLAIN:
            return encode_frame(self.opcode, self.payload)
        if encoding is WITH_IDS:
            return encode_frame(self.opcode, b'{"id":"' + self.id + b'"}\n' + self.payload)
        if encoding is JSON_EVENTS:
            is_text = self.opcode is Opcode.TEXT
            value = self.payload.decode() if is_text else base64.b64encode(self.payload).decode()
            event = {"id": self.id.decode(), "text" if is_text else "base64": value}
            data = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
            return b"id: " + self.id + b"\ndata: " + data + b"\n\n"
        if self.opcode is Opcode.BINARY:
            return b"id: " + self.id + b"\nevent: binary\ndata: " + base64.b64encode(self.payload) + b"\n\n"
        lines = b"".join(b"data: " + line + b"\n" for line in re.split(b"\r\n|\r|\n", self.payload))
        return b"id: " + self.id + b"\n" + lines + b"\n"


class Missing(Said):
    """Missing messages, where the log has a gap; ``payload`` is the JSON that readers get about it."""

    def encoded(self, encoding: Encoding) -> bytes:
        if encoding is PLAIN:
            return b""
        if encoding is WITH_IDS:
            return encode_frame(Opcode.TEXT, b'{"gap":' + self.payload + b"}\n")
        return b"event: gap\ndata: " + self.payload + b"\n\n"


@dataclass(eq=False)
class Reader:
    """A reader of the log from a position on, ``rest`` first; ``got`` must become ``wanted``, in order and once."""

    encoding: Encoding
    rest: bytes
    cursor: Cursor
    wanted: list[int]  # numbers of the messages that it is owed, in order
    got: bytes = b""


class LogMachine(RuleBasedStateMachine):
    """Random steps of a room, whose readers take as many bytes at a time as their sockets do."""

    stream_ids = False

    @initialize(
        messages=st.integers(0, 6), max_bytes=st.sampled_from([40, 1 << 20]), max_age_s=st.sampled_from([5.0, 1e9])
    )
    def begin(self, messages: int, max_bytes: int, max_age_s: float) -> None:
        self.stream = StreamIds((5, 3)) if self.stream_ids else None
        self.ids = self.stream or NumberedIds("e")
        self.history = History(messages, max_bytes, max_age_s)
        # The bound is so small that encoded segments are forgotten all the time, but for those that readers need.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(log_module, "MIN_ENCODED_BYTES", 300)
        self.patch.setattr(log_module, "MAX_ENCODED_RATIO", 1)
        self.log = BroadcastLog(
            ids=self.ids,
            history=self.history,
            in_use=lambda: [(reader.cursor, reader.encoding) for reader in self.readers],
        )
        self.now = 0.0
        self.messages: list[Said | None] = [None]  # by number; None for the place before the first
        self.labels = [b"5-3" if self.stream_ids else b"e-0"]
        self.open: list[tuple[Opcode, bytes]] = []
        self.segments = 0  # number of sealed segments
        self.first = 0  # segment that is still there
        self.old = 0  # segments below this one are no part of the history any more
        self.readers: list[Reader] = []

    # The model

    @property
    def last(self) -> int:
        return len(self.messages) - 1

    def of_segment(self, number: int) -> list[Said]:
        return [said for said in self.messages if said is not None and said.segment == number]

    def size(self, numbers: Sequence[int]) -> int:
        return sum(len(said.encoded(PLAIN)) for number in numbers for said in self.of_segment(number))

    def oldest(self) -> int:
        """Return the number of the oldest message of the history, by a search from the oldest segment on."""
        while self.old < self.segments:
            is_young = self.now - self.of_segment(self.old)[0].at < self.history.max_age_s
            newest = max(self.numbers_in(self.old))
            is_wanted = newest > self.last - self.history.messages
            if is_young and is_wanted and self.size(range(self.old, self.segments)) <= self.history.max_bytes:
                return max(min(self.numbers_in(self.old)), self.last - self.history.messages + 1)
            self.old += 1
        return self.last + 1

    def numbers_in(self, segment: int) -> list[int]:
        return [number for number, said in enumerate(self.messages) if said is not None and said.segment == segment]

    def new_id(self, step: int) -> bytes:
        """Return the id of the next message; ids of a stream leave gaps."""
        if self.stream is None:
            return b"e-%d" % (len(self.messages))
        milliseconds, sequence = self.stream.last
        given = (milliseconds + step // 2, sequence + 1 if step < 2 else 0)
        self.stream.add(*given)
        return b"%d-%d" % given

    # Writing

    @rule(
        said=st.lists(
            st.tuples(
                st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]),
                st.sampled_from(
                    [b"", b"a", b"two\nlines", b"\n\n", b"\r\n", "ä".encode() * 70, b"x" * 4098, b"x" * 5000]
                ),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def append(self, said: list[tuple[Opcode, bytes]]) -> None:
        pieces: list[bytes | bytearray] = []
        for opcode, payload in said:
            encode_message(opcode, payload, pieces)
        assert self.log.next_message == self.last + len(self.open) + 1
        self.log.append(pieces)
        self.open += said

    @rule(step=st.integers(0, 3))
    def seal(self, step: int) -> None:
        for opcode, payload in self.open:
            identifier = self.new_id(step)
            self.messages.append(Said(identifier, opcode, payload, self.segments, self.now))
            self.labels.append(identifier)
        sealed = self.log.seal(self.now)
        if not self.open:
            assert sealed is None
            return
        assert self.log.sealed_messages == len(self.open)
        for reader in self.readers:
            reader.wanted += self.numbers_in(self.segments)
        assert sealed == b"".join(said.encoded(PLAIN) for said in self.of_segment(self.segments))
        self.segments += 1
        self.open = []

    @precondition(lambda self: not self.open)
    @rule(step=st.integers(0, 3))
    def leave_out(self, step: int) -> None:
        gap = {"since": self.labels[-1].decode(), "after": "9-9"}
        self.log.record_gap({"gap": gap}, self.now)
        identifier = self.new_id(step)
        self.labels.append(identifier)
        payload = json.dumps(gap, separators=(",", ":")).encode()
        self.messages.append(Missing(identifier, Opcode.TEXT, payload, self.segments, self.now))
        for reader in self.readers:
            reader.wanted.append(self.last)
        self.segments += 1
        self.old = self.segments

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def trim(self) -> None:
        needed = min((reader.cursor.number for reader in self.readers), default=self.segments)
        self.oldest()
        self.log.trim(needed, self.now)
        self.first = max(self.first, min(needed, self.old))
        assert self.log.first == self.first

    def teardown(self) -> None:
        self.patch.undo()

    @precondition(lambda self: self.first < self.segments)
    @rule(encoding=st.sampled_from(ENCODINGS), back=st.integers(0, 5), steps=st.integers(1, 3))
    def make_some(self, encoding: Encoding, back: int, steps: int) -> None:
        """Do some steps of an encoding that a reader may want, perhaps not all."""
        number = max(self.first, self.segments - 1 - back)
        before = self.log.work(number, encoding)
        done = [self.log.make(number, encoding) for _ in range(steps)][-1]
        assert done is (self.log.work(number, encoding) == 0)
        assert self.log.work(number, encoding) in (0, before)

    # Reading

    def add_reader(self, start: ReplayStart, encoding: Encoding, first: int) -> None:
        assert start.number <= self.segments
        wanted = [number for number in range(first, self.last + 1) if self.messages[number] is not None]
        self.readers.append(Reader(encoding, start.rest, Cursor(start.number), wanted))

    @rule(encoding=st.sampled_from(ENCODINGS))
    def join(self, encoding: Encoding) -> None:
        """Join at the tail."""
        self.readers.append(Reader(encoding, b"", Cursor(self.log.next), []))

    @rule(encoding=st.sampled_from(ENCODINGS), back=st.integers(-1, 8))
    def join_since(self, encoding: Encoding, back: int) -> None:
        """Join after a message that the reader names by its id."""
        after = max(0, self.last - back)
        named = parse_id(self.labels[after].decode()) if after <= self.last else MessageId("e", after)
        if self.stream is not None and after > self.last:
            named = MessageId(str(self.stream.last[0]), self.stream.last[1] + 1)
        oldest = self.oldest()
        number = self.ids.number_of(named)
        assert number is not None
        if oldest - 1 <= after <= self.last:
            assert number == after, "a reader that names a message of the history begins after it"
        else:
            assert number < oldest - 1 or number > self.last, "a message that is gone, or never was, is known as such"
        start = self.log.replay_start(number, encoding, self.now)
        assert start.is_gap is not (oldest - 1 <= after <= self.last)
        self.add_reader(start, encoding, oldest if start.is_gap else after + 1)

    @rule(encoding=st.sampled_from(ENCODINGS), count=st.integers(0, 8))
    def join_with_the_last(self, encoding: Encoding, count: int) -> None:
        after = max(self.oldest() - 1, self.last - count)
        start = self.log.replay_start(after, encoding, self.now)
        assert not start.is_gap
        self.add_reader(start, encoding, after + 1)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), taken=st.integers(0, 40) | st.sampled_from([4000, 10_000]), in_runs=st.booleans())
    def send_some(self, data: st.DataObject, taken: int, in_runs: bool) -> None:
        """Let a reader's socket accept at most this number of bytes: of its rest, of a segment, or of several."""
        reader = data.draw(st.sampled_from(self.readers))
        if reader.rest:
            reader.got += reader.rest[:taken]
            reader.rest = reader.rest[taken:]
            return
        number, offset = reader.cursor
        if number == self.log.next:
            return
        sizes = [len(self.log.segment(number, reader.encoding))]
        piece = self.log.segment(number, reader.encoding)
        if in_runs:
            piece, sizes = self.log.run(number, reader.encoding)
        sent = piece[offset : offset + taken]
        reader.got += sent
        reader.cursor = forward(number, offset + len(sent), sizes)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), committed=st.integers(0, 3))
    def put_between(self, data: st.DataObject, committed: int) -> None:
        """Insert a frame for one reader alone at the end of a message: after the rest of a partly sent one."""
        reader = data.draw(st.sampled_from(self.readers))
        if reader.rest or reader.cursor.number == self.log.next:
            return
        number, offset = reader.cursor
        segment = self.log.segment(number, reader.encoding)
        rest = reader.encoding.rest_of_message(segment, offset, committed_bytes=min(committed, len(segment) - offset))
        reader.got += rest
        reader.cursor = forward(number, offset + len(rest), [len(segment)])
        owed = (len(self.said(each).encoded(reader.encoding)) for each in reader.wanted)
        assert len(reader.got) in set(itertools.accumulate(owed, initial=0)), "it would be inside of a message"

    def segment_of(self, number: int) -> int:
        said = self.messages[number]
        return -1 if said is None else said.segment

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def skip_to_the_newest(self, data: st.DataObject) -> None:
        """A lagging reader is sent the rest of its current message, and then continues at the tail."""
        reader = data.draw(st.sampled_from(self.readers))
        if reader.rest:
            return
        number, offset = reader.cursor
        if number == self.log.next:
            return
        segment = self.log.segment(number, reader.encoding)
        rest = reader.encoding.rest_of_message(segment, offset)
        reader.got += rest
        whole = reader.encoding.count_messages(segment, offset + len(rest))
        had = self.log.last_before(number)
        owed = self.numbers_in(number)[:whole]
        assert self.log.last_before(self.log.next) == self.last
        assert all(n > had for n in owed)
        # The reader has all messages before this segment, and those of the segment that have been sent whole.
        reader.wanted = [n for n in reader.wanted if self.segment_of(n) < number or n in owed]
        reader.cursor = Cursor(self.log.next)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.readers.remove(data.draw(st.sampled_from(self.readers)))

    @rule(back=st.integers(0, 6), most=st.integers(1, 5))
    def poll(self, back: int, most: int) -> None:
        after = max(self.last - back, self.oldest() - 1)
        polled = list(self.log.messages(after, most=most, most_bytes=1 << 30))
        following = [said for said in self.messages[after + 1 :] if said is not None][:most]
        got = [(message_id, opcode, bytes(payload)) for message_id, opcode, payload in polled]
        assert got == [(said.id, said.opcode, said.payload) for said in following]

    # Invariants

    @invariant()
    def each_reader_gets_what_it_is_owed_once_and_in_order(self) -> None:
        for reader in self.readers:
            owed = b"".join(self.said(number).encoded(reader.encoding) for number in reader.wanted)
            assert owed.startswith(reader.got)
            left = reader.rest
            if reader.cursor.number < self.log.next:
                left += self.log.segment(reader.cursor.number, reader.encoding)[reader.cursor.offset :]
                following = range(reader.cursor.number + 1, self.log.next)
                left += b"".join(self.log.segment(number, reader.encoding) for number in following)
            assert reader.got + left == owed

    def said(self, number: int) -> Said:
        said = self.messages[number]
        assert said is not None
        return said

    @invariant()
    def what_readers_and_the_history_need_is_kept_and_counted(self) -> None:
        log = self.log
        assert (log.first, log.next, log.last_message) == (self.first, self.segments, self.last)
        assert all(reader.cursor.number >= log.first for reader in self.readers)
        assert log.kept_bytes == self.size(range(self.first, self.segments))
        assert log.end_bytes == self.size(range(self.segments))
        assert log.open_bytes == sum(len(encode_frame(opcode, payload)) for opcode, payload in self.open)
        oldest = self.oldest()
        assert log.oldest(self.now) == oldest
        kept = {number for segment in range(self.first, self.segments) for number in self.numbers_in(segment)}
        assert kept >= {number for number in range(oldest, self.last + 1) if self.messages[number] is not None}
        assert (log.tail_id, log.next_message) == (self.labels[-1].decode(), self.last + len(self.open) + 1)

    @invariant()
    def messages_are_found_where_they_are(self) -> None:
        log = self.log
        for segment in range(self.first, self.segments):
            numbers = self.numbers_in(segment)
            assert log.first_of(segment) == numbers[0]
            assert {log.number_of(number) for number in numbers} == {segment}
        assert log.number_of(self.last + 1) == self.segments
        for number in range(max(0, self.oldest() - 1), self.last + 1):
            assert log.label(number).encode() == self.labels[number]
            assert self.ids.number_of(parse_id(log.label(number))) == number

    @invariant()
    def lag_is_what_lies_between_a_reader_and_the_tail(self) -> None:
        for reader in self.readers:
            number, offset = reader.cursor
            lag = self.size(range(number + 1, self.segments))
            if number < self.segments:
                plain = sum(len(said.encoded(PLAIN)) for said in self.of_segment(number))
                encoded = sum(len(said.encoded(reader.encoding)) for said in self.of_segment(number))
                lag += plain - plain * offset // max(1, encoded)
            work_done = self.log.work_done
            assert self.log.lag_bytes(reader.cursor, reader.encoding) == lag
            assert self.log.work_done == work_done, "nothing is made for that"


def forward(number: int, offset: int, sizes: list[int]) -> Cursor:
    """Return the cursor at an offset from a segment's beginning, where the segments have these sizes."""
    for size in sizes:
        if offset < size:
            return Cursor(number, offset)
        number, offset = number + 1, offset - size
    return Cursor(number)


class StreamLogMachine(LogMachine):
    """The same with ids that came with the messages."""

    stream_ids = True


@pytest.mark.hypothesis
@pytest.mark.parametrize("machine", [LogMachine, StreamLogMachine], ids=["numbered", "from a stream"])
def test_every_reader_gets_the_messages_after_its_position_in_order_and_once(machine: type[LogMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(60), stateful_step_count=40))
