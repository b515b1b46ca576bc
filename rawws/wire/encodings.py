r"""A room's messages as each kind of reader gets them, made once for all readers of a kind.

The log holds plain frames, as they go to a WebSocket. A *form* is another encoding of them, named by a small number:

* `PLAIN`, or the window of permessage-deflate that its readers can inflate (`rawws.wire.deflate`);
* one of these with `WITH_IDS`: the subprotocol ``rawws.id.v1``. Each message begins with a line of JSON, which has its
  ``id``, and what follows the line feed is the payload as it was. A message that isn't of the log has other members:
  ``gap``, ``skipped``, ``join``, ``leave``, or none for a greeting;
* `EVENTS`: Server-Sent Events (WHATWG HTML §9.2.6). A text is the ``data`` of an event without a name, which a
  browser's ``onmessage`` gets, and the message's id is the event's ``id``. CR LF, CR and LF each end a line in this
  format, and each arrives as LF: all else in a text arrives as it was. A binary message is an event named ``binary``
  whose data is in base64;
* `EVENTS` with `AS_JSON`, for readers that need every character: each message, text or binary, is an event without a
  name whose data is the object that polling has for it (`as_json`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rawws.wire.deflate import deflate_frames
from rawws.wire.frames import FIN, LENGTH_IN_2_BYTES, Opcode, encode_frame, frame_ends, parse_header, split_frames

PLAIN = 0
WINDOW_BITS = 0x0F
WITH_IDS = 0x10
EVENTS = 0x20
AS_JSON = 0x40

SUBPROTOCOL = "rawws.id.v1"

_WHOLE_TEXT = FIN | Opcode.TEXT
_OTHER_LINE_ENDS = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x85, 0x2028, 0x2029)]


def encode(frames: bytes, form: int, ids: Iterator[bytes]) -> bytes:
    """Return a run of whole plain frames in another form; ``ids`` are those of the messages."""
    if form & EVENTS:
        return _as_json_events(frames, ids) if form & AS_JSON else _as_events(frames, ids)
    if form & WITH_IDS:
        frames = _with_ids(frames, ids)
    return deflate_frames(frames, form & WINDOW_BITS) if form & WINDOW_BITS else frames


def _with_ids(frames: bytes, ids: Iterator[bytes]) -> bytes:
    pieces = []
    for header, payload in split_frames(frames):
        pieces.append(encode_frame(header.opcode, b'{"id":"%b"}\n%b' % (next(ids), bytes(payload))))
    return b"".join(pieces)


def _as_events(frames: bytes, ids: Iterator[bytes]) -> bytes:
    pieces = []
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
            data = event_data(Opcode(header.opcode), frames[at:position])
            pieces.append(b"id: %b\n%b" % (next(ids), data))
    return b"".join(pieces)


def _as_json_events(frames: bytes, ids: Iterator[bytes]) -> bytes:
    pieces = []
    for header, payload in split_frames(frames):
        message_id = next(ids)
        told = as_json(message_id, Opcode(header.opcode), bytes(payload))
        pieces.append(b"id: %b\ndata: %b\n\n" % (message_id, told))
    stream = b"".join(pieces)
    # JSON has escaped every line end of the standard's. Many a reader in Python takes more characters for one, as
    # str.splitlines() and httpx's iter_lines() do; those can stand in a string of JSON only, and are escaped as well.
    for character, escaped in _OTHER_LINE_ENDS:
        stream = stream.replace(character, escaped)
    return stream


def event_data(opcode: Opcode, payload: bytes) -> bytes:
    """Return an event's lines for a message, but for its id."""
    if opcode is Opcode.BINARY:
        return b"event: binary\ndata: " + base64.b64encode(payload) + b"\n\n"
    if b"\r" in payload:  # §9.2.6: it ends a line as a line feed does, alone and in front of one
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in payload:
        payload = payload.replace(b"\n", b"\ndata: ")
    return b"data: " + payload + b"\n\n"


def as_compact_json(told: object) -> bytes:
    """Return JSON without a space too many."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def as_json(message_id: bytes, opcode: Opcode, payload: bytes) -> bytes:
    """Return a message as who polls gets it: an object of JSON."""
    if opcode is Opcode.BINARY:
        return b'{"id":"%b","base64":"%b"}' % (message_id, base64.b64encode(payload))
    return b'{"id":"%b","text":%b}' % (message_id, as_compact_json(payload.decode()))


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
