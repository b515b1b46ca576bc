"""Who is shown what crosses the wire, besides the log: a recording, or whoever watches.

A `Tracer` belongs to a server. It costs nothing while it has no sinks: no frame is looked at for it. A sink is told
records (``wire/records.py``) and frames as they happen, and must neither block nor raise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from rawws import logs
from rawws.errors import Cause, UsageError
from rawws.limits import NO_LIMIT
from rawws.wire import records
from rawws.wire.checks import AnyCheck
from rawws.wire.frames import Frame
from rawws.wire.handshake import Accept
from rawws.wire.records import Record
from rawws.wire.role import Role
from rawws.wire.trace import FAULT


class Sink(Protocol):
    """Takes records, and frames."""

    shown_bytes: int  # of a frame's payload; of more than that the ends are shown
    wants_frames: bool  # else it is told of the rest only. Who changes it calls `Tracer.reconsider`

    def take(self, connection: int, record: Record) -> None:
        """Take one record of a connection, of any kind but a frame."""

    def take_frame(self, connection: int, sender: Role, frame: Frame) -> None:
        """Take one frame, with its mask off."""


class OpenConnection(NamedTuple):
    """An open connection, as far as it is known without having watched it."""

    number: int
    dialled_from: str
    path: str  # empty if unknown
    is_websocket: bool


_watching = 0  # how many tracers have a sink that wants frames


def frames_are_shown() -> bool:
    """Whether anybody may want to see frames: the log, or a sink of any tracer."""
    return _watching > 0 or logs.frames.isEnabledFor(logging.DEBUG)


class Tracer:
    """Passes on what happens to its sinks."""

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._wants_frames = False
        self.on_change: Callable[[], None] | None = None  # told when frames are wanted otherwise than before
        # Returns the newest open connections, at most the given number, and how many others there are. It is for a sink
        # that is added after they were opened. The server sets it.
        self.list_open: Callable[[int], tuple[list[OpenConnection], int]] = lambda _: ([], 0)

    def __repr__(self) -> str:
        return f"<Tracer sinks={len(self._sinks)}>"

    @property
    def is_watched(self) -> bool:
        return bool(self._sinks)

    @property
    def shown_bytes(self) -> int:
        """How much of each payload the most curious sink wants."""
        return max((sink.shown_bytes for sink in self._sinks), default=0)

    def add(self, sink: Sink) -> None:
        """Tell a sink all that happens from here on, on connections that are open already too."""
        self._sinks.append(sink)
        self.reconsider()

    def remove(self, sink: Sink) -> None:
        self._sinks.remove(sink)
        self.reconsider()

    def reconsider(self) -> None:
        """Ask the sinks anew whether they want frames, and how much of each."""
        global _watching
        wants_frames = any(sink.wants_frames for sink in self._sinks)
        _watching += wants_frames - self._wants_frames
        self._wants_frames = wants_frames
        if self.on_change is not None:
            self.on_change()

    def tell(self, connection: int, record: Record) -> None:
        for sink in self._sinks:
            sink.take(connection, record)

    # What happens

    def opened(self, connection: int, dialled_from: str) -> None:
        self.tell(connection, {"kind": "open", "from": dialled_from})

    def head(self, connection: int, sender: Role, raw_head: bytes) -> None:
        self.tell(connection, records.head_record(sender, raw_head))

    def checked(self, connection: int, sender: Role, checks: Iterable[AnyCheck], accept: Accept | None = None) -> None:
        """Tell what the handshake was held against, as far as ``sender`` has to meet it."""
        self.tell(connection, records.checks_record(sender, checks, accept))

    def switched(self, connection: int) -> None:
        self.tell(connection, {"kind": "switch"})

    def frame(self, connection: int, sender: Role, frame: Frame) -> None:
        for sink in self._sinks:
            if sink.wants_frames:
                sink.take_frame(connection, sender, frame)

    def ended(self, connection: int, told: str, cause: Cause | None = None) -> None:
        """Report the end of a connection; that of a WebSocket or an event stream has a cause."""
        record: Record = {"kind": "end", "told": told}
        if cause is not None:
            record["cause"] = cause.value
        self.tell(connection, record)

    def frame_watcher(self, connection: int, our_role: Role) -> Callable[[Role, Frame], None] | None:
        """Return what a session of that connection shows its frames to; None when nobody wants to see them."""
        logger = logs.frame_logger(connection, our_role)
        if not self._wants_frames:
            return logger

        def show(sender: Role, frame: Frame) -> None:
            if logger is not None:
                logger(sender, frame)
            self.frame(connection, sender, frame)

        return show


class Recording:
    """A sink that writes each record to a file, whole payloads included, a line each.

    When the file can't be written, that is logged once, and nothing more is recorded.
    """

    shown_bytes = int(NO_LIMIT)
    wants_frames = True

    def __init__(self, path: str | Path) -> None:
        """Raises `UsageError` when the file can't be opened. What is in it already stays, and is added to."""
        try:
            # A line at a time, so that what happened last is there after a crash too.
            self._file: TextIO | None = Path(path).open("a", buffering=1, encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"{path} can't be written for --record: {error.strerror}") from None
        self._path = path
        self._begin = "\n" if _is_cut(path) else ""

    def take_frame(self, connection: int, sender: Role, frame: Frame) -> None:
        self.take(connection, records.frame_record(sender, frame))

    def take(self, connection: int, record: Record) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._begin + records.to_line(record, at=time.time(), connection=connection))
            self._begin = ""
        except OSError as error:
            told = f"{self._path} can't be written any more: {error.strerror}; nothing is recorded from here on"
            logs.line(logs.server, logging.ERROR, logs.SERVER, FAULT, told)
            self.close()

    def close(self) -> None:
        """End the recording."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it was told when it was written
                file.close()


def _is_cut(path: str | Path) -> bool:
    """Whether a file ends in the middle of a line: the disk was full, or who wrote it was killed."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        file.seek(-1, os.SEEK_END)  # an error in an empty file, and in what is none
        return file.read(1) != b"\n"
    return False
