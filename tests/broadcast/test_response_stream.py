"""A room as Server-Sent Events (WHATWG HTML §9.2): the bytes besides the messages, and the end of the response."""

from __future__ import annotations

import pytest

from rawws.broadcast.response_stream import ResponseStream
from rawws.broadcast.stream_encodings import EVENTS, PREAMBLE, RETRY_MS
from rawws.wire.events import CloseFrame
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.recent_frames import describe_recent_frames
from rawws.wire.role import Role
from rawws.wire.session import State
from tests.wire.helpers import MASK_KEY


def interpret(stream: bytes) -> tuple[list[dict[str, str]], int | None]:
    """Read a stream as in §9.2.6; return its events and the reconnection time that it set."""
    events: list[dict[str, str]] = []
    event: dict[str, str] = {}
    retry = None
    for line in stream.decode("utf-8").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if "data" in event:
                events.append(event)
            event = {}
        elif name == "retry" and value.isdigit():
            retry = int(value)
        elif name in ("data", "event", "id"):
            event[name] = value
    return events, retry


def test_9_2_6_the_preamble_sets_the_time_of_reconnection_and_is_no_event() -> None:
    assert EVENTS.content_type == "text/event-stream"
    assert interpret(PREAMBLE) == ([], RETRY_MS)
    assert interpret(PREAMBLE + b"id: e-1\ndata: x\n\n") == ([{"id": "e-1", "data": "x"}], RETRY_MS)


def test_9_2_7_a_ping_is_a_comment_which_a_reader_ignores_between_any_two_events() -> None:
    stream = ResponseStream(EVENTS)
    assert stream.data_to_send() == b""
    stream.ping(b"some payload")
    stream.ping()
    sent = stream.data_to_send()
    assert sent == EVENTS.heartbeat * 2
    assert interpret(sent) == ([], None)
    around = b"data: a\n\n" + sent + b"data: b\n\n"
    assert interpret(around)[0] == [{"data": "a"}, {"data": "b"}]
    assert stream.data_to_send() == b"", "it is sent once"


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", encode_frame(Opcode.CLOSE, b"", mask_key=MASK_KEY), b"\xff" * 2000],
)
def test_bytes_after_a_request_are_discarded(data: bytes) -> None:
    stream = ResponseStream(EVENTS)
    assert stream.relay_data(data) == []
    assert stream.receive_plain(data) == []
    assert stream.received(len(data)) == []
    assert stream.large_buffer(1) is None  # type: ignore[func-returns-value]
    assert (stream.state, stream.is_closed, stream.held_bytes) == (State.OPEN, False, 0)
    assert (stream.close_rcvd, stream.close_begun_by, stream.fault) == (None, None, None)
    assert describe_recent_frames(stream.recent_frames) == ""
    assert stream.data_to_send() == b"", "there is no answering it"


@pytest.mark.parametrize(
    ("close", "description"),
    [
        (CloseFrame(1001, "the server stops"), "event stream ended by us: the server stops"),
        (CloseFrame(1000, ""), "event stream ended by us: 1000"),
    ],
)
def test_a_close_is_the_end_of_the_response_and_no_bytes(close: CloseFrame, description: str) -> None:
    stream = ResponseStream(EVENTS)
    assert stream.describe_end() == "event stream over"
    assert repr(stream) == "<ResponseStream text/event-stream open>"
    stream.close(close.code, close.reason)
    assert stream.data_to_send() == b""
    assert stream.is_closed, "there is no waiting for an answer"
    assert (stream.close_sent, stream.close_rcvd, stream.close_begun_by) == (close, None, Role.SERVER)
    assert stream.describe_end() == description
    assert repr(stream) == "<ResponseStream text/event-stream closed>"


def test_a_queued_heartbeat_still_goes_out_before_the_end() -> None:
    stream = ResponseStream(EVENTS)
    stream.ping()
    stream.close()
    assert (stream.data_to_send(), stream.close_sent) == (EVENTS.heartbeat, CloseFrame(1000, ""))


def test_nothing_that_is_sent_is_shown_as_a_frame() -> None:
    stream = ResponseStream(EVENTS)
    assert stream.on_frame is None
    stream.show_sent(b"\x81\xff no frame")
    assert (stream.data_to_send(), stream.state) == (b"", State.OPEN)
