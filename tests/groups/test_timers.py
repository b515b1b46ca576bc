"""The times at which a group looks at its jobs."""

from __future__ import annotations

import math

from rawws.groups.timers import Timers


def test_the_times_that_have_come_are_taken_with_their_jobs_in_order() -> None:
    timers = Timers()
    assert timers.next_due == math.inf
    for due, number in ((2.0, 5), (1.0, 9), (2.0, 3), (3.0, 1)):
        timers.set(due, number)
    assert timers.count == 4
    assert timers.next_due == 1.0
    assert timers.take(0.5) == []
    assert timers.take(2.0) == [(1.0, 9), (2.0, 3), (2.0, 5)]
    assert timers.count == 1
    assert timers.next_due == 3.0
    timers.set(2.0, 7)
    assert timers.take(2.0) == [(2.0, 7)], "a time that was taken may come again"


def test_timers_are_replaced_as_a_whole() -> None:
    timers = Timers()
    timers.set(1.0, 1)
    timers.replace([(4.0, 2), (4.0, 3)])
    assert timers.count == 2
    assert timers.take(3.0) == []
    assert timers.take(4.0) == [(4.0, 2), (4.0, 3)]
    assert timers.count == 0
