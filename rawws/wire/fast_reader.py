"""The fast reader: whole frames decoded inline, many for each receive.

wsproto makes events, generators and buffers for every frame, which is clear and costs some 8 µs. Nearly all frames that
a server reads need none of that: they are whole text or binary messages. Between frames and outside of a fragmented
message, the fast reader decodes such frames in one loop. It decodes pings and pongs too, since a flood of them would
cost fifty times as much otherwise. **Everything else is left to wsproto untouched**: fragments, closes, unknown bits,
lengths that aren't minimal or are over the limit, text that isn't UTF-8, frames with the wrong masking. So wsproto
remains the one judge. A property test requires the same events of both readers for any bytes in any chunks.

When the header of a frame is here and its payload comes in pieces, each piece is unmasked into one buffer.
"""

from __future__ import annotations

import codecs
import math
from typing import Any

from rawws.wire.deflate import inflate_whole
from rawws.wire.events import PingReceived, PongReceived
from rawws.wire.frames import (
    FIN,
    LENGTH,
    LENGTH_IN_2_BYTES,
    MASK,
    MAX_CONTROL_PAYLOAD_BYTES,
    OPCODE,
    RSV1,
    SHORT_TEXT,
    Opcode,
    encode_header,
    encode_message,
    parse_header,
)
from rawws.wire.masking import REPEAT_MASK, UNMASK_AS_INTEGER_BYTES, apply_mask, apply_mask_in_place
from rawws.wire.recent_frames import LENGTH_BITS, NO_FRAMES, push
from rawws.wire.role import Role

_TEXT, _BINARY = Opcode.TEXT, Opcode.BINARY  # a global is found faster than an Enum's member

_WHOLE_TEXT = FIN | Opcode.TEXT
_WHOLE_BINARY = FIN | Opcode.BINARY
_WHOLE_PING = FIN | Opcode.PING
_WHOLE_PONG = FIN | Opcode.PONG
_WHOLE_CONTROL = (_WHOLE_PING, _WHOLE_PONG)
_DEFLATED_TEXT = FIN | RSV1 | Opcode.TEXT
_DEFLATED_BINARY = FIN | RSV1 | Opcode.BINARY


# This number of inflated bytes counts as one message towards the most that is read at a time, because a KiB on the wire
# may inflate to a MiB.
INFLATED_BYTES_EACH = 1024


# The memory of an incomplete frame besides its payload: the object, the buffer's head, a decoder (measured).
INCOMPLETE_BYTES = 400


class _Incomplete:
    """A data frame whose header has been read, and not yet all of its payload.

    Its buffer is at most four times as large as the bytes that have come, whatever the header says. Otherwise a peer
    that announces a megabyte and stops would cost a megabyte.
    """

    __slots__ = ("check_utf8", "filled", "first_byte", "key", "payload", "payload_bytes")

    def __init__(self, first_byte: int, key: bytes | None, payload_bytes: int) -> None:
        self.first_byte = first_byte
        self.key = key
        self.payload_bytes = payload_bytes
        self.payload = bytearray()
        self.filled = 0
        self.check_utf8 = codecs.getincrementaldecoder("utf-8")() if first_byte == _WHOLE_TEXT else None

    @property
    def missing(self) -> int:
        return self.payload_bytes - self.filled

    def reserve(self, size: int) -> None:
        """Make room in the buffer for ``size`` more bytes."""
        needed = self.filled + size
        if needed <= len(self.payload):
            return
        larger = bytearray(min(self.payload_bytes, 4 * needed))
        larger[: self.filled] = memoryview(self.payload)[: self.filled]
        self.payload = larger

    def take(self, piece: memoryview) -> bool:
        """Add to the payload. Return False if it can't be that of a legal frame."""
        self.reserve(len(piece))
        self.payload[self.filled : self.filled + len(piece)] = piece
        return self.advance(len(piece))

    def advance(self, size: int) -> bool:
        """Count bytes that were put into the buffer. Return False if they can't be those of a legal frame."""
        start = self.filled
        self.filled = end = start + size
        if self.key is not None:
            apply_mask_in_place(self.payload, start, end, self.key)
        if self.check_utf8 is None:
            return True
        try:
            with memoryview(self.payload) as clear:
                self.check_utf8.decode(clear[start:end], end == self.payload_bytes)
        except UnicodeDecodeError:
            return False
        return True

    def as_received(self) -> bytes:
        """Return the received bytes of the frame as they were on the wire."""
        header = encode_header(self.first_byte & OPCODE, self.payload_bytes, mask_key=self.key)
        payload = self.payload[: self.filled]
        return header + (payload if self.key is None else apply_mask(payload, self.key))


class FastReader:
    """Reads whole, plain frames from a frame boundary on, up to the first other frame.

    The frames become events, where messages are plain, or with ``relays`` the frames in which a server passes messages
    on. ``inflates`` says that permessage-deflate was agreed on, so that whole, compressed frames are read too. With
    ``takes_pings``, the payloads of pings are also put into ``pings``, for the caller to remove and answer; otherwise
    pings are left to wsproto.
    """

    __slots__ = (
        "_held",
        "_incomplete",
        "_inflates",
        "_is_masked",
        "_relays",
        "_takes_pings",
        "max_message_bytes",
        "pings",
        "recent_frames",
        "unread",
    )

    def __init__(
        self, our_role: Role, max_message_bytes: int, *, inflates: bool, relays: bool, takes_pings: bool
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self._inflates = inflates
        self._relays = relays
        self._takes_pings = takes_pings
        self.pings: list[bytes] | None = None
        self._is_masked = our_role is Role.SERVER
        self.unread = b""  # the bytes before which `read` has stopped
        self._held = b""  # the beginning of a header in which nothing is wrong so far
        self._incomplete: _Incomplete | None = None
        self.recent_frames = NO_FRAMES

    @property
    def is_idle(self) -> bool:
        return self._incomplete is None and not self._held

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that an incomplete message takes."""
        return len(self.unread) + len(self._held) + (0 if self._incomplete is None else len(self._incomplete.payload))

    @property
    def own_bytes(self) -> int:
        """The bytes of memory that the objects of an incomplete frame take, besides its payload."""
        return 0 if self._incomplete is None else INCOMPLETE_BYTES

    def give_up(self) -> bytes:
        """Return the bytes of the incomplete frame as they stood on the wire, and forget the frame."""
        incomplete, held = self._incomplete, self._held
        self._incomplete, self._held = None, b""
        return held if incomplete is None else incomplete.as_received()

    def large_buffer(self, least_bytes: int) -> memoryview | None:
        """Return a buffer for the rest of a large payload; call `received` with the number of bytes put into it.

        It is None if fewer than ``least_bytes`` are missing. Release it before any other call of this object.
        """
        incomplete = self._incomplete
        if incomplete is None or incomplete.missing < least_bytes:
            return None
        incomplete.reserve(1)
        return memoryview(incomplete.payload)[incomplete.filled :]

    def received(self, size: int, out: list[Any]) -> bytes | None:
        """Count the bytes that were received into the `large_buffer`; returns what `read` does."""
        incomplete = self._incomplete
        assert incomplete is not None
        if not incomplete.advance(size):
            self._incomplete = None
            return incomplete.as_received()
        if not incomplete.missing:
            self._incomplete = None
            self.recent_frames = push(self.recent_frames, incomplete.first_byte, incomplete.payload_bytes)
            self._add(_TEXT if incomplete.first_byte == _WHOLE_TEXT else _BINARY, incomplete.payload, out)
        return None

    def read(self, data: bytes, out: list[Any], most: float = math.inf) -> bytes | None:
        """Add the messages in ``data`` to ``out``; return the bytes that wsproto has to read, from a frame boundary on.

        None says that all bytes were read, though a part of the last frame may be kept for the next call. It also says
        that ``out`` has ``most`` items, among which each inflated KiB counts, and each ping and pong; then the bytes
        that follow are in ``unread``.

        This function is longer than others because the profile showed that a busy server spends its time in this loop.
        So values are local variables, and a step is written out where a call would cost as much as the step. At each
        ``break``, the frame is left to wsproto, which decides whether it is legal.
        """
        position = first = length = 0
        if self._held:
            data = self._held + data
            self._held = b""
        elif self._incomplete is not None:
            incomplete = self._incomplete
            position = min(incomplete.missing, len(data))
            if not incomplete.take(memoryview(data)[:position]):
                self._incomplete = None
                return incomplete.as_received() + data[position:]
            if incomplete.missing:
                return None
            self._incomplete = None
            first, length = incomplete.first_byte, incomplete.payload_bytes
            self._add(_TEXT if first == _WHOLE_TEXT else _BINARY, incomplete.payload, out)
        end = len(data)
        limit = self.max_message_bytes
        relays = self._relays
        mask_bit, key_bytes = (MASK, 4) if self._is_masked else (0, 0)
        append, from_bytes = out.append, int.from_bytes
        while end - position >= 2 and len(out) < most:
            first = data[position]
            length = data[position + 1] ^ mask_bit
            if length > LENGTH:  # §5.1: a client masks each frame, and a server masks none
                break
            payload_at = position + 2 + key_bytes
            if length >= LENGTH_IN_2_BYTES:
                extended = 2 if length == LENGTH_IN_2_BYTES else 8
                payload_at += extended
                if payload_at > end:  # the header is incomplete
                    break
                length = from_bytes(data[position + 2 : position + 2 + extended], "big")
                if length < (LENGTH_IN_2_BYTES if extended == 2 else 1 << 16):  # §5.2: it has to be the shortest form
                    break
            next_position = payload_at + length
            if next_position > end or length > limit:  # the payload is incomplete, or too big (§7.4.1: 1009)
                break
            payload: bytes | bytearray
            if length > UNMASK_AS_INTEGER_BYTES:
                payload = bytearray(memoryview(data)[payload_at:next_position])
                if key_bytes:
                    apply_mask_in_place(payload, 0, length, data[payload_at - 4 : payload_at])
            else:
                payload = data[payload_at:next_position]
                if key_bytes:  # apply_mask(), written out
                    words = (length + 3) >> 2
                    mask = from_bytes(data[payload_at - 4 : payload_at], "little") * REPEAT_MASK[words]
                    payload = (from_bytes(payload, "little") ^ mask).to_bytes(words << 2, "little")
                    if length & 3:
                        payload = payload[:length]
            if first == _WHOLE_TEXT:
                if not payload.isascii() and not _is_utf8(payload):  # §8.1: a text is UTF-8
                    break
                if not relays:
                    append((_TEXT, payload))
                elif length < LENGTH_IN_2_BYTES:
                    append(SHORT_TEXT[length] + payload)
                else:
                    self._add(_TEXT, payload, out)
            elif first == _WHOLE_BINARY:
                self._add(_BINARY, payload, out)
            elif first in _WHOLE_CONTROL and length <= MAX_CONTROL_PAYLOAD_BYTES:
                if not self._take_control(first, payload, out):  # §5.5.2: wsproto has to report this ping in order
                    break
                if relays:  # a ping takes time, though it yields no event
                    most -= 1
            elif (inflated_bytes := self._inflate(first, payload, out)) is None:
                # §5.4, §5.5.1, §5.2: a fragment, a close, a control frame over 125 bytes, an unknown opcode or bit; or
                # RFC 7692 §7.2.2: not the deflated data of a legal message.
                break
            else:
                most -= inflated_bytes // INFLATED_BYTES_EACH
            position = next_position
        if position == end or len(out) >= most:
            recent = self.recent_frames  # push(), written out
            self.recent_frames = (first << LENGTH_BITS | length, recent[0], recent[1], recent[2])
            if position < end:
                self.unread = data[position:]
            return None
        return self._begin_incomplete(data, position)

    def _add(self, opcode: Opcode, payload: bytes | bytearray, out: list[Any]) -> None:
        if self._relays:
            encode_message(opcode, payload, out)
        else:
            out.append((opcode, payload))

    def _take_control(self, first_byte: int, payload: bytes | bytearray, out: list[Any]) -> bool:
        """Record a ping or a pong. Return False if it is to be left to wsproto."""
        if first_byte == _WHOLE_PONG:
            if not self._relays:
                out.append(PongReceived(bytes(payload)))
            return True
        if not self._takes_pings:
            return False
        if self.pings is None:
            self.pings = []
        self.pings.append(bytes(payload))
        if not self._relays:
            out.append(PingReceived(bytes(payload)))
        return True

    def _inflate(self, first_byte: int, payload: bytes | bytearray, out: list[Any]) -> int | None:
        """Add the message in one compressed frame, and return its size; None if it isn't a legal one."""
        if not self._inflates or first_byte not in (_DEFLATED_TEXT, _DEFLATED_BINARY):
            return None
        inflated = inflate_whole(payload, self.max_message_bytes)
        if inflated is None:
            return None
        if first_byte == _DEFLATED_TEXT and not inflated.isascii() and not _is_utf8(inflated):
            return None
        self._add(_TEXT if first_byte == _DEFLATED_TEXT else _BINARY, inflated, out)
        return len(inflated)

    def _begin_incomplete(self, data: bytes, start: int) -> bytes | None:
        """Keep the beginning of a frame that may still be a whole, plain one; return it if it can't be."""
        first = data[start]
        if first not in (_WHOLE_TEXT, _WHOLE_BINARY):
            return data[start:]
        if len(data) - start > 1 and bool(data[start + 1] & MASK) is not self._is_masked:
            return data[start:]
        header = parse_header(data, start)
        if header is None:
            self._held = data[start:]
            return None
        shortest = len(encode_header(header.opcode, header.payload_bytes, mask_key=header.mask_key))
        if len(header.raw) != shortest or header.payload_bytes > self.max_message_bytes:
            return data[start:]
        incomplete = _Incomplete(first, header.mask_key, header.payload_bytes)
        payload_at = start + shortest
        if len(data) - payload_at >= header.payload_bytes or not incomplete.take(memoryview(data)[payload_at:]):
            return data[start:]
        self._incomplete = incomplete
        return None


def _is_utf8(payload: bytes | bytearray) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
