"""Sockets with something to do: those that the poller reports, and those whose data is already buffered."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rawws.net.poller import READABLE, WRITABLE
from rawws.relay.ready_sockets import ReadySockets


@pytest.fixture
async def sockets() -> ReadySockets:
    return ReadySockets()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def test_a_socket_with_data_is_ready(sockets: ReadySockets, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sockets.add(ours.fileno())
    assert sockets.take() == []
    theirs.send(b"hello")
    assert sockets.take() == [(ours.fileno(), READABLE)]
    sockets.close()


async def test_unread_data_makes_a_socket_ready_once(
    sockets: ReadySockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sockets.add(ours.fileno())
    sockets.watch(ours.fileno(), READABLE | WRITABLE)
    sockets.add_unread(ours.fileno())
    theirs.send(b"hello")
    assert sockets.has_waiting
    assert sockets.take() == [(ours.fileno(), READABLE | WRITABLE)]
    assert not sockets.has_waiting
    sockets.close()


async def test_unread_data_comes_after_the_sockets_that_the_poller_reports(
    sockets: ReadySockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sockets.add(ours.fileno())
    theirs.send(b"hello")
    sockets.add_unread(1000)
    assert sockets.take() == [(ours.fileno(), READABLE), (1000, READABLE)]
    sockets.close()


async def test_sockets_that_a_turn_has_not_reached_come_first_in_the_next(
    sockets: ReadySockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sockets.add(ours.fileno())
    theirs.send(b"hello")
    sockets.put_back(iter([(1001, READABLE), (1002, WRITABLE)]))
    assert sockets.has_waiting
    assert sockets.take() == [(1001, READABLE), (1002, WRITABLE)]
    assert sockets.take() == [(ours.fileno(), READABLE)]
    sockets.close()
