"""The queries of administration: what they ask for, and the sentence about one that can't be answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rawws.errors import UsageError
from rawws.hub.administration import PeersWanted, Place, RoomsWanted
from rawws.server.administration_query import (
    ENDED_CODE,
    ENDED_REASON,
    read_disconnect,
    read_history,
    read_peers,
    read_rooms,
)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", RoomsWanted()),
        ("limit=1000", RoomsWanted(limit=1000)),
        ("limit=1&after=host:1/room/x", RoomsWanted(1, Place("host:1", "/room/x"))),
        ("after=host:1//x", RoomsWanted(after=Place("host:1", "//x"))),
        ("node=host:1&room=/a%2520b", RoomsWanted(node="host:1", room="/a%20b")),
    ],
)
def test_rooms_that_are_asked_for(query: str, wanted: RoomsWanted) -> None:
    assert read_rooms(query) == wanted


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", PeersWanted()),
        ("&&", PeersWanted()),
        ("user=42", PeersWanted(user="42")),
        ("user=%C3%A9+%2B%26%3D", PeersWanted(user="é +&=")),
        ("number=7&room=/x", PeersWanted(number=7, room="/x")),
        ("after=host:1/7&node=host:1", PeersWanted(after=Place("host:1", 7), node="host:1")),
    ],
)
def test_connections_that_are_asked_for(query: str, wanted: PeersWanted) -> None:
    assert read_peers(query) == wanted


@pytest.mark.parametrize(
    ("query", "wanted", "close"),
    [
        ("user=42", PeersWanted(user="42"), (ENDED_CODE, ENDED_REASON)),
        ("number=7&node=host:1", PeersWanted(number=7, node="host:1"), (ENDED_CODE, ENDED_REASON)),
        ("user=a&code=4403&reason=out", PeersWanted(user="a"), (4403, "out")),
        ("user=a&reason=", PeersWanted(user="a"), (ENDED_CODE, "")),
    ],
)
def test_connections_that_are_ended(query: str, wanted: PeersWanted, close: tuple[int, str]) -> None:
    assert read_disconnect(query) == (wanted, close)


def test_a_room_whose_history_is_cleared() -> None:
    assert read_history("room=/room/x") == "/room/x"


@pytest.mark.parametrize(
    ("read", "query", "sentence"),
    [
        (read_rooms, "usr=x", "there is no 'usr' here; give after, limit, node, room"),
        (read_rooms, "user=x", "there is no 'user' here"),
        (read_rooms, "ROOM=/x", "there is no 'ROOM' here"),
        (read_rooms, "=", "there is no '' here"),
        (read_rooms, "access_token=x", "there is no 'access_token' here"),
        (read_rooms, "room=x", "room='x' is not a path"),
        (read_rooms, "room=/x&room=/x", "it has room twice"),
        (read_rooms, "limit=0", "limit is 1 to 1000"),
        (read_rooms, "limit=1001", "limit is 1 to 1000"),
        (read_rooms, "limit=-1", "limit='-1' is not a number"),
        (read_rooms, "limit=", "limit='' is not a number"),
        (read_rooms, "limit=%D9%A1", "limit='١' is not a number"),
        (read_rooms, "after=x", "after is the 'next' of the answer before"),
        (read_rooms, "after=/x", "after is the 'next'"),
        (read_rooms, "room=%FF", "it isn't percent-encoded UTF-8"),
        (read_rooms, "&".join(["limit=1"] * 21), "it has more than 20 parameters"),
        (read_peers, "user=", "user is empty"),
        (read_peers, "number=x", "number='x' is not a number"),
        (read_peers, f"number={'9' * 5000}", "is not a number"),
        (read_peers, "after=host:1/x", "after='x' is not a number"),
        (read_peers, "code=1000", "there is no 'code' here"),
        (read_disconnect, "", "with user=, or which one, with number=; neither was given"),
        (read_disconnect, "user=a&number=1", "both were given"),
        (read_disconnect, "room=/x", "there is no 'room' here"),
        (read_disconnect, "user=", "user is empty"),
        (read_disconnect, "user=a&code=1005", "1005 can't be sent as a close code"),
        (read_disconnect, "user=a&code=99999", "can't be sent as a close code"),
        (read_disconnect, f"user=a&reason={'x' * 124}", "a close reason of 124 bytes is too long"),
        (read_history, "", "say which room"),
        (read_history, "room=", "room='' is not a path"),
    ],
)
def test_a_query_that_can_not_be_answered(read: Callable[[str], object], query: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(query)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 250
