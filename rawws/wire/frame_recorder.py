"""The part of a frame that can be shown, collected while the frame passes."""

from __future__ import annotations

from rawws.wire.frames import MAX_CONTROL_PAYLOAD_BYTES, Frame, FrameHeader
from rawws.wire.masking import apply_mask
from rawws.wire.message_view import MessageView

# The bytes that are kept of the end of a long payload.
PREVIEW_TAIL_BYTES = 64


class FrameRecorder:
    """Collects the two ends of one frame's payload, unmasked, while the payload passes.

    The first ``shown_bytes`` of a longer payload are kept, and a little of its end. A ``view`` gets all of the payload,
    and returns the message that ends with the frame.
    """

    __slots__ = ("_head", "_header", "_position", "_shown_bytes", "_tail", "_view")

    def __init__(
        self, header: FrameHeader, shown_bytes: int = MAX_CONTROL_PAYLOAD_BYTES, view: MessageView | None = None
    ) -> None:
        self._header = header
        self._view = view
        if view is not None:
            view.begin_frame(header)
        self._shown_bytes = max(shown_bytes, MAX_CONTROL_PAYLOAD_BYTES)  # all of a control frame is kept
        self._head = bytearray()
        self._tail = bytearray()
        self._position = 0

    @property
    def held_bytes(self) -> int:
        """The number of bytes of the payload that are kept."""
        return len(self._head) + len(self._tail)

    def add(self, raw_payload: bytes | memoryview) -> None:
        """Add the next piece of the payload, as it stands on the wire."""
        if self._view is not None:
            self._view.add(self._unmask(raw_payload, self._position))
        into_head = raw_payload[: self._shown_bytes - len(self._head)]
        self._head += self._unmask(into_head, self._position)
        rest_at = self._position + len(into_head)
        self._position += len(raw_payload)
        rest = raw_payload[len(into_head) :][-PREVIEW_TAIL_BYTES:]
        if rest:
            self._tail += self._unmask(rest, max(rest_at, self._position - len(rest)))
            del self._tail[:-PREVIEW_TAIL_BYTES]

    def _unmask(self, raw: bytes | memoryview, position: int) -> bytes:
        key = self._header.mask_key
        return bytes(raw) if key is None else apply_mask(bytes(raw), key, position)

    def frame(self) -> Frame:
        """Return the frame after all of it has passed."""
        message = None if self._view is None else self._view.end_frame()
        return Frame(self._header, bytes(self._head), bytes(self._tail), message)
