"""Observers of a server's traffic besides the log: a recording, or a page.

A `Tracer` belongs to a server. It costs nothing while it has no sinks: no frame is inspected for it. A sink gets
records (``inspection/records.py``) and frames as they happen, and must neither block nor raise.
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
from rawws.errors import Cause, Refusal, UsageError
from rawws.inspection import records
from rawws.inspection.records import Record
from rawws.limits import NO_LIMIT
from rawws.wire.checks import AnyCheck
from rawws.wire.frames import Frame
from rawws.wire.handshake import Accept
from rawws.wire.role import Role
from rawws.wire.trace import FAULT


class Sink(Protocol):
    """A consumer of records and frames."""

    shown_bytes: int  # of a frame's payload; only the ends of a longer one are shown
    wants_frames: bool  # otherwise it gets records only. Call `Tracer.reconsider` after changing it

    def take(self, connection: int, record: Record) -> None:
        """Process one record of a connection, of any kind but a frame."""

    def take_frame(self, connection: int, sender: Role, frame: Frame) -> None:
        """Process one unmasked frame."""


class OpenConnection(NamedTuple):
    """An open connection, as far as it is known without a sink from its beginning on."""

    number: int
    dialled_from: str
    path: str  # empty if unknown
    is_websocket: bool


class KeptHandshake(NamedTuple):
    """The heads of an upgrade, as they were on the wire: with the values of secret fields."""

    request: bytes
    response: bytes


# A longer handshake isn't kept. Browsers send some 500 bytes.
MAX_KEPT_BYTES = 8 * 1024
# A kept handshake besides its bytes: the tuple, the heads of two objects, and its place in the table.
KEPT_BYTES = 250

_watching = 0  # the number of tracers with a sink that wants frames


def frames_are_shown() -> bool:
    """Whether frames may be wanted: by the log, or by a sink of any tracer."""
    return _watching > 0 or logs.frames.isEnabledFor(logging.DEBUG)


class Tracer:
    """Passes records and frames on to its sinks."""

    def __init__(self) -> None:
        self._sinks: list[Sink] = []
        self._wants_frames = False
        self.on_change: Callable[[], None] | None = None  # called when it changes whether frames are wanted
        # Returns the newest open connections, at most the given number, and how many others there are. It is for a sink
        # that is added after they were opened. The server sets it.
        self.list_open: Callable[[int], tuple[list[OpenConnection], int]] = lambda _: ([], 0)
        self._handshakes: dict[int, KeptHandshake] = {}  # by connection, the oldest first
        self._most_handshakes = 0

    def __repr__(self) -> str:
        return f"<Tracer sinks={len(self._sinks)}>"

    @property
    def is_watched(self) -> bool:
        return bool(self._sinks)

    @property
    def shown_bytes(self) -> int:
        """The most bytes of each payload that any sink wants."""
        return max((sink.shown_bytes for sink in self._sinks), default=0)

    def add(self, sink: Sink) -> None:
        """Pass everything from now on to a sink, including events of connections that are open already."""
        self._sinks.append(sink)
        self.reconsider()

    def remove(self, sink: Sink) -> None:
        self._sinks.remove(sink)
        self.reconsider()

    def reconsider(self) -> None:
        """Ask the sinks again whether they want frames, and how much of each."""
        global _watching
        wants_frames = any(sink.wants_frames for sink in self._sinks)
        _watching += wants_frames - self._wants_frames
        self._wants_frames = wants_frames
        if self.on_change is not None:
            self.on_change()

    def keep_handshakes(self, most: int) -> None:
        """Keep the newest handshakes, for a sink that is added after them. That costs no more than their bytes."""
        self._most_handshakes = most

    def held_bytes(self) -> int:
        """Return the bytes of memory that the kept handshakes take."""
        return sum(KEPT_BYTES + len(kept.request) + len(kept.response) for kept in self._handshakes.values())

    def handshake_of(self, connection: int) -> KeptHandshake | None:
        """Return the handshake of a connection, if it is kept."""
        return self._handshakes.get(connection)

    def tell(self, connection: int, record: Record) -> None:
        for sink in self._sinks:
            sink.take(connection, record)

    # Events

    def opened(self, connection: int, dialled_from: str) -> None:
        self.tell(connection, {"kind": "open", "from": dialled_from})

    def head(self, connection: int, sender: Role, raw_head: bytes) -> None:
        self.tell(connection, records.head_record(sender, raw_head))

    def checked(self, connection: int, sender: Role, checks: Iterable[AnyCheck], accept: Accept | None = None) -> None:
        """Report the handshake's checks of ``sender``'s side."""
        self.tell(connection, records.checks_record(sender, checks, accept))

    def refused(self, connection: int, refusal: Refusal) -> None:
        """Report why a request is refused; the head of the response follows."""
        record = {"kind": "refused", "status": refusal.status, "code": refusal.code, "told": refusal.sentence}
        self.tell(connection, record)

    def upgraded(self, connection: int, request_head: bytes, response_head: bytes) -> None:
        """Keep the heads of an upgrade, if handshakes are kept."""
        if not self._most_handshakes or len(request_head) + len(response_head) > MAX_KEPT_BYTES:
            return
        self._handshakes[connection] = KeptHandshake(request_head, response_head)
        if len(self._handshakes) > self._most_handshakes:
            del self._handshakes[next(iter(self._handshakes))]

    def switched(self, connection: int) -> None:
        self.tell(connection, {"kind": "switch"})

    def frame(self, connection: int, sender: Role, frame: Frame) -> None:
        for sink in self._sinks:
            if sink.wants_frames:
                sink.take_frame(connection, sender, frame)

    def ended(self, connection: int, text: str, cause: Cause | None = None) -> None:
        """Report the end of a connection; that of a WebSocket or an event stream has a cause."""
        self._handshakes.pop(connection, None)
        record: Record = {"kind": "end", "told": text}
        if cause is not None:
            record["cause"] = cause.value
        self.tell(connection, record)

    def frame_watcher(self, connection: int, our_role: Role) -> Callable[[Role, Frame], None] | None:
        """Return the function to which a session of that connection passes its frames; None if no sink wants them."""
        logger = logs.frame_logger(connection, our_role)
        if not self._wants_frames:
            return logger

        def show(sender: Role, frame: Frame) -> None:
            if logger is not None:
                logger(sender, frame)
            self.frame(connection, sender, frame)

        return show


class Recording:
    """A sink that writes each record as a line to a file, including whole payloads.

    If the file can't be written any more, that is logged once, and recording ends.
    """

    shown_bytes = int(NO_LIMIT)
    wants_frames = True

    def __init__(self, path: str | Path) -> None:
        """Appends to the file if it exists. Raises `UsageError` if it can't be opened."""
        try:
            # Each line is flushed, so that the latest events are in the file even after a crash.
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
            message = f"{self._path} can't be written any more: {error.strerror}; nothing is recorded from here on"
            logs.server_line(logging.ERROR, FAULT, message)
            self.close()

    def close(self) -> None:
        """End the recording."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # it was logged when a line was written
                file.close()


def _is_cut(path: str | Path) -> bool:
    """Whether a file ends in the middle of a line: the disk was full, or its writer was killed."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        file.seek(-1, os.SEEK_END)  # raises for an empty file, and for one that can't be sought
        return file.read(1) != b"\n"
    return False
