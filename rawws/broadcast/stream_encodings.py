r"""The encodings in which a room's messages are sent as an HTTP response that never ends.

* `EVENTS`: Server-Sent Events (WHATWG HTML §9.2.6). A text is the ``data`` of an event without a name, which a
  browser's ``onmessage`` gets, and the message's id is the event's ``id``. CR LF, CR and LF each end a line in this
  format, and each arrives as LF. All other characters arrive unchanged. A binary message is an event named ``binary``
  whose data is in base64.
* `JSON_EVENTS`, for readers that need every character: each message, text or binary, is an event without a name. Its
  data is the object that a poll returns for the message (`rawws.broadcast.json_messages`).

Another encoding is a subclass of `StreamEncoding`, of which an instance is in the table of `rawws.server.room_app`.
"""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rawws.broadcast.encodings import STEP_MESSAGES, Encoding
from rawws.broadcast.json_messages import SLICE_BYTES, as_compact_json, as_json, as_json_in_steps, slices
from rawws.broadcast.query import RoomQuery
from rawws.wire.deflate import FRAME_WORK_BYTES, STEP_BYTES
from rawws.wire.frames import FIN, LENGTH_IN_2_BYTES, Opcode, parse_header, split_frames

# The time after which a reader that was cut off reconnects.
RETRY_MS = 2000
PREAMBLE = f"retry: {RETRY_MS}\n".encode("ascii")

_WHOLE_TEXT = FIN | Opcode.TEXT
_OTHER_LINE_ENDS = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029)]


class StreamEncoding(Encoding):
    """An encoding of messages as the body of an HTTP response.

    A subclass sets the attributes below, and implements `encode_message` and the abstract methods of `Encoding` that
    are left: `encode_alone`, `encode_control` and `greeting`.
    """

    is_one_way = True
    content_type: str  # of the response, and the media type by which a request asks for it
    heartbeat: bytes  # what readers ignore, at any place between two messages
    terminator: bytes  # ends each message, and is part of none
    noun = "response"  # in log lines

    def suits(self, reading: RoomQuery) -> bool:
        """Return whether this is the encoding for a request that accepts its media type."""
        return True

    @abstractmethod
    def encode_message(self, message_id: bytes, opcode: Opcode, payload: bytes) -> Iterable[bytes]:
        """Return a message of the log in pieces. Each is made of at most `SLICE_BYTES` bytes of the payload."""

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        pieces: list[bytes] = []
        work = 0
        for header, payload in split_frames(frames):
            for piece in self.encode_message(next(ids), Opcode(header.opcode), bytes(payload)):
                pieces.append(piece)
                work += len(piece)
                if work >= STEP_BYTES:
                    yield b"".join(pieces)
                    pieces.clear()
                    work = 0
            work += FRAME_WORK_BYTES
        yield b"".join(pieces)

    def next_boundary(self, data: bytes, at: int) -> int:
        size = len(self.terminator)
        return data.index(self.terminator, max(0, at - size)) + size if at else 0

    def count_messages(self, data: bytes, end: int) -> int:
        return data.count(self.terminator, 0, end)

    def skip_messages(self, data: bytes, count: int) -> int:
        position = 0
        for _ in range(count):
            position = data.index(self.terminator, position) + len(self.terminator)
        return position


class Events(StreamEncoding):
    """Server-Sent Events."""

    label = "events"
    content_type = "text/event-stream"
    heartbeat = b": rawws\n\n"  # a comment
    terminator = b"\n\n"
    noun = "event stream"

    def encode_message(self, message_id: bytes, opcode: Opcode, payload: bytes) -> Iterator[bytes]:
        yield b"id: %b\n" % message_id
        yield from [event_data(opcode, payload)] if len(payload) <= SLICE_BYTES else _large_event_data(opcode, payload)

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        pieces: list[bytes] = []
        position, end = 0, len(frames)
        while position < end:
            # Most messages are a short text on one line. Taken apart here, it is encoded in a third of the time.
            length = frames[position + 1]
            if frames[position] == _WHOLE_TEXT and length < LENGTH_IN_2_BYTES:
                payload = frames[position + 2 : position + 2 + length]
                position += 2 + length
                if b"\n" not in payload and b"\r" not in payload:
                    pieces.append(b"id: %b\ndata: %b\n\n" % (next(ids), payload))
                else:
                    pieces.append(b"id: %b\n%b" % (next(ids), event_data(Opcode.TEXT, payload)))
            else:
                header = parse_header(frames, position)
                assert header is not None, "a segment ends inside a frame header"
                at = position + len(header.raw)
                position = at + header.payload_bytes
                message_id, opcode, payload = next(ids), Opcode(header.opcode), frames[at:position]
                if header.payload_bytes < STEP_BYTES:
                    pieces.append(b"id: %b\n%b" % (message_id, event_data(opcode, payload)))
                else:
                    for piece in self.encode_message(message_id, opcode, payload):
                        pieces.append(piece)
                        if len(piece) >= STEP_BYTES:
                            yield b"".join(pieces)
                            pieces.clear()
            if len(pieces) >= STEP_MESSAGES:
                yield b"".join(pieces)
                pieces.clear()
        yield b"".join(pieces)

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        return event_data(opcode, payload)

    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        """Return an event for each member, which is its name."""
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), as_compact_json(value))
            for name, value in members.items()
        )

    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        # An id without data: the reader resumes there if the connection is cut before there is a message.
        position = PREAMBLE + f"id: {at}\n\n".encode("ascii")
        return position if gap is None else position + self.encode_control({"gap": gap})


class JsonEvents(Events):
    """Server-Sent Events whose data is an object of JSON each: ``?json``."""

    def suits(self, reading: RoomQuery) -> bool:
        return reading.wants_json

    def encode_message(self, message_id: bytes, opcode: Opcode, payload: bytes) -> Iterator[bytes]:
        if len(payload) <= SLICE_BYTES:
            yield b"id: %b\ndata: %b\n\n" % (message_id, as_json(message_id, opcode, payload))
        else:
            yield b"id: %b\ndata: " % message_id
            yield from as_json_in_steps(message_id, opcode, payload)
            yield b"\n\n"

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        return map(_escape_other_line_ends, StreamEncoding.encode_in_steps(self, frames, ids))

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        name = b"base64" if opcode is Opcode.BINARY else b"text"
        value = base64.b64encode(payload).decode() if opcode is Opcode.BINARY else payload.decode()
        return _escape_other_line_ends(b'data: {"%b":%b}\n\n' % (name, as_compact_json(value)))


EVENTS = Events()
JSON_EVENTS = JsonEvents()


def event_data(opcode: Opcode, payload: bytes) -> bytes:
    """Return the lines of an event for a message, without its id."""
    if opcode is Opcode.BINARY:
        return b"event: binary\ndata: " + base64.b64encode(payload) + b"\n\n"
    return b"data: " + _as_lines(payload) + b"\n\n"


def _as_lines(payload: bytes) -> bytes:
    if b"\r" in payload:  # §9.2.6: CR ends a line as LF does, alone and before one
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return payload.replace(b"\n", b"\ndata: ") if b"\n" in payload else payload


def _large_event_data(opcode: Opcode, payload: bytes) -> Iterator[bytes]:
    """Yield the same as `event_data` in pieces."""
    if opcode is Opcode.BINARY:
        yield b"event: binary\ndata: "
        yield from map(base64.b64encode, slices(payload))
        yield b"\n\n"
        return
    yield b"data: "
    at = 0
    while at < len(payload):
        end = at + SLICE_BYTES
        if payload[end - 1 : end + 1] == b"\r\n":
            end += 1
        yield _as_lines(payload[at:end])
        at = end
    yield b"\n\n"


def _escape_other_line_ends(stream: bytes) -> bytes:
    # JSON has escaped every line end of the standard. Many readers in Python recognize more characters as one, as
    # str.splitlines() and httpx's iter_lines() do. Those can occur in a string of JSON only, and are escaped as well.
    for character, escaped in _OTHER_LINE_ENDS:
        stream = stream.replace(character, escaped)
    return stream
