"""A new policy for slow peers is one class and one row in a table; the hub, a room's settings and ``--slow`` know it.

The policy here is `sample`: a lagging peer gets every tenth message of those that it has missed.
"""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Sequence

import pytest
import trio

from rawws.cli.serve import add_arguments
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from rawws.hub.room import state_of
from rawws.relay.lag_policies import POLICIES, Selects
from rawws.relay.settings import RoomSettings
from rawws.wire.frames import split_frames
from tests.serving.client import Client
from tests.serving.server import RunningHub, StartHub
from tests.serving.wire import close, text

EVERY = 10
PADDING = "x" * 500
MESSAGES = 2000
SMALL = 4096  # a socket's send buffer; it holds a few messages


class Sample(Selects):
    """A lagging peer gets every tenth message, up to ``max_lag_bytes`` of these."""

    __slots__ = ("_bytes", "_kept")

    name = "sample"
    summary = "gets every tenth message"

    def __init__(self, key: str, max_lag_bytes: int) -> None:
        super().__init__(key, max_lag_bytes)
        self._kept: deque[tuple[int, bytes]] = deque()
        self._bytes = 0

    def note_sealed(self, first: int, frames: bytes) -> None:
        for number, (header, payload) in enumerate(split_frames(frames), first):
            if number % EVERY == 0:
                self._kept.append((number, header.raw + bytes(payload)))
                self._bytes += len(self._kept[-1][1])
        while self._bytes > self.max_lag_bytes:
            self._bytes -= len(self._kept.popleft()[1])

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def select(self, after: int) -> Sequence[tuple[int, bytes]]:
        return [(number, frame) for number, frame in self._kept if number > after]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, Sample.name, Sample)


async def flood(running: RunningHub) -> None:
    """Publish messages whose text is their number in the log."""
    room = running.hub.room("/")
    for number in range(1, MESSAGES + 1):
        room.publish(f"{number} {PADDING}")
        if number % 50 == 0:
            await trio.lowlevel.checkpoint()


async def numbers_of(client: Client, last: int) -> list[int]:
    """Read messages until the one of that number, and return the numbers of all."""
    numbers = [0]
    while numbers[-1] != last:
        numbers.append(int((await client.frame()).payload.split(b" ", 1)[0]))
    return numbers[1:]


def check_sample(got: list[int]) -> None:
    """Assert that a reader was sent all messages until its socket was full, and then every tenth."""
    all_until = next(before for before, number in itertools.pairwise(got) if number != before + 1)
    assert got[:all_until] == list(range(1, all_until + 1)), "as long as it takes all of them"
    sampled = got[all_until:]
    assert len(sampled) > 50, "the socket holds a few messages, and it lags for the most part"
    assert sampled == list(range(sampled[0], MESSAGES + 1, EVERY))
    assert sampled[0] - all_until <= EVERY
    assert sampled[0] % EVERY == 0


async def test_a_lagging_peer_gets_every_tenth_message_and_the_others_all(start_hub: StartHub) -> None:
    running = start_hub(slow="sample")
    slow, quick = running.join(send_buffer=SMALL), running.join()
    quick_got: list[int] = []

    async def read_quickly() -> None:
        quick_got.extend(await numbers_of(quick, MESSAGES))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_quickly)
        await flood(running)
    assert quick_got == list(range(1, MESSAGES + 1)), "a peer that keeps up is not concerned"
    room = running.hub.room("/")
    assert len(state_of(room).lagging) == 1
    assert state_of(room).log.kept_bytes == 0, "the log keeps nothing for it"
    check_sample(await numbers_of(slow, MESSAGES))
    room.publish(f"{MESSAGES + 1} again")
    assert await numbers_of(slow, MESSAGES + 1) == [MESSAGES + 1], "it has caught up, and gets all again"
    await slow.send(close())
    await slow.frames_to_close()


async def test_a_selection_is_bounded_and_keeps_the_newest(start_hub: StartHub) -> None:
    running = start_hub(slow="sample", max_lag_bytes=20 * len(PADDING))
    slow = running.join(send_buffer=SMALL)
    await flood(running)
    room = running.hub.room("/")
    assert state_of(room).policy.held_bytes <= 20 * len(PADDING)
    got = await numbers_of(slow, MESSAGES)
    assert got[-19:] == list(range(MESSAGES - 18 * EVERY, MESSAGES + 1, EVERY))


async def test_one_room_of_several_can_have_the_policy(start_hub: StartHub) -> None:
    def settings(path: str) -> RoomSettings | None:
        return RoomSettings(slow="sample") if path == "/" else None

    running = start_hub(settings=settings)
    slow = running.join(send_buffer=SMALL)
    await flood(running)
    check_sample(await numbers_of(slow, MESSAGES))
    await slow.send(text("hello"))  # the room still accepts its messages
    assert (await slow.frame()).payload == b"hello"
    assert state_of(running.hub.room("/other")).policy.name == "close"


async def test_the_command_line_offers_the_policy(start_hub: StartHub) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(["--slow", "sample"])
    words = " ".join(parser.format_help().split())
    assert "--slow {close,skip,latest,wait,sample}" in words
    assert "or gets every tenth message (sample) (default: close)" in words
    running = start_hub(slow=options.slow, max_lag_bytes=options.max_lag)
    slow = running.join(send_buffer=SMALL)
    await flood(running)
    check_sample(await numbers_of(slow, MESSAGES))


def test_a_policy_without_a_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(POLICIES, "sample")
    with pytest.raises(UsageError, match="there is no policy for slow peers 'sample'"):
        Hub(slow="sample")
