"""A committer with groups, without a hub: messages are put, and workers take them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from rawws.broadcast.log import History
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal
from rawws.groups.groups import Groups
from rawws.groups.leases import Worker
from rawws.groups.protocol import Answer, GroupQuery, Verb
from rawws.groups.runner import Runner
from rawws.groups.shelf import StoredMessage
from rawws.store.committer import Committer
from rawws.store.engine import Engine
from rawws.store.entries import Append
from rawws.wire.frames import Opcode, encode_frame
from tests.serving.machine import PATIENCE_S

PATH = "/room/pay"


class Rooms:
    """The rooms of a store."""

    def __init__(self, engine: Engine) -> None:
        self.committer = Committer(engine)
        self.history = History(messages=10, max_bytes=1 << 20)
        self.held: list[tuple[str, bool]] = []
        self.with_dead: list[str] = []

    def keep_dead(self, path: str) -> None:
        self.with_dead.append(path)

    def bury(self, path: str, frame: bytes) -> None:
        self.committer.put(Append(path, frame, 1, self.history))

    def say(self, *messages: str | bytes, key: str | None = None) -> None:
        """Publish messages as one record."""
        frames = b"".join(
            encode_frame(
                Opcode.TEXT if isinstance(each, str) else Opcode.BINARY,
                each.encode() if isinstance(each, str) else each,
            )
            for each in messages
        )
        self.committer.put(Append(PATH, frames, len(messages), self.history, key))

    def hold(self, path: str, *, held: bool) -> None:
        self.held.append((path, held))


class Taker:
    """A worker in a program, which keeps what it gets."""

    def __init__(
        self, runner: Runner, lease: str = "#1", *, most: int = 1, ack_s: float = 30.0, tries: int = 5
    ) -> None:
        self.runner = runner
        self.worker = Worker(lease, most=most, ack_s=ack_s, tries=tries)
        self.got: list[tuple[int, int, bytes]] = []
        self.ended: Refusal | None = None
        self.refusal: Refusal | None = None
        self._news = trio.Event()
        runner.join(self.worker, self)

    @property
    def is_full(self) -> bool:
        return self.worker.is_paused

    def refuse(self) -> Refusal | None:
        return self.refusal

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        self.got.append((job.number, tried, message.payload))
        self._wake()

    def flush(self) -> None:
        """Do nothing: jobs are taken at once."""

    def end(self, refusal: Refusal) -> None:
        self.ended = refusal
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait(self, count: int) -> list[tuple[int, int, bytes]]:
        """Return what came, when that is some number of jobs."""
        with trio.fail_after(PATIENCE_S):
            while len(self.got) < count and self.ended is None:
                await self._news.wait()
        return self.got

    def say(self, verb: Verb, number: int, in_s: float = 0.0, why: str = "") -> bool:
        answer = Answer(verb, MessageId(self.runner.epoch, number), in_s, why)
        return self.runner.answer(answer, self.worker.lease)

    def ack(self, number: int) -> bool:
        return self.say(Verb.ACK, number)


@asynccontextmanager
async def serving(engine: Engine, queue_bytes: int = 1 << 20) -> AsyncGenerator[tuple[Groups, Rooms]]:
    rooms = Rooms(engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.committer.run)
        groups = Groups(rooms, queue_bytes)
        async with trio.open_nursery() as inner:
            await inner.start(groups.run)
            yield groups, rooms
            with trio.move_on_after(5):
                await rooms.committer.flush()
            inner.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def open_group(groups: Groups, name: str = "sms", **query: Any) -> Runner:
    found = await groups.open(PATH, GroupQuery(name, **query))
    assert isinstance(found, Runner)
    return found
