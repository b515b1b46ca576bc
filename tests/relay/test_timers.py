"""Timers and the memory bound only decide; the loop carries out the actions that they return."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from rawws.errors import Cause
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.relay.actions import Action, Close, CloseAndDrop, Drop, EndHistory, EndRest, SendDeferredClose, SendPing
from rawws.relay.loop import current_loop
from rawws.relay.memory import Memory
from rawws.relay.peer import FlowControl, Inbox, Loss, Peer
from rawws.relay.stats import Stats
from rawws.relay.timers import KEEPALIVE, Timers
from rawws.wire.session import State
from tests.serving.server import RunningHub, StartHub

INTERVAL_S, PING_TIMEOUT_S, CLOSE_TIMEOUT_S = 20.0, 7.0, 5.0


@pytest.fixture
def running(start_hub: StartHub) -> RunningHub:
    limits = Limits(ping_interval_s=INTERVAL_S, ping_timeout_s=PING_TIMEOUT_S, close_timeout_s=CLOSE_TIMEOUT_S)
    return start_hub(limits=limits, history=10)


@pytest.fixture
def peer(running: RunningHub) -> Peer:
    running.join()
    (peer,) = current_loop().peers_of(running.endpoint)
    return peer


@pytest.fixture
async def timers() -> Timers:
    return Timers({}, Stats())


async def test_nothing_is_due_before_the_first_ping(timers: Timers, peer: Peer) -> None:
    assert timers.due(peer, peer.ping_at - 0.1) is None


async def test_a_ping_is_due_after_the_interval(timers: Timers, peer: Peer) -> None:
    now = peer.ping_at
    assert timers.due(peer, now) == SendPing(peer, KEEPALIVE)
    assert (peer.ping_at, peer.pong_deadline) == (now + INTERVAL_S, now + PING_TIMEOUT_S)
    assert timers.due(peer, now) is None


async def test_a_peer_without_an_answer_is_closed_and_dropped(timers: Timers, peer: Peer) -> None:
    timers.due(peer, peer.ping_at)
    action = timers.due(peer, peer.pong_deadline)
    assert isinstance(action, CloseAndDrop)
    assert (action.code, action.reason, action.cause) == (1011, "no answer to a ping within 7 s", Cause.PING_TIMEOUT)
    assert peer.session.state is State.OPEN, "the loop closes it"


async def test_any_byte_answers_a_ping(timers: Timers, peer: Peer) -> None:
    timers.due(peer, peer.ping_at)
    late = peer.pong_deadline
    peer.seen_since_ping = True
    assert timers.due(peer, late) is None
    assert peer.pong_deadline == math.inf


async def test_a_peer_that_is_not_read_from_owes_no_answer(timers: Timers, peer: Peer) -> None:
    timers.due(peer, peer.ping_at)
    late = peer.pong_deadline
    peer.flow = FlowControl()
    peer.flow.read_paused_until = late + 1.0
    assert timers.due(peer, late) is None
    assert peer.pong_deadline == math.inf
    assert timers.due(peer, late + 1.0) == EndRest(peer)


async def test_a_paused_inbox_owes_no_answer(timers: Timers, peer: Peer) -> None:
    timers.due(peer, peer.ping_at)
    peer.inbox = Inbox(1)
    peer.inbox.paused = True
    assert timers.due(peer, peer.pong_deadline) is None
    assert peer.pong_deadline == math.inf


async def test_a_close_without_an_answer_is_cut_off(timers: Timers, peer: Peer) -> None:
    peer.session.close(1000, "")
    peer.close_at = 100.0
    assert timers.due(peer, 99.9) is None
    why = "cut off, since the client has not closed within 5 s"
    assert timers.due(peer, 100.0) == Drop(peer, Cause.CLOSE_TIMEOUT, why)


async def test_a_deferred_close_is_sent_in_time(timers: Timers, peer: Peer) -> None:
    peer.session.close(1000, "")
    peer.close_at = 100.0
    peer.inbox = Inbox(1)
    peer.inbox.deferred_close = b"\x88\x00"
    assert timers.due(peer, 100.0) == SendDeferredClose(peer)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_lost_peer_is_dropped_after_the_close_timeout(timers: Timers, peer: Peer, reads: bool) -> None:
    peer.lost = Loss("reset", 0)
    peer.close_at = 100.0
    if not reads:
        peer.interest = 0
    assert timers.due(peer, 99.9) is None
    action = timers.due(peer, 100.0)
    assert isinstance(action, Drop)
    assert (action.cause, action.why == "reset") == (Cause.RESET, reads)


async def test_without_peers_rooms_and_a_memory_bound_there_is_no_tick(
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    timers = Timers({}, Stats())
    with trio.move_on_after(1000.0) as waiting:
        await timers.wait_for_tick()
    assert waiting.cancelled_caught
    timers.watch_memory(is_bounded=True)
    first = await timers.wait_for_tick()
    assert await timers.wait_for_tick() - first == pytest.approx(0.1)


async def test_the_memory_bound_yields_actions_for_the_loop(running: RunningHub, peer: Peer) -> None:
    held = running.hub.room("/other")
    held.publish(bytes(1000))
    room = state_of(held)
    rooms = {room: None}
    memory = Memory({1: peer}, rooms)
    memory.max_bytes = 10
    actions: list[Action] = []
    for action in memory.excess():
        actions.append(action)
        if isinstance(action, EndHistory):
            assert room.history_bytes, "it has done nothing itself"
            room.end_history()
            rooms.clear()
    assert actions[0] == EndHistory(room)
    assert [type(action) for action in actions] == [EndHistory, Close]
    assert peer.session.state is State.OPEN, "the loop closes it"


async def test_the_memory_bound_yields_nothing_while_there_is_room(peer: Peer) -> None:
    memory = Memory({1: peer}, ())
    memory.max_bytes = memory.used_bytes()
    assert list(memory.excess()) == []
