"""The page's protocol: records that it gets, and questions that it may ask, over its WebSocket at ``/_rawws/trace``.

Every message is JSON. The server begins with ``{"about": {...}, "open": [...], "unlisted": 0}``. Its ``about`` has the
``instance``, which differs for each process: a connection's number counts within that. ``open`` lists the
connections that are open already, the oldest first, each as ``{"connection": number, "from": "...", "path": "...",
"websocket": true, "agent": "..."}``, and ``unlisted`` is the number of those that it leaves out, which are older. Both
come again, without ``about``, after records were dropped. The server then reports what happens, several records at a
time: ``{"records": [...]}``, each as in ``inspection/records.py``. There, a frame that ends a compressed or fragmented
message has the beginning of that message too: as ``text``, or in hex as ``data``. ``message_size`` is the size of a
message that is compressed in this frame alone; with ``cut``, it is larger than that. ``questions.py`` has what the page
may ask.

A page must not slow down the server that it watches. A feed has a budget of records and bytes. When that is used up,
the frames of all connections are read in the fast lane again, and the feed pauses. Then it reports how many messages
it skipped, and which connections have ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import secrets
import sys
import time
from collections import deque

import trio

from rawws import logs
from rawws.errors import ConnectionClosed
from rawws.inspection import records
from rawws.inspection.records import Record
from rawws.page.questions import About, Questions
from rawws.relay.loop import current_loop
from rawws.tracing import Tracer
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.websocket.internals import count_besides
from rawws.wire.frame_recorder import PREVIEW_TAIL_BYTES
from rawws.wire.frames import Frame, Opcode
from rawws.wire.role import Role
from rawws.wire.trace import STATE, message_line, shorten

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

# The number of questions that are answered at the same time. The next one is not read before one of them has its
# answer, so a page that doesn't read the answers costs no more than these.
ANSWERED_AT_ONCE = 8

# The most characters of a User-Agent that the page gets, for a connection whose request it hasn't seen.
AGENT_CHARACTERS = 200
_AGENT = re.compile(rb"\nuser-agent:[ \t]*([^\r\n]*)", re.IGNORECASE)


@functools.cache
def _instance() -> str:
    """Return the id by which a page that reconnects recognizes the same server, with the same connections.

    It is made by the serving process, not by the import: forks of one program are different servers.
    """
    return secrets.token_hex(8)


class Feed:
    """A sink that sends a tracer's records to one page."""

    def __init__(self, websocket: WebSocket, tracer: Tracer, about: About) -> None:
        self.shown_bytes = TOLD_BYTES
        self.wants_frames = True
        self._websocket = websocket
        self._tracer = tracer
        self._about = about
        self._questions = Questions(tracer, about)
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
        record = {
            "at": time.time(),
            "connection": connection,
            **records.frame_record(sender, shortened(frame)),
            **describe_message(frame),
        }
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
                "agent": self._agent_of(each.number),
            }
            for each in listed
        ]
        return {"open": connections, "unlisted": unlisted}

    def _agent_of(self, connection: int) -> str:
        kept = self._tracer.handshake_of(connection)
        found = None if kept is None else _AGENT.search(kept.request)
        return "" if found is None else found[1].decode("latin-1")[:AGENT_CHARACTERS]

    def _describe(self) -> Record:
        no_groups = self._about.why_no_groups()
        return {
            "version": __version__,
            "uri": self._about.uri if self._about.is_tap else None,
            "is_tap": self._about.is_tap,
            "instance": _instance(),
            "case_path": self._about.case_path,
            "path": self._about.path,
            "has_rooms": self._about.has_rooms,
            "no_groups": None if no_groups is None else no_groups.advice,
        }

    async def _answer(self, message: str | bytes) -> None:
        await self._send(await self._questions.answer(message))
        self._answering.release()

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
    """Return a record's members for the message that ends with a frame, if the frame's payload doesn't show it."""
    message = frame.message
    if not message_line(frame) or message is None or message.is_lost:
        return {}
    record: Record = {}
    if message.opcode is Opcode.TEXT:
        record["text"] = message.beginning.decode(errors="replace" if message.is_whole else "ignore")
    else:
        record["data"] = message.beginning.hex()
    if frame.header.rsv1:
        record["message_size"] = message.size
    if not message.is_all_known:
        record["cut"] = True
    return record
