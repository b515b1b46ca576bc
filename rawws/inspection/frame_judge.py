"""The frames of one direction, seen from outside and judged as their receiver would judge them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rawws.errors import Fault
from rawws.inspection.seen import MAX_SHOWN_BYTES, Rest, Seen, SeenFrame
from rawws.limits import NO_LIMIT
from rawws.wire.deflate import Unread
from rawws.wire.events import Event, Failed
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import FrameScanner
from rawws.wire.message_view import MessageView
from rawws.wire.role import Role
from rawws.wire.wsproto_reader import WsprotoReader

# Bytes that are checked at a time.
_JUDGED_BYTES = 4096
# The most frames that are listed after the one that ended the reading.
_MOST_IGNORED_FRAMES = 1000


@dataclass(frozen=True, slots=True)
class Compression:
    """One side's compression, as far as it is known; with ``from_start`` the observer sees all messages of the side."""

    keeps_context: bool = True
    from_start: bool = True


class FrameJudge:
    """The frames of one direction, judged by what their receiver would use."""

    def __init__(self, sender: Role, at: int, compression: Compression | None) -> None:
        self._sender = sender
        self.shown_bytes = 0
        self._at = at  # of the next byte
        self._frame_at = at
        self._raw = b""  # the frame's bytes so far
        self._scanner = FrameScanner()
        self._recorder: FrameRecorder | None = None
        # The view inflates, and checks the inflated data; wsproto checks the rest.
        self._view = (
            MessageView(deflates=False)
            if compression is None
            else MessageView(deflates=True, keeps_context=compression.keeps_context, from_start=compression.from_start)
        )
        self._judge = WsprotoReader(sender.other, NO_LIMIT, [] if compression is None else [Unread()])
        self._judge.streams = True  # the parts of a message aren't needed after the judgement
        self._fault: Fault | None = None
        self._is_reported = False  # the present frame, which is still incomplete
        self._ignored = False
        self._ignored_frames = 0

    def receive(self, data: bytes, out: list[Seen]) -> None:
        for start in range(0, len(data), _JUDGED_BYTES):
            piece = data[start : start + _JUDGED_BYTES]
            if self._ignored_frames <= _MOST_IGNORED_FRAMES:
                self._receive(piece, out)
            self._at += len(piece)

    def _receive(self, data: bytes, out: list[Seen]) -> None:
        position = 0
        scanner = self._scanner
        while position < len(data):
            start = position
            if self._recorder is None:
                if scanner.at_boundary:
                    self._begin_frame(position)
                    if self._ignored_frames > _MOST_IGNORED_FRAMES:
                        raw = data[position : position + MAX_SHOWN_BYTES]
                        reason = "its receiver reads no more, and from here on nothing is looked at"
                        out.append(Rest(self._sender, self._frame_at, raw, reason))
                        return
                position = scanner.scan_header(data, position)
                taken = data[start:position]
                self._judge_raw(taken)
                if scanner.header is not None:
                    # A frame with an invalid header belongs to no message.
                    view = None if self._judge.ended else self._view
                    self._recorder = FrameRecorder(scanner.header, self.shown_bytes, view)
            else:
                position = scanner.scan_payload(data, position)
                taken = data[start:position]
                self._judge_raw(taken)
                self._recorder.add(taken)
                self._judge_content()
            self._raw = (self._raw + taken)[:MAX_SHOWN_BYTES]
            if self._recorder is not None and not scanner.payload_left:
                frame = self._recorder.frame()
                self._judge_content()
                if self._fault is not None:
                    frame = replace(frame, message=None)
                if not self._is_reported:
                    out.append(SeenFrame(self._sender, self._frame_at, frame, self._fault, self._ignored))
                self._forget_frame()

    def _begin_frame(self, position: int) -> None:
        self._frame_at = self._at + position
        self._ignored = self._judge.ended
        self._ignored_frames += self._ignored

    def _forget_frame(self) -> None:
        self._recorder = None
        self._raw = b""
        self._fault = None
        self._is_reported = False

    def _judge_raw(self, data: bytes) -> None:
        if self._judge.ended:
            return
        events: list[Event] = []
        self._judge.read(data, 0, events, None, until_idle=False)
        for event in events:
            if isinstance(event, Failed):
                self._fault = event.fault

    def _judge_content(self) -> None:
        """Stop the reading if the view has found a fault in a compressed message."""
        if self._view.fault is not None and not self._judge.ended:
            self._fault = self._view.fault
            self._judge.ended = True

    def report_fault(self, out: list[Seen]) -> None:
        """Add the part of an incomplete frame that has come, if its receiver finds a fault in that."""
        if self._fault is not None and not self._is_reported:
            self._report_incomplete(out, "so far")
            self._is_reported = True

    def finish(self, out: list[Seen]) -> None:
        if self._raw and not self._is_reported:
            self._report_incomplete(out, "ends here")

    def _report_incomplete(self, out: list[Seen], state: str) -> None:
        if self._ignored:
            reason = "its receiver reads no more, and the rest is not a whole frame"
        elif self._recorder is None:
            reason = f"the frame's header {state}"
        else:
            reason = f"the frame {state}: {self._scanner.payload_left:,} bytes of its payload are missing"
        out.append(Rest(self._sender, self._frame_at, self._raw, reason, self._fault))
