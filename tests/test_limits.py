"""Limits of the whole server: each has a name, is reported at /metrics, and is named in its refusals."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import trio

import rawws
from rawws.errors import UsageError
from rawws.hub.room import state_of
from rawws.limits import Limits, check_number
from rawws.relay.loop import current_loop
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.server.room_posts import PublishPolicy
from rawws.wire.frames import Opcode
from tests.room_serving import post
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import get, masked, seen_close, upgrade

KIB = 1024


async def open_client(server: rawws.Server, path: str = "/") -> Client:
    client = await Client.unconnected().connect(server.port)
    return await client.open(path)


async def start(nursery: trio.Nursery, handler: Any, **settings: Any) -> rawws.Server:
    server: rawws.Server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, **settings))
    return server


# Memory of the whole server


async def test_the_peers_that_hold_most_are_dropped_first(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    hub = rawws.Hub()
    server = await start(nursery, hub, max_memory=4000 * KIB)
    with trio.fail_after(PATIENCE_S):
        quick, mute = [await open_client(server, "/news") for _ in range(2)]
        room, message = hub.room("/news"), b"x" * 64 * KIB
        for _ in range(200):
            room.publish(message)
            assert (await quick.frame()).payload == message
            assert current_loop().memory.used_bytes() < 8000 * KIB
            if "--max-memory" in caplog.text:
                break
            await trio.sleep(0.005)
        assert re.search(r"#2 ! is closed, since it holds \d+ bytes; "
                         r"memory limit exceeded: \d+ of 4096000 bytes \(--max-memory\)", caplog.text)  # fmt: skip
        assert len(room) == 1
        room.publish("goes on")
        assert (await quick.frame()).payload == b"goes on"
        assert current_loop().memory.used_bytes() < 4000 * KIB
    mute.hang_up()
    quick.hang_up()
    server.stop()


async def test_waiting_and_incomplete_messages_count(nursery: trio.Nursery) -> None:
    async def never_reads(_: rawws.WebSocket) -> None:
        await trio.sleep_forever()

    server = await start(nursery, never_reads, max_memory=300 * KIB, drain=0)
    with trio.fail_after(PATIENCE_S):
        full, begun, idle = [await open_client(server) for _ in range(3)]
        for _ in range(4):
            await full.send(masked(2, b"x" * 50 * KIB))
        await begun.send(masked(2, b"x" * 150 * KIB)[: 120 * KIB])
        assert await full.frame() == seen_close(1013, "the server's memory is full")
        with trio.move_on_after(0.2) as waiting:
            await begun.frame()
        assert waiting.cancelled_caught, "it may stay: it is enough that the other one is gone"
        await idle.send(masked(9, b"?"))
        assert (await idle.frame()).payload == b"?"
    for client in (full, begun, idle):
        client.hang_up()
    server.stop()


async def test_messages_count_with_the_memory_that_they_occupy(nursery: trio.Nursery) -> None:
    async def never_reads(_: rawws.WebSocket) -> None:
        await trio.sleep_forever()

    server = await start(nursery, never_reads, max_queue=None, max_memory=300 * KIB, drain=0)
    with trio.fail_after(PATIENCE_S):
        full = await open_client(server)
        await full.send(masked(2, b"") * 10_000)
        assert await full.frame() == seen_close(1013, "the server's memory is full")
    full.hang_up()
    server.stop()


async def test_histories_are_dropped_and_that_is_logged_once(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    hub = rawws.Hub(history=1000)
    server = await start(nursery, hub, max_memory=10 * KIB)
    client = await open_client(server, "/news")
    with trio.fail_after(PATIENCE_S):
        for _ in range(2):
            first_id = hub.room("/news").last_id
            for _ in range(20):
                hub.room("/news").publish(b"x" * KIB)
            await client.frames(20)
            while current_loop().memory.used_bytes() > 10 * KIB:
                await trio.sleep(0.01)
        assert caplog.text.count(" of 10240 bytes (--max-memory); dropping room history") == 1
        late = await open_client(server, f"/news?since={first_id}")
        hub.room("/news").publish("goes on")
        assert (await late.frame()).payload == (await client.frame()).payload == b"goes on"
    late.hang_up()
    client.hang_up()
    server.stop()


async def test_the_histories_of_the_quietest_empty_rooms_are_dropped_first(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(history=1000)
    server = await start(nursery, hub, max_memory=150 * KIB)
    reader = await open_client(server, "/lively")
    memory = current_loop().memory
    with trio.fail_after(PATIENCE_S):
        for path in ("/lively", "/oldest", "/older", "/recent"):
            hub.room(path).publish(b"x" * 40 * KIB)
            await trio.sleep(0.001)
        hub.room("/older").publish("once more")
        while memory.used_bytes() > 150 * KIB:
            await trio.sleep(0.01)
        assert set(hub.rooms) == {"/lively", "/older", "/recent"}, "there was enough when the quietest was gone"
        assert state_of(hub.room("/lively")).log.history_bytes > 40 * KIB
        for _ in range(5):
            hub.room("/lively").publish(b"x" * 40 * KIB)
        while memory.used_bytes() > 150 * KIB:
            await trio.sleep(0.01)
        assert set(hub.rooms) == {"/lively"}
    reader.hang_up()
    server.stop()


async def test_hundreds_of_requested_rooms_count_too(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    server = await start(nursery, hub, http=rawws.rooms(hub), max_memory=300 * KIB)
    client = await Client.unconnected().connect(server.port)
    with trio.fail_after(PATIENCE_S):
        for number in range(500):
            assert (await client.ask(get(f"/room/{number}?last=1"))).status == 200
        while current_loop().memory.used_bytes() > 300 * KIB:
            await trio.sleep(0.01)
        assert 50 < len(hub.rooms) < 200
    client.hang_up()
    server.stop()


async def test_keys_that_make_a_retry_safe_count_too(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    server = await start(nursery, hub, http=rawws.rooms(hub, is_local=True), max_memory=300 * KIB)
    client, reader = await Client.unconnected().connect(server.port), await open_client(server, "/read")
    memory = current_loop().memory
    with trio.fail_after(PATIENCE_S):
        for number in range(200):
            for path in ("/read", f"/{number}"):
                answer = await client.ask(post(path, b"pay", f"Idempotency-Key: {number:0200}"))
                assert answer.status == 202
        while memory.used_bytes() > 300 * KIB:
            await trio.sleep(0.01)
        assert 20 < len(hub.rooms) < 200
        for number in range(1000):
            await client.ask(post("/read", b"pay", f"Idempotency-Key: {number:0200}"))
        while memory.used_bytes() > 300 * KIB:
            await trio.sleep(0.01)
        assert state_of(hub.room("/read")).history_bytes < 300 * KIB
    client.hang_up()
    reader.hang_up()
    server.stop()


async def test_incomplete_bodies_count_too(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    app = rawws.rooms(hub, publish_token="secret")
    server = await start(nursery, hub, http=app, max_memory=300 * KIB, drain=0)
    # The server skips a refused body, and does not keep it.
    head = b"POST /room HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nAuthorization: Bearer secret\r\n\r\n"
    with trio.fail_after(PATIENCE_S):
        large, small, refused = [await Client.unconnected().connect(server.port) for _ in range(3)]
        await refused.send(head.replace(b"secret", b"wrong!") + b"x" * 500 * KIB)
        await small.send(head + b"x" * 80 * KIB)
        await large.send(head + b"x" * 250 * KIB)
        answer = await large.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert b"--max-memory" in answer.body
        await small.send(b"x" * (1_000_000 - 80 * KIB))
        assert (await small.answer()).status == 202, "it was enough that the larger one has gone"
    for client in (large, small, refused):
        client.hang_up()
    server.stop()


async def test_idle_connections_count_and_the_largest_are_closed_first(nursery: trio.Nursery) -> None:
    server = await start(nursery, rawws.Hub(), max_memory=300 * KIB, drain=0)
    memory = current_loop().memory
    with trio.fail_after(PATIENCE_S):
        peer = await open_client(server)
        idle = [await Client.unconnected().connect(server.port) for _ in range(80)]
        while memory.used_bytes() < 200 * KIB or memory.used_bytes() > 300 * KIB:
            await trio.sleep(0.01)
        for _ in range(3):  # the others stay when enough memory is free
            held = memory.used_bytes()
            await trio.sleep(0.12)
            assert memory.used_bytes() == held > 200 * KIB
        await peer.send(masked(9, b"?"))
        assert (await peer.frame()).payload == b"?"
    for client in (peer, *idle):
        client.hang_up()
    server.stop()


async def test_the_largest_request_that_waits_for_a_program_is_refused(nursery: trio.Nursery) -> None:
    async def never_answers(request: rawws.Request) -> str:
        if request.path == "/":
            await trio.sleep_forever()
        return "fine"

    server = await start(nursery, rawws.Hub(), http=never_answers, max_body=1000 * KIB, max_memory=300 * KIB, drain=0)
    with trio.fail_after(PATIENCE_S):
        large, small = [await Client.unconnected().connect(server.port) for _ in range(2)]
        await small.send(get("/", "Content-Length: 80000", method="POST") + bytes(80_000))
        await large.send(get("/", "Content-Length: 250000", method="POST") + bytes(250_000))
        answer = await large.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert b"--max-memory" in answer.body
        await large.assert_end()
        with trio.move_on_after(0.3) as waiting:
            await small.answer()
        assert waiting.cancelled_caught, "it was enough that the larger one has gone"
        other = await Client.unconnected().connect(server.port)
        assert (await other.ask(get("/other"))).body == b"fine"
    for client in (large, small, other):
        client.hang_up()
    server.stop()


async def test_messages_of_clients_that_have_gone_count_and_are_dropped(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = trio.Event()
    got: list[str | bytes] = []

    async def slow(ws: rawws.WebSocket) -> None:
        await go_on.wait()
        with contextlib.suppress(rawws.ConnectionClosed):
            while True:
                got.append(await ws.recv())

    server = await start(nursery, slow, max_memory=300 * KIB, drain=0)
    memory = current_loop().memory
    with trio.fail_after(PATIENCE_S):
        for client in [await open_client(server) for _ in range(3)]:
            await client.send(masked(2, bytes(60 * KIB)) * 2)
            client.hang_up()
        while "the program has not taken" not in caplog.text:
            await trio.sleep(0.01)
        assert re.search(r"#\d ! has gone; dropping 123120 bytes that it sent and the program has not taken; "
                         r"memory limit exceeded: \d+ of 307200 bytes \(--max-memory\)",
                         caplog.text)  # fmt: skip
        while memory.used_bytes() > 300 * KIB:
            await trio.sleep(0.01)
        go_on.set()
        while current_loop().peer_count or len(got) < 4:
            await trio.sleep(0.01)
        assert [len(message) for message in got] == [60 * KIB] * 4, "two clients' messages are there"
    server.stop()


async def test_a_slow_poll_of_a_large_message_costs_no_more_than_the_message(nursery: trio.Nursery) -> None:
    hub = rawws.Hub(history=10, history_bytes=4000 * KIB)
    server = await start(nursery, hub, http=rawws.rooms(hub), max_memory=1500 * KIB, drain=0)
    memory = current_loop().memory
    with trio.fail_after(PATIENCE_S):
        reader = await open_client(server, "/x")
        hub.room("/x").publish("\x01" * 900 * KIB)
        await reader.frame()
        slow, quick = [await Client.unconnected().connect(server.port) for _ in range(2)]
        await slow.send(get("/x?last=1"))
        answer = await quick.ask(get("/x?last=1"))
        assert json.loads(answer.body)["messages"][0]["text"] == "\x01" * 900 * KIB
        assert memory.used_bytes() < 1500 * KIB, "neither takes the six-fold of it"
        state_of(hub.room("/x")).end_history()  # the answer alone keeps the message now
        hub.room("/x").publish(bytes(900 * KIB))
        await reader.frame()
        while memory.used_bytes() > 1500 * KIB:
            await trio.sleep(0.01)
        assert state_of(hub.room("/x")).history_bytes in (0, 900 * KIB + 10), "that, or the answer, has gone"
    for client in (slow, quick, reader):
        client.hang_up()
    server.stop()


async def test_a_peer_that_reads_nothing_during_its_close_is_dropped(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def says_much(ws: rawws.WebSocket) -> None:
        await ws.send(bytes(8000 * KIB))

    server = await start(nursery, says_much, max_memory=300 * KIB, drain=0, close_timeout=None)
    with trio.fail_after(PATIENCE_S):
        mute = await open_client(server)
        while "#1 ! is c" not in caplog.text or current_loop().peer_count:
            await trio.sleep(0.01)
    assert re.search(r"#1 ! is c(ut off while it is being closed|losed), since it holds \d+ bytes; "
                     r"memory limit exceeded: \d+ of 307200 bytes \(--max-memory\)", caplog.text)  # fmt: skip
    assert current_loop().memory.used_bytes() < 300 * KIB
    mute.hang_up()
    server.stop()


# Time limits of the whole server


async def test_a_program_that_blocks_is_reported(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    async def computes(ws: rawws.WebSocket) -> None:
        async for _ in ws:
            time.sleep(0.8)

    server = await start(nursery, computes, ping_interval=0.4)
    client = await open_client(server)
    await client.send(masked(1, b"go"))
    with trio.fail_after(PATIENCE_S):
        while "the event loop was blocked for at least" not in caplog.text:
            await trio.sleep(0.05)
    assert current_loop().stats.longest_block_s >= 0.5
    client.hang_up()
    server.stop()


@pytest.mark.parametrize(
    ("max_size", "of_rooms", "most"), [(10, None, 10), (10, 5, 5), (10, 20, 20), (100 * KIB, None, 100 * KIB)]
)
async def test_a_post_may_be_as_large_as_a_message_by_default(
    nursery: trio.Nursery, max_size: int, of_rooms: int | None, most: int
) -> None:
    hub = rawws.Hub()
    app = rawws.rooms(hub, is_local=True, max_size=of_rooms)
    server = await start(nursery, hub, http=app, max_size=max_size, max_body=10)
    with trio.fail_after(PATIENCE_S):
        client = await Client.unconnected().connect(server.port)
        assert (await client.ask(post("/", b"x" * most))).status == 202
        refused = await client.ask(post("/", b"x" * (most + 1)))
        assert refused.status == 413
        assert f"over the server's limit of {most} bytes" in refused.body.decode()
    client.hang_up()
    server.stop()


# Names of limits


@pytest.mark.parametrize(
    ("flags", "request_", "status", "message"),
    [
        (["--max-connections", "1"], get(), 503, "as many connections as it takes (--max-connections 1)"),
        (["--max-connections-per-ip", "1"], get(), 429, "takes from one address (--max-connections-per-ip 1)"),
        (["--max-head", "1k"], get("/", "X: " + "y" * 2000), 431, "over the server's limit of 1024 bytes (--max-head)"),
        (
            ["--max-headers", "3"],
            get("/", "A: 1", "B: 2", "C: 3"),
            431,
            "more than the 3 fields that the server takes (--max-headers)",
        ),
        (["--max-target", "10"], get("/" + "x" * 60), 414, "over the server's limit of 10 bytes (--max-target)"),
        (["--open-timeout", "0.2"], b"GET / HTTP/1.1\r\n", 408, "within 0.2 seconds (--open-timeout)"),
        (["--max-rooms", "1"], upgrade("/two"), 503, "as many rooms as this server takes (--max-rooms 1)"),
        (["--max-peers", "1"], upgrade("/one"), 503, "This room is full (--max-peers 1)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
async def test_a_refusal_names_the_limit_its_owner_and_its_value(
    start_program: StartProgram, flags: list[str], request_: bytes, status: int, message: str
) -> None:
    program = start_program(*flags)
    first = await program.connect()
    if flags[0] != "--max-headers":  # a handshake has more fields than that
        await first.open("/one")
    client = await program.connect()
    with trio.fail_after(PATIENCE_S):
        answer = await client.ask(request_)
    assert (answer.status, message in answer.body.decode()) == (status, True), answer
    first.hang_up()
    client.hang_up()


async def test_every_limit_is_named_by_its_flag(start_program: StartProgram) -> None:
    flags = {"--max-connections": "100", "--max-memory": "64M", "--max-rooms": "7", "--rate": "50", "--drain": "2"}
    program = start_program("--metrics", *(each for pair in flags.items() for each in pair))
    client = await program.connect()
    body = (await client.ask(get("/metrics"))).body.decode()
    limits = {name: float(value) for name, value in re.findall(r'rawws_limit{flag="([^"]+)"} (\S+)', body)}
    assert limits["--max-connections"] == 100
    assert limits["--max-memory"] == 64 << 20
    assert (limits["--max-rooms"], limits["--rate"], limits["--drain"], limits["--max-size"]) == (7, 50, 2, 1 << 20)
    usage = start_program.run("serve", "--help").stdout
    assert [flag for flag in limits if flag not in usage] == [], "each is a flag"
    client.hang_up()


def test_numpy_s_numbers_are_numbers() -> None:
    check_number("max_size", np.int64(5), least=1)
    check_number("ping_interval", np.float32(0.5), whole=False)
    with pytest.raises(UsageError, match=r"max_size can't be .*; give a whole number that is 1 or more"):
        check_number("max_size", np.float64(5), least=1)
    with pytest.raises(UsageError, match="ping_interval can't be"):
        check_number("ping_interval", np.float32("nan"), whole=False)


# No limit


@pytest.mark.parametrize("none", [0, 0.0, math.inf])
def test_0_and_infinity_both_mean_no_limit(none: float) -> None:
    names = [f"{each}_timeout_s" for each in ("header", "keep_alive", "ping", "close")]
    given: dict[str, Any] = dict.fromkeys([*names, "ping_interval_s", "messages_per_s"], none)
    limits = Limits(**given)
    infinite: dict[str, Any] = dict.fromkeys(given, math.inf)
    assert limits == Limits(**infinite)
    assert {getattr(limits, name) for name in names} == {math.inf}
    assert limits.by_flag().keys() == {"--max-head", "--max-headers", "--max-target", "--max-size", "--drain"}


@pytest.mark.parametrize("none", [None, 0, math.inf])
async def test_a_server_without_limits_on_time_serves(nursery: trio.Nursery, none: float | None) -> None:
    flags = ("open_timeout", "keep_alive", "rate", "ping_interval", "ping_timeout", "close_timeout")
    server = await start(nursery, rawws.Hub(), **dict.fromkeys(flags, none))
    with trio.fail_after(PATIENCE_S):
        client = await open_client(server)
        for message in ("as fast", "as it likes"):
            await client.send(masked(Opcode.TEXT, message.encode()))
            assert (await client.frame()).payload == message.encode()
        await client.send(masked(Opcode.CLOSE))
        assert (await client.frame()).opcode is Opcode.CLOSE
    client.hang_up()
    server.stop()


async def test_a_post_has_no_rate_limit_if_that_is_infinite(nursery: trio.Nursery) -> None:
    hub = rawws.Hub()
    app = RoomApp(hub, HelloApp(["POST"]), PublishPolicy(is_local=True), rate=math.inf)
    server = await start(nursery, hub, http=app)
    with trio.fail_after(PATIENCE_S):
        client = await Client.unconnected().connect(server.port)
        assert [(await client.ask(post("/x", b"hi"))).status for _ in range(3)] == [202] * 3
    client.hang_up()
    server.stop()
