"""The writer: the only owner of a peer's pending bytes, and its edge cases."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.broadcast.encodings import PLAIN
from rawws.broadcast.response_stream import ResponseStream
from rawws.broadcast.stream_encodings import EVENTS
from rawws.net.poller import READABLE, WRITABLE
from rawws.net.transport import Transport
from rawws.relay import frame_queue, writer
from rawws.relay.frame_queue import SMALL_BYTES, FrameQueue
from rawws.relay.peer import Peer
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.relay.stats import Stats
from rawws.relay.writer import PeerWriter
from rawws.testing import open_pair
from tests.serving.machine import PATIENCE_S

OWNED = {name for name in PeerWriter.__slots__ if name.startswith("_")}
PACKAGE = Path(rawws.__file__).parent


def test_the_writers_attributes_are_used_in_its_module_alone() -> None:
    assert {"_outbox", "_cursors", "_partial_room", "_after_fragments"} <= OWNED
    touched = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} .{node.attr}"
        for path in PACKAGE.rglob("*.py")
        if path.name != Path(writer.__file__).name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in OWNED
    ]
    assert not touched


def test_the_queue_is_used_by_the_writer_alone() -> None:
    users = {path.stem for path in PACKAGE.rglob("*.py") if "FrameQueue" in path.read_text("utf-8")}
    assert users == {frame_queue.__name__.rpartition(".")[2], writer.__name__.rpartition(".")[2]}


def test_a_peer_has_neither_a_dict_nor_its_own_writer() -> None:
    """An idle peer's memory is its slots: no object is made before something waits."""
    assert all("__slots__" in vars(kind) for kind in Peer.__mro__[:-1])
    slots = [name for kind in Peer.__mro__[:-1] for name in vars(kind)["__slots__"]]
    assert len(slots) == len(set(slots)) <= 30


@pytest.fixture
def pair() -> Iterator[tuple[PeerWriter, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield PeerWriter(1, Transport(ours), ResponseStream(EVENTS), PLAIN), theirs


def test_frames_go_at_once_where_nothing_waits(pair: tuple[PeerWriter, socket.socket]) -> None:
    peer, theirs = pair
    stats = Stats()
    assert peer.put(b"one", stats)
    assert (theirs.recv(10), peer.has_queued, peer.queued_bytes, stats.bytes_out) == (b"one", False, 0, 3)
    peer.interest = READABLE | WRITABLE
    assert not peer.put(b"two", stats), "a socket that is full isn't tried"
    assert (peer.pieces(), peer.queued_bytes, stats.bytes_out) == ([b"two"], 3, 3)


def test_data_that_a_socket_does_not_take_waits_in_order(pair: tuple[PeerWriter, socket.socket]) -> None:
    peer, theirs = pair
    stats = Stats()
    large = bytes(range(256)) * 20_000
    assert not peer.put(large, stats)
    assert not peer.put(b"then", stats)
    assert peer.queued_bytes == len(large) + 4 - stats.bytes_out
    got = b""
    while peer.has_queued:
        got += theirs.recv(1 << 20)
        peer.flush(_NoSegments(), stats)
    while len(got) < len(large) + 4:
        got += theirs.recv(1 << 20)
    assert got == large + b"then"
    assert (stats.bytes_out, peer.queued_bytes, peer.pieces()) == (len(got), 0, [])


def test_messages_wait_apart_while_another_is_sent_in_fragments(pair: tuple[PeerWriter, socket.socket]) -> None:
    peer, theirs = pair
    assert not peer.begin_fragments(), "it is in no room"
    peer.queue_whole(b"message")
    peer.queue(b"fragment")
    assert peer.pieces() == [b"fragment", b"message"]
    assert peer.queued_bytes == len(b"fragment")
    assert peer.flush(_NoSegments(), Stats()).is_done
    assert theirs.recv(100) == b"fragment"
    peer.end_fragments()
    assert peer.flush(_NoSegments(), Stats()).is_done
    assert theirs.recv(100) == b"message"


def test_only_the_last_piece_can_be_taken_back(pair: tuple[PeerWriter, socket.socket]) -> None:
    peer, _ = pair
    notice = b"skipped"
    assert not peer.withdraw(notice)
    peer.queue_apart(notice)
    assert peer.withdraw(notice)
    assert not peer.has_queued
    peer.queue_apart(notice)
    peer.queue_apart(b"other")
    assert not peer.withdraw(notice)
    assert peer.queued_bytes == len(notice) + 5


def test_small_frames_are_joined_and_large_ones_are_not_copied() -> None:
    large = bytes(SMALL_BYTES + 1)
    queue = FrameQueue(b"a")
    queue.append(b"b")
    queue.append(b"c")
    queue.append(large)
    queue.append(b"d")
    assert queue.pieces == [bytearray(b"abc"), large, b"d"]
    assert queue.pieces[1] is large
    assert queue.size == sum(map(len, queue.pieces))


def test_counts_of_answers_end_with_the_queue(pair: tuple[PeerWriter, socket.socket]) -> None:
    peer, theirs = pair
    peer.queue(b"pong")
    peer.count_answers(4)
    peer.queue(b"message")
    peer.count_program(7)
    assert (peer.answer_bytes, peer.program_bytes) == (4, 7)
    peer.flush(_NoSegments(), Stats())
    assert theirs.recv(100) == b"pongmessage"
    assert (peer.answer_bytes, peer.program_bytes) == (0, 0)


class _NoSegments:
    """An encoder for a peer that is in no room."""

    def get(self, *_: object) -> bytes | None:
        raise AssertionError

    def run(self, *_: object) -> tuple[bytes, list[int]]:
        raise AssertionError

    def wait(self, *_: object) -> None:
        raise AssertionError


async def test_pongs_that_went_out_at_once_are_not_held_against_a_peer() -> None:
    async with open_pair(max_queue=1) as (client, server):
        size = 120
        for number in range(MAX_OUTBOX_BYTES // size + 2):
            await client.ping(b"%05d" % number + b"x" * (size - 5))
        messages = list(map(str, range(20)))
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for message in messages:
                        await client.send(message)

                nursery.start_soon(send)
                await wait_all_tasks_blocked()  # the server's queue is full, so it is not read any more
                assert [await server.recv() for _ in messages] == messages
