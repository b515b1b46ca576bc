"""Questions of administration and their answers, as other nodes or other writers to Redis may send them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from rawws.broadcast.node_answers import NodeAnswer, NodeName
from rawws.errors import UsageError
from rawws.hub.administration import (
    MAX_ENTRIES,
    Page,
    PeerEntry,
    PeersWanted,
    Place,
    RoomEntry,
    RoomsWanted,
    WorkerEntry,
)
from rawws.hub.node_lists import (
    end_body,
    items_of,
    read_end_question,
    read_ended,
    read_page,
    read_peer,
    read_peers_question,
    read_room,
    read_rooms_question,
    spellings,
)
from rawws.wire.events import CloseFrame

NAME = NodeName("aa", "north:1")
PEERS = [PeerEntry(number, "north:1", "ä", ["/x"], "poll", "192.0.2.1:7", "2026") for number in (3, 5)]
PEERS.append(WorkerEntry(6, "north:1", None, ["/x"], "worker", "192.0.2.1:8", "2026", "sms", 2))
PEER = asdict(PEERS[0])
WRONG: tuple[object, ...] = (float("nan"), {}, -1)
ROOM = RoomEntry("/x", "north:1", 1, 2, 3, 4, 5, "0-6")


def through_redis(value: object) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("after", [None, Place("north:1", "/x")])
def test_a_question_about_rooms_is_read_as_it_was_asked(after: Place[str] | None) -> None:
    wanted = RoomsWanted(7, after, "north:1", "/ä")
    assert read_rooms_question(through_redis(asdict(wanted))) == wanted


@pytest.mark.parametrize("after", [None, Place("north:1", 5)])
def test_a_question_about_connections_is_read_as_it_was_asked(after: Place[int] | None) -> None:
    wanted = PeersWanted(7, after, "north:1", "alice", 9, "/x")
    assert read_peers_question(through_redis(asdict(wanted))) == wanted
    close = CloseFrame(4403, "out")
    assert read_end_question(through_redis(end_body(wanted, close))) == (wanted, close)


def test_a_question_gets_no_more_entries_than_an_operator() -> None:
    assert read_peers_question({"limit": 1 << 40}).limit == MAX_ENTRIES
    assert read_rooms_question({"limit": 0}).limit == 1


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"limit": "1"}, {"limit": True}, {"limit": -1}, {"limit": 1 << 70}),
        *({"limit": 1, "after": 5}, {"limit": 1, "after": {}}, {"limit": 1, "after": {"node": "a", "key": []}}),
        *({"limit": 1, "room": ["/x"]}, {"limit": 1, "room": "\ud800"}, {"limit": 1, "node": 1}),
    ],
)
def test_a_question_that_no_node_asks_is_refused(body: dict[str, Any]) -> None:
    for read in (read_rooms_question, read_peers_question):
        with pytest.raises(UsageError):
            read(body)


@pytest.mark.parametrize(
    "body",
    [
        *(
            {},
            {"wanted": 5},
            {"wanted": {"limit": 1, "number": 1}},
            {"wanted": {"limit": 1, "number": 1}, "close": [1]},
        ),
        {"wanted": {"limit": 1}, "close": [1008, "all of them"]},
        {"wanted": {"limit": 1, "number": 1}, "close": ["1008", ""]},
        {"wanted": {"limit": 1, "number": 1}, "close": [1005, ""]},
        {"wanted": {"limit": 1, "user": "x"}, "close": [1008, "\ud800"]},
    ],
)
def test_an_end_that_is_not_of_some_connection_ends_nobody(body: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        read_end_question(body)


@pytest.mark.parametrize(
    ("user", "others"),
    [
        ("alice", []),
        ("42", [42]),
        ("-42", [-42]),
        ("18446744073709551615", [(1 << 64) - 1]),
        ("-18446744073709551615", [1 - (1 << 64)]),
        *((each, []) for each in ("042", "-0", "--1", "-", "+1", "1.0", "True", "\u0664\u0662", "9" * 5000)),
    ],
)
def test_a_user_that_is_a_number_for_a_program_is_found_by_its_digits(user: str, others: list[int]) -> None:
    assert spellings(user) == [user, *others]


@pytest.mark.parametrize(
    "page",
    [
        Page("north:1"),
        Page("north:1", PEERS),
        Page("north:1", PEERS, PEERS[-1].place),
        Page("north:1", PEERS, Place("north:1", 9)),  # the last entries have gone meanwhile
        Page("north:1", (), Place("north:1", 9)),
    ],
)
def test_a_page_arrives_as_it_was_sent(page: Page[PeerEntry]) -> None:
    answer = NodeAnswer(NAME, tuple(through_redis(list(items_of([page])))))
    found = read_page(answer, Place("north:1", 2), read_peer)
    assert (found.node, list(found.entries), found.next) == ("north:1", list(page.entries), page.next)


def test_a_room_arrives_as_it_was_sent() -> None:
    answer = NodeAnswer(NAME, (None, through_redis(asdict(ROOM))))
    assert read_page(answer, None, read_room) == Page("north:1", [ROOM])


def test_a_page_that_was_too_large_goes_on_after_its_last_entry() -> None:
    found = read_page(NodeAnswer(NAME, (9, PEER), left_out=1), None, read_peer)
    assert found == Page("north:1", PEERS[:1], Place("north:1", 3))


def test_a_node_that_was_not_asked_has_nothing() -> None:
    nothing: Page[PeerEntry] = Page("north:1")
    assert read_page(NodeAnswer(NAME, ()), None, read_peer) == nothing


def test_an_entry_is_of_the_node_that_answers() -> None:
    answer = NodeAnswer(NAME, (None, {**PEER, "node": "south:2", "more": 1}))
    assert read_page(answer, None, read_peer).entries == PEERS[:1]


@pytest.mark.parametrize(
    "items",
    [
        *(({"a": 1},), ("x",), (float("inf"),), (1 << 70,), (None, 5), (None, {})),
        *((None, {**PEER, field: value}) for field in PEER if field != "node" for value in WRONG),
        *((None, {**PEER, "rooms": [1]}), (None, {**PEER, "user": "\ud800"}), (None, {**PEER, "number": True})),
        *((None, PEER, PEER), (2, PEER), (2,)),  # a list that would have no end
        (None, {**PEER, "number": 2}),
    ],
)
def test_a_page_that_no_node_writes_is_refused(items: tuple[object, ...]) -> None:
    with pytest.raises(UsageError):
        read_page(NodeAnswer(NAME, items), Place("north:1", 2), read_peer)


@pytest.mark.parametrize("items", [(), (None,)])
def test_a_page_without_an_entry_that_is_short_enough_is_not_taken_for_the_end(items: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match="short enough"):
        read_page(NodeAnswer(NAME, items, left_out=1), None, read_room)


@pytest.mark.parametrize(
    ("items", "ended"), [((), {}), ((["north:1", 2],), {"north:1": 2}), ((["x", 0],), {"north:1": 0})]
)
def test_a_node_counts_its_own_ends(items: tuple[object, ...], ended: dict[str, int]) -> None:
    assert read_ended(NodeAnswer(NAME, items)) == ended


@pytest.mark.parametrize("item", [5, "ab", ["n"], ["n", -5], ["n", "many"], ["n", True], {}])
def test_a_count_that_no_node_writes_is_refused(item: object) -> None:
    with pytest.raises(UsageError):
        read_ended(NodeAnswer(NAME, (item,)))
