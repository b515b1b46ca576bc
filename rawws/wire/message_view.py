"""Messages for a viewer: the size of each, and its beginning, inflated.

The log, the tap, the page, and ``rawws decode`` use it. A viewer can't refuse a large message with 1009, as its
receiver can. Its work for a message is bounded instead:

* It keeps the beginning of a message, whatever the size.
* It inflates in small steps, and no more than an allowance that grows with the compressed bytes. Ordinary messages are
  2 to 50 times as large as their compressed form, and a deflate bomb is 1,000 times as large. When the allowance is
  used up, the rest of the message is skipped.
* Messages may refer to earlier ones (context takeover, RFC 7692 §7.1.1). A skipped message leaves a hole in the
  context, so the viewer starts again with an empty one. zlib notices each reference to missing data, so no message is
  shown wrongly. The viewer reports once that messages can't be shown, and resumes with the first one that doesn't refer
  to the hole.
"""

from __future__ import annotations

import codecs
import zlib

from rawws.errors import Fault
from rawws.limits import KIB, MIB
from rawws.wire.deflate import InflateStream
from rawws.wire.frames import CONTROL, FrameHeader, Opcode, SeenMessage

# The most bytes of a message that are kept to be shown.
MOST_KEPT_BYTES = 4 * KIB
# The allowance: bytes that may be inflated, for each compressed one, and in advance. Inflating a byte and checking its
# UTF-8 takes 7 ns (measured), so that a compressed byte costs 0.4 µs in the long run, and a burst 30 ms.
INFLATED_FOR_EACH = 64
ALLOWED_IN_ADVANCE = 4 * MIB
STEP_BYTES = 64 * KIB
# The memory of a view without a message (measured).
VIEW_BYTES = 450
# A broadcast's payload goes to many peers in a row. Up to this size, it is inflated only once.
MOST_REMEMBERED_BYTES = 64 * KIB

INVALID_DEFLATE = Fault(1007, "deflate_invalid", "compressed data can't be inflated (RFC 7692 §7.2.2)")
TEXT_NOT_UTF8 = Fault(1007, "text_not_utf8", "Text is not valid UTF-8 (RFC 6455 §8.1)")

_MESSAGES = {int(opcode): opcode for opcode in (Opcode.TEXT, Opcode.BINARY)}
# zlib's message for a reference to data before the beginning of the context.
_REFERS_TOO_FAR = "too far back"

_latest: tuple[int, bytes, SeenMessage] | None = None  # the last whole message that depends on no other: see `add`


class MessageView:
    """Follows the data frames of one direction, from a frame boundary on.

    For each frame, call `begin_frame`, `add` with its unmasked payload, and `end_frame`. ``fault`` says why a
    compressed message is invalid; the view checks nothing else. The memory is bounded, and counted in ``held_bytes``.
    """

    __slots__ = (
        "_allowance",
        "_beginning",
        "_check_utf8",
        "_deflates",
        "_is_complete",
        "_is_compressed",
        "_is_cut",
        "_is_final",
        "_is_no_text",
        "_keeps_context",
        "_latest_payload",
        "_lost",
        "_message",
        "_opcode",
        "_passes_over",
        "_reported_loss",
        "_single_bytes",
        "_size",
        "_stream",
        "fault",
    )

    def __init__(self, *, deflates: bool, keeps_context: bool = False, from_start: bool = True) -> None:
        """``deflates`` says that permessage-deflate was agreed on.

        ``keeps_context`` says that this side may refer to earlier messages, and ``from_start`` that the view gets all
        of them.
        """
        self._deflates = deflates
        self._keeps_context = keeps_context
        self._is_complete = from_start or not keeps_context  # the context has no hole
        self._stream = InflateStream()
        self._allowance = ALLOWED_IN_ADVANCE
        self._reported_loss = False  # that messages can't be shown
        self._opcode: Opcode | None = None  # of the message that is being read
        self._passes_over = True  # the present frame is skipped
        self._is_final = False  # the present frame has FIN
        self._single_bytes = -1  # the size of a message in one frame that depends on no other; -1 for any other message
        self.fault: Fault | None = None
        self._begin_message(None, compressed=False)

    @property
    def held_bytes(self) -> int:
        return VIEW_BYTES + len(self._beginning) + self._stream.held_bytes

    def _begin_message(self, opcode: Opcode | None, *, compressed: bool) -> None:
        self._opcode = opcode
        self._is_compressed = compressed
        self._size = 0
        self._beginning = b""
        self._is_cut = False  # the rest isn't inflated
        self._lost = False  # it refers to missing data
        self._is_no_text = False  # it is a TEXT that isn't UTF-8
        self._latest_payload: bytes | None = None
        self._message: SeenMessage | None = None  # the result, if it is known already
        self._check_utf8 = codecs.getincrementaldecoder("utf-8")() if compressed and opcode is Opcode.TEXT else None
        if compressed:
            self._stream.begin_message()

    def begin_frame(self, header: FrameHeader) -> None:
        """Begin with the next frame of any kind."""
        self._passes_over = bool(header.opcode & CONTROL) or self.fault is not None
        if self._passes_over:
            return
        self._is_final = header.fin
        if header.opcode in _MESSAGES:
            self._begin_message(_MESSAGES[header.opcode], compressed=header.rsv1 and self._deflates)
            depends = self._keeps_context or not header.fin or header.payload_bytes > MOST_REMEMBERED_BYTES
            self._single_bytes = -1 if depends or not self._is_compressed else header.payload_bytes
        else:
            self._single_bytes = -1
        self._passes_over = self._opcode is None  # its message began before the view did

    def add(self, payload: bytes) -> None:
        """Process the next piece of the frame's payload."""
        if self._passes_over or self._message is not None:
            return
        if not self._is_compressed:
            self._count(payload)
            return
        if len(payload) == self._single_bytes:
            if _latest is not None and _latest[0] == self._opcode and _latest[1] == payload:
                self._message = _latest[2]
                return
            self._latest_payload = payload
        self._allowance = min(self._allowance + INFLATED_FOR_EACH * len(payload), ALLOWED_IN_ADVANCE)
        self._inflate(payload)

    def end_frame(self) -> SeenMessage | None:
        """End the frame, and return the message that ends with it; None if none does, or it can't be shown."""
        global _latest
        if self._passes_over:
            return None
        self._judge_text()
        if not self._is_final:
            return None
        assert self._opcode is not None
        if self._message is None:
            self._end_message()
        message, payload = self._message, self._latest_payload
        if message is not None and payload is not None and message.is_all_known:
            _latest = (self._opcode, payload, message)
        self._begin_message(None, compressed=False)
        if not self._keeps_context:
            self._stream.forget()
        return message

    def _end_message(self) -> None:
        if self._is_compressed:
            self._inflate(self._stream.tail, least=KIB)  # the rest of what is already allowed
            if not self._is_cut:
                self._check(b"", final=True)
            self._judge_text()
        if self.fault is not None:
            return
        assert self._opcode is not None
        if not self._lost:
            self._reported_loss = self._reported_loss and not self._is_compressed
            self._message = SeenMessage(self._opcode, self._size, self._beginning, is_all_known=not self._is_cut)
        elif not self._reported_loss:
            self._reported_loss = True
            self._message = SeenMessage(self._opcode, 0, b"", is_all_known=False, is_lost=True)

    def _inflate(self, data: bytes, least: int = 0) -> None:
        while data and not self._is_cut and not self._lost and self.fault is None:
            # The beginning of a message is inflated even without an allowance.
            most = max(min(STEP_BYTES, self._allowance), MOST_KEPT_BYTES - self._size, least)
            if most <= 0:
                self._is_cut = True
                self._lose_context()
                return
            try:
                piece, data = self._stream.inflate(data, most)
            except zlib.error as error:
                if self._is_complete or _REFERS_TOO_FAR not in str(error):
                    self.fault = INVALID_DEFLATE
                else:
                    self._lost = True
                self._lose_context()
                return
            self._allowance -= len(piece)
            self._count(piece)
            self._check(piece)

    def _count(self, piece: bytes) -> None:
        self._size += len(piece)
        if len(self._beginning) < MOST_KEPT_BYTES:
            self._beginning += piece[: MOST_KEPT_BYTES - len(self._beginning)]

    def _check(self, piece: bytes, *, final: bool = False) -> None:
        if self._check_utf8 is None:
            return
        try:
            self._check_utf8.decode(piece, final)
        except UnicodeDecodeError:
            self._is_no_text = True
            self._check_utf8 = None

    def _judge_text(self) -> None:
        """Set the fault of a text that isn't UTF-8, when its frame ends.

        zlib withholds the bytes just before invalid data. With a check of each piece, the result would depend on how
        the bytes were split.
        """
        if self._is_no_text and not self._lost and self.fault is None:
            self.fault = TEXT_NOT_UTF8
            self._lose_context()

    def _lose_context(self) -> None:
        self._stream.forget()
        self._is_complete = not self._keeps_context
