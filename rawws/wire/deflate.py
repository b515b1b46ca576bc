"""permessage-deflate (RFC 7692): offers, answers, deflating once for many peers, inflating within bounds.

A server of ours has both sides drop their contexts after each message: its answer always contains
``server_no_context_takeover`` and ``client_no_context_takeover``, which §7.1.1 allows without a request. That costs
some compression of tiny messages, and has two benefits. A peer needs no zlib state between messages (wsproto keeps
90 KiB for it). And the bytes of a message don't depend on earlier messages to the same peer. They are the same for
every peer, so a message is deflated once for all of them.

A client of ours accepts any legal answer, including one by which the server keeps its context. In both roles we drop
our own context after each message, which no agreement forbids.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from rawws.limits import KIB
from rawws.wire.frames import CONTROL, RSV1, encode_frame, split_frames
from rawws.wire.role import Role

NAME = "permessage-deflate"
MAX_WINDOW_BITS = 15
# zlib can't make a raw deflate stream with a window of 2**8 (it takes 2**9 instead, which such a peer can't read).
MIN_DEFLATE_WINDOW_BITS = 9
# A room deflates each message once for each window that its readers agreed on. So a server agrees on two only: the
# full one, and the smallest for every client that asks for less (§7.1.2.1 lets a server choose less than requested).
# No browser asks; seven windows would be seven times the work for one message.
SERVER_WINDOW_BITS = (MIN_DEFLATE_WINDOW_BITS, MAX_WINDOW_BITS)

# Below this, deflating costs more time than it saves bytes; npm ws draws the line at the same place.
MIN_DEFLATE_BYTES = 1024
# Measured for 1 MiB on one core: level 4 takes 3 to 27 ms whatever the bytes are, level 6 takes 105 ms for text of few
# different characters, which a hostile peer chooses. Level 6 is smaller by a fiftieth for JSON of 1 KiB, and by a tenth
# at most.
LEVEL = 4
# The bytes of one message that are deflated in a step: less than 1 ms.
STEP_BYTES = 32 * KIB
# The cost of parsing a frame and encoding it again, in bytes that are deflated in the same time (measured).
FRAME_WORK_BYTES = 32
# Streams that are kept for the next message, 256 KiB each. Only large messages of several rooms need several at once.
MAX_IDLE_STREAMS = 4
# The most bytes that are deflated at once where steps are not possible, as in an echo (8 ms).
AT_ONCE_BYTES = 256 * KIB

TAIL = b"\x00\x00\xff\xff"  # §7.2.1: the end of a flush, which is not sent

WINDOW_BYTES = 1 << MAX_WINDOW_BITS
STREAM_BYTES = WINDOW_BYTES + 8 * KIB  # zlib's memory for inflating (measured)
# §7.2.1 lets a message have blocks with the "BFINAL" bit anywhere. In practice there is one at the end, from a library
# that finishes its stream. Each costs a new zlib stream for as little as two bytes, so they are bounded (a guess).
MAX_FINAL_BLOCKS = 64

# §9.1 of RFC 6455, with RFC 9110's token; a value is a token, in quotes or not.
_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?')
_NAME = re.compile(rf"[ \t]*({_TOKEN})")
_EMPTY = re.compile(r"[ \t,]*")
_END = re.compile(r"[ \t]*(?:,|$)")
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")  # §7.1.2: a decimal integer, without leading zeros, from 8 to 15


@dataclass(frozen=True, slots=True)
class Listed:
    """One extension as a header names it: its parameters in order, each with a value or None."""

    name: str
    parameters: tuple[tuple[str, str | None], ...]


def parse_extensions(values: Iterable[str]) -> list[Listed] | None:
    """Return the extensions in Sec-WebSocket-Extensions headers; None if they don't follow the grammar."""
    found = []
    for value in values:
        position = _skip_empty(value, 0)  # RFC 9110 §5.6.1.2: empty elements are ignored
        while position < len(value):
            if not (name := _NAME.match(value, position)):
                return None
            position = name.end()
            parameters = []
            while parameter := _PARAMETER.match(value, position):
                parameters.append((parameter[1], parameter[2] if parameter[3] is None else parameter[3]))
                position = parameter.end()
            if not (end := _END.match(value, position)):
                return None
            position = _skip_empty(value, end.end())
            found.append(Listed(name[1], tuple(parameters)))
    return found


def _skip_empty(value: str, position: int) -> int:
    found = _EMPTY.match(value, position)
    assert found is not None, "it matches nothing too"
    return found.end()


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of both sides: the window with which each may deflate, and the field of the 101 about it."""

    server_window_bits: int
    header: str
    client_window_bits: int = MAX_WINDOW_BITS
    server_takeover: bool = False  # the server may refer to its earlier messages, so that its client must keep them

    def window_bits(self, role: Role) -> int:
        """Return the largest window, as the power of two, with which that side may deflate."""
        return self.server_window_bits if role is Role.SERVER else self.client_window_bits

    def deflates(self, role: Role) -> bool:
        """Whether that side, if it is ours, compresses. If not, it sends plain messages, which is legal."""
        return self.window_bits(role) >= MIN_DEFLATE_WINDOW_BITS

    def keeps_context(self, role: Role) -> bool:
        """Whether that side may refer to its earlier messages (§7.1.1). Our server lets no client do so."""
        return role is Role.SERVER and self.server_takeover


# A client offers all that it can do, without conditions, so that any server can accept. Chrome offers the same, so that
# nearly every server has met this offer.
#
# - ``client_max_window_bits`` has no value: the server may ask for a smaller window. Without it a server that has to
#   ask declines, as Autobahn's does in its cases 13.3 to 13.6, or has no saving of memory, as Python's websockets.
# - ``server_no_context_takeover`` is left out. It would save us a context of 75 KiB, and let the fast lane inflate.
#   But the server's messages would be larger, tiny ones much larger; npm ws refuses the whole handshake with 400 if
#   its user has switched that parameter off; and an answer without it would be one more reason to fail. A server
#   that drops its context says so without a request (§7.1.1.1), as ours does.
OFFER = f"{NAME}; client_max_window_bits"


def check_answer(values: Iterable[str]) -> Agreement | str | None:
    """Return the server's answer to our `OFFER`, None if it declined, or why the answer is illegal (§5.1, §7.1)."""
    listed = parse_extensions(values)
    if listed is None:
        return "Sec-WebSocket-Extensions doesn't follow its grammar"
    if not listed:
        return None
    if len(listed) > 1 and all(extension.name == NAME for extension in listed):
        return f"it agrees to {NAME} twice"
    extension = next((extension for extension in listed if extension.name != NAME), listed[0])
    if extension.name != NAME:
        return f"it names the extension {extension.name!r}, which was not offered"
    parameters = dict(extension.parameters)
    if len(parameters) != len(extension.parameters):
        return f"a parameter of {NAME} is there twice"
    for parameter in parameters.items():
        # §7.1.2.2: with us as the client a value is needed, so that we know what was agreed on.
        if not _is_legal(parameter) or parameter == ("client_max_window_bits", None):
            name, value = parameter
            shown = name if value is None else f"{name}={value}"
            return f"{NAME} can't have the parameter {shown} in an answer"
    return Agreement(
        server_window_bits=int(parameters.get("server_max_window_bits") or MAX_WINDOW_BITS),
        header="; ".join([NAME, *(name if value is None else f"{name}={value}" for name, value in parameters.items())]),
        client_window_bits=int(parameters.get("client_max_window_bits") or MAX_WINDOW_BITS),
        server_takeover="server_no_context_takeover" not in parameters,
    )


def answer_offers(values: Iterable[str]) -> Agreement | None:
    """Choose the first legal offer of permessage-deflate, or None when there is none (§5.1, §7.1).

    The server's window is the largest of `SERVER_WINDOW_BITS` that the offer allows. An offer of 8 bits is answered
    with 8, and nothing is deflated for that client.

    An offer with an unknown, repeated or malformed parameter is declined, as §7.1 demands; that is no error.
    """
    for extension in parse_extensions(values) or ():
        if extension.name != NAME:
            continue
        parameters = dict(extension.parameters)
        if len(parameters) != len(extension.parameters) or not all(map(_is_legal, parameters.items())):
            continue
        answer = f"{NAME}; server_no_context_takeover; client_no_context_takeover"
        asked = parameters.get("server_max_window_bits")
        if asked is None:
            return Agreement(MAX_WINDOW_BITS, answer)
        window_bits = max((bits for bits in SERVER_WINDOW_BITS if bits <= int(asked)), default=int(asked))
        return Agreement(window_bits, f"{answer}; server_max_window_bits={window_bits}")
    return None


def _is_legal(parameter: tuple[str, str | None]) -> bool:
    match parameter:
        case ("server_no_context_takeover" | "client_no_context_takeover", None):
            return True
        case ("client_max_window_bits", None):
            return True
        case ("client_max_window_bits" | "server_max_window_bits", str(value)):
            return _WINDOW_BITS.fullmatch(value) is not None
        case _:
            return False


def most_deflated_bytes(message_bytes: int) -> int:
    """Return the largest size of a message after deflating: incompressible data grows a little.

    This is zlib's bound for any of its settings (``deflateBound`` in its deflate.c).
    """
    return message_bytes + (message_bytes >> 3) + (message_bytes >> 6) + 16


def inflate_whole(payload: bytes | bytearray, max_message_bytes: int) -> bytes | None:
    """Return the message in one compressed frame; None if an `Inflater` has to read it.

    That is so if it is invalid, over the limit, or has a block with the "BFINAL" bit, after which more may follow.
    """
    inflate = zlib.decompressobj(-MAX_WINDOW_BITS)
    try:
        message = inflate.decompress(payload + TAIL, max_message_bytes + 1)
    except zlib.error:
        return None
    return None if len(message) > max_message_bytes or inflate.eof else message


class InflateStream:
    """Inflates the messages of one direction in steps, each of which the caller bounds."""

    __slots__ = ("_final_blocks", "_history", "_zlib", "in_block")

    def __init__(self) -> None:
        self._zlib: zlib._Decompress | None = None
        self._history = b""  # the window: the inflated bytes that later data may refer to
        self._final_blocks = 0
        self.in_block = False  # a block may be open, which the tail will end

    @property
    def held_bytes(self) -> int:
        """The memory in bytes of zlib's state and window: within a message, or always if the context is kept."""
        return len(self._history) + (0 if self._zlib is None else STREAM_BYTES)

    @property
    def is_fresh(self) -> bool:
        """Whether the context is empty, so that no message can refer to an earlier one."""
        return self._zlib is None

    def begin_message(self) -> None:
        if self._zlib is None:
            self._zlib = zlib.decompressobj(-MAX_WINDOW_BITS)
        self.in_block = False
        self._final_blocks = 0

    def inflate(self, data: bytes, most_bytes: int) -> tuple[bytes, bytes]:
        """Return at most ``most_bytes`` of inflated data, and the compressed data that is left for another step.

        Raises zlib.error for invalid data.
        """
        assert self._zlib is not None
        piece = self._zlib.decompress(data, most_bytes)
        if piece:
            self._history = (piece if len(piece) >= WINDOW_BYTES else self._history + piece)[-WINDOW_BYTES:]
        self.in_block = not self._zlib.eof
        if self.in_block:
            return piece, self._zlib.unconsumed_tail
        # For zlib, a final block ends the stream. By §7.2.1, more data may follow and refer to earlier data.
        self._final_blocks += 1
        if self._final_blocks > MAX_FINAL_BLOCKS:
            raise zlib.error("there are too many final blocks in one message")
        rest = self._zlib.unused_data
        self._zlib = zlib.decompressobj(-MAX_WINDOW_BITS, zdict=self._history)
        return piece, rest

    @property
    def tail(self) -> bytes:
        """The bytes to be inflated at a message's end (§7.2.2).

        A final block should be followed by another byte (§7.2.3.4), but some endpoints omit that. Then no block is
        open, and the tail would be taken for the beginning of one.
        """
        return TAIL if self.in_block else b""

    def forget(self) -> None:
        """Drop the context."""
        self._zlib = None
        self._history = b""


class _CompressedMessages(Extension):
    """An extension of wsproto's that follows which received messages are compressed (RFC 7692 §6.1)."""

    name = NAME

    def __init__(self) -> None:
        self._is_compressed = False  # the present message is compressed
        self._in_control = False  # a control frame may come between two fragments, and isn't part of their message

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False  # the handshake does that

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: WsprotoOpcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """§6.1: RSV1 on the first frame of a message says that it is compressed; elsewhere it isn't ours."""
        self._in_control = opcode.iscontrol()
        if self._in_control or opcode is WsprotoOpcode.CONTINUATION:
            return RsvBits(False, False, False)
        self._is_compressed = rsv.rsv1
        self._begin_message()
        return RsvBits(True, False, False)

    def _begin_message(self) -> None:
        """Begin the next message, for subclasses."""


class Inflater(_CompressedMessages):
    """The receiving half, as an extension of wsproto's: inflates within a limit.

    It inflates each message by itself, or with ``takeover`` all in one context, which the peer keeps too.
    """

    def __init__(self, max_message_bytes: int, *, takeover: bool = False) -> None:
        super().__init__()
        self._max_message_bytes = max_message_bytes
        self._takeover = takeover
        self._stream = InflateStream()
        self._inflated_bytes = 0

    @property
    def held_bytes(self) -> int:
        """The bytes of memory of zlib's state and window: within a message, or always if the context is kept."""
        return self._stream.held_bytes

    @property
    def is_fresh(self) -> bool:
        """Whether the context is empty, so that no message can refer to an earlier one."""
        return self._stream.is_fresh

    def _begin_message(self) -> None:
        if self._is_compressed:
            self._stream.begin_message()
        self._inflated_bytes = 0

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if not self._is_compressed or self._in_control:
            return data
        return self._inflate(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not self._is_compressed or self._in_control or not fin:
            return None
        self._is_compressed = False
        rest = self._inflate(self._stream.tail)
        if not self._takeover:
            self._stream.forget()
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        inflated = b""
        while data:
            # One byte more than allowed, to tell too much from just enough. A bomb gets no further.
            room = self._max_message_bytes + 1 - self._inflated_bytes
            try:
                piece, data = self._stream.inflate(data, room)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._inflated_bytes += len(piece)
            if self._inflated_bytes > self._max_message_bytes:
                return CloseReason.MESSAGE_TOO_BIG
            inflated = inflated + piece if inflated else piece
        return inflated


class Unread(_CompressedMessages):
    """Replaces compressed messages by empty ones, for a validator of frames that doesn't check their content."""

    held_bytes = 0

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        return b"" if self._is_compressed and not self._in_control else data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        return None


def _new_stream(window_bits: int) -> zlib._Compress:
    # With its default memory level of 8, zlib updates a table of 64 KiB each time that a window of 512 bytes is
    # full, which takes up to ten times as long as deflating.
    memory_level = min(zlib.DEF_MEM_LEVEL, window_bits - 4)
    return zlib.compressobj(LEVEL, zlib.DEFLATED, -window_bits, memory_level)


class Deflater:
    """The sending half, for all peers with the same window: messages in, frames with RSV1 out.

    One zlib stream is used for ever: a full flush after each message makes the next one independent of it, and is
    cheaper than a new stream. A side may always drop its own context, whatever was agreed on (§7.1.1).

    A deflater may be shared by threads, and by messages that are deflated in steps: the stream is taken out while it is
    used, so that a second message, which would be mixed into the first one, has another.
    """

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._idle: list[zlib._Compress] = []

    def deflate(self, message: bytes | memoryview) -> bytes:
        """Return a message's compressed bytes (§7.2.1)."""
        stream = self._take_stream()
        data = stream.compress(message) + stream.flush(zlib.Z_FULL_FLUSH)
        self._give_back(stream)
        return data[: -len(TAIL)]

    def deflate_frames(self, frames: bytes, most_bytes: float = math.inf) -> bytes:
        """Return a run of whole plain frames with the large messages among them compressed.

        About ``most_bytes`` of payload are compressed at most, and no message that is larger. The rest is sent
        uncompressed, which §6 allows for any message.
        """
        return b"".join(self.deflate_in_steps(frames, most_bytes))

    def deflate_in_steps(self, frames: bytes, most_bytes: float = math.inf) -> Iterator[bytes]:
        """Yield the result of `deflate_frames` in pieces, one for each `STEP_BYTES` of work; some are empty."""
        deflated: list[bytes] = []
        work = 0
        for header, payload in split_frames(frames):
            size = header.payload_bytes
            if MIN_DEFLATE_BYTES <= size <= most_bytes and not header.opcode & CONTROL:
                most_bytes -= size
                work += size
                smaller = self.deflate(payload) if size <= STEP_BYTES else (yield from self._deflate_large(payload))
                if len(smaller) < size:
                    deflated.append(encode_frame(header.opcode, smaller, rsv=RSV1))
                else:
                    deflated += (header.raw, bytes(payload))
            else:
                deflated += (header.raw, bytes(payload))
            work += FRAME_WORK_BYTES
            if work >= STEP_BYTES:
                yield b"".join(deflated)
                deflated.clear()
                work = 0
        yield b"".join(deflated)

    def _deflate_large(self, message: memoryview) -> Generator[bytes, None, bytes]:
        """Return the result of `deflate`, after a step for each piece of the message."""
        stream = self._take_stream()
        pieces = []
        for start in range(0, len(message), STEP_BYTES):
            pieces.append(stream.compress(message[start : start + STEP_BYTES]))
            yield b""
        pieces.append(stream.flush(zlib.Z_FULL_FLUSH))
        self._give_back(stream)
        return b"".join(pieces)[: -len(TAIL)]

    def _take_stream(self) -> zlib._Compress:
        try:
            return self._idle.pop()
        except IndexError:
            return _new_stream(self._window_bits)

    def _give_back(self, stream: zlib._Compress) -> None:
        if len(self._idle) < MAX_IDLE_STREAMS:
            self._idle.append(stream)


_deflaters: dict[int, Deflater] = {}


def deflater_for(window_bits: int) -> Deflater:
    """Return the one deflater of whole messages for all connections with that window."""
    deflater = _deflaters.get(window_bits)
    if deflater is None:
        deflater = _deflaters[window_bits] = Deflater(window_bits)
    return deflater


class StreamDeflater:
    """Deflates one message that is sent in fragments."""

    def __init__(self, window_bits: int) -> None:
        self._deflate = _new_stream(window_bits)

    def deflate(self, piece: bytes, *, final: bool) -> bytes:
        """Return the piece's compressed bytes, which the receiver can inflate at once."""
        data = self._deflate.compress(piece) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(TAIL)] if final else data


def deflate_frames(frames: bytes, window_bits: int, most_bytes: float = math.inf) -> bytes:
    """Return a run of whole plain frames with the large messages among them compressed, for that window.

    ``most_bytes`` is as for `Deflater.deflate_frames`.
    """
    return deflater_for(window_bits).deflate_frames(frames, most_bytes)


def deflate_in_steps(frames: bytes, window_bits: int) -> Iterator[bytes]:
    """Yield the same in pieces: one for each step of bounded work."""
    return deflater_for(window_bits).deflate_in_steps(frames)
