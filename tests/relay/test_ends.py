"""Every way in which a connection can end: all reports of it have the same cause."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

import rawws
from rawws.hub.room import state_of
from rawws.relay.loop import current_loop
from rawws.server.metrics import MetricsApp
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.server.room_posts import PublishPolicy
from rawws.tracing import Tracer
from rawws.wire.frames import Opcode
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import close, get, masked, text
from tests.test_tracing import Memory

pytest.importorskip("prometheus_client")

SOON_S = 0.1  # a limit that is meant to be crossed


@dataclass
class Stage:
    """A server with one client, which is in a room or served by a handler of the test's."""

    server: rawws.Server
    hub: rawws.Hub
    client: Client
    monkeypatch: pytest.MonkeyPatch
    held: list[rawws.WebSocket] = field(default_factory=list)  # by the handler

    async def wait_held(self) -> rawws.WebSocket:
        while not self.held:
            await trio.sleep(0.001)
        return self.held[0]

    async def wait_in_room(self) -> rawws.Room:
        room = self.hub.room("/room/x")
        while not len(room):
            await trio.sleep(0.001)
        return room


Act = Callable[[Stage], Awaitable[None]]


async def answer_our_close(stage: Stage) -> None:
    await stage.client.frames_to_close()
    await stage.client.send(close())
    stage.client.end_stream()


async def answer_our_close_and_stay(stage: Stage) -> None:
    await stage.client.frames_to_close()
    await stage.client.send(close())


async def stay_mute(stage: Stage) -> None:
    await stage.client.frames_to_close()


async def end_the_stream_at_our_close(stage: Stage) -> None:
    await stage.client.frames_to_close()
    stage.client.end_stream()


async def reset_at_our_close(stage: Stage) -> None:
    await stage.client.frames_to_close()
    stage.client.reset()


async def close_first(stage: Stage) -> None:
    await stage.client.send(close(4000, "bye"))
    await stage.client.frames_to_close()
    stage.client.end_stream()


async def close_first_and_stay(stage: Stage) -> None:
    await stage.client.send(close(4000, "bye"))
    await stage.client.frames_to_close()


async def close_first_and_reset(stage: Stage) -> None:
    await stage.client.send(close())
    await stage.client.frames_to_close()
    stage.client.reset()


async def end_the_stream(stage: Stage) -> None:
    stage.client.end_stream()


async def reset(stage: Stage) -> None:
    stage.client.reset()


async def break_a_rule(stage: Stage) -> None:
    await stage.client.send(masked(3))
    await stage.client.frames_to_close()
    stage.client.end_stream()


async def break_a_rule_and_reset(stage: Stage) -> None:
    await stage.client.send(masked(3))
    await stage.client.frames_to_close()
    stage.client.reset()


async def send_too_much(stage: Stage) -> None:
    await stage.client.send(masked(Opcode.BINARY, bytes(2000)))
    await stage.client.frames_to_close()
    stage.client.end_stream()


async def leave_pings_unanswered(stage: Stage) -> None:
    await stage.client.wait_lost()


async def stop_the_server(stage: Stage) -> None:
    stage.server.stop()
    await answer_our_close(stage)


async def stop_the_server_and_stay_mute(stage: Stage) -> None:
    stage.server.stop()
    await stage.client.wait_lost()


async def cut_off(stage: Stage) -> None:
    ws = await stage.wait_held()
    with trio.move_on_after(0):
        await ws.aclose()


async def read_too_slowly(stage: Stage) -> None:
    room = await stage.wait_in_room()
    while len(room):
        room.publish(bytes(50_000))
        await trio.sleep(0)
    stage.client.reset()


async def reset_while_we_send(stage: Stage) -> None:
    room = await stage.wait_in_room()
    (peer,) = state_of(room).peers
    # The loop finds the reset where it sends, before it reads.
    current_loop().lose(peer, ConnectionResetError(104, "Connection reset by peer"))
    stage.client.reset()


async def meet_an_error_of_ours(stage: Stage) -> None:
    await stage.wait_in_room()

    def fail(*_: object) -> None:
        raise RuntimeError("a fault that the test has put there")

    stage.monkeypatch.setattr(current_loop(), "_act_on", fail)
    await stage.client.send(text("hello"))
    await stage.client.wait_lost()


async def publish_where_that_is_forbidden(stage: Stage) -> None:
    await stage.client.send(text("hello"))
    await answer_our_close(stage)


async def hang_up_events(stage: Stage) -> None:
    await stage.wait_in_room()
    stage.client.end_stream()


async def stop_events(stage: Stage) -> None:
    await stage.wait_in_room()
    stage.server.stop()
    while await stage.client.take_some():
        pass
    stage.client.hang_up()


# The seconds that a client has for its close, if it lets them pass. Where it stays, both closes have crossed before.
CLOSE_TIMEOUTS: dict[Act, float] = {stay_mute: SOON_S, answer_our_close_and_stay: 1.0, close_first_and_stay: 1.0}

RETURNS, FAILS, WAITS, ROOM, EVENTS = "/returns", "/fails", "/waits", "/room/x", "events"
READ_ONLY = "/read-only"

# The client's part, its place, and the cause that all have to give.
ENDS: list[tuple[Act, str, str]] = [
    (answer_our_close, RETURNS, "our close"),
    (answer_our_close_and_stay, RETURNS, "our close"),
    (stay_mute, RETURNS, "close timeout"),
    (end_the_stream_at_our_close, RETURNS, "eof"),
    (reset_at_our_close, RETURNS, "reset"),
    (cut_off, WAITS, "our close"),
    (answer_our_close, FAILS, "error"),
    (stay_mute, FAILS, "error"),
    *((act, where, "peer close") for act in (close_first, close_first_and_stay, close_first_and_reset)
      for where in (WAITS, ROOM)),
    *((end_the_stream, where, "eof") for where in (WAITS, ROOM)),
    *((reset, where, "reset") for where in (WAITS, ROOM)),
    *((act, where, "protocol error") for act in (break_a_rule, break_a_rule_and_reset) for where in (WAITS, ROOM)),
    *((send_too_much, where, "limit") for where in (WAITS, ROOM)),
    *((leave_pings_unanswered, where, "ping timeout") for where in (WAITS, ROOM)),
    *((act, where, "shutdown") for act in (stop_the_server, stop_the_server_and_stay_mute) for where in (WAITS, ROOM)),
    (read_too_slowly, ROOM, "slow peer"),
    (reset_while_we_send, ROOM, "reset"),
    (meet_an_error_of_ours, ROOM, "error"),
    (publish_where_that_is_forbidden, READ_ONLY, "our close"),
    (hang_up_events, EVENTS, "eof"),
    (stop_events, EVENTS, "shutdown"),
]  # fmt: skip


@pytest.fixture
def watched() -> Iterator[tuple[Tracer, Memory]]:
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    yield tracer, memory
    tracer.remove(memory)


@pytest.mark.parametrize(("act", "where", "cause"), ENDS, ids=[f"{act.__name__} {where}" for act, where, _ in ENDS])
async def test_all_give_the_same_cause(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    watched: tuple[Tracer, Memory],
    act: Act,
    where: str,
    cause: str,
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    hub = rawws.Hub(max_lag_bytes=100_000, read_only=where == READ_ONLY)
    tracer, memory = watched
    held: list[rawws.WebSocket] = []

    async def serve_one(ws: rawws.WebSocket) -> None:
        held.append(ws)
        match ws.path:
            case "/returns":
                return
            case "/fails":
                raise RuntimeError("a handler that fails")
            case _:
                await ws.wait_closed()

    pings = {"ping_interval": SOON_S, "ping_timeout": SOON_S} if cause == "ping timeout" else {"ping_interval": None}
    close_timeout = CLOSE_TIMEOUTS.get(act, PATIENCE_S)
    limits: dict[str, Any] = {"close_timeout": close_timeout, "drain": SOON_S * 3, "max_size": 1000, **pings}
    routes = dict.fromkeys((RETURNS, FAILS, WAITS), serve_one)
    metrics = MetricsApp(hub, RoomApp(hub, HelloApp(), PublishPolicy(is_local=True)))
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=metrics, routes=routes, tracer=tracer, **limits)
    server = await nursery.start(start)
    # A separate server returns the metrics, since the other may have stopped.
    teller = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, http=metrics))
    client = Client(socket.socket())
    with trio.fail_after(PATIENCE_S):
        await client.connect(server.port)
        if where == EVENTS:
            await client.send(get("/room/x", "Accept: text/event-stream"))
        else:
            await client.open(ROOM if where == READ_ONLY else where)
        await act(Stage(server, hub, client, monkeypatch, held))
        while not current_loop().stats.ends:
            await trio.sleep(0.01)
        asking = await Client(socket.socket()).connect(teller.port)
        figures = (await asking.ask(get("/metrics"))).body.decode()
        asking.hang_up()
    client.hang_up()

    assert dict(re.findall(r'^rawws_closes_total\{cause="(.*)"\} (.*)$', figures, re.MULTILINE)) == {cause: "1.0"}
    (record,) = (record for _, record in memory.taken if record["kind"] == "end" and "cause" in record)
    assert record["cause"] == cause
    (line,) = (line for line in caplog.records if hasattr(line, "cause"))
    assert line.cause == cause
    assert line.getMessage().endswith(record["told"])
    if held:
        assert held[0].closed is not None
        assert held[0].closed.cause.value == cause
        assert record["told"].startswith(held[0].closed.sentence)
    nursery.cancel_scope.cancel()
