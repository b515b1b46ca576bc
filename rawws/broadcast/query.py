"""A reader's wishes in the query of its URL: ``since``, ``last``, ``wait``, ``presence`` and others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from rawws.broadcast.message_ids import MessageId, parse_id
from rawws.errors import Refusal, UsageError
from rawws.wire.messages import Request

# Proxies and browsers give up after 60 s or later.
MAX_WAIT_S = 55.0
_OURS = frozenset({"since", "last", "wait", "peers", "presence", "json"})
_ON = frozenset({"", "1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class RoomQuery:
    """A query about a room. With neither ``since`` nor ``last`` it asks for messages from now on."""

    since: MessageId | None = None
    last: int | None = None
    wait_s: float = 0.0
    wants_peers: bool = False
    wants_presence: bool = False
    wants_json: bool = False  # for events: each message as a JSON object, with its exact characters
    polls: bool = False  # it has one of since, last and wait


FROM_NOW_ON = RoomQuery()


def read_query(query: str) -> RoomQuery:
    """Read a query. Unknown names in it are ignored, since they may be an application's. Raises `UsageError`."""
    if not query:
        return FROM_NOW_ON
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _OURS:
            if name in given:
                raise UsageError(f"the query has {name} twice")
            given[name] = value
    since = given.get("since")
    wait_s = _number(given, "wait")
    return RoomQuery(
        since=parse_id(since) if since else None,
        last=_number(given, "last"),
        wait_s=min(float(wait_s or 0), MAX_WAIT_S),
        wants_peers=_flag(given, "peers"),
        wants_presence=_flag(given, "presence"),
        wants_json=_flag(given, "json"),
        polls=not given.keys().isdisjoint({"since", "last", "wait"}),
    )


def _flag(given: dict[str, str], name: str) -> bool:
    """Return whether a flag is set; a name without a value sets it."""
    value = given.get(name, "0").lower()
    if value not in _ON and value not in _OFF:
        raise UsageError(f"{name}={given[name][:60]!r} in the query is neither 1 (on) nor 0 (off)")
    return value in _ON


def _number(given: dict[str, str], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise UsageError(f"{name}={value[:60]!r} in the query is not a number")
    return int(value)


def read_request(request: Request) -> RoomQuery | Refusal:
    """Return the reading that a request's query asks for, or a refusal.

    ``Last-Event-ID`` overrides ``since``: a reader of events that reconnects asks for the same URL again.
    """
    try:
        reading = read_query(request.query)
        last_event = request.headers.get("Last-Event-ID")
        if last_event:
            return replace(reading, since=parse_id(last_event), last=None, wait_s=0.0, polls=False)
    except UsageError as error:
        return Refusal(400, "reading", f"This can't be read from: {error}.")
    return reading
