"""Grants that change while their connections are open, over sockets."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.access.grant import Action, Grant
from rawws.access.patterns import EVERY_ROOM, NO_ROOM
from rawws.hub.regranting import ASKED_AT_ONCE, Regranted, regrant_all
from rawws.relay.leases import ENDS_AT_ONCE
from rawws.wire.frames import Opcode
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK
from tests.serving.wire import close, seen_close, seen_text, text, upgrade

pytestmark = pytest.mark.usefixtures("bounded")

READER = Grant("reader", EVERY_ROOM, NO_ROOM)
WRITER = Grant("writer", EVERY_ROOM, EVERY_ROOM)


class Changing:
    """A source whose grants are renewed to another one."""

    def __init__(self, now: Grant, later: Grant | None) -> None:
        self.is_changed = False
        self._now = Grant(now.user, now.read, now.write, renew=self._renew)
        self._later = later

    def _renew(self) -> Grant | None:
        return self._later if self.is_changed else self._now

    async def grant(self, request: rawws.Request, room: str, action: Action) -> Grant:
        return self._now


async def serve(nursery: trio.Nursery, source: Changing, hub: rawws.Hub | None = None) -> rawws.Server:
    start = partial(rawws.serve, hub or rawws.Hub(), 0, host=LOOPBACK, access=source, max_connections=1000)
    server = await nursery.start(start)
    assert isinstance(server, rawws.Server)
    return server


async def connect(server: rawws.Server) -> Client:
    client = await Client.unconnected().connect(server.port)
    assert (await client.ask(upgrade("/x"))).status == 101
    return client


async def test_a_connection_that_would_join_after_the_change_is_closed_and_gets_nothing(nursery: trio.Nursery) -> None:
    source = Changing(WRITER, None)
    source.is_changed = True  # between the decision and the join
    hub = rawws.Hub(history=5, hello="hello")
    server = await serve(nursery, source, hub)
    hub.room("/x").publish("for members")
    client = await Client.unconnected().connect(server.port)
    assert (await client.ask(upgrade("/x?last=5") + text("in the same breath"))).status == 101
    assert await client.frame() == seen_close(4401, "the token has been withdrawn")
    await client.send(text("after the close"))
    await client.send(close(1000))
    await client.wait_lost()
    client.hang_up()
    reader = await Client.unconnected().connect(server.port)
    source.is_changed = False
    assert (await reader.ask(upgrade("/x?last=5"))).status == 101
    assert [await reader.frame() for _ in range(2)] == [seen_text("hello"), seen_text("for members")]
    assert len(hub.room("/x")) == 1
    hub.room("/x").publish("the next one")
    assert await reader.frame() == seen_text("the next one")
    reader.hang_up()
    server.stop()


async def test_one_that_would_join_after_the_change_joins_with_the_rights_of_the_new_grant(
    nursery: trio.Nursery,
) -> None:
    source = Changing(WRITER, READER)
    source.is_changed = True
    server = await serve(nursery, source)
    client = await connect(server)
    await client.send(text("hi"))
    assert await client.frame() == seen_close(1008, "this client may not write in this room")
    client.hang_up()
    server.stop()


@pytest.mark.parametrize(
    ("later", "end"),
    [(READER, (1008, "this client may not write in this room")), (None, (4401, "the token has been withdrawn"))],
)
async def test_a_writer_that_is_held_back_may_become_a_reader_or_be_closed(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, later: Grant | None, end: tuple[int, str]
) -> None:
    asked: list[str | bytes] = []

    def note(_: rawws.Sender, message: str | bytes) -> str | bytes:
        asked.append(message)
        return message

    source = Changing(WRITER, later)
    hub = rawws.Hub(slow="wait", max_lag_bytes=4000, on_message=note)
    server = await serve(nursery, source, hub)
    slow, writer = await connect(server), await connect(server)
    room = hub.room("/x")
    while not room.is_held:
        room.publish("x" * 100_000)
    await writer.send(text("held back"))
    await wait_all_tasks_blocked()
    source.is_changed = True
    await regrant_all()
    while room.is_held and later is not None:
        await slow.frame()
    while (frame := await writer.frame()).opcode is not Opcode.CLOSE:
        pass
    assert frame == seen_close(*end)
    assert asked == []
    assert "an error in rawws" not in caplog.text
    slow.hang_up()
    writer.hang_up()
    server.stop()


async def test_a_reader_may_become_a_writer(nursery: trio.Nursery) -> None:
    source = Changing(READER, WRITER)
    server = await serve(nursery, source)
    client = await connect(server)
    assert await regrant_all() == Regranted(0, 0)
    source.is_changed = True
    assert await regrant_all() == Regranted(0, 1)
    assert await regrant_all() == Regranted(0, 0), "it has the present grant now"
    await client.send(text("hi"))
    assert await client.frame() == seen_text("hi")
    client.hang_up()
    server.stop()


async def test_others_run_while_many_are_asked_about_or_closed(nursery: trio.Nursery) -> None:
    many = 2 * ASKED_AT_ONCE + 1
    source = Changing(WRITER, Grant("writer"))
    server = await serve(nursery, source)
    clients = [await connect(server) for _ in range(many)]
    runs = 0

    async def count() -> None:
        nonlocal runs
        while True:
            runs += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as counting:
        counting.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = runs
        assert await regrant_all() == Regranted(0, 0)
        assert runs - before >= many // ASKED_AT_ONCE - 1, "trio may run both tasks of a batch in any order"
        source.is_changed = True
        before = runs
        assert await regrant_all() == Regranted(many, 0)
        assert runs - before >= many // ENDS_AT_ONCE - 1
        counting.cancel_scope.cancel()
    for client in clients:
        assert await client.frame() == seen_close(1008, "this client may no longer read in this room")
        client.hang_up()
    server.stop()
