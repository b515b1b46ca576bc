"""The paths of dead rooms."""

from __future__ import annotations

import pytest

from rawws.access.dead_rooms import dead_room, group_of_dead_room, is_dead_room, rooms_of_dead


@pytest.mark.parametrize(
    ("path", "rooms"),
    [
        ("/room/pay.sms.dead", ("/room/pay",)),
        ("/room/v1.2.sms.dead", ("/room/v1.2",)),
        ("/room/pay.sms.dead.repair.dead", ("/room/pay.sms.dead", "/room/pay")),
        ("/pay.a.dead.b.dead.c.dead", ("/pay.a.dead.b.dead", "/pay")),
        ("/room/pay", ()),
        ("/room/pay.dead", ()),
        ("/room/pay.sms.deadly", ()),
        ("/room/pay.s/s.dead", ()),
        ("/room/pay..dead", ()),
        ("dead", ()),
        (".dead", ()),
        ("/room/pay." + "a" * 33 + ".dead", ()),
    ],
)
def test_a_dead_room_has_a_room(path: str, rooms: tuple[str, ...]) -> None:
    assert rooms_of_dead(path) == rooms
    assert is_dead_room(path) is bool(rooms)


def test_the_path_of_a_dead_room_is_known_as_one() -> None:
    assert rooms_of_dead(dead_room("/room/pay", "sms")) == ("/room/pay",)


def test_a_long_path_costs_no_more_than_its_length() -> None:
    path = "/pay" + ".a.dead" * 100_000
    assert rooms_of_dead(path) == (path[: -len(".a.dead")], "/pay")


def test_the_group_of_a_dead_room_is_named_by_its_path() -> None:
    assert group_of_dead_room("/pay.sms.dead") == ("/pay", "sms")
    assert group_of_dead_room("/a.b.c.dead") == ("/a.b", "c")
    for other in ("/pay", "/pay.dead", "/pay..dead", "/pay.-.dead", "/pay.s s.dead", ".sms.dead", "/pay.sms.dead/x"):
        assert group_of_dead_room(other) is None
