r"""A room's messages as each kind of reader gets them, made once for all readers of a kind.

The log holds plain frames, as they go to a WebSocket. A *form* is another encoding of them, named by a small number:

* `PLAIN`, or the window of permessage-deflate that its readers can inflate (`rawws.wire.deflate`);
* one of these with `WITH_IDS`: the subprotocol ``rawws.id.v1``. Each message begins with a line of JSON, which has its
  ``id``, and what follows the line feed is the payload as it was. A message that isn't of the log has other members:
  ``gap``, ``skipped``, ``join``, ``leave``, or no member before a greeting or a message to this reader alone;
* `EVENTS`: Server-Sent Events (WHATWG HTML §9.2.6). A text is the ``data`` of an event without a name, which a
  browser's ``onmessage`` gets, and the message's id is the event's ``id``. CR LF, CR and LF each end a line in this
  format, and each arrives as LF: all else in a text arrives as it was. A binary message is an event named ``binary``
  whose data is in base64;
* `EVENTS` with `AS_JSON`, for readers that need every character: each message, text or binary, is an event without a
  name whose data is the object that polling has for it (`as_json`).
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rawws.wire.deflate import FRAME_WORK_BYTES, STEP_BYTES, deflate_in_steps
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
    split_frames,
)

PLAIN = 0
WINDOW_BITS = 0x0F
WITH_IDS = 0x10
EVENTS = 0x20
AS_JSON = 0x40

SUBPROTOCOL = "rawws.id.v1"

# The number of messages that get ids, or become events, in a step: about 1 ms.
STEP_MESSAGES = 1024
# The bytes of a large message of which events are made in a step: mostly less than 1 ms, and 3 ms where JSON escapes
# everything. Smaller slices would have readers wait for their form where a room is busy. Base64 takes three at a time.
_SLICE_BYTES = 120 * 1024

_WHOLE_TEXT = FIN | Opcode.TEXT
_OTHER_LINE_ENDS = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029)]


def encode(frames: bytes, form: int, ids: Iterator[bytes]) -> bytes:
    """Return a run of whole plain frames in another form; ``ids`` are those of the messages."""
    return b"".join(encode_in_steps(frames, form, ids))


def encode_in_steps(frames: bytes, form: int, ids: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same in pieces, some of them empty; each piece takes a bounded amount of work."""
    if form & EVENTS:
        return _as_json_events(frames, ids) if form & AS_JSON else _as_events(frames, ids)
    if not form & WITH_IDS:
        return deflate_in_steps(frames, form & WINDOW_BITS) if form & WINDOW_BITS else iter((frames,))
    with_ids = _with_ids(frames, ids)
    if not form & WINDOW_BITS:
        return with_ids
    return (piece for some in with_ids for piece in deflate_in_steps(some, form & WINDOW_BITS))


def work_of(plain_bytes: int, messages: int, form: int) -> int:
    """Return about how much work it is to encode messages in a form, in bytes that are deflated in the same time."""
    if not form:
        return 0
    copied_only = not form & (EVENTS | WINDOW_BITS)
    return messages * FRAME_WORK_BYTES + (plain_bytes >> 4 if copied_only else plain_bytes)


def without_deflate(form: int) -> int:
    """Return the same form uncompressed, which every reader of the form can read too."""
    return form & ~WINDOW_BITS


def _with_ids(frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
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


def _as_events(frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    position, end = 0, len(frames)
    while position < end:
        # A short text on one line is what most messages are; taken apart here, it is done in a third of the time.
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
            pieces.append(b"id: %b\n" % next(ids))
            payload = frames[at:position]
            if header.payload_bytes <= _SLICE_BYTES:
                pieces.append(event_data(Opcode(header.opcode), payload))
                if header.payload_bytes >= STEP_BYTES:
                    yield b"".join(pieces)
                    pieces.clear()
            else:
                yield b"".join(pieces)
                pieces.clear()
                yield from _large_event_data(Opcode(header.opcode), payload)
        if len(pieces) >= STEP_MESSAGES:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)


def _as_json_events(frames: bytes, ids: Iterator[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    work = 0
    for header, payload in split_frames(frames):
        message_id = next(ids)
        if header.payload_bytes > _SLICE_BYTES:
            yield _escape_other_line_ends(b"".join(pieces))
            pieces.clear()
            work = 0
            yield b"id: %b\ndata: " % message_id
            for piece in _large_as_json(message_id, Opcode(header.opcode), bytes(payload)):
                yield _escape_other_line_ends(piece)
            yield b"\n\n"
            continue
        body = as_json(message_id, Opcode(header.opcode), bytes(payload))
        pieces.append(b"id: %b\ndata: %b\n\n" % (message_id, body))
        work += header.payload_bytes + FRAME_WORK_BYTES
        if work >= STEP_BYTES:
            yield _escape_other_line_ends(b"".join(pieces))
            pieces.clear()
            work = 0
    yield _escape_other_line_ends(b"".join(pieces))


def _escape_other_line_ends(stream: bytes) -> bytes:
    # JSON has escaped every line end of the standard. Many readers in Python take more characters for one, as
    # str.splitlines() and httpx's iter_lines() do; those can stand in a string of JSON only, and are escaped as well.
    for character, escaped in _OTHER_LINE_ENDS:
        stream = stream.replace(character, escaped)
    return stream


def event_data(opcode: Opcode, payload: bytes) -> bytes:
    """Return an event's lines for a message, but for its id."""
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
        yield from map(base64.b64encode, _slices(payload))
        yield b"\n\n"
        return
    yield b"data: "
    at = 0
    while at < len(payload):
        end = at + _SLICE_BYTES
        if payload[end - 1 : end + 1] == b"\r\n":
            end += 1
        yield _as_lines(payload[at:end])
        at = end
    yield b"\n\n"


def as_compact_json(told: object) -> bytes:
    """Return JSON without a space too many."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def as_json(message_id: bytes, opcode: Opcode, payload: bytes) -> bytes:
    """Return a message as who polls gets it: an object of JSON."""
    if opcode is Opcode.BINARY:
        return b'{"id":"%b","base64":"%b"}' % (message_id, base64.b64encode(payload))
    return b'{"id":"%b","text":%b}' % (message_id, as_compact_json(payload.decode()))


def _large_as_json(message_id: bytes, opcode: Opcode, payload: bytes) -> Iterator[bytes]:
    """Yield the same as `as_json` in pieces, between two characters each."""
    if opcode is Opcode.BINARY:
        yield b'{"id":"%b","base64":"' % message_id
        yield from map(base64.b64encode, _slices(payload))
    else:
        yield b'{"id":"%b","text":"' % message_id
        for characters in codecs.iterdecode(_slices(payload), "utf-8"):
            yield as_compact_json(characters)[1:-1]
    yield b'"}'


def _slices(payload: bytes) -> Iterator[bytes]:
    return (payload[at : at + _SLICE_BYTES] for at in range(0, len(payload), _SLICE_BYTES))


def encode_alone(opcode: Opcode, payload: bytes, form: int) -> bytes:
    """Return a message to one reader alone, which isn't in the log and has no id, in that reader's encoding."""
    if form & EVENTS:
        if not form & AS_JSON:
            return event_data(opcode, payload)
        name = b"base64" if opcode is Opcode.BINARY else b"text"
        value = base64.b64encode(payload).decode() if opcode is Opcode.BINARY else payload.decode()
        return _escape_other_line_ends(b'data: {"%b":%b}\n\n' % (name, as_compact_json(value)))
    return encode_frame(opcode, b"{}\n" + payload if form & WITH_IDS else payload)


def notice(told: Mapping[str, Any], form: int) -> bytes:
    """Return what tells a reader something that is not a message of the log; empty where there is no way to."""
    if form & EVENTS:
        ((name, value),) = told.items()
        return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), as_compact_json(value))
    if form & WITH_IDS:
        return encode_frame(Opcode.TEXT, as_compact_json(told) + b"\n")
    return b""


def boundary_behind(data: bytes, at: int, form: int) -> int:
    """Return where the message ends of which ``data[:at]`` has a part; ``at`` itself, where one ends there."""
    if not at:
        return 0
    if form & EVENTS:
        return data.index(b"\n\n", at - 2 if at > 1 else 0) + 2
    return next((end for end in frame_ends(data) if end >= at), len(data))


def rest_of_message(segment: bytes, offset: int, form: int, *, committed_bytes: int = 0) -> bytes:
    """Return what a peer must still get of a segment so as to stand between two messages; empty if it stands there.

    It has been sent ``segment[:offset]``, and ``committed_bytes`` behind that have to go out in any case.
    """
    return segment[offset : boundary_behind(segment, offset + committed_bytes, form)]


def count_messages(data: bytes, end: int, form: int) -> int:
    """Return how many whole messages ``data[:end]`` has, which ends between two."""
    if form & EVENTS:
        return data.count(b"\n\n", 0, end)
    return sum(1 for _ in frame_ends(memoryview(data)[:end]))


def skip_messages(data: bytes, count: int, form: int) -> int:
    """Return the offset after the first ``count`` messages of ``data``, which begins with a whole message."""
    if not form & EVENTS:
        return skip_frames(data, count)
    position = 0
    for _ in range(count):
        position = data.index(b"\n\n", position) + 2
    return position
