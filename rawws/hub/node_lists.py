"""The questions of administration between nodes, and the answers, as they come from another node.

Any program that can write to Redis can ask and answer. So both are read field by field, and one that no node would have
written raises `UsageError`. The first item of the answer with a list is the key after which the node's list goes on, or
null; the others are entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, TypeVar

from rawws.broadcast.node_answers import NodeAnswer
from rawws.errors import UsageError
from rawws.hub.administration import (
    MAX_ENTRIES,
    Entry,
    Page,
    PeerEntry,
    PeersWanted,
    Place,
    RoomEntry,
    RoomsWanted,
    WorkerEntry,
)
from rawws.wire.events import CloseFrame, check_close

MAX_NUMBER = (1 << 63) - 1

Value = TypeVar("Value")


# Questions


def end_body(wanted: PeersWanted, close: CloseFrame) -> dict[str, Any]:
    """Return the body of the question that ends connections of one node."""
    return {"wanted": asdict(wanted), "close": list(close)}


def read_rooms_question(body: Mapping[str, Any]) -> RoomsWanted:
    """Return the rooms that another node asks for. Raises `UsageError`."""
    optional = {name: _maybe(_text, body.get(name)) for name in ("node", "room")}
    return RoomsWanted(_limit(body), _place(body, _text), **optional)


def read_peers_question(body: Mapping[str, Any]) -> PeersWanted:
    """Return the connections that another node asks for. Raises `UsageError`."""
    node, user, room = (_maybe(_text, body.get(name)) for name in ("node", "user", "room"))
    return PeersWanted(_limit(body), _place(body, _whole), node, user, _maybe(_whole, body.get("number")), room)


def read_end_question(body: Mapping[str, Any]) -> tuple[PeersWanted, CloseFrame]:
    """Return the connections that another node has ended, and their close.

    Raises `UsageError`, also for a question that would end all of them.
    """
    wanted = read_peers_question(_object(body.get("wanted")))
    if wanted.user is None and wanted.number is None:
        raise UsageError("it names neither a user nor a connection")
    code, reason = _pair(body.get("close"))
    return wanted, check_close(_whole(code), _text(reason))


def spellings(user: str) -> list[str | int]:
    """Return a user's name as others may have it: a program's user may be a number."""
    digits = user.removeprefix("-")
    is_number = digits.isascii() and digits.isdigit() and str(int(user[:21])) == user
    return [user, int(user)] if is_number else [user]


# Answers


def items_of(pages: Sequence[Page[Entry]]) -> Iterable[object]:
    """Yield the items of the answer of a node that has at most one page."""
    for page in pages:
        yield None if page.next is None else page.next.key
        yield from map(asdict, page.entries)


def read_page(answer: NodeAnswer, after: Place[Any] | None, read: Callable[[str, Any], Entry]) -> Page[Entry]:
    """Return the page that another node has sent; ``read`` is `read_room` or `read_peer`.

    A page that was too large goes on after its last entry. Its node is the one that has answered, whatever an entry
    says, and its keys grow, so that a list has an end. Raises `UsageError`.
    """
    node = answer.name.host
    if not answer.items and not answer.left_out:
        return Page(node)
    key, *items = answer.items or (None,)
    entries = [read(node, item) for item in items]
    places: list[Place[Any]] = [entry.place for entry in entries]
    keys: list[Any] = [after.key] if after is not None and after.node == node else []
    keys += [place.key for place in places]
    if answer.left_out:
        if not entries:
            raise UsageError("nothing of it was short enough")
    elif key is not None:
        place: Place[Any] = Place(node, _whole(key) if read is read_peer else _text(key))
        if place not in places[-1:]:
            places.append(place)
            keys.append(place.key)
    if any(first >= second for first, second in pairwise(keys)):
        raise UsageError("its keys don't grow")
    return Page(node, entries, places[-1] if answer.left_out or key is not None else None)


def read_room(node: str, item: object) -> RoomEntry:
    """Return a room of another node. Raises `UsageError`."""
    fields = _object(item)
    path, last_id = (_text(fields.get(name)) for name in ("room", "last_id"))
    numbers = [_whole(fields.get(name)) for name in ("websockets", "events", "polls", "messages", "bytes")]
    websockets, events, polls, messages, size = numbers
    return RoomEntry(path, node, websockets, events, polls, messages, size, last_id)


def read_peer(node: str, item: object) -> PeerEntry:
    """Return a connection of another node. Raises `UsageError`."""
    fields = _object(item)
    rooms = fields.get("rooms")
    if not isinstance(rooms, list):
        raise UsageError("the rooms are no list")
    kind, address, since = (_text(fields.get(name)) for name in ("kind", "address", "since"))
    user = _maybe(_text, fields.get("user"))
    facts = (_whole(fields.get("number")), node, user, list(map(_text, rooms)), kind, address, since)
    if kind == "worker":
        return WorkerEntry(*facts, _text(fields.get("group")), _whole(fields.get("jobs")))
    return PeerEntry(*facts)


def read_ended(answer: NodeAnswer) -> dict[str, int]:
    """Return how many connections another node has ended. Raises `UsageError`."""
    counts = [_whole(_pair(item)[1]) for item in answer.items]
    return {answer.name.host: sum(counts)} if counts else {}


# Fields


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError("it is no object")
    return value


def _pair(value: object) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise UsageError("it is no pair")
    return value


def _text(value: object) -> str:
    """Return a text that UTF-8 can encode: half of a surrogate pair in JSON is none."""
    if not isinstance(value, str) or (not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value)):
        raise UsageError("a text is required")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_NUMBER:
        raise UsageError("a whole number is required")
    return value


def _maybe(read: Callable[[object], Value], value: object) -> Value | None:
    return None if value is None else read(value)


def _limit(body: Mapping[str, Any]) -> int:
    return max(1, min(_whole(body.get("limit")), MAX_ENTRIES))


def _place(body: Mapping[str, Any], read: Callable[[object], Any]) -> Place[Any] | None:
    if body.get("after") is None:
        return None
    fields = _object(body["after"])
    return Place(_text(fields.get("node")), read(fields.get("key")))
