"""A message that is sent in fragments, as its pieces come (RFC 6455 §5.4)."""

from __future__ import annotations

from collections import deque

from rawws.wire.deflate import StreamDeflater
from rawws.wire.events import Data, as_message
from rawws.wire.frames import RSV1, Opcode
from rawws.wire.session import Session


class Fragments:
    """Makes the frames of one message, one for each piece. The last piece waits until it is known to be the last."""

    def __init__(self, session: Session, deflater: StreamDeflater | None, text: bool | None) -> None:
        """With a ``deflater`` the message is compressed. ``text`` is as in `rawws.WebSocket.send`."""
        self._session = session
        self._deflater = deflater
        self._text = text
        self._opcode: Opcode | None = None
        self._waiting: deque[bytes] = deque()
        self._is_ended = False
        self.is_started = False  # a frame was made

    def add(self, piece: Data) -> None:
        """Add a piece. Raises TypeError for what can't be one, and for text after bytes or the reverse."""
        opcode, payload = as_message(piece, self._text)
        if self._opcode is None:
            self._opcode = opcode
        elif opcode is not self._opcode:
            raise TypeError("the pieces of one message are all str or all bytes")
        self._waiting.append(bytes(payload))

    def end(self) -> None:
        """The message has no more pieces. One without any is empty."""
        self._is_ended = True
        if not self._waiting:
            self._waiting.append(b"")

    @property
    def has_frame(self) -> bool:
        """Whether `next_frame` can be called."""
        return len(self._waiting) > (0 if self._is_ended else 1)

    def next_frame(self) -> bytes:
        """Return the next frame."""
        payload = self._waiting.popleft()
        final = self._is_ended and not self._waiting
        opcode, rsv = Opcode.CONTINUATION, 0
        if not self.is_started:
            opcode = self._opcode or (Opcode.TEXT if self._text else Opcode.BINARY)
            rsv = RSV1 if self._deflater is not None else 0  # RFC 7692 §6.1: on the first fragment only
        if self._deflater is not None:
            payload = self._deflater.deflate(payload, final=final)
        self.is_started = True
        return self._session.fragment(opcode, payload, final=final, rsv=rsv)
