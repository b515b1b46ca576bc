"""The work that the commands of other nodes are: bounded in number, and in the share of the time that it takes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.backplane import command_work
from rawws.backplane.command_work import CommandWork
from rawws.broadcast.node_commands import Command
from rawws.broadcast.stream_entries import Author
from rawws.relay.backplane import Backplane
from rawws.relay.room_state import RoomState


class Taker:
    """Takes some time for each batch of commands, and answers questions with their numbers."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self._takes_s = takes_s

    def fault_of(self, command: Command) -> str:
        return "" if command.kind == "known/1" else "it is unknown"

    def rooms_for(self, commands: Sequence[Command], backplane: Backplane[RoomState]) -> list[RoomState]:
        return []

    async def carry_out(self, commands: Sequence[Command], backplane: Backplane[RoomState]) -> None:
        until = time.perf_counter() + self._takes_s
        while time.perf_counter() < until:
            pass
        self.batches.append([command.by.serial for command in commands])

    async def answer(self, question: Command) -> Iterable[object]:
        await trio.lowlevel.checkpoint()
        if question.by.serial == 13:
            raise RuntimeError("an error of our own")
        return [question.by.serial]


def start(nursery: trio.Nursery, taker: Taker) -> tuple[CommandWork, list[tuple[int, list[object]]]]:
    """Return work under way, and the list to which its answers are added."""
    answers: list[tuple[int, list[object]]] = []

    async def catch_up(_: Collection[RoomState]) -> None:
        raise AssertionError("no room is concerned")

    def answer(question: Command, items: Iterable[object]) -> None:
        answers.append((question.by.serial, list(items)))

    backplane: Backplane[RoomState] = None  # type: ignore[assignment]  # which is only handed on
    work = CommandWork(backplane, taker, catch_up, answer)
    nursery.start_soon(work.run)
    return work, answers


def command(serial: int, kind: str = "known/1", *, is_question: bool = False) -> Command:
    return Command(kind, {"n": serial}, Author("a", 0, serial), is_question)


async def test_commands_are_carried_out_together_and_questions_answered_after_them(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    taker = Taker()
    work, answers = start(nursery, taker)
    for serial in range(1, 6):
        work.put(command(serial, is_question=serial == 2), "1-0")
    work.put(command(13, is_question=True), "1-0")
    work.put(command(6, "other/1"), "1-0")
    assert work.held_bytes > 0
    await wait_all_tasks_blocked(0.01)
    assert (taker.batches, answers, work.held_bytes) == ([[1, 3, 4, 5]], [(2, [2])], 0)
    logged = [record.getMessage() for record in caplog.records]
    assert [line[:45] for line in logged] == [
        "#0 ! the command other/1 of node a (entry 1-0",
        "#0 ! an error in rawws itself, in a command o",
    ]
    nursery.cancel_scope.cancel()


async def test_kinds_that_are_unknown_are_logged_once_and_not_without_end(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    work, _ = start(nursery, Taker())
    for number in range(3 * command_work.MAX_LOGGED_KINDS):
        for _ in range(2):
            work.put(command(number, f"k/{number}"), "1-0")
    assert len(caplog.records) == command_work.MAX_LOGGED_KINDS
    assert work.held_bytes == 0
    nursery.cancel_scope.cancel()


async def test_no_more_commands_are_read_while_many_wait(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.setattr(command_work, "MAX_PENDING", 3)
    taker = Taker(0.01)
    work, _ = start(nursery, taker)
    work.put(command(1), "1-0")
    await wait_all_tasks_blocked()
    for serial in (2, 3, 4):
        await work.ready()
        work.put(command(serial), "1-0")
    is_ready = trio.Event()

    async def read_on() -> None:
        await work.ready()
        is_ready.set()

    nursery.start_soon(read_on)
    await wait_all_tasks_blocked()
    assert (taker.batches, is_ready.is_set()) == ([[1]], False)
    mock_clock.jump(command_work.MAX_REST_S)
    await is_ready.wait()
    assert taker.batches == [[1], [2, 3, 4]]
    nursery.cancel_scope.cancel()


async def test_commands_take_a_tenth_of_the_time_at_most(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    taker = Taker(0.01)
    work, _ = start(nursery, taker)
    work.put(command(1), "1-0")
    await wait_all_tasks_blocked()
    work.put(command(2), "1-0")
    mock_clock.jump(9 * 0.01 - 0.001)
    await wait_all_tasks_blocked()
    assert taker.batches == [[1]]
    mock_clock.jump(command_work.MAX_REST_S)
    await wait_all_tasks_blocked()
    assert taker.batches == [[1], [2]]
    nursery.cancel_scope.cancel()
