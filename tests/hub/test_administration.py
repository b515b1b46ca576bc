"""The rooms and connections of a hub as an operator sees them: the order, the pieces, and the ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import trio

from rawws.access.grant import Action, Admitted, Grant
from rawws.access.user import User
from rawws.broadcast.query import FROM_NOW_ON
from rawws.broadcast.stream_encodings import EVENTS
from rawws.errors import BackplaneAway, UsageError
from rawws.hub.administration import (
    LOOKED_AT,
    MAX_KEY,
    MAX_SHOWN_ROOMS,
    HubNode,
    Page,
    PeerEntry,
    PeersWanted,
    Place,
    RoomEntry,
    RoomsWanted,
    disconnect,
    gather_peers,
    gather_rooms,
    merge,
    name_user,
    room_key,
)
from rawws.hub.hub import Hub
from rawws.net.transport import Transport
from rawws.relay.leases import ENDS_AT_ONCE
from rawws.testing import open_pair
from rawws.wire.events import CloseFrame
from tests.serving.client import Client
from tests.serving.server import RunningHub, StartHub
from tests.serving.wire import seen_close

END = CloseFrame(1008, "over")


def room(node: str, path: str) -> RoomEntry:
    return RoomEntry(path, node, 0, 0, 0, 0, 0, "0-0")


def page(node: str, *paths: str, goes_on: bool = False) -> Page[RoomEntry]:
    entries = [room(node, path) for path in paths]
    return Page(node, entries, entries[-1].place if goes_on else None)


# Pure


@pytest.mark.parametrize(
    ("pages", "paths", "place"),
    [
        ([], [], None),
        ([page("a")], [], None),
        ([page("a", "/1", "/2")], ["/1", "/2"], None),
        ([page("a", "/1", "/2", "/3")], ["/1", "/2", "/3"], None),
        ([page("a", "/1", "/2", "/3", "/4")], ["/1", "/2", "/3"], "a/3"),
        ([page("a", "/1", goes_on=True)], ["/1"], "a/1"),
        ([page("b", "/1"), page("a", "/2")], ["/2", "/1"], None),
        ([page("b", "/1", "/2"), page("a", "/3", "/4")], ["/3", "/4", "/1"], "b/1"),
        ([page("a", "/1", goes_on=True), page("b", "/2")], ["/1"], "a/1"),
        ([page("a", "/1", "/2", "/3"), page("b", "/4")], ["/1", "/2", "/3"], "a/3"),
        ([page("a", "/1", "/2", "/3"), page("b")], ["/1", "/2", "/3"], None),
    ],
)
def test_the_pages_of_nodes_are_one_list(pages: Sequence[Page[RoomEntry]], paths: list[str], place: str | None) -> None:
    merged = merge(pages, 3)
    assert [entry.room for entry in merged.entries] == paths
    assert (None if merged.next is None else str(merged.next)) == place


@pytest.mark.parametrize(
    ("user", "name"),
    [
        (None, None),
        ("alice", "alice"),
        (User("alice"), "alice"),
        (Grant(), None),
        (42, "42"),
        (True, None),
        (1 << 64, None),
        ("", None),
        ("two\nlines", None),
        ("x" * 256, None),
        ("\ud800", None),
        ({"name": "alice"}, None),
    ],
)
def test_a_user_has_a_name_if_it_is_a_printable_text_or_a_number(user: object, name: str | None) -> None:
    assert name_user(user) == name


@pytest.mark.parametrize(
    ("wanted", "is_wanted"),
    [
        (PeersWanted(), True),
        (PeersWanted(user="alice"), True),
        (PeersWanted(user="Alice"), False),
        (PeersWanted(number=7), True),
        (PeersWanted(number=70), False),
        (PeersWanted(room="/x"), True),
        (PeersWanted(room="/X"), False),
        (PeersWanted(user="alice", room="/z"), False),
    ],
)
def test_a_connection_is_wanted_by_its_user_number_and_rooms(wanted: PeersWanted, is_wanted: bool) -> None:
    assert wanted.wants(7, User("alice"), iter(("/y", "/x"))) is is_wanted


# Several nodes


class Fails:
    """A node that can't be asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def list_rooms(self, wanted: RoomsWanted) -> Sequence[Page[RoomEntry]]:
        raise self._error

    async def list_peers(self, wanted: PeersWanted) -> Sequence[Page[PeerEntry]]:
        raise self._error

    async def disconnect(self, wanted: PeersWanted, close: CloseFrame) -> Mapping[str, int]:
        raise self._error


@pytest.mark.parametrize("error", [UsageError("too long"), BackplaneAway("too many wait")])
async def test_a_node_that_can_not_be_asked_is_the_callers_error_alone(error: Exception) -> None:
    for ask in (
        partial(gather_rooms, [Fails(error)], RoomsWanted()),
        partial(gather_peers, [Fails(error)], PeersWanted()),
        partial(disconnect, [Fails(error)], PeersWanted(user="alice"), END),
    ):
        with pytest.raises(type(error), match="too"):
            await ask()


async def test_connections_end_here_also_if_the_other_nodes_can_not_be_told(start_hub: StartHub) -> None:
    running = start_hub()
    clients = [add(running, number, "/x", "alice") for number in range(1, 2 * ENDS_AT_ONCE)]
    with pytest.raises(BackplaneAway):
        await disconnect([Fails(BackplaneAway("away")), HubNode(running.hub, "here")], PeersWanted(user="alice"), END)
    for client in clients:
        assert await client.frame() == seen_close(*END)


# The lists of a hub


def add(running: RunningHub, number: int, path: str, user: object = None, *, reads_events: bool = False) -> Client:
    """Put a connection with a user into a room."""
    ours, client = running.pair()
    admitted = Admitted(Action.READ, user)
    if reads_events:
        running.hub.stream_events(
            number, Transport(ours), path, FROM_NOW_ON, running.endpoint, encoding=EVENTS, admitted=admitted
        )
    else:
        running.adopt(Transport(ours), path, number=number, admitted=admitted)
    return client


async def test_rooms_with_long_paths_are_listed_in_pieces_with_short_places() -> None:
    hub = Hub(history=1)
    paths = sorted([*(f"/{'p' * 7000}{end}" for end in "abcdefgh"), "/" + "p" * (MAX_KEY - 1), "/", "/q"])
    for path in paths:
        hub.room(path).publish("x")
    node = HubNode(hub, "here")
    for limit in (1, 2, 3):
        found: list[str] = []
        after: Place[str] | None = None
        for _ in range(len(paths)):
            (piece,) = await node.list_rooms(RoomsWanted(limit, after))
            found += [entry.room for entry in piece.entries]
            if (after := piece.next) is None:
                break
            assert len(str(after)) < MAX_KEY + 50
        assert (after, sorted(found)) == (None, paths), limit
    assert sorted(paths, key=room_key) == found


async def test_rooms_are_listed_in_pieces_by_their_paths() -> None:
    hub = Hub(history=2)
    for path in ("/c", "/a", "/b"):
        for message in ("1", "2", "3"):
            hub.room(path).publish(message)
    node = HubNode(hub, "here")
    (first,) = await node.list_rooms(RoomsWanted(limit=2))
    assert [(each.room, each.messages, each.bytes) for each in first.entries] == [("/a", 2, 6), ("/b", 2, 6)]
    assert first.entries[0].last_id == hub.room("/a").last_id
    assert str(first.next) == "here/b"
    (rest,) = await node.list_rooms(RoomsWanted(limit=2, after=first.next))
    assert ([each.room for each in rest.entries], rest.next) == (["/c"], None)
    (one,) = await node.list_rooms(RoomsWanted(room="/b"))
    assert [each.room for each in one.entries] == ["/b"]
    (none,) = await node.list_rooms(RoomsWanted(room="/unknown"))
    assert not none.entries
    assert not hub.registry.find("/unknown"), "asking makes no room"
    assert not await node.list_rooms(RoomsWanted(node="elsewhere"))
    assert not await node.list_rooms(RoomsWanted(after=Place("later", "/a")))
    (from_start,) = await node.list_rooms(RoomsWanted(after=Place("earlier", "/c")))
    assert len(from_start.entries) == 3


async def test_others_are_served_while_many_rooms_are_listed(nursery: trio.Nursery) -> None:
    hub = Hub(history=1)
    for number in range(4 * LOOKED_AT):
        hub.room(f"/{number:05}").publish("x")
    turns = 0

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(spin)
    (listed,) = await HubNode(hub, "here").list_rooms(RoomsWanted(limit=1000, after=Place("here", "/00010")))
    assert turns >= 4
    assert [each.room for each in listed.entries] == [f"/{number:05}" for number in range(11, 1011)]


async def test_connections_are_listed_by_number_with_their_users_kinds_and_rooms(start_hub: StartHub) -> None:
    running = start_hub()
    add(running, 12, "/x", User("alice"))
    add(running, 3, "/y", "bob", reads_events=True)
    add(running, 7, "/x")
    node = HubNode(running.hub, "here")
    (found,) = await node.list_peers(PeersWanted())
    assert [(each.number, each.user, each.kind, each.rooms) for each in found.entries] == [
        (3, "bob", "events", ["/y"]),
        (7, None, "websocket", ["/x"]),
        (12, "alice", "websocket", ["/x"]),
    ]
    assert {(each.node, each.address) for each in found.entries} == {("here", "a Unix socket")}
    assert all(each.since.endswith("Z") and len(each.since) == 20 for each in found.entries)
    (first,) = await node.list_peers(PeersWanted(limit=1, room="/x"))
    assert ([each.number for each in first.entries], str(first.next)) == ([7], "here/7")
    (rest,) = await node.list_peers(PeersWanted(limit=1, room="/x", after=first.next))
    assert ([each.number for each in rest.entries], rest.next) == ([12], None)


async def test_a_connection_of_a_program_is_listed_once_with_the_first_of_its_rooms() -> None:
    hub = Hub()
    node = HubNode(hub, "here")
    async with open_pair() as (_, joined), open_pair() as (_, alone):
        for number in range(MAX_SHOWN_ROOMS + 5):
            hub.room(f"/{number:02}").join(joined)
        (found,) = await node.list_peers(PeersWanted())
        (entry,) = found.entries
        assert (entry.number, entry.user, entry.kind) == (joined.id, None, "websocket")
        assert entry.rooms == [f"/{number:02}" for number in range(MAX_SHOWN_ROOMS)]
        (last,) = await node.list_peers(PeersWanted(room=f"/{MAX_SHOWN_ROOMS + 4}"))
        assert [each.number for each in last.entries] == [joined.id]
        assert not (await node.list_peers(PeersWanted(number=alone.id)))[0].entries


async def test_a_connection_of_another_hub_is_not_listed(start_hub: StartHub) -> None:
    running, other = start_hub(), start_hub()
    add(other, 1, "/x", "alice")
    node = HubNode(running.hub, "here")
    (found,) = await node.list_peers(PeersWanted())
    assert not found.entries
    assert await node.disconnect(PeersWanted(user="alice"), END) == {"here": 0}


async def test_many_connections_of_a_user_end_a_few_at_a_time(start_hub: StartHub, nursery: trio.Nursery) -> None:
    running = start_hub()
    many = 2 * ENDS_AT_ONCE + 10
    clients = [add(running, number, "/x", "alice") for number in range(1, many + 1)]
    bob = add(running, many + 1, "/x", "bob")
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(running.hub.room("/x")))
            await trio.lowlevel.checkpoint()

    nursery.start_soon(look)
    node = HubNode(running.hub, "here")
    assert await node.disconnect(PeersWanted(user="alice"), END) == {"here": many}
    all_of_them = many + 1
    after_a_step = {all_of_them - ENDS_AT_ONCE, all_of_them - 2 * ENDS_AT_ONCE}
    assert after_a_step <= set(seen) <= after_a_step | {all_of_them, 1}
    assert await clients[-1].frame() == seen_close(*END)
    assert await node.disconnect(PeersWanted(user="alice"), END) == {"here": 0}, "once is enough"
    running.hub.room("/x").publish("for bob")
    assert (await bob.frame()).payload == b"for bob"


async def test_several_nodes_answer_as_one(start_hub: StartHub) -> None:
    nodes = []
    for name in ("b", "a"):
        running = start_hub()
        for number in (1, 2):
            add(running, number, f"/{number}", "alice")
        nodes.append(HubNode(running.hub, name))
    listed: list[str] = []
    wanted = PeersWanted(limit=3)
    piece = await gather_peers(nodes, wanted)
    listed += [str(each.place) for each in piece.entries]
    assert piece.next == Place("b", 1)
    piece = await gather_peers(nodes, PeersWanted(limit=3, after=piece.next))
    listed += [str(each.place) for each in piece.entries]
    assert (listed, piece.next) == (["a/1", "a/2", "b/1", "b/2"], None)
    rooms = await gather_rooms(nodes, RoomsWanted(limit=2))
    assert ([str(each.place) for each in rooms.entries], str(rooms.next)) == (["a/1", "a/2"], "a/2")
    assert await disconnect(nodes, PeersWanted(node="a", number=2), END) == {"a": 1}
    assert await disconnect(nodes, PeersWanted(user="alice"), END) == {"a": 1, "b": 2}


def test_a_place_is_one_word() -> None:
    assert [str(Place("host:1", "/room/x")), str(Place("host:1", 7))] == ["host:1/room/x", "host:1/7"]


@pytest.mark.parametrize(("user", "others"), [(1, (True, "1", 2)), (True, (1, "True", False)), ("1", (1, True))])
async def test_a_program_disconnects_one_of_a_number_a_text_and_true(
    user: object, others: tuple[object, ...], start_hub: StartHub
) -> None:
    running = start_hub()
    for number, each in enumerate((user, *others), 1):
        add(running, number, "/x", each)
    assert running.hub.disconnect(user=user) == 1
