"""The lines of a chunked body, as RFC 9112 §7.1 has them and otherwise."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.chunks import ChunkLines
from tests.wire.helpers import any_chunking, every_split

LEGAL = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"a\r\n0123456789\r\n00A\r\n0123456789\r\n000\r\n\r\n",
    b"2;a\r\nok\r\n0;b=c;d\r\n\r\n",
    b'2 ; a = "q \\" \t;"\t;b\r\nok\r\n0\r\n\r\n',
    b"2\r\n\r\n\r\n0\r\n\r\n",
    b"0\r\nDigest: x\r\nEmpty:\r\n\r\n",
]
ILLEGAL = {
    "no size": b"\r\n",
    "a word": b"five\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "0x": b"0x5\r\n",
    "an underscore": b"1_0\r\n",
    "more than 64 bits": b"1" * 17 + b"\r\n",
    "white space in front": b" 5\r\n",
    "white space behind": b"5 \r\nhello\r\n",
    "a bare LF": b"5\nhello\r\n",
    "two CRs": b"5\r\r\nhello\r\n",
    "a bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "a bare LF in an extension": b"5;a\nb\r\nhello\r\n",
    "a CR in quotes": b'5;a="\r"\r\n',
    "quotes that don't end": b'5;a="b\r\n',
    "an extension without a name": b"5;\r\n",
    "an extension with two values": b"5;a=b=c\r\n",
    "an extension that isn't ASCII": b"5;\xe9\r\n",
    "a trailer that ends with LF": b"0\r\nA: b\n\r\n",
    "an end of LF": b"0\r\nA: b\r\n\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a bare CR in a trailer": b"0\r\nA: b\rc\r\n\r\n",
}


@pytest.mark.parametrize("body", LEGAL)
def test_9112_7_1_legal_chunks_are_followed_to_their_end(body: bytes) -> None:
    for chunks in every_split(body + b"GET \n\r\n"):
        lines = ChunkLines()
        assert all(lines.follow(chunk) for chunk in chunks)
        assert lines.ended


@pytest.mark.parametrize("body", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_9112_7_1_a_line_that_could_be_read_in_two_ways_is_none(body: bytes) -> None:
    for chunks in every_split(b"3\r\nabc\r\n" + body):
        lines = ChunkLines()
        assert not all(lines.follow(chunk) for chunk in chunks)
        assert not lines.ended


def test_no_line_has_ended_so_far() -> None:
    lines = ChunkLines()
    assert lines.follow(b"5;a\r")
    assert not lines.ended


@given(any_chunking(st.lists(st.sampled_from([*LEGAL, *ILLEGAL.values(), b"\r\n", b"x"])).map(b"".join)))
def test_a_body_that_is_legal_here_is_the_same_to_h11(chunks: list[bytes]) -> None:
    lines = ChunkLines()
    if not all(lines.follow(chunk) for chunk in chunks) or not lines.ended:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks))
    events = [connection.next_event()]
    try:
        while not isinstance(events[-1], h11.EndOfMessage):
            assert events[-1] is not h11.NEED_DATA, "h11 waits for more where the body has ended"
            events.append(connection.next_event())
    except h11.RemoteProtocolError:
        pass  # h11 also looks at what is behind each chunk
