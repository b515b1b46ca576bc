"""The page's protocol: records that it gets, and questions that it may ask, over its WebSocket at ``/_rawws/trace``.

Every message is JSON. The server begins with ``{"about": {...}, "open": [...], "unlisted": 0}``. Its ``about`` has the
``instance``, which differs for each process: a connection's number counts within that. ``open`` lists the
connections that are open already, the oldest first, each as ``{"connection": number, "from": "...", "path": "...",
"websocket": true}``, and ``unlisted`` is the number of those that it leaves out, which are older. Both come again,
without ``about``, after records were dropped. The server then reports what happens, several records at a time:
``{"records": [...]}``, each as in ``inspection/records.py``, where a frame has these fields more: ``opcode``, ``fin``,
``rsv`` and ``mask`` of its header, ``size`` (of its payload) and ``preview``. If the frame ends a message that is
compressed or fragmented, ``preview`` is of that message, and ``text`` is its beginning. ``message_size`` is the size of
a message that is compressed in this frame alone; with ``cut``, it is larger than that.

The page may ask, with a number of its choice, and gets ``{"answer": number, ...}`` or ``{"answer": number, "error":
"..."}``:

===============================================  ================================================================
``{"ask": 1, "for": "frame", "frame": {...}}``   ``fields``: its header bit by bit; ``text`` of its message
``{"ask": 2, "for": "cases"}``                   ``cases``: the conformance cases for a server
``{"ask": 3, "for": "case", "name": "...",       ``sent``, ``story``, ``verdict``, ``got``: the result of this case
"path": "/"}``                                   with this server
===============================================  ================================================================

A page must not slow down the server that it watches. A feed has a budget of records and bytes. When that is used up,
the frames of all connections are read in the fast lane again, and the feed pauses. Then it reports how many messages
it skipped, and which connections have ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import secrets
import ssl
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from rawws import logs
from rawws.errors import ConnectionClosed, RawwsError
from rawws.inspection import dissect, records
from rawws.inspection.conformance import BY_NAME, CASES
from rawws.inspection.records import Record
from rawws.relay.loop import current_loop
from rawws.tools.checker import Checker, Result
from rawws.tracing import Tracer
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.websocket.internals import count_besides
from rawws.wire.frame_recorder import PREVIEW_TAIL_BYTES
from rawws.wire.frames import Frame, Opcode
from rawws.wire.role import Role
from rawws.wire.trace import STATE, message_line, preview_message, preview_payload, shorten

# Records within this time after a message are sent as the next message: the delay is invisible, and a browser has less
# to do. The first record is sent at once, since a frame that ends the server is the one to be looked for.
GATHER_S = 0.05
# The frames per second that a page can display (a guess: it draws some forty of them) and a server can report: at
# 15 µs each, 2,000 a second are 3 % of a core. A burst may be larger.
BURST_RECORDS = 12_000
RECORDS_A_SECOND = 2_000
BURST_BYTES = 8 * 1024 * 1024
BYTES_A_SECOND = 2 * 1024 * 1024
REST_S = 1.0

# The number of connections that the page keeps. So it needs no more ends of connections after a pause.
KEPT_CONNECTIONS = 500

# The most bytes of a frame's payload that the page gets.
TOLD_BYTES = 4096

CASE_PATIENCE_S = 2.0
# The number of questions that are answered at the same time. The next one is not read before one of them has its
# answer, so a page that doesn't read the answers costs no more than these. (A question about a frame is the longest by
# far, and ``MOST_ASKED`` is larger than that.)
ANSWERED_AT_ONCE = 8
MOST_ASKED = 64 * 1024
CASES_AT_ONCE = 4


@functools.cache
def _instance() -> str:
    """Return the id by which a page that reconnects recognizes the same server, with the same connections.

    It is made by the serving process, not by the import: forks of one program are different servers.
    """
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class About:
    """A description of the watched server. Cases are run against ``uri``, and clients connect to it.

    ``is_tap`` says that another server serves the page. A WebSocket can be opened at ``path``; ``has_rooms`` says that
    this is a room, over HTTP too.
    """

    uri: str
    ssl: ssl.SSLContext | None = None
    is_tap: bool = False
    case_path: str = "/"
    path: str = "/room"
    has_rooms: bool = False


class Feed:
    """A sink that sends a tracer's records to one page."""

    def __init__(self, websocket: WebSocket, tracer: Tracer, about: About) -> None:
        self.shown_bytes = TOLD_BYTES
        self.wants_frames = True
        self._websocket = websocket
        self._tracer = tracer
        self._about = about
        self._stats = current_loop().stats
        self._waiting: list[str] = []
        self._sending = ""  # the records that were waiting, as one message
        self._something = trio.Event()
        self._records_left: float = BURST_RECORDS
        self._bytes_left: float = BURST_BYTES
        self._filled_at = trio.current_time()
        self._missed = 0
        self._missed_ends: deque[str] = deque(maxlen=KEPT_CONNECTIONS)  # reported after the pause
        self._open: Record = {}  # the connections to report to the page, as they were when they were listed
        self._passed_at_rest = 0
        self._rests_until = 0.0
        self._answering = trio.Semaphore(ANSWERED_AT_ONCE)
        self._trying = trio.CapacityLimiter(CASES_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Feed waiting={len(self._waiting)} missed={self._missed} wants_frames={self.wants_frames}>"

    async def run(self) -> None:
        """Feed the page until it leaves."""
        logs.line(logs.hub, logging.INFO, logs.SERVER, STATE, "a page watches the traffic")
        count_besides(self._websocket, self._held_bytes)
        self._tracer.add(self)
        self._open = self._list_open()  # at the same moment, since the records continue from there
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell)
                with contextlib.suppress(ConnectionClosed):
                    async for message in self._websocket:
                        await self._answering.acquire()
                        nursery.start_soon(self._answer, message)
                nursery.cancel_scope.cancel()
        finally:
            self._tracer.remove(self)

    def _held_bytes(self) -> int:
        """Return the memory of records for a page that reads slowly. A message being sent is held as text and bytes."""
        return 2 * len(self._sending) + sum(map(sys.getsizeof, (*self._waiting, *self._missed_ends)))

    # Records

    def take(self, connection: int, record: Record) -> None:
        self._add({"at": time.time(), "connection": connection, **record})

    def take_frame(self, connection: int, sender: Role, frame: Frame) -> None:
        if self._records_left < 1:  # before the work
            self._miss()
            return
        header = frame.header
        record = {
            "at": time.time(),
            "connection": connection,
            **records.frame_record(sender, shortened(frame)),
            "opcode": header.opcode_name,
            "fin": header.fin,
            "rsv": f"{header.rsv1:d}{header.rsv2:d}{header.rsv3:d}",
            "mask": None if header.mask_key is None else header.mask_key.hex(),
            "size": header.payload_bytes,
        }
        record |= describe_message(frame)
        self._add(record)

    def _add(self, record: Record) -> None:
        text = json.dumps(record, separators=(",", ":"))
        if self._records_left < 1 or self._bytes_left < 1:
            self._miss()
            if record["kind"] == "end":
                self._missed_ends.append(text)
            return
        self._records_left -= 1
        self._bytes_left -= len(text)
        self._waiting.append(text)
        self._something.set()

    def _miss(self) -> None:
        """Count a record that isn't sent, and have frames read in the fast lane again."""
        self._missed += 1
        if self.wants_frames:
            self.wants_frames = False
            self._rests_until = trio.current_time() + REST_S
            self._passed_at_rest = self._stats.messages_in + self._stats.messages_out
            self._something.set()
            self._tracer.reconsider()

    async def _tell(self) -> None:
        await self._send({"about": self._describe(), **self._open})
        while True:
            await self._something.wait()
            self._something = trio.Event()
            if not self.wants_frames:
                await trio.sleep_until(self._rests_until)
            self._fill()
            has_missed = not self.wants_frames
            if has_missed:
                self._resume()
                self._open = self._list_open()
            if self._waiting:
                self._sending = '{"records":[' + ",".join(self._waiting) + "]}"
                self._waiting = []
                await self._send_text(self._sending)
                self._sending = ""
            if has_missed:
                await self._send(self._open)
            await trio.sleep(GATHER_S)

    def _fill(self) -> None:
        """Refill the budget for the time since the last refill."""
        now = trio.current_time()
        elapsed_s, self._filled_at = now - self._filled_at, now
        self._records_left = min(BURST_RECORDS, self._records_left + elapsed_s * RECORDS_A_SECOND)
        self._bytes_left = min(BURST_BYTES, self._bytes_left + elapsed_s * BYTES_A_SECOND)

    def _resume(self) -> None:
        """Watch frames again, and report how many were skipped."""
        passed = self._stats.messages_in + self._stats.messages_out - self._passed_at_rest
        missed = self._missed - len(self._missed_ends) + passed
        lost = {"at": time.time(), "connection": 0, "kind": "lost", "records": missed}
        self._waiting += [json.dumps(lost), *self._missed_ends]
        self._missed_ends.clear()
        self._missed = 0
        self.wants_frames = True
        self._tracer.reconsider()

    def _list_open(self) -> Record:
        listed, unlisted = self._tracer.list_open(KEPT_CONNECTIONS)
        connections = [
            {
                "connection": each.number,
                "from": each.dialled_from,
                "path": shorten(each.path),
                "websocket": each.is_websocket,
            }
            for each in listed
        ]
        return {"open": connections, "unlisted": unlisted}

    def _describe(self) -> Record:
        return {
            "version": __version__,
            "uri": self._about.uri if self._about.is_tap else None,
            "is_tap": self._about.is_tap,
            "instance": _instance(),
            "case_path": self._about.case_path,
            "path": self._about.path,
            "has_rooms": self._about.has_rooms,
        }

    # Questions

    async def _answer(self, message: str | bytes) -> None:
        asked: Any = None
        try:
            if len(message) > MOST_ASKED:
                raise ValueError(f"a question has {MOST_ASKED} characters at most")
            asked = json.loads(message)
            answer = await self._answers[asked["for"]](self, asked)
        except (ValueError, KeyError, TypeError, RecursionError, OSError, RawwsError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answer = {"error": f"this can't be answered: {reason or type(error).__name__}"}
        number = asked.get("ask") if isinstance(asked, dict) else None
        await self._send({"answer": number if isinstance(number, int) else None, **answer})
        self._answering.release()

    async def _explain_frame(self, asked: Mapping[str, Any]) -> Record:
        frame = records.read_frame(asked["frame"])
        return {
            "fields": [field._asdict() for field in dissect.fields_of(frame.header)],
            "meaning": dissect.describe_payload(frame) if frame.header.opcode == Opcode.CLOSE else "",
            "text": self._read_text(frame),
        }

    def _read_text(self, frame: Frame) -> str | None:
        """Return the text in a frame, or the known part of it; None if the frame has no text."""
        if frame.header.is_control or frame.header.opcode == Opcode.BINARY or frame.header.rsv1:
            return None
        try:
            # If a part is left out, or another frame continues the text, the end may be within a character.
            errors = "ignore" if frame.left_out_bytes or not frame.header.fin else "strict"
            return frame.payload_head.decode(errors=errors)[:TOLD_BYTES]
        except UnicodeDecodeError:
            return None  # a part of a binary or compressed message

    async def _list_cases(self, asked: Mapping[str, Any]) -> Record:
        names = ("name", "title", "section", "rule")
        return {"cases": [{name: getattr(case, name) for name in names} for case in CASES]}

    async def _run_case(self, asked: Mapping[str, Any]) -> Record:
        case = BY_NAME[asked["name"]]
        path = str(asked.get("path") or self._about.case_path)
        # No proxy is used, since the case is for this server or the tap, and a proxy may lead elsewhere.
        checker = Checker(
            f"{self._about.uri}/{path.lstrip('/')}", ssl=self._about.ssl, proxy=None, patience_s=CASE_PATIENCE_S
        )
        async with self._trying:
            return describe_result(await checker.run_case(case))

    _answers = {"frame": _explain_frame, "cases": _list_cases, "case": _run_case}  # noqa: RUF012

    async def _send(self, record: Record) -> None:
        await self._send_text(json.dumps(record, separators=(",", ":")))

    async def _send_text(self, text: str) -> None:
        with contextlib.suppress(ConnectionClosed):  # then `run` ends
            await self._websocket.send(text, compress=False)  # it is usually sent over loopback


def shortened(frame: Frame) -> Frame:
    """Return a frame with at most the part of its payload that a page gets."""
    more_bytes = frame.header.payload_bytes - TOLD_BYTES
    if more_bytes <= 0:
        return frame
    end = frame.payload_tail or frame.payload_head
    return Frame(frame.header, frame.payload_head[:TOLD_BYTES], end[-min(more_bytes, PREVIEW_TAIL_BYTES) :])


def describe_message(frame: Frame) -> Record:
    """Return a record's members for the message that is in a frame, or ends with it."""
    message = frame.message
    if not message_line(frame) or message is None or message.is_lost:
        return {"preview": message_line(frame) or preview_payload(frame)}
    record: Record = {"preview": preview_message(message)}
    if message.opcode is Opcode.TEXT:
        record["text"] = message.beginning.decode(errors="replace" if message.is_whole else "ignore")
    if frame.header.rsv1:
        record["message_size"] = message.size
    if not message.is_all_known:
        record["cut"] = True
    return record


def describe_result(result: Result) -> Record:
    """Return the result of a case."""
    return {
        "name": result.case.name,
        "sent": result.sent.hex(),
        "received": result.answer.raw.hex(),
        "story": result.story(),
        **{"verdict": result.outcome.verdict.value, "got": result.outcome.got},
    }
