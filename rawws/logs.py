"""The log, which is meant to be studied: its loggers, and the form of a line.

Each line has its logger, the connection's number, one mark (``wire/trace.py`` lists the five, and those of a tap), and
one fact. The server itself is connection 0.

==================  ===================================================================
``rawws.server``    listening, stopping, running out of descriptors
``rawws.http``      the HTTP phase: connections, requests, responses
``rawws.handshake`` each requirement and its verdict, the accept value, the hand-over
``rawws.frames``    a line for each frame in each direction
``rawws.hub``       joining a room, leaving it, and why
==================  ===================================================================
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable

from rawws.errors import Cause
from rawws.wire.checks import AnyCheck
from rawws.wire.frames import Frame
from rawws.wire.role import Role
from rawws.wire.trace import (
    FAULT,
    LEGEND,
    STATE,
    frame_hex,
    frame_line,
    mark_of,
    message_line,
    printable,
    printable_lines,
)

# Below DEBUG: as DEBUG, with each frame's bytes in hex.
TRACE = 5

server = logging.getLogger("rawws.server")
http = logging.getLogger("rawws.http")
handshake = logging.getLogger("rawws.handshake")
frames = logging.getLogger("rawws.frames")
hub = logging.getLogger("rawws.hub")

SERVER = 0  # the number under which the server itself is logged

LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: str, worker: int | None = None, legend: str = LEGEND) -> None:
    """Write rawws's log to standard error from ``level`` on, with the number of the worker if this is one.

    At a level that shows frames, the log begins with the legend.

    It is for the command line; a program that uses the library configures its own log.
    """
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    who = "" if worker is None else f"worker {worker} "
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)-7s %(name)-15s {who}%(message)s"))
    root = logging.getLogger("rawws")
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
    line(server, logging.DEBUG, SERVER, STATE, legend)


class _Formatter(logging.Formatter):
    """Escapes control characters, also in tracebacks, since an exception may quote a peer."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def attribute(number: int, text: str) -> tuple[int, str]:
    """Return the number of the connection to which a line belongs, and the line's text.

    A number below zero is that of a connection of the page. Its lines belong to the server itself.
    """
    return (number, text) if number >= SERVER else (SERVER, f"the page: {text}")


def line(logger: logging.Logger, level: int, number: int, mark: str, text: str) -> None:
    """Write one line about connection ``number``. Text from a peer is escaped."""
    number, text = attribute(number, text)
    logger.log(level, "#%d %s %s", number, mark, printable(text))


def server_line(level: int, mark: str, text: str) -> None:
    """Write one line of the server's own story."""
    line(server, level, SERVER, mark, text)


def show_checks(
    number: int, checks: Iterable[AnyCheck], steps: Iterable[str] = (), *, failed_at: int = logging.DEBUG
) -> None:
    """Log each check of a handshake, a failed one at the level ``failed_at``, then the steps that made the answer."""
    for check in checks:
        level = logging.DEBUG if check.holds else failed_at
        if handshake.isEnabledFor(level):
            line(handshake, level, number, STATE if check.holds else FAULT, str(check))
    if handshake.isEnabledFor(logging.DEBUG):
        for step in steps:
            line(handshake, logging.DEBUG, number, STATE, step)


def show_frame(number: int, mark: str, frame: Frame) -> None:
    """Log a frame, and the message that ends with it if that adds something. Call it only if DEBUG is enabled."""
    line(frames, logging.DEBUG, number, mark, frame_line(frame))
    if frames.isEnabledFor(TRACE):
        line(frames, TRACE, number, mark, frame_hex(frame))
    if text := message_line(frame):
        line(frames, logging.DEBUG, number, STATE, text)


def end(number: int, mark: str, text: str, cause: Cause) -> None:
    """Log the last line of a connection. ``cause`` becomes an attribute of the log record, for other formatters."""
    number, text = attribute(number, text)
    hub.info("#%d %s %s", number, mark, printable(text), extra={"cause": cause.value})


def frame_logger(number: int, our_role: Role) -> FrameLogger | None:
    """Return the function to which a session passes its frames; None if the log doesn't show them."""
    return FrameLogger(number, our_role) if frames.isEnabledFor(logging.DEBUG) else None


class FrameLogger:
    """Writes a line for each frame of one connection of ours."""

    __slots__ = ("number", "our_role")

    def __init__(self, number: int, our_role: Role) -> None:
        self.number = number
        self.our_role = our_role

    def __call__(self, sender: Role, frame: Frame) -> None:
        show_frame(self.number, mark_of(sender, self.our_role), frame)
