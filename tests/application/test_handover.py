"""Calls from one thread to another, with one wakeup for each batch."""

from __future__ import annotations

from collections.abc import Callable

from rawws.application.handover import Handover


class Other:
    """The other thread's event loop, which runs when the test says so."""

    def __init__(self) -> None:
        self.woken: list[Callable[[], None]] = []
        self.handover = Handover(self.woken.append)
        self.made: list[str] = []

    def post(self, name: str) -> None:
        self.handover.post(lambda: self.made.append(name))

    def run_once(self) -> None:
        self.woken.pop(0)()


def test_calls_are_made_in_order_after_one_wakeup() -> None:
    other = Other()
    for name in "abc":
        other.post(name)
    assert len(other.woken) == 1
    assert other.made == []
    other.run_once()
    assert other.made == ["a", "b", "c"]


def test_each_batch_has_a_wakeup_of_its_own() -> None:
    other = Other()
    other.post("a")
    other.run_once()
    other.post("b")
    assert len(other.woken) == 1
    other.run_once()
    assert other.made == ["a", "b"]


def test_a_call_that_is_posted_by_a_call_waits_for_the_next_wakeup() -> None:
    """Otherwise two threads that always answer each other would keep all other tasks from running."""
    other = Other()
    other.handover.post(lambda: other.post("late"))
    other.run_once()
    assert other.made == []
    other.run_once()
    assert other.made == ["late"]


def test_a_wakeup_for_which_nothing_is_left_does_nothing() -> None:
    other = Other()
    other.handover.post(lambda: other.post("late"))
    first = other.woken[0]
    other.run_once()
    first()  # an event loop may run it at any time
    assert other.made == ["late"]
    other.run_once()
    assert other.made == ["late"]
