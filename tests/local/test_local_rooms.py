"""Workers that share their rooms through a sequencer, and what happens when one of the two fails."""

from __future__ import annotations

import json
import logging
import math
import socket
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.broadcast.node_commands import Command
from rawws.broadcast.stream_entries import Author
from rawws.errors import BackplaneAway
from rawws.hub.room import state_of
from rawws.limits import MIB
from rawws.local import local_rooms as module
from rawws.local.protocol import Kind, note
from rawws.relay.loop import current_loop
from rawws.server.room_posts import PublishPolicy
from tests.backplane.ids import IDS, next_with_id, open_with_ids
from tests.local.machine import Machine, local_rooms
from tests.room_serving import Rooms, post, rooms
from tests.serving.machine import PATIENCE_S
from tests.serving.wire import get, seen_text, text, upgrade

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def machine(nursery: trio.Nursery) -> Machine:
    return Machine(nursery)


async def until(condition: object) -> None:
    assert callable(condition)
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.005)


def messages_of(polled: dict[str, object]) -> object:
    return polled["messages"]


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


async def test_a_room_is_followed_while_somebody_uses_it(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNUSED_S", 0.05)
    async with rooms(nursery, backplane=machine, history=5) as node:
        clients = [await node.open(f"/room/{number}") for number in range(5)]
        for number, client in enumerate(clients):
            await node.publish(f"/room/{number}", str(number))
            assert await client.frame() == seen_text(str(number))
        shared = local_rooms(node)
        assert (shared.followed_rooms, machine.sequencer.rooms) == (5, 5)
        assert "rooms=5 waiting=0>" in repr(shared)
        for client in clients:
            client.reset()
        await until(lambda: not node.hub.rooms and not shared.followed_rooms)
        again = await node.open("/room/3?last=1")
        assert await again.frame() == seen_text("3"), "the first process has its messages"


async def test_a_new_worker_has_the_histories_of_all_rooms(nursery: trio.Nursery, machine: Machine) -> None:
    async with rooms(nursery, backplane=machine, history=1000, history_bytes=2 * MIB) as a:
        room = a.hub.room("/room/x")
        for number in range(900):
            room.publish(f"{number:01000}")
            if not number % 100:
                await room.ready()
        await local_rooms(a).flush()
        async with rooms(nursery, backplane=machine, history=1000, history_bytes=2 * MIB) as b:
            polled = (await b.poll("/room/x?last=1000"))["messages"]
            assert [int(message["text"]) for message in polled] == list(range(900))
            assert messages_of(await a.poll("/room/x?last=3")) == messages_of(await b.poll("/room/x?last=3"))


async def test_a_program_that_joins_before_the_history_gets_none_of_it(nursery: trio.Nursery, machine: Machine) -> None:
    async with rooms(nursery, backplane=machine, history=10) as other:
        await other.publish("/news", "long ago")
        hub = rawws.Hub(history=10)

        async def handle(ws: rawws.WebSocket) -> None:
            async with hub.room("/news").join(ws):
                await ws.send("joined")
                async for _ in ws:
                    pass

        async with machine(hub):
            server = await nursery.start(rawws.serve, handle, 0)
            async with rawws.connect(f"ws://localhost:{server.port}/") as ws:
                assert await ws.recv() == "joined"
                await other.publish("/news", "now")
                assert await ws.recv() == "now"
            server.stop()


async def test_an_operator_clears_the_history_of_a_room_at_every_worker(
    nursery: trio.Nursery, machine: Machine
) -> None:
    async with rooms(nursery, backplane=machine, history=10) as a, rooms(nursery, backplane=machine, history=10) as b:
        reader, begin = await open_with_ids(b, "/room/x")
        await a.open("/room/x")
        for number in range(3):
            await a.publish("/room/x", str(number))
            await next_with_id(reader)
        room = state_of(a.hub.room("/room/x"))
        assert room.shared is not None
        assert await room.shared.clear(room) is None
        room.clear_history()
        await a.publish("/room/x", "after")
        assert (await next_with_id(reader))[1] == b"after"
        for node in (a, b):
            polled = await node.poll(f"/room/x?since={begin}")
            assert ([each["text"] for each in polled["messages"]], polled["gap"] is None) == (["after"], False)
        async with rooms(nursery, backplane=machine, history=10) as c:
            assert [each["text"] for each in (await c.poll("/room/x?last=9"))["messages"]] == ["after"]


async def test_groups_are_refused(nursery: trio.Nursery, machine: Machine) -> None:
    async with rooms(nursery, backplane=machine) as node:
        answer = await node.ask(get("/room/x?group=workers"))
        assert (answer.status, b"the workers of a server share" in answer.body) == (501, True)


# A worker that is too slow


def hold_reading(node: Rooms, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Have a worker read nothing from its link until the event is set."""
    pipe, go_on = local_rooms(node)._pipe, trio.Event()
    receive = pipe.receive

    async def wait_and_receive() -> bytes:
        await go_on.wait()
        return await receive()

    monkeypatch.setattr(pipe, "receive", wait_and_receive)
    return go_on


@pytest.mark.parametrize("history", [0, 50, 10_000])
async def test_a_worker_that_stops_reading_gets_a_gap_and_the_others_miss_nothing(
    nursery: trio.Nursery,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    history: int,
) -> None:
    monkeypatch.setattr("rawws.local.sequencer.STALL_S", 0.0)
    settings: dict[str, Any] = {
        "history": history,
        "history_bytes": 64 * MIB,
        "backplane": machine,
        "max_lag_bytes": 256 * MIB,
    }
    async with rooms(nursery, **settings) as quick, rooms(nursery, **settings) as slow:
        here, _ = await open_with_ids(quick, "/room/x")
        there, _ = await open_with_ids(slow, "/room/x")
        await quick.publish("/room/x", "first")
        assert (await next_with_id(here))[1] == (await next_with_id(there))[1] == b"first"
        go_on = hold_reading(slow, monkeypatch)
        await quick.publish("/room/x", "wakes the one read that is under way")
        await next_with_id(here)
        link = machine.sequencer.links[2]
        monkeypatch.setattr(link.outgoing, "_max_live_bytes", MIB)
        sent = 0
        while link.follows:
            await quick.publish("/room/x", bytes(MIB // 4), content_type="application/octet-stream")
            sent += 1
            assert len((await next_with_id(here))[1]) == MIB // 4
            assert sent < 100
        assert link.outgoing.live_bytes == 0
        last = await quick.publish("/room/x", "last")
        assert await next_with_id(here) == (last["id"], b"last")
        go_on.set()
        got, gaps = list[bytes](), list[dict[str, str]]()
        while b"last" not in got and not gaps:
            head, _, payload = (await there.frame()).payload.partition(b"\n")
            control = json.loads(head)
            if "gap" in control:
                gaps.append(control["gap"])
            else:
                got.append(payload)
        assert lines(caplog, "this worker was too slow for what is published")
        if history:
            assert gaps == []
            assert len(got) == sent + 2
        else:
            assert [gap["after"] for gap in gaps] == [last["id"]]
            assert len(got) < sent
        assert slow.hub.room("/room/x").last_id == last["id"]
        await slow.publish("/room/x", "all is well")
        assert (await next_with_id(there))[1] == (await next_with_id(here))[1] == b"all is well"


async def test_a_gap_at_the_end_is_told_without_a_further_message(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rooms(nursery, backplane=machine) as a, rooms(nursery, backplane=machine) as b:
        there, begin = await open_with_ids(b, "/room/x")
        link = machine.sequencer.links[2]
        with monkeypatch.context() as patched:
            patched.setattr(link.outgoing, "_max_live_bytes", -1)
            last = await a.publish("/room/x", "lost")
        gap = json.loads((await there.frame()).payload)
        assert gap == {"gap": {"since": begin, "after": last["id"]}}


async def test_a_history_that_was_asked_for_twice_comes_once(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker learns that it was too slow while it waits for a room's first history, and asks for all rooms again."""
    async with (
        rooms(nursery, backplane=machine, history=50) as a,
        rooms(nursery, backplane=machine, history=50) as b,
    ):
        there, _ = await open_with_ids(b, "/room/x")
        for number in range(3):
            await a.publish("/room/y", str(number))
        go_on = hold_reading(b, monkeypatch)
        await a.publish("/room/x", "wakes the one read that is under way")
        await next_with_id(there)
        link = machine.sequencer.links[2]
        with monkeypatch.context() as patched:
            patched.setattr(link.outgoing, "_max_live_bytes", -1)
            await a.publish("/room/x", "lost")
        reader = await b.connect()
        await reader.send(upgrade("/room/y?last=9", IDS))
        await until(lambda: "/room/y" in link.follows)
        go_on.set()
        assert (await reader.answer()).status == 101
        assert await local_rooms(b)._sync()
        await a.publish("/room/y", "3")
        controls = [json.loads((await reader.frame()).payload)]
        got = [await next_with_id(reader) for _ in range(4)]
        assert [text for _, text in got] == [b"0", b"1", b"2", b"3"], controls
        assert "gap" not in controls[0]


async def test_publishers_are_held_while_a_worker_that_is_alive_takes_long(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.local.sequencer.CONGESTED_BYTES", 10)
    monkeypatch.setattr("rawws.local.sequencer.STALL_S", math.inf)
    async with rooms(nursery, backplane=machine) as a, rooms(nursery, backplane=machine) as b:
        here, there = await a.open("/room/x"), await b.open("/room/x")
        go_on = hold_reading(b, monkeypatch)
        await a.publish("/room/x", "0")
        assert await here.frame() == seen_text("0")
        room = a.hub.room("/room/x")
        count = 0
        while not room.is_held:
            room.publish(f"{count:0100000}")
            count += 1
            await trio.sleep(0.001)
            assert count < 1000
        go_on.set()
        assert [int(seen.payload[-9:]) for seen in await there.frames(count + 1)] == [0, *range(count)]
        assert [int(seen.payload[-9:]) for seen in await here.frames(count)] == list(range(count))
        await until(lambda: not room.is_held)


async def test_a_worker_for_which_too_many_commands_wait_is_cut_off(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=machine) as a, rooms(nursery, backplane=machine) as b:
        await b.open("/room/x")
        monkeypatch.setattr(machine.sequencer.links[2].outgoing, "_max_note_bytes", -1)
        hold_reading(b, monkeypatch).set()
        a.hub.disconnect(user="Al")
        await until(lambda: machine.gone)
        assert machine.gone == [2]
        assert lines(caplog, "worker 2 is cut off: it doesn't read, and too much waits for it")
        assert lines(caplog, "the link to the first process is gone, and with it messages of this worker: 0")
        assert (await b.ask(upgrade("/room/x"))).status == 503
        await a.publish("/room/x", "the others go on")


# A sequencer that fails


async def test_a_sequencer_that_does_not_answer_is_away_until_it_does(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 5000)
    async with rooms(nursery, backplane=machine, policy=PublishPolicy(is_local=True)) as node:
        client = await node.open("/room/x")
        busy = trio.Event()

        def never(_: object) -> bool:
            return not busy.is_set()

        monkeypatch.setattr(machine.sequencer, "is_congested", never)
        await client.send(text("waits"))
        await until(lambda: local_rooms(node).is_away)
        assert lines(caplog, "the backplane is away (the first process doesn't answer); peers stay, and published")
        assert node.hub.obstacle == "the backplane is away"
        assert local_rooms(node).trouble == "the backplane is away"
        assert (await node.ask(post("/room/x", b"hi"))).status == 503
        assert (await node.ask(upgrade("/room/new"))).status == 503
        assert local_rooms(node).followed_rooms == 1, "strangers can't have it collect rooms meanwhile"
        room = node.hub.room("/room/x")
        while not room.is_held:
            room.publish("y" * 1000)
        joined = await node.connect()
        await joined.send(upgrade("/room/x"))
        assert (await joined.answer()).status == 101, "this room is here"
        before = current_loop().memory.used_bytes()
        with trio.move_on_after(0.05) as waiting:
            await room.ready()
        assert waiting.cancelled_caught
        assert before > 5000
        busy.set()
        assert await client.frame() == seen_text("waits")
        await until(lambda: not local_rooms(node).is_away)
        assert lines(caplog, "the backplane is back")
        await room.ready()
        await node.publish("/room/x", "hi")


async def test_messages_that_wait_for_a_sequencer_that_is_gone_are_counted_and_refused(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=machine) as node:
        await node.open("/room/x")
        await wait_all_tasks_blocked()
        gone = trio.Event()
        monkeypatch.setattr(machine.sequencer, "is_congested", lambda _: not gone.is_set())
        await node.hub.room("/room/x").ready()
        node.hub.room("/room/x").publish("read before the first process stops")
        await trio.sleep(0.05)
        answers = []

        async def publish() -> None:
            answers.append((await node.ask(post("/room/x", b"waits"))).status)

        async with trio.open_nursery() as waiting:
            waiting.start_soon(publish)
            await until(lambda: local_rooms(node).waiting == 1)
            machine.links[0].shutdown(socket.SHUT_WR)
        gone.set()
        assert answers == [503]
        await until(lambda: machine.gone == [1])
        shared = local_rooms(node)
        assert shared.is_away
        await shared.flush()
        await shared.ready()
        with pytest.raises(BackplaneAway, match="no other worker gets this command"):
            node.hub.disconnect(user="Al")
        assert (await node.ask(post("/room/x", b"late"))).status == 503
    assert lines(caplog, "accepted messages that are lost, since the backplane is away: 1")


async def test_a_history_that_does_not_come_is_refused(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    async with rooms(nursery, backplane=machine, history=3) as node:
        await node.publish("/room/y", "y")
        await node.open("/room/x")
        go_on = trio.Event()
        monkeypatch.setattr(machine.sequencer, "is_congested", lambda _: not go_on.is_set())
        local_rooms(node)._send(Kind.SYNC, 0)
        await trio.sleep(0.02)
        assert (await node.ask(get("/room/new?last=1"))).status == 503
        assert (await node.ask(get("/room/x?since=abcdef01-7"))).status == 503
        room = state_of(node.hub.room("/room/x"))
        new = state_of(node.hub.room("/room/newer"))
        shared = local_rooms(node)
        assert await shared.clear(room) is not None
        assert await shared.clear(new) is not None
        go_on.set()
        await until(lambda: not shared.waiting)
        await node.poll("/room/new?last=1")


async def test_nonsense_from_either_end_ends_the_link(
    nursery: trio.Nursery, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=machine) as node:
        await node.open("/room/x")
        local_rooms(node)._send_data(b"\xff" * 20)
        await until(lambda: machine.gone)
        assert lines(caplog, "worker 1 is cut off: a message of 4294967295 bytes and of kind 255 can't be")
    async with rooms(nursery, backplane=machine) as node:
        await node.open("/room/x")
        machine.sequencer.links[2].outgoing.put_note(b"\xff" * 20)
        local_rooms(node)._send(Kind.SYNC, 1)
        await until(lambda: machine.gone == [1, 2])
        assert lines(caplog, "the first process has sent what can't be understood: a message of 4294967295 bytes")


async def test_an_error_of_our_own_in_a_message_ends_nothing(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=machine) as node:
        client = await node.open("/room/x")
        with monkeypatch.context() as broken:
            broken.setattr(local_rooms(node), "_followed", None)
            machine.sequencer.links[1].outgoing.put_note(note(Kind.CLEARED, "/room/x"))
            local_rooms(node)._send(Kind.SYNC, 1)
            await until(lambda: lines(caplog, "an error in rawws itself, in a message of the first process"))
        await client.send(text("goes on"))
        assert await client.frame() == seen_text("goes on")


async def test_an_error_of_our_own_in_the_sequencer_cuts_off_one_worker(
    nursery: trio.Nursery, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with rooms(nursery, backplane=machine) as a, rooms(nursery, backplane=machine) as b:
        with monkeypatch.context() as broken:
            broken.setattr(machine.sequencer, "finish", lambda _: 1 / 0)
            local_rooms(b)._send(Kind.SYNC, 1)
            await until(lambda: machine.gone)
        assert machine.gone == [2]
        assert lines(caplog, "an error in rawws itself; a worker is cut off")
        await a.publish("/room/x", "the others go on")


async def test_answers_to_forgotten_questions_are_passed_over(nursery: trio.Nursery, machine: Machine) -> None:
    async with rooms(nursery, backplane=machine) as a, rooms(nursery, backplane=machine) as b:
        question = Command("none/1", {}, Author(local_rooms(a)._name.node, 0, 99), is_question=True)
        local_rooms(b)._answer(question, [1])
        link = machine.sequencer.links[1]
        for data in (note(Kind.ROLL, 99, []), note(Kind.SYNCED, 99, 0, 0), note(Kind.CLEARED, "/never")):
            link.outgoing.put_note(data)
        await b.publish("/room/x", "and then")
        assert local_rooms(a).withdraw(None) is False  # type: ignore[arg-type]
        assert (await a.hub.backplane.ask("none/1", {}, 0.02)).answers == ()  # type: ignore[union-attr]
    async with rooms(nursery, backplane=machine) as alone:
        assert alone.hub.backplane is not None
        gathered = await alone.hub.backplane.ask("none/1", {}, PATIENCE_S)
        assert (gathered.silent, gathered.problem) == ((), ""), "there is nobody else"


async def test_ids_are_given_to_clients_that_joined_before_the_history_came(
    nursery: trio.Nursery, machine: Machine
) -> None:
    async with rooms(nursery, backplane=machine) as node:
        client = await node.open("/room/x", IDS)
        at = json.loads((await client.frame()).payload)["at"]
        given = await node.publish("/room/x", "one")
        assert at.partition("-")[0] == given["id"].partition("-")[0]
