"""The senders of a log's messages: each peer gets all messages but its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rawws.broadcast import sender_runs
from rawws.broadcast.encodings import PLAIN, WITH_IDS, Encoding
from rawws.broadcast.message_ids import NumberedIds
from rawws.broadcast.sender_runs import SenderRuns
from rawws.wire.frames import frame_ends
from tests.wire.helpers import text_frame, texts_in


def test_a_reader_gets_all_messages_but_its_own() -> None:
    senders = SenderRuns()
    for last, sender in ((2, 1), (3, 2), (4, 1), (5, 1)):
        senders.add(last, sender)
    segment = b"".join(map(text_frame, "abcd"))
    assert texts_in(senders.leave_out(1, segment, 1, 4)) == ["c"]
    assert texts_in(senders.leave_out(2, segment, 1, 4)) == ["a", "b", "d"]
    assert senders.leave_out(3, segment, 1, 4) is segment
    assert texts_in(senders.leave_out(1, text_frame("b") + text_frame("c"), 2, 3)) == ["c"], "a run began before"
    assert texts_in(senders.leave_out(2, WITH_IDS.encode(segment, NumberedIds("e").labels(1)), 1, 4)) == [
        f'{{"id":"e-{number}"}}\n{text}' for number, text in ((1, "a"), (2, "b"), (4, "d"))
    ]
    assert [senders.count(sender, 2, 4) for sender in (1, 2, 3)] == [2, 1, 0]
    senders.trim(4)
    assert texts_in(senders.leave_out(1, text_frame("d") + text_frame("e"), 4, 5)) == []
    assert texts_in(senders.leave_out(2, text_frame("d") + text_frame("e"), 4, 5)) == ["d", "e"]


@pytest.mark.parametrize("encoding", [PLAIN, WITH_IDS])
def test_a_hundred_senders_cost_one_pass_over_the_segment(monkeypatch: pytest.MonkeyPatch, encoding: Encoding) -> None:
    looks: list[bytes] = []

    def look(segment: bytes) -> Iterator[int]:
        looks.append(segment)
        return frame_ends(segment)

    monkeypatch.setattr(sender_runs, "frame_ends", look)
    senders = SenderRuns()
    texts = [f"by {sender}" for sender in range(100)]
    for sender in range(100):
        senders.add(sender + 1, sender)
    segment = encoding.encode(b"".join(map(text_frame, texts)), NumberedIds("e").labels(1))
    for sender in range(100):
        got = texts_in(senders.leave_out(sender, segment, 1, 100))
        assert [text.rpartition("\n")[2] for text in got] == texts[:sender] + texts[sender + 1 :]
    assert len(looks) == 1
