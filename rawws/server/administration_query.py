"""The queries of administration: which rooms or connections, and how to end them.

A name that isn't known is refused, unlike in the query of a room: a misspelt ``?user=`` would be a request about
everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from rawws.errors import UsageError
from rawws.hub.administration import MAX_ENTRIES, USUAL_ENTRIES, PeersWanted, Place, RoomsWanted
from rawws.wire.events import CloseFrame, check_close

ENDED_CODE = 1008
ENDED_REASON = "an operator has ended this connection"

_MAX_PARAMETERS = 20
_MAX_DIGITS = 15
_LIST = ("limit", "after", "node")


def read_rooms(query: str) -> RoomsWanted:
    """Return the rooms that a query asks for. Raises `UsageError`."""
    given = _read(query, (*_LIST, "room"))
    place = _place(given)
    after = None if place is None else Place(place[0], f"/{place[1]}")
    return RoomsWanted(_limit(given), after, given.get("node"), _room(given))


def read_peers(query: str) -> PeersWanted:
    """Return the connections that a query asks for. Raises `UsageError`."""
    given = _read(query, (*_LIST, "user", "number", "room"))
    place = _place(given)
    after = None if place is None else Place(place[0], _whole("after", place[1]))
    return PeersWanted(_limit(given), after, given.get("node"), _user(given), _number(given), _room(given))


def read_disconnect(query: str) -> tuple[PeersWanted, CloseFrame]:
    """Return the connections that a query has ended, and their close. Raises `UsageError`.

    They are those of one user, or one by its number.
    """
    given = _read(query, ("user", "number", "node", "code", "reason"))
    if ("user" in given) == ("number" in given):
        both = "both were given" if given.keys() >= {"user", "number"} else "neither was given"
        raise UsageError(f"say whose connections to end, with user=, or which one, with number=; {both}")
    wanted = PeersWanted(node=given.get("node"), user=_user(given), number=_number(given))
    code = _whole("code", given.get("code", str(ENDED_CODE)))
    return wanted, check_close(code, given.get("reason", ENDED_REASON))


def read_history(query: str) -> str:
    """Return the path of the room that a query is about. Raises `UsageError`."""
    room = _room(_read(query, ("room",)))
    if room is None:
        raise UsageError("say which room, with room=, such as room=/room/x")
    return room


def read_group(query: str) -> tuple[str, str]:
    """Return the path of a room and the name of a group. Raises `UsageError`."""
    given = _read(query, ("room", "group"))
    room, group = _room(given), given.get("group")
    if room is None or not group:
        raise UsageError("say which group, with room= and group=, such as room=/room/x&group=sms")
    return room, group


def read_nothing(query: str) -> None:
    """Raises `UsageError` for a query, where none is known."""
    if query:
        raise UsageError("there is nothing to choose here; leave the query out")


def _read(query: str, known: Collection[str]) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise UsageError("it isn't percent-encoded UTF-8") from None
    except ValueError:
        raise UsageError(f"it has more than {_MAX_PARAMETERS} parameters") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise UsageError(f"there is no {name[:60]!r} here; give {', '.join(sorted(known))}")
        if name in given:
            raise UsageError(f"it has {name} twice")
        given[name] = value
    return given


def _limit(given: Mapping[str, str]) -> int:
    limit = _whole("limit", given.get("limit", str(USUAL_ENTRIES)))
    if not 1 <= limit <= MAX_ENTRIES:
        raise UsageError(f"limit is 1 to {MAX_ENTRIES}")
    return limit


def _place(given: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the node and the key of the entry after which the list goes on."""
    if "after" not in given:
        return None
    node, slash, key = given["after"].partition("/")
    if not node or not slash:
        raise UsageError("after is the 'next' of the answer before")
    return node, key


def _user(given: Mapping[str, str]) -> str | None:
    user = given.get("user")
    if user == "":  # such as of a variable that isn't set
        raise UsageError("user is empty; a client without a name has none, and is named by its number")
    return user


def _number(given: Mapping[str, str]) -> int | None:
    return None if "number" not in given else _whole("number", given["number"])


def _room(given: Mapping[str, str]) -> str | None:
    room = given.get("room")
    if room is not None and not room.startswith("/"):
        raise UsageError(f"room={room[:60]!r} is not a path; give one such as /room/x")
    return room


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise UsageError(f"{name}={text[:60]!r} is not a number")
    return int(text)
