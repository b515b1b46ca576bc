"""The segments of a log alone: their encoded bytes, and the work that these take."""

from __future__ import annotations

from rawws.broadcast.encodings import PLAIN, WITH_IDS
from rawws.broadcast.message_ids import NumberedIds
from rawws.broadcast.segments import Gap, Segment
from rawws.broadcast.stream_encodings import EVENTS
from rawws.wire.deflate import MIN_DEFLATE_BYTES
from tests.wire.helpers import text_frame, texts_in


def segment_of(*texts: str, first: int = 1) -> Segment:
    frames = list(map(text_frame, texts))
    plain = b"".join(frames)
    return Segment(plain, len(plain), first, len(frames), 7.0, max(map(len, frames)))


def test_a_segment_knows_its_messages() -> None:
    segment = segment_of("a", "b", "c", first=5)
    assert (segment.first, segment.last, segment.count, segment.sealed_at) == (5, 7, 3, 7.0)


def test_only_a_segment_with_a_large_message_is_compressed() -> None:
    small, large = segment_of("a"), segment_of("a", "x" * MIN_DEFLATE_BYTES)
    for encoding in (PLAIN, WITH_IDS):
        compressed = encoding.deflated(15)
        assert small.encoding_for(compressed) is small.encoding_for(encoding) is encoding
        assert large.encoding_for(compressed) is compressed
    assert large.encoding_for(EVENTS) is EVENTS


def test_a_segment_is_encoded_with_the_ids_of_its_messages() -> None:
    segment = segment_of("a", "b", first=5)
    encoded = b"".join(segment.encode_in_steps(WITH_IDS, NumberedIds("e")))
    assert texts_in(encoded) == ['{"id":"e-5"}\na', '{"id":"e-6"}\nb']
    assert segment.work(WITH_IDS) == WITH_IDS.work(len(segment.plain), 2) > 0
    assert segment.work(PLAIN) == 0


def test_a_gap_is_a_control_in_the_encodings_that_have_controls() -> None:
    gap = Gap({"gap": {"since": "e-1"}}, 20, 4, 7.0)
    assert (gap.plain, gap.first, gap.last, gap.end) == (b"", 4, 4, 20)
    encoded = [b"".join(gap.encode_in_steps(encoding, NumberedIds("e"))) for encoding in (PLAIN, WITH_IDS, EVENTS)]
    assert encoded == [b"", text_frame('{"gap":{"since":"e-1"}}\n'), b'event: gap\ndata: {"since":"e-1"}\n\n']
    assert gap.encoding_for(WITH_IDS.deflated(15)) is WITH_IDS, "a control is not compressed"
