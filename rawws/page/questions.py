"""The questions that a page may ask over its WebSocket, with a number of its choice.

Each gets ``{"answer": number, ...}`` or ``{"answer": number, "error": "..."}``:

===================================================  ============================================================
``{"ask": 1, "for": "frame", "frame": {...}}``       ``fields``: its header bit by bit; ``meaning`` of a close
``{"ask": 2, "for": "handshake", "connection": 3}``  ``records``: heads and checks of a connection that was open
                                                     before the page; none if they aren't known any more
``{"ask": 3, "for": "cases"}``                       ``cases``: the conformance cases for a server, in groups
``{"ask": 4, "for": "case", "name": "...",           ``sent``, ``received``, ``story``, ``verdict``, ``got``: the
"path": "/"}``                                       result of this case with this server
===================================================  ============================================================
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from rawws.errors import RawwsError, Refusal
from rawws.inspection import dissect, records
from rawws.inspection.conformance import BY_NAME, CASES, Case
from rawws.inspection.observer import Observer
from rawws.inspection.records import Record
from rawws.inspection.seen import Head
from rawws.tools.checker import Checker, Result
from rawws.tracing import Tracer
from rawws.wire.frames import Opcode
from rawws.wire.role import Role

CASE_PATIENCE_S = 2.0
CASES_AT_ONCE = 4
# A question about a frame is the longest by far, and this is larger than that.
MAX_QUESTION_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class About:
    """A description of the watched server. Cases are run against ``uri``, and clients connect to it.

    ``is_tap`` says that another server serves the page. A WebSocket can be opened at ``path``; ``has_rooms`` says that
    this is a room, over HTTP too; ``why_no_groups`` returns why its messages can't be shared as jobs, None if they can.
    ``case_headers`` are those of the requests for ``case_path``, which may need a token.
    """

    uri: str
    ssl: ssl.SSLContext | None = None
    is_tap: bool = False
    case_path: str = "/"
    case_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    path: str = "/room"
    has_rooms: bool = False
    why_no_groups: Callable[[], Refusal | None] = lambda: None


class Questions:
    """Answers the questions of one page."""

    def __init__(self, tracer: Tracer, about: About) -> None:
        self._tracer = tracer
        self._about = about
        self._trying = trio.CapacityLimiter(CASES_AT_ONCE)

    async def answer(self, message: str | bytes) -> Record:
        """Return the answer to a message, which may be anything."""
        asked: Any = None
        try:
            if len(message) > MAX_QUESTION_CHARACTERS:
                raise ValueError(f"a question has {MAX_QUESTION_CHARACTERS} characters at most")
            asked = json.loads(message)
            answer = await self._answers[asked["for"]](self, asked)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError, RawwsError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answer = {"error": f"this can't be answered: {reason or type(error).__name__}"}
        number = asked.get("ask") if isinstance(asked, dict) else None
        return {"answer": number if isinstance(number, int) else None, **answer}

    async def _explain_frame(self, asked: Mapping[str, Any]) -> Record:
        frame = records.read_frame(asked["frame"])
        return {
            "fields": [field._asdict() for field in dissect.fields_of(frame.header)],
            "meaning": dissect.describe_payload(frame) if frame.header.opcode == Opcode.CLOSE else "",
        }

    async def _show_handshake(self, asked: Mapping[str, Any]) -> Record:
        kept = self._tracer.handshake_of(int(asked["connection"]))
        if kept is None:
            return {"records": []}
        observer = Observer()
        seen = [*observer.receive(Role.CLIENT, kept.request), *observer.receive(Role.SERVER, kept.response)]
        found: list[Record] = []
        for head in seen:
            if isinstance(head, Head):
                found.append(records.head_record(head.sender, head.raw))
                found.append(records.checks_record(head.sender, head.checks, head.accept))
        return {"records": found}

    async def _list_cases(self, asked: Mapping[str, Any]) -> Record:
        names = ("name", "title", "section", "rule")
        return {"cases": [{**{name: getattr(case, name) for name in names}, "group": group_of(case)} for case in CASES]}

    async def _run_case(self, asked: Mapping[str, Any]) -> Record:
        case = BY_NAME[asked["name"]]
        path = str(asked.get("path") or self._about.case_path)
        # No proxy is used, since the case is for this server or the tap, and a proxy may lead elsewhere.
        checker = Checker(
            f"{self._about.uri}/{path.lstrip('/')}",
            ssl=self._about.ssl,
            headers=self._about.case_headers if path == self._about.case_path else {},
            proxy=None,
            patience_s=CASE_PATIENCE_S,
        )
        async with self._trying:
            return describe_result(await checker.run_case(case))

    _answers = {  # noqa: RUF012
        "frame": _explain_frame,
        "handshake": _show_handshake,
        "cases": _list_cases,
        "case": _run_case,
    }


def group_of(case: Case) -> str:
    """Return the group in which the page lists a case."""
    if case.is_about_handshake:
        return "The handshake"
    if case.begins_with_close:
        return "Closing"
    return "Broken frames" if case.half or case.rule.startswith("fail the connection") else "Legal frames"


def describe_result(result: Result) -> Record:
    """Return the result of a case."""
    return {
        "name": result.case.name,
        "sent": result.sent.hex(),
        "received": result.answer.raw.hex(),
        "story": result.story(),
        **{"verdict": result.outcome.verdict.value, "got": result.outcome.got},
    }
