"""The encodings in which a room's messages are sent, each an object; a message is encoded once for all its readers.

The log of a room holds plain frames, as a WebSocket without extensions gets them: `PLAIN`. `Encoding` is the interface
of every other way to send them. This module has those of WebSockets:

* `WITH_IDS`: the subprotocol ``rawws.id.v1``. Each message begins with a line of JSON, which has its ``id``. The
  payload follows unchanged. A control, which is not a message of the log, has other members: ``gap``, ``skipped``,
  ``join``, ``leave``. The object has no member before a greeting or a message to this reader alone.
* ``PLAIN.deflated(15)``: the same messages, the large ones compressed for readers with that window of
  permessage-deflate (`rawws.wire.deflate`).

`rawws.broadcast.stream_encodings` has those of HTTP responses.

There is exactly one object of each encoding. Rooms group their peers by it, and logs key what they have encoded by it,
so that encodings are compared by identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from rawws.broadcast.json_messages import as_compact_json
from rawws.wire.deflate import FRAME_WORK_BYTES, deflate_in_steps
from rawws.wire.frames import (
    FIN,
    LENGTH_IN_2_BYTES,
    OPCODE,
    SHORT_TEXT,
    Opcode,
    encode_frame,
    frame_ends,
    parse_header,
    skip_frames,
)

SUBPROTOCOL = "rawws.id.v1"

# The number of messages that are encoded in a step: about 1 ms.
STEP_MESSAGES = 1024

_WHOLE_TEXT = FIN | Opcode.TEXT


class Encoding(ABC):
    """How the messages of a room are sent to one kind of reader.

    An encoding has no state: it converts bytes to bytes. A subclass sets `label`, and implements the abstract methods.
    An instance is created once, at import.
    """

    label: str  # the kind of its readers in /metrics: "websocket", "events"
    is_one_way = False  # its readers can't send anything: they read an HTTP response
    has_controls = True  # its readers can be sent what isn't a message, such as joins and leaves
    window_bits = 0  # of permessage-deflate; 0 for an encoding that isn't compressed

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def uncompressed(self) -> Encoding:
        """The same encoding without compression, which its readers can read too."""
        return self

    def encode(self, frames: bytes, ids: Iterator[bytes]) -> bytes:
        """Return a run of whole plain frames in this encoding; ``ids`` are those of the messages."""
        return b"".join(self.encode_in_steps(frames, ids))

    @abstractmethod
    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the same in pieces, some of them empty; each piece takes a bounded amount of work."""

    def work(self, plain_bytes: int, messages: int) -> int:
        """Return about how much work it is to encode messages, in bytes that are deflated in the same time."""
        return messages * FRAME_WORK_BYTES + plain_bytes

    @abstractmethod
    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        """Return a message to one reader alone, which isn't in the log and has no id."""

    @abstractmethod
    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        """Return a control: a gap, skipped messages, a join, a leave. It is empty if readers can't be sent one."""

    @abstractmethod
    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        """Return what a reader is sent before any message.

        Its position in the room is after the message with the id ``at``. The ``gap`` before that is None if no message
        is missing. An empty ``hello`` is not sent.
        """

    @abstractmethod
    def next_boundary(self, data: bytes, at: int) -> int:
        """Return the end of the message that ``data[:at]`` ends with, whole or in part."""

    @abstractmethod
    def count_messages(self, data: bytes, end: int) -> int:
        """Return the number of messages in ``data[:end]``, which ends between two."""

    @abstractmethod
    def skip_messages(self, data: bytes, count: int) -> int:
        """Return the offset after the first ``count`` messages of ``data``, which begins with a whole message."""

    def rest_of_message(self, segment: bytes, offset: int, *, committed_bytes: int = 0) -> bytes:
        """Return the part of a segment that a peer needs to finish its current message; empty if it has none.

        The peer has been sent ``segment[:offset]``, and ``committed_bytes`` after that have to go out in any case.
        """
        return segment[offset : self.next_boundary(segment, offset + committed_bytes)]


class FrameEncoding(Encoding):
    """An encoding of messages as WebSocket frames."""

    label = "websocket"

    def deflated(self, window_bits: int) -> FrameEncoding:
        """Return this encoding with its large messages compressed for a window; with 0, itself."""
        return _deflated(self, window_bits) if window_bits else self

    def next_boundary(self, data: bytes, at: int) -> int:
        return next((end for end in frame_ends(data) if end >= at), len(data)) if at else 0

    def count_messages(self, data: bytes, end: int) -> int:
        return sum(1 for _ in frame_ends(memoryview(data)[:end]))

    def skip_messages(self, data: bytes, count: int) -> int:
        return skip_frames(data, count)


class Plain(FrameEncoding):
    """Messages as the log has them. Every frame is a message, so that a reader can't be sent a control."""

    has_controls = False

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        return iter((frames,))

    def work(self, plain_bytes: int, messages: int) -> int:
        return 0

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        return encode_frame(opcode, payload)

    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        return b""

    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        return encode_frame(Opcode.TEXT, hello.encode()) if hello else b""


class WithIds(FrameEncoding):
    """Messages after a line of JSON each: the subprotocol ``rawws.id.v1``."""

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        pieces: list[bytes] = []
        position, end = 0, len(frames)
        while position < end:
            length = frames[position + 1]
            if length < LENGTH_IN_2_BYTES:  # true of most; parsing it here takes half the time
                first, at = frames[position], position + 2
                position = at + length
            else:
                header = parse_header(frames, position)
                assert header is not None, "a segment ends inside a frame header"
                first, at = header.raw[0], position + len(header.raw)
                position = at + header.payload_bytes
            payload = b'{"id":"%b"}\n%b' % (next(ids), frames[at:position])
            if first == _WHOLE_TEXT and len(payload) < LENGTH_IN_2_BYTES:
                pieces.append(SHORT_TEXT[len(payload)] + payload)
            else:
                pieces.append(encode_frame(first & OPCODE, payload))
            if len(pieces) >= STEP_MESSAGES:
                yield b"".join(pieces)
                pieces.clear()
        yield b"".join(pieces)

    def work(self, plain_bytes: int, messages: int) -> int:
        return messages * FRAME_WORK_BYTES + (plain_bytes >> 4)  # payloads are only copied

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        return encode_frame(opcode, b"{}\n" + payload)

    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        return encode_frame(Opcode.TEXT, as_compact_json(members) + b"\n")

    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        position = self.encode_control({"at": at} if gap is None else {"at": at, "gap": gap})
        return position + self.encode_alone(Opcode.TEXT, hello.encode()) if hello else position


class Deflated(FrameEncoding):
    """Another encoding, with its large messages compressed. Greetings, controls and messages to one are not."""

    def __init__(self, uncompressed: FrameEncoding, window_bits: int) -> None:
        self._uncompressed = uncompressed
        self.window_bits = window_bits
        self.label = uncompressed.label
        self.has_controls = uncompressed.has_controls

    def __repr__(self) -> str:
        return f"<Deflated {self.window_bits} of {self._uncompressed!r}>"

    @property
    def uncompressed(self) -> FrameEncoding:
        return self._uncompressed

    def encode_in_steps(self, frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
        pieces = self._uncompressed.encode_in_steps(frames, ids)
        return (piece for some in pieces for piece in deflate_in_steps(some, self.window_bits))

    def encode_alone(self, opcode: Opcode, payload: bytes) -> bytes:
        return self._uncompressed.encode_alone(opcode, payload)

    def encode_control(self, members: Mapping[str, Any]) -> bytes:
        return self._uncompressed.encode_control(members)

    def greeting(self, hello: str, at: str, gap: Mapping[str, str] | None) -> bytes:
        return self._uncompressed.greeting(hello, at, gap)


@cache
def _deflated(encoding: FrameEncoding, window_bits: int) -> Deflated:
    return Deflated(encoding, window_bits)


PLAIN = Plain()
WITH_IDS = WithIds()

# The encodings of a WebSocket by its subprotocol, before compression is agreed upon. A WebSocket with another
# subprotocol, or with none, gets plain messages.
BY_SUBPROTOCOL: dict[str | None, FrameEncoding] = {None: PLAIN, SUBPROTOCOL: WITH_IDS}
