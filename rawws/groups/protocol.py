"""The language of a group and its workers, sans-IO: the query of a group, and the lines of ``rawws.id.v1``.

A worker's WebSocket is sent each job as a message after a line ``{"id":"9f2c41d7-7","try":1}``, and answers with one of
``{"ack":ID}``, ``{"nak":ID,"in":30}``, ``{"more":ID}`` and ``{"term":ID,"why":"…"}``. A worker with HTTP says the same
in the query of a POST.
"""

from __future__ import annotations

import difflib
import enum
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from rawws.broadcast.json_messages import as_compact_json
from rawws.broadcast.message_ids import MessageId, parse_id
from rawws.broadcast.query import MAX_WAIT_S
from rawws.errors import Refusal, UsageError
from rawws.wire.events import PlainEvent
from rawws.wire.frames import Opcode, encode_frame

_TEXT = Opcode.TEXT  # a global is found faster than an Enum's member

# A group's name is a part of the path of its dead room.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME_RULE = "1 to 32 letters, digits, - and _, and begins with a letter or a digit"

MAX_IN_FLIGHT = 1000
MAX_ACK_S = 43_200  # 12 hours
MAX_TRIES = 1000
MAX_DELAY_S = 604_800  # a week
MAX_WHY_CHARACTERS = 500
MAX_ANSWER_BYTES = 4096
MAX_LEASE_CHARACTERS = 64
# The code of a close after an operator has ended the group. To connect again would make it anew.
GROUP_ENDED = 4410
MAX_DIGITS = 19  # of the number in an id
MAX_UNKNOWN = 20  # names in a query, each of which is compared with ours

_FOR_WORKERS = ("group", "max", "ack", "tries", "since", "last", "wait", "state")
_FOR_ANSWERS = ("group", "lease", "ack", "nak", "more", "term", "in", "why")
_NOT_FOR_WORKERS = ("peers", "presence", "json")

# The answer that nearly every job gets, as clients write it.
_ACK = re.compile(r'\s*\{\s*"ack"\s*:\s*"([0-9a-z]{1,32})-([0-9]{1,19})"\s*\}\s*', re.ASCII)
_EXPECTED = '{"ack":ID}, {"nak":ID,"in":30}, {"more":ID} or {"term":ID,"why":"…"}'


class Verb(enum.Enum):
    """The words of a worker about a job."""

    ACK = "ack"  # it is done
    NAK = "nak"  # it is to be tried again
    MORE = "more"  # the worker is still at it
    TERM = "term"  # another try is no use


_VERBS = {verb.value: verb for verb in Verb}
_MEMBERS = {
    Verb.ACK: {"ack"},
    Verb.NAK: {"nak", "in", "why"},
    Verb.MORE: {"more"},
    Verb.TERM: {"term", "why"},
}


class Answer(NamedTuple):
    """A worker's word about a job."""

    verb: Verb
    job: MessageId
    in_s: float = 0.0  # the least wait before the next try
    why: str = ""


@dataclass(frozen=True, slots=True)
class GroupQuery:
    """The query of a worker that wants jobs of a group, or of somebody who looks at it."""

    group: str
    most: int = 1  # the most jobs that it has at a time
    ack_s: float = 30.0  # the time that it has for each
    tries: int = 5  # the deliveries after which a job is dead
    since: MessageId | None = None  # a new group begins after this message
    last: int | None = None  # or with this many of the last ones
    wait_s: float = 0.0
    wants_state: bool = False


class AnswerQuery(NamedTuple):
    """The query of a POST in which a worker answers, with the token of its lease (empty without one)."""

    group: str
    answer: Answer
    lease: str = ""


def names_group(query: str) -> bool:
    """Return whether a query is about a group."""
    return "group" in query and any(name == "group" for name, _ in parse_qsl(query, keep_blank_values=True))


def read_group_query(query: str) -> GroupQuery:
    """Read the query of a worker. Raises `UsageError`."""
    given = _read_names(query, _FOR_WORKERS)
    for name in _NOT_FOR_WORKERS:
        if name in given:
            raise UsageError(f"a worker gets jobs alone, so {name} doesn't go with group in the query")
    since, last = given.get("since"), given.get("last")
    if since and last:
        raise UsageError("a group begins after a message (since) or with the last ones (last), and not both")
    return GroupQuery(
        check_name(given["group"]),
        _number(given, "max", 1, 1, MAX_IN_FLIGHT),
        float(_number(given, "ack", 30, 1, MAX_ACK_S)),
        _number(given, "tries", 5, 1, MAX_TRIES),
        since=parse_id(since) if since else None,
        last=None if last is None else _number(given, "last", 0, 0, 999_999_999),
        wait_s=min(float(_number(given, "wait", 0, 0, 999_999_999)), MAX_WAIT_S),
        wants_state="state" in given,
    )


def read_answer_query(query: str) -> AnswerQuery:
    """Read the query of a POST in which a worker answers. Raises `UsageError`."""
    given = _read_names(query, _FOR_ANSWERS)
    group = check_name(given.pop("group"))
    lease = given.pop("lease", "")
    if len(lease) > MAX_LEASE_CHARACTERS:
        raise UsageError("the lease in the query isn't one that Rawws-Lease has told")
    verbs = [name for name in given if name in _VERBS]
    if len(verbs) != 1:
        raise UsageError("a worker's POST says one of ack=ID, nak=ID, more=ID and term=ID in the query")
    members: dict[str, Any] = dict(given)
    if "in" in given:
        members["in"] = _seconds_of(given["in"])
    return AnswerQuery(group, _read_members(members, "the query"), lease)


def read_answer(message: str | bytes) -> Answer:
    """Read the message of a worker. Raises `UsageError`, in at most 120 characters besides those of the message."""
    if len(message) > MAX_ANSWER_BYTES:
        raise UsageError(f"a worker's answer has {MAX_ANSWER_BYTES} bytes at most, and this one {len(message)}")
    if isinstance(message, str) and (plain := _ACK.fullmatch(message)):
        return Answer(Verb.ACK, MessageId(plain[1], int(plain[2])))
    try:
        members = json.loads(message)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise UsageError(f"a worker sends {_EXPECTED}, not {_shown(message)}")
    return _read_members(members, "the answer")


def _read_members(members: Mapping[str, Any], what: str) -> Answer:
    verbs = [name for name in members if name in _VERBS]
    if len(verbs) != 1:
        raise UsageError(f"{what} says one of ack, nak, more and term, not {' and '.join(verbs) or 'none'}")
    (name,) = verbs
    verb = _VERBS[name]
    if unknown := [other for other in members if other not in _MEMBERS[verb]]:
        raise UsageError(f"{what} {name} has no {str(unknown[0])[:30]!r}")
    given = members[name]
    if not isinstance(given, str):
        raise UsageError(f"{name} has the id of a job, as a text")
    why = members.get("why", "")
    if not isinstance(why, str):
        raise UsageError("why is a text")
    return Answer(verb, parse_id(given), _check_delay(members.get("in", 0)), _clean(why))


def _check_delay(given: object) -> float:
    """Return the seconds of ``in``. NaN isn't within the bounds."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not 0 <= given <= MAX_DELAY_S:  # type: ignore[operator]
        raise UsageError(f"in is a number of seconds, from 0 to {MAX_DELAY_S}")
    return float(given)  # type: ignore[arg-type]


def _seconds_of(given: str) -> float | str:
    try:
        return float(given)
    except ValueError:
        return given  # which is no number


def _clean(why: str) -> str:
    """Return a reason in one line, and shortened, as it stands in a log and in a dead job."""
    line = "".join(character if character.isprintable() else " " for character in why[: MAX_WHY_CHARACTERS + 1])
    return line if len(line) <= MAX_WHY_CHARACTERS else line[: MAX_WHY_CHARACTERS - 1] + "…"


def _shown(message: str | bytes) -> str:
    return "binary data" if isinstance(message, bytes) else repr(message if len(message) <= 30 else message[:29] + "…")


def _read_names(query: str, names: tuple[str, ...]) -> dict[str, str]:
    """Return the values of the names that are ours. A name that is nearly one of them is a mistake."""
    given: dict[str, str] = {}
    unknown = 0
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in names or name in _NOT_FOR_WORKERS:
            if name in given:
                raise UsageError(f"the query has {name} twice")
            given[name] = value
        elif (unknown := unknown + 1) > MAX_UNKNOWN:
            raise UsageError(f"the query of a group has more than {MAX_UNKNOWN} names that mean nothing to it")
        elif meant := difflib.get_close_matches(name[:40], names, 1, 0.66):
            raise UsageError(f"the query of a group has no {name[:40]!r}; perhaps {meant[0]} is meant")
    return given


def check_name(name: str) -> str:
    """Return the name of a group. Raises `UsageError` for one that can't be."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a group's name has {_NAME_RULE}; it can't be {name[:60]!r}")
    return name


def _number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    is_number = value.isascii() and value.isdigit() and len(value) < 10
    if not is_number or not least <= int(value) <= most:
        raise UsageError(f"{name}={value[:60]!r} in the query is not a number from {least} to {most}")
    return int(value)


# Texts for workers


class JobLines:
    """The lines about jobs of one epoch that nearly all are: the head of a delivery, and an ``ack``."""

    __slots__ = ("_ack", "_ack_size", "_head", "_most", "epoch")

    def __init__(self, epoch: str) -> None:
        """``epoch`` may be empty; then no line is about its jobs."""
        self.epoch = epoch
        self._head = b'{"id":"%b-' % epoch.encode()
        self._ack = b'{"ack":"%b-' % epoch.encode()
        self._ack_size = len(self._ack)
        self._most = self._ack_size + MAX_DIGITS + 2

    def with_head(self, number: int, tried: int, payload: bytes) -> bytes:
        """Return the payload of a job as a worker's WebSocket gets it."""
        return b'%b%d","try":%d}\n%b' % (self._head, number, tried, payload)

    def acknowledged(self, events: Iterable[PlainEvent]) -> list[int]:
        """Return the jobs that the first messages acknowledge, up to one that is anything else.

        An ``ack`` is known here in the shortest form of its JSON. `read_answer` has to judge the other messages.
        """
        ack, size, most = self._ack, self._ack_size, self._most
        numbers: list[int] = []
        for event in events:
            if type(event) is not tuple:  # it is no whole message
                break
            opcode, payload = event  # type: ignore[misc]
            if opcode is not _TEXT or not payload.startswith(ack) or not payload.endswith(b'"}'):
                break
            digits = payload[size:-2]
            if not digits.isdigit() or len(payload) > most:
                break
            numbers.append(int(digits))
        return numbers


class Obituary(NamedTuple):
    """The facts about a dead job, as they stand in its dead room."""

    id: str
    group: str
    tries: int
    reason: str
    worker: str  # the last one; empty if it isn't known


def encode_dead(about: Obituary, opcode: Opcode, payload: bytes) -> bytes:
    """Return the frame of a job in its dead room: a line of JSON, and then the payload as it was."""
    return encode_frame(opcode, as_compact_json(about._asdict()) + b"\n" + payload)


def lost_lease(job: MessageId) -> str:
    """Return the line for a worker that answers for a job which it no longer has."""
    members = {"lost": str(job), "why": NOT_LEASED.sentence}
    return as_compact_json(members).decode() + "\n"


NOT_LEASED = Refusal(
    404, "not_leased", "This job is no longer leased to you; another worker may have it, or it is done."
)
