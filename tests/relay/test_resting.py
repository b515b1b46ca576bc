"""Connections that rest between two requests: they take what arrives, and their tasks aren't woken for it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.net.transport import Transport
from rawws.relay import resting as module
from rawws.relay.ready_sockets import Ready, ReadySockets
from rawws.relay.resting import Resting

REST_S = 30.0


@contextmanager
def connection() -> Iterator[tuple[Transport, socket.socket]]:
    ours, theirs = socket.socketpair()
    transport = Transport(ours)
    with theirs:
        try:
            yield transport, theirs
        finally:
            transport.close()


class Guest:
    """A connection that takes bytes, and goes on resting while they begin with a dot."""

    def __init__(self, resting: Resting, transport: Transport) -> None:
        self.resting = resting
        self.transport = transport
        self.taken: list[bytes] = []
        self.ends: list[bool | Exception] = []

    def take(self, data: bytes) -> bool:
        self.taken.append(data)
        if data == b"stumble":
            raise ZeroDivisionError("on purpose")
        return data.startswith(b".")

    async def rest(self) -> None:
        try:
            self.ends.append(await self.resting.rest(self.transport, self.take, REST_S))
        except (OSError, ZeroDivisionError) as error:
            self.ends.append(error)
        finally:
            self.resting.forget(self.transport)


@asynccontextmanager
async def guests(count: int = 1) -> AsyncIterator[list[tuple[Guest, socket.socket]]]:
    """Have connections rest; at the end, those that still do are cancelled."""
    resting = Resting()
    async with resting.running(), trio.open_nursery() as nursery:
        pairs = [socket.socketpair() for _ in range(count)]
        there = [(Guest(resting, Transport(ours)), theirs) for ours, theirs in pairs]
        for guest, _ in there:
            nursery.start_soon(guest.rest)
        await wait_all_tasks_blocked()
        assert len(resting) == count
        yield there
        nursery.cancel_scope.cancel()
    assert not len(resting)
    for guest, theirs in there:
        guest.transport.close()
        theirs.close()


async def test_a_connection_takes_what_arrives_and_rests_until_it_wants_to_no_longer() -> None:
    async with guests() as [(guest, client)]:
        for data in (b".1", b".2", b"3"):
            assert not guest.ends
            client.send(data)
            await wait_all_tasks_blocked(0.01)
        assert guest.taken == [b".1", b".2", b"3"]
        assert guest.ends == [True]


async def test_many_connections_take_what_arrives_together() -> None:
    async with guests(3 * module.MOST_AT_ONCE) as there:
        for _, client in there:
            client.send(b".")
        await wait_all_tasks_blocked(0.01)
        assert all(guest.taken == [b"."] and not guest.ends for guest, _ in there)


async def test_the_poller_is_asked_for_several_connections_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Ready]] = []
    take = ReadySockets.take

    def note(self: ReadySockets) -> list[Ready]:
        asked.append(take(self))
        return asked[-1]

    monkeypatch.setattr(ReadySockets, "take", note)
    async with guests() as [(guest, client)]:
        client.send(b".")
        await wait_all_tasks_blocked(0.01)
        assert guest.taken == [b"."]
        assert not asked
    async with guests(2) as there:
        for _, client in there:
            client.send(b".")
        await wait_all_tasks_blocked(0.01)
        assert [guest.taken for guest, _ in there] == [[b"."]] * 2
        assert asked


async def test_other_tasks_run_after_some_connections() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with guests(4 * module.MOST_AT_ONCE) as there, trio.open_nursery() as nursery:
        for _, client in there:
            client.send(b".")
        nursery.start_soon(count_turns)
        while not all(guest.taken for guest, _ in there):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert turns >= 3, "between one group and the next"


async def test_the_end_of_the_stream_and_a_loss_end_the_rest() -> None:
    async with guests(2) as [(first, client), (second, lost)]:
        client.close()
        second.transport._socket.shutdown(socket.SHUT_RD)
        second.transport.receive_now = partial(_lose, second)
        lost.close()
        await wait_all_tasks_blocked(0.01)
        assert first.taken == [b""]
        assert first.ends == [True]
        assert isinstance(second.ends[0], ConnectionResetError)


def _lose(*_: object) -> bytes:
    raise ConnectionResetError("the client has gone")


async def test_an_error_in_taking_is_raised_where_the_connection_rests() -> None:
    async with guests(2) as [(guest, client), (bystander, other)]:
        client.send(b"stumble")
        await wait_all_tasks_blocked(0.01)
        assert isinstance(guest.ends[0], ZeroDivisionError)
        other.send(b".")
        await wait_all_tasks_blocked(0.01)
        assert bystander.taken == [b"."]


async def test_the_time_is_counted_from_the_last_bytes(autojump_clock: MockClock) -> None:
    ends: list[float] = []
    resting = Resting()
    with connection() as (transport, client):
        guest = Guest(resting, transport)

        async def rest() -> None:
            await guest.rest()
            ends.append(autojump_clock.current_time())

        async with resting.running(), trio.open_nursery() as nursery:
            began = autojump_clock.current_time()
            nursery.start_soon(rest)
            await trio.sleep(20)
            client.send(b".")
            await trio.sleep(20)
            assert not ends
    assert guest.ends == [False]
    assert ends == [pytest.approx(began + 20 + REST_S, abs=0.5)]


async def test_the_end_of_the_server_ends_every_rest_and_there_is_no_other() -> None:
    async with guests(3) as there:
        resting = there[0][0].resting
        resting.end()
        await wait_all_tasks_blocked()
        assert [guest.ends for guest, _ in there] == [[False]] * 3
        assert not await resting.rest(there[0][0].transport, there[0][0].take, REST_S)


async def test_bytes_that_a_poller_cannot_see_are_taken_first() -> None:
    async with guests() as [(guest, _)]:
        hidden = iter([None, b".", b"x"])
        with connection() as (transport, _):
            pending = _Pending(hidden)
            assert await guest.resting.rest(pending, guest.take, REST_S)  # type: ignore[arg-type]
            assert transport.fileno() >= 0
        assert guest.taken == [b".", b"x"]


class _Pending:
    has_pending = True

    def __init__(self, hidden: Iterator[bytes | None]) -> None:
        self._hidden = hidden

    def try_receive(self) -> bytes | None:
        return next(self._hidden)


async def test_a_connection_at_work_is_not_watched() -> None:
    async with guests() as [(guest, client)]:
        client.send(b"x")
        await wait_all_tasks_blocked(0.01)
        assert guest.ends == [True]
        resting = guest.resting
        resting._watch(guest.transport.fileno())
        client.send(b"x")  # as a client that pipelines
        await wait_all_tasks_blocked(0.01)
        assert not resting._watched
        client.send(b"y")
        assert await resting.rest(guest.transport, guest.take, REST_S)
        assert guest.taken == [b"x", b"xy"]


async def test_a_socket_that_is_ready_for_nothing_goes_on_resting() -> None:
    async with guests() as [(guest, client)]:
        guest.transport.receive_now = partial(_find_nothing, guest.transport)
        client.send(b"x")
        await wait_all_tasks_blocked(0.01)
        assert not guest.taken
        assert not guest.ends


def _find_nothing(transport: Transport, _: int) -> bytes:
    transport._socket.recv(10)
    raise BlockingIOError


def test_a_second_look_is_left_out_while_it_is_in_vain() -> None:
    look = module.SecondLook()
    assert look.is_due()
    look.note(True)
    assert look.is_due()
    look.note(False)
    assert [look.is_due() for _ in range(module.LOOK_EVERY)] == [False] * (module.LOOK_EVERY - 1) + [True]
