"""Frame headers: taken apart and put together (RFC 6455 §5.2).

::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| Payload len |    Extended payload length    |
    |I|S|S|S|  (4)  |A|     (7)     |             (16/64)           |
    |N|V|V|V|       |S|             |   (if payload len==126/127)   |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+ - - - - - - - - - - - - - - - +
    |     Extended payload length continued, if payload len == 127  |
    + - - - - - - - - - - - - - - - +-------------------------------+
    |                               |Masking-key, if MASK set to 1  |
    +-------------------------------+-------------------------------+
    | Masking-key (continued)       |          Payload Data         |
    +-------------------------------- - - - - - - - - - - - - - - - +

This module validates nothing: a reserved opcode or a 200-byte ping has a header like any other. wsproto validates
what a peer sends. This module shows frame boundaries, which wsproto does not expose, and encodes a broadcast once
for all peers.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from rawws.wire.masking import apply_mask

FIN = 0b1000_0000
RSV1 = 0b0100_0000
RSV2 = 0b0010_0000
RSV3 = 0b0001_0000
OPCODE = 0b0000_1111
CONTROL = 0b0000_1000  # §5.5: control frames are those whose opcode has its highest bit set

MASK = 0b1000_0000
LENGTH = 0b0111_1111

LENGTH_IN_2_BYTES = 126
LENGTH_IN_8_BYTES = 127
MAX_CONTROL_PAYLOAD_BYTES = 125  # §5.5
MAX_HEADER_BYTES = 14

_U16 = struct.Struct("!H")
_U64 = struct.Struct("!Q")


class Opcode(IntEnum):
    """The opcodes that §5.2 defines; the other ten are reserved."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class FrameHeader(NamedTuple):
    """The header of one frame, as it is on the wire; ``raw`` is its bytes, including the masking key."""

    fin: bool
    rsv1: bool
    rsv2: bool
    rsv3: bool
    opcode: int
    mask_key: bytes | None
    payload_bytes: int
    raw: bytes

    @property
    def is_control(self) -> bool:
        """Whether this is a close, a ping, a pong, or reserved for another control frame (§5.5)."""
        return bool(self.opcode & CONTROL)

    @property
    def opcode_name(self) -> str:
        """The opcode's name in capitals; ``RESERVED-0x3`` for one that §5.2 leaves undefined."""
        try:
            return Opcode(self.opcode).name
        except ValueError:
            return f"RESERVED-{self.opcode:#x}"


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """A message, inflated: its size in bytes, and its beginning.

    Unless it ``is_all_known``, it is larger: the rest of it was not inflated. A message that ``is_lost`` refers to
    earlier data that was not inflated, so that its content is unknown.
    """

    opcode: Opcode
    size: int
    beginning: bytes
    is_all_known: bool = True
    is_lost: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the beginning is all of it."""
        return self.is_all_known and len(self.beginning) == self.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, to be shown: its header, and its payload with the mask taken off.

    Only the ends of a long payload are kept: ``left_out_bytes`` are missing between ``payload_head`` and
    ``payload_tail``. ``message`` is the message that ends with the frame, if messages are followed.
    """

    header: FrameHeader
    payload_head: bytes
    payload_tail: bytes = b""
    message: SeenMessage | None = None

    @property
    def left_out_bytes(self) -> int:
        """The bytes of the payload that are in neither end of it."""
        return self.header.payload_bytes - len(self.payload_head) - len(self.payload_tail)


def parse_header(data: bytes | bytearray | memoryview, start: int = 0) -> FrameHeader | None:
    """Return the header that begins at ``data[start]``, or None when more bytes are needed to read it."""
    available = len(data) - start
    if available < 2:
        return None
    first, second = data[start], data[start + 1]
    payload_bytes = second & LENGTH
    position = start + 2
    if payload_bytes == LENGTH_IN_2_BYTES:
        if available < 4:
            return None
        (payload_bytes,) = _U16.unpack_from(data, position)
        position += 2
    elif payload_bytes == LENGTH_IN_8_BYTES:
        if available < 10:
            return None
        (payload_bytes,) = _U64.unpack_from(data, position)
        position += 8
    mask_key = None
    if second & MASK:
        if len(data) - position < 4:
            return None
        mask_key = bytes(data[position : position + 4])
        position += 4
    return FrameHeader(
        fin=bool(first & FIN),
        rsv1=bool(first & RSV1),
        rsv2=bool(first & RSV2),
        rsv3=bool(first & RSV3),
        opcode=first & OPCODE,
        mask_key=mask_key,
        payload_bytes=payload_bytes,
        raw=bytes(data[start:position]),
    )


def encode_header(
    opcode: int, payload_bytes: int, *, fin: bool = True, rsv: int = 0, mask_key: bytes | None = None
) -> bytes:
    """Return the bytes of a header, with the length in the shortest form that holds it, as §5.2 demands.

    ``rsv`` is any of `RSV1`, `RSV2` and `RSV3` or'ed together.
    """
    first = (FIN if fin else 0) | rsv | opcode
    mask_bit = 0 if mask_key is None else MASK
    if payload_bytes < LENGTH_IN_2_BYTES:
        header = bytes((first, mask_bit | payload_bytes))
    elif payload_bytes < 1 << 16:
        header = bytes((first, mask_bit | LENGTH_IN_2_BYTES)) + _U16.pack(payload_bytes)
    else:
        header = bytes((first, mask_bit | LENGTH_IN_8_BYTES)) + _U64.pack(payload_bytes)
    return header + (mask_key or b"")


_TEXT, _BINARY = Opcode.TEXT, Opcode.BINARY  # a global is found faster than an Enum's member

# The two-byte unmasked headers, for each length that fits in them: a server sends these most.
_WHOLE_TEXT = FIN | Opcode.TEXT
SHORT_TEXT = [bytes((FIN | Opcode.TEXT, length)) for length in range(LENGTH_IN_2_BYTES)]
SHORT_BINARY = [bytes((FIN | Opcode.BINARY, length)) for length in range(LENGTH_IN_2_BYTES)]
# A larger payload is not copied after its header here, since it is copied anyway when the pieces are joined.
_IN_ONE_PIECE_BYTES = 4096


def count_frames(pieces: Sequence[bytes | bytearray], largest_bytes: int) -> int:
    """Return the number of frames in pieces made by `encode_message`; ``largest_bytes`` is the size of the largest."""
    if largest_bytes <= _IN_ONE_PIECE_BYTES:  # no piece can be a payload whose header is another
        return len(pieces)
    return sum(1 for piece in pieces if not is_lone_header(piece))


def is_lone_header(piece: bytes | bytearray) -> bool:
    """Say whether a piece that `encode_message` has made is a header whose payload is the next piece."""
    # It is shorter than any frame that needs such a header.
    return len(piece) in (4, 10) and piece[1] >= LENGTH_IN_2_BYTES


def encode_message(opcode: Opcode, payload: bytes | bytearray, frames: list[bytes | bytearray]) -> None:
    """Add a server's frame that is a whole message to ``frames``, as one piece or two.

    Without a mask it is the same bytes for every peer (§5.1).
    """
    size = len(payload)
    if size < LENGTH_IN_2_BYTES:
        frames.append((SHORT_TEXT if opcode is _TEXT else SHORT_BINARY)[size] + payload)
    elif size <= _IN_ONE_PIECE_BYTES:
        frames.append(encode_header(opcode, size) + payload)
    else:
        frames += (encode_header(opcode, size), payload)


def encode_frame(
    opcode: int, payload: bytes | bytearray, *, fin: bool = True, rsv: int = 0, mask_key: bytes | None = None
) -> bytes:
    """Return one frame's bytes, masked if there is a key."""
    header = encode_header(opcode, len(payload), fin=fin, rsv=rsv, mask_key=mask_key)
    return header + (payload if mask_key is None else apply_mask(payload, mask_key))


def split_frames(data: bytes | bytearray | memoryview) -> Iterator[tuple[FrameHeader, memoryview]]:
    """Yield each frame of a run of whole frames, such as a segment of a broadcast log, with its raw payload."""
    view = memoryview(data)
    position = 0
    while position < len(view):
        header = parse_header(view, position)
        assert header is not None, "a segment ends inside a frame header"
        payload_at = position + len(header.raw)
        position = payload_at + header.payload_bytes
        yield header, view[payload_at:position]


def frame_ends(data: bytes | bytearray | memoryview) -> Iterator[int]:
    """Yield where each frame of a run of whole, unmasked frames ends, in a tenth of the time of `split_frames`."""
    position, end = 0, len(data)
    while position < end:
        length = data[position + 1]
        if length < LENGTH_IN_2_BYTES:
            position += 2 + length
        elif length == LENGTH_IN_2_BYTES:
            position += 4 + _U16.unpack_from(data, position + 2)[0]
        else:
            position += 10 + _U64.unpack_from(data, position + 2)[0]
        yield position


def whole_messages(data: bytes) -> Iterator[tuple[Opcode, bytes]]:
    """Yield the messages of a run of whole, unmasked frames, in a fifth of the time of `split_frames`."""
    position = 0
    for end in frame_ends(data):
        length = data[position + 1]
        payload_at = position + (2 if length < LENGTH_IN_2_BYTES else 4 if length == LENGTH_IN_2_BYTES else 10)
        yield _TEXT if data[position] == _WHOLE_TEXT else _BINARY, data[payload_at:end]
        position = end


def skip_frames(data: bytes | memoryview, count: int) -> int:
    """Return the offset of the frame after the first ``count`` frames of such a run."""
    return next(itertools.islice(frame_ends(data), count - 1, None)) if count else 0


class FrameScanner:
    """Follows the frame boundaries in a stream of bytes, which may come in any chunks.

    It buffers no payload: callers use it alongside the code that consumes the bytes. ``payload_left`` is the number
    of bytes missing from the present frame's payload; it is 0 while a header is awaited.
    """

    __slots__ = ("_partial_header", "header", "payload_left")

    def __init__(self) -> None:
        self._partial_header = b""
        self.header: FrameHeader | None = None
        self.payload_left = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the stream is between two frames."""
        return not self.payload_left and not self._partial_header

    def scan_header(self, data: bytes | memoryview, start: int) -> int:
        """Continue to read a header, and return the offset in ``data`` where reading stopped.

        When the header is complete, ``header`` is set; otherwise it is None, and all of ``data`` was consumed.
        """
        known = len(self._partial_header)
        candidate = self._partial_header + bytes(data[start : start + MAX_HEADER_BYTES - known])
        self.header = parse_header(candidate)
        if self.header is None:
            self._partial_header = candidate
            return len(data)
        self._partial_header = b""
        self.payload_left = self.header.payload_bytes
        return start + len(self.header.raw) - known

    def scan_payload(self, data: bytes | memoryview, start: int) -> int:
        """Move past the present frame's payload, and return the offset in ``data`` where reading stopped."""
        taken = min(self.payload_left, len(data) - start)
        self.payload_left -= taken
        return start + taken
