"""Nodes whose clients have users, and that answer a question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.broadcast.node_answers import Gathered
from rawws.hub.hub import Hub
from tests.room_serving import Rooms, rooms
from tests.serving.client import Client
from tests.serving.wire import seen_close, seen_text

BANNED = seen_close(4403, "banned")


def name_in_query(request: rawws.Request) -> object:
    """Return the user that a request names; a number is one, too."""
    name = request.query.rpartition("user=")[2]
    if name.isdecimal():
        return int(name)
    return rawws.User(name, read=["*"], write=["*"]) if name.istitle() else name


node = partial(rooms, authenticate=name_in_query)


async def is_open(client: Client, where: Rooms, path: str = "/room/x") -> bool:
    """Assert that a peer still gets what is published; it has got everything else before."""
    await where.publish(path + "?user=admin", "still here")
    assert await client.frame() == seen_text("still here")
    return True


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


async def count(at: Hub, body: Mapping[str, Any]) -> Iterable[object]:
    await trio.lowlevel.checkpoint()
    return [sum(len(room) for room in at), body.get("more", 0) * "x"]


def answering(*nodes: Rooms) -> None:
    for each in nodes:
        each.hub.commands.answer_with("count/1", partial(count, each.hub))


async def ask(where: Rooms, timeout_s: float = 5.0, **body: Any) -> Gathered:
    assert where.hub.backplane is not None
    return await where.hub.backplane.ask("count/1", body, timeout_s)
